//! Links to neighbours: how each stands, what it costs, what is granted to it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use x0t_model::{Instant, Metric, NodeId};

use crate::RoutingConfig;
use crate::detector::{Detector, Liveness};
use crate::message::Hello;
use crate::metric::{LinkEstimate, is_news};
use crate::pacing::TokenBucket;

/// A link: one session with one neighbour over one underlay path. The number is chosen by whoever owns the sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LinkId(pub u32);

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link{}", self.0)
    }
}

/// How far a link can be relied on. Smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Heard, and calm.
    Good,
    /// Heard, but it died a short while ago: used if nothing better is there.
    HeldDown,
    /// Silent, or the peer says it hears nothing: a last resort.
    Suspect,
    /// Dead, left, or without carrier: carries nothing.
    Down,
}

impl Standing {
    /// Whether routes may be built on it.
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Good | Self::HeldDown)
    }
}

/// Hashes a link may waste at once on values that turn out forged, and per second after that: eight whole chains, and
/// then two per second.
const WASTED_HASHES: (u32, u32) = (262_144, 65_536);
/// Requests a link may make at once, and per second after that.
const REQUESTS: (u32, u32) = (256, 100);
/// Anchors a link may ask for at once, and per second after that: a newcomer asks for everyone's.
const ANCHOR_REQUESTS: (u32, u32) = (4_096, 1_024);
/// A peer's complaint that it hears nothing is believed for this long.
const DEAF_FOR: Duration = Duration::from_secs(1);

/// What HELLOs need to remember.
#[derive(Clone, Debug)]
pub(crate) struct HelloState {
    pub sent_seq: u32,
    received_seq: u32,
    received_time_micros: u64,
    received_at: Instant,
    received: u64,
    pub replied_at: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub id: LinkId,
    pub peer: NodeId,
    pub incarnation: u64,
    pub detector: Detector,
    pub estimate: LinkEstimate,
    pub hello: HelloState,
    pub cost: Metric,
    pub measured: bool,
    pub mtu: u16,
    pub carrier: bool,
    /// The peer said GOODBYE, or came back as somebody without memory on another link.
    pub left: bool,
    pub deaf_until: Option<Instant>,
    pub held_until: Option<Instant>,
    /// Derived from the above by [`Link::refresh`], so that forwarding reads one byte.
    pub standing: Standing,
    pub peer_is_leaf: bool,
    /// Its offers were dropped here: ask for all of them.
    pub resync_wanted: bool,
    pub resync_served_at: Option<Instant>,
    /// When the neighbour was last asked because of a doubt.
    pub doubted_at: Option<Instant>,
    /// Where the walk that shows it the whole table has got to.
    pub sync_cursor: Option<u32>,
    pub sync_armed: Option<Instant>,
    pub armed: Option<Instant>,
    /// Anchors asked for on its account.
    pub quests: usize,
    /// Messages for it alone, waiting to share a datagram.
    pub outgoing: Vec<u8>,
    pub wasted_hashes: TokenBucket,
    pub requests: TokenBucket,
    pub anchor_requests: TokenBucket,
}

impl Link {
    pub(crate) fn new(id: LinkId, peer: NodeId, incarnation: u64, config: &RoutingConfig, now: Instant) -> Self {
        Self {
            id,
            peer,
            incarnation,
            detector: Detector::new(&config.detector, now),
            estimate: LinkEstimate::new(),
            hello: HelloState {
                sent_seq: 0,
                received_seq: 0,
                received_time_micros: 0,
                received_at: now,
                received: 0,
                replied_at: None,
            },
            cost: micros(config.initial_delay + config.hop_penalty),
            measured: false,
            mtu: config.mtu,
            carrier: true,
            left: false,
            deaf_until: None,
            held_until: None,
            standing: Standing::Good,
            peer_is_leaf: false,
            resync_wanted: false,
            resync_served_at: None,
            doubted_at: None,
            sync_cursor: None,
            sync_armed: None,
            armed: None,
            quests: 0,
            outgoing: Vec::new(),
            wasted_hashes: TokenBucket::new(WASTED_HASHES, now),
            requests: TokenBucket::new(REQUESTS, now),
            anchor_requests: TokenBucket::new(ANCHOR_REQUESTS, now),
        }
    }

    /// A new session on the same link with a peer that has kept its memory. HELLOs count from the start, as those of a peer
    /// do that made a new link of it: what was said before says nothing about loss.
    pub(crate) fn renew_session(&mut self, config: &RoutingConfig, now: Instant) {
        let fresh = Self::new(self.id, self.peer, self.incarnation, config, now);
        self.detector = fresh.detector;
        self.hello = fresh.hello;
        self.left = false;
        self.deaf_until = None;
    }

