//! A served socket, and a client that speaks plain gRPC to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::authority::TestSource;
use crate::server::{ServerConfig, ServerStats, WorkloadServer, bind};

/// Long enough that only what hangs runs into it.
const DEADLINE: Duration = Duration::from_secs(20);

pub struct Served {
    pub source: Arc<TestSource>,
    pub path: PathBuf,
    pub stats: Arc<ServerStats>,
    pub stop: watch::Sender<bool>,
    pub task: JoinHandle<std::io::Result<()>>,
    _directory: tempfile::TempDir,
}

pub fn serve(source: Arc<TestSource>) -> Served {
    serve_with(source, ServerConfig::default())
}

pub fn serve_with(source: Arc<TestSource>, config: ServerConfig) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("workload.sock");
    let listener = bind(&path).unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = WorkloadServer::new(source.clone(), config, stopped);
    let stats = server.stats();
    let task = tokio::spawn(server.serve(listener));
    Served { source, path, stats, stop, task, _directory: directory }
}

/// The selector of whoever runs the tests.
pub fn my_uid() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

impl Served {
    pub async fn client(&self) -> Client {
        connect(self.path.clone(), Connect::default()).await
    }
}

/// How a test connects.
#[derive(Clone, Copy, Default)]
pub struct Connect {
    /// Bytes that the server may send on one stream before they are asked for; `None` is what clients usually allow.
    pub window: Option<u32>,
    /// Whether the connection stays open over `execve`.
    pub survives_exec: bool,
}

pub async fn connect(path: PathBuf, how: Connect) -> Client {
    let connector = tower::service_fn(move |_| {
        let stream = std::os::unix::net::UnixStream::connect(&path).and_then(|stream| {
            if how.survives_exec {
                rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::empty())?;
            }
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        std::future::ready(stream.map(TokioIo::new))
    });
    let endpoint = Endpoint::from_static("http://localhost").initial_stream_window_size(how.window);
    Client { channel: endpoint.connect_with_connector(connector).await.unwrap() }
}

#[derive(Clone)]
pub struct Client {
    pub channel: Channel,
}

impl Client {
    /// Opens a stream with the header that the API asks for.
    pub async fn open<Q, A>(&self, method: &'static str, request: Q) -> Result<Stream<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.open_with(method, request, &["true"]).await
    }

    pub async fn open_with<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        header: &[&'static str],
    ) -> Result<Stream<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut request = Request::new(request);
        for value in header {
            request.metadata_mut().append("workload.spiffe.io", MetadataValue::from_static(value));
        }
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let call = grpc.server_streaming(request, method.parse().unwrap(), ProstCodec::default());
        let answer = tokio::time::timeout(DEADLINE, call).await.expect("an answer");
        answer.map(|answer| Stream { messages: answer.into_inner() })
    }

    /// A call with one answer.
    pub async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.open(method, request).await?.next().await.map(|answer| answer.expect("one message"))
    }
}

pub struct Stream<A> {
    messages: Streaming<A>,
}

impl<A> Stream<A> {
    pub fn new(messages: Streaming<A>) -> Self {
        Self { messages }
    }

    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        tokio::time::timeout(DEADLINE, self.messages.message()).await.expect("a message")
    }

    /// The next message, which is there.
    pub async fn message(&mut self) -> A {
        self.next().await.unwrap().expect("a message")
    }

    /// How the stream ends.
    pub async fn end(&mut self) -> Status {
        match self.next().await {
            Err(status) => status,
            Ok(_) => panic!("the stream goes on"),
        }
    }
}
