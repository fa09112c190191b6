//! Two hosts without an interface, with real sockets on loopback on both sides, and packets carried from stack to stack between them.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use x0t_model::{Entropy, Instant, TrustDomain};
use x0t_netstack::forwarding::{Forwarding, ForwardingError, ForwardingThread, Home, Lease};
use x0t_netstack::names::address_of;
use x0t_netstack::spec::{Exposure, Forward, Listen, MeshPort};
use x0t_netstack::{HostPort, Limits};

/// Milliseconds since the test process began, near enough.
fn now() -> Instant {
    static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(tokio::time::Instant::now).elapsed();
    Instant::from_millis(1_000) + elapsed
}

fn domain() -> TrustDomain {
    "mesh.test".parse().unwrap()
}

fn host(name: &str, seed: u8) -> (Forwarding, ForwardingThread, HostPort) {
    let home = Home { trust_domain: domain(), address: address_of(name, &domain()).unwrap() };
    Forwarding::over_stack(home, Limits::default(), [seed; 32], now).unwrap()
}

/// Two hosts and a mesh that carries every packet.
struct Mesh {
    alpha: Forwarding,
    beta: Forwarding,
    _threads: [ForwardingThread; 2],
}

fn mesh() -> Mesh {
    let (alpha, alpha_thread, mut alpha_port) = host("alpha", 1);
    let (beta, beta_thread, mut beta_port) = host("beta", 2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = alpha_port.readable() => carry(&mut alpha_port, &beta_port).await,
                () = beta_port.readable() => carry(&mut beta_port, &alpha_port).await,
            }
        }
    });
    Mesh { alpha, beta, _threads: [alpha_thread, beta_thread] }
}

async fn carry(from: &mut HostPort, to: &HostPort) {
    while let Some(packet) = from.poll_packet() {
        // Whether a full lane loses packets is another test's subject.
        while !to.push_packet(std::iter::once(packet)) {
            tokio::task::yield_now().await;
        }
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("done in time")
}

/// A service that sends back what it gets, and ends when its client does. Returns its port.
async fn echo_service() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = client.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    port
}

/// A service that reads to the end, then answers with how much it was.
async fn counting_service() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            client.write_all(all.len().to_string().as_bytes()).await.unwrap();
        }
    });
    port
}

fn forward(text: &str) -> Forward {
    Forward { protocol: Default::default(), listen: "127.0.0.1:0".parse().unwrap(), to: text.parse().unwrap() }
}

/// Where a forward is reached.
fn at(lease: &Lease) -> SocketAddr {
    lease.listen.address().unwrap()
}

fn exposure(text: &str) -> Exposure {
    text.parse().unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    let mut entropy = Entropy::new([9; 32]);
    let mut bytes: Vec<u8> = (0..len / 32 + 1).flat_map(|_| entropy.bytes::<32>()).collect();
    bytes.truncate(len);
    bytes
}

/// Sends `bytes` through an echo and checks what comes back.
async fn echo(mut stream: TcpStream, bytes: Vec<u8>) {
    let (mut reader, mut writer) = stream.split();
    let mut back = Vec::new();
    let send = async {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (_, read) = within(async { tokio::join!(send, reader.read_to_end(&mut back)) }).await;
    read.unwrap();
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
}

#[tokio::test]
async fn a_forward_leads_to_an_exposed_port_and_not_one_byte_is_lost() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let lease = mesh.alpha.forward(forward("beta:80")).unwrap();
    let address = at(&lease);
    let transfers = (1..=4).map(|n| async move {
        echo(TcpStream::connect(address).await.unwrap(), pattern(n * 2_000_003)).await;
    });
    let transfers: Vec<_> = transfers.map(Box::pin).collect();
    for transfer in transfers {
        transfer.await;
    }
    let (forwards, exposures) = (mesh.alpha.forwards(), mesh.beta.exposures());
    assert_eq!((forwards.len(), forwards[0].opened, forwards[0].failed), (1, 4, 0));
    assert_eq!((exposures.len(), exposures[0].opened, exposures[0].failed), (1, 4, 0));
}

