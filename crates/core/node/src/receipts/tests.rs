//! A sender and a receiver with ways between them, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use x0t_model::Entropy;

use super::*;

const NODE: NodeId = NodeId::from_bytes([7; 16]);
const SESSION: SessionId = SessionId::from_u64(1);
const SECOND: Duration = Duration::from_secs(1);
const SMALL: usize = 100;
const LARGE: usize = 1_300;

/// How a way treats packets: delay, and loss in a million for small and for large ones, there and back.
#[derive(Clone, Copy)]
struct Model {
    delay: Duration,
    jitter: Duration,
    loss: [u32; 2],
    loss_back: u32,
}

impl Model {
    const fn of(delay_ms: u64, loss: u32) -> Self {
        Self { delay: Duration::from_millis(delay_ms), jitter: Duration::ZERO, loss: [loss; 2], loss_back: loss }
    }
}

enum Parcel {
    Data { first: u64, count: u32, len: usize, probe: bool },
    Receipt { highest: u64, words: Vec<u64>, held: Duration },
}

struct Lab {
    now: Instant,
    sender: Receipts,
    receiver: Receipts,
    ways: Vec<Model>,
    /// Which way data takes.
    current: usize,
    suspect: BTreeSet<usize>,
    demoted: Vec<u8>,
    next_pn: u64,
    arrived: BTreeSet<u64>,
    arrivals: Vec<Instant>,
    parcels: BTreeMap<(Instant, u64), Parcel>,
    counter: u64,
    entropy: Entropy,
    log: Vec<(Instant, Action)>,
    receipts: usize,
    mute: bool,
}

fn link(way: usize) -> LinkId {
    LinkId(way as u32)
}

impl Lab {
    fn new(ways: &[Model], seed: u8) -> Self {
        Self {
            now: Instant::from_millis(10_000),
            sender: Receipts::default(),
            receiver: Receipts::default(),
            demoted: vec![0; ways.len()],
            ways: ways.to_vec(),
            current: 0,
            suspect: BTreeSet::new(),
            next_pn: 0,
            arrived: BTreeSet::new(),
            arrivals: Vec::new(),
            parcels: BTreeMap::new(),
            counter: 0,
            entropy: Entropy::new([seed; 32]),
            log: Vec::new(),
            receipts: 0,
            mute: false,
        }
    }

    /// Sends a run of packets every `interval` for `time`.
    fn stream(&mut self, time: Duration, interval: Duration, count: u32, len: usize) {
        let end = self.now + time;
        let mut next = self.now;
        while next < end {
            self.pass_until(next);
            self.send(self.current, count, len, false);
            next += interval;
        }
        self.pass_until(end);
    }

    fn send(&mut self, way: usize, count: u32, len: usize, probe: bool) {
        let first = self.next_pn;
        self.next_pn += u64::from(count);
        self.sender.sent((NODE, SESSION), link(way), (first, count), len, self.now);
        self.put(way, Parcel::Data { first, count, len, probe });
    }

    fn put(&mut self, way: usize, parcel: Parcel) {
        let model = self.ways[way];
        let loss = match &parcel {
            Parcel::Data { len, .. } => model.loss[Size::of(*len) as usize],
            Parcel::Receipt { .. } => model.loss_back,
        };
        // Packets of a run are lost one by one, and so travel one by one if any may be.
        let parts: Vec<Parcel> = match parcel {
            Parcel::Data { first, count, len, probe } if loss > 0 => {
                (first..first + u64::from(count)).map(|first| Parcel::Data { first, count: 1, len, probe }).collect()
            }
            whole => vec![whole],
        };
        for part in parts {
            if self.entropy.chance(loss) {
                continue;
            }
            let jitter = Duration::from_nanos(self.entropy.below((model.jitter.as_nanos() as u64).max(1)));
            self.counter += 1;
            self.parcels.insert((self.now + model.delay + jitter, self.counter), part);
        }
    }

