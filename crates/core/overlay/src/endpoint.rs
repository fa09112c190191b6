//! All sessions of one node.

mod half_open;
mod receive;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use x0t_model::{Entropy, Instant, UnixTime};

use self::half_open::HalfOpen;
use crate::config::PARAMETERS_LEN_MAX;
use crate::cookie::CookieJar;
use crate::handed_out::{OpeningKey, SealingRun};
use crate::handshake::Driver;
use crate::packet::{DATAGRAM_FRONT, FORWARD_OVERHEAD, ProtectedHeader};
use crate::path_mtu::PathMtu;
use crate::session::Session;
use crate::{
    Carrier, CloseReason, ConnectError, Credentials, EndpointConfig, Event, HopHeader, Offer, Provider, Purpose, Seen,
    SendError, SessionId, SessionInfo, Stats, TAG_LEN, Transmit, VerifyPeer, close_code,
};

/// Answers (RETRY, CLOSE) that wait for `poll_transmit`. More are dropped: whoever asked will ask again.
const OUTBOX_MAX: usize = 1024;
/// News that waits for `poll_event`. Above this, packets are dropped unread until the node has caught up.
const EVENTS_MAX: usize = 4096;
/// Below this, a relayed join session has no room for its headers.
const MAX_DATAGRAM_FLOOR: usize = 600;
/// Above this, a frame's two-byte length would not do.
const MAX_DATAGRAM_CEILING: usize = 65_000;

/// All sessions of one node. Never does IO: call a method when something happened, then drain [`Endpoint::poll_transmit`]
/// and [`Endpoint::poll_event`], then sleep until [`Endpoint::poll_timeout`].
pub struct Endpoint {
    config: EndpointConfig,
    provider: Arc<dyn Provider>,
    entropy: Entropy,
    identity: Option<Arc<Credentials>>,
    verifier: Option<Arc<dyn VerifyPeer>>,
    parameters: Vec<u8>,
    cookies: CookieJar,
    /// By our index, which is the lower half of a [`SessionId`].
    sessions: BTreeMap<u32, Box<Session>>,
    /// Which session a hello belongs to whose sender does not know our index: by the address and index it came with.
    answered: BTreeMap<(Carrier, u32), u32>,
    half_open: HalfOpen,
    /// Sessions that may have something to send.
    ready: BTreeSet<u32>,
    last_polled: u32,
    /// When sessions are to be looked after; never later than their deadline.
    timers: BTreeSet<(Instant, u32)>,
    outbox: VecDeque<Transmit>,
    events: VecDeque<Event>,
    serial: u32,
    /// What the last call said the time is.
    now: Instant,
    stats: Stats,
}

impl Endpoint {
    /// An endpoint without identity: it answers nobody until [`Endpoint::set_identity`].
    pub fn new(mut config: EndpointConfig, provider: Arc<dyn Provider>, mut entropy: Entropy) -> Self {
        config.max_datagram = config.max_datagram.clamp(MAX_DATAGRAM_FLOOR, MAX_DATAGRAM_CEILING);
        config.max_handshake_datagram =
            config.max_handshake_datagram.clamp(MAX_DATAGRAM_FLOOR / 2, config.max_datagram);
        Self {
            config,
            provider,
            cookies: CookieJar::new(&mut entropy),
            entropy,
            identity: None,
            verifier: None,
            parameters: Vec::new(),
            sessions: BTreeMap::new(),
            answered: BTreeMap::new(),
            half_open: HalfOpen::default(),
            ready: BTreeSet::new(),
            last_polled: 0,
            timers: BTreeSet::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            serial: 0,
            now: Instant::ZERO,
            stats: Stats::default(),
        }
    }

    /// Who we are from here on, and who decides about peers. Running sessions go on as they are.
    pub fn set_identity(&mut self, credentials: Arc<Credentials>, verifier: Arc<dyn VerifyPeer>) {
        self.identity = Some(credentials);
        self.verifier = Some(verifier);
    }

