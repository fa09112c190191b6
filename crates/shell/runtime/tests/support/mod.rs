//! A node that does what a script says, and what tests need around it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use x0t_model::{Instant, NodeId, SpiffeId, TrustDomain, UnixTime, overlay_address};
use x0t_node::{
    Command, Drive, Input, NodeEvent, Output, PeerView, Record, RouteView, SessionView, StatusView, SuccessorView,
    Train, View,
};
use x0t_runtime::clock::Clock;
use x0t_runtime::event_loop::{Ending, EventLoop, Io, Store};
use x0t_runtime::handle::NodeHandle;
use x0t_runtime::state_dir::StateDirError;
use x0t_runtime::tls_transport::TlsTransport;
use x0t_runtime::udp::UdpSockets;

/// What a script is told, in a form that can be kept and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Datagram { from: SocketAddr, interface: u32, bytes: Vec<u8> },
    LocalPacket(Vec<u8>),
    Interface { index: u32, up: bool },
    SendFailed { to: SocketAddr },
    DatagramTooBig { to: SocketAddr, len: usize },
    Command { id: u64, command: Command },
    Timeout,
}

type Script = Box<dyn FnMut(&Told) -> Vec<Output> + Send>;

/// A node that answers every input with what its script says, and tells the test what it was told.
pub struct Scripted {
    pub script: Script,
    pub told: mpsc::UnboundedSender<Told>,
    pub outputs: VecDeque<Output>,
    pub timeout: Arc<Mutex<Option<Instant>>>,
}

pub fn scripted(
    script: impl FnMut(&Told) -> Vec<Output> + Send + 'static,
) -> (Scripted, mpsc::UnboundedReceiver<Told>) {
    let (told, receiver) = mpsc::unbounded_channel();
    (Scripted { script: Box::new(script), told, outputs: VecDeque::new(), timeout: Arc::default() }, receiver)
}

impl Drive for Scripted {
    fn handle(&mut self, input: Input<'_>, _: Instant, _: UnixTime) {
        let told = match input {
            // Nothing a script would care about, and every loop begins with it.
            Input::HostInterface(_) => return,
            Input::Datagrams { from, interface, train } => {
                assert_eq!(train.count(), 1, "scripts are told of one datagram at a time");
                Told::Datagram { from: from.address(), interface, bytes: train.bytes().to_vec() }
            }
            Input::LocalPacket { bytes, .. } => Told::LocalPacket(bytes.to_vec()),
            Input::Interface { index, up } => Told::Interface { index, up },
            Input::SendFailed { to, .. } => Told::SendFailed { to: to.address() },
            Input::DatagramTooBig { to, len } => Told::DatagramTooBig { to, len },
            Input::Opened(_) => panic!("nothing is handed out in this test"),
            Input::Beacon { .. } => panic!("no discovery in this test"),
            Input::AuthorityAnswer { .. }
            | Input::Joined(_)
            | Input::AskAuthority { .. }
            | Input::Bundle(_)
            | Input::Distrusted(_)
            | Input::Recovered(_) => {
                panic!("no authority in this test")
            }
            Input::WorkloadApi(_) => panic!("no Workload API in this test"),
            Input::Command { id, command } => Told::Command { id, command },
            Input::Timeout => {
                self.timeout.lock().unwrap().take();
                Told::Timeout
            }
        };
        self.outputs.extend((self.script)(&told));
        let _ = self.told.send(told);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        *self.timeout.lock().unwrap()
    }

    fn view(&self, _: Instant, _: UnixTime) -> View {
        sample_view()
    }
}

/// One datagram for `to`.
pub fn datagram(to: SocketAddr, bytes: Vec<u8>) -> Output {
    Output::Datagrams { to: to.into(), flow: None, train: Train::single(bytes) }
}

/// A disk that refuses while it is told to, and remembers what it was given.
#[derive(Clone, Default)]
pub struct Disk {
    pub broken: Arc<Mutex<bool>>,
    pub written: Arc<Mutex<Vec<Record>>>,
}

impl Store for Disk {
    fn write(&mut self, record: &Record) -> Result<(), StateDirError> {
        if *self.broken.lock().unwrap() {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(StateDirError::Io { action: "write", path: record.kind.file_name().into(), source });
        }
        self.written.lock().unwrap().push(record.clone());
        Ok(())
    }
}

/// A running event loop and its surroundings.
pub struct Running {
    pub handle: NodeHandle,
    pub address: SocketAddr,
    pub stop: mpsc::Sender<()>,
    pub ending: tokio::task::JoinHandle<Ending>,
}

