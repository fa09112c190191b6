//! An established session at work: packets under traffic keys, both ways.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use x0t_model::Instant;

use crate::epochs::{Epochs, OpenError, RekeyPolicy};
use crate::frame::{self, Ack, CHALLENGE_LEN, DATAGRAM_OVERHEAD, Frame, STREAM_OVERHEAD};
use crate::packet::{FORWARD_OVERHEAD, PROTECTED_HEADER_LEN, PROTECTED_OVERHEAD, ProtectedHeader};
use crate::path_mtu::PathMtu;
use crate::replay::{ReplayWindow, Seen};
use crate::rtt::RoundTrip;
use crate::stream::{
    MESSAGE_LEN_MAX, MESSAGE_PREFIX, MessageReader, ReceiveStream, STREAM_WINDOW, SendStream, ViolationError,
};
use crate::validation::Validation;
use crate::{Ahead, Event, HopHeader, KeyPair, NextKeys, PacketKey, SendError, SessionId, Stats, TAG_LEN, handed_out};

/// Datagrams that wait for `poll_transmit`.
const DATAGRAMS_MAX: usize = 256;
/// PINGs that are answered one by one. The peer may mean any of them: one asks for a round trip, one for a size.
const PINGS_MAX: usize = 4;
/// Numbers that are told back. The peer asks two addresses at once, one of which leads here by a detour.
const CHALLENGES_MAX: usize = 4;
/// An answer to a probe is not waited for any less: peers are processes on busy hosts.
const PROBE_TIMEOUT_MIN: Duration = Duration::from_millis(50);

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenFailure {
    /// Seen before.
    Replayed,
    /// Older than the replay window knows.
    TooOld,
    /// Not opened.
    Unopened(OpenError),
}

/// Why frames end the session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FramesEnd {
    /// The peer closed it.
    Closed { code: u16, reason: String },
    /// The peer sent what no peer sends.
    Violation(&'static str),
}

/// Keys, numbers, streams and timers of one session.
pub(crate) struct Traffic {
    epochs: Epochs,
    window: ReplayWindow,
    next_pn: u64,
    peer_index: u32,
    send: SendStream,
    receive: ReceiveStream,
    messages: MessageReader,
    datagrams: VecDeque<Vec<u8>>,
    ack: Option<u64>,
    pings: VecDeque<u64>,
    ping_due: bool,
    /// The PING that no ACK has answered.
    ping_sent: Option<u64>,
    rtt: RoundTrip,
    tries: u32,
    resend_at: Option<Instant>,
    /// On links.
    path_mtu: Option<PathMtu>,
    /// Numbers that the peer wants to hear back.
    challenges: VecDeque<u64>,
    /// Whether the peer has moved.
    validation: Option<Validation>,
}

impl Traffic {
    pub(crate) fn new(
        policy: RekeyPolicy,
        (keys, next): (KeyPair, Box<dyn NextKeys>),
        peer_index: u32,
        rtt: &RoundTrip,
        retransmit: Duration,
        now: Instant,
    ) -> Self {
        let mut own = RoundTrip::new(retransmit);
        if let Some(sample) = rtt.smoothed() {
            own.add(sample);
        }
        Self {
            epochs: Epochs::new(policy, keys, next, now),
            window: ReplayWindow::default(),
            next_pn: 0,
            peer_index,
            send: SendStream::new(STREAM_WINDOW),
            receive: ReceiveStream::new(STREAM_WINDOW),
            messages: MessageReader::default(),
            datagrams: VecDeque::new(),
            ack: None,
            pings: VecDeque::new(),
            ping_due: false,
            ping_sent: None,
            rtt: own,
            tries: 0,
            resend_at: None,
            path_mtu: None,
            challenges: VecDeque::new(),
            validation: None,
        }
    }

    /// Finds out how large a datagram may be, up to `max` bytes of UDP payload.
    pub(crate) fn discover_path_mtu(&mut self, max: usize, now: Instant) {
        self.path_mtu = Some(PathMtu::new(max, now));
    }

