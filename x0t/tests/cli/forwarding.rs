//! Two ordinary users reach each other's services: real daemons without a TUN device, real services, not one byte lost.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, ended, eventually};

/// A host with a service that sends back what it gets, one beside it in the same mesh, and a route between them.
fn pair() -> (Host, Host) {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    alpha.up("mesh.test").ok();
    beta.join(&alpha.token(""), "").ok();
    eventually("beta has a route to alpha", || {
        beta.x0t("routes").stdout.lines().any(|l| l.starts_with("alpha  direct"))
    });
    (alpha, beta)
}

/// An echo on loopback. Returns its port.
fn echo_service() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut writer) = client.map(|client| (client.try_clone().unwrap(), client)).unwrap();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut writer);
                let _ = writer.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

/// The same for datagrams.
fn udp_echo_service() -> u16 {
    let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = service.recv_from(&mut buffer) {
            service.send_to(&buffer[..length], from).unwrap();
        }
    });
    port
}

/// Bytes in which a lost, doubled or misplaced piece shows.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Sends `len` bytes and reads them back, both at once, each to its end.
fn echo(mut stream: TcpStream, len: usize) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let bytes = pattern(len);
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == bytes, "{} of {len} bytes came back", back.len());
}

/// `x0t forward` in the foreground, and where it is reached.
struct Forward {
    child: Child,
    listen: SocketAddr,
}

fn forward(host: &Host, line: &str) -> Forward {
    let mut command = host.command(&format!("forward --json {line}"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["type"], "listening");
    Forward { child, listen: first["listen"].as_str().unwrap().parse().unwrap() }
}

impl Forward {
    fn interrupt(self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        assert_eq!(ended(self.child), 0);
    }
}

#[test]
fn twenty_megabytes_go_through_a_forward_to_an_exposed_port_and_back() {
    let (alpha, beta) = pair();
    let service = echo_service();
    assert!(alpha.x0t(&format!("expose 80:{service}")).ok().stdout.starts_with("exposed 80 -> 127.0.0.1:"));
    let held = forward(&beta, "0 alpha:80");
    echo(TcpStream::connect(held.listen).unwrap(), 20_000_000);
    let list = beta.x0t("forward list --json").ok().json();
    assert_eq!(
        (&list[0]["to"], &list[0]["opened"], &list[0]["is_kept"]),
        (&"alpha:80".into(), &1.into(), &false.into())
    );
    let list = alpha.x0t("expose list --json").ok().json();
    assert_eq!((&list[0]["port"], &list[0]["to"], &list[0]["opened"]), (&80.into(), &service.into(), &1.into()));
    let listen = held.listen;
    held.interrupt();
    eventually("nobody listens there any more", || TcpStream::connect(listen).is_err());
    assert!(beta.x0t("forward list").ok().stderr.contains("nothing is forwarded"));
}

#[test]
fn what_is_not_exposed_is_refused_and_a_node_that_is_not_named_is_too() {
    let (alpha, beta) = pair();
    let service = echo_service();
    let mut held = forward(&beta, &format!("0 alpha:{service}"));
    let refused = |held: &Forward| {
        let mut client = TcpStream::connect(held.listen).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        !matches!(client.read(&mut [0]), Ok(1..))
    };
    assert!(refused(&held), "the service listens on loopback, and was not exposed");
    let mut line = String::new();
    BufReader::new(held.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let failed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&failed["type"], &failed["reason"]),
        (&"failed".into(), &"the other node refused the connection".into())
    );
    alpha.x0t(&format!("expose {service} --from gamma")).ok();
    assert!(refused(&held), "it is exposed to gamma only");
    alpha.x0t(&format!("expose {service} --from beta")).code(1).says(&["exposed already", "x0t expose remove"]);
    alpha.x0t(&format!("expose remove {service}")).ok();
    alpha.x0t(&format!("expose {service} --from gamma,beta")).ok();
    echo(TcpStream::connect(held.listen).unwrap(), 1_000);
    held.interrupt();
}

#[test]
fn a_program_that_speaks_socks_reaches_a_node_by_its_name() {
    let (alpha, beta) = pair();
    alpha.x0t(&format!("expose 80:{}", echo_service())).ok();
    beta.x0t("down").ok();
    let socks = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    beta.x0t(&format!("up --socks {}", socks.port())).ok();
    eventually("beta has a route to alpha", || {
        beta.x0t("routes").stdout.lines().any(|l| l.starts_with("alpha  direct"))
    });
    let connect = |name: &str, port: u16| {
        let mut client = TcpStream::connect(socks).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(&[5, 1, 0]).unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        let request = [&[5, 1, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat();
        client.write_all(&request).unwrap();
        let mut reply = [0; 10];
        client.read_exact(&mut reply).unwrap();
        (client, reply[1])
    };
    for name in ["alpha", "alpha.mesh.test"] {
        let (client, reply) = connect(name, 80);
        assert_eq!(reply, 0);
        echo(client, 5_000_000);
    }
    assert_eq!(connect("alpha", 81).1, 5);
    assert_eq!(connect("nobody", 80).1, 4, "the mesh knows no way there");
    // It is a setting, and settings are kept.
    beta.x0t("down").ok();
    beta.x0t("up").ok();
    eventually("it listens again", || TcpStream::connect(socks).is_ok());
}

#[test]
fn a_program_that_speaks_socks_exchanges_datagrams_with_a_node() {
    let (alpha, beta) = pair();
    alpha.x0t(&format!("expose udp/53:{}", udp_echo_service())).ok();
    beta.x0t("down").ok();
    let socks = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    beta.x0t(&format!("up --socks {} --http 127.0.0.1:0", socks.port())).ok();
    eventually("beta has a route to alpha", || {
        beta.x0t("routes").stdout.lines().any(|l| l.starts_with("alpha  direct"))
    });
    let mut control = TcpStream::connect(socks).unwrap();
    control.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    control.write_all(&[5, 1, 0]).unwrap();
    control.read_exact(&mut [0; 2]).unwrap();
    control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut reply = [0; 10];
    control.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], [5, 0, 0, 1, 127, 0, 0, 1]);
    let relay = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from_be_bytes([reply[8], reply[9]])));
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 2_048];
    for payload in [[7; 4].to_vec(), pattern(1_200)] {
        let question = [&[0, 0, 0, 3, 5][..], b"alpha", &[0, 53], &payload].concat();
        // A datagram may be lost.
        eventually("an answer came with its sender's address", || {
            client.send_to(&question, relay).unwrap();
            let Ok(length) = client.recv(&mut buffer) else { return false };
            let (header, answer) = buffer[..length].split_at(22);
            header[..4] == [0, 0, 0, 4] && header[4] == 0xfd && header[20..] == [0, 53] && answer == payload
        });
    }
    drop(control);
    eventually("the association has ended with its connection", || UdpSocket::bind(relay).is_ok());
}

