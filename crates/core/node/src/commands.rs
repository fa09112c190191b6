//! What operators ask, and what is still owed to them.

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::{Instant, NodeId, SpiffeId, Underlay};
use x0t_overlay::HopHeader;
use x0t_overlay::hop::PayloadKind;

use crate::api::{Command, Output, Reply, Target, TraceHop, What};
use crate::data_path::TIME_TO_LIVE;
use crate::message::{EndDatagram, PING_PADDING_MAX, Trace};
use crate::node::Node;

/// How many commands may be unanswered at once.
const PENDING_MAX: usize = 4096;
/// The longest a command may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Commands that wait for an answer from the mesh.
#[derive(Debug, Default)]
pub struct Pending {
    pings: BTreeMap<u64, Ping>,
    traces: BTreeMap<u64, Tracing>,
    next: u64,
}

#[derive(Debug)]
struct Ping {
    command: u64,
    target: NodeId,
    via: Option<NodeId>,
    sent: Instant,
    deadline: Instant,
}

#[derive(Debug)]
struct Tracing {
    command: u64,
    target: NodeId,
    ttl: u8,
    sent: Instant,
    deadline: Instant,
    timeout: Duration,
    hops: Vec<TraceHop>,
}

impl Pending {
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pings = self.pings.values().map(|ping| ping.deadline);
        pings.chain(self.traces.values().map(|trace| trace.deadline)).min()
    }

    fn is_full(&self) -> bool {
        self.pings.len() + self.traces.len() >= PENDING_MAX
    }
}

impl Node {
    pub(crate) fn on_command(&mut self, id: u64, command: Command) {
        let answer = match command {
            Command::CreateToken { name, ttl, addresses } => self.ask_for_token(id, name, ttl, addresses),
            Command::Ping { target, payload, timeout } => self.ping(id, &target, payload, timeout.min(TIMEOUT_MAX)),
            Command::Trace { target, timeout } => self.trace(id, &target, timeout.min(TIMEOUT_MAX)),
            Command::AddPeer { address } => Some(if self.dialer.add(address, self.now) {
                Reply::Done
            } else {
                refused("too many peers are configured; remove one first")
            }),
            Command::DropPeer { address } => Some(self.drop_peer(address)),
            Command::Shutdown => {
                self.say_goodbye();
                Some(Reply::Done)
            }
        };
        if let Some(reply) = answer {
            self.push(Output::Reply { id, reply });
        }
    }

    /// Answers at once, or `None` if the answer comes later.
    fn ping(&mut self, command: u64, target: &Target, payload: u16, timeout: Duration) -> Option<Reply> {
        let target = match self.target(target) {
            Ok(target) => target,
            Err(reason) => return Some(refused(&reason)),
        };
        if target == self.me {
            let node = self.spiffe_id.clone();
            return Some(Reply::Pong { node, rtt_ns: 0, via: None });
        }
        if usize::from(payload) > PING_PADDING_MAX {
            return Some(refused(&format!("at most {PING_PADDING_MAX} bytes can be echoed")));
        }
        if self.pending.is_full() {
            return Some(refused("too many commands are unanswered; wait for some to finish"));
        }
        let number = self.number();
        let mut datagram = Vec::with_capacity(usize::from(payload) + 9);
        EndDatagram::Ping { number, padding: &vec![0; usize::from(payload)] }.encode(&mut datagram);
        let via = self.next_hop(target).filter(|via| *via != target);
        let deadline = self.now + timeout;
        self.pending.pings.insert(number, Ping { command, target, via, sent: self.now, deadline });
        if !self.send_to_end(target, 0, &datagram) {
            self.router.seek(target, self.now);
        }
        None
    }

    pub(crate) fn on_pong(&mut self, from: NodeId, number: u64) {
        if self.pending.pings.get(&number).is_none_or(|ping| ping.target != from) {
            return;
        }
        let session = self.ends.session_of(from);
        let Some(node) = session.and_then(|session| self.endpoint.info(session)?.peer) else { return };
        let Some(ping) = self.pending.pings.remove(&number) else { return };
        let rtt_ns = u64::try_from(self.now.since(ping.sent).as_nanos()).unwrap_or(u64::MAX);
        self.push(Output::Reply { id: ping.command, reply: Reply::Pong { node, rtt_ns, via: ping.via } });
    }

    fn trace(&mut self, command: u64, target: &Target, timeout: Duration) -> Option<Reply> {
        let target = match self.target(target) {
            Ok(target) => target,
            Err(reason) => return Some(refused(&reason)),
        };
        if target == self.me {
            return Some(Reply::Trace { hops: Vec::new(), complete: true });
        }
        if self.pending.is_full() {
            return Some(refused("too many commands are unanswered; wait for some to finish"));
        }
        let number = self.number();
        let (sent, deadline) = (self.now, self.now + timeout);
        let tracing = Tracing { command, target, ttl: 1, sent, deadline, timeout, hops: Vec::new() };
        self.pending.traces.insert(number, tracing);
        self.probe(number, target, 1);
        None
    }

