//! Interfaces in network namespaces of their own. Needs root; says so and passes otherwise.
//!
//! A test re-runs its own binary inside the namespace (`ip netns exec`), so the code under test opens its sockets there and no thread
//! has to change its namespace.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Disk, Told, datagram, scripted, start_at, within};
use x0t_model::{NodeId, OverlayPrefix, SpiffeId, TrustDomain};
use x0t_node::{Command as Ask, Delivery, Offload, Output, Reply};
use x0t_runtime::clock::Clock;
use x0t_runtime::link_events::{LinkChange, LinkEvents};
use x0t_runtime::poller::Poller;
use x0t_runtime::tun::{Tun, TunConfig, TunMode};

/// Set in the run inside the namespace; its value is the namespace's name.
const INSIDE: &str = "X0T_TEST_NETNS";

/// Removes the namespace, and with it everything inside, also when a test fails.
struct Namespace(String);

impl Namespace {
    fn new(purpose: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let name = format!("xrt-{purpose}-{}", std::process::id());
        if !run("ip", &["netns", "add", &name]) {
            eprintln!("skipped: needs network namespaces");
            return None;
        }
        Some(Self(name))
    }

    /// Runs the test called `name` of this binary inside, where it finds [`INSIDE`] set.
    fn rerun(&self, name: &str) {
        let binary = std::env::current_exe().unwrap();
        let status = Command::new("ip")
            .args(["netns", "exec", &self.0])
            .arg(binary)
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(INSIDE, &self.0)
            .stdout(Stdio::inherit())
            .status()
            .unwrap();
        assert!(status.success(), "{name} failed inside {}", self.0);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.0]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

fn ip(arguments: &str) {
    assert!(run("ip", &arguments.split(' ').collect::<Vec<_>>()), "ip {arguments}");
}

fn is_inside() -> bool {
    std::env::vars_os().any(|(name, _)| name == INSIDE)
}

fn index_of(interface: &str) -> u32 {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).map_or_else(
        // /sys shows the namespace it was mounted in; `ip netns exec` mounts it anew where it may.
        |_| {
            let output = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).split(':').next().unwrap().parse().unwrap()
        },
        |text| text.trim().parse().unwrap(),
    )
}

#[tokio::test]
async fn interfaces_that_lose_their_carrier_or_vanish_are_reported() {
    if !is_inside() {
        let Some(namespace) = Namespace::new("link") else { return };
        return namespace.rerun("interfaces_that_lose_their_carrier_or_vanish_are_reported");
    }
    ip("link add xrt0 type veth peer name xrt1");
    ip("addr add 192.0.2.1/24 dev xrt0");
    ip("link set xrt0 up");
    ip("link set xrt1 up");
    let index = index_of("xrt0");
    let mut events = LinkEvents::open().await.unwrap();
    wait_for(&mut events, index, true).await;

    // Set down by hand: reported by the kernel itself, at once.
    let took = timed(&mut events, index, false, "link set xrt0 down").await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    timed(&mut events, index, true, "link set xrt0 up").await;
    // The other end goes down: the carrier is lost.
    timed(&mut events, index, false, "link set xrt1 down").await;
    timed(&mut events, index, true, "link set xrt1 up").await;
    // The last address goes, and comes back.
    timed(&mut events, index, false, "addr del 192.0.2.1/24 dev xrt0").await;
    timed(&mut events, index, true, "addr add 192.0.2.1/24 dev xrt0").await;
    // The interface is deleted.
    timed(&mut events, index, false, "link del xrt0").await;
}

async fn wait_for(events: &mut LinkEvents, index: u32, up: bool) {
    within(async {
        loop {
            let change = events.next().await.unwrap();
            if change == (LinkChange { index, up }) {
                return;
            }
            // Nothing else may be said about this interface except its way to the state that is waited for.
            assert!(change.index != index || change.up != up);
        }
    })
    .await;
}

/// How long after the command was begun the change was reported.
async fn timed(events: &mut LinkEvents, index: u32, up: bool, command: &str) -> Duration {
    let began = Clock.now();
    ip(command);
    let ended = Clock.now();
    wait_for(events, index, up).await;
    let took = Clock.now().since(began);
    eprintln!("{command}: reported {:?} after it was begun, {:?} after it was done", took, Clock.now().since(ended));
    took
}

