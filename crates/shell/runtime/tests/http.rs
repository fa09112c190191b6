//! What a node shows and who may command it, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use support::{Disk, Running, event, node_id, sample_view, scripted, spiffe_id, start, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use x0t_node::{Command, Output, Reply, Target};
use x0t_runtime::admin_client::{AdminClient, AdminError, EventItem};
use x0t_runtime::http::{self, Asset, HttpError, Listeners, Site};

const PAGE: &[Asset] = &[
    Asset { path: "/", content_type: "text/html; charset=utf-8", bytes: b"<!doctype html><title>x0t</title>" },
    Asset { path: "/app.js", content_type: "text/javascript", bytes: b"export {};" },
];

struct Served {
    running: Running,
    tcp: SocketAddr,
    admin: PathBuf,
    _stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

/// A scripted node that emits an event for AddPeer, refuses everything else, and is served on both sockets.
fn serve() -> Served {
    let (node, _) = scripted(|told| {
        let support::Told::Command { id, command } = told else { return Vec::new() };
        match command {
            Command::AddPeer { address } => {
                vec![
                    Output::Event(event(address.address().port().into())),
                    Output::Reply { id: *id, reply: Reply::Done },
                ]
            }
            _ => vec![Output::Reply { id: *id, reply: Reply::Refused { reason: "not in this test".to_owned() } }],
        }
    });
    let running = start(node, Disk::default());
    let directory = tempfile::tempdir().unwrap();
    let admin = directory.path().join("admin.sock");
    let tcp = http::bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let listeners = Listeners { tcp: Some(tcp), admin: http::bind_admin(&admin).unwrap() };
    let site = Site::new(running.handle.clone(), PAGE, "1.2.3");
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listeners, http::reading_routes(site.clone()), http::admin_routes(site), stopped));
    Served { running, tcp: address, admin, _stop: stop, _directory: directory }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    let work = async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = within(work).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn request(method: &str, path: &str, host: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

impl Served {
    async fn get(&self, path: &str) -> Answer {
        self.tcp(&request("GET", path, "localhost", "")).await
    }

    async fn tcp(&self, request: &str) -> Answer {
        exchange(TcpStream::connect(self.tcp).await.unwrap(), request).await
    }

    async fn unix(&self, request: &str) -> Answer {
        exchange(UnixStream::connect(&self.admin).await.unwrap(), request).await
    }

    fn client(&self) -> AdminClient {
        AdminClient::at_socket(&self.admin)
    }
}

#[tokio::test]
async fn the_page_and_its_parts_are_served_with_a_strict_policy() {
    let served = serve();
    let page = served.get("/").await;
    assert_eq!((page.status, page.body.as_bytes()), (200, PAGE[0].bytes));
    assert!(page.head.contains("content-type: text/html; charset=utf-8"));
    assert!(page.head.contains("content-security-policy: default-src 'none'; script-src 'self'"));
    assert!(page.head.contains("x-content-type-options: nosniff"));
    assert!(!page.head.contains("access-control"));
    assert_eq!(served.get("/app.js").await.body.as_bytes(), PAGE[1].bytes);
    assert_eq!(served.get("/../etc/passwd").await.status, 404);
}

#[tokio::test]
async fn the_state_is_read_in_parts() {
    let served = serve();
    let view = serde_json::to_value(sample_view()).unwrap();
    for part in ["status", "peers", "routes", "sessions"] {
        let answer = served.get(&format!("/api/v1/{part}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&answer.body).unwrap(), view[part], "{part}");
    }
    assert_eq!(served.get("/health").await.body, r#"{"status":"ok"}"#);
    let ready = served.get("/ready").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, r#"{"ready":true,"reason":null}"#));
}

#[tokio::test]
async fn the_topology_names_nodes_links_and_the_known_part_of_each_way() {
    let served = serve();
    let answer: serde_json::Value = serde_json::from_str(&served.get("/api/v1/topology").await.body).unwrap();
    let id = |name| serde_json::to_value(node_id(name)).unwrap();
    assert_eq!(answer["self"], id("alpha"));
    let nodes = answer["nodes"].as_array().unwrap();
    let state = |name| nodes.iter().find(|node| node["id"] == id(name)).unwrap()["state"].clone();
    assert_eq!(nodes[0]["name"], "alpha");
    assert_eq!(["alpha", "bravo", "charlie", "delta"].map(state), ["self", "up", "down", "up"]);
    assert_eq!(answer["links"][0]["a"], id("alpha"));
    assert_eq!(answer["links"][0]["rtt_us"], 1500);
    let routes = answer["routes"].as_array().unwrap();
    let paths: Vec<_> = routes.iter().map(|route| route["path"].clone()).collect();
    let expected = [vec![id("alpha"), id("bravo")], vec![id("alpha"), id("bravo"), id("delta")]];
    assert_eq!(paths, expected.map(serde_json::Value::from));
    assert_eq!(answer["flows"], serde_json::json!([]));
}

#[tokio::test]
async fn a_name_that_is_not_this_host_is_refused() {
    let served = serve();
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""] {
        for path in ["/", "/api/v1/status", "/api/v1/events", "/nothing"] {
            let answer = served.tcp(&request("GET", path, host, "")).await;
            assert_eq!(answer.status, 403, "{host} {path}");
            assert!(!answer.body.contains("alpha"));
        }
    }
    assert_eq!(served.tcp("GET /health HTTP/1.0\r\n\r\n").await.status, 403);
    for host in ["localhost", "127.0.0.1", "[::1]:8080"] {
        assert_eq!(served.tcp(&request("GET", "/health", host, "")).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_over_tcp() {
    let served = serve();
    let paths = [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/api/v1/status",
        "/api/v1/peers",
        "/api/v1/routes",
        "/api/v1/sessions",
        "/api/v1/view",
        "/api/v1/topology",
        "/api/v1/events",
        "/api/v1/command",
        "/api/v1/shutdown",
    ];
    for path in paths {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = served.tcp(&request(method, path, "localhost", r#"{"command":"shutdown"}"#)).await;
            assert!([404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
            assert!(!answer.head.contains("access-control"));
        }
    }
    assert_eq!(served.get("/api/v1/command").await.status, 404);
    assert!(!served.running.ending.is_finished());
}

#[tokio::test]
async fn a_command_over_the_admin_socket_is_answered() {
    let served = serve();
    let client = served.client();
    assert_eq!(
        client.command(Command::AddPeer { address: "192.0.2.9:4600".parse().unwrap() }).await.unwrap(),
        Reply::Done
    );
    let target = Target("bravo".to_owned());
    let reply = client.command(Command::Trace { target, timeout: std::time::Duration::from_secs(1) }).await.unwrap();
    assert!(matches!(reply, Reply::Refused { .. }));
    let nonsense = served.unix(&request("POST", "/api/v1/command", "localhost", r#"{"command":"explode"}"#)).await;
    assert_eq!(nonsense.status, 422);
}

#[tokio::test]
async fn the_client_reads_what_the_node_shows() {
    let served = serve();
    let client = served.client();
    assert_eq!(client.status().await.unwrap().name, "alpha");
    assert_eq!(client.peers().await.unwrap().len(), 2);
    assert_eq!(client.routes().await.unwrap().len(), 3);
    assert_eq!(client.sessions().await.unwrap()[0].peer, Some(spiffe_id("bravo")));
    assert_eq!(client.view().await.unwrap().counters["forwarded_packets"], 5);
    assert_eq!(client.topology().await.unwrap().me, node_id("alpha"));
    assert!(client.metrics().await.unwrap().ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_admin_socket_is_private_and_a_left_over_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    for _ in 0..2 {
        let _listener = http::bind_admin(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn another_user_is_denied_whatever_the_mode_of_the_socket() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let served = serve();
    // Open the doors that the file system would keep shut: the credentials alone must hold.
    std::fs::set_permissions(served.admin.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&served.admin, std::fs::Permissions::from_mode(0o666)).unwrap();
    let asked = tokio::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["curl", "--silent", "--include", "--unix-socket"])
        .arg(&served.admin)
        .arg("http://localhost/api/v1/status")
        .output();
    let Ok(answer) = within(asked).await else {
        return eprintln!("skipped: needs setpriv(1) and curl(1)");
    };
    let text = String::from_utf8_lossy(&answer.stdout);
    assert!(text.starts_with("HTTP/1.1 403"), "{answer:?}");
    assert!(!text.contains("alpha"));
}

#[tokio::test]
async fn without_a_node_the_client_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = AdminClient::new(directory.path()).status().await.unwrap_err();
    assert!(matches!(error, AdminError::DaemonUnreachable { .. }));
    assert!(error.to_string().contains("x0t run"), "{error}");
    // A socket that nobody listens on any more is no different.
    drop(http::bind_admin(&directory.path().join("admin.sock")).unwrap());
    let error = AdminClient::new(directory.path()).status().await.unwrap_err();
    assert!(matches!(error, AdminError::DaemonUnreachable { .. }));
}

#[tokio::test]
async fn events_are_streamed_with_their_numbers_over_both_sockets() {
    let served = serve();
    let mut events = served.client().events().await.unwrap();
    let mut page = TcpStream::connect(served.tcp).await.unwrap();
    page.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    read_until(&mut page, &mut text, "\r\n\r\n").await;
    assert!(text.contains("content-type: text/event-stream"));

    for port in [7, 8] {
        let address = SocketAddr::from(([192, 0, 2, 9], port)).into();
        served.client().command(Command::AddPeer { address }).await.unwrap();
        let item = within(events.next()).await.unwrap().unwrap();
        assert_eq!(item, EventItem::Event { id: u64::from(port) - 6, event: event(port.into()) });
    }
    read_until(&mut page, &mut text, "id: 2").await;
    assert!(text.contains(r#"data: {"at":7000000,"event":"svid_rotated","not_after":7}"#), "{text}");
}

#[tokio::test]
async fn a_reader_that_reconnects_is_told_what_it_missed() {
    let served = serve();
    let add = |port| {
        served.running.handle.command(Command::AddPeer { address: SocketAddr::from(([192, 0, 2, 9], port)).into() })
    };
    for port in [1, 2, 3] {
        add(port).await.unwrap();
    }
    let mut page = TcpStream::connect(served.tcp).await.unwrap();
    page.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1\r\n\r\n").await.unwrap();
    let mut text = String::new();
    read_until(&mut page, &mut text, "\r\n\r\n").await;
    add(4).await.unwrap();
    read_until(&mut page, &mut text, "id: 4").await;
    let missed = text.find(r#"data: {"count":2,"event":"missed"}"#).expect(&text);
    assert!(missed < text.find("id: 4").unwrap());
}

async fn read_until(stream: &mut TcpStream, text: &mut String, end: &str) {
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let length = within(stream.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
}

#[tokio::test]
async fn a_node_that_has_stopped_is_unhealthy_and_says_so() {
    let served = serve();
    served.running.ending.abort();
    let _ = served.running.ending.await;
    let tcp = served.tcp;
    let answer = exchange(TcpStream::connect(tcp).await.unwrap(), &request("GET", "/health", "localhost", "")).await;
    assert_eq!((answer.status, answer.body.as_str()), (503, r#"{"error":"the node has stopped"}"#));
}

#[test]
fn a_port_in_use_is_named_with_the_flags_that_help() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = http::bind_tcp(address).unwrap_err();
    assert!(matches!(error, HttpError::PortInUse(named) if named == address));
    let text = error.to_string();
    assert!(text.contains(&address.port().to_string()) && text.contains("--http off"), "{text}");
}