    /// Nobody is answered and no session is begun until the next [`Endpoint::set_identity`]. Running sessions go on: close them.
    pub fn clear_identity(&mut self) {
        self.identity = None;
    }

    /// Who decides about peers while we have no identity: all that a joining host has.
    pub fn set_verifier(&mut self, verifier: Arc<dyn VerifyPeer>) {
        self.verifier = Some(verifier);
    }

    /// What the peer is told of us in handshakes begun from here on: at most 512 bytes.
    pub fn set_parameters(&mut self, parameters: Vec<u8>) -> Result<(), SendError> {
        if parameters.len() > PARAMETERS_LEN_MAX {
            return Err(SendError::TooLarge { len: parameters.len(), limit: PARAMETERS_LEN_MAX });
        }
        self.parameters = parameters;
        Ok(())
    }

    /// Whether join sessions are answered from here on.
    pub fn set_accept_join(&mut self, accept: bool) {
        self.config.accept_join = accept;
    }

    /// Begins a session. It ends in [`Event::Established`] or [`Event::Refused`].
    pub fn connect(
        &mut self,
        purpose: Purpose,
        carrier: Carrier,
        now: Instant,
        wall: UnixTime,
    ) -> Result<SessionId, ConnectError> {
        self.now = now;
        let credentials = match purpose {
            Purpose::Join => None,
            Purpose::Link | Purpose::EndToEnd => Some(self.identity.clone().ok_or(ConnectError::NoIdentity)?),
        };
        let verifier = self.verifier.clone().ok_or(ConnectError::NoIdentity)?;
        if self.sessions.len() >= self.config.max_sessions {
            return Err(ConnectError::TooManySessions(self.sessions.len()));
        }
        let offer = self.offer(purpose, credentials, verifier, wall);
        let tls = self.provider.client(offer).map_err(ConnectError::Handshake)?;
        self.stats.handshakes_begun += 1;
        let driver = Driver::new(tls, true, self.config.handshake_retransmit);
        Ok(self.insert(purpose, carrier, 0, driver))
    }

    fn offer(
        &mut self,
        purpose: Purpose,
        credentials: Option<Arc<Credentials>>,
        verifier: Arc<dyn VerifyPeer>,
        wall: UnixTime,
    ) -> Offer {
        let parameters = self.parameters.clone();
        Offer { purpose, credentials, verifier, parameters, now: wall, entropy: self.entropy.bytes() }
    }

    fn insert(&mut self, purpose: Purpose, carrier: Carrier, peer_index: u32, driver: Driver) -> SessionId {
        let index = loop {
            let index = self.entropy.next_u32();
            if index != 0 && !self.sessions.contains_key(&index) {
                break index;
            }
        };
        self.serial = self.serial.wrapping_add(1);
        let id = SessionId::new(self.serial, index);
        let session = Session::new(id, (purpose, carrier), peer_index, driver, self.now, &self.config);
        self.sessions.insert(index, Box::new(session));
        self.ready.insert(index);
        self.arm(index);
        id
    }

    /// Queues an unreliable datagram; small ones share a packet until the next [`Endpoint::poll_transmit`].
    pub fn send_datagram(&mut self, session: SessionId, bytes: &[u8], now: Instant) -> Result<(), SendError> {
        self.now = now;
        let session = find(&mut self.sessions, session)?;
        let (index, limit) = (session.id.index(), session.datagram_limit(&self.config));
        session.usable().ok_or(SendError::NotEstablished)?.send_datagram(bytes, limit)?;
        self.ready.insert(index);
        Ok(())
    }

    /// Queues a reliable message of at most 64 KiB, delivered once and in order. An empty one is not sent at all.
    pub fn send_message(&mut self, session: SessionId, bytes: &[u8], now: Instant) -> Result<(), SendError> {
        self.now = now;
        let session = find(&mut self.sessions, session)?;
        let index = session.id.index();
        session.usable().ok_or(SendError::NotEstablished)?.send_message(bytes)?;
        self.ready.insert(index);
        Ok(())
    }

