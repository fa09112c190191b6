//! Drives a TLS handshake over datagrams: pieces, levels, acknowledgements, retransmission.
//!
//! Everything TLS demands of its carrier is kept here: bytes of one level are handed over in order and never together with
//! those of another, and what TLS wants to say is fetched after every word it was told, because that is what yields the
//! keys for the next packet (see [`Handshake`]).

use std::time::Duration;

use x0t_model::{Entropy, Instant};

use crate::frame::{self, CRYPTO_OVERHEAD, Frame};
use crate::packet::{HandshakeHeader, Level, checksum};
use crate::rtt::RoundTrip;
use crate::stream::{CRYPTO_WINDOW, ReceiveStream, SendStream};
use crate::{Handshake, HandshakeError, KeyChange, KeyPair, NextKeys, Purpose, Stats, TAG_LEN};

/// Sealed packets kept while the hello that explains them is still on its way.
const EARLY_MAX: usize = 4;
/// Cookies obeyed at once; later ones wait for the timer. A forger of RETRY packets can make an initiator repeat itself this
/// often, and no more.
const RETRIES_MAX: u32 = 3;
/// Bytes of the packet that asks for a cookie: larger than the RETRY that answers it.
const PROBE_LEN: usize = 64;
/// An address that has proven nothing is sent at most this many times what it sent (RFC 9000 section 8.1).
const AMPLIFICATION_MAX: usize = 3;

/// What both ends write into every handshake packet of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressing {
    pub(crate) purpose: Purpose,
    pub(crate) dst_index: u32,
    pub(crate) src_index: u32,
}

/// What the header of a packet says to the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) level: Level,
    pub(crate) pn: u32,
    pub(crate) header_len: usize,
    /// Whether somebody has looked at the checksum already.
    pub(crate) sum_is_right: bool,
}

/// What a packet did to the handshake.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was taken.
    Taken,
    /// Not authentic, or garbled.
    Forged,
    /// Does not decode.
    Malformed,
    /// Kept or dropped until it can be opened.
    Early,
    /// The handshake is over for us.
    Failed(HandshakeError),
    /// The handshake is over for the peer.
    PeerClosed { code: u16, reason: String },
}

struct Stage {
    send: SendStream,
    receive: ReceiveStream,
    next_pn: u32,
    ack: Option<u32>,
    ping: bool,
}

impl Stage {
    const fn new() -> Self {
        Self {
            send: SendStream::new(CRYPTO_WINDOW),
            receive: ReceiveStream::new(CRYPTO_WINDOW),
            next_pn: 0,
            ack: None,
            ping: false,
        }
    }

    fn has_work(&self) -> bool {
        self.ack.is_some() || self.ping || self.send.has_work()
    }
}

/// One handshake under way.
pub(crate) struct Driver {
    tls: Box<dyn Handshake>,
    initiator: bool,
    stages: [Stage; 2],
    keys: Option<KeyPair>,
    traffic: Option<(KeyPair, Box<dyn NextKeys>)>,
    cookie: Option<Vec<u8>>,
    probe_due: bool,
    retries: u32,
    early: Vec<Vec<u8>>,
    received: usize,
    sent: usize,
    proven: bool,
    rtt: RoundTrip,
    tries: u32,
    resend_at: Option<Instant>,
}

impl Driver {
    pub(crate) fn new(tls: Box<dyn Handshake>, initiator: bool, retransmit: Duration) -> Self {
        let mut driver = Self {
            tls,
            initiator,
            stages: [Stage::new(), Stage::new()],
            keys: None,
            traffic: None,
            cookie: None,
            probe_due: initiator,
            retries: 0,
            early: Vec::new(),
            received: 0,
            sent: 0,
            proven: initiator,
            rtt: RoundTrip::new(retransmit),
            tries: 0,
            resend_at: None,
        };
        driver.pump();
        driver
    }