    /// Derives the standing again; returns the one before.
    pub(crate) fn refresh(&mut self, now: Instant) -> Standing {
        self.deaf_until = self.deaf_until.filter(|until| *until > now);
        self.held_until = self.held_until.filter(|until| *until > now);
        let standing = match self.detector.liveness() {
            _ if self.left || !self.carrier => Standing::Down,
            Liveness::Dead => Standing::Down,
            Liveness::Suspect { .. } => Standing::Suspect,
            Liveness::Up if self.deaf_until.is_some() => Standing::Suspect,
            Liveness::Up if self.held_until.is_some() => Standing::HeldDown,
            Liveness::Up => Standing::Good,
        };
        std::mem::replace(&mut self.standing, standing)
    }

    /// When it has to be looked at.
    pub(crate) fn deadline(&self, config: &RoutingConfig) -> Instant {
        if self.left {
            return Instant::FAR_FUTURE;
        }
        let detector = self.detector.deadline(&config.detector);
        [self.deaf_until, self.held_until].into_iter().flatten().fold(detector, Instant::min)
    }

    /// The next HELLO.
    pub(crate) fn make_hello(&mut self, config: &RoutingConfig, reply_wanted: bool, now: Instant) -> Hello {
        self.hello.sent_seq = self.hello.sent_seq.wrapping_add(1);
        self.detector.hello_sent(now);
        let interval = self.detector.announced_interval(&config.detector);
        Hello {
            reply_wanted,
            deaf: self.detector.liveness() != Liveness::Up,
            resync: self.resync_wanted,
            interval_ms: u16::try_from(interval.as_millis()).unwrap_or(u16::MAX),
            seq: self.hello.sent_seq,
            time_micros: now.as_micros(),
            echo_seq: self.hello.received_seq,
            echo_time_micros: self.hello.received_time_micros,
            echo_hold_micros: u32::try_from(now.since(self.hello.received_at).as_micros()).unwrap_or(u32::MAX),
            received: self.hello.received,
        }
    }

    /// Learns from the peer's HELLO. True if the link's cost moved enough to matter.
    pub(crate) fn take_hello(&mut self, config: &RoutingConfig, hello: &Hello, now: Instant) -> bool {
        self.note_reception(hello, now);
        self.deaf_until = hello.deaf.then(|| now + DEAF_FOR);
        if hello.echo_seq != 0 && hello.echo_seq <= self.hello.sent_seq {
            // An echo of the future, or one that was held longer than it took, is nonsense and measures nothing.
            let away = now.as_micros().checked_sub(hello.echo_time_micros);
            let round_trip = away.and_then(|away| away.checked_sub(hello.echo_hold_micros.into()));
            if let Some(round_trip) = round_trip {
                self.estimate.add_round_trip(Duration::from_micros(round_trip.max(1)), now);
            }
            self.estimate.add_reception(hello.echo_seq, hello.received);
        }
        let (jitter, rtt) = (self.estimate.jitter(), self.estimate.round_trip());
        let interval = Duration::from_millis(hello.interval_ms.into());
        self.detector.hello_received(&config.detector, interval, hello.echo_seq, jitter, rtt);
        match self.estimate.cost(config.hop_penalty) {
            Some(cost) if !self.measured || is_news(self.cost, cost) => {
                (self.cost, self.measured) = (cost, true);
                true
            }
            _ => false,
        }
    }

    fn note_reception(&mut self, hello: &Hello, now: Instant) {
        let state = &mut self.hello;
        let ahead = hello.seq.wrapping_sub(state.received_seq);
        if ahead == 0 || ahead > u32::MAX / 2 {
            // Said later with a smaller number: the peer's link began anew and counts from the start.
            if hello.time_micros <= state.received_time_micros {
                let behind = state.received_seq.wrapping_sub(hello.seq);
                state.received |= 1u64.checked_shl(behind).unwrap_or(0);
                return;
            }
            state.received = 0;
        }
        state.received = state.received.checked_shl(ahead).unwrap_or(0) | 1;
        state.received_seq = hello.seq;
        state.received_time_micros = hello.time_micros;
        state.received_at = now;
        self.estimate.add_arrival(hello.time_micros, now);
    }
}

pub(crate) fn micros(duration: Duration) -> Metric {
    Metric::from_micros(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX - 1))
}

/// All links, by small slot numbers that candidates refer to. A slot is given to another link only after every candidate that
/// refers to it is gone.
#[derive(Debug, Default)]
pub(crate) struct Links {
    slots: Vec<Option<Link>>,
    by_id: BTreeMap<LinkId, u32>,
}

impl Links {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn slot_of(&self, id: LinkId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Link> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Link> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn standing(&self, slot: u32) -> Standing {
        self.get(slot).map_or(Standing::Down, |link| link.standing)
    }

    pub(crate) fn insert(&mut self, link: Link) -> u32 {
        let id = link.id;
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = Some(link);
                free
            }
            None => {
                self.slots.push(Some(link));
                self.slots.len() - 1
            }
        };
        self.by_id.insert(id, slot as u32);
        slot as u32
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Link> {
        let link = self.slots.get_mut(slot as usize)?.take()?;
        self.by_id.remove(&link.id);
        Some(link)
    }

    /// Slots and links, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.by_id.values().filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    /// Slots of links that can carry messages.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = u32> {
        self.iter().filter(|(_, link)| link.standing < Standing::Down).map(|(slot, _)| slot)
    }
}