/// Starts an event loop on a loopback address of its own.
pub fn start(node: Scripted, disk: Disk) -> Running {
    start_at(node, disk, "127.0.0.1:0")
}

/// Starts an event loop on `address`.
pub fn start_at(node: Scripted, disk: Disk, address: &str) -> Running {
    let udp = UdpSockets::bind(&[address.parse().unwrap()]).unwrap();
    let address = udp.local_addresses()[0];
    let (stop, stop_receiver) = mpsc::channel(2);
    let io = Io {
        udp,
        tls: TlsTransport::new(None).unwrap(),
        discovery: None,
        tun: None,
        netstack: None,
        links: None,
        authority: None,
        store: disk,
        stop: stop_receiver,
    };
    let (event_loop, handle) = EventLoop::new(node, Clock, io).unwrap();
    Running { handle, address, stop, ending: tokio::spawn(async { event_loop.run().await.unwrap() }) }
}

/// The next thing the script was told, or a failed test after five seconds.
pub async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    within(receiver.recv()).await.expect("the loop is running")
}

/// `work`, or a failed test after five seconds.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), work).await.expect("done in time")
}

pub fn event(at: u64) -> NodeEvent {
    NodeEvent { at: Instant::from_millis(at), what: x0t_node::What::SvidRotated { not_after: at } }
}

pub fn spiffe_id(name: &str) -> SpiffeId {
    SpiffeId::node(&trust_domain(), name).unwrap()
}

pub fn node_id(name: &str) -> NodeId {
    NodeId::of(&spiffe_id(name))
}

fn trust_domain() -> TrustDomain {
    "mesh.test".parse().unwrap()
}

/// Node `alpha` with neighbour `bravo` up, neighbour `charlie` down, and `delta` behind `bravo`.
pub fn sample_view() -> View {
    let peer = |name: &str, state: &str| PeerView {
        node_id: node_id(name),
        spiffe_id: spiffe_id(name),
        address: "192.0.2.1:4600".parse().unwrap(),
        state: state.to_owned(),
        rtt_us: (state == "up").then_some(1_500),
        loss_permille: 20,
        cost_us: 900,
        path_mtu: Some(1452),
        heard_ms_ago: 12,
        interface: 3,
        transport: "udp".to_owned(),
        origin: "configured".to_owned(),
        observed: None,
    };
    let successor = |via| SuccessorView { via, metric_us: 1_800, usable: true, weight: 1, demoted: 0, suspect: false };
    let route = |name: &str, via: &[&str]| RouteView {
        node_id: node_id(name),
        spiffe_id: Some(spiffe_id(name)),
        overlay_address: overlay_address(&trust_domain(), node_id(name)),
        successors: via.iter().map(|via| successor(node_id(via))).collect(),
        hops: via.first().map(|via| if *via == name { 1 } else { 2 }),
        packet_mtu: Some(1348),
        sequence: (1, 7),
        feasible_distance_us: Some(1_800),
    };
    View {
        status: StatusView {
            spiffe_id: spiffe_id("alpha"),
            node_id: node_id("alpha"),
            name: "alpha".to_owned(),
            trust_domain: trust_domain(),
            overlay_address: overlay_address(&trust_domain(), node_id("alpha")),
            is_authority: true,
            ready: true,
            not_ready_because: None,
            svid_not_after: 1_800_000_000,
            svid_state: "valid".to_owned(),
            svid_distrust: None,
            svid_failures: 0,
            svid_source: "authority".to_owned(),
            svid_error: None,
            epoch: 4,
            uptime_ms: 61_500,
            links_up: 1,
            unanswered: Vec::new(),
            reachable: 2,
        },
        peers: vec![peer("bravo", "up"), peer("charlie", "down")],
        routes: vec![route("bravo", &["bravo"]), route("charlie", &[]), route("delta", &["bravo"])],
        sessions: vec![SessionView {
            id: 1,
            purpose: "link".to_owned(),
            peer: Some(spiffe_id("bravo")),
            carrier: "192.0.2.1:4600".to_owned(),
            state: "established".to_owned(),
            group: Some("X25519MLKEM768".to_owned()),
            key_epoch: 1,
            packets_received: 10,
            packets_sent: 11,
        }],
        counters: BTreeMap::from([
            ("forwarded_packets".to_owned(), 5),
            ("not a name".to_owned(), 1),
            ("sessions".to_owned(), 1),
        ]),
    }
}