    /// What TLS has to say, up to the point where it waits for the peer.
    fn pump(&mut self) {
        let mut said = Vec::new();
        loop {
            said.clear();
            let change = self.tls.write(&mut said);
            // These bytes belong to the level in force before the change that came with them.
            self.stages[usize::from(self.keys.is_some())].send.push(&said);
            match change {
                Some(KeyChange::Handshake(keys)) => self.keys = Some(keys),
                Some(KeyChange::OneRtt(keys, next)) => self.traffic = Some((keys, next)),
                None if said.is_empty() => return,
                None => {}
            }
        }
    }

    pub(crate) fn tls(&self) -> &dyn Handshake {
        &*self.tls
    }

    pub(crate) const fn rtt(&self) -> &RoundTrip {
        &self.rtt
    }

    /// The traffic keys, once TLS is done and as long as nobody took them.
    pub(crate) fn take_traffic(&mut self) -> Option<(KeyPair, Box<dyn NextKeys>)> {
        if self.tls.is_done() { self.traffic.take() } else { None }
    }

    /// Nothing of ours has to arrive any more, and the first packet under traffic keys acknowledges all that came so far.
    /// What still comes of the peer is acknowledged.
    pub(crate) fn finish(&mut self) {
        for stage in &mut self.stages {
            stage.send = SendStream::new(CRYPTO_WINDOW);
            stage.ack = None;
            stage.ping = false;
        }
        self.resend_at = None;
        self.early.clear();
    }

    /// The responder wants to see a cookie. True if everything is to be sent again with it at once.
    pub(crate) fn on_retry(&mut self, cookie: &[u8]) -> bool {
        if !self.initiator || self.cookie.as_deref() == Some(cookie) {
            return false;
        }
        self.cookie = Some(cookie.to_vec());
        self.probe_due = false;
        if self.retries == RETRIES_MAX {
            return false;
        }
        self.retries += 1;
        self.tries = 0;
        self.resend_at = None;
        if self.stages[0].send.is_waiting() {
            self.stages[0].send.on_timeout();
        }
        true
    }

    /// Takes one packet, decoded as far as its header says.
    pub(crate) fn handle(&mut self, arrival: Arrival, packet: &mut [u8], now: Instant) -> Outcome {
        let Arrival { level, pn, header_len, sum_is_right } = arrival;
        self.received += packet.len();
        let (header, body) = packet.split_at_mut(header_len);
        let Some(plain_len) = body.len().checked_sub(TAG_LEN) else { return Outcome::Malformed };
        match (level, &self.keys) {
            (Level::Initial, _) => {
                let (covered, sum) = packet.split_at(header_len + plain_len);
                if !sum_is_right && checksum(covered) != sum {
                    return Outcome::Forged;
                }
            }
            (Level::Handshake, Some(keys)) => {
                if keys.remote.open(pn.into(), header, body).is_err() {
                    return Outcome::Forged;
                }
                if !self.initiator {
                    // Who can do this has the whole hello: it need not say so.
                    self.proven = true;
                    self.stages[0].send = SendStream::new(CRYPTO_WINDOW);
                }
            }
            (Level::Handshake, None) => {
                if self.initiator && self.early.len() < EARLY_MAX {
                    self.early.push(packet.to_vec());
                }
                return Outcome::Early;
            }
        }
        match self.take_frames(level, pn, &packet[header_len..header_len + plain_len], now) {
            Outcome::Taken => self.read_on(now),
            other => other,
        }
    }

