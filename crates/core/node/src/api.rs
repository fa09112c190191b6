//! What a node is told and what it answers: plain values, so that a runtime, a simulator and a recording look alike to it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use x0t_identity::{AuthorityAnswer, AuthorityRequest, Bundle, Distrusted, Secret, Svid, Ticket};
use x0t_model::{Instant, NodeId, SpiffeId, Underlay};
use x0t_overlay::CertificateDer;

use crate::host::{Delivery, HostOffload, Offload};
use crate::opening::Opening;
use crate::train::Train;
use crate::unsealed::Unsealed;

/// Something happened. One input, then drain [`crate::Node::poll_output`].
#[derive(Debug)]
pub enum Input<'a> {
    /// Datagrams of one sender arrived, as many as the kernel handed over in one piece. Opened in place.
    Datagrams {
        /// Who the underlay says sent them.
        from: Underlay,
        /// Index of the interface they arrived on; 0 if unknown.
        interface: u32,
        /// The datagrams.
        train: Train,
    },
    /// [`Output::Open`] has been done. What came of it is judged in the order in which the trains arrived.
    Opened(Box<Opening>),
    /// The host wants an IPv6 packet carried, or a super-packet that stands for many (it came from the TUN).
    LocalPacket {
        /// The packet.
        bytes: &'a [u8],
        /// What the host has left undone in it.
        offload: Offload,
    },
    /// There is an interface to the host, and this is what it takes over. Nothing until it is said.
    HostInterface(HostOffload),
    /// The kernel says an interface gained or lost its carrier, or went away.
    Interface {
        /// Interface index.
        index: u32,
        /// Whether packets can pass.
        up: bool,
    },
    /// The kernel could not send to, or got an ICMP error from, this address. A hint: nobody authenticated it.
    SendFailed {
        /// The destination.
        to: Underlay,
        /// The network's words.
        reason: &'a str,
    },
    /// Something came to the discovery group. Anybody in the local network may have sent it.
    Beacon {
        /// Who the underlay says sent it, with the interface as scope if the address is link-local.
        from: SocketAddr,
        /// What was sent.
        bytes: &'a [u8],
    },
    /// The kernel refused to send `len` bytes to this address in one datagram: the device takes less.
    DatagramTooBig {
        /// The destination.
        to: SocketAddr,
        /// Bytes of UDP payload.
        len: usize,
    },
    /// An operator asks for something; exactly one [`Output::Reply`] with the same id follows, now or later.
    Command {
        /// Chosen by the caller.
        id: u64,
        /// What is asked.
        command: Command,
    },
    /// The authority beside this node answers a request.
    AuthorityAnswer {
        /// That of [`Output::AuthorityRequest`].
        ticket: Ticket,
        /// What it says.
        answer: AuthorityAnswer,
    },
    /// The authority beside this node has admitted somebody.
    Joined(SpiffeId),
    /// This host's agent asks the authority; exactly one [`Output::AuthorityReply`] with the same id follows.
    AskAuthority {
        /// Chosen by the caller, and never used twice.
        id: u64,
        /// An encoded [`x0t_identity::AgentRequest`].
        body: &'a [u8],
    },
    /// The trust domain's bundle, from a source that has verified it.
    Bundle(Bundle),
    /// Which of its signatures the authority does not stand by any more: all that there are.
    Distrusted(Distrusted),
    /// What came of a [`crate::join::JoinClient::recover`]: the node's next SVID, and the bundle that came with it.
    Recovered(Box<(Svid, Bundle)>),
    /// What the Workload API says that gives this node its identity. Ignored by a node that asks an authority.
    WorkloadApi(WorkloadApiNews),
    /// The instant given by [`crate::Node::poll_timeout`] has come.
    Timeout,
}

/// What a Workload API, such as that of a SPIRE agent, says about the identity of this node.
#[derive(Clone, Debug)]
pub enum WorkloadApiNews {
    /// This is it. Judged as a stranger would judge it; the same again says that all is well.
    Given {
        /// Chain and key.
        svid: Box<Svid>,
        /// The bundle of its trust domain, in place of the one before.
        bundle: Bundle,
    },
    /// It does not answer, or nothing that can be believed. The SVID in use stays.
    Failing(String),
    /// The identity is this node's no longer: it is shown to nobody from here on.
    Withdrawn(String),
}

