//! What the node itself counts; the cores below count for themselves.

use serde::Serialize;

/// Monotonic counters.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stats {
    /// UDP datagrams handed in.
    pub datagrams_received: u64,
    /// Outputs dropped because the shell did not drain them.
    pub outputs_dropped: u64,
    /// Times this process did not run for longer than its neighbours wait.
    pub times_away: u64,
    /// Times the cores still had something to say after the bound; should stay 0.
    pub settle_rounds_exhausted: u64,
    /// Datagrams dropped because too many waited to be opened elsewhere.
    pub datagrams_dropped_unopened: u64,
    /// Trains that were given away to be opened.
    pub trains_opened_elsewhere: u64,
    /// Trains that were given away to be sealed.
    pub trains_sealed_elsewhere: u64,
    /// Packets relayed for others.
    pub packets_forwarded: u64,
    /// Of these, sent to their destination without a hop header.
    pub packets_forwarded_bare: u64,
    /// Packets handed to the host.
    pub packets_delivered: u64,
    /// Packets without a next hop.
    pub packets_unroutable: u64,
    /// Packets a link session could not seal.
    pub packets_unsealed: u64,
    /// Packets sent a second time, by another way.
    pub copies_sent: u64,
    /// Reports on what arrived, made.
    pub receipts_sent: u64,
    /// Reports on what arrived, received.
    pub receipts_received: u64,
    /// Questions whether a way delivers.
    pub probes_sent: u64,
    /// Ways found to deliver nothing although their links live.
    pub ways_suspected: u64,
    /// Ways found to lose packets, and demoted.
    pub ways_demoted: u64,
    /// Packets an end-to-end session could not seal.
    pub end_packets_unsealed: u64,
    /// Packets whose hops ran out.
    pub packets_expired: u64,
    /// Own packets that came back.
    pub packets_returned: u64,
    /// Packets in a session that belongs to no neighbour.
    pub packets_of_no_link: u64,
    /// Inner packets whose addresses are not those of the two ends.
    pub packets_spoofed: u64,
    /// ICMPv6 errors of a node about packets that were not sent to it.
    pub icmp_errors_refused: u64,
    /// Packets of an end-to-end session that is not held here.
    pub end_packets_stray: u64,
    /// Far ends that proved another identity than the one addressed.
    pub end_identity_mismatch: u64,
    /// End-to-end datagrams that cannot be decoded.
    pub end_datagrams_malformed: u64,
    /// Host packets that are no whole IPv6 packets.
    pub local_packets_malformed: u64,
    /// Host packets that are longer than the mesh carries.
    pub local_packets_too_long: u64,
    /// Host packets with a source address that is not this node's.
    pub local_packets_of_others: u64,
    /// Host packets longer than their path carries, answered with "packet too big" as often as the ration allows.
    pub local_packets_too_big: u64,
    /// Packets longer than their path carries, sent in pieces.
    pub packets_sent_in_pieces: u64,
    /// TCP connections whose segment size was lowered to what the path carries.
    pub segment_sizes_clamped: u64,
    /// Host packets answered with "destination unreachable".
    pub local_packets_unreachable: u64,
    /// Sessions closed right after their proof.
    pub sessions_turned_away: u64,
    /// Sessions that could not be started.
    pub sessions_unopened: u64,
    /// Messages a session did not take.
    pub messages_unsent: u64,
    /// Kernel errors for a destination.
    pub sends_failed: u64,
    /// Rendezvous and link messages that cannot be decoded.
    pub reach_messages_malformed: u64,
    /// Own anchors that could not be signed.
    pub anchors_unproven: u64,
    /// Anchors whose proof does not hold.
    pub anchors_refused: u64,
    /// Identity messages that cannot be decoded or are out of place.
    pub identity_messages_refused: u64,
    /// SVIDs of a Workload API that were not adopted.
    pub svids_refused: u64,
    /// Join packets carried for a joiner.
    pub join_packets_relayed: u64,
    /// Join packets dropped by the rate limit or without an authority.
    pub join_packets_dropped: u64,
    /// Refusals of which no event told, because there were too many.
    pub refusals_untold: u64,
    /// Join requests that were refused.
    pub joins_refused: u64,
    /// Requests of members for which there was no ticket.
    pub authority_requests_refused: u64,
    /// Answers of the authority that nobody waits for any more, or that do not fit the question.
    pub authority_answers_unasked: u64,
    /// Nodes that joined here.
    pub joins_accepted: u64,
    /// Sessions of joiners that were ended: too slow, or too many at once.
    pub joiners_ended: u64,
}
