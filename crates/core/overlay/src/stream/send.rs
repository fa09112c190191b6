//! The sending half: what is not acknowledged is kept, and sent again when it is lost.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::Ack;

/// A piece is lost once this many sent after it have arrived (RFC 9002 section 6.1.1).
const REORDER_MAX: u64 = 3;
/// The congestion window never closes below this many bytes: control messages must get through a lossy link.
const CONGESTION_MIN: u64 = 8 * 1200;
/// And starts here (RFC 9002 section 7.2 allows ten packets; a mesh link carries little else of this kind).
const CONGESTION_START: u64 = 16 * 1200;

/// Bytes to send, at their place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) again: bool,
}

#[derive(Debug)]
struct Sent {
    len: u64,
    /// Which transmission of this stream it was last.
    order: u64,
    lost: bool,
}

/// Keeps what is not acknowledged, up to its window.
#[derive(Debug)]
pub(crate) struct SendStream {
    window: u64,
    /// Bytes from `acked` on.
    buffer: VecDeque<u8>,
    /// Everything below is acknowledged.
    acked: u64,
    /// Everything below was sent at least once.
    sent: u64,
    /// Pieces under way, by offset.
    pieces: BTreeMap<u64, Sent>,
    /// Bytes of pieces that are neither acknowledged nor lost.
    in_flight: u64,
    next_order: u64,
    /// The newest transmission that arrived.
    arrived_order: Option<u64>,
    congestion: u64,
    slow_start_until: u64,
    /// Losses of transmissions before this one have been answered by a smaller window already.
    recovery_until: u64,
}

impl SendStream {
    pub(crate) const fn new(window: u64) -> Self {
        Self {
            window,
            buffer: VecDeque::new(),
            acked: 0,
            sent: 0,
            pieces: BTreeMap::new(),
            in_flight: 0,
            next_order: 0,
            arrived_order: None,
            congestion: CONGESTION_START,
            slow_start_until: u64::MAX,
            recovery_until: 0,
        }
    }

