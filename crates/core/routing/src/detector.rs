//! Is the neighbour there? Two thresholds, because one cannot be both fast and calm.
//!
//! ```text
//!          silence > 2 T (3 T when idle)          8 questions unanswered
//!   Up ─────────────────────────────► Suspect ─────────────────────────► Dead
//!    ▲          any authenticated packet │                                │
//!    └───────────────────────────────────┴────────────────────────────────┘
//! ```
//!
//! `T` is the pace the *peer* announced in its last HELLO: 25 ms while the link carries data, 500 ms otherwise. Any
//! authenticated packet counts as a heartbeat, so a busy link sends HELLO only twice per second, to measure. Suspicion costs
//! nothing and is taken back by one packet; death is announced to the mesh, so its questions are spread over 320 ms, longer
//! than a fade of a radio.

use std::time::Duration;

use x0t_model::Instant;

/// The detector's times. The defaults give 42 ms to suspicion and 386 ms to death in the median on a link in use, with no
/// false death in 8 hours at 5 % independent loss, for 32 kb/s per direction.
#[derive(Clone, Debug)]
pub struct DetectorConfig {
    /// HELLO while idle: the mission's echo interval.
    pub idle_interval: Duration,
    /// HELLO after this silence while data flows.
    pub active_interval: Duration,
    /// A link that carried data this recently is active.
    pub active_for: Duration,
    /// Missed heartbeats that make an active link suspect.
    pub misses_active: u32,
    /// Missed heartbeats that make an idle link suspect: the mission's path failure threshold.
    pub misses_idle: u32,
    /// Between two questions to a suspect.
    pub confirm_interval: Duration,
    /// Unanswered questions that make a suspect dead.
    pub confirms: u8,
    /// Silence after which a link is suspect whatever pace its peer announced.
    pub neighbor_timeout: Duration,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            idle_interval: Duration::from_millis(500),
            active_interval: Duration::from_millis(25),
            active_for: Duration::from_secs(2),
            misses_active: 2,
            misses_idle: 3,
            confirm_interval: Duration::from_millis(40),
            confirms: 8,
            neighbor_timeout: Duration::from_secs(5),
        }
    }
}

/// What a detector believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Heard recently.
    Up,
    /// Silent for too long; asked `asked` times.
    Suspect {
        /// Questions sent.
        asked: u8,
        /// When the next one is due, or death.
        next: Instant,
    },
    /// Silent through all questions.
    Dead,
}

/// What the passing of time made of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It fell silent.
    Suspected {
        /// For how long it has been.
        silent_for: Duration,
    },
    /// It answered no question.
    Died {
        /// For how long it has been silent.
        silent_for: Duration,
    },
}

/// What [`Detector::handle_timeout`] asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Send HELLO; `true` if it asks for an answer.
    pub hello: Option<bool>,
    /// What changed.
    pub news: Option<News>,
    /// This node was too late itself to judge, and has granted the peer another interval.
    pub stalled: bool,
}

/// What a heartbeat changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: it was up.
    AsUsual,
    /// A suspect proved alive.
    Recovered {
        /// How long it had been silent.
        silent_for: Duration,
    },
    /// A dead one came back.
    Revived,
}

/// Jitter stretches the silence that is allowed to at most this many intervals.
const JITTER_INTERVALS_MAX: u32 = 6;
/// The first HELLOs of a link, and those that announce a slower pace, are repeated so that one lost packet changes nothing.
const REPEATS: u8 = 3;
/// Between the first HELLOs of a link, which measure its round trip.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Until the peer has answered the HELLO that the first data after idleness sent ahead, or the one that a doubt asked with, its announced
/// idle pace says nothing.
#[derive(Clone, Copy, Debug)]
struct Activation {
    repeat_at: Option<Instant>,
    suspect_at: Instant,
    /// The first HELLO sequence number whose echo is an answer; to a doubt any sign of life is.
    seq: Option<u32>,
}

/// Watches one link. Pure: told what was heard and sent, and when.
#[derive(Clone, Debug)]
pub struct Detector {
    liveness: Liveness,
    active: bool,
    last_heard: Instant,
    last_sent: Instant,
    last_hello: Instant,
    last_data: Instant,
    /// Not before: granted after a stall of our own.
    grace_until: Instant,
    peer_interval: Duration,
    jitter: Duration,
    rtt: Duration,
    /// Quick HELLOs still to send.
    probes: u8,
    slow_downs: u8,
    activation: Option<Activation>,
}

