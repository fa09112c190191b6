//! One way to a far end: what is known of it, and what it makes one think.

use std::time::Duration;

use x0t_model::Instant;
use x0t_routing::LinkId;

/// A datagram of at most this many bytes is small. A relay that cannot carry, or drops, long packets shows in one class alone.
const SMALL_LEN_MAX: usize = 600;
/// A way whose round trip nobody knows is given this long.
const UNKNOWN_ROUND_TRIP: Duration = Duration::from_millis(200);
/// Least allowance for the variation of round trips: both ends' timers tick.
const VARIATION_MIN: Duration = Duration::from_millis(3);
/// Between two probes that add to the evidence.
const PROBE_SPACING: Duration = Duration::from_millis(5);
/// Probes without an answer, in one doubt. Then there is nothing more to learn.
const PROBES_MAX: u32 = 32;
/// Packets that must arrive by a suspect way before it is trusted again.
const PROOF: u32 = 3;
/// A suspect way is asked so many times, so long apart, at first.
const EARLY_QUESTIONS: (u32, Duration) = (8, Duration::from_millis(25));
/// And then this far apart.
const QUESTION_SPACING: Duration = Duration::from_millis(500);
/// How long a suspect way is left alone at least; doubles with every suspicion, up to the second.
const HOLD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// Calm for this long, and earlier suspicions are forgotten.
const CALM: Duration = Duration::from_secs(120);
/// Nothing was sent to the far end for this long: suspicions of it are idle.
pub(super) const IDLE: Duration = Duration::from_secs(5);
/// A way that carries nothing but copies is asked this often whether it still delivers.
const COPY_CHECK: Duration = Duration::from_millis(250);
/// A tally older than this is of another time.
const TALLY_LIFE: Duration = Duration::from_secs(30);
/// How long a measured loss is compared with that of other ways.
const KNOWN_LIFE: Duration = Duration::from_secs(600);
/// Packets a tally holds before both its counts are halved.
const TALLY_MAX: u32 = 192;
/// Packets below which a share says nothing.
const TALLY_MIN: u32 = 8;
/// The score that is a verdict: some 140 packets at 30 %. What loses 5 % on each of three hops comes to it by chance once in hours
/// of a hundred packets a second, and never once its link is known to lose as much.
const VERDICT: f64 = 10.0;
/// So many lost in a row are a verdict too: at 15 % that is chance once in four million.
const STREAK: u32 = 8;
/// Beyond this a loss and twice that loss are both everything. In thousandths.
const TOLERABLE_MAX: u32 = 450;
/// Packets a comparison needs.
const COMPARISON_MIN: u32 = 32;
/// Loss below this is nobody's fault: noise on every hop. In thousandths.
const NOISE: u32 = 150;
/// What a way may lose more than is expected of it, or than another way does. In thousandths.
const MARGIN: u32 = 100;

/// The size class of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// At most 600 bytes.
    Small,
    /// More.
    Large,
}

impl Size {
    /// The class of a datagram of `len` bytes.
    pub const fn of(len: usize) -> Self {
        if len <= SMALL_LEN_MAX { Self::Small } else { Self::Large }
    }
}

/// What to do about a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Probe,
    Hedge,
    Suspect,
    Trust,
}

/// What a way did with the packets of one size.
///
/// The score is Page's cumulative sum (1954): every lost packet raises it, every other one lowers it, never below zero, by the
/// logarithm of how much likelier that is at twice the tolerable loss than at the tolerable loss. So a change shows after the same
/// number of packets however long all was well before.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u32,
    lost: u32,
    updated: Instant,
    /// The loss last measured, in thousandths, and when.
    known: Option<(u32, Instant)>,
    score: f64,
    /// Packets and losses since the score was last zero: since the change, if there was one.
    rise: (u32, u32),
    /// Lost in a row.
    streak: u32,
}

impl Tally {
    fn add(&mut self, sent: u32, lost: u32, tolerable: u32, now: Instant) {
        if now.since(self.updated) > TALLY_LIFE {
            *self = Self { known: self.known, ..Self::default() };
        }
        (self.sent, self.lost, self.updated) = (self.sent + sent, self.lost + lost, now);
        while self.sent > TALLY_MAX {
            (self.sent, self.lost) = (self.sent / 2, self.lost / 2);
        }
        if self.sent >= COMPARISON_MIN {
            self.known = Some((self.loss(), now));
        }
        let tolerable = f64::from(tolerable.min(TOLERABLE_MAX)) / 1_000.0;
        let kept = (tolerable / (1.0 - 2.0 * tolerable)).ln_1p();
        let change = f64::from(lost) * std::f64::consts::LN_2 - f64::from(sent - lost.min(sent)) * kept;
        self.score = (self.score + change).clamp(0.0, 2.0 * VERDICT);
        self.streak = if lost == sent { self.streak.saturating_add(lost) } else { 0 };
        self.rise = if self.score > 0.0 { (self.rise.0 + sent, self.rise.1 + lost) } else { (0, 0) };
    }