#[tokio::test]
async fn many_connections_at_once_each_get_their_own_answer() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let listen = {
        let lease = Box::leak(Box::new(mesh.alpha.forward(forward("beta:80")).unwrap()));
        at(lease)
    };
    let tasks: Vec<_> = (0..60_usize)
        .map(|n| {
            tokio::spawn(async move { echo(TcpStream::connect(listen).await.unwrap(), pattern(10_000 + n)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_while_the_other_stays_open() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", counting_service().await))).unwrap();
    let lease = mesh.alpha.forward(forward("beta:80")).unwrap();
    let mut client = TcpStream::connect(at(&lease)).await.unwrap();
    client.write_all(&pattern(700_000)).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "700000");
}

#[tokio::test]
async fn what_is_not_exposed_is_refused_and_the_owner_of_the_forward_is_told() {
    let mesh = mesh();
    let mut lease = mesh.alpha.forward(forward("beta:22")).unwrap();
    let mut client = TcpStream::connect(at(&lease)).await.unwrap();
    let notice = within(lease.notices.recv()).await.unwrap();
    assert_eq!(notice.reason, "the other node refused the connection");
    assert_eq!(notice.from, client.local_addr().unwrap().to_string());
    assert_eq!(within(client.read(&mut [0; 8])).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(mesh.alpha.forwards()[0].failed, 1);
}

#[tokio::test]
async fn a_service_that_does_not_run_is_a_refused_connection() {
    let mesh = mesh();
    let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
    mesh.beta.expose(exposure(&format!("80:{unused}"))).unwrap();
    let mut lease = mesh.alpha.forward(forward("beta:80")).unwrap();
    let _client = TcpStream::connect(at(&lease)).await.unwrap();
    let notice = within(lease.notices.recv()).await.unwrap();
    assert_eq!(notice.reason, "the other node refused the connection");
    assert_eq!(mesh.beta.exposures()[0].failed, 1);
}

#[tokio::test]
async fn a_port_exposed_to_some_nodes_is_closed_for_others() {
    let mesh = mesh();
    let service = echo_service().await;
    mesh.beta.expose(Exposure { from: vec!["gamma".to_owned()], ..exposure(&format!("80:{service}")) }).unwrap();
    mesh.beta.expose(Exposure { from: vec!["alpha".to_owned()], ..exposure(&format!("81:{service}")) }).unwrap();
    let mut closed = mesh.alpha.forward(forward("beta:80")).unwrap();
    let _client = TcpStream::connect(at(&closed)).await.unwrap();
    assert_eq!(within(closed.notices.recv()).await.unwrap().reason, "the other node refused the connection");
    let open = mesh.alpha.forward(forward("beta:81")).unwrap();
    echo(TcpStream::connect(at(&open)).await.unwrap(), b"hello".to_vec()).await;
}

#[tokio::test]
async fn a_lease_that_is_dropped_and_a_port_that_is_concealed_end_their_connections() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let (first, second) =
        (mesh.alpha.forward(forward("beta:80")).unwrap(), mesh.alpha.forward(forward("beta:80")).unwrap());
    let mut clients = [TcpStream::connect(at(&first)).await.unwrap(), TcpStream::connect(at(&second)).await.unwrap()];
    for client in &mut clients {
        client.write_all(b"x").await.unwrap();
        within(client.read_exact(&mut [0])).await.unwrap();
    }
    let listen = at(&first);
    drop(first);
    let [first, second] = &mut clients;
    assert!(matches!(within(first.read(&mut [0])).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(listen).await.is_err());
    mesh.beta.conceal("80".parse::<MeshPort>().unwrap()).unwrap();
    assert!(matches!(within(second.read(&mut [0])).await, Ok(0) | Err(_)));
    assert!(matches!(
        mesh.beta.conceal("80".parse().unwrap()),
        Err(ForwardingError::NotExposed(MeshPort { port: 80, .. }))
    ));
}

#[tokio::test]
async fn what_cannot_be_forwarded_or_exposed_says_why() {
    let mesh = mesh();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let held = TcpListener::bind(taken).await.unwrap();
    let error = mesh.alpha.forward(Forward { listen: taken.into(), ..forward("beta:80") }).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {taken}")), "{error}");
    assert!(mesh.alpha.forward(forward("alpha:80")).unwrap_err().to_string().contains("this node itself"));
    assert!(
        mesh.alpha.forward(forward("[2001:db8::1]:80")).unwrap_err().to_string().contains("no address of this mesh")
    );
    mesh.alpha.expose(exposure("80")).unwrap();
    assert!(mesh.alpha.expose(exposure("80:81")).unwrap_err().to_string().contains("exposed already"));
    // A kept forward waits until its address is free, and shows the reason.
    mesh.alpha.keep_forward(Forward { listen: taken.into(), ..forward("beta:80") }).unwrap();
    within(async {
        while mesh.alpha.forwards()[0].problem.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(held);
    assert!(mesh.alpha.drop_forward(&Forward { listen: taken.into(), ..forward("beta:80") }));
    assert!(mesh.alpha.forwards().is_empty());
}

#[tokio::test]
async fn datagrams_are_forwarded_and_answered_to_whoever_asked() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("udp/53:{}", udp_echo_service().await))).unwrap();
    let udp = Forward { protocol: x0t_netstack::spec::Protocol::Udp, ..forward("beta:53") };
    let lease = mesh.alpha.forward(udp).unwrap();
    for n in 0..3 {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(at(&lease)).await.unwrap();
        let question = vec![n; 10 + usize::from(n)];
        client.send(&question).await.unwrap();
        let mut answer = [0; 64];
        let length = within(client.recv(&mut answer)).await.unwrap();
        assert_eq!(answer[..length], [b"re: ", question.as_slice()].concat());
    }
}

async fn socks(address: SocketAddr, request: &[u8]) -> (TcpStream, [u8; 10]) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    within(client.read_exact(&mut method)).await.unwrap();
    assert_eq!(method, [5, 0]);
    // In pieces, as a network may deliver it.
    for byte in request {
        client.write_all(&[*byte]).await.unwrap();
    }
    let mut reply = [0; 10];
    within(client.read_exact(&mut reply)).await.unwrap();
    (client, reply)
}

fn by_name(command: u8, name: &str, port: u16) -> Vec<u8> {
    [&[5, command, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat()
}

#[tokio::test]
async fn a_socks_client_reaches_any_node_by_name_or_address() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let address = mesh.alpha.serve_socks("127.0.0.1:0".parse().unwrap()).unwrap();
    let beta = address_of("beta", &domain()).unwrap();
    let by_address = [&[5, 1, 0, 4][..], &beta.octets(), &80_u16.to_be_bytes()].concat();
    for request in [by_name(1, "beta", 80), by_name(1, "BETA.mesh.test", 80), by_address] {
        let (client, reply) = socks(address, &request).await;
        assert_eq!(reply[..2], [5, 0]);
        echo(client, pattern(300_000)).await;
    }
    let (_, refused) = socks(address, &by_name(1, "beta", 81)).await;
    assert_eq!(refused[1], 5);
    let (_, foreign) =
        socks(address, &[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80]).await;
    assert_eq!(foreign[1], 2);
    let (mut client, ipv4) = socks(address, &[5, 1, 0, 1, 127, 0, 0, 1, 0, 80]).await;
    assert_eq!(ipv4[1], 8);
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0, "and then it is closed");
    let (_, bind) = socks(address, &by_name(2, "beta", 80)).await;
    assert_eq!(bind[1], 7);
}

#[tokio::test]
async fn a_forward_at_a_unix_socket_carries_bytes_and_says_who_failed() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let path = std::env::temp_dir().join(format!("x0t-forward-{}.sock", std::process::id()));
    let at_path = |to: &str| Forward { listen: Listen::Unix(path.clone()), ..forward(to) };
    let lease = mesh.alpha.forward(at_path("beta:80")).unwrap();
    assert_eq!(lease.listen, Listen::Unix(path.clone()));
    let (mut reader, mut writer) = UnixStream::connect(&path).await.unwrap().into_split();
    let (bytes, mut back) = (pattern(1_000_003), Vec::new());
    let send = async {
        writer.write_all(&bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    within(async { tokio::join!(send, reader.read_to_end(&mut back)) }).await.1.unwrap();
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    assert!(mesh.alpha.forward(at_path("beta:80")).unwrap_err().to_string().contains("cannot listen on unix:/"));
    drop(lease);
    within(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut refused = mesh.alpha.forward(at_path("beta:22")).unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    assert!(within(refused.notices.recv()).await.unwrap().from.starts_with("uid="));
    assert!(matches!(within(client.read(&mut [0])).await, Ok(0) | Err(_)));
}

/// A service that sends each datagram back behind "re: ". Returns its port.
async fn udp_echo_service() -> u16 {
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = service.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = service.recv_from(&mut buffer).await {
            service.send_to(&[b"re: ", &buffer[..length]].concat(), from).await.unwrap();
        }
    });
    port
}

/// A client's association: its connection, its own UDP socket, and where it sends to.
async fn associate(address: SocketAddr) -> (TcpStream, UdpSocket, SocketAddr) {
    let (control, reply) = socks(address, &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(reply[..4], [5, 0, 0, 1]);
    let relay = SocketAddr::from(([reply[4], reply[5], reply[6], reply[7]], u16::from_be_bytes([reply[8], reply[9]])));
    (control, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), relay)
}

/// What a SOCKS5 client puts in front of a datagram for a node.
fn wrapped(name: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes(), payload].concat()
}

async fn answer_to(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let length = within(socket.recv(&mut buffer)).await.unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn a_socks_client_sends_datagrams_to_any_node_and_hears_who_answered() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("udp/53:{}", udp_echo_service().await))).unwrap();
    let address = mesh.alpha.serve_socks("127.0.0.1:0".parse().unwrap()).unwrap();
    let (control, client, relay) = associate(address).await;
    let beta = address_of("beta", &domain()).unwrap();
    let header = [&[0, 0, 0, 4][..], &beta.octets(), &53_u16.to_be_bytes()].concat();
    for (payload, by_address) in [(&b"short"[..], true), (&[7; 1_200][..], false), (&[][..], false)] {
        let question = if by_address { [&header, payload].concat() } else { wrapped("beta.mesh.test", 53, payload) };
        client.send_to(&question, relay).await.unwrap();
        assert_eq!(answer_to(&client).await, [&header, &b"re: "[..], payload].concat());
    }
    // What is dropped is counted; the answer after it shows that nothing else came of it.
    let mut fragment = wrapped("beta", 53, b"half");
    fragment[2] = 1;
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stranger.send_to(&wrapped("beta", 53, b"not mine"), relay).await.unwrap();
    for dropped in [&fragment, &b"x"[..], &wrapped("gamma.other.test/", 53, b"away")] {
        client.send_to(dropped, relay).await.unwrap();
    }
    client.send_to(&wrapped("beta", 53, b"last"), relay).await.unwrap();
    assert_eq!(answer_to(&client).await, [&header, &b"re: last"[..]].concat());
    let stats = mesh.alpha.socks_stats();
    assert_eq!((stats.associations, stats.datagrams_sent, stats.datagrams_received), (1, 4, 4));
    let dropped = (stats.fragments_dropped, stats.datagrams_malformed, stats.datagrams_of_strangers);
    assert_eq!((dropped, stats.datagrams_not_of_this_mesh), ((1, 1, 1), 1));
    drop(control);
    within(async {
        while mesh.alpha.socks_stats().associations > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(UdpSocket::bind(relay).await.is_ok(), "its port is free again");
}

#[tokio::test]
async fn associations_are_so_many_and_one_more_is_refused_until_one_ends() {
    let mesh = mesh();
    let address = mesh.alpha.serve_socks("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(associate(address).await);
    }
    let (mut client, reply) = socks(address, &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(reply[1], 1);
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0, "and then it is closed");
    held.pop();
    within(async {
        while mesh.alpha.socks_stats().associations == 64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    associate(address).await;
    let stats = mesh.alpha.socks_stats();
    assert_eq!((stats.associations_made, stats.associations_refused), (65, 1));
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let (client, _) = socks(address, &by_name(1, "beta", 80)).await;
    echo(client, b"connections have room of their own".to_vec()).await;
}

#[tokio::test]
async fn garbage_at_the_socks_listener_ends_its_connection_and_nothing_else() {
    let mesh = mesh();
    mesh.beta.expose(exposure(&format!("80:{}", echo_service().await))).unwrap();
    let address = mesh.alpha.serve_socks("127.0.0.1:0".parse().unwrap()).unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[4, 1, 0, 80, 1, 2, 3, 4, 0], &[5, 0], &[5, 2, 1, 2]] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // Closed; or reset, because there was more to read.
        let _ = within(client.read_to_end(&mut rest)).await;
        assert!(rest.is_empty() || rest == [5, 0xff], "{rest:?}");
    }
    let (client, _) = socks(address, &by_name(1, "beta", 80)).await;
    echo(client, b"hello".to_vec()).await;
}