#[tokio::test]
async fn events_that_the_kernel_had_to_drop_are_made_up_for() {
    if !is_inside() {
        let Some(namespace) = Namespace::new("drop") else { return };
        return namespace.rerun("events_that_the_kernel_had_to_drop_are_made_up_for");
    }
    ip("link add xrt0 type veth peer name xrt1");
    ip("link set xrt0 up");
    ip("link set xrt1 up");
    let index = index_of("xrt0");
    let mut events = LinkEvents::open().await.unwrap();
    wait_for(&mut events, index, true).await;
    // Far more than the socket's buffer holds while nobody reads, and at its end the interface is gone.
    let flood = "for n in $(seq 300); do echo link set xrt0 mtu $((1400 + n % 90)); echo link set xrt1 mtu $((1400 + n % 90)); done";
    assert!(run("sh", &["-c", &format!("{{ {flood}; echo link del xrt0; }} | ip -batch -")]));
    within(async { while events.next().await.unwrap() != (LinkChange { index, up: false }) {} }).await;
}

#[tokio::test]
async fn while_the_kernel_takes_nothing_outputs_wait_in_the_node_and_questions_are_answered() {
    if !is_inside() {
        let Some(namespace) = Namespace::new("slow") else { return };
        return namespace.rerun("while_the_kernel_takes_nothing_outputs_wait_in_the_node_and_questions_are_answered");
    }
    ip("link set lo up");
    ip("link add xrt0 type veth peer name xrt1");
    ip("addr add 192.0.2.1/24 dev xrt0");
    ip("link set xrt0 up");
    ip("link set xrt1 up");
    ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev xrt0");
    // A queue that is slower than anything and longer than the socket's buffer: the socket fills up.
    if !run("tc", &["qdisc", "add", "dev", "xrt0", "root", "tbf", "rate", "100kbit", "burst", "4kb", "limit", "64mb"]) {
        return eprintln!("skipped: needs the tbf queueing discipline");
    }
    const DATAGRAMS: u64 = 12_000;
    let to = "192.0.2.2:4600".parse().unwrap();
    let (node, _told) = scripted(move |told| match told {
        Told::Command { id, .. } => {
            let datagrams = (0..DATAGRAMS).map(|_| datagram(to, vec![0; 1400]));
            datagrams.chain([Output::Reply { id: *id, reply: Reply::Done }]).collect()
        }
        _ => Vec::new(),
    });
    let running = start_at(node, Disk::default(), "0.0.0.0:0");
    let asked = tokio::spawn({
        let handle = running.handle.clone();
        async move { handle.command(Ask::AddPeer { address: to.into() }).await }
    });
    let stats = within(async {
        loop {
            let stats = running.handle.snapshot().await.unwrap().runtime.udp;
            if stats.datagrams_queued > 0 {
                return stats;
            }
        }
    })
    .await;
    assert!(stats.datagrams_sent < DATAGRAMS && stats.datagrams_queued < 10, "{stats:?}");
    assert!(!asked.is_finished(), "the reply comes after the datagrams");
    assert!(run("tc", &["qdisc", "delete", "dev", "xrt0", "root"]));
    assert_eq!(within(asked).await.unwrap(), Ok(Reply::Done));
    let stats = running.handle.snapshot().await.unwrap().runtime.udp;
    assert_eq!((stats.datagrams_sent, stats.datagrams_dropped_queue_full), (DATAGRAMS, 0));
}

fn tun_config(offload: bool) -> TunConfig {
    let trust_domain: TrustDomain = "mesh.test".parse().unwrap();
    let prefix = OverlayPrefix::of(&trust_domain);
    let me = NodeId::of(&SpiffeId::node(&trust_domain, "alpha").unwrap());
    TunConfig {
        name: "xrt0".to_owned(),
        address: prefix.address(me),
        network: (prefix.network(), OverlayPrefix::BITS),
        mtu: Some(1280),
        offload,
    }
}

#[tokio::test]
async fn the_host_sends_into_the_mesh_and_receives_from_it() {
    if !is_inside() {
        let Some(namespace) = Namespace::new("tun") else { return };
        return namespace.rerun("the_host_sends_into_the_mesh_and_receives_from_it");
    }
    ip("link set lo up");
    for offload in [false, true] {
        exchange_packets(offload).await;
    }
}

