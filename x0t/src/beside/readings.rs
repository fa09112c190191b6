//! What the authority, the agent, the Workload API and the cache of tokens count, as instruments with their names.

use x0t_identity::{AgentStats, AuthorityStats, JwtCacheStats};
use x0t_model::UnixTime;
use x0t_runtime::readings::Reading;
use x0t_workload::authority_service::AuthorityState;
use x0t_workload::server::ServerCounts;

use super::{Shared, WorkloadsView};

/// Everything at this moment.
pub fn read(shared: &Shared) -> Vec<Reading> {
    let mut readings = Vec::new();
    let own = shared.own_svid_not_after();
    let ends = shared.authority.as_ref().map(|authority| authority.state().signs_until).unwrap_or_default();
    readings.extend(certificates(own, ends));
    if let Some(authority) = &shared.authority {
        readings.extend(of_authority(&authority.state()));
    }
    let view = shared.workloads();
    readings.extend(of_agent(&shared.agent.state().stats, &view));
    if let Some(stats) = &shared.endpoint {
        readings.extend(of_endpoint(&stats.counts()));
    }
    readings.extend(of_tokens(&shared.jwt.stats()));
    readings
}

fn certificates(own: Option<UnixTime>, (x509, jwt): (Option<UnixTime>, Option<UnixTime>)) -> Vec<Reading> {
    let ends = [("node", own), ("ca", x509), ("jwt_key", jwt)];
    let reading = |(kind, end): (&str, Option<UnixTime>)| {
        let help = "End of the validity of the node's SVID, and of what the authority of this host signs with";
        Some(Reading::seconds("certificate_not_after_timestamp", help, end?.as_secs()).with("kind", kind))
    };
    ends.into_iter().filter_map(reading).collect()
}

fn of_authority(state: &AuthorityState) -> Vec<Reading> {
    let AuthorityState { stats, entries, nodes, waiting, bundle, writes_failed, is_held, .. } = state;
    let AuthorityStats {
        nodes_recovered,
        node_svids_issued,
        workload_svids_issued,
        jwt_svids_minted,
        requests_refused,
        waiting_evicted,
    } = stats;
    let issued = |profile, subject, count| {
        Reading::counter("authority_svids_issued", "SVIDs that the authority of this host has issued", count)
            .with("profile", profile)
            .with("subject", subject)
    };
    vec![
        issued("x509", "node", *node_svids_issued),
        issued("x509", "workload", *workload_svids_issued),
        issued("jwt", "workload", *jwt_svids_minted),
        Reading::counter(
            "authority_nodes_recovered",
            "Nodes that came back with an SVID that had ended",
            *nodes_recovered,
        ),
        Reading::counter("authority_requests_refused", "Requests that the authority has refused", *requests_refused),
        Reading::counter(
            "authority_waiting_evicted",
            "Agents that waited for news and had to make room",
            *waiting_evicted,
        ),
        Reading::counter(
            "authority_write_failures",
            "Attempts to make the authority's state durable that failed",
            *writes_failed,
        ),
        Reading::level("authority_entries", "Registration entries", *entries),
        Reading::level("authority_nodes", "Nodes that have a name in the trust domain", *nodes),
        Reading::level("authority_agents_waiting", "Agents that wait for news", *waiting),
        Reading::level(
            "authority_held",
            "1 if the authority answers nobody until its state can be written",
            usize::from(*is_held),
        ),
        Reading::level(
            "authority_bundle_sequence",
            "Number of the bundle in force",
            usize::try_from(*bundle).unwrap_or(usize::MAX),
        ),
    ]
}

fn of_agent(stats: &AgentStats, view: &WorkloadsView) -> Vec<Reading> {
    let AgentStats { svids_adopted, svids_refused, requests_failed, entries_dropped } = *stats;
    let mut readings = vec![
        Reading::counter("agent_svids_adopted", "SVIDs of workloads that were adopted", svids_adopted),
        Reading::counter("agent_svids_refused", "SVIDs of workloads that were refused, or not adopted", svids_refused),
        Reading::counter(
            "agent_requests_failed",
            "Questions to the authority without a usable answer",
            requests_failed,
        ),
        Reading::counter("agent_entries_dropped", "Entries for which the agent had no room", entries_dropped),
        Reading::level("agent_entries", "Entries whose processes may run on this host", view.entries),
        Reading::level("agent_svids", "Valid SVIDs that are held for workloads", view.svids),
        Reading::level(
            "agent_degraded",
            "1 if the authority does not answer this host's agent",
            usize::from(view.authority_unreachable.is_some()),
        ),
    ];
    let help = "End of the SVID of a workload that ends first";
    readings
        .extend(view.first_svid_ends.map(|end| Reading::seconds("agent_svid_expiry_timestamp", help, end.as_secs())));
    readings
}

fn of_endpoint(counts: &ServerCounts) -> Vec<Reading> {
    let ServerCounts {
        connections,
        streams,
        calls,
        calls_refused,
        calls_limited,
        connections_limited,
        users_limited,
        connections_unattributed,
        connections_evicted,
        pushes,
        pushes_unchanged,
        messages_encoded,
    } = *counts;
    vec![
        Reading::level("workload_api_connections", "Open connections to the Workload API", connections),
        Reading::level("workload_api_streams", "Open streams of the Workload API", streams),
        Reading::counter("workload_api_calls", "Calls to the Workload API", calls),
        Reading::counter("workload_api_calls_refused", "Calls that ended with an error", calls_refused),
        Reading::counter("workload_api_calls_limited", "Calls beyond a limit", calls_limited),
        Reading::counter("workload_api_connections_limited", "Connections beyond a limit", connections_limited),
        Reading::counter(
            "workload_api_users_limited",
            "Connections and streams beyond the share of their user",
            users_limited,
        ),
        Reading::counter(
            "workload_api_connections_unattributed",
            "Connections of which the kernel did not say whose they are",
            connections_unattributed,
        ),
        Reading::counter(
            "workload_api_connections_evicted",
            "Connections that were cut: idle, or not read from",
            connections_evicted,
        ),
        Reading::counter("workload_api_pushes", "Messages that were pushed after a change", pushes),
        Reading::counter(
            "workload_api_pushes_unchanged",
            "Changes that changed nothing for the one who waited",
            pushes_unchanged,
        ),
        Reading::counter("workload_api_messages_encoded", "Messages that were encoded", messages_encoded),
    ]
}

fn of_tokens(stats: &JwtCacheStats) -> Vec<Reading> {
    let JwtCacheStats { tokens, fetching, hits, misses, refresh_waits, fetched, failed, evicted, purged, late } =
        *stats;
    vec![
        Reading::level("jwt_cache_tokens", "Tokens that are kept", tokens),
        Reading::level("jwt_cache_fetches_running", "Tokens that are being fetched", fetching),
        Reading::counter("jwt_cache_hits", "Callers that were given a token at once", hits),
        Reading::counter("jwt_cache_misses", "Callers that had to wait for want of a token", misses),
        Reading::counter(
            "jwt_cache_refresh_waits",
            "Callers that waited because their token was about to end",
            refresh_waits,
        ),
        Reading::counter("jwt_cache_fetched", "Tokens that came", fetched),
        Reading::counter("jwt_cache_failures", "Fetches that failed", failed),
        Reading::counter("jwt_cache_evicted", "Tokens pushed out by others", evicted),
        Reading::counter("jwt_cache_purged", "Tokens dropped with their key or identity", purged),
        Reading::counter("jwt_cache_late", "Answers that nobody waited for any more", late),
    ]
}