impl Detector {
    /// A link that has just come up: the session's handshake was its first heartbeat.
    pub fn new(config: &DetectorConfig, now: Instant) -> Self {
        Self {
            liveness: Liveness::Up,
            active: false,
            last_heard: now,
            last_sent: now,
            last_hello: now - config.idle_interval,
            last_data: Instant::ZERO,
            grace_until: Instant::ZERO,
            peer_interval: config.idle_interval,
            jitter: Duration::ZERO,
            rtt: Duration::ZERO,
            probes: REPEATS,
            slow_downs: 0,
            activation: None,
        }
    }

    /// What it believes.
    pub const fn liveness(&self) -> Liveness {
        self.liveness
    }

    /// Whether the link carried data lately.
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// The last heartbeat.
    pub const fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// The pace to announce in HELLO.
    pub const fn announced_interval(&self, config: &DetectorConfig) -> Duration {
        if self.active { config.active_interval } else { config.idle_interval }
    }

    /// Any authenticated packet came.
    pub fn heard(&mut self, now: Instant) -> Heard {
        let silent_for = now.since(self.last_heard);
        self.last_heard = self.last_heard.max(now);
        if self.activation.is_some_and(|activation| activation.seq.is_none()) {
            self.activation = None;
        }
        match std::mem::replace(&mut self.liveness, Liveness::Up) {
            Liveness::Up => Heard::AsUsual,
            Liveness::Suspect { .. } => Heard::Recovered { silent_for },
            Liveness::Dead => {
                self.probes = REPEATS;
                Heard::Revived
            }
        }
    }

    /// Any packet was sent.
    pub fn sent(&mut self, now: Instant) {
        self.last_sent = self.last_sent.max(now);
    }

    /// Data passed in either direction. True if the link was idle: send a HELLO that asks for an answer at once; its sequence
    /// number will be `next_hello_seq`.
    pub fn carried_data(&mut self, config: &DetectorConfig, next_hello_seq: u32, now: Instant) -> bool {
        self.last_data = self.last_data.max(now);
        if self.active {
            return false;
        }
        self.active = true;
        self.slow_downs = 0;
        let patience = self.silence_allowed(config, config.active_interval) + self.rtt;
        let (repeat_at, suspect_at) = (Some(now + patience / 2), now + patience);
        self.activation = Some(Activation { repeat_at, suspect_at, seq: Some(next_hello_seq) });
        true
    }

    /// Somebody says that nothing reaches the peer, and nobody vouches for it. True if the peer is to be asked: send a HELLO that wants an
    /// answer at once. Until anything is heard, its silence is borne no longer than on a link in use; nothing else changes.
    pub fn doubted(&mut self, config: &DetectorConfig, now: Instant) -> bool {
        if self.liveness != Liveness::Up || self.activation.is_some() {
            return false;
        }
        let patience = self.silence_allowed(config, config.active_interval) + self.rtt;
        let (repeat_at, suspect_at) = (Some(now + patience / 2), now + patience);
        self.activation = Some(Activation { repeat_at, suspect_at, seq: None });
        true
    }

    /// A HELLO was sent.
    pub fn hello_sent(&mut self, now: Instant) {
        self.last_hello = now;
        self.last_sent = self.last_sent.max(now);
    }

