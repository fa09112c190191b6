//! One session: a handshake, then traffic, then a last word.

use std::time::Duration;

use x0t_model::{Entropy, Instant, NodeId, SpiffeId};

use crate::epochs::RekeyPolicy;
use crate::event::{CloseReason, Event};
use crate::frame::DATAGRAM_OVERHEAD;
use crate::handshake::{Addressing, Driver};
use crate::packet::{FORWARD_OVERHEAD, JOIN, PROTECTED_OVERHEAD};
use crate::path_mtu;
use crate::traffic::Traffic;
use crate::{Carrier, EndpointConfig, Purpose, SessionId, SessionInfo, Stats};

/// How long a session that is over still answers with its CLOSE, in case that was lost.
const LINGER: Duration = Duration::from_secs(3);
/// And how often.
const CLOSE_REPLIES_MAX: u8 = 8;
/// How long a responder still acknowledges handshake packets of a peer that has not heard of its own success.
const CONFIRM_GRACE: Duration = Duration::from_secs(5);
/// What a relay adds around a packet of a join session: FORWARD, PROTECTED, DATAGRAM, and the node's own few words.
const RELAYED_OVERHEAD: usize = FORWARD_OVERHEAD + PROTECTED_OVERHEAD + DATAGRAM_OVERHEAD + 64;

/// What is left of a session that is over.
pub(crate) struct Closing {
    pub(crate) until: Instant,
    packet: Vec<u8>,
    replies_left: u8,
}

/// One session.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) purpose: Purpose,
    pub(crate) carrier: Carrier,
    /// The carrier it began on: part of how repeated hellos find it.
    pub(crate) first_carrier: Carrier,
    pub(crate) initiator: bool,
    /// The peer's name for the session; 0 while unknown.
    pub(crate) peer_index: u32,
    pub(crate) handshake: Option<Box<Driver>>,
    pub(crate) handshake_until: Instant,
    pub(crate) traffic: Option<Box<Traffic>>,
    pub(crate) closing: Option<Closing>,
    pub(crate) established_at: Option<Instant>,
    pub(crate) last_received_at: Instant,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) group: Option<&'static str>,
    /// The deadline the endpoint's timers hold for it.
    pub(crate) armed: Option<Instant>,
    pub(crate) rx: (u64, u64),
    pub(crate) tx: (u64, u64),
    pub(crate) forged: u64,
    /// The path MTU that was last told.
    pub(crate) told_mtu: usize,
    /// Before this, packets from elsewhere raise no doubt where the peer is.
    pub(crate) settled_until: Instant,
}

impl Session {
    /// A session of ours if `peer_index` is 0, which the peer has yet to tell us; else the peer's.
    pub(crate) fn new(
        id: SessionId,
        (purpose, carrier): (Purpose, Carrier),
        peer_index: u32,
        driver: Driver,
        now: Instant,
        config: &EndpointConfig,
    ) -> Self {
        Self {
            id,
            purpose,
            carrier,
            first_carrier: carrier,
            initiator: peer_index == 0,
            peer_index,
            handshake: Some(Box::new(driver)),
            handshake_until: now + config.handshake_timeout,
            traffic: None,
            closing: None,
            established_at: None,
            last_received_at: now,
            peer: None,
            group: None,
            armed: None,
            rx: (0, 0),
            tx: (0, 0),
            forged: 0,
            told_mtu: path_mtu::BASE.min(config.max_datagram),
            settled_until: now,
        }
    }

    pub(crate) const fn is_established(&self) -> bool {
        self.established_at.is_some() && self.closing.is_none()
    }

    /// The traffic half, once the session may be used.
    pub(crate) fn usable(&mut self) -> Option<&mut Traffic> {
        if self.is_established() { self.traffic.as_deref_mut() } else { None }
    }

    pub(crate) const fn addressing(&self) -> Addressing {
        Addressing { purpose: self.purpose, dst_index: self.peer_index, src_index: self.id.index() }
    }