    fn pass_until(&mut self, until: Instant) {
        loop {
            let timers = [self.sender.poll_timeout(), self.receiver.poll_timeout()].into_iter().flatten();
            let next = timers.chain(self.parcels.keys().next().map(|key| key.0)).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.parcels.first_entry().filter(|entry| entry.key().0 <= self.now) {
                match entry.remove() {
                    Parcel::Data { first, count, len, probe } => {
                        self.arrived.extend(first..first + u64::from(count));
                        self.arrivals.push(self.now);
                        self.receiver.received(SESSION, count, len * count as usize, probe, self.now);
                    }
                    Parcel::Receipt { highest, words, held } => {
                        let seen = Seen { highest, words: &words };
                        self.sender.on_receipt((NODE, SESSION), seen, held, |_| 0, self.now);
                    }
                }
            }
            while let Some(action) = self.receiver.poll(self.now) {
                self.report(action);
            }
            while let Some(action) = self.sender.poll(self.now) {
                self.act(action);
            }
        }
        self.now = until;
    }

    fn report(&mut self, action: Action) {
        assert_eq!(action, Action::Report { session: SESSION });
        let highest = *self.arrived.last().unwrap();
        let receipt = self.receiver.receipt(SESSION, highest, self.now).unwrap();
        if self.mute {
            return;
        }
        self.receipts += 1;
        let mut words = vec![0u64; receipt.words];
        for pn in self.arrived.range(highest.saturating_sub(receipt.words as u64 * 64 - 1)..) {
            let bit = highest - pn;
            words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        while self.arrived.len() > 4_096 {
            self.arrived.pop_first();
        }
        for way in 0..self.ways.len().min(2) {
            self.put(way, Parcel::Receipt { highest, words: words.clone(), held: receipt.held });
        }
    }

    fn act(&mut self, action: Action) {
        let at = |link: LinkId| link.0 as usize;
        match action {
            Action::Probe { link, size, .. } => {
                self.send(at(link), 1, if size == Size::Large { LARGE } else { SMALL }, true);
                return;
            }
            Action::Relax { .. } => return,
            Action::Hedge { .. } => return self.log.push((self.now, action)),
            Action::Suspect { link, .. } => _ = self.suspect.insert(at(link)),
            Action::Trust { link, .. } => _ = self.suspect.remove(&at(link)),
            Action::Demote { link, steps, .. } => self.demoted[at(link)] += steps,
            Action::Report { .. } => unreachable!("nothing comes to the sender but receipts"),
        }
        self.log.push((self.now, action));
        let ways = 0..self.ways.len();
        self.current = ways.min_by_key(|way| (self.suspect.contains(way), self.demoted[*way], *way)).unwrap();
    }

    fn first(&self, wanted: impl Fn(&Action) -> bool) -> Option<Instant> {
        self.log.iter().find(|(_, action)| wanted(action)).map(|(at, _)| *at)
    }

    fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.log.iter().filter(|(_, action)| wanted(action)).count()
    }
}

const fn is_suspicion(action: &Action) -> bool {
    matches!(action, Action::Suspect { .. })
}

