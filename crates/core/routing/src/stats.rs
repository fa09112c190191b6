//! What a router counts.

use serde::Serialize;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the router was made. Everything that was dropped is in here under the name of its reason.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }
    };
}

stats! {
    /// Datagrams of messages handled.
    datagrams_received,
    /// Datagrams of messages made.
    datagrams_sent,
    /// Bytes of messages made.
    bytes_sent,
    /// Datagrams whose rest could not be decoded.
    malformed,
    /// Messages of a type this version does not know.
    unknown_messages,
    /// Messages from a link that is not there.
    unknown_link,
    /// HELLOs received.
    hellos_received,
    /// HELLOs sent.
    hellos_sent,
    /// OGM records received.
    ogms_received,
    /// OGM records sent, one per link.
    ogms_sent,
    /// OGM records older than what was already adopted, or overtaken by a later message of the same neighbour.
    ogms_stale,
    /// OGM records whose chain value does not lead to the anchor.
    forged_ogm,
    /// OGM records about this node that this node has not made.
    forged_own,
    /// OGM records whose hop count contradicts who sent them or exceeds the chain.
    forged_hops,
    /// Anchors that the verifier refused, or that speak of another shape than this mesh's.
    forged_anchor,
    /// Metrics below the least that their hop count allows, raised to it.
    metrics_raised,
    /// OGM records not verified because the link has wasted its budget of hashes.
    hash_budget_exceeded,
    /// Offers of a leaf for others.
    leaf_transit,
    /// OGM records, requests or links refused because a table is full.
    table_full,
    /// Messages beyond the rate their sender is granted.
    rate_limited,
    /// ANCHORs asked for.
    anchors_requested,
    /// ANCHORs sent.
    anchors_sent,
    /// Anchors accepted.
    anchors_accepted,
    /// Origins asked for that no neighbour could prove.
    anchors_unanswered,
    /// OGMs this node originated.
    originated,
    /// Newer sequence numbers adopted.
    adoptions,
    /// Offers retracted.
    withdrawn,
    /// Retractions received.
    withdraws_received,
    /// SEQ_REQs of this node.
    seq_requests_sent,
    /// SEQ_REQs repeated for others.
    seq_requests_forwarded,
    /// SEQ_REQs answered with an offer.
    seq_requests_answered,
    /// Route requests of this node.
    seeks_started,
    /// Targets not found in time.
    seeks_failed,
    /// RREQs repeated for others.
    rreqs_forwarded,
    /// RREQs for this node.
    rreqs_answered,
    /// Packets that came from the successor they would have gone to.
    loop_averted,
    /// Packets sent to a neighbour other than the primary.
    rerouted,
    /// Packets of critical flows sent over two ways.
    duplicated,
    /// Packets sent another way and, besides, over the one that had become suspect.
    hedged,
    /// Ways found to deliver nothing.
    ways_suspected,
    /// Ways found to lose packets.
    ways_demoted,
    /// Packets sent over a suspect link for lack of another.
    last_resort,
    /// Packets without a next hop.
    unreachable,
    /// Links that became suspect.
    links_suspected,
    /// Neighbours asked because the network said that nothing reaches them.
    links_doubted,
    /// Suspect links that proved alive.
    links_recovered,
    /// Links declared dead.
    links_died,
    /// Deadlines voided because this node itself was late.
    own_stalls,
    /// Origins that expired.
    origins_expired,
    /// Events dropped because nobody drained them.
    events_dropped,
    /// Datagrams dropped because nobody drained them.
    outbox_dropped,
}
