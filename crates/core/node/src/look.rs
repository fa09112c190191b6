//! Filling in the [`View`]: copied from tables, for people.

use std::collections::BTreeMap;

use serde::Serialize;
use x0t_identity::RotationStatus;
use x0t_model::{Instant, Underlay, UnixTime};
use x0t_overlay::{Carrier, Purpose};
use x0t_routing::{LinkView, OriginView, Standing};

use crate::data_path::ENCAPSULATION;
use crate::dialer::Unanswered;
use crate::node::Node;
use crate::view::{PeerView, RouteView, SessionView, StatusView, SuccessorView, UnansweredView, View};

impl Node {
    pub(crate) fn look(&self, now: Instant, wall: UnixTime) -> View {
        View {
            status: self.status_view(now, wall),
            peers: self.peer_views(now),
            routes: self.route_views(now),
            sessions: self.session_views(),
            counters: self.counters(wall),
        }
    }

    fn status_view(&self, now: Instant, wall: UnixTime) -> StatusView {
        let rotation = self.trust.rotation_view(wall);
        let links_up =
            self.links.iter().filter(|(id, _)| self.router.standing(*id).is_some_and(Standing::is_usable)).count();
        let svid_state = serde_word(&rotation.status);
        let not_ready_because = if rotation.status == RotationStatus::Withdrawn {
            let reason = rotation.last_error.as_deref().unwrap_or("it does not say why");
            Some(format!("the identity was taken back: {reason}"))
        } else if wall > rotation.not_after {
            Some("the SVID has expired and could not be renewed".to_owned())
        } else if links_up == 0 && self.dialer.has_configured() {
            Some("no peer can be reached yet".to_owned())
        } else {
            None
        };
        StatusView {
            spiffe_id: self.spiffe_id.clone(),
            node_id: self.me,
            name: self.spiffe_id.node_name().unwrap_or_default().to_owned(),
            trust_domain: self.spiffe_id.trust_domain().clone(),
            overlay_address: self.prefix.address(self.me),
            is_authority: self.trust.is_authority(),
            ready: not_ready_because.is_none(),
            not_ready_because,
            svid_not_after: rotation.not_after.as_secs(),
            svid_state,
            svid_distrust: rotation.distrust.map(|distrust| distrust.word().to_owned()),
            svid_failures: rotation.failures,
            svid_source: serde_word(&rotation.source),
            svid_error: rotation.last_error,
            epoch: self.router.epoch(),
            uptime_ms: now.since(self.started).as_millis() as u64,
            links_up,
            unanswered: self.unanswered_views(now),
            reachable: self.router.destinations().filter(|node| self.router.peek_next_hop(*node).is_some()).count(),
        }
    }