    pub(crate) const fn path_mtu(&self) -> Option<&PathMtu> {
        self.path_mtu.as_ref()
    }

    pub(crate) const fn path_mtu_mut(&mut self) -> Option<&mut PathMtu> {
        self.path_mtu.as_mut()
    }

    /// Finds out whether the peer is at `candidate`, unless that is being done for some other address.
    pub(crate) fn validate(&mut self, candidate: SocketAddr, tokens: [u64; 2], now: Instant) {
        let timeout = self.rtt.timeout(0);
        self.validation.get_or_insert_with(|| Validation::new(candidate, tokens, timeout, now));
    }

    pub(crate) const fn validation_mut(&mut self) -> Option<&mut Validation> {
        self.validation.as_mut()
    }

    pub(crate) const fn is_validating(&self) -> bool {
        self.validation.is_some()
    }

    pub(crate) fn end_validation(&mut self) {
        self.validation = None;
    }

    pub(crate) const fn epoch(&self) -> u32 {
        self.epochs.number()
    }

    pub(crate) const fn is_confirmed(&self) -> bool {
        self.epochs.is_confirmed()
    }

    pub(crate) const fn smoothed_rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// Bytes held for this session: what bounds are there for.
    pub(crate) fn buffered(&self) -> usize {
        let datagrams: usize = self.datagrams.iter().map(Vec::len).sum();
        self.send.buffered() + self.receive.buffered() + self.messages.buffered() + datagrams
    }