    fn is_verdict(&self) -> bool {
        self.score >= VERDICT || self.streak >= STREAK
    }

    /// The loss that led to a verdict, in thousandths. What comes after it counts anew.
    fn judge(&mut self, now: Instant) -> u32 {
        let loss = self.rise.1.saturating_mul(1_000) / self.rise.0.max(1);
        *self = Self { known: Some((loss, now)), updated: now, ..Self::default() };
        loss
    }

    fn loss(&self) -> u32 {
        self.lost * 1_000 / self.sent.max(1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Trusted,
    Suspect { hold_until: Instant, next_question: Instant, questions: u32, arrived: [u32; 2] },
}

/// What is known of one way.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) link: LinkId,
    /// Last time a watched packet or a copy took it.
    pub(super) used_at: Instant,
    watched_at: Instant,
    copied_at: Option<Instant>,
    round_trip: Option<(Duration, Duration)>,
    /// The newest number that is known to have arrived, and when it was sent.
    newest: Option<(u64, Instant)>,
    /// Watched packets sent after that one, and when the first of them was sent.
    outstanding: u32,
    since: Instant,
    hedged: bool,
    relieved: bool,
    probes: u32,
    probed_at: Option<Instant>,
    probe_large: bool,
    trust: Trust,
    suspicions: u32,
    suspected_at: Instant,
    tallies: [Tally; 2],
    /// In thousandths, for each class.
    tolerable: [u32; 2],
    /// No further demotion before, and how many there were in a row.
    demote_after: Instant,
    demotions: u32,
}

impl Way {
    pub(super) fn new(link: LinkId, now: Instant) -> Self {
        Self {
            link,
            used_at: now,
            watched_at: now,
            copied_at: None,
            round_trip: None,
            newest: None,
            outstanding: 0,
            since: now,
            hedged: false,
            relieved: false,
            probes: 0,
            probed_at: None,
            probe_large: false,
            trust: Trust::Trusted,
            suspicions: 0,
            suspected_at: Instant::ZERO,
            tallies: [Tally::default(); 2],
            tolerable: [NOISE; 2],
            demote_after: Instant::ZERO,
            demotions: 0,
        }
    }

    /// `watched` packets were sent.
    pub(super) fn sent(&mut self, watched: u32, now: Instant) {
        (self.used_at, self.watched_at) = (now, now);
        if self.outstanding == 0 {
            self.begin_waiting(now);
        }
        self.outstanding = self.outstanding.saturating_add(watched);
    }

    /// Copies took it, of which nobody can say by which way they arrived.
    pub(super) fn copied(&mut self, now: Instant) {
        (self.used_at, self.copied_at) = (now, Some(now));
    }

    /// The numbers start again: another session.
    pub(super) fn renumber(&mut self) {
        (self.newest, self.outstanding) = (None, 0);
    }

    /// `count` packets arrived, of which number `pn` is the newest.
    pub(super) fn arrived(&mut self, pn: u64, (count, size): (u32, Size), sent_at: Instant) {
        if self.newest.is_none_or(|(newest, _)| pn > newest) {
            self.newest = Some((pn, sent_at));
            self.relieved |= std::mem::replace(&mut self.hedged, false);
        }
        let suspected_at = self.suspected_at;
        if let Trust::Suspect { arrived, .. } = &mut self.trust
            && sent_at >= suspected_at
        {
            arrived[size as usize] += count;
        }
    }

    pub(super) const fn newest(&self) -> Option<(u64, Instant)> {
        self.newest
    }

    pub(super) const fn recount(&mut self) {
        self.outstanding = 0;
    }

    pub(super) fn still_outstanding(&mut self, count: u32, sent_at: Instant) {
        if self.outstanding == 0 && sent_at > self.since {
            self.begin_waiting(sent_at);
        }
        self.outstanding += count;
    }

    const fn begin_waiting(&mut self, since: Instant) {
        (self.since, self.hedged, self.probes) = (since, false, 0);
    }