    fn unanswered_views(&self, now: Instant) -> Vec<UnansweredView> {
        let view = |unanswered: Unanswered<'_>| UnansweredView {
            address: unanswered.address,
            origin: unanswered.origin.word().to_owned(),
            for_ms: now.since(unanswered.since).as_millis() as u64,
            reason: unanswered.reason.unwrap_or("no answer yet").to_owned(),
        };
        self.dialer.unanswered().map(view).collect()
    }

    fn peer_views(&self, now: Instant) -> Vec<PeerView> {
        let peer = |health: LinkView| {
            let link = self.links.get(health.link)?;
            let state = match health.standing {
                Standing::Good | Standing::HeldDown => "up",
                Standing::Suspect => "suspect",
                Standing::Down => "down",
            };
            Some(PeerView {
                node_id: link.proven.peer,
                spiffe_id: link.proven.spiffe_id.clone(),
                address: link.proven.address.address(),
                transport: link.proven.address.transport().to_owned(),
                origin: link.origin.word().to_owned(),
                observed: link.observed,
                state: state.to_owned(),
                rtt_us: health.rtt_micros.and_then(|rtt| rtt.try_into().ok()),
                loss_permille: (health.loss_per_million / 1_000).try_into().unwrap_or(1_000),
                cost_us: health.cost.as_micros(),
                path_mtu: self.endpoint.path_mtu(link.proven.session),
                heard_ms_ago: now.since(link.heard_at).as_millis() as u64,
                interface: link.interface,
            })
        };
        self.router.link_views(now).filter_map(peer).collect()
    }

    fn route_views(&self, now: Instant) -> Vec<RouteView> {
        let route = |origin: OriginView| {
            let successors = origin.successors.iter().map(|successor| SuccessorView {
                via: successor.peer,
                metric_us: successor.metric.as_micros(),
                usable: self.router.standing(successor.link).is_some_and(Standing::is_usable),
                weight: successor.weight,
                demoted: successor.demoted,
                suspect: successor.suspect,
            });
            let distance = origin.potential.distance;
            RouteView {
                node_id: origin.dst,
                spiffe_id: self.names.get(&origin.dst).cloned(),
                overlay_address: self.prefix.address(origin.dst),
                successors: successors.collect(),
                hops: origin.hops,
                packet_mtu: origin.path_mtu.map(|mtu| usize::from(mtu).saturating_sub(ENCAPSULATION)),
                sequence: (origin.potential.seqno.epoch, origin.potential.seqno.seq),
                feasible_distance_us: distance.is_finite().then(|| distance.as_micros()),
            }
        };
        self.router.view(now).origins.into_iter().filter(|origin| !origin.expired).map(route).collect()
    }

    fn session_views(&self) -> Vec<SessionView> {
        let session = |id| {
            let info = self.endpoint.info(id)?;
            let speaks = self.links.iter().any(|(_, link)| link.proven.session == id)
                || info.peer_node.is_some_and(|node| self.ends.session_of(node) == Some(id));
            let state = match info.established_at {
                None => "handshaking",
                Some(_) if speaks || info.purpose == Purpose::Join => "established",
                Some(_) => "draining",
            };
            let carrier = match info.carrier {
                Carrier::Udp(address) => address.to_string(),
                Carrier::Tls(address) => Underlay::Tls(address).to_string(),
                Carrier::Overlay(_) => "overlay".to_owned(),
                Carrier::Relayed { remote, .. } => format!("relayed to {remote}"),
            };
            let purpose = match info.purpose {
                Purpose::Link => "link",
                Purpose::EndToEnd => "end-to-end",
                Purpose::Join => "join",
            };
            Some(SessionView {
                id: id.as_u64(),
                purpose: purpose.to_owned(),
                peer: info.peer,
                carrier,
                state: state.to_owned(),
                group: info.group.map(str::to_owned),
                key_epoch: info.epoch.into(),
                packets_received: info.rx_packets,
                packets_sent: info.tx_packets,
            })
        };
        self.endpoint.sessions().filter_map(session).collect()
    }

    fn counters(&self, wall: UnixTime) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        add_counters(&mut counters, "node", &self.stats);
        add_counters(&mut counters, "overlay", self.endpoint.stats());
        add_counters(&mut counters, "routing", self.router.stats());
        let rotation = self.trust.rotation_view(wall);
        counters.insert("svid_renewals".into(), rotation.adopted);
        counters.insert("svid_renewal_failures".into(), rotation.failed);
        counters.insert("node_punch_successes".into(), self.punch.successes);
        counters.insert("node_punch_failures".into(), self.punch.failures);
        counters.insert("node_punch_candidates_refused".into(), self.punch.candidates_refused);
        counters.insert("node_punch_candidates_over".into(), self.punch.candidates_over);
        counters.insert("node_punch_requests_refused".into(), self.punch.requests_refused);
        if let Some(discovery) = &self.discovery {
            counters.insert("node_beacons_heard".into(), discovery.beacons_heard);
            counters.insert("node_beacons_ignored".into(), discovery.beacons_ignored);
        }
        counters.insert("node_packets_waiting_dropped".into(), self.ends.dropped);
        counters.insert("node_pieces_refused".into(), self.reassembly.refused);
        counters.insert("node_pieces_abandoned".into(), self.reassembly.abandoned);
        counters.insert("node_packets_queue_dropped".into(), self.egress.dropped());
        counters
    }
}

/// Every number of a struct of counters, under its field's name.
fn add_counters(counters: &mut BTreeMap<String, u64>, prefix: &str, stats: &impl Serialize) {
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(stats) {
        let numbers =
            fields.into_iter().filter_map(|(name, value)| Some((format!("{prefix}_{name}"), value.as_u64()?)));
        counters.extend(numbers);
    }
}

/// The word that serde writes for a unit variant.
fn serde_word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
