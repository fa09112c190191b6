//! What is asked of an authority, on its way there and back.
//!
//! The authority itself stands outside of the node: its state is replicated one day, its signatures cost what a hundred packets
//! cost, and both would hold up the data path. A node beside an authority hands it every request with a ticket and remembers
//! whose it is; the other nodes carry the requests of their own agents to it, inside the end-to-end session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use x0t_identity::message::{Message, Refused};
use x0t_identity::{
    AuthorityAnswer, AuthorityRequest, Bundle, BundleUpdate, Failure, OperatorAnswer, OperatorRequest, SYNC_WAIT,
    Ticket,
};
use x0t_model::{Instant, NodeId, SpiffeId, in_one_line};
use x0t_overlay::SessionId;

use crate::api::{Output, Record, RecordKind, Reply, What};
use crate::commands::refused;
use crate::node::Node;
use crate::trust_path::printable;

/// Requests that an authority has not answered yet.
const TICKETS_MAX: usize = 16_384;
/// Those of one member: its agent waits for news, and renews for its workloads beside that.
const TICKETS_PER_MEMBER: usize = 16;
/// Requests of this node's own agent that are under way.
const ASKS_MAX: usize = 64;
/// The answer to an agent's request is waited for so long; the longest is the one that waits for news.
const ASK_TIMEOUT: Duration = Duration::from_secs(SYNC_WAIT.as_secs() + 10);

/// Who gets an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Joiner(SessionId),
    Renewal(NodeId),
    Agent { node: NodeId, id: u64 },
    OwnRenewal,
    OwnAgent(u64),
    Command(u64),
}

/// Requests on their way.
#[derive(Debug, Default)]
pub struct AuthorityDesk {
    next: Ticket,
    tickets: BTreeMap<Ticket, Asker>,
    /// How many of the tickets are a member's.
    by_member: BTreeMap<NodeId, usize>,
    /// What the own agent asked of an authority elsewhere: of which, and until when an answer is waited for.
    asks: BTreeMap<u64, (NodeId, Instant)>,
}

impl AuthorityDesk {
    /// A ticket, if there is one left for this asker.
    fn draw(&mut self, asker: Asker) -> Option<Ticket> {
        if self.tickets.len() >= TICKETS_MAX {
            return None;
        }
        if let Asker::Renewal(node) | Asker::Agent { node, .. } = asker {
            let held = self.by_member.entry(node).or_default();
            if *held >= TICKETS_PER_MEMBER {
                return None;
            }
            *held += 1;
        }
        self.next += 1;
        self.tickets.insert(self.next, asker);
        Some(self.next)
    }

    fn redeem(&mut self, ticket: Ticket) -> Option<Asker> {
        let asker = self.tickets.remove(&ticket)?;
        if let Asker::Renewal(node) | Asker::Agent { node, .. } = asker
            && let Some(held) = self.by_member.get_mut(&node)
        {
            *held -= 1;
            if *held == 0 {
                self.by_member.remove(&node);
            }
        }
        Some(asker)
    }

    /// When the next request is given up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.asks.values().map(|(_, until)| *until).min()
    }
}

impl Node {
    /// Hands a request to the authority beside this node. If there is none, or no ticket left, the asker is told no at once.
    fn ask_here(&mut self, asker: Asker, request: AuthorityRequest) {
        let ticket = if self.trust.is_authority() { self.desk.draw(asker) } else { None };
        match ticket {
            Some(ticket) => self.push(Output::AuthorityRequest { ticket, request }),
            None => {
                self.stats.authority_requests_refused += 1;
                self.give(asker, request.refuse("busy", "the authority has too much to do: try again"));
            }
        }
    }

    /// A joiner presents its token, or its old SVID.
    pub(crate) fn ask_to_join(&mut self, session: SessionId, request: AuthorityRequest) {
        self.ask_here(Asker::Joiner(session), request);
    }

    /// This node needs its next SVID and has an authority beside it.
    pub(crate) fn ask_to_renew_ourselves(&mut self, csr: Vec<u8>) {
        self.ask_here(Asker::OwnRenewal, AuthorityRequest::Renew { node: self.spiffe_id.clone(), csr });
    }

    /// A member asks for its next SVID.
    pub(crate) fn on_renew_request(&mut self, session: SessionId, from: NodeId, csr: Vec<u8>) {
        match self.proven(session, from) {
            Some(node) => self.ask_here(Asker::Renewal(from), AuthorityRequest::Renew { node, csr }),
            None => self.stats.identity_messages_refused += 1,
        }
    }