    fn take_frames(&mut self, level: Level, pn: u32, mut frames: &[u8], now: Instant) -> Outcome {
        let stage = &mut self.stages[level as usize];
        loop {
            match frame::next(&mut frames) {
                Ok(None) => return Outcome::Taken,
                Ok(Some(Frame::Padding)) => {}
                Ok(Some(Frame::Ping)) => stage.ack = Some(pn),
                Ok(Some(Frame::Ack(ack))) => {
                    self.rtt.on_ack(packet_key(level, ack.pn as u32), now);
                    if stage.send.on_ack(&ack) {
                        self.tries = 0;
                        self.resend_at = Some(now + self.rtt.timeout(0));
                    }
                }
                Ok(Some(Frame::Crypto { offset, bytes })) => match stage.receive.insert(offset.into(), bytes) {
                    Ok(true) => stage.ack = Some(pn),
                    Ok(false) => {}
                    Err(_) => return Outcome::Malformed,
                },
                // Without keys there is no telling who says so; with keys the peer has better means.
                Ok(Some(Frame::Close { code, reason })) if level == Level::Handshake || self.keys.is_none() => {
                    return Outcome::PeerClosed { code, reason: reason.to_owned() };
                }
                Ok(Some(_)) | Err(_) => return Outcome::Malformed,
            }
        }
    }

    /// Hands TLS what is in order, one level at a time.
    fn read_on(&mut self, now: Instant) -> Outcome {
        if self.keys.is_none() {
            if let Err(error) = self.read_level(Level::Initial) {
                return Outcome::Failed(error);
            }
            if self.keys.is_none() {
                return Outcome::Taken;
            }
            if self.initiator {
                // The next level says it for this one.
                self.stages[0].ack = None;
            }
            for mut packet in std::mem::take(&mut self.early) {
                let Ok(header) = HandshakeHeader::decode(&packet) else { continue };
                let (pn, header_len) = (header.pn, header.encoded_len());
                let arrival = Arrival { level: Level::Handshake, pn, header_len, sum_is_right: false };
                let outcome = self.handle(arrival, &mut packet, now);
                if matches!(outcome, Outcome::Failed(_) | Outcome::PeerClosed { .. }) {
                    return outcome;
                }
            }
        }
        match self.read_level(Level::Handshake) {
            Ok(()) => Outcome::Taken,
            Err(error) => Outcome::Failed(error),
        }
    }

    fn read_level(&mut self, level: Level) -> Result<(), HandshakeError> {
        let bytes = self.stages[level as usize].receive.read();
        if !bytes.is_empty() {
            self.tls.read(&bytes)?;
            self.pump();
        }
        Ok(())
    }

    /// Whether [`Driver::poll`] may give something.
    pub(crate) fn has_work(&self) -> bool {
        self.probe_due
            || self.stages[1].has_work() && self.keys.is_some()
            || self.stages[0].has_work() && (!self.initiator || self.cookie.is_some())
    }

    /// Appends the next packet of at most `limit` bytes to `out`; false if there is none.
    pub(crate) fn poll(
        &mut self,
        addressing: Addressing,
        limit: usize,
        now: Instant,
        entropy: &mut Entropy,
        stats: &mut Stats,
        out: &mut Vec<u8>,
    ) -> bool {
        if !self.has_work() {
            return false;
        }
        let allowance =
            if self.proven { usize::MAX } else { (AMPLIFICATION_MAX * self.received).saturating_sub(self.sent) };
        let limit = limit.min(allowance);
        if limit < PROBE_LEN + frame::ACK_LEN_MAX {
            stats.amplification_held += 1;
            return false;
        }
        let level = match self.keys {
            _ if self.stages[0].has_work() || self.probe_due => Level::Initial,
            _ => Level::Handshake,
        };
        let start = out.len();
        out.reserve(limit);
        let eliciting = self.write_packet(level, addressing, limit, stats, out);
        self.sent += out.len() - start;
        if eliciting {
            self.rtt.on_sent(packet_key(level, self.stages[level as usize].next_pn - 1), now);
            if self.resend_at.is_none() {
                self.resend_at = Some(now + self.patience(entropy));
            }
        }
        true
    }