    /// Appends a FORWARD packet to `out`: `hop` under the link's keys, `payload` as it is.
    pub fn seal_forward(
        &mut self,
        session: SessionId,
        hop: &HopHeader,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let link = find_link(&mut self.sessions, session)?;
        let limit = self.config.max_datagram.saturating_sub(FORWARD_OVERHEAD);
        if payload.len() > limit {
            return Err(SendError::TooLarge { len: payload.len(), limit });
        }
        link.usable().ok_or(SendError::NotEstablished)?.seal_forward(hop, payload, out)?;
        self.sealed(session, FORWARD_OVERHEAD + payload.len());
        Ok(())
    }

    /// Seals a hop header over the front of each packet of a run: packets of `stride` bytes, the last of which may be shorter, each
    /// with [`FORWARD_OVERHEAD`] bytes of room or an opened FORWARD header before its payload. The payload stays where it is: a relay
    /// copies nothing. `hops` gives a header for each.
    pub fn seal_hops(
        &mut self,
        session: SessionId,
        run: &mut [u8],
        stride: usize,
        hops: impl IntoIterator<Item = HopHeader>,
    ) -> Result<(), SendError> {
        let link = find_link(&mut self.sessions, session)?;
        check_run(run.len(), stride, FORWARD_OVERHEAD, self.config.max_datagram)?;
        let traffic = link.usable().ok_or(SendError::NotEstablished)?;
        let mut count = 0;
        for (packet, hop) in run.chunks_mut(stride).zip(hops) {
            traffic.seal_hop(&hop, packet)?;
            count += 1;
        }
        self.sealed_run(session, count, run.len());
        Ok(())
    }

    /// Seals a run of PROTECTED packets in place, each with one DATAGRAM frame: packets of `stride` bytes, the last of which may be
    /// shorter. In each, the first `offset` bytes are left alone, then [`DATAGRAM_FRONT`] bytes are written, then comes the
    /// datagram, and the last [`crate::TAG_LEN`] bytes are written. Returns the number of the first packet; the others follow it.
    pub fn seal_datagrams(
        &mut self,
        session: SessionId,
        run: &mut [u8],
        stride: usize,
        offset: usize,
    ) -> Result<u64, SendError> {
        let held = find(&mut self.sessions, session)?;
        check_run(run.len(), stride, offset + DATAGRAM_FRONT + TAG_LEN, self.config.max_datagram)?;
        let traffic = held.usable().ok_or(SendError::NotEstablished)?;
        let (mut first, mut count) = (None, 0);
        for packet in run.chunks_mut(stride) {
            let number = traffic.seal_datagram_in_place(&mut packet[offset..])?;
            first.get_or_insert(number);
            count += 1;
        }
        self.sealed_run(session, count, run.len());
        Ok(first.unwrap_or_default())
    }

    /// What [`Self::seal_datagrams`] does, but for the sealing: the packets get their numbers, of which the first is returned, and are
    /// sealed by the value beside it. It leaves `offset` bytes at the front of each alone.
    pub fn give_datagram_numbers(
        &mut self,
        session: SessionId,
        (len, stride): (usize, usize),
        offset: usize,
    ) -> Result<(u64, SealingRun), SendError> {
        let held = find(&mut self.sessions, session)?;
        check_run(len, stride, offset + DATAGRAM_FRONT + TAG_LEN, self.config.max_datagram)?;
        let count = len.div_ceil(stride) as u64;
        let (header, key) = held.usable().ok_or(SendError::NotEstablished)?.give_numbers(false, count)?;
        self.sealed_run(session, count, len);
        Ok((header.pn, SealingRun::datagrams(key, header, offset)))
    }