    /// A member's agent asks.
    pub(crate) fn on_agent_request(&mut self, session: SessionId, from: NodeId, id: u64, body: Vec<u8>) {
        match self.proven(session, from) {
            Some(node) => self.ask_here(Asker::Agent { node: from, id }, AuthorityRequest::Agent { node, body }),
            None => self.stats.identity_messages_refused += 1,
        }
    }

    /// Whose session it is, if it is that node's.
    fn proven(&self, session: SessionId, from: NodeId) -> Option<SpiffeId> {
        self.endpoint.info(session).and_then(|info| info.peer).filter(|peer| NodeId::of(peer) == from)
    }

    /// This node's own agent asks the authority, here or elsewhere.
    pub(crate) fn on_ask_authority(&mut self, id: u64, body: &[u8]) {
        if self.trust.is_authority() {
            let request = AuthorityRequest::Agent { node: self.spiffe_id.clone(), body: body.to_vec() };
            return self.ask_here(Asker::OwnAgent(id), request);
        }
        let Some(authority) = self.reachable_authority() else {
            return self.no_answer(id, "no authority is reachable");
        };
        if self.desk.asks.len() >= ASKS_MAX {
            return self.no_answer(id, "too many requests to the authority are under way");
        }
        match (Message::AgentRequest { id, body: body.to_vec() }).encode() {
            Ok(message) => {
                self.desk.asks.insert(id, (authority, self.now + ASK_TIMEOUT));
                self.send_message_to_end(authority, &message);
            }
            Err(error) => self.no_answer(id, &in_one_line(&error)),
        }
    }

    fn no_answer(&mut self, id: u64, reason: &str) {
        self.push(Output::AuthorityReply { id, outcome: Err(reason.to_owned()) });
    }

    /// An authority answers this node's agent.
    pub(crate) fn on_agent_answer(&mut self, id: u64, body: Vec<u8>) {
        if self.desk.asks.remove(&id).is_some() {
            self.push(Output::AuthorityReply { id, outcome: Ok(body) });
        } else {
            self.stats.identity_messages_refused += 1;
        }
    }

    /// Gives up what was not answered in time.
    pub(crate) fn advance_asks(&mut self) {
        let now = self.now;
        self.give_up_asks("the authority has not answered in time", |_, until| until <= now);
    }

    /// The session with `node` has ended. An authority that is started anew does not know what it was asked before, so its agents
    /// ask again at once instead of waiting for their time to run out.
    pub(crate) fn end_lost(&mut self, node: NodeId) {
        self.give_up_asks("the session with the authority has ended", |authority, _| authority == node);
    }

    fn give_up_asks(&mut self, reason: &str, is_lost: impl Fn(NodeId, Instant) -> bool) {
        let lost = self.desk.asks.extract_if(.., |_, (authority, until)| is_lost(*authority, *until));
        for (id, _) in lost.collect::<Vec<_>>() {
            self.no_answer(id, reason);
        }
    }

    /// A join token is wanted.
    pub(crate) fn ask_for_token(
        &mut self,
        command: u64,
        name: Option<String>,
        ttl: Duration,
        addresses: Vec<SocketAddr>,
    ) -> Option<Reply> {
        if !self.trust.is_authority() {
            return Some(refused(&match self.trust.first_authority() {
                Some(id) => format!("this node is no authority, so it cannot admit others: ask {id}"),
                None => "this mesh has no authority of its own and needs no tokens: whoever is given the identity of a node \
                         by the same Workload API may come, as in `x0t up --identity spire --peer ADDR`"
                    .to_owned(),
            }));
        }
        let addresses = if addresses.is_empty() { self.config.advertised.clone() } else { addresses };
        if addresses.is_empty() {
            return Some(refused("no address is known that a joiner could reach: give one with `--address HOST:PORT`"));
        }
        let request = OperatorRequest::CreateToken { name, ttl, addresses };
        self.ask_here(Asker::Command(command), AuthorityRequest::Operator(request));
        None
    }

    /// The authority beside this node answers.
    pub(crate) fn on_authority_answer(&mut self, ticket: Ticket, answer: AuthorityAnswer) {
        let Some(asker) = self.desk.redeem(ticket) else {
            self.stats.authority_answers_unasked += 1;
            return;
        };
        self.give(asker, answer);
    }