/// Something to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send datagrams.
    Datagrams {
        /// Where to.
        to: Underlay,
        /// The flow that they belong to, whose order is to be kept; none if they may overtake and be overtaken.
        flow: Option<u32>,
        /// What.
        train: Train,
    },
    /// Seal datagrams, then send them. Only from a node that [hands out](crate::NodeConfig::hands_out) its work.
    Seal {
        /// Where to.
        to: Underlay,
        /// The flow that they belong to, whose order is to be kept.
        flow: u32,
        /// What; the train comes of [`Unsealed::seal`].
        unsealed: Unsealed,
    },
    /// Open datagrams ([`Opening::open`]) and hand them back with [`Input::Opened`], in any order. Only from a node that
    /// [hands out](crate::NodeConfig::hands_out) its work; what comes after them waits for them.
    Open(Box<Opening>),
    /// Send this to the discovery group on every interface.
    Beacon(Vec<u8>),
    /// Hand IPv6 packets to the host (write them to the TUN).
    LocalPackets(Delivery),
    /// Make this durable (written, fsynced, renamed into place) before performing any later output.
    Persist(Record),
    /// Ask the authority beside this node. [`Input::AuthorityAnswer`] brings the answer, now or later.
    AuthorityRequest {
        /// Names the request.
        ticket: Ticket,
        /// What is asked, and by whom.
        request: AuthorityRequest,
    },
    /// What came of [`Input::AskAuthority`].
    AuthorityReply {
        /// That of the request.
        id: u64,
        /// An encoded [`x0t_identity::AgentAnswer`], or why there is none.
        outcome: Result<Vec<u8>, String>,
    },
    /// The answer to a command.
    Reply {
        /// The command's id.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// From now on the node shows this chain, leaf first.
    Identity(Vec<CertificateDer<'static>>),
    /// News for logs, the live page and whoever subscribed.
    Event(NodeEvent),
    /// The node has said goodbye and wants no further input.
    Stopped,
}

/// One file of the state directory. All are written with mode 0600.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Which file.
    pub kind: RecordKind,
    /// Its whole new content. May hold secrets.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({:?}, {} bytes)", self.kind, self.bytes.len())
    }
}

/// The files a node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// The node's SVID and private key, PEM.
    Svid,
    /// The trust bundle, SPIFFE JSON.
    Bundle,
    /// The embedded authority: CA key, tokens, issued names.
    Authority,
    /// The nodes that renew SVIDs, a SPIFFE ID a line.
    Authorities,
    /// The routing epoch, a decimal number that only grows.
    Epoch,
}

impl RecordKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Svid, Self::Bundle, Self::Authority, Self::Authorities, Self::Epoch];

    /// The file's name inside the state directory.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Svid => "svid.pem",
            Self::Bundle => "bundle.json",
            Self::Authority => "authority.json",
            Self::Authorities => "authorities",
            Self::Epoch => "epoch",
        }
    }
}

/// Whom a command is about: a node's name in the own trust domain, a whole SPIFFE ID, or a node id in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Target(pub String);

/// What an operator may ask of a running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// A single-use token that lets one node join.
    CreateToken {
        /// Only this name may join with it; any free name if absent.
        name: Option<String>,
        /// How long it is valid.
        ttl: Duration,
        /// Addresses the joiner should try; the node's own advertised ones if empty.
        addresses: Vec<SocketAddr>,
    },
    /// One echo through the mesh, sealed end to end.
    Ping {
        /// To whom.
        target: Target,
        /// Bytes of padding, at most 1,200.
        payload: u16,
        /// Give up after this long.
        timeout: Duration,
    },
    /// Which nodes a packet passes on its way, and how long each takes.
    Trace {
        /// To whom.
        target: Target,
        /// Give up after this long without an answer from a hop.
        timeout: Duration,
    },
    /// Keep a link to this underlay address.
    AddPeer {
        /// Where it is.
        address: Underlay,
    },
    /// Close the link to this underlay address and do not dial it again.
    DropPeer {
        /// Where it is.
        address: Underlay,
    },
    /// Say goodbye to everybody, then stop.
    Shutdown,
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The token's text. A secret until it is used.
    Token {
        /// What `x0t join` takes.
        token: Secret<String>,
        /// When it stops working, in seconds since 1970.
        expires: u64,
    },
    /// The echo came back.
    Pong {
        /// Who answered.
        node: SpiffeId,
        /// Round-trip time in nanoseconds.
        rtt_ns: u64,
        /// The neighbour that carried the request first; `None` if the target is a neighbour or this node.
        via: Option<NodeId>,
    },
    /// The way, nearest node first.
    Trace {
        /// One entry for each node that answered.
        hops: Vec<TraceHop>,
        /// Whether the last entry is the target.
        complete: bool,
    },
    /// Done; there is nothing to say.
    Done,
    /// Not done.
    Refused {
        /// Why, and what to do about it.
        reason: String,
    },
    /// Nobody answered in time.
    TimedOut {
        /// What the node knows about the reason.
        reason: String,
    },
}

