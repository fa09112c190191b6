//! Clients whose `:authority` is the path of the socket.
//!
//! gRPC's C core (Python, C++, Ruby, PHP…) calls a server on a Unix socket by `:authority: %2Frun%2Fx0t%2Fworkload.sock`. That is a
//! valid authority (RFC 3986, 3.2.2: a host may be percent-encoded); h2 refuses it as malformed, and with it every request.
//! Nobody here needs the authority. So bytes that h2 would refuse are replaced by as many hyphens on their way in, where the value stands
//! as a literal in a header block: no length changes, and so neither does HPACK's dynamic table.
//!
//! The walk needs no decoding: representations tell their lengths (RFC 7541, section 6). It holds no bytes back. Whatever it
//! misreads in a malformed stream, h2 reads the same bytes and refuses them itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's preface (RFC 9113, 3.4).
const PREFACE_LEN: u32 = 24;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: u32 = 1;
const AUTHORITY_NAME: &[u8] = b":authority";

/// A connection whose authorities are made acceptable as they are read.
#[derive(Debug)]
pub(crate) struct Lenient<T> {
    inner: T,
    frames: Frames,
}

impl<T> Lenient<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, frames: Frames::default() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lenient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.frames.read(&mut buf.filled_mut()[start..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lenient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Follows the frames of a connection (RFC 9113, 4.1).
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over: the preface, a payload without headers, padding.
    skip: u32,
    /// Bytes of the frame's header that were read.
    header: [u8; 9],
    header_len: usize,
    /// Bytes of the payload before the header block: the length of the padding, the priority.
    before_block: u32,
    is_padded: bool,
    /// Bytes of the header block.
    block: u32,
    hpack: Hpack,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            skip: PREFACE_LEN,
            header: [0; 9],
            header_len: 0,
            before_block: 0,
            is_padded: false,
            block: 0,
            hpack: Hpack::default(),
        }
    }
}

impl Frames {
    fn read(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.before_block == 0 && self.block == 0 && self.skip > 0 {
                let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
                bytes = &mut bytes[skipped..];
                continue;
            }
            let (byte, rest) = bytes.split_at_mut(1);
            self.read_byte(&mut byte[0]);
            bytes = rest;
        }
    }

    fn read_byte(&mut self, byte: &mut u8) {
        if self.before_block > 0 {
            self.before_block -= 1;
            if self.is_padded {
                self.is_padded = false;
                // Padding stands at the end of the payload, after the block.
                self.skip = u32::from(*byte).min(self.block);
                self.block -= self.skip;
            }
        } else if self.block > 0 {
            self.block -= 1;
            self.hpack.read(byte);
        } else {
            self.header[self.header_len] = *byte;
            self.header_len += 1;
            if self.header_len == self.header.len() {
                self.begin_payload();
            }
        }
    }

    fn begin_payload(&mut self) {
        self.header_len = 0;
        let [high, middle, low, kind, flags, ..] = self.header;
        let len = u32::from_be_bytes([0, high, middle, low]);
        if kind != HEADERS && kind != CONTINUATION {
            self.skip = len;
            return;
        }
        let flags = if kind == HEADERS { flags } else { flags & END_HEADERS };
        if kind == HEADERS {
            self.hpack = Hpack::default();
        }
        self.is_padded = flags & PADDED != 0;
        let before = u32::from(self.is_padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
        self.before_block = before.min(len);
        self.block = len - self.before_block;
    }
}

/// Follows the representations of a header block (RFC 7541, section 6).
#[derive(Debug, Default)]
enum Hpack {
    /// At the start of a representation.
    #[default]
    Start,
    /// In an integer that did not fit its first byte (section 5.1).
    Integer { of: Of, value: u32, shift: u32 },
    /// At the start of a string: its length, and whether it is Huffman-coded (section 5.2).
    Length { of: String },
    /// In a string.
    Bytes { of: String, left: u32 },
}

/// What an integer says.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// An entry of a table, or the size of one: nothing follows.
    Nothing,
    /// The name of a literal; 0 if the name follows.
    NameIndex,
    /// The length of a string.
    Length(String),
}

/// Which string.
#[derive(Clone, Copy, Debug)]
enum String {
    /// A name, of which so many bytes were those of `:authority`.
    Name { matched: Option<usize> },
    /// A value.
    Value { is_authority: bool },
}

impl Hpack {
    fn read(&mut self, byte: &mut u8) {
        *self = match std::mem::take(self) {
            Self::Start => match *byte {
                // Indexed; with a new size for the table; literal with indexing; literal without.
                0x80.. => integer(*byte, 7, Of::Nothing),
                0x20..=0x3f => integer(*byte, 5, Of::Nothing),
                0x40..=0x7f => integer(*byte, 6, Of::NameIndex),
                0x00..=0x1f => integer(*byte, 4, Of::NameIndex),
            },
            Self::Integer { of, value, shift } => {
                let value = value.saturating_add(u32::from(*byte & 0x7f).checked_shl(shift).unwrap_or(u32::MAX));
                if *byte & 0x80 == 0 {
                    after(of, value)
                } else {
                    Self::Integer { of, value, shift: shift.saturating_add(7) }
                }
            }
            Self::Length { of } => {
                // What is Huffman-coded is left as it is: none of the clients that send a path does that.
                let of = if *byte & 0x80 == 0 { of } else { plain(of) };
                integer(*byte, 7, Of::Length(of))
            }
            Self::Bytes { of, left } => {
                let of = pass(of, byte);
                if left == 1 { after_string(of) } else { Self::Bytes { of, left: left - 1 } }
            }
        };
    }
}