    /// What [`Self::seal_hops`] does with one hop header for all packets of a run, but for the sealing.
    pub fn give_hop_numbers(
        &mut self,
        session: SessionId,
        (len, stride): (usize, usize),
        hop: HopHeader,
    ) -> Result<SealingRun, SendError> {
        let link = find_link(&mut self.sessions, session)?;
        check_run(len, stride, FORWARD_OVERHEAD, self.config.max_datagram)?;
        let count = len.div_ceil(stride) as u64;
        let (header, key) = link.usable().ok_or(SendError::NotEstablished)?.give_numbers(true, count)?;
        self.sealed_run(session, count, len);
        Ok(SealingRun::hops(key, header, hop))
    }

    /// What opens `packet` and others of its session and epoch away from here; what came of it is told with
    /// [`Self::handle_opened`]. `None` if it has to be opened here: it belongs to no session at work, or to another epoch than the
    /// session is in.
    pub fn opening_key(&self, packet: &[u8]) -> Option<OpeningKey> {
        let header = ProtectedHeader::decode(packet).ok()?;
        let session = self.sessions.get(&header.dst_index)?;
        let is_link = session.purpose == Purpose::Link;
        if !session.is_established() || session.purpose == Purpose::Join || header.forward && !is_link {
            return None;
        }
        let (epoch, key) = session.traffic.as_ref()?.opening_key(header.epoch)?;
        Some(OpeningKey::new(session.id, epoch, is_link, key))
    }

    /// Appends a PROTECTED packet with one DATAGRAM frame to `out`, for the data path: the caller carries it.
    pub fn seal_datagram_packet(
        &mut self,
        session: SessionId,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let held = find(&mut self.sessions, session)?;
        let limit = held.sealed_datagram_limit(&self.config);
        if bytes.len() > limit {
            return Err(SendError::TooLarge { len: bytes.len(), limit });
        }
        let start = out.len();
        if held.is_established() {
            held.begin_packet(out);
        }
        held.usable().ok_or(SendError::NotEstablished)?.seal_datagram(bytes, out)?;
        let len = out.len() - start;
        self.sealed(session, len);
        Ok(())
    }

    fn sealed(&mut self, id: SessionId, len: usize) {
        self.sealed_run(id, 1, len);
    }

    fn sealed_run(&mut self, id: SessionId, count: u64, len: usize) {
        self.stats.sent += count;
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(&id.index()) {
            session.tx = (session.tx.0 + count, session.tx.1 + len as u64);
            if session.traffic.as_mut().is_some_and(|traffic| traffic.rekey_if_due(now)) {
                self.stats.rekeys += 1;
                self.ready.insert(id.index());
            }
        }
    }

    /// The largest datagram, in bytes of UDP payload, that is known to pass the path of a link.
    pub fn path_mtu(&self, session: SessionId) -> Option<usize> {
        self.get(session)?.traffic.as_ref()?.path_mtu().map(PathMtu::current)
    }

    /// A link begins where an earlier session on the same path has got to; its size is confirmed at once.
    pub fn resume_path_mtu(&mut self, session: SessionId, mtu: usize) {
        self.with_path_mtu(session, |path_mtu| path_mtu.resume(mtu));
    }

    /// Data passes over a link, in this session or around it: while it does, the size in use is confirmed often.
    pub fn carried_data(&mut self, session: SessionId, now: Instant) {
        self.now = now;
        let Ok(link) = find(&mut self.sessions, session) else { return };
        let path_mtu = link.traffic.as_mut().and_then(|traffic| traffic.path_mtu_mut());
        if path_mtu.is_some_and(|path_mtu| path_mtu.on_data(now)) {
            self.arm(session.index());
        }
    }

    /// The operating system says that a datagram of `len` bytes is larger than the device under a link takes.
    pub fn datagram_refused(&mut self, session: SessionId, len: usize, now: Instant) {
        self.now = now;
        self.with_path_mtu(session, |path_mtu| path_mtu.on_refused(len, now));
    }

