use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Long enough for a busy machine; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

fn listening() -> (TlsTransport, SocketAddr) {
    let listener = TlsListener::bind(HERE).unwrap();
    let address = listener.local_address().unwrap();
    (TlsTransport::new(Some(listener)).unwrap(), address)
}

async fn arrival(transport: &mut TlsTransport) -> Arrival {
    let wait = async {
        loop {
            transport.readable().await;
            if let Some(arrival) = transport.receive() {
                return arrival;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("a datagram arrives")
}

/// Reads news until `done` is content.
async fn settle(transport: &mut TlsTransport, done: impl Fn(&TlsTransport) -> bool) {
    let wait = async {
        while !done(transport) {
            transport.readable().await;
            assert_eq!(transport.receive(), None, "no datagram is expected");
        }
    };
    timeout(PATIENCE, wait).await.expect("the news arrives");
}

#[tokio::test]
async fn datagrams_cross_in_both_directions_and_the_first_is_not_lost() {
    let (mut server, address) = listening();
    let mut client = TlsTransport::new(None).unwrap();
    client.send(address, b"hello");
    let first = arrival(&mut server).await;
    assert_eq!(first.bytes, b"hello");
    for number in 0..100u8 {
        server.send(first.from, &vec![number; 1400]);
        assert_eq!(arrival(&mut client).await, Arrival { from: address, bytes: vec![number; 1400] });
    }
    assert_eq!((server.stats().connections_accepted, client.stats().connections_made), (1, 1));
    assert_eq!((server.stats().frames_sent, client.stats().frames_received), (100, 100));
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_reported_and_not_called_again_at_once() {
    let closed = {
        let listener = TlsListener::bind(HERE).unwrap();
        listener.local_address().unwrap()
    };
    let mut client = TlsTransport::new(None).unwrap();
    client.send(closed, &[1]);
    settle(&mut client, |client| client.stats().connections_failed == 1).await;
    let failures = client.take_failures();
    assert!(failures[&closed].contains("refused"), "{failures:?}");
    client.send(closed, &[1]);
    assert_eq!((client.stats().connections_open, client.stats().frames_dropped_unconnected), (0, 1));
}

#[tokio::test]
async fn who_called_and_left_is_not_called_back() {
    let (mut server, address) = listening();
    let mut client = TlsTransport::new(None).unwrap();
    client.send(address, &[1]);
    let from = arrival(&mut server).await.from;
    drop(client);
    settle(&mut server, |server| server.stats().connections_open == 0).await;
    server.send(from, &[2]);
    assert_eq!((server.stats().connections_open, server.stats().frames_dropped_unconnected), (0, 1));
}

#[tokio::test]
async fn a_full_connection_drops_and_never_blocks() {
    let (mut server, address) = listening();
    let mut client = TlsTransport::new(None).unwrap();
    client.send(address, &[1]);
    arrival(&mut server).await;
    // The server reads no more news, so its connection stops reading, and in the end the client's stops writing.
    for _ in 0..40 {
        for _ in 0..OUTBOUND_MAX {
            client.send(address, &vec![0; FRAME_BYTES_MAX]);
        }
        tokio::task::yield_now().await;
    }
    assert!(client.stats().frames_dropped_full > 0, "{:?}", client.stats());
}

#[tokio::test]
async fn what_fits_no_frame_is_dropped_before_anything_is_called() {
    let mut client = TlsTransport::new(None).unwrap();
    client.send(HERE, &[]);
    client.send(HERE, &vec![0; FRAME_BYTES_MAX + 1]);
    assert_eq!((client.stats().frames_dropped_size, client.stats().connections_open), (2, 0));
}

async fn raw_tls(address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    dial(outer_tls::client().unwrap(), address).await.unwrap()
}

#[tokio::test]
async fn a_browser_that_comes_by_is_hung_up_on() {
    let (mut server, address) = listening();
    let mut browser = raw_tls(address).await;
    assert_eq!(browser.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    browser.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    settle(&mut server, |server| server.stats().connections_refused == 1).await;
    let mut rest = Vec::new();
    // However it ends, it ends.
    drop(timeout(PATIENCE, browser.read_to_end(&mut rest)).await.expect("the connection ends"));
    assert!(rest.is_empty());
    assert_eq!(server.stats().connections_open, 0);
}

#[tokio::test]
async fn an_empty_frame_ends_the_connection_and_what_came_before_it_counts() {
    let (mut server, address) = listening();
    let mut stranger = raw_tls(address).await;
    stranger.write_all(&[0, 1, 9, 0, 0]).await.unwrap();
    assert_eq!(arrival(&mut server).await.bytes, [9]);
    settle(&mut server, |server| server.stats().connections_refused == 1).await;
}

#[tokio::test]
async fn garbage_in_place_of_tls_reaches_nobody() {
    let (mut server, address) = listening();
    let mut stranger = TcpStream::connect(address).await.unwrap();
    stranger.write_all(&[0x5a; 2048]).await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.expect("the connection ends"));
    // A good caller is served meanwhile.
    let mut client = TlsTransport::new(None).unwrap();
    client.send(address, &[7]);
    assert_eq!(arrival(&mut server).await.bytes, [7]);
    assert_eq!(server.stats().connections_accepted, 1);
}

#[tokio::test]
async fn one_source_may_hold_only_its_share_of_connections() {
    let (mut server, address) = listening();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_SOURCE_MAX {
        held.push(raw_tls(address).await);
    }
    let share = CONNECTIONS_PER_SOURCE_MAX as u64;
    settle(&mut server, |server| server.stats().connections_accepted == share).await;
    assert!(dial(outer_tls::client().unwrap(), address).await.is_err(), "over the share");
    held.pop();
    settle(&mut server, |server| server.stats().connections_open == share - 1).await;
    // The place is free once the task is over, which is a moment after its news.
    let again = async { while dial(outer_tls::client().unwrap(), address).await.is_err() {} };
    timeout(PATIENCE, again).await.expect("its place is free again");
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_hung_up_on() {
    let listener = TlsListener::bind(HERE).unwrap();
    let address = listener.local_address().unwrap();
    let mut server = TlsTransport::with_patience(Some(listener), Duration::from_millis(50)).unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut rest = [0; 1];
    assert_eq!(silent.read(&mut rest).await.unwrap_or(0), 0, "no TLS handshake came");
    assert_eq!(server.receive(), None);
    assert_eq!(server.stats().connections_accepted, 0);
}

#[test]
fn the_lower_half_of_an_ipv6_address_is_no_other_source() {
    let of = |text: &str| source(text.parse().unwrap());
    assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::2:3]:4"));
    assert_ne!(of("[2001:db8:0:1::1]:1"), of("[2001:db8::1]:1"));
    assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
    assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:2"));
}

#[tokio::test]
async fn strangers_who_fill_a_node_do_not_keep_it_from_calling() {
    let (mut server, address) = listening();
    let mut client = TlsTransport::new(None).unwrap();
    for port in 1..=CONNECTIONS_MAX as u16 {
        let (outbound, _) = mpsc::channel(1);
        let stranger = Connection { number: 0, outbound, calling: None };
        client.connections.insert(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), stranger);
    }
    client.send(address, b"hello");
    assert_eq!(arrival(&mut server).await.bytes, b"hello");
}
