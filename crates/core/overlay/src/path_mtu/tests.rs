use super::*;

const MS: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_millis(50);
const MAX: usize = 8972;

/// A machine on a link that swallows what is longer than `passes`, in virtual time. An answer takes 10 ms.
struct Link {
    machine: PathMtu,
    passes: usize,
    now: Instant,
    next_pn: u64,
    sent: Vec<usize>,
    /// Whether anything at all passes.
    alive: bool,
    heard: Instant,
}

impl Link {
    fn of(passes: usize) -> Self {
        let now = Instant::from_millis(1_000);
        let machine = PathMtu::new(MAX, now);
        Self { machine, passes, now, next_pn: 7, sent: Vec::new(), alive: true, heard: now }
    }

    /// Lets `time` pass, with data if `active`. Peers talk every 25 ms or so, in any case.
    fn run(&mut self, time: Duration, active: bool) {
        let end = self.now + time;
        loop {
            if active {
                self.machine.on_data(self.now);
            }
            if let Some(size) = self.machine.due() {
                let pn = self.next_pn;
                self.next_pn += 1;
                self.sent.push(size);
                self.machine.on_sent(pn, TIMEOUT, self.now);
                if self.alive && size <= self.passes {
                    self.now += 10 * MS;
                    self.heard = self.now;
                    self.machine.on_ack(pn, self.now);
                }
                continue;
            }
            let deadline = self.machine.deadline().unwrap_or(Instant::FAR_FUTURE);
            let step = if active { deadline.min(self.now + 25 * MS) } else { deadline };
            if step > end {
                self.now = end;
                return;
            }
            self.now = step.max(self.now);
            if self.alive {
                self.heard = self.now;
            }
            self.machine.handle_timeout(self.heard, self.now);
        }
    }
}

#[test]
fn the_search_finds_what_each_underlay_carries() {
    // IP MTU 1280, 1400, 1500 and 9000, each under IPv6 and IPv4, and what lies between.
    for (passes, found) in [
        (1199, 1200),
        (1232, 1232),
        (1252, 1252),
        (1352, 1352),
        (1372, 1372),
        (1400, 1392),
        (1452, 1452),
        (1472, 1472),
        (8952, 8952),
        (8972, 8972),
        (65_000, 8972),
    ] {
        let mut link = Link::of(passes);
        link.run(Duration::from_secs(1), false);
        assert_eq!(link.machine.current(), found, "on a link that carries {passes}: {:?}", link.sent);
        assert!(link.sent.iter().all(|size| (BASE..=MAX).contains(size)), "{:?}", link.sent);
    }
}

#[test]
fn the_usual_underlay_takes_two_round_trips_to_find() {
    let mut link = Link::of(1472);
    link.run(25 * MS, false);
    assert_eq!((link.machine.current(), &link.sent[..2]), (1472, &[1452, 1472][..]));
}

#[test]
fn a_link_in_use_that_becomes_thinner_falls_to_the_base_and_finds_its_new_size_within_half_a_second() {
    for (before, after, found) in [(1472, 1372, 1372), (8972, 1472, 1472), (1372, 1252, 1252), (1472, 1210, 1200)] {
        let mut link = Link::of(before);
        link.run(Duration::from_secs(3), true);
        assert_eq!(link.machine.current(), before);
        link.passes = after;
        link.run(CONFIRM_ACTIVE + 3 * TIMEOUT + 10 * MS, true);
        assert!(link.machine.current() <= after.max(BASE), "the black hole is known");
        link.run(500 * MS, true);
        assert_eq!(link.machine.current(), found);
    }
}

#[test]
fn an_idle_link_costs_one_small_exchange_in_ten_seconds() {
    let mut link = Link::of(1472);
    link.run(Duration::from_secs(1), false);
    link.sent.clear();
    link.run(Duration::from_secs(8), false);
    assert_eq!(link.sent, []);
    link.machine.raise_at = Instant::FAR_FUTURE;
    link.run(Duration::from_secs(60), false);
    assert_eq!(link.sent, [1472; 6]);
}

#[test]
fn data_on_an_idle_link_has_the_size_confirmed_at_once() {
    let mut link = Link::of(1472);
    link.run(Duration::from_secs(5), false);
    assert!(link.machine.on_data(link.now), "the deadline came nearer");
    assert_eq!(link.machine.deadline(), Some(link.now), "and is not overdue");
    assert!(!link.machine.on_data(link.now), "only once");
}

