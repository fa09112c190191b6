//! XMR, the routing protocol: who carries a packet next, and how fast a failure is noticed.
//!
//! A [`Router`] is told what happened and says what to do; it reads no clock, rolls no dice and sends nothing itself. Call
//! `link_up`, `heard`, `handle_message`, `handle_timeout`, … with the time of the event, then drain
//! [`Router::poll_transmit`] and [`Router::poll_event`], then sleep until [`Router::poll_timeout`].
//!
//! **A link** lives between two neighbours that hold an authenticated session. Its [`detector`] takes every authenticated
//! packet for a heartbeat and says HELLO when there is nothing else to say. Two missed heartbeats make a link *suspect*: the
//! traffic goes elsewhere at once and nobody is told, because suspicion is free and often wrong. Eight unanswered questions
//! over 320 ms make it *dead*: that is news for the mesh.
//!
//! **An origin** is a node that announces itself. It does so with an originator message (OGM) that carries an epoch, a
//! sequence number and the next value of a hash [`chain`] whose end it signed once (the ANCHOR). Nobody can invent a
//! newer number for somebody else, nor pretend to be fewer hops away than it was told. Each node repeats the
//! best offer it holds, with its own link added.
//!
//! **A route** is a neighbour whose offer is [feasible](feasibility): newer than what this node has told others, or equally
//! new and strictly closer than the closest distance this node ever told them. Up to three feasible neighbours are kept.
//! The [`Potential`] falls strictly along every one of these edges at every instant, so no loop can exist, whatever is
//! lost, late or reordered; the tests assert it after every event.
//!
//! **A failure** is survived locally when another feasible neighbour exists: [`Router::next_hop`] skips the link in
//! the same call. When none exists, the node withdraws its own offer, so that neighbours move to their alternates,
//! and asks the origin for a newer number (SEQ_REQ). A target nobody has announced is sought in growing rings (RREQ); only
//! the target answers, with a fresh OGM that passes the same test as any other.
//!
//! ```text
//! handle_message ─► message ─► origin (chain, feasibility, successors) ─► advert / withdraw / request ─► poll_transmit
//! heard, timeout ─► detector ─► neighbor (standing, cost) ─► origin ─► …
//! next_hop ──────► origin.successors ─► neighbor.standing ─► Via(link)
//! ```

pub mod chain;
mod config;
pub mod detector;
pub mod feasibility;
mod hold_down;
pub mod message;
pub mod metric;
mod neighbor;
mod origin;
mod pacing;
pub mod queue;
mod router;
mod seek;
mod stats;
mod timers;
mod view;

pub use config::{Role, RoutingConfig};
pub use feasibility::{Potential, Seqno};
pub use neighbor::{LinkId, Standing};
pub use router::{DeathReason, Event, Hops, LinkDownReason, NextHop, ProofTooLong, Router, Successor, Transmit, Twin};
pub use stats::Stats;
pub use view::{LinkView, OriginView, RoutingView, SuccessorView};
