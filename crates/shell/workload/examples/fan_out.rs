//! How long a rotation takes to reach every open stream, and what a stream costs: `fan_out SERVE-BINARY STREAMS CONNECTIONS`, with the
//! `serve` example as the server, in a process of its own.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, run by hand")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Request;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const ROTATIONS: usize = 5;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [binary, streams, connections] = &arguments[..] else { panic!("fan_out SERVE-BINARY STREAMS CONNECTIONS") };
    let (streams, connections): (usize, usize) = (streams.parse().unwrap(), connections.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let socket: Arc<std::path::PathBuf> = directory.path().join("workload.sock").into();
    let mut server = Command::new(binary);
    server.arg(&*socket).arg("without-limits-per-process").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut says = BufReader::new(server.stdout.take().unwrap()).lines();
    assert_eq!(says.next().unwrap().unwrap(), "ready");
    let empty = rss(server.id());

    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let opening = Instant::now();
    for connection in 0..connections {
        let socket = Arc::clone(&socket);
        let connector = tower::service_fn(move |_| {
            let socket = Arc::clone(&socket);
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(&*socket).await?)) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
        for _ in 0..(streams + connection) / connections {
            let (arrived, channel) = (arrived.clone(), channel.clone());
            tokio::spawn(async move {
                let mut request = Request::new(());
                request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
                let mut grpc = Grpc::new(channel);
                grpc.ready().await.unwrap();
                let path = "/SpiffeWorkloadAPI/FetchX509SVID".parse().unwrap();
                let codec = ProstCodec::<(), ()>::default();
                let mut messages = grpc.server_streaming(request, path, codec).await.unwrap().into_inner();
                while let Ok(Some(())) = messages.message().await {
                    let _ = arrived.send(Instant::now());
                }
            });
        }
    }
    let mut all = async |since: Instant| {
        let mut delays = Vec::with_capacity(streams);
        while delays.len() < streams {
            let arrival = tokio::time::timeout(Duration::from_secs(60), arrivals.recv());
            delays.push(arrival.await.expect("a message").unwrap().duration_since(since));
        }
        delays.sort_unstable();
        delays
    };
    all(opening).await;
    println!("{streams} streams on {connections} connections opened in {:.2} s", opening.elapsed().as_secs_f64());
    let full = rss(server.id());
    println!("{:.2} KiB of the server's RSS for each stream", (full - empty) as f64 / streams as f64);
    for _ in 0..ROTATIONS {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let since = Instant::now();
        writeln!(server.stdin.as_mut().unwrap(), "rotate").unwrap();
        let delays = all(since).await;
        let at = |share: usize| delays[(delays.len() - 1) * share / 100].as_millis();
        println!("a rotation arrives after p50 {} ms, p99 {} ms, at the latest {} ms", at(50), at(99), at(100));
    }
    println!("{:.2} KiB after {ROTATIONS} rotations", (rss(server.id()) - empty) as f64 / streams as f64);
    writeln!(server.stdin.as_mut().unwrap(), "stats").unwrap();
    println!("{}", says.map(Result::unwrap).find(|line| line != "done").unwrap());
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Resident memory of a process, in KiB.
fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