    /// True if the packet asks for an ACK.
    fn write_packet(
        &mut self,
        level: Level,
        addressing: Addressing,
        limit: usize,
        stats: &mut Stats,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        let header_len = self.write_header(level, addressing, out);
        let end = start + limit - TAG_LEN;
        let stage = &mut self.stages[level as usize];
        let mut eliciting = false;
        if std::mem::take(&mut self.probe_due) {
            Frame::Ping.encode(out);
            out.resize(out.len().max(start + PROBE_LEN - TAG_LEN), 0);
            eliciting = true;
        } else {
            if let Some(pn) = stage.ack.take() {
                Frame::Ack(stage.receive.ack(pn.into())).encode(out);
            }
            if std::mem::take(&mut stage.ping) {
                Frame::Ping.encode(out);
                eliciting = true;
            }
            while let Some(piece) = stage.send.poll(end.saturating_sub(out.len() + CRYPTO_OVERHEAD)) {
                frame::encode_crypto_header(piece.offset as u32, piece.len as u16, out);
                stage.send.copy(&piece, out);
                stats.retransmitted += u64::from(piece.again);
                eliciting = true;
            }
        }
        self.protect(level, start, header_len, out);
        eliciting
    }

    fn write_header(&mut self, level: Level, addressing: Addressing, out: &mut Vec<u8>) -> usize {
        let stage = &mut self.stages[level as usize];
        let pn = stage.next_pn;
        stage.next_pn += 1;
        let cookie = if addressing.dst_index == 0 { self.cookie.as_deref().unwrap_or_default() } else { &[] };
        let Addressing { purpose, dst_index, src_index } = addressing;
        let header = HandshakeHeader { purpose, dst_index, src_index, level, pn, cookie };
        header.encode(out);
        header.encoded_len()
    }

    /// Closes the packet that begins at `start` of `out` with a tag or a checksum.
    fn protect(&self, level: Level, start: usize, header_len: usize, out: &mut Vec<u8>) {
        let pn = u64::from(self.stages[level as usize].next_pn - 1);
        let tag = match (level, &self.keys) {
            (Level::Handshake, Some(keys)) => {
                let (header, body) = out[start..].split_at_mut(header_len);
                // Sealing fails for bodies of gigabytes only; a packet with an empty tag opens nowhere.
                keys.local.seal(pn, header, body).unwrap_or_default()
            }
            _ => checksum(&out[start..]),
        };
        out.extend_from_slice(&tag);
    }

    /// Appends a packet that says why there will be no session, under the best keys there are.
    pub(crate) fn write_close(&mut self, addressing: Addressing, code: u16, reason: &str, out: &mut Vec<u8>) {
        let level = if self.keys.is_some() { Level::Handshake } else { Level::Initial };
        let start = out.len();
        let header_len = self.write_header(level, addressing, out);
        Frame::Close { code, reason }.encode(out);
        self.protect(level, start, header_len, out);
    }

    /// When [`Driver::handle_timeout`] has something to do.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.resend_at
    }

    /// Sends again what was not acknowledged in time.
    pub(crate) fn handle_timeout(&mut self, now: Instant, entropy: &mut Entropy) {
        if self.resend_at.is_none_or(|at| now < at) {
            return;
        }
        self.tries += 1;
        let mut waiting = false;
        for stage in self.stages.iter_mut().filter(|stage| stage.send.is_waiting()) {
            stage.send.on_timeout();
            waiting = true;
        }
        if self.initiator && self.cookie.is_none() && self.keys.is_none() {
            self.probe_due = true;
        } else if self.initiator && !waiting {
            // The responder may be out of allowance, or its last word may be lost: give it something to answer.
            self.stages[usize::from(self.keys.is_some())].ping = true;
        }
        let keep_trying = waiting || self.initiator;
        self.resend_at = keep_trying.then(|| now + self.patience(entropy));
    }

    fn patience(&self, entropy: &mut Entropy) -> Duration {
        let timeout = self.rtt.timeout(self.tries);
        timeout + Duration::from_nanos(entropy.below(timeout.as_nanos() as u64 / 4))
    }
}

fn packet_key(level: Level, pn: u32) -> u64 {
    (level as u64) << 32 | u64::from(pn)
}
