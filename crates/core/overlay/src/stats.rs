//! What is counted.

use serde::Serialize;

/// Counters of an endpoint since its start. Packets unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Handed to the endpoint.
    pub received: u64,
    /// Handed out by `poll_transmit`, `seal_forward`, `reseal_forward` and `seal_datagram_packet`.
    pub sent: u64,
    /// Dropped: the first byte means nothing here.
    pub unknown_type: u64,
    /// Dropped: the header or a frame cannot be decoded.
    pub malformed: u64,
    /// Dropped: another version of the protocol.
    pub unknown_version: u64,
    /// Dropped: nobody here has that index.
    pub unknown_session: u64,
    /// Dropped: a handshake packet from elsewhere than the session's carrier, or of another purpose.
    pub wrong_carrier: u64,
    /// Dropped: did not open, or an initial packet's checksum is wrong.
    pub forged: u64,
    /// Dropped: seen before. The second copy of what was sent two ways is among them.
    pub replayed: u64,
    /// Dropped: older than the replay window.
    pub too_old: u64,
    /// Dropped: sealed in a key epoch that is over or not begun.
    pub unknown_epoch: u64,
    /// Dropped: came before it could be opened.
    pub early: u64,
    /// Dropped: not allowed on a session of that purpose or in that state.
    pub unexpected: u64,
    /// Dropped: the node does not drain its events.
    pub overrun: u64,
    /// RETRY packets sent.
    pub retries_sent: u64,
    /// RETRY packets obeyed.
    pub retries_obeyed: u64,
    /// Cookies that were wrong or too old.
    pub cookies_refused: u64,
    /// Handshakes of others not begun because of a bound.
    pub half_open_refused: u64,
    /// Handshakes begun by others that were dropped unfinished, for newer ones.
    pub half_open_evicted: u64,
    /// Handshake packets held back by the amplification bound.
    pub amplification_held: u64,
    /// Handshakes begun by us.
    pub handshakes_begun: u64,
    /// Handshakes begun by others.
    pub handshakes_answered: u64,
    /// Handshakes that led to a session.
    pub handshakes_done: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// Handshakes that were not finished in time.
    pub handshakes_timed_out: u64,
    /// Pieces of reliable streams and handshakes sent again.
    pub retransmitted: u64,
    /// Key epochs begun.
    pub rekeys: u64,
    /// Sessions that moved to another address.
    pub roams: u64,
    /// Sessions whose packets came from elsewhere, and whose peer was found where it was, or not there.
    pub roams_refuted: u64,
    /// Sessions closed because nothing was heard.
    pub idle_closed: u64,
    /// Sessions closed because the peer broke the protocol.
    pub protocol_closed: u64,
}