    fn give(&mut self, asker: Asker, answer: AuthorityAnswer) {
        match (asker, answer) {
            (Asker::Joiner(session), AuthorityAnswer::Message(message)) => self.answer_joiner(session, &message),
            (Asker::Renewal(node), AuthorityAnswer::Message(message)) => self.answer_member(node, &message),
            (Asker::OwnRenewal, AuthorityAnswer::Message(Message::RenewAccepted(accepted))) => {
                self.on_renewed(accepted)
            }
            (Asker::OwnRenewal, AuthorityAnswer::Message(Message::RenewRefused(refused))) => {
                self.renewal_failed(Failure::Unavailable(printable(&refused.text)));
            }
            (Asker::Agent { node, id }, AuthorityAnswer::Agent(body)) => {
                self.answer_member(node, &Message::AgentAnswer { id, body });
            }
            (Asker::OwnAgent(id), AuthorityAnswer::Agent(body)) => {
                self.push(Output::AuthorityReply { id, outcome: Ok(body) });
            }
            (Asker::Command(id), AuthorityAnswer::Operator(answer)) => self.answer_command(id, answer),
            // An authority that answers something else than what was asked.
            (_, AuthorityAnswer::Message(_) | AuthorityAnswer::Agent(_) | AuthorityAnswer::Operator(_)) => {
                self.stats.authority_answers_unasked += 1;
            }
        }
    }

    fn answer_joiner(&mut self, session: SessionId, message: &Message) {
        match message {
            Message::JoinAccepted(_) => self.stats.joins_accepted += 1,
            Message::JoinRefused(refused) => {
                self.stats.joins_refused += 1;
                self.refuse(format!("a join: {}", refused.text));
            }
            _ => self.stats.authority_answers_unasked += 1,
        }
        match message.encode() {
            Ok(bytes) => self.send_message(session, &bytes),
            Err(_) => self.stats.messages_unsent += 1,
        }
    }

    fn answer_member(&mut self, node: NodeId, message: &Message) {
        match message.encode() {
            Ok(bytes) => self.send_message_to_end(node, &bytes),
            Err(_) => self.stats.messages_unsent += 1,
        }
    }

    fn answer_command(&mut self, id: u64, answer: OperatorAnswer) {
        let reply = match answer {
            OperatorAnswer::Token { token, expires } => Reply::Token { token, expires: expires.as_secs() },
            OperatorAnswer::Refused(Refused { text, .. }) => Reply::Refused { reason: text },
            OperatorAnswer::Tokens { .. }
            | OperatorAnswer::Entry { .. }
            | OperatorAnswer::Entries { .. }
            | OperatorAnswer::Authorities { .. }
            | OperatorAnswer::Plan { .. }
            | OperatorAnswer::Prepared { .. }
            | OperatorAnswer::Changed { .. }
            | OperatorAnswer::Revoked { .. }
            | OperatorAnswer::Federation(_)
            | OperatorAnswer::Done => refused("the authority answered something else than what was asked"),
        };
        self.push(Output::Reply { id, reply });
    }

    /// The authority beside this node has admitted somebody.
    pub(crate) fn on_joined(&mut self, spiffe_id: SpiffeId) {
        self.tell(What::NodeJoined { spiffe_id });
    }

    /// The authorities of the trust domain have changed. Judged like one that came with a renewal.
    pub(crate) fn on_bundle(&mut self, bundle: Bundle) {
        match self.trust.offer_bundle(bundle) {
            Ok(BundleUpdate::Replaced) => {
                let bytes = self.trust.bundle_document();
                self.push(Output::Persist(Record { kind: RecordKind::Bundle, bytes }));
                self.show_identity();
                self.judge_own_svid();
            }
            Ok(BundleUpdate::Unchanged | BundleUpdate::Outdated) => {}
            Err(_) => self.stats.identity_messages_refused += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_member_holds_more_tickets_than_its_share_and_they_come_back() {
        let mut desk = AuthorityDesk::default();
        let node = NodeId::of(&"spiffe://mesh.test/node/a".parse().unwrap());
        let tickets: Vec<_> = (0..20).filter_map(|id| desk.draw(Asker::Agent { node, id })).collect();
        assert_eq!(tickets.len(), TICKETS_PER_MEMBER);
        assert!(desk.draw(Asker::OwnRenewal).is_some(), "the others are not affected");
        assert_eq!(desk.redeem(tickets[3]), Some(Asker::Agent { node, id: 3 }));
        assert_eq!(desk.redeem(tickets[3]), None, "answered once");
        assert!(desk.draw(Asker::Renewal(node)).is_some());
        assert_eq!(desk.draw(Asker::Renewal(node)), None);
    }
}
