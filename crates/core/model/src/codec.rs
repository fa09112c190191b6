//! Bytes to values and back, every length checked.

use crate::{Metric, NodeId};

/// Why bytes are not what they should be. A decoder never panics and never reads past its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("input ends {0} bytes early")]
    Truncated(usize),
    /// Bytes are left over after the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
    /// A length or count beyond its bound.
    #[error("{field} is {value}, at most {limit} is allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// What it said.
        value: usize,
        /// What it may say.
        limit: usize,
    },
    /// A value that has no meaning.
    #[error("{value} means nothing as {field}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it said.
        value: u64,
    },
}

/// Reads fields in network byte order from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

// Inlined into other crates: several of these are called for each packet.
impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| DecodeError::Truncated(len - self.rest.len()))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A node id.
    #[inline]
    pub fn node_id(&mut self) -> Result<NodeId, DecodeError> {
        self.array().map(NodeId::from_bytes)
    }

    /// A metric.
    pub fn metric(&mut self) -> Result<Metric, DecodeError> {
        self.u32().map(Metric::from_micros)
    }

    /// A two-byte length of at most `limit`, then that many bytes.
    pub fn prefixed(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let value = usize::from(self.u16()?);
        if value > limit {
            return Err(DecodeError::TooLong { field, value, limit });
        }
        self.bytes(value)
    }

    /// Refuses anything left over.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

/// Appends fields in network byte order to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Bytes in the buffer, what stood there before included.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A node id.
    pub fn node_id(&mut self, id: NodeId) -> &mut Self {
        self.bytes(id.as_bytes())
    }

    /// A metric.
    pub fn metric(&mut self, metric: Metric) -> &mut Self {
        self.u32(metric.as_micros())
    }

    /// A two-byte length, then `bytes`.
    ///
    /// # Panics
    /// If `bytes` is longer than 65,535: senders bound what they send, so that is a bug of ours and not bad input.
    pub fn prefixed(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u16::try_from(bytes.len());
        assert!(len.is_ok(), "a field of {} bytes does not fit a two-byte length", bytes.len());
        self.u16(len.unwrap_or_default()).bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        let node = NodeId::from_bytes([9; 16]);
        Writer::new(&mut out).u8(1).u16(2).u32(3).u64(4).node_id(node).metric(Metric::INFINITE).prefixed(b"six");
        let mut reader = Reader::new(&out);
        assert_eq!((reader.u8(), reader.u16(), reader.u32(), reader.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!((reader.node_id(), reader.metric()), (Ok(node), Ok(Metric::INFINITE)));
        assert_eq!(reader.prefixed("text", 3), Ok(&b"six"[..]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_length_beyond_its_bound_is_refused_before_its_bytes_are_read() {
        let error = Reader::new(&[0xff, 0xff]).prefixed("name", 10);
        assert_eq!(error, Err(DecodeError::TooLong { field: "name", value: 65_535, limit: 10 }));
    }

    proptest! {
        #[test]
        fn no_input_makes_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), len in 0usize..80) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.bytes(len);
            let _ = reader.prefixed("field", 16);
            let _ = (reader.u64(), reader.u32(), reader.u16(), reader.u8());
            prop_assert!(reader.rest().len() <= bytes.len());
        }
    }
}
