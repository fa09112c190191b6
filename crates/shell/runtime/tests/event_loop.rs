//! The event loop around a scripted node, with real sockets on loopback.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use support::{Disk, Told, datagram, event, next, scripted, start, within};
use x0t_model::Instant;
use x0t_node::{Command, Output, Record, RecordKind, Reply};
use x0t_runtime::clock::Clock;
use x0t_runtime::event_loop::Ending;
use x0t_runtime::handle::NoAnswer;
use x0t_runtime::news::Item;

fn record(bytes: &[u8]) -> Record {
    Record { kind: RecordKind::Authority, bytes: bytes.to_vec() }
}

fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn stop_on_shutdown(told: &Told) -> Vec<Output> {
    match told {
        Told::Command { id, command: Command::Shutdown } => {
            vec![Output::Reply { id: *id, reply: Reply::Done }, Output::Stopped]
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn a_datagram_reaches_the_node_and_its_answer_the_sender() {
    let (node, mut told) = scripted(|told| match told {
        Told::Datagram { from, bytes, .. } => {
            vec![datagram(*from, bytes.iter().rev().copied().collect())]
        }
        _ => Vec::new(),
    });
    let running = start(node, Disk::default());
    let peer = peer();
    peer.send_to(b"abc", running.address).unwrap();
    let Told::Datagram { from, interface, bytes } = next(&mut told).await else { panic!("a datagram first") };
    assert_eq!((from, bytes), (peer.local_addr().unwrap(), b"abc".to_vec()));
    // The loopback interface is always the first of its namespace.
    assert_eq!(interface, 1);
    let mut buffer = [0; 16];
    let (length, _) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"cba");
}

#[tokio::test]
async fn what_comes_after_a_record_happens_only_once_the_record_is_durable() {
    let disk = Disk::default();
    *disk.broken.lock().unwrap() = true;
    let (node, mut told) = scripted(|told| match told {
        Told::Command { id, command: Command::CreateToken { .. } } => vec![
            Output::Event(event(1)),
            Output::Persist(record(b"token issued")),
            Output::Reply { id: *id, reply: Reply::Done },
            Output::Event(event(2)),
        ],
        _ => Vec::new(),
    });
    let running = start(node, disk.clone());
    let mut news = running.handle.subscribe();
    let command = Command::CreateToken { name: None, ttl: Duration::from_secs(60), addresses: Vec::new() };
    let asked = tokio::spawn({
        let (handle, command) = (running.handle.clone(), command.clone());
        async move { handle.command(command).await }
    });
    next(&mut told).await;

    // What was said before the record has happened; what was said after it has not, and the reason is shown.
    let Some(Item::Event(first)) = within(news.next()).await else { panic!("an event") };
    assert_eq!(first.event, event(1));
    let snapshot = running.handle.snapshot().await.unwrap();
    assert!(snapshot.runtime.stalled && snapshot.runtime.record_failures >= 1);
    assert!(!snapshot.view.status.ready);
    let reason = snapshot.view.status.not_ready_because.unwrap();
    assert!(reason.contains("authority.json"), "{reason}");
    assert!(!asked.is_finished());
    // A further command is refused at once, with the reason.
    let refused = running.handle.command(command).await.unwrap();
    assert!(matches!(&refused, Reply::Refused { reason } if reason.contains("authority.json")), "{refused:?}");
    assert!(disk.written.lock().unwrap().is_empty());

    *disk.broken.lock().unwrap() = false;
    assert_eq!(within(asked).await.unwrap(), Ok(Reply::Done));
    assert_eq!(*disk.written.lock().unwrap(), [record(b"token issued")]);
    let Some(Item::Event(second)) = within(news.next()).await else { panic!("an event") };
    assert_eq!(second.event, event(2));
    assert!(!running.handle.snapshot().await.unwrap().runtime.stalled);
}

#[tokio::test]
async fn a_node_that_is_held_takes_in_nothing_and_can_still_be_stopped() {
    let disk = Disk::default();
    *disk.broken.lock().unwrap() = true;
    let (node, mut told) = scripted(|told| match told {
        Told::Datagram { .. } => vec![Output::Persist(record(b"state"))],
        other => stop_on_shutdown(other),
    });
    let running = start(node, disk.clone());
    let peer = peer();
    peer.send_to(b"first", running.address).unwrap();
    assert!(matches!(next(&mut told).await, Told::Datagram { .. }));
    assert!(running.handle.snapshot().await.unwrap().runtime.stalled);
    peer.send_to(b"second", running.address).unwrap();

    running.stop.send(()).await.unwrap();
    // The node is told to stop before it is told of the second datagram, which waits in the kernel.
    assert!(matches!(next(&mut told).await, Told::Command { command: Command::Shutdown, .. }));
    *disk.broken.lock().unwrap() = false;
    assert_eq!(within(running.ending).await.unwrap(), Ending::Stopped);
    assert_eq!(*disk.written.lock().unwrap(), [record(b"state")]);
}

#[tokio::test]
async fn answers_go_to_those_who_asked_in_whatever_order_they_come() {
    let mut asked = Vec::new();
    let (node, _told) = scripted(move |told| {
        let Told::Command { id, command: Command::Ping { payload, .. } } = told else { return Vec::new() };
        asked.push((*id, *payload));
        if asked.len() < 3 {
            return Vec::new();
        }
        let answers = asked
            .iter()
            .rev()
            .map(|(id, payload)| Output::Reply { id: *id, reply: Reply::TimedOut { reason: payload.to_string() } });
        answers.chain([Output::Reply { id: 999, reply: Reply::Done }]).collect()
    });
    let running = start(node, Disk::default());
    let ask = |payload| {
        let target = x0t_node::Target("bravo".to_owned());
        running.handle.command(Command::Ping { target, payload, timeout: Duration::from_secs(1) })
    };
    let (one, two, three) = within(async { tokio::join!(ask(1), ask(2), ask(3)) }).await;
    for (payload, reply) in [(1, one), (2, two), (3, three)] {
        assert_eq!(reply, Ok(Reply::TimedOut { reason: payload.to_string() }));
    }
}

#[tokio::test]
async fn the_node_is_woken_at_its_deadline() {
    let (node, mut told) = scripted(|_| Vec::new());
    let deadline = Clock.now() + Duration::from_millis(30);
    *node.timeout.lock().unwrap() = Some(deadline);
    let _running = start(node, Disk::default());
    assert_eq!(next(&mut told).await, Told::Timeout);
    assert!(Clock.now() >= deadline);
}

#[tokio::test]
async fn a_node_with_nothing_to_do_does_not_wake_up() {
    let (node, mut told) = scripted(|told| match told {
        Told::Timeout => vec![Output::Event(event(1))],
        _ => Vec::new(),
    });
    let timeout = node.timeout.clone();
    *timeout.lock().unwrap() = Some(Clock.now() + Duration::from_millis(200));
    let running = start(node, Disk::default());
    assert_eq!(next(&mut told).await, Told::Timeout);
    // One wake for the deadline and one for this question.
    assert!(running.handle.snapshot().await.unwrap().runtime.wakeups <= 3);
}

#[tokio::test]
async fn a_shutdown_command_is_answered_before_the_loop_ends() {
    let (node, _told) = scripted(stop_on_shutdown);
    let running = start(node, Disk::default());
    assert_eq!(within(running.handle.command(Command::Shutdown)).await, Ok(Reply::Done));
    assert_eq!(within(running.ending).await.unwrap(), Ending::Stopped);
    assert_eq!(running.handle.snapshot().await.unwrap_err(), NoAnswer::Stopped);
}

#[tokio::test]
async fn a_node_that_does_not_say_goodbye_is_abandoned() {
    let (node, mut told) = scripted(|_| Vec::new());
    let running = start(node, Disk::default());
    let asked = Clock.now();
    running.stop.send(()).await.unwrap();
    assert!(matches!(next(&mut told).await, Told::Command { command: Command::Shutdown, .. }));
    assert_eq!(within(running.ending).await.unwrap(), Ending::Abandoned);
    let took = Clock.now().since(asked);
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_node() {
    let (node, mut told) = scripted(|_| Vec::new());
    let running = start(node, Disk::default());
    running.stop.send(()).await.unwrap();
    next(&mut told).await;
    let asked = Clock.now();
    running.stop.send(()).await.unwrap();
    assert_eq!(within(running.ending).await.unwrap(), Ending::Abandoned);
    assert!(Clock.now().since(asked) < Duration::from_secs(1));
}

#[tokio::test]
async fn a_closed_port_is_reported_to_the_node_once_in_a_while() {
    let closed = peer().local_addr().unwrap();
    let (node, mut told) = scripted(move |told| match told {
        // A node that sends again at once must not keep the loop busy.
        Told::SendFailed { .. } | Told::Datagram { .. } => {
            vec![datagram(closed, vec![1]), datagram(closed, vec![2])]
        }
        _ => Vec::new(),
    });
    let running = start(node, Disk::default());
    let peer = peer();
    peer.send_to(b"go", running.address).unwrap();
    assert!(matches!(next(&mut told).await, Told::Datagram { .. }));
    assert_eq!(next(&mut told).await, Told::SendFailed { to: closed });
    let stats = running.handle.snapshot().await.unwrap().runtime;
    assert!(stats.udp.icmp_errors >= 1);
    assert!(stats.unreachable_hints <= 2, "{stats:?}");
}

#[tokio::test]
async fn an_address_of_a_family_without_a_socket_is_reported_and_counted() {
    let to = "[::1]:9".parse().unwrap();
    let (node, mut told) = scripted(move |told| match told {
        Told::Datagram { .. } => vec![datagram(to, vec![0])],
        _ => Vec::new(),
    });
    let running = start(node, Disk::default());
    peer().send_to(b"go", running.address).unwrap();
    next(&mut told).await;
    assert_eq!(next(&mut told).await, Told::SendFailed { to });
    assert_eq!(running.handle.snapshot().await.unwrap().runtime.udp.datagrams_dropped_no_socket, 1);
}

#[test]
fn instants_of_two_processes_can_be_compared() {
    // /proc/uptime counts from the same origin, give or take time spent suspended.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!(Clock.now() > Instant::ZERO && Clock.now() <= Instant::from_millis(((seconds + 1.0) * 1e3) as u64));
}