    /// Whether nothing can be sent any more.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.epochs.is_exhausted()
    }

    /// Asks the peer for a sign of life, in the newest epoch.
    pub(crate) const fn ping(&mut self) {
        self.ping_due = true;
    }

    /// Opens the sealed part of a packet in place, unless that was done `ahead`. `Ok` holds the length of the plaintext and whether no newer packet of the
    /// peer is known.
    pub(crate) fn open(
        &mut self,
        header: ProtectedHeader,
        aad: &[u8],
        sealed: &mut [u8],
        ahead: Option<&Ahead>,
        now: Instant,
    ) -> Result<(usize, bool), OpenFailure> {
        if !self.window.is_fresh(header.pn) {
            let too_old = self.window.is_too_old(header.pn);
            return Err(if too_old { OpenFailure::TooOld } else { OpenFailure::Replayed });
        }
        let opened = match ahead {
            None => self.epochs.open(header.epoch, header.pn, aad, sealed, now),
            Some(ahead) => self.epochs.judge(*ahead, now),
        };
        let len = opened.map_err(OpenFailure::Unopened)?;
        let newest = self.window.is_newest(header.pn);
        self.window.insert(header.pn);
        Ok((len, newest))
    }

    /// Which of the peer's newest packets have come.
    pub(crate) fn seen(&self) -> Option<Seen> {
        self.window.recent()
    }

    /// Does what the frames of packet `pn` say.
    pub(crate) fn handle_frames(
        &mut self,
        session: SessionId,
        pn: u64,
        mut frames: &[u8],
        now: Instant,
        events: &mut VecDeque<Event>,
    ) -> Result<(), FramesEnd> {
        while let Some(frame) =
            frame::next(&mut frames).map_err(|_| FramesEnd::Violation("frame that does not decode"))?
        {
            match frame {
                Frame::Padding => {}
                Frame::Ping => self.on_ping(pn),
                Frame::Ack(ack) => self.on_ack(&ack, now),
                Frame::Stream { offset, bytes } => self.on_stream(session, pn, offset, bytes, events)?,
                Frame::Datagram(bytes) => events.push_back(Event::Datagram { session, bytes: bytes.to_vec() }),
                Frame::Close { code, reason } => return Err(FramesEnd::Closed { code, reason: reason.to_owned() }),
                Frame::Challenge(token) => self.on_challenge(token),
                Frame::Response(token) => {
                    if let Some(validation) = &mut self.validation {
                        validation.on_response(token);
                    }
                }
                Frame::Crypto { .. } => return Err(FramesEnd::Violation("CRYPTO after the handshake")),
            }
        }
        Ok(())
    }

    fn on_ping(&mut self, pn: u64) {
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back(pn);
    }

    fn on_challenge(&mut self, token: u64) {
        if self.challenges.len() == CHALLENGES_MAX {
            self.challenges.pop_front();
        }
        self.challenges.push_back(token);
    }

    fn on_ack(&mut self, ack: &Ack, now: Instant) {
        self.rtt.on_ack(ack.pn, now);
        if let Some(path_mtu) = &mut self.path_mtu {
            path_mtu.on_ack(ack.pn, now);
        }
        let ping_answered = self.ping_sent.is_some_and(|sent| ack.pn >= sent);
        if ping_answered {
            self.ping_sent = None;
        }
        if self.send.on_ack(ack) || ping_answered {
            self.tries = 0;
            self.resend_at = self.is_waiting().then(|| now + self.rtt.timeout(0));
        }
    }

    fn on_stream(
        &mut self,
        session: SessionId,
        pn: u64,
        offset: u64,
        bytes: &[u8],
        events: &mut VecDeque<Event>,
    ) -> Result<(), FramesEnd> {
        let violation = |error| {
            FramesEnd::Violation(match error {
                ViolationError::BeyondWindow => "stream beyond the receive window",
                ViolationError::EmptyMessage => "empty message",
                ViolationError::LongMessage => "message longer than allowed",
            })
        };
        if self.receive.insert(offset, bytes).map_err(violation)? {
            self.ack = Some(pn);
        }
        let ordered = self.receive.read();
        if !ordered.is_empty() {
            self.messages.push(ordered);
            while let Some(bytes) = self.messages.next().map_err(violation)? {
                events.push_back(Event::Message { session, bytes });
            }
        }
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        self.send.is_waiting() || self.ping_sent.is_some()
    }

    pub(crate) fn send_datagram(&mut self, bytes: &[u8], limit: usize) -> Result<(), SendError> {
        check_len(bytes.len(), limit)?;
        if self.datagrams.len() == DATAGRAMS_MAX {
            return Err(SendError::Full);
        }
        self.datagrams.push_back(bytes.to_vec());
        Ok(())
    }

    pub(crate) fn send_message(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        check_len(bytes.len(), MESSAGE_LEN_MAX)?;
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.send.has_room(MESSAGE_PREFIX + bytes.len()) {
            return Err(SendError::Full);
        }
        self.send.push(&(bytes.len() as u32).to_be_bytes());
        self.send.push(bytes);
        Ok(())
    }

    /// Appends a FORWARD packet.
    pub(crate) fn seal_forward(&mut self, hop: &HopHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        let start = out.len();
        out.resize(start + FORWARD_OVERHEAD, 0);
        if let Err(error) = self.seal_hop(hop, &mut out[start..]) {
            out.truncate(start);
            return Err(error);
        }
        out.extend_from_slice(payload);
        Ok(())
    }

    /// Writes header, sealed hop header and tag over the front of `packet`, which is long enough.
    pub(crate) fn seal_hop(&mut self, hop: &HopHeader, packet: &mut [u8]) -> Result<(), SendError> {
        let header = self.next_header(true);
        let key = self.epochs.reserve(1).ok_or(SendError::KeysExhausted)?;
        handed_out::seal_hop(&**key, header, hop, packet).map_err(|_| SendError::KeysExhausted)?;
        self.next_pn += 1;
        Ok(())
    }

    /// Appends a PROTECTED packet with one DATAGRAM frame.
    pub(crate) fn seal_datagram(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        let start = self.begin(out, DATAGRAM_OVERHEAD + bytes.len());
        frame::encode_datagram_header(bytes.len() as u16, out);
        out.extend_from_slice(bytes);
        self.finish(start, out)
    }

    /// Seals a PROTECTED packet that is laid out already: room for the header, room for the front of a DATAGRAM frame, the
    /// datagram, room for the tag. Returns its number.
    pub(crate) fn seal_datagram_in_place(&mut self, packet: &mut [u8]) -> Result<u64, SendError> {
        let header = self.next_header(false);
        let key = self.epochs.reserve(1).ok_or(SendError::KeysExhausted)?;
        handed_out::seal_datagram(&**key, header, packet).map_err(|_| SendError::KeysExhausted)?;
        self.next_pn += 1;
        Ok(header.pn)
    }

    /// Gives `count` numbers away, to packets that are sealed elsewhere: what the header of the first is, and the key.
    pub(crate) fn give_numbers(
        &mut self,
        forward: bool,
        count: u64,
    ) -> Result<(ProtectedHeader, Arc<dyn PacketKey>), SendError> {
        let header = self.next_header(forward);
        let key = Arc::clone(self.epochs.reserve(count).ok_or(SendError::KeysExhausted)?);
        self.next_pn += count;
        Ok((header, key))
    }

    /// What opens packets whose header names the epoch of now, and the number of that epoch.
    pub(crate) fn opening_key(&self, epoch: u8) -> Option<(u32, Arc<dyn PacketKey>)> {
        let number = self.epochs.number();
        (number as u8 == epoch).then(|| (number, Arc::clone(self.epochs.remote())))
    }

    /// Appends a packet that closes the session.
    pub(crate) fn seal_close(&mut self, code: u16, reason: &str, out: &mut Vec<u8>) -> Result<(), SendError> {
        let start = self.begin(out, 0);
        Frame::Close { code, reason }.encode(out);
        self.finish(start, out)
    }

    /// Appends a packet that asks the peer to tell a number back.
    pub(crate) fn seal_challenge(&mut self, token: u64, out: &mut Vec<u8>) -> Result<(), SendError> {
        let start = self.begin(out, CHALLENGE_LEN);
        Frame::Challenge(token).encode(out);
        self.finish(start, out)
    }

    const fn next_header(&self, forward: bool) -> ProtectedHeader {
        ProtectedHeader { forward, epoch: self.epochs.number() as u8, dst_index: self.peer_index, pn: self.next_pn }
    }

    fn begin(&self, out: &mut Vec<u8>, len: usize) -> usize {
        let start = out.len();
        out.reserve(len + PROTECTED_OVERHEAD);
        out.extend_from_slice(&self.next_header(false).to_bytes());
        start
    }

    /// Seals the packet that begins at `start` of `out`; takes it back if that fails.
    fn finish(&mut self, start: usize, out: &mut Vec<u8>) -> Result<(), SendError> {
        let (header, frames) = out[start..].split_at_mut(PROTECTED_HEADER_LEN);
        let Some(tag) = self.epochs.seal(self.next_pn, header, frames) else {
            out.truncate(start);
            return Err(SendError::KeysExhausted);
        };
        out.extend_from_slice(&tag);
        self.next_pn += 1;
        Ok(())
    }

    pub(crate) fn has_work(&self) -> bool {
        self.has_frames() || self.probe_due().is_some()
    }

    fn has_frames(&self) -> bool {
        let answers = self.ack.is_some() || !self.pings.is_empty() || !self.challenges.is_empty();
        answers || self.ping_due || !self.datagrams.is_empty() || self.send.has_work()
    }

    /// Bytes of the packet that path MTU discovery wants sent. Not before the peer is known to have the keys: it could not answer.
    fn probe_due(&self) -> Option<usize> {
        self.path_mtu.as_ref().and_then(PathMtu::due).filter(|_| self.is_confirmed())
    }

    /// Appends a packet of exactly the size in question: a PING and PADDING.
    fn poll_probe(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some(size) = self.probe_due() else { return false };
        let pn = self.next_pn;
        let start = self.begin(out, size);
        Frame::Ping.encode(out);
        // PADDING is a zero.
        out.resize(start + size - TAG_LEN, 0);
        if self.finish(start, out).is_err() {
            return false;
        }
        self.rtt.on_sent(pn, now);
        let timeout = self.rtt.timeout(0).max(PROBE_TIMEOUT_MIN);
        if let Some(path_mtu) = &mut self.path_mtu {
            path_mtu.on_sent(pn, timeout, now);
        }
        true
    }

    /// Appends the next packet of at most `limit` bytes to `out`; false if there is none.
    pub(crate) fn poll(&mut self, limit: usize, now: Instant, stats: &mut Stats, out: &mut Vec<u8>) -> bool {
        if !self.has_frames() {
            return self.poll_probe(now, out);
        }
        let start = self.begin(out, limit);
        let end = start + limit - TAG_LEN;
        let pn = self.next_pn;
        let mut eliciting = false;
        if let Some(answered) = self.ack.take() {
            Frame::Ack(self.receive.ack(answered)).encode(out);
        }
        while let Some(answered) = self.pings.pop_front() {
            Frame::Ack(self.receive.ack(answered)).encode(out);
        }
        while let Some(token) = self.challenges.pop_front() {
            Frame::Response(token).encode(out);
        }
        if std::mem::take(&mut self.ping_due) {
            Frame::Ping.encode(out);
            self.ping_sent = Some(pn);
            eliciting = true;
        }
        while let Some(bytes) = self.datagrams.pop_front_if(|bytes| out.len() + DATAGRAM_OVERHEAD + bytes.len() <= end)
        {
            frame::encode_datagram_header(bytes.len() as u16, out);
            out.extend_from_slice(&bytes);
        }
        while let Some(piece) = self.send.poll(end.saturating_sub(out.len() + STREAM_OVERHEAD)) {
            frame::encode_stream_header(piece.offset, piece.len as u16, out);
            self.send.copy(&piece, out);
            stats.retransmitted += u64::from(piece.again);
            eliciting = true;
        }
        if self.finish(start, out).is_err() {
            return false;
        }
        if eliciting {
            self.rtt.on_sent(pn, now);
            if self.resend_at.is_none() {
                self.resend_at = Some(now + self.rtt.timeout(self.tries));
            }
        }
        true
    }

    /// Whether [`Self::rekey_if_due`] would move.
    pub(crate) fn is_rekey_due(&self, now: Instant) -> bool {
        self.epochs.is_rekey_due(now)
    }

    /// Moves to the next epoch if that is due; true if it did.
    pub(crate) fn rekey_if_due(&mut self, now: Instant) -> bool {
        let moved = self.epochs.rekey_if_due(now);
        self.ping_due |= moved;
        moved
    }

    /// When [`Traffic::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let path_mtu = self.path_mtu.as_ref().and_then(PathMtu::deadline);
        let validation = self.validation.as_ref().map(Validation::deadline);
        [self.resend_at, self.epochs.deadline(), path_mtu, validation].into_iter().flatten().min()
    }

    /// Sends again what was not acknowledged in time, and lets old keys go. `heard` is when the peer was heard last.
    pub(crate) fn handle_timeout(&mut self, heard: Instant, now: Instant) {
        self.epochs.handle_timeout(now);
        if let Some(path_mtu) = &mut self.path_mtu {
            path_mtu.handle_timeout(heard, now);
        }
        if self.resend_at.is_none_or(|at| now < at) {
            return;
        }
        self.tries += 1;
        if self.send.is_waiting() {
            self.send.on_timeout();
        }
        self.ping_due |= self.ping_sent.is_some();
        self.resend_at = self.is_waiting().then(|| now + self.rtt.timeout(self.tries));
    }
}

const fn check_len(len: usize, limit: usize) -> Result<(), SendError> {
    if len > limit { Err(SendError::TooLarge { len, limit }) } else { Ok(()) }
}