#[test]
fn a_peer_that_is_silent_altogether_is_no_black_hole() {
    let mut link = Link::of(1472);
    link.run(Duration::from_secs(3), true);
    link.alive = false;
    link.sent.clear();
    link.run(Duration::from_secs(10), true);
    assert_eq!(link.machine.current(), 1472);
    assert!((10..20).contains(&link.sent.len()), "it is asked ever less often: {}", link.sent.len());
    link.alive = true;
    link.run(Duration::from_secs(2), true);
    assert_eq!(link.machine.current(), 1472);
}

#[test]
fn a_path_that_grows_is_used_after_the_raise_timer_which_backs_off_to_ten_minutes() {
    let mut link = Link::of(1252);
    link.run(Duration::from_secs(5), false);
    link.passes = 1472;
    link.run(Duration::from_secs(6), false);
    assert_eq!(link.machine.current(), 1472);
    let pauses: Vec<_> = (0..9)
        .map(|_| {
            let pause = link.machine.raise_at.since(link.now);
            link.run(pause + Duration::from_secs(1), false);
            (link.machine.raise_after.as_secs(), link.machine.current())
        })
        .collect();
    assert_eq!(pauses.last(), Some(&(600, 1472)));
}

#[test]
fn a_refusal_by_the_operating_system_counts_at_once() {
    let mut link = Link::of(1472);
    link.run(Duration::from_secs(3), true);
    link.passes = 1372;
    link.machine.on_refused(1472, link.now);
    assert_eq!(link.machine.current(), BASE);
    link.machine.on_refused(1472, link.now);
    link.run(400 * MS, true);
    assert_eq!(link.machine.current(), 1372);
    link.machine.on_refused(BASE, link.now);
    assert_eq!(link.machine.current(), 1372, "of the base no refusal is believed");
}

#[test]
fn a_refused_probe_ends_the_wait_for_its_answer() {
    let mut machine = PathMtu::new(MAX, Instant::ZERO);
    machine.on_sent(0, TIMEOUT, Instant::ZERO);
    machine.on_refused(1452, Instant::ZERO);
    assert_eq!(machine.due(), Some(1232), "smaller sizes are tried without any wait");
}

#[test]
fn a_late_acknowledgement_counts_and_a_strange_one_does_not() {
    let mut machine = PathMtu::new(MAX, Instant::ZERO);
    machine.on_sent(5, TIMEOUT, Instant::ZERO);
    machine.on_ack(4, Instant::ZERO);
    machine.on_ack(6, Instant::ZERO);
    assert_eq!(machine.current(), BASE);
    let late = Instant::ZERO + TIMEOUT;
    machine.handle_timeout(late, late);
    assert_eq!(machine.due(), Some(1452), "once more");
    machine.on_ack(5, late);
    assert_eq!(machine.current(), 1452);
}

#[test]
fn what_an_earlier_session_found_is_used_at_once_and_confirmed() {
    let mut link = Link::of(8972);
    link.machine.resume(8952);
    assert_eq!((link.machine.current(), link.machine.due()), (8952, Some(8952)));
    link.run(25 * MS, false);
    assert_eq!(link.machine.current(), 8972, "and there was more to find");
    let mut thinner = Link::of(1252);
    thinner.machine.resume(1452);
    thinner.run(Duration::from_secs(1), false);
    assert_eq!(thinner.machine.current(), 1252);
}

