//! A Workload API that says what it is told to, however wrong.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Code, Status};

pub struct FakeServer {
    pub path: PathBuf,
    calls: mpsc::Receiver<Call>,
    _tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

/// A call that waits for what it is to be told.
pub struct Call {
    pub path: String,
    pub headers: HeaderMap,
    frames: mpsc::Sender<Frame<Bytes>>,
}

struct Script(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

impl FakeServer {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fake.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (sender, calls) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    async move {
                        let (frames, script) = mpsc::channel(16);
                        let (parts, _) = request.into_parts();
                        let call = Call { path: parts.uri.path().to_owned(), headers: parts.headers, frames };
                        drop(sender.send(call).await);
                        let mut response = Response::new(Script(script));
                        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                        Ok::<_, Infallible>(response)
                    }
                });
                connections.spawn(async move {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { path, calls, _tasks: tasks, _directory: directory }
    }

    pub async fn call(&mut self) -> Call {
        tokio::time::timeout(Duration::from_secs(20), self.calls.recv()).await.expect("a call").unwrap()
    }
}

impl Call {
    pub async fn send(&self, message: &impl Message) {
        self.send_bytes(&message.encode_to_vec()).await;
    }

    /// A message of these bytes.
    pub async fn send_bytes(&self, message: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put_slice(message);
        self.send_raw(frame.freeze()).await;
    }

    /// These bytes where a message should be.
    pub async fn send_raw(&self, bytes: Bytes) {
        drop(self.frames.send(Frame::data(bytes)).await);
    }

    pub async fn end(self, code: Code) {
        let mut trailers = HeaderMap::new();
        Status::new(code, "as \u{7}told").add_header(&mut trailers).unwrap();
        drop(self.frames.send(Frame::trailers(trailers)).await);
    }

    /// Whether the client has let go.
    pub async fn closed(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.frames.closed()).await.expect("the client lets go");
    }
}