async fn exchange_packets(with_offload: bool) {
    let config = tun_config(with_offload);
    let mut tun = match Tun::open(&config).await {
        Ok(tun) => tun,
        Err(error) if !std::path::Path::new("/dev/net/tun").exists() => return eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let other = OverlayPrefix::of(&"mesh.test".parse().unwrap()).address(NodeId::from_bytes([7; 16]));

    // Bound to the overlay address: possible at once only if no duplicate address detection is under way.
    let host = UdpSocket::bind((config.address, 4000)).unwrap();
    host.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    host.send_to(b"into the mesh", (other, 5000)).unwrap();
    let mut packet = vec![0; 1 << 16];
    let (length, offload) = loop {
        let (length, offload) = receive(&mut tun, &mut packet).unwrap();
        // UDP for the other node; the kernel also says hello to its link (MLD, router solicitation).
        if packet[6] == 17 && packet[24..40] == other.octets() {
            break (length, offload);
        }
    };
    assert_eq!(offload.checksum.is_some(), tun.offload().tcp, "a checksum is left unfinished only if that was agreed");
    assert_eq!(packet[8..24], config.address.octets());
    assert_eq!(&packet[48..length], b"into the mesh");

    // The same packet the other way round: UDP's checksum stays right when both ends are swapped.
    let answer = &mut packet[..length];
    let (source, destination) = (answer[8..24].to_vec(), answer[24..40].to_vec());
    answer[8..24].copy_from_slice(&destination);
    answer[24..40].copy_from_slice(&source);
    let ports = [answer[42], answer[43], answer[40], answer[41]];
    answer[40..44].copy_from_slice(&ports);
    let mut text = [0; 64];
    // The kernel takes the address into its table of local ones in the background; a packet that is faster is not for this host yet.
    let (length, from) = (0..50)
        .find_map(|_| {
            for (packet, pieces) in Delivery::whole(answer.to_vec(), offload.checksum).packets() {
                tun.try_send(packet, pieces).unwrap();
            }
            host.recv_from(&mut text).ok()
        })
        .expect("the host receives");
    assert_eq!((&text[..length], from.ip(), from.port()), (b"into the mesh".as_slice(), other.into(), 5000));

    let shown = Command::new("ip").args(["-6", "route", "show", "dev", "xrt0"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&format!("{}/48", config.network.0)), "{shown}");
    let link = Command::new("ip").args(["link", "show", "xrt0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&link.stdout).contains("mtu 1280"));

    drop(tun);
    assert!(!run("ip", &["link", "show", "xrt0"]), "the interface goes with its owner");
}

/// The next packet, or what is wrong with the interface.
fn receive(tun: &mut Tun, packet: &mut [u8]) -> std::io::Result<(usize, Offload)> {
    let mut poller = Poller::new().unwrap();
    tun.watch(&mut poller, true).unwrap();
    for _ in 0..100 {
        let ready = poller.wait(Duration::from_millis(50)).unwrap();
        tun.wake(&ready);
        match tun.try_receive(packet) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
    panic!("nothing in five seconds")
}

#[tokio::test]
async fn an_interface_that_is_deleted_under_the_node_is_an_error_and_not_a_silence() {
    if !is_inside() {
        let Some(namespace) = Namespace::new("gone") else { return };
        return namespace.rerun("an_interface_that_is_deleted_under_the_node_is_an_error_and_not_a_silence");
    }
    let Ok(mut tun) = Tun::open(&tun_config(true)).await else { return eprintln!("skipped: needs /dev/net/tun") };
    ip("link del xrt0");
    let mut packet = vec![0; 1 << 16];
    let error = loop {
        if let Err(error) = receive(&mut tun, &mut packet) {
            break error;
        }
    };
    assert!(error.raw_os_error().is_some(), "{error}");
}

#[tokio::test]
async fn without_the_right_to_make_one_auto_goes_on_and_require_fails() {
    // No interface can have a name this long, root or not.
    let config = TunConfig { name: "a-name-that-is-too-long".to_owned(), ..tun_config(true) };
    assert!(Tun::open_as(TunMode::Off, &config).await.unwrap().is_none());
    assert!(Tun::open_as(TunMode::Auto, &config).await.unwrap().is_none());
    let error = Tun::open_as(TunMode::Require, &config).await.unwrap_err();
    assert!(error.to_string().contains("--tun off"), "{error}");
}
