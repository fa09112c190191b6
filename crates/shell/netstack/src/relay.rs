//! Two connections made one: what is read on either side is written on the other, and so is its end.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::network::Connected;

/// Bytes on their way in each direction besides those in the two connections' own buffers.
const CHUNK: usize = 32 << 10;
/// A connection on which nothing moves for longer is given up (RFC 5382, REQ-5: no sooner than 2 hours 4 minutes).
pub const IDLE: Duration = Duration::from_secs(2 * 3_600 + 4 * 60);
/// The same once one side has finished (the same, for connections that are partly closed).
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(4 * 60);
/// How often it is looked whether something has moved.
const WATCH: Duration = Duration::from_secs(30);

/// What has happened so far.
#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    half_closed: AtomicBool,
}

/// Relays until both sides have finished, one fails, or nothing moves for too long. Each side's end is passed on by itself, so that the
/// other direction may go on; an error breaks both off.
///
/// # Errors
/// What failed, or `TimedOut` after [`IDLE`] or [`HALF_CLOSED_IDLE`].
pub async fn relay(mut one: Connected, mut other: Connected) -> io::Result<()> {
    let progress = Progress::default();
    let done = {
        let ((one_reader, one_writer), (other_reader, other_writer)) =
            (tokio::io::split(&mut one), tokio::io::split(&mut other));
        let both = async {
            tokio::try_join!(pump(one_reader, other_writer, &progress), pump(other_reader, one_writer, &progress))
        };
        tokio::select! {
            done = both => done.map(drop),
            () = idle(&progress) => Err(io::ErrorKind::TimedOut.into()),
        }
    };
    if done.is_err() {
        one.break_off();
        other.break_off();
    }
    done
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            progress.half_closed.store(true, Ordering::Relaxed);
            return to.shutdown().await;
        }
        to.write_all(&chunk[..count]).await?;
        progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Returns once nothing has moved for too long.
async fn idle(progress: &Progress) {
    let mut quiet = Duration::ZERO;
    let mut before = 0;
    loop {
        tokio::time::sleep(WATCH).await;
        let bytes = progress.bytes.load(Ordering::Relaxed);
        quiet = if bytes == before { quiet + WATCH } else { Duration::ZERO };
        before = bytes;
        let limit = if progress.half_closed.load(Ordering::Relaxed) { HALF_CLOSED_IDLE } else { IDLE };
        if quiet >= limit {
            return;
        }
    }
}