/// One node on the way of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHop {
    /// 1 is the nearest.
    pub hop: u8,
    /// The node that answered.
    pub node: NodeId,
    /// Its identity, if it is known here.
    pub spiffe_id: Option<SpiffeId>,
    /// Round-trip time to it in nanoseconds.
    pub rtt_ns: u64,
}

/// News. `at` is the node's own monotonic clock; on one host all nodes read the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When, in nanoseconds.
    pub at: Instant,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A neighbour has proven its identity and carries traffic.
    LinkUp {
        /// Who.
        peer: NodeId,
        /// Its identity.
        spiffe_id: SpiffeId,
        /// Where.
        address: Underlay,
        /// How it came about: `configured`, `discovered`, `punched` or `accepted`.
        #[serde(default)]
        origin: String,
    },
    /// A neighbour has been silent for too long; its traffic has been moved, nobody else was told.
    LinkSuspect {
        /// Who.
        peer: NodeId,
        /// Silent for this many microseconds.
        silent_us: u64,
    },
    /// A suspected neighbour was heard again.
    LinkRecovered {
        /// Who.
        peer: NodeId,
    },
    /// A neighbour is gone and the mesh has been told.
    LinkDown {
        /// Who.
        peer: NodeId,
        /// `dead`, `goodbye`, `closed`, `expired`, or `away` if it was this node that did not run.
        reason: String,
    },
    /// The best next hop towards a node changed.
    RouteChanged {
        /// Towards whom.
        destination: NodeId,
        /// Through whom; `None` if unreachable.
        via: Option<NodeId>,
        /// Microseconds of expected delay.
        metric: Option<u32>,
    },
    /// Nothing arrives at a node by one neighbour, though that neighbour is heard; its traffic has been moved, nobody else was told.
    WaySuspect {
        /// Towards whom.
        destination: NodeId,
        /// Through whom.
        via: NodeId,
    },
    /// A node is reached by one neighbour again.
    WayTrusted {
        /// Towards whom.
        destination: NodeId,
        /// Through whom.
        via: NodeId,
    },
    /// Too many packets to a node are lost by one neighbour; that way counts as dearer for a while, nobody else was told.
    WayDemoted {
        /// Towards whom.
        destination: NodeId,
        /// Through whom.
        via: NodeId,
        /// How often its cost is doubled for it.
        steps: u8,
    },
    /// An end-to-end session is ready.
    SessionUp {
        /// With whom.
        peer: SpiffeId,
    },
    /// The node's own SVID was replaced; nothing was dropped for it.
    SvidRotated {
        /// The new end of validity, in seconds since 1970.
        not_after: u64,
    },
    /// The node's own SVID is valid and is replaced before its time.
    SvidDistrusted {
        /// `tainted`, `revoked` or `not_in_bundle`.
        reason: String,
    },
    /// The SVID could not be renewed; the valid one is kept.
    SvidRenewalFailed {
        /// Why.
        reason: String,
    },
    /// The SVID is about to end, or has, and could not be renewed.
    SvidExpiring {
        /// Seconds that are left.
        left_s: u64,
    },
    /// The source of the identity has taken it back; every session was closed.
    SvidWithdrawn {
        /// In its words.
        reason: String,
    },
    /// The places that give the node its identity: another one is in use, or one has become better or worse.
    Region {
        /// `failed_over`, `failed_back`, `down`, `up`, `all_down` or `recovered`.
        change: String,
        /// The region that this is about; after a change of region, the one in use.
        region: String,
        /// The one before, after a change of region.
        from: Option<String>,
        /// What was found, where something failed.
        reason: Option<String>,
    },
    /// The wall clock jumped; the validity of certificates was judged anew.
    ClockJumped {
        /// Into the future, or into the past.
        forward: bool,
        /// Seconds.
        by_s: u64,
    },
    /// A node joined through this authority.
    NodeJoined {
        /// Who.
        spiffe_id: SpiffeId,
    },
    /// A peer or a joiner was refused.
    Refused {
        /// Why.
        reason: String,
    },
}