    /// Largest packet of frames that this session may send: one that passes every path. What is sent by the thousand is sealed by the
    /// data path, which knows the path.
    pub(crate) fn packet_limit(&self, config: &EndpointConfig) -> usize {
        path_mtu::BASE.min(config.max_datagram).saturating_sub(self.overhead())
    }

    /// What others add to a packet of this session on its way.
    const fn overhead(&self) -> usize {
        match (self.purpose, self.carrier) {
            // A join session may pass a relay that only one of its ends knows of.
            (Purpose::Join, _) | (_, Carrier::Relayed { .. }) => RELAYED_OVERHEAD,
            (_, Carrier::Overlay(_)) => FORWARD_OVERHEAD,
            (_, Carrier::Udp(_) | Carrier::Tls(_)) => 0,
        }
    }

    /// Longest datagram that fits one packet of frames.
    pub(crate) fn datagram_limit(&self, config: &EndpointConfig) -> usize {
        self.packet_limit(config).saturating_sub(self.around_datagram())
    }

    /// Longest datagram that the data path may seal.
    pub(crate) fn sealed_datagram_limit(&self, config: &EndpointConfig) -> usize {
        config.max_datagram.saturating_sub(self.overhead() + self.around_datagram())
    }

    fn around_datagram(&self) -> usize {
        PROTECTED_OVERHEAD + DATAGRAM_OVERHEAD + usize::from(self.purpose == Purpose::Join)
    }

    /// Begins a packet: empty, or with the byte that marks join sessions.
    pub(crate) fn begin_packet(&self, out: &mut Vec<u8>) {
        if self.purpose == Purpose::Join {
            out.push(JOIN);
        }
    }

    /// Whether TLS has just finished: its traffic keys are taken over. True once.
    pub(crate) fn take_over_traffic(&mut self, config: &EndpointConfig, now: Instant) -> bool {
        let Some(driver) = &mut self.handshake else { return false };
        let Some(keys) = driver.take_traffic() else { return false };
        let policy = RekeyPolicy { packets: config.rekey_packets, age: config.rekey_age, grace: config.epoch_grace };
        let policy = if self.initiator { policy } else { policy.for_responder() };
        let retransmit = config.handshake_retransmit;
        let mut traffic = Traffic::new(policy, keys, self.peer_index, driver.rtt(), retransmit, now);
        if let (Purpose::Link, Carrier::Udp(_)) = (self.purpose, self.carrier) {
            traffic.discover_path_mtu(config.max_datagram, now);
        }
        self.traffic = Some(Box::new(traffic));
        true
    }

    /// Both sides have verified each other. `None` if there was no handshake to conclude.
    pub(crate) fn establish(&mut self, now: Instant) -> Option<Event> {
        let driver = self.handshake.as_deref_mut()?;
        let tls = driver.tls();
        self.established_at = Some(now);
        self.last_received_at = now;
        self.peer = tls.peer();
        self.group = tls.group_name();
        let peer_parameters = tls.peer_parameters().unwrap_or_default().to_vec();
        let peer_chain = tls.peer_chain().unwrap_or_default().to_vec();
        if self.initiator {
            self.handshake = None;
        } else {
            driver.finish();
            self.handshake_until = now + CONFIRM_GRACE;
            if let Some(traffic) = &mut self.traffic {
                traffic.ping();
            }
        }
        Some(Event::Established {
            session: self.id,
            purpose: self.purpose,
            carrier: self.carrier,
            peer: self.peer.clone(),
            initiator: self.initiator,
            peer_parameters,
            peer_chain,
        })
    }

