//! One process cannot take the endpoint away from the others (WS-12).

use std::time::Duration;

use tonic::Code;

use super::authority::TestSource;
use super::endpoint::{Connect, Served, connect, my_uid, serve_with};
use crate::proto::spiffe::X509svidResponse;
use crate::server::ServerConfig;

const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

fn served(change: impl FnOnce(&mut ServerConfig)) -> Served {
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    let mut config = ServerConfig::default();
    change(&mut config);
    serve_with(source, config)
}

#[tokio::test]
async fn ws_12_a_process_has_a_limited_number_of_streams_over_all_its_connections() {
    let served = served(|config| config.streams_per_process_max = 2);
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(served.client().await.open::<(), X509svidResponse>(X509, ()).await.unwrap());
    }
    let client = served.client().await;
    let refused = client.open::<(), X509svidResponse>(X509, ()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    // A stream that ends makes room.
    streams.pop();
    while served.stats.counts().streams > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(client.open::<(), X509svidResponse>(X509, ()).await.is_ok());
}

#[tokio::test]
async fn ws_12_the_endpoint_has_a_limited_number_of_streams() {
    let served = served(|config| config.streams_max = 1);
    let client = served.client().await;
    let _stream = client.open::<(), X509svidResponse>(X509, ()).await.unwrap();
    let refused = client.open::<(), X509svidResponse>(X509, ()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn ws_12_a_process_that_calls_too_often_is_told_so() {
    let served = served(|config| {
        config.calls_burst = 3;
        config.calls_per_second = 1;
    });
    let client = served.client().await;
    for _ in 0..3 {
        client.open::<(), X509svidResponse>(X509, ()).await.unwrap();
    }
    // Another connection of the same process is no way around it.
    let refused = served.client().await.open::<(), X509svidResponse>(X509, ()).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(served.stats.counts().calls_limited, 1);
}

#[tokio::test]
async fn ws_12_a_process_has_a_limited_number_of_connections() {
    let served = served(|config| config.connections_per_process_max = 1);
    let first = served.client().await;
    first.open::<(), X509svidResponse>(X509, ()).await.unwrap();
    let mut second = tokio::net::UnixStream::connect(&served.path).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(20), tokio::io::AsyncReadExt::read(&mut second, &mut byte));
    assert_eq!(read.await.unwrap().unwrap(), 0);
    assert_eq!(served.stats.counts().connections_limited, 1);
}

#[tokio::test]
async fn ws_12_a_reader_that_does_not_read_is_cut_off() {
    let served = served(|config| config.send_deadline = Duration::from_millis(100));
    // Less than a message has room.
    let slow = connect(served.path.clone(), Connect { window: Some(100), ..Connect::default() }).await;
    let mut stream = slow.open::<(), X509svidResponse>(X509, ()).await.unwrap();
    // The first message waits in the connection; the next finds no room.
    served.source.rotate();
    while served.stats.counts().connections_evicted == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(stream.next().await.is_err());
    assert_eq!(served.stats.counts().connections, 0);
}

#[tokio::test]
async fn ws_12_a_connection_on_which_nothing_is_asked_is_closed() {
    let served = served(|config| config.greeting_deadline = Duration::from_millis(100));
    let mut silent = tokio::net::UnixStream::connect(&served.path).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut bytes);
    // The server's settings, and then the end.
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    assert_eq!(served.stats.counts().connections_evicted, 1);
}

#[tokio::test]
async fn ws_12_bytes_that_are_no_http_end_the_connection_and_nothing_else() {
    let served = served(|_| {});
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0\0\0\0\0",
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
    ] {
        let mut stream = tokio::net::UnixStream::connect(&served.path).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
        // However it ends, it ends.
        drop(tokio::time::timeout(Duration::from_secs(20), read).await.unwrap());
    }
    assert!(served.client().await.open::<(), X509svidResponse>(X509, ()).await.is_ok());
}
