//! What a router answers with.

use std::time::Duration;

use serde::Serialize;
use x0t_model::{Metric, NodeId};

use crate::neighbor::LinkId;

/// Bytes to send to a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Over which link.
    pub link: LinkId,
    /// One or more messages.
    pub bytes: Vec<u8>,
    /// Send as a reliable message of the session; otherwise as a datagram.
    pub reliable: bool,
}

/// Who carries a packet next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The neighbour on this link.
    Via(LinkId),
    /// Nobody: the packet is for this node.
    Local,
    /// Nobody at present.
    Unreachable {
        /// Whether a newer announcement or the target itself is being asked for; if not, and it matters, call
        /// [`Router::seek`](crate::Router::seek).
        requested: bool,
    },
}

/// Who carries a packet of this node next, and who carries a copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    /// Who carries it.
    pub first: NextHop,
    /// Who carries the copy, if there is one.
    pub copy: Option<LinkId>,
}

/// Which of the two copies of a critical packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The one that took the first way.
    First,
    /// The one that took the other way.
    Second,
}

/// One neighbour that carries for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Over which link.
    pub link: LinkId,
    /// Who.
    pub peer: NodeId,
    /// What the way costs, the link included.
    pub metric: Metric,
}

/// Why a link ends, told by the owner of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkDownReason {
    /// The peer leaves in good order.
    Goodbye,
    /// The session was closed.
    Closed,
    /// The session does not answer: it counts as a flap.
    Dead,
}

/// Why a link is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathReason {
    /// It answered no question.
    Silent,
    /// The peer left in good order.
    Goodbye,
    /// Its session was closed.
    Closed,
}

/// News for whoever drives the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link fell silent. Its traffic already goes elsewhere where it can.
    LinkSuspect {
        /// Which.
        link: LinkId,
        /// To whom.
        peer: NodeId,
        /// For how long nothing was heard.
        silent_for: Duration,
    },
    /// A suspect or dead link was heard again.
    LinkRecovered {
        /// Which.
        link: LinkId,
        /// To whom.
        peer: NodeId,
        /// For how long nothing had been heard.
        silent_for: Duration,
    },
    /// A link is dead: its offers are dropped. It is asked twice per second until `link_down`.
    LinkDead {
        /// Which.
        link: LinkId,
        /// To whom.
        peer: NodeId,
        /// Why.
        reason: DeathReason,
        /// For how long nothing was heard.
        silent_for: Duration,
    },
    /// Another neighbour is the first choice for a destination, or none is.
    RouteChanged {
        /// The destination.
        dst: NodeId,
        /// The first choice; none if it is unreachable.
        via: Option<Successor>,
    },
    /// An origin's anchor has to be verified: is `proof` a proof by `origin` of `statement`? Answer with
    /// [`Router::anchor_verified`](crate::Router::anchor_verified).
    AnchorToVerify {
        /// Who is said to have proven it.
        origin: NodeId,
        /// For which epoch.
        epoch: u32,
        /// The bytes that were signed.
        statement: Vec<u8>,
        /// What came with them.
        proof: Vec<u8>,
        /// Who showed it.
        from: LinkId,
    },
    /// This node's anchor needs a proof before it can announce itself in `epoch`: sign `statement` and call
    /// [`Router::set_own_anchor_proof`](crate::Router::set_own_anchor_proof).
    NeedAnchorSignature {
        /// The epoch.
        epoch: u32,
        /// The bytes to sign.
        statement: Vec<u8>,
    },
    /// The chain is nearly used up: persist `next_epoch`, then call
    /// [`Router::begin_epoch`](crate::Router::begin_epoch).
    EpochExhausted {
        /// The epoch to go on with.
        next_epoch: u32,
    },
    /// A target that was sought did not answer in time.
    SeekFailed {
        /// The target.
        dst: NodeId,
    },
}

/// The proof of an anchor is longer than an ANCHOR can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("anchor proof has {0} bytes, at most 8192 fit")]
pub struct ProofTooLong(pub usize);
