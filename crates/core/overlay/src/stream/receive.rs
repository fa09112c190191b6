//! The receiving half: pieces in any order to bytes in order, and bytes to messages.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::frame::{ACK_RANGES_MAX, Ack};

use super::{MESSAGE_LEN_MAX, MESSAGE_PREFIX};

/// Separate ranges held at once. A sender cuts its stream into packets, so an honest one stays far below.
const RANGES_MAX: usize = 256;

/// Why bytes of a peer cannot be what a sender would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ViolationError {
    #[error("bytes beyond the receive window")]
    BeyondWindow,
    #[error("message without bytes")]
    EmptyMessage,
    #[error("message longer than allowed")]
    LongMessage,
}

/// Puts pieces in order. Holds at most its window.
#[derive(Debug)]
pub(crate) struct ReceiveStream {
    window: u64,
    /// Everything below was read.
    read: u64,
    /// Bytes from `read` on, with holes.
    buffer: Vec<u8>,
    /// What of it is received: start to end, never touching.
    ranges: BTreeMap<u64, u64>,
}

impl ReceiveStream {
    pub(crate) const fn new(window: u64) -> Self {
        Self { window, read: 0, buffer: Vec::new(), ranges: BTreeMap::new() }
    }

    /// Takes a piece. `Ok(false)` if it cannot be held (too many holes): it is as if it had been lost.
    pub(crate) fn insert(&mut self, offset: u64, bytes: &[u8]) -> Result<bool, ViolationError> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(ViolationError::BeyondWindow)?;
        if end > self.read + self.window {
            return Err(ViolationError::BeyondWindow);
        }
        let start = offset.max(self.read);
        if start >= end {
            return Ok(true);
        }
        let touching = |(_, other_end): &(&u64, &u64)| **other_end >= start;
        let joins = self.ranges.range(..=end).next_back().is_some_and(|range| touching(&range));
        if !joins && self.ranges.len() == RANGES_MAX {
            return Ok(false);
        }
        self.write(start, &bytes[(start - offset) as usize..]);
        self.mark(start..end);
        Ok(true)
    }

    /// Copies what is not yet held: what came first stays, so that a late forgery cannot replace it.
    fn write(&mut self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        let needed = (end - self.read) as usize;
        if self.buffer.len() < needed {
            self.buffer.resize(needed, 0);
        }
        let mut at = start;
        while at < end {
            if let Some((_, held_end)) = self.ranges.range(..=at).next_back()
                && *held_end > at
            {
                at = *held_end;
                continue;
            }
            let hole_end = self.ranges.range(at..end).next().map_or(end, |(held_start, _)| *held_start);
            let hole = (at - self.read) as usize..(hole_end - self.read) as usize;
            self.buffer[hole].copy_from_slice(&bytes[(at - start) as usize..(hole_end - start) as usize]);
            at = hole_end;
        }
    }

    fn mark(&mut self, mut range: Range<u64>) {
        while let Some((&start, &end)) = self.ranges.range(..=range.end).next_back() {
            if end < range.start {
                break;
            }
            self.ranges.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        self.ranges.insert(range.start, range.end);
    }

    /// Takes the bytes that are next in order.
    pub(crate) fn read(&mut self) -> Vec<u8> {
        let Some((&start, &end)) = self.ranges.first_key_value() else { return Vec::new() };
        if start > self.read {
            return Vec::new();
        }
        self.ranges.remove(&start);
        let len = (end - self.read) as usize;
        self.read = end;
        let rest = self.buffer.split_off(len);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Bytes held and not read, holes included.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// What to tell the sender, in answer to packet `pn`.
    pub(crate) fn ack(&self, pn: u64) -> Ack {
        let mut ranges = self.ranges.iter().map(|(start, end)| *start..*end).peekable();
        let received = ranges.next_if(|range| range.start <= self.read).map_or(self.read, |range| range.end);
        Ack { pn, received, ranges: ranges.take(ACK_RANGES_MAX).collect() }
    }
}

/// Cuts ordered bytes into messages: four bytes of length, then the message.
#[derive(Debug, Default)]
pub(crate) struct MessageReader {
    pending: Vec<u8>,
    /// What of `pending` was given away.
    read: usize,
}

impl MessageReader {
    pub(crate) fn push(&mut self, bytes: Vec<u8>) {
        self.pending.drain(..self.read);
        self.read = 0;
        if self.pending.is_empty() {
            self.pending = bytes;
        } else {
            self.pending.extend_from_slice(&bytes);
        }
    }

    /// The next whole message.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, ViolationError> {
        let Some((prefix, rest)) = self.pending[self.read..].split_first_chunk::<MESSAGE_PREFIX>() else {
            return Ok(None);
        };
        match u32::from_be_bytes(*prefix) as usize {
            0 => Err(ViolationError::EmptyMessage),
            len if len > MESSAGE_LEN_MAX => Err(ViolationError::LongMessage),
            len => {
                let message = rest.get(..len).map(<[u8]>::to_vec);
                self.read += message.as_ref().map_or(0, |message| MESSAGE_PREFIX + message.len());
                Ok(message)
            }
        }
    }

    pub(crate) const fn buffered(&self) -> usize {
        self.pending.len() - self.read
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
    fn pieces_in_any_order_are_read_in_order() {
        let mut stream = ReceiveStream::new(100);
        for (offset, bytes) in [(6, "ghi"), (3, "def"), (2, "cd")] {
            assert_eq!(stream.insert(offset, bytes.as_bytes()), Ok(true));
        }
        assert_eq!(stream.read(), b"");
        assert_eq!(stream.ack(1), Ack { pn: 1, received: 0, ranges: vec![2..9] });
        stream.insert(0, b"ab").unwrap();
        assert_eq!(stream.ack(2), Ack { pn: 2, received: 9, ranges: vec![] });
        assert_eq!(stream.read(), b"abcdefghi");
        assert_eq!(stream.buffered(), 0);
    }

    #[test]
    fn what_came_first_stays() {
        let mut stream = ReceiveStream::new(100);
        stream.insert(2, b"cd").unwrap();
        stream.insert(0, b"XXXXXX").unwrap();
        assert_eq!(stream.read(), b"XXcdXX");
    }

    #[test]
    fn nothing_beyond_the_window_is_held() {
        let mut stream = ReceiveStream::new(10);
        assert_eq!(stream.insert(5, b"123456"), Err(ViolationError::BeyondWindow));
        assert_eq!(stream.insert(u64::MAX, b"1"), Err(ViolationError::BeyondWindow));
        assert_eq!(stream.insert(5, b"12345"), Ok(true));
        assert_eq!(stream.buffered(), 10);
    }

    #[test]
    fn holes_are_bounded() {
        let mut stream = ReceiveStream::new(10_000);
        let taken = (0..1000u64).filter(|at| stream.insert(1 + at * 2, b"x").unwrap()).count();
        assert_eq!(taken, RANGES_MAX);
        assert_eq!(stream.insert(0, b"a"), Ok(true), "what joins a range needs no room");
    }

    #[test]
    fn an_empty_or_endless_message_is_a_violation() {
        let mut reader = MessageReader::default();
        reader.push(vec![0, 0, 0, 0]);
        assert_eq!(reader.next(), Err(ViolationError::EmptyMessage));
        let mut reader = MessageReader::default();
        reader.push(vec![0, 1, 0, 1]);
        assert_eq!(reader.next(), Err(ViolationError::LongMessage));
    }

    proptest! {
        #[test]
        fn any_cut_and_order_gives_the_same_bytes(
            data in proptest::collection::vec(any::<u8>(), 1..300),
            cuts in proptest::collection::vec((0usize..300, 1usize..60), 1..200),
        ) {
            let mut stream = ReceiveStream::new(1000);
            let mut read = Vec::new();
            let whole = std::iter::once((0, data.len()));
            for (start, len) in cuts.into_iter().chain(whole) {
                let start = start.min(data.len());
                let end = (start + len).min(data.len());
                prop_assert_eq!(stream.insert(start as u64, &data[start..end]), Ok(true));
                read.extend(stream.read());
                prop_assert_eq!(&read[..], &data[..read.len()]);
            }
            prop_assert_eq!(read, data);
        }
    }
}