/// Every input in every state: the state it leads to, and the size in use afterwards.
#[test]
fn every_input_in_every_state_leads_where_the_table_says() {
    #[derive(Clone, Copy, Debug)]
    enum In {
        Sent,
        Ack,
        StrangeAck,
        Data,
        RefusedAsked,
        RefusedConfirmed,
        Lost,
        LostLast,
        LostLastUnheard,
        Early,
        ConfirmDue,
        RaiseDue,
    }
    use In::{
        Ack, ConfirmDue, Data, Early, Lost, LostLast, LostLastUnheard, RaiseDue, RefusedAsked, RefusedConfirmed, Sent,
        StrangeAck,
    };
    /// What waits for what: D departure, A acknowledgement, T turn; with the size asked for.
    fn name(machine: &PathMtu) -> String {
        match machine.state {
            Awaiting::Departure { size, .. } => format!("D{size}"),
            Awaiting::Ack { size, .. } => format!("A{size}"),
            Awaiting::Turn { .. } => "T".to_owned(),
        }
    }
    let start = Instant::from_millis(60_000);
    let with = |state, confirmed, too_large| PathMtu {
        state,
        confirmed,
        too_large,
        confirmed_at: start - CONFIRM_ACTIVE,
        raise_at: start + Duration::from_secs(5),
        asked: [Some(9), None, None],
        ..PathMtu::new(MAX, Instant::ZERO)
    };
    // Searching: 1252 passes, 1472 does not, 1452 is asked. Confirming: 1472 is in use, 2000 does not pass.
    let searching = |state| with(state, 1252, 1472);
    let confirming = |state| with(state, 1472, 2000);
    let departure = |size| Awaiting::Departure { size, vain: Vain::default() };
    let ack = |size| Awaiting::Ack { size, vain: Vain::default(), sent_at: start, until: start + TIMEOUT };
    let turn = || confirming(Awaiting::Turn { confirm_at: start + Duration::from_secs(1) });
    type Rows = &'static [(In, &'static str, usize)];
    let table: &[(&dyn Fn() -> PathMtu, Rows)] = &[
        (
            &|| searching(departure(1452)),
            &[
                (Sent, "A1452", 1252),
                (Ack, "T", 1452),
                (StrangeAck, "D1452", 1252),
                (Data, "D1452", 1252),
                (RefusedAsked, "D1352", 1252),
                (RefusedConfirmed, "D1232", 1200),
                (Early, "D1452", 1252),
                (ConfirmDue, "D1452", 1252),
                (RaiseDue, "D1452", 1252),
            ],
        ),
        (
            &|| searching(ack(1452)),
            &[
                (Sent, "A1452", 1252),
                (Ack, "T", 1452),
                (StrangeAck, "A1452", 1252),
                (Data, "A1452", 1252),
                (RefusedAsked, "D1352", 1252),
                (RefusedConfirmed, "D1232", 1200),
                (Lost, "D1452", 1252),
                (LostLast, "D1352", 1252),
                (LostLastUnheard, "D1352", 1252),
                (Early, "A1452", 1252),
            ],
        ),
        (
            &|| confirming(departure(1472)),
            &[
                (Sent, "A1472", 1472),
                (Ack, "T", 1472),
                (StrangeAck, "D1472", 1472),
                (Data, "D1472", 1472),
                (RefusedConfirmed, "D1452", 1200),
                (Early, "D1472", 1472),
            ],
        ),
        (
            &|| confirming(ack(1472)),
            &[
                (Sent, "A1472", 1472),
                (Ack, "T", 1472),
                (StrangeAck, "A1472", 1472),
                (Data, "A1472", 1472),
                (RefusedConfirmed, "D1452", 1200),
                (Lost, "D1472", 1472),
                (LostLast, "D1452", 1200),
                (LostLastUnheard, "D1472", 1472),
                (Early, "A1472", 1472),
            ],
        ),
        (
            &turn,
            &[
                (Sent, "T", 1472),
                (Ack, "T", 1472),
                (StrangeAck, "T", 1472),
                (Data, "T", 1472),
                (RefusedConfirmed, "D1452", 1200),
                (Early, "T", 1472),
                (ConfirmDue, "D1472", 1472),
                (RaiseDue, "D2000", 1472),
            ],
        ),
    ];
    for (make, rows) in table {
        for (input, state, confirmed) in *rows {
            let mut machine = make();
            let lose = |machine: &mut PathMtu, already: u32, heard: Instant| {
                let Awaiting::Ack { vain, .. } = &mut machine.state else { panic!("nothing to lose") };
                vain.lost = already;
                machine.handle_timeout(heard, start + TIMEOUT);
            };
            let before = name(&machine);
            match input {
                Sent => machine.on_sent(10, TIMEOUT, start),
                Ack => machine.on_ack(9, start),
                StrangeAck => machine.on_ack(8, start),
                Data => drop(machine.on_data(start)),
                RefusedAsked => machine.on_refused(1452, start),
                RefusedConfirmed => machine.on_refused(machine.confirmed, start),
                Lost => lose(&mut machine, 0, start + TIMEOUT),
                LostLast => lose(&mut machine, TRIES - 1, start + TIMEOUT),
                LostLastUnheard => lose(&mut machine, TRIES - 1, start),
                Early => machine.handle_timeout(start, start),
                ConfirmDue => machine.handle_timeout(start, start + Duration::from_secs(1)),
                RaiseDue => machine.handle_timeout(start, start + Duration::from_secs(5)),
            }
            assert_eq!((name(&machine).as_str(), machine.current()), (*state, *confirmed), "{before} + {input:?}");
        }
    }
}
