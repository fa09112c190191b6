//! Bytes that arrive once and in order over packets that may not: the sending half, the receiving half, and messages on top.
//!
//! CRYPTO of each handshake level and STREAM of an established session are the same thing with different frames around it.

mod receive;
mod send;

pub(crate) use receive::{MessageReader, ReceiveStream, ViolationError};
pub(crate) use send::SendStream;

/// Bytes that may be under way or waiting in each direction. A sender buffers no more, a receiver looks no further ahead.
pub(crate) const STREAM_WINDOW: u64 = 256 * 1024;
/// The same for each level of a handshake: an ML-DSA flight is about 10 KB.
pub(crate) const CRYPTO_WINDOW: u64 = 64 * 1024;
/// Longest message.
pub(crate) const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Bytes of length in front of each message.
pub(crate) const MESSAGE_PREFIX: usize = 4;