    fn probe(&mut self, number: u64, target: NodeId, ttl: u8) {
        let mut payload = Vec::with_capacity(9);
        Trace { number, ttl }.encode(&mut payload);
        let kind = PayloadKind::TraceProbe;
        let hop = HopHeader { src: self.me, dst: target, ttl, kind, flags: 0, flow: 0 };
        self.carry(hop, &payload);
    }

    /// A node on the way, or the target itself, has answered a probe.
    pub(crate) fn on_trace_reply(&mut self, from: NodeId, reply: Trace) {
        let spiffe_id = self.names.get(&from).cloned();
        let Some(tracing) = self.pending.traces.get_mut(&reply.number).filter(|tracing| tracing.ttl == reply.ttl)
        else {
            return;
        };
        let rtt_ns = u64::try_from(self.now.since(tracing.sent).as_nanos()).unwrap_or(u64::MAX);
        tracing.hops.push(TraceHop { hop: reply.ttl, node: from, spiffe_id, rtt_ns });
        if from != tracing.target && reply.ttl < TIME_TO_LIVE {
            tracing.ttl += 1;
            tracing.sent = self.now;
            tracing.deadline = self.now + tracing.timeout;
            let (target, ttl) = (tracing.target, tracing.ttl);
            self.probe(reply.number, target, ttl);
        } else if let Some(done) = self.pending.traces.remove(&reply.number) {
            let complete = from == done.target;
            self.push(Output::Reply { id: done.command, reply: Reply::Trace { hops: done.hops, complete } });
        }
    }

    /// Answers commands that waited too long.
    pub(crate) fn advance_commands(&mut self) {
        let now = self.now;
        let late: Vec<u64> =
            self.pending.pings.iter().filter(|(_, ping)| ping.deadline <= now).map(|(number, _)| *number).collect();
        for number in late {
            if let Some(ping) = self.pending.pings.remove(&number) {
                let reason = self.why_silent(ping.target);
                self.push(Output::Reply { id: ping.command, reply: Reply::TimedOut { reason } });
            }
        }
        let late: Vec<u64> =
            self.pending.traces.iter().filter(|(_, trace)| trace.deadline <= now).map(|(number, _)| *number).collect();
        for number in late {
            if let Some(trace) = self.pending.traces.remove(&number) {
                let reply = if trace.hops.is_empty() {
                    Reply::TimedOut { reason: self.why_silent(trace.target) }
                } else {
                    Reply::Trace { hops: trace.hops, complete: false }
                };
                self.push(Output::Reply { id: trace.command, reply });
            }
        }
    }

    fn why_silent(&self, target: NodeId) -> String {
        if self.next_hop(target).is_none() {
            "no route: the node is down, cut off, or never joined; see `x0t routes`".into()
        } else if self.ends.session_of(target).is_none() {
            "there is a route, but no end-to-end session could be set up; see `x0t sessions`".into()
        } else {
            "there is a route and a session, but no answer came back in time".into()
        }
    }

    fn drop_peer(&mut self, address: Underlay) -> Reply {
        let dialled = self.dialer.is_configured(address);
        if let Some(session) = self.dialer.remove(address) {
            self.endpoint.forget(session);
        }
        let link = self
            .links
            .iter()
            .find(|(_, link)| link.proven.address == address)
            .map(|(id, link)| (id, link.proven.session));
        if let Some((id, session)) = link {
            self.endpoint.close(session, x0t_overlay::close_code::DONE, "removed by the operator", self.now);
            self.lose_neighbor(id, "closed");
        } else if !dialled {
            return refused("no link is kept to this address");
        }
        Reply::Done
    }

    /// Whom a command is about.
    fn target(&self, target: &Target) -> Result<NodeId, String> {
        let text = target.0.trim();
        if let Ok(node) = text.parse::<NodeId>() {
            return Ok(node);
        }
        let parsed = if text.contains("://") {
            text.parse::<SpiffeId>()
        } else {
            SpiffeId::node(self.spiffe_id.trust_domain(), text)
        };
        match parsed {
            Ok(id) if id.trust_domain() != self.spiffe_id.trust_domain() => {
                Err(format!("{id} belongs to another trust domain than this node ({})", self.spiffe_id.trust_domain()))
            }
            Ok(id) => Ok(NodeId::of(&id)),
            Err(error) => Err(format!("`{text}` names no node: {error}")),
        }
    }

    fn number(&mut self) -> u64 {
        self.pending.next += 1;
        self.pending.next
    }

    pub(crate) fn refuse(&mut self, reason: String) {
        if self.refusals.take(self.now) {
            self.tell(What::Refused { reason });
        } else {
            self.stats.refusals_untold += 1;
        }
    }
}

pub(crate) fn refused(reason: &str) -> Reply {
    Reply::Refused { reason: reason.to_owned() }
}