    fn with_path_mtu(&mut self, session: SessionId, change: impl FnOnce(&mut PathMtu)) {
        let Ok(link) = find(&mut self.sessions, session) else { return };
        if let Some(path_mtu) = link.traffic.as_mut().and_then(|traffic| traffic.path_mtu_mut()) {
            change(path_mtu);
            let event = link.path_mtu_event();
            self.events.extend(event);
            self.ready.insert(session.index());
            self.arm(session.index());
        }
    }

    /// Longest datagram that fits one packet of `session` as [`Self::send_datagram`] takes it.
    pub fn max_datagram(&self, session: SessionId) -> Option<usize> {
        self.get(session).map(|session| session.datagram_limit(&self.config))
    }

    /// Ends a session, tells the peer, and reports [`Event::Closed`] or [`Event::Refused`].
    pub fn close(&mut self, session: SessionId, code: u16, reason: &str, now: Instant) {
        self.now = now;
        if self.get(session).is_some_and(|session| session.closing.is_none()) {
            let local = CloseReason::Local { code, reason: reason.to_owned() };
            self.end(session.index(), local, code, reason);
        }
    }

    /// Says goodbye with `code` and `text`, and reports `reason`.
    fn end(&mut self, index: u32, reason: CloseReason, code: u16, text: &str) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        self.events.push_back(session.end_event(reason));
        if let Some(bytes) = session.begin_closing(code, text, self.now) {
            let transmit = Transmit { session: Some(session.id), carrier: session.carrier, bytes };
            self.answer(transmit);
        }
        self.arm(index);
    }

    fn answer(&mut self, transmit: Transmit) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(transmit);
        }
    }

    /// Drops a session without a word to anyone.
    pub fn forget(&mut self, session: SessionId) {
        if self.get(session).is_some() {
            self.remove(session.index());
        }
    }

    fn remove(&mut self, index: u32) -> Option<Box<Session>> {
        let session = self.sessions.remove(&index)?;
        self.ready.remove(&index);
        if let Some(armed) = session.armed {
            self.timers.remove(&(armed, index));
        }
        if !session.initiator {
            self.answered.remove(&(session.first_carrier, session.peer_index));
            self.half_open.release(index);
        }
        Some(session)
    }

    /// Does what is due at `now`. Of `wall` it needs nothing: certificates are judged when packets arrive.
    pub fn handle_timeout(&mut self, now: Instant, _wall: UnixTime) {
        self.now = now;
        while let Some(&(at, index)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(session) = self.sessions.get_mut(&index) {
                session.armed = None;
            }
            self.expire(index);
            self.arm(index);
        }
    }

    fn expire(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&index) else { return };
        if let Some(closing) = &session.closing {
            if now >= closing.until {
                self.remove(index);
            }
            return;
        }
        let idle_timeout = self.config.idle_timeout;
        if session.established_at.is_some() && now >= session.last_received_at + idle_timeout {
            self.stats.idle_closed += 1;
            let event = session.end_event(CloseReason::Idle(idle_timeout));
            self.events.push_back(event);
            self.remove(index);
            return;
        }
        if session.handshake.is_some() && now >= session.handshake_until {
            if session.established_at.is_some() {
                session.handshake = None;
            } else {
                self.give_up(index);
                return;
            }
        }
        if let Some(driver) = &mut session.handshake {
            driver.handle_timeout(now, &mut self.entropy);
        }
        let heard = session.last_received_at;
        if let Some(traffic) = session.usable() {
            traffic.handle_timeout(heard, now);
            self.stats.rekeys += u64::from(traffic.rekey_if_due(now));
        }
        let event = session.path_mtu_event();
        self.events.extend(event);
        self.ready.insert(index);
        self.validate(index);
    }

    fn give_up(&mut self, index: u32) {
        self.stats.handshakes_timed_out += 1;
        if let Some(session) = self.remove(index)
            && session.initiator
        {
            let reason = CloseReason::HandshakeTimeout(self.config.handshake_timeout);
            self.events.push_back(session.end_event(reason));
        }
    }

    fn arm(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(&index) else { return };
        let Some(deadline) = session.deadline(&self.config) else { return };
        // A timer that fires early costs one look; moving it with every packet would cost more.
        if session.armed.is_none_or(|armed| deadline < armed) {
            if let Some(armed) = session.armed.replace(deadline) {
                self.timers.remove(&(armed, index));
            }
            self.timers.insert((deadline, index));
        }
    }

    /// When to call [`Endpoint::handle_timeout`]. May be earlier than needed, never later.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next packet to send. Sessions take turns.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.outbox.pop_front() {
            self.stats.sent += 1;
            return Some(transmit);
        }
        loop {
            let after = self.ready.range(self.last_polled.saturating_add(1)..).next();
            let index = *after.or_else(|| self.ready.first())?;
            self.last_polled = index;
            if let Some(transmit) = self.poll_session(index) {
                return Some(transmit);
            }
            self.ready.remove(&index);
        }
    }

    fn poll_session(&mut self, index: u32) -> Option<Transmit> {
        let session = self.sessions.get_mut(&index)?;
        let mut bytes = Vec::new();
        if !session.poll(&self.config, self.now, &mut self.entropy, &mut self.stats, &mut bytes) {
            if session.usable().is_some_and(|traffic| traffic.is_exhausted()) {
                self.end(index, CloseReason::KeysExhausted, close_code::KEYS_EXHAUSTED, "keys are exhausted");
            }
            return None;
        }
        let transmit = Transmit { session: Some(session.id), carrier: session.carrier, bytes };
        self.sealed(transmit.session?, transmit.bytes.len());
        self.arm(index);
        Some(transmit)
    }

    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What there is to know about a session.
    pub fn info(&self, session: SessionId) -> Option<SessionInfo> {
        self.get(session).map(Session::info)
    }

    /// Which of the newest packets of an established session have come; none if it is not, or nothing has.
    pub fn seen(&self, session: SessionId) -> Option<Seen> {
        self.get(session)?.traffic.as_ref()?.seen()
    }

    /// All sessions that are not over, established or not.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.values().filter(|session| session.closing.is_none()).map(|session| session.id)
    }

    /// Whether a session of that index is held. Whoever seals for one that is not remembers what this node has lost.
    pub fn holds(&self, index: u32) -> bool {
        self.sessions.contains_key(&index)
    }

    /// The index that packets of a session are sealed for: what the peer calls it.
    pub fn peer_index(&self, session: SessionId) -> Option<u32> {
        self.get(session).map(|session| session.peer_index)
    }

    /// Whether [`Self::poll_event`] or [`Self::poll_transmit`] may have something.
    pub fn has_work(&self) -> bool {
        !(self.events.is_empty() && self.outbox.is_empty() && self.ready.is_empty())
    }

    /// Handshakes that others began and have not finished.
    pub fn half_open(&self) -> usize {
        self.half_open.total()
    }

    /// What was counted.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id.index()).map(|session| &**session).filter(|session| session.id == id)
    }
}

fn find(sessions: &mut BTreeMap<u32, Box<Session>>, id: SessionId) -> Result<&mut Session, SendError> {
    let session = sessions.get_mut(&id.index()).filter(|session| session.id == id);
    session.map(|session| &mut **session).ok_or(SendError::UnknownSession)
}

fn find_link(sessions: &mut BTreeMap<u32, Box<Session>>, id: SessionId) -> Result<&mut Session, SendError> {
    let session = find(sessions, id)?;
    if session.purpose == Purpose::Link { Ok(session) } else { Err(SendError::NotALink) }
}

/// Whether every packet of a run has room for what is written into it and is no longer than allowed.
fn check_run(len: usize, stride: usize, least: usize, limit: usize) -> Result<(), SendError> {
    let longest = stride.min(len);
    let last = if stride == 0 { 0 } else { (len + stride - 1) % stride + 1 };
    if len == 0 || longest > limit || last < least {
        let len = if longest > limit { longest } else { last };
        return Err(SendError::TooLarge { len, limit });
    }
    Ok(())
}
