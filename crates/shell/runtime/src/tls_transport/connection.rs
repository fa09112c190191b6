//! One connection: frames in, frames out, until either side has had enough.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use x0t_model::Instant;

use super::frame::{FRAME_BYTES_MAX, FrameError, FrameReader, PREFIX_BYTES, encode};
use super::{Arrival, News};
use crate::clock::Clock;

/// A connection that brings no whole frame for this long is closed. Neighbours are never silent for more than a second, so this
/// one is of no use to them; and whoever sends a byte now and then to hold it open does not succeed.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A peer that takes nothing for this long is not there.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// What waited longer for the connection is dropped: the flow inside has noticed the loss by then or sends it again, and a queue
/// that is never late keeps the control loops of two TCPs apart.
const SOJOURN_MAX: Duration = Duration::from_millis(100);
/// Frames written in one piece: one TLS record holds 16 KiB.
const WRITE_BYTES_MAX: usize = 16 << 10;
/// How much the kernel may hold that it has not sent. What waits longer does so where it can be dropped.
const UNSENT_BYTES_MAX: u32 = 32 << 10;
/// The kernel asks a silent peer after this time.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A datagram that waits for its connection.
#[derive(Debug)]
pub(super) struct Queued {
    pub since: Instant,
    pub bytes: Vec<u8>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The peer, or this side, has no more use for it.
    #[error("the connection was closed")]
    Closed,
    /// Nothing came.
    #[error("no frame for {SILENCE_MAX:?}")]
    Silent,
    /// Nothing went.
    #[error("the peer takes nothing")]
    Stuck,
    /// It does not speak the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The network's or the TLS layer's words.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Small packets leave at once, a full pipe is noticed early, and a peer that vanished is found.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(WRITE_MAX))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))
}

/// Carries frames in both directions until the connection ends.
pub(super) async fn carry(
    stream: impl AsyncRead + AsyncWrite,
    peer: SocketAddr,
    outbound: mpsc::Receiver<Queued>,
    news: &mpsc::Sender<News>,
) -> End {
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read(reader, peer, news) => ended,
        ended = write(writer, outbound) => ended,
    };
    match ended {
        Ok(()) => End::Closed,
        Err(end) => end,
    }
}

async fn read(mut reader: impl AsyncRead + Unpin, peer: SocketAddr, news: &mpsc::Sender<News>) -> Result<(), End> {
    let mut frames = FrameReader::default();
    loop {
        let frame = next_frame(&mut reader, &mut frames);
        let Some(bytes) = timeout(SILENCE_MAX, frame).await.map_err(|_| End::Silent)?? else { return Ok(()) };
        // Waits while the event loop is busy; TCP then makes the peer wait.
        if news.send(News::Frame(Arrival { from: peer, bytes })).await.is_err() {
            return Ok(());
        }
    }
}

async fn next_frame(reader: &mut (impl AsyncRead + Unpin), frames: &mut FrameReader) -> Result<Option<Vec<u8>>, End> {
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok(Some(frame.to_vec()));
        }
        match reader.read(frames.room()).await {
            // A peer that goes without TLS's close_notify is gone all the same.
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Ok(count) => frames.filled(count),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut outbound: mpsc::Receiver<Queued>) -> Result<(), End> {
    // What has waited for the connection itself is as fresh as it can be.
    let opened = Clock.now();
    let mut piece = Vec::with_capacity(WRITE_BYTES_MAX);
    while let Some(first) = outbound.recv().await {
        piece.clear();
        let mut next = Some(first);
        while let Some(queued) = next {
            if Clock.now().since(queued.since.max(opened)) <= SOJOURN_MAX {
                encode(&queued.bytes, &mut piece);
            }
            let has_room = piece.len() + PREFIX_BYTES + FRAME_BYTES_MAX <= WRITE_BYTES_MAX;
            next = if has_room { outbound.try_recv().ok() } else { None };
        }
        if !piece.is_empty() {
            let written = async {
                writer.write_all(&piece).await?;
                writer.flush().await
            };
            timeout(WRITE_MAX, written).await.map_err(|_| End::Stuck)??;
        }
    }
    Ok(())
}