#[test]
fn what_is_saved_and_exposed_is_there_again_after_a_restart() {
    let (alpha, beta) = pair();
    alpha.x0t(&format!("expose 80:{}", echo_service())).ok();
    let local = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let saved = beta.x0t(&format!("forward --save {local} alpha:80"));
    assert_eq!(saved.ok().stdout, format!("saved {local} -> alpha:80\n"));
    beta.x0t(&format!("forward --save {local} alpha:81")).code(1).says(&["is forwarded already", "forward remove"]);
    for host in [&alpha, &beta] {
        host.x0t("down").ok();
        host.x0t("up").ok();
    }
    eventually("beta has a route to alpha", || {
        beta.x0t("routes").stdout.lines().any(|l| l.starts_with("alpha  direct"))
    });
    echo(TcpStream::connect(local).unwrap(), 100_000);
    assert!(beta.x0t("forward list").ok().stdout.contains("saved"));
    beta.x0t(&format!("forward remove {local}")).ok();
    beta.x0t(&format!("forward remove {local}")).code(2).says(&["is not a forward that was saved", "x0t forward list"]);
    alpha.x0t("expose rm 80").ok();
    alpha.x0t("expose rm 80").code(2).says(&["is not exposed", "x0t expose list"]);
    assert!(!std::fs::read_to_string(beta.state_dir().join("mesh.json")).unwrap().contains("forwards"));
}

#[test]
fn a_forward_at_a_unix_socket_is_for_one_user_and_is_there_again_after_a_kill() {
    let (alpha, beta) = pair();
    alpha.x0t(&format!("expose 80:{}", echo_service())).ok();
    let path = beta.state_dir().join("web.sock");
    let local = format!("unix:{}", path.display());
    beta.x0t(&format!("forward --save {local} alpha:80")).ok();
    let echoes = || {
        let Ok(mut client) = UnixStream::connect(&path) else { return false };
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(b"hello").is_ok() && client.read_exact(&mut [0; 5]).is_ok()
    };
    eventually("it listens", || path.exists());
    assert!(echoes());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    beta.kill();
    assert!(path.exists() && !echoes());
    beta.x0t("up").ok();
    eventually("it carries again", echoes);
    let list = beta.x0t("forward list --json").ok().json();
    assert_eq!(list[0]["listen"], local.as_str());
    beta.x0t(&format!("forward remove {local}")).ok();
    eventually("the socket is gone", || !path.exists());
    beta.x0t("forward unix:web.sock alpha:80").code(2).says(&["absolute path"]);
    let taken = beta.state_dir().join("mesh.json");
    beta.x0t(&format!("forward unix:{} alpha:80", taken.display())).code(1).says(&["cannot listen on unix:/"]);
    assert!(taken.exists());
}

#[test]
fn datagrams_are_forwarded_too() {
    let (alpha, beta) = pair();
    alpha.x0t(&format!("expose udp/53:{}", udp_echo_service())).ok();
    let held = forward(&beta, "udp/0 alpha:53");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    client.connect(held.listen).unwrap();
    let mut answer = [0; 2_048];
    // A datagram may be lost.
    eventually("an answer came", || {
        client.send(&[7; 1_200]).unwrap();
        client.recv(&mut answer).is_ok_and(|length| answer[..length] == [7; 1_200])
    });
    held.interrupt();
}

#[test]
fn a_forward_that_cannot_be_says_why() {
    let alpha = Host::new("alpha");
    alpha.x0t("forward 8022 beta:22").code(4);
    alpha.up("mesh.test").ok();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    alpha.x0t(&format!("forward {port} beta:22")).code(1).says(&["cannot listen on 127.0.0.1"]);
    alpha.x0t("forward 0 alpha:22").code(2).says(&["this node itself"]);
    alpha.x0t("forward 0 [2001:db8::1]:22").code(2).says(&["no address of this mesh"]);
    alpha.x0t("forward 8022").code(2);
    alpha.x0t("forward 8022 beta").code(2);
    alpha.x0t("expose 0").code(2);
    alpha.x0t("forward --save 0 beta:22").code(2).says(&["port of its own"]);
    alpha.x0t("down").ok();
    // A SOCKS5 listener that was asked for and cannot be is a node that does not start.
    alpha.x0t(&format!("up --socks {port}")).code(1).says(&["SOCKS5"]);
}

#[test]
fn a_forward_ends_when_its_node_does() {
    let (_alpha, beta) = pair();
    let held = forward(&beta, "0 alpha:80");
    beta.x0t("down").ok();
    assert_eq!(ended(held.child), 4);
}
