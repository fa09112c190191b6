//! Datagrams in a stream of bytes: a two-byte length in network byte order before each.

use std::ops::Range;

/// The longest datagram in a frame: what the largest Ethernet frames carry. Sessions send shorter ones.
pub const FRAME_BYTES_MAX: usize = 9_216;
/// Bytes of the length.
pub const PREFIX_BYTES: usize = 2;

/// Whoever frames like this does not speak the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An empty datagram says nothing.
    #[error("a frame is empty")]
    Empty,
    /// Larger than any datagram.
    #[error("a frame of {0} bytes, at most {FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
}

/// Appends a frame to `out`. False, and nothing is appended, if `datagram` fits none.
pub fn encode(datagram: &[u8], out: &mut Vec<u8>) -> bool {
    match u16::try_from(datagram.len()) {
        Ok(length) if (1..=FRAME_BYTES_MAX).contains(&datagram.len()) => {
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(datagram);
            true
        }
        _ => false,
    }
}

/// Cuts a stream into frames. Holds one frame's worth of bytes, whatever the peer sends.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Box<[u8]>,
    /// Where bytes stand that belong to no finished frame.
    pending: Range<usize>,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self { buffer: vec![0; PREFIX_BYTES + FRAME_BYTES_MAX].into(), pending: 0..0 }
    }
}

impl FrameReader {
    /// Room for what the stream gives next. Never empty once [`Self::next_frame`] has returned `None`.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
        &mut self.buffer[self.pending.end..]
    }

    /// So many bytes of [`Self::room`] have been filled.
    pub fn filled(&mut self, count: usize) {
        self.pending.end = (self.pending.end + count).min(self.buffer.len());
    }

    /// The next whole frame's datagram, `None` if more bytes are needed.
    ///
    /// # Errors
    /// If no datagram has such a length. Nothing behind it can be understood.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let Some((prefix, rest)) = self.buffer[self.pending.clone()].split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        match usize::from(u16::from_be_bytes(*prefix)) {
            0 => Err(FrameError::Empty),
            length if length > FRAME_BYTES_MAX => Err(FrameError::TooLong(length)),
            length if rest.len() < length => Ok(None),
            length => {
                let start = self.pending.start + PREFIX_BYTES;
                self.pending.start = start + length;
                Ok(Some(&self.buffer[start..start + length]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of a stream that arrives in pieces of `step` bytes.
    fn read_in_steps(stream: &[u8], step: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        for piece in stream.chunks(step) {
            let mut piece = piece;
            while !piece.is_empty() {
                let room = reader.room();
                let count = room.len().min(piece.len());
                room[..count].copy_from_slice(&piece[..count]);
                reader.filled(count);
                piece = &piece[count..];
                while let Some(frame) = reader.next_frame()? {
                    frames.push(frame.to_vec());
                }
            }
        }
        Ok(frames)
    }

    #[test]
    fn datagrams_come_out_whole_however_the_stream_is_cut() {
        let datagrams = [vec![7], vec![1; 1400], vec![2; FRAME_BYTES_MAX], vec![3; 31]];
        let mut stream = Vec::new();
        assert!(datagrams.iter().all(|datagram| encode(datagram, &mut stream)));
        assert_eq!(stream[..3], [0, 1, 7], "golden bytes");
        for step in [1, 2, 3, 1000, 9_000, stream.len()] {
            assert_eq!(read_in_steps(&stream, step).unwrap(), datagrams, "{step}");
        }
    }

    #[test]
    fn an_empty_and_an_oversized_frame_end_the_stream() {
        let mut out = Vec::new();
        assert!(!encode(&[], &mut out) && !encode(&vec![0; FRAME_BYTES_MAX + 1], &mut out) && out.is_empty());
        assert_eq!(read_in_steps(&[0, 1, 9, 0, 0], 8), Err(FrameError::Empty));
        assert_eq!(read_in_steps(&[0xff, 0xff], 1), Err(FrameError::TooLong(0xffff)));
        assert_eq!(read_in_steps(b"GET / HTTP/1.1\r\n", 4), Err(FrameError::TooLong(0x4745)));
    }

    #[test]
    fn half_a_frame_is_no_frame() {
        assert_eq!(read_in_steps(&[0], 1), Ok(vec![]));
        assert_eq!(read_in_steps(&[0, 9, 1, 2], 1), Ok(vec![]));
    }
}