    /// Ends the session: keys go, a CLOSE with `code` and `text` is kept for whoever still asks. Returns that packet.
    pub(crate) fn begin_closing(&mut self, code: u16, text: &str, now: Instant) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        self.begin_packet(&mut packet);
        let established = self.established_at.is_some();
        let addressing = self.addressing();
        let written = match (self.traffic.take(), self.handshake.take()) {
            (Some(mut traffic), _) if established => traffic.seal_close(code, text, &mut packet).is_ok(),
            (_, Some(mut driver)) => {
                driver.write_close(addressing, code, text, &mut packet);
                true
            }
            _ => false,
        };
        let packet = if written { packet } else { Vec::new() };
        self.closing = Some(Closing { until: now + LINGER, packet: packet.clone(), replies_left: CLOSE_REPLIES_MAX });
        (!packet.is_empty()).then_some(packet)
    }

    /// The CLOSE again, for a peer that goes on as if nothing had happened.
    pub(crate) fn close_reply(&mut self) -> Option<Vec<u8>> {
        let closing = self.closing.as_mut()?;
        closing.replies_left = closing.replies_left.checked_sub(1)?;
        (!closing.packet.is_empty()).then(|| closing.packet.clone())
    }

    /// The news that other datagrams pass the path than was told, if so.
    pub(crate) fn path_mtu_event(&mut self) -> Option<Event> {
        let mtu = self.usable_ref()?.path_mtu()?.current();
        let moved = std::mem::replace(&mut self.told_mtu, mtu) != mtu;
        moved.then_some(Event::PathMtu { session: self.id, mtu })
    }

    /// The news that it is over.
    pub(crate) fn end_event(&self, reason: CloseReason) -> Event {
        let (session, purpose, carrier, initiator) = (self.id, self.purpose, self.carrier, self.initiator);
        match self.established_at {
            Some(_) => Event::Closed { session, purpose, carrier, peer: self.peer.clone(), reason },
            None => Event::Refused { session, purpose, carrier, initiator, reason },
        }
    }

    /// When the endpoint has to look after this session.
    pub(crate) fn deadline(&self, config: &EndpointConfig) -> Option<Instant> {
        if let Some(closing) = &self.closing {
            return Some(closing.until);
        }
        let handshake = self.handshake.as_deref().map(|driver| {
            driver.deadline().map_or(self.handshake_until, |resend_at| resend_at.min(self.handshake_until))
        });
        let idle = self.established_at.map(|_| self.last_received_at + config.idle_timeout);
        let traffic = self.usable_ref().and_then(Traffic::deadline);
        [handshake, idle, traffic].into_iter().flatten().min()
    }

    fn usable_ref(&self) -> Option<&Traffic> {
        if self.is_established() { self.traffic.as_deref() } else { None }
    }

    /// Appends the next packet to `out`; false if there is none.
    pub(crate) fn poll(
        &mut self,
        config: &EndpointConfig,
        now: Instant,
        entropy: &mut Entropy,
        stats: &mut Stats,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.closing.is_some() {
            return false;
        }
        let limit = self.packet_limit(config);
        self.begin_packet(out);
        let limit = limit - out.len();
        let addressing = self.addressing();
        if let Some(driver) = self.handshake.as_deref_mut()
            && driver.poll(addressing, limit.min(config.max_handshake_datagram), now, entropy, stats, out)
        {
            return true;
        }
        self.usable().is_some_and(|traffic| traffic.poll(limit, now, stats, out))
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let handshake_rtt = || self.handshake.as_deref().and_then(|driver| driver.rtt().smoothed());
        let traffic = self.traffic.as_deref();
        SessionInfo {
            session: self.id,
            purpose: self.purpose,
            carrier: self.carrier,
            peer: self.peer.clone(),
            peer_node: self.peer.as_ref().map(NodeId::of),
            initiator: self.initiator,
            established_at: self.established_at,
            last_received_at: self.last_received_at,
            rtt: traffic.and_then(Traffic::smoothed_rtt).or_else(handshake_rtt),
            group: self.group,
            epoch: traffic.map_or(0, Traffic::epoch),
            rx_packets: self.rx.0,
            rx_bytes: self.rx.1,
            tx_packets: self.tx.0,
            tx_bytes: self.tx.1,
            forged_packets: self.forged,
            buffered: traffic.map_or(0, Traffic::buffered),
        }
    }
}