    /// The estimator of RFC 6298, section 2.
    pub(super) fn round_trip(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => {
                (smoothed * 7 / 8 + sample / 8, variation * 3 / 4 + smoothed.abs_diff(sample) / 4)
            }
        });
    }

    pub(super) fn tally(&mut self, size: Size, sent: u32, lost: u32, now: Instant) {
        // What was lost to a hole is no noise to be measured, and has had its verdict.
        if sent > 0 && !self.is_suspect() {
            let tolerable = self.tolerable[size as usize];
            self.tallies[size as usize].add(sent, lost, tolerable, now);
        }
    }

    /// What may be lost of one class without anybody's fault: noise, or a little more than is `expected` of the way, or than
    /// others lose.
    pub(super) fn tolerate(&mut self, size: Size, expected: u32, others: Option<u32>) {
        self.tolerable[size as usize] = NOISE.max(expected + MARGIN).max(others.map_or(0, |loss| loss + MARGIN));
    }

    /// The loss last measured in one class, in thousandths.
    pub(super) fn known_loss(&self, size: Size, now: Instant) -> Option<u32> {
        self.tallies[size as usize].known.filter(|(_, at)| now.since(*at) < KNOWN_LIFE).map(|(loss, _)| loss)
    }

    /// By how many doublings it is to be demoted, because it loses more than is tolerable.
    pub(super) fn demotion(&mut self, size: Size, now: Instant) -> Option<u8> {
        let tally = &mut self.tallies[size as usize];
        if !tally.is_verdict() || now < self.demote_after {
            return None;
        }
        let loss = tally.judge(now);
        if now.since(self.demote_after) > KNOWN_LIFE {
            self.demotions = 0;
        }
        // Whoever goes on carrying has no alternate: said often enough.
        self.demote_after = now + Duration::from_secs(1 << self.demotions.min(6));
        self.demotions += 1;
        Some(if loss >= 500 { 3 } else { 1 })
    }

    /// Whether a doubt that was hedged against has been answered. Asked once.
    pub(super) const fn is_relieved(&mut self) -> bool {
        std::mem::replace(&mut self.relieved, false)
    }

    /// How long a sign of life may take: until the far end reports, and there and back.
    fn patience(&self) -> Duration {
        let round_trip = match self.round_trip {
            Some((smoothed, variation)) => smoothed + (variation * 4).max(VARIATION_MIN),
            None => UNKNOWN_ROUND_TRIP,
        };
        super::REPORT_AFTER + round_trip
    }

    /// Packets in a row that must be missing before chance is ruled out: chance in ten million at the loss measured.
    fn evidence(&self) -> u32 {
        let loss = self.tallies.iter().filter(|tally| tally.sent >= TALLY_MIN).map(Tally::loss).max().unwrap_or(0);
        match loss {
            0..=10 => 4,
            11..=50 => 6,
            51..=120 => 8,
            121..=250 => 12,
            _ => 16,
        }
    }

    pub(super) const fn is_suspect(&self) -> bool {
        matches!(self.trust, Trust::Suspect { .. })
    }

    /// When [`Self::step`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Trust::Suspect { next_question, .. } = self.trust {
            return Some(next_question);
        }
        let check = self.copied_at.filter(|at| *at + IDLE > self.watched_at).map(|_| self.watched_at + COPY_CHECK);
        let doubt = match self.outstanding {
            0 => None,
            _ if !self.hedged => Some(self.since + self.patience()),
            few if few < self.evidence() => (self.probes < PROBES_MAX).then(|| {
                let spaced = self.probed_at.map_or(Instant::ZERO, |at| at + PROBE_SPACING);
                (self.since + self.patience()).max(spaced)
            }),
            _ => Some(self.since + self.patience() + super::REPORT_AFTER * 2),
        };
        [check, doubt].into_iter().flatten().min()
    }

    /// What is due at `now`; `used_at` is when the far end was last sent anything, `large` whether large packets are among it.
    pub(super) fn step(&mut self, used_at: Instant, large: bool, now: Instant) -> Option<Step> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        let idle = now.since(used_at) > IDLE;
        if let Trust::Suspect { hold_until, next_question, questions, arrived } = &mut self.trust {
            // Small packets prove nothing for large ones where those are sent.
            let proven = arrived[0] + arrived[1] >= PROOF && (arrived[1] > 0 || !large);
            if proven && now >= *hold_until || idle {
                self.trust = Trust::Trusted;
                self.outstanding = 0;
                return Some(Step::Trust);
            }
            *questions += 1;
            let pause = if *questions <= EARLY_QUESTIONS.0 { EARLY_QUESTIONS.1 } else { QUESTION_SPACING };
            *next_question = now + pause;
            return Some(Step::Probe);
        }
        if self.copied_at.is_some_and(|at| now.since(at) > IDLE) {
            self.copied_at = None;
        }
        let late = self.since + self.patience();
        if self.outstanding > 0 && !self.hedged && now >= late {
            self.hedged = true;
            return Some(Step::Hedge);
        }
        if self.outstanding >= self.evidence() && now >= late + super::REPORT_AFTER * 2 {
            self.suspect(now);
            return Some(Step::Suspect);
        }
        let spaced = self.probed_at.is_none_or(|at| now >= at + PROBE_SPACING);
        if (1..self.evidence()).contains(&self.outstanding) && self.probes < PROBES_MAX && now >= late && spaced {
            self.probes += 1;
            self.probed_at = Some(now);
            return Some(Step::Probe);
        }
        self.check_copies(now)
    }

    /// Of which size the next probe is: small and large in turn where `large` packets are sent at all.
    pub(super) fn probe_size(&mut self, large: bool) -> Size {
        let size = if large && self.probe_large { Size::Large } else { Size::Small };
        self.probe_large = !self.probe_large;
        size
    }

    fn check_copies(&mut self, now: Instant) -> Option<Step> {
        let due = self.copied_at.is_some() && now >= self.watched_at + COPY_CHECK;
        // Counted as watched even if it cannot be sent, so that it is not due again at once.
        self.watched_at = if due { now } else { self.watched_at };
        due.then_some(Step::Probe)
    }

    fn suspect(&mut self, now: Instant) {
        if now.since(self.suspected_at) > CALM {
            self.suspicions = 0;
        }
        let hold = (HOLD.0 * (1 << self.suspicions.min(9))).min(HOLD.1);
        self.suspicions += 1;
        self.suspected_at = now;
        self.outstanding = 0;
        self.trust = Trust::Suspect { hold_until: now + hold, next_question: now, questions: 0, arrived: [0; 2] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_speaks_up_for_a_third_lost_and_not_for_a_tenth() {
        let verdict = |batches: u32, sent: u32, lost: u32, tolerable: u32| {
            let mut tally = Tally::default();
            (0..batches).for_each(|_| tally.add(sent, lost, tolerable, Instant::ZERO));
            tally.is_verdict()
        };
        assert!(verdict(8, 1, 1, NOISE) && !verdict(7, 1, 1, NOISE), "eight in a row");
        assert!(verdict(20, 10, 3, NOISE), "60 of 200");
        assert!(!verdict(1_000, 10, 1, NOISE), "a tenth, however long");
        assert!(!verdict(1_000, 10, 3, 400), "no more than others lose");
        assert!(verdict(1, 1_000, 1_000, u32::MAX));
    }

    #[test]
    fn a_tally_forgets_what_is_old_and_remembers_what_it_came_to() {
        let mut tally = Tally::default();
        tally.add(100, 50, NOISE, Instant::from_millis(1_000));
        assert_eq!(tally.known, Some((500, Instant::from_millis(1_000))));
        tally.add(8, 0, NOISE, Instant::from_millis(40_000));
        assert_eq!((tally.sent, tally.lost), (8, 0));
        assert_eq!(tally.known.unwrap().0, 500);
        (0..1_000).for_each(|_| tally.add(10, 1, NOISE, Instant::from_millis(40_000)));
        assert!(tally.sent <= TALLY_MAX && (80..=110).contains(&tally.loss()), "{tally:?}");
    }

    #[test]
    fn a_way_whose_probes_cannot_be_sent_asks_for_no_more_than_one_at_a_time() {
        let mut way = Way::new(LinkId(1), Instant::ZERO);
        way.round_trip(Duration::from_millis(1));
        way.sent(1, Instant::from_millis(1));
        let mut steps = 0;
        for millis in 0..4_000 {
            let now = Instant::from_millis(millis);
            way.copied(now);
            while way.step(now, false, now).is_some() {
                steps += 1;
                assert!(steps < 200, "at {now:?}");
            }
        }
    }

    #[test]
    fn a_size_has_a_class() {
        assert_eq!((Size::of(600), Size::of(601)), (Size::Small, Size::Large));
    }
}
