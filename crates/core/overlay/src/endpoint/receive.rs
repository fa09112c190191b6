//! A packet, from its first byte to what it does.

use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::{DecodeError, Instant, UnixTime};

use super::{EVENTS_MAX, Endpoint, OUTBOX_MAX};
use crate::epochs::OpenError;
use crate::frame;
use crate::handshake::{Arrival, Driver, Outcome};
use crate::packet::{
    self, FORWARD, HANDSHAKE, HandshakeHeader, JOIN, Level, PROTECTED, PROTECTED_HEADER_LEN, ProtectedHeader, RETRY,
    Retry,
};
use crate::session::Session;
use crate::traffic::{FramesEnd, OpenFailure};
use crate::validation::{SETTLED_FOR, Step};
use crate::{
    Ahead, Carrier, CloseReason, Event, HandshakeError, HopHeader, Opened, Purpose, TAG_LEN, Transmit, close_code,
};

/// A handshake that others began is safe from eviction for this long.
const HALF_OPEN_PATIENCE: Duration = Duration::from_secs(1);

/// What a handshake header says, free of the packet.
#[derive(Clone, Copy)]
struct Hello {
    purpose: Purpose,
    dst_index: u32,
    src_index: u32,
    arrival: Arrival,
}

impl Endpoint {
    /// One packet arrived. It is opened in place; what is to be used at once is returned, everything else becomes events.
    pub fn handle_datagram<'p>(
        &mut self,
        carrier: Carrier,
        packet: &'p mut [u8],
        now: Instant,
        wall: UnixTime,
    ) -> Option<Opened<'p>> {
        self.handle_opened(carrier, packet, None, now, wall)
    }

    /// One packet arrived that may have been opened `ahead` with [`Self::opening_key`]. It is judged as if it were opened now.
    pub fn handle_opened<'p>(
        &mut self,
        carrier: Carrier,
        packet: &'p mut [u8],
        ahead: Option<&Ahead>,
        now: Instant,
        wall: UnixTime,
    ) -> Option<Opened<'p>> {
        self.now = now;
        self.stats.received += 1;
        if self.events.len() >= EVENTS_MAX {
            self.stats.overrun += 1;
            return None;
        }
        let (joining, packet) = match packet {
            [JOIN, rest @ ..] => (true, rest),
            whole => (false, whole),
        };
        match packet.first() {
            Some(&(FORWARD | PROTECTED)) => return self.on_protected(carrier, joining, packet, ahead),
            Some(&HANDSHAKE) => self.on_handshake(carrier, joining, packet, wall),
            Some(&RETRY) => self.on_retry(carrier, joining, packet),
            _ => self.stats.unknown_type += 1,
        }
        None
    }

    fn on_protected<'p>(
        &mut self,
        carrier: Carrier,
        joining: bool,
        packet: &'p mut [u8],
        ahead: Option<&Ahead>,
    ) -> Option<Opened<'p>> {
        let len = packet.len() as u64;
        let Ok(header) = ProtectedHeader::decode(packet) else {
            self.stats.malformed += 1;
            return None;
        };
        let index = header.dst_index;
        // What was opened for a session that is no more is no packet of the one that has its index now.
        let held =
            self.sessions.get_mut(&index).filter(|session| ahead.is_none_or(|ahead| ahead.session == session.id));
        let Some(session) = held else {
            self.stats.unknown_session += 1;
            return None;
        };
        let belongs = joining == (session.purpose == Purpose::Join);
        if !belongs || header.forward && session.purpose != Purpose::Link {
            self.stats.unexpected += 1;
            return None;
        }
        if session.closing.is_some() {
            self.repeat_close(index);
            return None;
        }
        let Some(traffic) = session.traffic.as_deref_mut() else {
            self.stats.early += 1;
            return None;
        };
        let (aad, rest) = packet.split_at_mut(PROTECTED_HEADER_LEN);
        let (sealed, payload) =
            if header.forward { rest.split_at_mut(HopHeader::LEN + TAG_LEN) } else { (rest, Default::default()) };
        let epoch = traffic.epoch();
        let (plain_len, newest) = match traffic.open(header, aad, sealed, ahead, self.now) {
            Ok(opened) => opened,
            Err(failure) => {
                self.on_unopened(index, failure);
                return None;
            }
        };
        let (id, followed) = (session.id, traffic.epoch() != epoch);
        let settled = !followed
            && session.established_at.is_some()
            && session.handshake.is_none()
            && moves(session.carrier, carrier).is_none()
            && !traffic.is_rekey_due(self.now)
            && !traffic.has_work();
        session.rx = (session.rx.0 + 1, session.rx.1 + len);
        session.last_received_at = self.now;
        // The usual packet of a session at work ends here: there is nothing to conclude from it and no deadline that it moves closer.
        if !settled {
            self.stats.rekeys += u64::from(followed);
            self.on_authentic(index, carrier, newest);
            self.arm(index);
        }
        let plain = &mut sealed[..plain_len];
        if header.forward {
            return match HopHeader::decode(plain) {
                Ok(hop) => Some(Opened::Forward { session: id, hop, payload }),
                Err(_) => {
                    self.end_violation(index, "hop header that does not decode");
                    None
                }
            };
        }
        if let Some(data) = frame::sole_datagram(plain) {
            return Some(Opened::Datagram { session: id, bytes: &mut plain[data] });
        }
        self.on_frames(index, header.pn, plain);
        self.arm(index);
        None
    }

    fn on_unopened(&mut self, index: u32, failure: OpenFailure) {
        match failure {
            OpenFailure::Replayed => self.stats.replayed += 1,
            OpenFailure::TooOld => self.stats.too_old += 1,
            OpenFailure::Unopened(OpenError::UnknownEpoch) => self.stats.unknown_epoch += 1,
            OpenFailure::Unopened(error) => {
                self.stats.forged += 1;
                if let Some(session) = self.sessions.get_mut(&index) {
                    session.forged += 1;
                }
                if error == OpenError::IntegrityLimit {
                    self.end(index, CloseReason::IntegrityLimit, close_code::INTEGRITY, "too many forged packets");
                }
            }
        }
    }

    /// The peer itself sealed this. That may be the first sign that it accepted us, and the peer may have moved.
    fn on_authentic(&mut self, index: u32, carrier: Carrier, newest: bool) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        if session.established_at.is_none() {
            self.stats.handshakes_done += 1;
            let event = session.establish(self.now);
            self.events.extend(event);
        } else if !session.initiator && session.handshake.is_some() {
            session.handshake = None;
        }
        if let Some(candidate) = moves(session.carrier, carrier).filter(|_| newest && self.now >= session.settled_until)
            && let Some(traffic) = session.usable().filter(|traffic| !traffic.is_validating())
        {
            traffic.validate(candidate, [self.entropy.next_u64(), self.entropy.next_u64()], self.now);
            self.validate(index);
        }
        let Some(session) = self.sessions.get_mut(&index) else { return };
        if let Some(traffic) = session.usable() {
            self.stats.rekeys += u64::from(traffic.rekey_if_due(self.now));
            if traffic.has_work() {
                self.ready.insert(index);
            }
        }
    }

    /// Asks where a peer is, or concludes.
    pub(super) fn validate(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let (id, now) = (session.id, self.now);
        let old_carrier = session.carrier;
        let Some(traffic) = session.usable() else { return };
        match traffic.validation_mut().map(|validation| validation.step(now)) {
            None | Some(Step::Wait) => {}
            Some(Step::Ask { old, candidate, new }) => {
                for (carrier, token) in [(old_carrier, old), (Carrier::Udp(candidate), new)] {
                    let mut bytes = Vec::new();
                    session.begin_packet(&mut bytes);
                    let sealed = session.usable().map(|traffic| traffic.seal_challenge(token, &mut bytes));
                    if let Some(Ok(())) = sealed
                        && self.outbox.len() < OUTBOX_MAX
                    {
                        self.outbox.push_back(Transmit { session: Some(id), carrier, bytes });
                    }
                }
            }
            Some(Step::Stay) => {
                traffic.end_validation();
                session.settled_until = now + SETTLED_FOR;
                self.stats.roams_refuted += 1;
            }
            Some(Step::Move(address)) => {
                traffic.end_validation();
                if let Some(path_mtu) = traffic.path_mtu_mut() {
                    path_mtu.restart(now);
                }
                session.carrier = Carrier::Udp(address);
                self.stats.roams += 1;
                let event = session.path_mtu_event();
                self.events.extend(event);
                self.events.push_back(Event::CarrierChanged { session: id, carrier: Carrier::Udp(address) });
            }
        }
    }

    fn on_frames(&mut self, index: u32, pn: u64, frames: &[u8]) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let id = session.id;
        let Some(traffic) = session.usable() else { return };
        match traffic.handle_frames(id, pn, frames, self.now, &mut self.events) {
            Ok(()) => {
                let event = session.path_mtu_event();
                self.events.extend(event);
                self.ready.insert(index);
                self.validate(index);
            }
            Err(FramesEnd::Violation(what)) => self.end_violation(index, what),
            Err(FramesEnd::Closed { code, reason }) => self.end_by_peer(index, code, reason),
        }
    }

    fn end_violation(&mut self, index: u32, what: &'static str) {
        self.stats.protocol_closed += 1;
        self.end(index, CloseReason::Protocol(what), close_code::PROTOCOL, what);
    }

    /// The peer lingers and we need not.
    fn end_by_peer(&mut self, index: u32, code: u16, reason: String) {
        if let Some(session) = self.remove(index) {
            self.stats.handshakes_failed += u64::from(session.established_at.is_none());
            self.events.push_back(session.end_event(CloseReason::Peer { code, reason }));
        }
    }

    fn repeat_close(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        if let Some(bytes) = session.close_reply() {
            let transmit = Transmit { session: Some(session.id), carrier: session.carrier, bytes };
            self.answer(transmit);
        }
    }

    fn on_retry(&mut self, carrier: Carrier, joining: bool, packet: &[u8]) {
        let retry = match Retry::decode(packet) {
            Ok(retry) => retry,
            Err(error) => return self.count_undecodable(error),
        };
        let Some(session) = self.sessions.get_mut(&retry.dst_index) else {
            self.stats.unknown_session += 1;
            return;
        };
        let expected = session.initiator && session.peer_index == 0 && joining == (session.purpose == Purpose::Join);
        let Some(driver) = session.handshake.as_deref_mut().filter(|_| expected) else {
            self.stats.unexpected += 1;
            return;
        };
        if session.carrier != carrier {
            self.stats.wrong_carrier += 1;
        } else if driver.on_retry(retry.cookie) {
            self.stats.retries_obeyed += 1;
            self.ready.insert(retry.dst_index);
        }
    }

    fn on_handshake(&mut self, carrier: Carrier, joining: bool, packet: &mut [u8], wall: UnixTime) {
        let (mut hello, cookie) = match HandshakeHeader::decode(packet) {
            Ok(header) => (
                Hello {
                    purpose: header.purpose,
                    dst_index: header.dst_index,
                    src_index: header.src_index,
                    arrival: Arrival {
                        level: header.level,
                        pn: header.pn,
                        header_len: header.encoded_len(),
                        sum_is_right: false,
                    },
                },
                header.cookie,
            ),
            Err(error) => return self.count_undecodable(error),
        };
        if joining != (hello.purpose == Purpose::Join) {
            self.stats.unexpected += 1;
            return;
        }
        let known = match hello.dst_index {
            0 => self.answered.get(&(carrier, hello.src_index)).copied(),
            index => Some(index),
        };
        let index = match known {
            Some(index) => index,
            None => {
                if !self.may_answer(carrier, hello, packet, cookie) {
                    return;
                }
                hello.arrival.sum_is_right = true;
                let Some(index) = self.answer_hello(carrier, hello, wall) else { return };
                index
            }
        };
        self.on_handshake_of(index, carrier, hello, packet);
    }

    /// Whether a stranger has shown that it receives at its address. If not, it is told how, and nothing is kept.
    fn may_answer(&mut self, carrier: Carrier, hello: Hello, packet: &[u8], cookie: &[u8]) -> bool {
        let serves = self.identity.is_some() && (hello.purpose != Purpose::Join || self.config.accept_join);
        if hello.arrival.level != Level::Initial || !serves {
            self.stats.unexpected += 1;
            return false;
        }
        let Some((covered, sum)) =
            packet.split_last_chunk::<TAG_LEN>().filter(|(covered, _)| covered.len() >= hello.arrival.header_len)
        else {
            self.stats.malformed += 1;
            return false;
        };
        if packet::checksum(covered) != *sum {
            self.stats.forged += 1;
            return false;
        }
        if !self.cookies.accepts(cookie, carrier, hello.purpose, hello.src_index, self.now) {
            self.stats.cookies_refused += u64::from(!cookie.is_empty());
            self.ask_for_cookie(carrier, hello, packet.len());
            return false;
        }
        let room = self.sessions.len() < self.config.max_sessions && self.half_open.has_share(carrier, &self.config);
        if !room || !self.make_room() {
            self.stats.half_open_refused += 1;
            return false;
        }
        true
    }

    /// Whether one more handshake may be half open. If there are too many, one that has had time to finish and has not makes
    /// room: sources are cheap for whoever owns a large network, and those who mean it are done within a few round trips.
    fn make_room(&mut self) -> bool {
        if self.half_open.total() < self.config.max_half_open {
            return true;
        }
        let began = |index: u32| self.sessions.get(&index).map(|session| (session.handshake_until, index));
        let oldest = self.half_open.sessions().filter_map(began).min();
        let patience = self.config.handshake_timeout.saturating_sub(HALF_OPEN_PATIENCE);
        match oldest {
            Some((until, index)) if self.now + patience >= until => {
                self.stats.half_open_evicted += 1;
                self.remove(index);
                true
            }
            _ => false,
        }
    }

    fn ask_for_cookie(&mut self, carrier: Carrier, hello: Hello, provoked_by: usize) {
        let (purpose, dst_index) = (hello.purpose, hello.src_index);
        let cookie = self.cookies.bake(carrier, purpose, dst_index, self.now, &mut self.entropy);
        let mut bytes = Vec::new();
        if purpose == Purpose::Join {
            bytes.push(JOIN);
        }
        Retry { dst_index, cookie: &cookie }.encode(&mut bytes);
        // An answer larger than its question would make us a weapon against whoever the question pretends to come from.
        if bytes.len() <= provoked_by {
            self.stats.retries_sent += 1;
            self.answer(Transmit { session: None, carrier, bytes });
        }
    }

    fn answer_hello(&mut self, carrier: Carrier, hello: Hello, wall: UnixTime) -> Option<u32> {
        let (credentials, verifier) = (self.identity.clone()?, self.verifier.clone()?);
        let offer = self.offer(hello.purpose, Some(credentials), verifier, wall);
        let Ok(tls) = self.provider.server(offer) else {
            self.stats.handshakes_failed += 1;
            return None;
        };
        self.stats.handshakes_answered += 1;
        let driver = Driver::new(tls, false, self.config.handshake_retransmit);
        let index = self.insert(hello.purpose, carrier, hello.src_index, driver).index();
        self.answered.insert((carrier, hello.src_index), index);
        self.half_open.add(index, carrier);
        Some(index)
    }

    fn on_handshake_of(&mut self, index: u32, carrier: Carrier, hello: Hello, packet: &mut [u8]) {
        let Some(session) = self.sessions.get_mut(&index) else {
            self.stats.unknown_session += 1;
            return;
        };
        let peer_matches = session.peer_index == 0 || session.peer_index == hello.src_index;
        if session.purpose != hello.purpose || session.carrier != carrier || !peer_matches {
            self.stats.wrong_carrier += 1;
            return;
        }
        if session.closing.is_some() {
            self.repeat_close(index);
            return;
        }
        let Some(driver) = session.handshake.as_deref_mut() else {
            self.stats.unexpected += 1;
            return;
        };
        let outcome = driver.handle(hello.arrival, packet, self.now);
        self.on_outcome(index, hello, outcome);
        self.arm(index);
    }

    fn on_outcome(&mut self, index: u32, hello: Hello, outcome: Outcome) {
        match outcome {
            Outcome::Forged => self.stats.forged += 1,
            Outcome::Malformed => self.stats.malformed += 1,
            Outcome::Early => self.stats.early += 1,
            Outcome::Taken => {
                let Some(session) = self.sessions.get_mut(&index) else { return };
                if session.peer_index == 0 {
                    session.peer_index = hello.src_index;
                }
                session.rx.0 += 1;
                self.ready.insert(index);
                self.after_handshake_packet(index);
            }
            Outcome::Failed(error) => {
                self.stats.handshakes_failed += 1;
                let (code, text) = told_to_peer(&error);
                self.set_peer_index(index, hello.src_index);
                self.end(index, CloseReason::Handshake(error), code, &text);
            }
            Outcome::PeerClosed { code, reason } => self.end_by_peer(index, code, reason),
        }
    }

    fn set_peer_index(&mut self, index: u32, peer_index: u32) {
        if let Some(session) = self.sessions.get_mut(&index)
            && session.peer_index == 0
        {
            session.peer_index = peer_index;
        }
    }

    fn after_handshake_packet(&mut self, index: u32) {
        let (config, now) = (&self.config, self.now);
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let session: &mut Session = session;
        if session.take_over_traffic(config, now) && !session.initiator {
            self.half_open.release(index);
            self.stats.handshakes_done += 1;
            let event = session.establish(now);
            self.events.extend(event);
        } else if !session.initiator
            && let Some(traffic) = session.usable()
            && !traffic.is_confirmed()
        {
            // The initiator still talks handshake: it has not heard that it is done.
            traffic.ping();
        }
    }

    fn count_undecodable(&mut self, error: DecodeError) {
        match error {
            DecodeError::Invalid { field: packet::VERSION_FIELD, .. } => self.stats.unknown_version += 1,
            _ => self.stats.malformed += 1,
        }
    }
}

/// What the peer may know of our reason.
fn told_to_peer(error: &HandshakeError) -> (u16, String) {
    match error {
        HandshakeError::Peer(reason) => (close_code::PEER_REFUSED, reason.clone()),
        HandshakeError::Tls { alert, text } => (close_code::TLS | u16::from(alert.unwrap_or_default()), text.clone()),
        HandshakeError::Credentials(_) => (close_code::TLS, "responder has no usable identity".to_owned()),
    }
}

/// Where a session that lives at `old` may have moved, as a packet that came by `new` suggests. What comes straight from a far end
/// that is also a neighbour suggests nothing.
fn moves(old: Carrier, new: Carrier) -> Option<SocketAddr> {
    match (old, new) {
        (Carrier::Udp(old), Carrier::Udp(new)) if old != new => Some(new),
        _ => None,
    }
}