    /// A HELLO came: the pace the peer announces, the newest of our HELLOs it has seen, and what the link measures now.
    pub fn hello_received(
        &mut self,
        config: &DetectorConfig,
        interval: Duration,
        echo_seq: u32,
        jitter: Duration,
        rtt: Option<Duration>,
    ) {
        self.peer_interval = interval.clamp(Duration::from_millis(5), config.neighbor_timeout);
        self.jitter = jitter;
        self.rtt = rtt.unwrap_or(self.rtt);
        if self.activation.and_then(|activation| activation.seq).is_some_and(|seq| echo_seq >= seq) {
            self.activation = None;
        }
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    pub fn deadline(&self, config: &DetectorConfig) -> Instant {
        match self.liveness {
            Liveness::Up => self.hello_due(config).min(self.suspect_due(config)),
            Liveness::Suspect { next, .. } => next,
            Liveness::Dead => self.hello_due(config),
        }
    }

    /// Time has passed. `slip` is how much later than asked for this call comes: a node that was late itself cannot blame its
    /// peer for silence.
    pub fn handle_timeout(&mut self, config: &DetectorConfig, slip: Duration, now: Instant) -> Due {
        self.relax(config, now);
        let mut due = Due::default();
        match self.liveness {
            Liveness::Up => {
                if now >= self.suspect_due(config) {
                    if slip > self.pace(config) / 2 {
                        self.grace_until = now + self.pace(config);
                        due.stalled = true;
                    } else {
                        due.news = Some(News::Suspected { silent_for: now.since(self.last_heard) });
                        self.activation = None;
                        self.liveness = Liveness::Suspect { asked: 1, next: now + config.confirm_interval };
                        due.hello = Some(true);
                        return due;
                    }
                }
                due.hello = self.take_due_hello(config, now);
            }
            Liveness::Suspect { asked, next } if now >= next => {
                if slip > config.confirm_interval / 2 {
                    self.liveness = Liveness::Suspect { asked, next: now + config.confirm_interval };
                    due.stalled = true;
                    due.hello = Some(true);
                } else if asked < config.confirms {
                    let last = asked + 1 == config.confirms;
                    let wait =
                        if last { config.confirm_interval.max(self.rtt * 3 / 2) } else { config.confirm_interval };
                    self.liveness = Liveness::Suspect { asked: asked + 1, next: now + wait };
                    due.hello = Some(true);
                } else {
                    due.news = Some(News::Died { silent_for: now.since(self.last_heard) });
                    self.liveness = Liveness::Dead;
                }
            }
            Liveness::Suspect { .. } => {}
            Liveness::Dead => due.hello = self.take_due_hello(config, now).map(|_| true),
        }
        due
    }

    /// The link is known to be cut: ask at once, and let the unanswered questions decide.
    pub fn suspect_now(&mut self, now: Instant) -> bool {
        let was_up = self.liveness == Liveness::Up;
        if was_up {
            self.liveness = Liveness::Suspect { asked: 0, next: now };
        }
        was_up
    }

    /// The cut is mended. If no question was asked meanwhile, nothing has happened, and silence alone judges as before.
    pub fn trust_again(&mut self) {
        if matches!(self.liveness, Liveness::Suspect { asked: 0, .. }) {
            self.liveness = Liveness::Up;
        }
    }

    fn relax(&mut self, config: &DetectorConfig, now: Instant) {
        if self.active && now.since(self.last_data) >= config.active_for {
            self.active = false;
            self.activation = None;
            self.slow_downs = REPEATS;
        }
    }

    /// How often the peer should be heard: what it announced, or what it must announce in answer to an activation.
    fn pace(&self, config: &DetectorConfig) -> Duration {
        if self.activation.is_some() { self.peer_interval.min(config.active_interval) } else { self.peer_interval }
    }

    fn silence_allowed(&self, config: &DetectorConfig, interval: Duration) -> Duration {
        let misses = if interval * 2 <= config.idle_interval { config.misses_active } else { config.misses_idle };
        // A pause of either end looks like jitter for a while: it must not blind the detector.
        let by_jitter = (interval + self.jitter * 4).min(interval * JITTER_INTERVALS_MAX);
        (interval * misses).max(by_jitter).min(config.neighbor_timeout)
    }

    fn suspect_due(&self, config: &DetectorConfig) -> Instant {
        let by_silence = self.last_heard + self.silence_allowed(config, self.peer_interval);
        let due = self.activation.map_or(by_silence, |activation| by_silence.min(activation.suspect_at));
        due.max(self.grace_until)
    }

    fn hello_due(&self, config: &DetectorConfig) -> Instant {
        let mut due = self.last_hello + config.idle_interval;
        if self.liveness == Liveness::Dead {
            return due;
        }
        if self.active {
            due = due.min(self.last_sent + config.active_interval);
            // The end of activity has to be noticed too.
            due = due.min(self.last_data + config.active_for);
        } else if self.slow_downs > 0 {
            due = due.min(self.last_hello + config.active_interval);
        }
        if self.probes > 0 {
            due = due.min(self.last_hello + PROBE_INTERVAL);
        }
        if let Some(repeat_at) = self.activation.and_then(|activation| activation.repeat_at) {
            due = due.min(repeat_at);
        }
        due
    }

    fn take_due_hello(&mut self, config: &DetectorConfig, now: Instant) -> Option<bool> {
        if now < self.hello_due(config) {
            return None;
        }
        let mut reply_wanted = self.probes > 0;
        self.probes = self.probes.saturating_sub(1);
        if !self.active {
            self.slow_downs = self.slow_downs.saturating_sub(1);
        }
        if let Some(activation) = &mut self.activation
            && activation.repeat_at.is_some_and(|at| now >= at)
        {
            activation.repeat_at = None;
            reply_wanted = true;
        }
        Some(reply_wanted)
    }
}