/// An integer with a prefix of `bits` bits, at its first byte.
fn integer(byte: u8, bits: u32, of: Of) -> Hpack {
    let full = u8::MAX >> (8 - bits);
    let value = u32::from(byte & full);
    if byte & full == full { Hpack::Integer { of, value, shift: 0 } } else { after(of, value) }
}

/// What follows an integer.
fn after(of: Of, value: u32) -> Hpack {
    match of {
        Of::Nothing => Hpack::Start,
        Of::NameIndex if value == 0 => Hpack::Length { of: String::Name { matched: Some(0) } },
        Of::NameIndex => Hpack::Length { of: String::Value { is_authority: value == AUTHORITY_INDEX } },
        Of::Length(of) if value == 0 => after_string(of),
        Of::Length(of) => Hpack::Bytes { of, left: value },
    }
}

/// What follows a string.
fn after_string(of: String) -> Hpack {
    match of {
        String::Name { matched } => {
            Hpack::Length { of: String::Value { is_authority: matched == Some(AUTHORITY_NAME.len()) } }
        }
        String::Value { .. } => Hpack::Start,
    }
}

/// The same string, in which nothing is recognised and nothing replaced.
fn plain(of: String) -> String {
    match of {
        String::Name { .. } => String::Name { matched: None },
        String::Value { .. } => String::Value { is_authority: false },
    }
}

fn pass(of: String, byte: &mut u8) -> String {
    match of {
        String::Name { matched } => {
            let matched =
                matched.filter(|matched| AUTHORITY_NAME.get(*matched) == Some(byte)).map(|matched| matched + 1);
            String::Name { matched }
        }
        String::Value { is_authority } => {
            let is_fine = byte.is_ascii_alphanumeric() || b".-_~:[]".contains(byte);
            if is_authority && !is_fine {
                *byte = b'-';
            }
            of
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, then the authority as given, then `te: trailers` with its name in full.
    fn block(authority: &[u8]) -> Vec<u8> {
        [&[0x83][..], authority, b"\x40\x02te\x08trailers"].concat()
    }

    fn literal(first: &[u8], value: &[u8]) -> Vec<u8> {
        [first, &[u8::try_from(value.len()).unwrap()], value].concat()
    }

    /// What comes through, cut into pieces of every length.
    fn through(bytes: &[u8]) -> Vec<u8> {
        let mut whole = bytes.to_vec();
        Frames::default().read(&mut whole);
        for len in 1..40 {
            let (mut pieces, mut frames) = (bytes.to_vec(), Frames::default());
            pieces.chunks_mut(len).for_each(|piece| frames.read(piece));
            assert_eq!(pieces, whole);
        }
        whole
    }

    #[test]
    fn the_path_of_a_socket_becomes_a_host_of_the_same_length() {
        let path = b"%2Frun%2Fw.sock";
        for first in [&b"\x41"[..], b"\x01", b"\x11", b"\x40\x0a:authority", b"\0\x0a:authority"] {
            let sent = |value| [PREFACE, &frame(4, 0, &[0; 12]), &frame(1, 4, &block(&literal(first, value)))].concat();
            assert_eq!(through(&sent(path)), sent(b"-2Frun-2Fw.sock"));
            assert_eq!(through(&sent(b"[::1]:8080")), sent(b"[::1]:8080"));
        }
    }

    #[test]
    fn padding_priority_continuation_and_frames_before_are_passed_over() {
        let authority = literal(b"\x41", b"%2Fa");
        let sent = |value: &[u8]| {
            let block = block(&literal(b"\x41", value));
            let padded = [&[3][..], &[0; 5], &block, b"%%%"].concat();
            let (one, two) = block.split_at(4);
            let frames = [frame(0, 0, &authority), frame(1, 4 | 8 | 0x20, &padded), frame(1, 0, one), frame(9, 4, two)];
            [PREFACE, &frames.concat()].concat()
        };
        assert_eq!(through(&sent(b"%2Fa")), sent(b"-2Fa"));
    }

    #[test]
    fn other_headers_are_left_alone() {
        for first in [&b"\x44"[..], b"\x40\x05:path", b"\x40\x0a:authoritx", b"\x40\x0b:authority2"] {
            let sent = [PREFACE, &frame(1, 4, &block(&literal(first, b"/%2F%")))].concat();
            assert_eq!(through(&sent), sent);
        }
        // A value of more than 127 bytes, an empty one, and one that is Huffman-coded.
        let long = [&b"\x44\x7f\x80\x01"[..], &[b'%'; 255]].concat();
        for other in [&long[..], b"\x41\x00", b"\x41\x83%%%"] {
            let sent = [PREFACE, &frame(1, 4, &block(other)), &frame(1, 4, &block(other))].concat();
            assert_eq!(through(&sent), sent);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_depend_on_how_they_are_cut(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            through(&bytes);
            through(&[PREFACE, &bytes].concat());
            through(&[PREFACE, &frame(1, 4, &bytes)].concat());
        }
    }
}