const fn is_demotion(action: &Action) -> bool {
    matches!(action, Action::Demote { .. })
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_black_hole_beyond_the_next_hop_is_left_within_sixty_milliseconds_in_the_median() {
    let mut outages = Vec::new();
    for seed in 0..100u64 {
        let mut lab = Lab::new(&[Model::of(2, 0), Model::of(4, 0)], seed as u8);
        lab.stream(SECOND + Duration::from_micros(517 * seed), millis(1 + seed % 10), 1, SMALL);
        let fault = lab.now;
        lab.ways[0].loss = [1_000_000; 2];
        lab.stream(SECOND, millis(1 + seed % 10), 1, SMALL);
        // From here on the next packets go both ways, so they arrive whatever the verdict will be.
        let hedged =
            lab.first(|action| matches!(action, Action::Hedge { .. })).unwrap_or_else(|| panic!("seed {seed}"));
        outages.push(hedged.since(fault));
        let suspected = lab.first(is_suspicion).unwrap_or_else(|| panic!("seed {seed}: never found"));
        assert!(suspected.since(fault) <= millis(120), "seed {seed}: {:?}", suspected.since(fault));
        assert_eq!(lab.current, 1);
        assert_eq!(lab.count(is_suspicion), 1, "seed {seed}: {:?}", lab.log);
    }
    outages.sort();
    assert!(outages[50] <= millis(40), "p50 {:?}", outages[50]);
    assert!(outages[99] <= millis(60), "worst {:?}", outages[99]);
}

#[test]
fn a_way_that_delivers_again_is_trusted_again() {
    let mut lab = Lab::new(&[Model::of(2, 0), Model::of(4, 0)], 1);
    lab.stream(SECOND, millis(5), 1, SMALL);
    lab.ways[0].loss = [1_000_000; 2];
    lab.stream(3 * SECOND, millis(5), 1, SMALL);
    assert!(lab.sender.is_suspect(NODE, link(0)) && lab.current == 1);
    lab.ways[0].loss = [0; 2];
    lab.stream(3 * SECOND, millis(5), 1, SMALL);
    assert!(!lab.sender.is_suspect(NODE, link(0)));
    assert_eq!(lab.current, 0);
}

#[test]
fn a_few_packets_a_second_are_enough_to_find_a_black_hole() {
    let mut lab = Lab::new(&[Model::of(10, 0), Model::of(12, 0)], 2);
    lab.stream(5 * SECOND, millis(400), 1, SMALL);
    lab.ways[0].loss = [1_000_000; 2];
    let fault = lab.now;
    lab.stream(2 * SECOND, millis(400), 1, SMALL);
    let found = lab.first(is_suspicion).expect("probes make up for what is not sent").since(fault);
    assert!(found <= millis(150), "{found:?} after the first packet that was lost");
}

#[test]
fn a_relay_that_drops_a_third_is_demoted_within_three_seconds() {
    let mut times = Vec::new();
    for seed in 0..30 {
        let mut lab = Lab::new(&[Model::of(2, 0), Model::of(3, 0)], seed);
        lab.stream(5 * SECOND, millis(10), 1, SMALL);
        let fault = lab.now;
        lab.ways[0].loss = [300_000; 2];
        lab.stream(5 * SECOND, millis(10), 1, SMALL);
        let found = lab.first(is_demotion).unwrap_or_else(|| panic!("seed {seed}: never found")).since(fault);
        times.push(found);
        assert_eq!(lab.current, 1);
    }
    times.sort();
    assert!(times[15] <= 3 * SECOND / 2 && times[27] <= 3 * SECOND, "p50 and p90 of {times:?}");
    assert!(times[29] <= 5 * SECOND, "worst of {times:?}");
}

#[test]
fn a_relay_that_drops_large_packets_alone_is_left_though_small_ones_pass() {
    let mut lab = Lab::new(&[Model::of(2, 0), Model::of(3, 0)], 4);
    lab.ways[0].loss = [0, 1_000_000];
    let begun = lab.now;
    for _ in 0..20 {
        lab.send(lab.current, 1, SMALL, false);
        lab.pass_until(lab.now + millis(5));
    }
    // A window of data, and then what a stalled transport does: once more after a while.
    lab.send(lab.current, 10, LARGE, false);
    lab.pass_until(lab.now + millis(400));
    lab.send(lab.current, 1, LARGE, false);
    lab.pass_until(lab.now + SECOND);
    let found = lab.first(|action| is_suspicion(action) || is_demotion(action)).expect("found").since(begun);
    assert!(found <= millis(700), "{found:?}");
    assert_eq!(lab.current, 1, "and not taken again on the word of small packets");
}

#[test]
fn an_hour_of_noise_demotes_nobody() {
    // 5 % on each of two hops, there and back, with jitter that lets packets overtake each other.
    let noisy = Model { jitter: millis(3), ..Model::of(2, 97_500) };
    let mut lab = Lab::new(&[noisy, Model { delay: millis(4), ..noisy }], 5);
    lab.stream(3_600 * SECOND, millis(10), 1, SMALL);
    assert_eq!(lab.count(is_demotion), 0, "{:?}", lab.log.iter().find(|(_, action)| is_demotion(action)));
    let suspicions = lab.count(is_suspicion);
    assert!(suspicions <= 30, "{suspicions} suspicions an hour, each of them free and taken back");
}

#[test]
fn loss_that_all_ways_share_moves_nothing_to_and_fro() {
    let mut lab = Lab::new(&[Model::of(2, 0), Model::of(3, 0)], 6);
    lab.stream(5 * SECOND, millis(10), 1, SMALL);
    for way in &mut lab.ways {
        way.loss = [300_000; 2];
    }
    for _ in 0..5 {
        lab.stream(60 * SECOND, millis(10), 1, SMALL);
        // Demotions fade.
        lab.demoted = vec![0; 2];
    }
    assert_eq!(lab.count(is_demotion), 1, "{:?}", lab.log);
}

#[test]
fn who_never_reports_is_never_suspected() {
    let mut lab = Lab::new(&[Model::of(2, 0), Model::of(3, 0)], 7);
    lab.mute = true;
    lab.stream(10 * SECOND, millis(5), 1, SMALL);
    assert_eq!((lab.log.len(), lab.next_pn), (0, 2_000), "and never probed");
}

#[test]
fn a_way_that_carries_only_copies_is_asked_whether_it_delivers() {
    let mut lab = Lab::new(&[Model::of(2, 0), Model::of(4, 0)], 8);
    lab.stream(SECOND, millis(5), 1, SMALL);
    lab.ways[1].loss = [1_000_000; 2];
    let fault = lab.now;
    for _ in 0..200 {
        lab.sender.copied((NODE, SESSION), [link(0), link(1)], lab.now);
        lab.pass_until(lab.now + millis(5));
    }
    let found = lab.first(is_suspicion).expect("found").since(fault);
    assert!(found <= millis(600), "{found:?}");
    assert_eq!(lab.suspect, BTreeSet::from([1]), "and the other one is not");
}

#[test]
fn at_ten_gigabits_a_sample_is_watched_and_nothing_is_made_up() {
    let mut lab = Lab::new(&[Model::of(15, 0), Model::of(20, 0)], 9);
    // Trains of sixty every 70 microseconds are 860,000 packets a second.
    lab.stream(SECOND, Duration::from_micros(70), 60, LARGE);
    assert!(lab.log.is_empty(), "{:?}", lab.log);
    assert!(lab.receipts <= 210, "{} receipts", lab.receipts);
    lab.ways[0].loss = [0, 1_000_000];
    let fault = lab.now;
    lab.stream(SECOND, Duration::from_micros(700), 60, LARGE);
    let found = lab.log.first().expect("found").0.since(fault);
    assert!(found <= millis(150), "{found:?}");
}

#[test]
fn another_session_begins_another_ledger_and_old_receipts_mean_nothing() {
    let mut receipts = Receipts::default();
    let (now, other) = (Instant::from_millis(5), SessionId::from_u64(2));
    receipts.sent((NODE, SESSION), link(0), (0, 5), SMALL, now);
    receipts.sent((NODE, other), link(0), (0, 5), SMALL, now);
    receipts.on_receipt((NODE, SESSION), Seen { highest: 4, words: &[0b10000] }, Duration::ZERO, |_| 0, now);
    assert_eq!(receipts.poll_timeout(), None, "nobody has reported on the session at work");
    receipts.on_receipt((NODE, other), Seen { highest: 4, words: &[0b11111] }, Duration::ZERO, |_| 0, now);
    assert_eq!(receipts.poll(now), None);
}

#[test]
fn what_a_hostile_far_end_reports_is_harmless() {
    let mut receipts = Receipts::default();
    let mut entropy = Entropy::new([3; 32]);
    let mut now = Instant::from_millis(1);
    for round in 0..20_000u64 {
        let first = round * 7;
        receipts.sent((NODE, SESSION), link((round % 6) as usize), (first, 5), SMALL, now);
        let words: Vec<u64> = (0..entropy.below(17)).map(|_| entropy.next_u64()).collect();
        let highest = match entropy.below(4) {
            0 => u64::MAX,
            1 => entropy.next_u64(),
            _ => first + entropy.below(40),
        };
        let held = Duration::from_micros(entropy.below(u64::from(u32::MAX)));
        receipts.on_receipt((NODE, SESSION), Seen { highest, words: &words }, held, |_| 2_000, now);
        while receipts.poll(now).is_some() {}
        now += millis(3);
    }
}