    /// Whether `len` more bytes fit.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        (self.buffer.len() + len) as u64 <= self.window
    }

    /// Appends bytes. The caller has asked [`SendStream::has_room`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// Bytes that are not acknowledged.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Whether an acknowledgement is awaited.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Whether [`SendStream::poll`] would give something.
    pub(crate) fn has_work(&self) -> bool {
        let unsent = self.sent < self.acked + self.buffer.len() as u64;
        self.in_flight < self.congestion && (unsent || self.pieces.values().any(|piece| piece.lost))
    }

    /// The next piece of at most `limit` bytes: what is lost first. Marks it as under way.
    pub(crate) fn poll(&mut self, limit: usize) -> Option<Piece> {
        if limit == 0 || self.in_flight >= self.congestion {
            return None;
        }
        let order = self.next_order;
        let lost = self.pieces.iter().find(|(_, piece)| piece.lost).map(|(offset, piece)| (*offset, piece.len));
        if let Some((offset, whole)) = lost {
            let len = whole.min(limit as u64);
            if len < whole {
                self.pieces.insert(offset + len, Sent { len: whole - len, order, lost: true });
            }
            self.pieces.insert(offset, Sent { len, order, lost: false });
            self.under_way(len);
            return Some(Piece { offset, len: len as usize, again: true });
        }
        let unsent = self.acked + self.buffer.len() as u64 - self.sent;
        let len = unsent.min(limit as u64);
        if len == 0 {
            return None;
        }
        let offset = self.sent;
        self.pieces.insert(offset, Sent { len, order, lost: false });
        self.sent += len;
        self.under_way(len);
        Some(Piece { offset, len: len as usize, again: false })
    }

    fn under_way(&mut self, len: u64) {
        self.next_order += 1;
        self.in_flight += len;
    }

    /// Appends the bytes of `piece` to `out`.
    pub(crate) fn copy(&self, piece: &Piece, out: &mut Vec<u8>) {
        let (from, (front, back)) = ((piece.offset - self.acked) as usize, self.buffer.as_slices());
        let (end, split) = (from + piece.len, front.len());
        out.extend_from_slice(&front[from.min(split)..end.min(split)]);
        out.extend_from_slice(&back[from.saturating_sub(split)..end.saturating_sub(split)]);
    }

    /// Takes an acknowledgement; true if it told something new. One for bytes that were never sent is ignored.
    pub(crate) fn on_ack(&mut self, ack: &Ack) -> bool {
        let end = ack.ranges.last().map_or(ack.received, |range| range.end);
        if end > self.sent {
            return false;
        }
        let mut news = false;
        for range in std::iter::once(self.acked..ack.received).chain(ack.ranges.iter().cloned()) {
            let covered: Vec<u64> = self
                .pieces
                .range(range.start..range.end.max(range.start))
                .filter(|(offset, piece)| **offset + piece.len <= range.end)
                .map(|(offset, _)| *offset)
                .collect();
            for offset in covered {
                let Some(piece) = self.pieces.remove(&offset) else { continue };
                news = true;
                if !piece.lost {
                    self.in_flight -= piece.len;
                }
                self.arrived_order = self.arrived_order.max(Some(piece.order));
                self.grow(piece.len);
            }
        }
        self.release(ack.received);
        self.find_lost();
        news
    }

    /// Forgets bytes that will never be sent again: those below every piece under way.
    fn release(&mut self, received: u64) {
        let keep_from = self.pieces.first_key_value().map_or(self.sent, |(offset, _)| *offset).min(received);
        if keep_from > self.acked {
            self.buffer.drain(..(keep_from - self.acked) as usize);
            self.acked = keep_from;
        }
    }

    fn find_lost(&mut self) {
        let Some(arrived) = self.arrived_order else { return };
        let mut newest_lost = None;
        for piece in self.pieces.values_mut().filter(|piece| !piece.lost && piece.order + REORDER_MAX <= arrived) {
            piece.lost = true;
            self.in_flight -= piece.len;
            newest_lost = newest_lost.max(Some(piece.order));
        }
        if newest_lost >= Some(self.recovery_until) {
            self.shrink();
        }
    }

    /// No acknowledgement came in time: everything under way counts as lost.
    pub(crate) fn on_timeout(&mut self) {
        self.pieces.values_mut().for_each(|piece| piece.lost = true);
        self.in_flight = 0;
        self.shrink();
    }

    fn grow(&mut self, len: u64) {
        let by = if self.congestion < self.slow_start_until { len } else { 1200 * len / self.congestion };
        self.congestion = (self.congestion + by).min(self.window.max(CONGESTION_MIN));
    }

    fn shrink(&mut self) {
        self.recovery_until = self.next_order;
        self.congestion = (self.congestion / 2).max(CONGESTION_MIN);
        self.slow_start_until = self.congestion;
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;

    fn ack(received: u64, ranges: &[std::ops::Range<u64>]) -> Ack {
        Ack { pn: 0, received, ranges: ranges.to_vec() }
    }

    fn offsets(stream: &mut SendStream, limit: usize) -> Vec<u64> {
        std::iter::from_fn(|| stream.poll(limit)).map(|piece| piece.offset).collect()
    }

    #[test]
    fn what_three_later_pieces_overtook_is_sent_again() {
        let mut stream = SendStream::new(10_000);
        stream.push(&[7; 1000]);
        assert_eq!(offsets(&mut stream, 200), [0, 200, 400, 600, 800]);
        assert!(stream.on_ack(&ack(0, &[200..600])));
        assert_eq!(stream.poll(200), None, "two overtook it: that may be mere reordering");
        assert!(stream.on_ack(&ack(0, &[200..800])));
        assert_eq!(stream.poll(200), Some(Piece { offset: 0, len: 200, again: true }));
        assert!(stream.on_ack(&ack(1000, &[])));
        assert!(!stream.is_waiting() && stream.buffered() == 0);
        assert!(!stream.on_ack(&ack(1000, &[])), "the same again is no news");
    }

    #[test]
    fn a_timeout_sends_everything_again_even_in_smaller_pieces() {
        let mut stream = SendStream::new(10_000);
        stream.push(b"abcdefgh");
        assert_eq!(offsets(&mut stream, 4), [0, 4]);
        stream.on_timeout();
        let mut again = Vec::new();
        while let Some(piece) = stream.poll(3) {
            assert!(piece.again);
            stream.copy(&piece, &mut again);
        }
        assert_eq!(again, b"abcdefgh");
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_ignored() {
        let mut stream = SendStream::new(10_000);
        stream.push(&[0; 100]);
        assert_eq!(offsets(&mut stream, 50), [0, 50]);
        assert!(!stream.on_ack(&ack(101, &[])));
        assert!(!stream.on_ack(&ack(0, &[50..200])));
        assert_eq!(stream.buffered(), 100);
    }

    #[test]
    fn the_buffer_and_the_bytes_under_way_are_bounded() {
        let mut stream = SendStream::new(50_000);
        assert!(stream.has_room(50_000) && !stream.has_room(50_001));
        stream.push(&[0; 50_000]);
        assert!(!stream.has_room(1));
        let under_way = offsets(&mut stream, 1200).len() as u64 * 1200;
        assert_eq!(under_way, CONGESTION_START);
        assert!(stream.on_ack(&ack(under_way, &[])));
        assert!(stream.has_room(under_way as usize));
        assert_eq!(offsets(&mut stream, 1200).len() as u64, 50_000u64.div_ceil(1200) - 16, "doubled: all that is left");
    }
}
