//! Fetches: one per key, those that callers wait for before those that nobody waits for, and never too many at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use x0t_model::Instant;

use super::{Fetch, FetchId, JwtCacheConfig, JwtCacheKey, WaiterId};

/// Whether anybody waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Urgent,
    Background,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: JwtCacheKey,
    pub(super) waiters: Vec<WaiterId>,
    /// How often its answer came from a key that was taken away meanwhile.
    pub(super) voided: u8,
    /// A key was taken away while it was under way, so an answer that names none may be of that one.
    pub(super) suspect: bool,
    pace: Pace,
    /// When it was asked for.
    since: Instant,
    /// When it is given up, once it has begun.
    deadline: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Flights {
    fetches_max: usize,
    fetch_timeout: Duration,
    /// Time between two refreshes, on average.
    refresh_interval: Duration,
    /// When the pace would be exactly kept; up to a second of refreshes may run ahead of it.
    refreshes_paid_until: Instant,
    flights: BTreeMap<FetchId, Flight>,
    by_key: BTreeMap<JwtCacheKey, FetchId>,
    urgent: VecDeque<FetchId>,
    background: VecDeque<FetchId>,
    running: BTreeSet<(Instant, FetchId)>,
    waiters: BTreeMap<WaiterId, (FetchId, Instant)>,
    patience: BTreeSet<(Instant, WaiterId)>,
    named: u64,
}

const BURST: Duration = Duration::from_secs(1);

impl Flights {
    pub(super) fn new(config: &JwtCacheConfig) -> Self {
        Self {
            fetches_max: config.fetches_max.max(1),
            fetch_timeout: config.fetch_timeout,
            refresh_interval: Duration::from_secs(1) / config.refreshes_per_second.max(1),
            refreshes_paid_until: Instant::ZERO,
            flights: BTreeMap::new(),
            by_key: BTreeMap::new(),
            urgent: VecDeque::new(),
            background: VecDeque::new(),
            running: BTreeSet::new(),
            waiters: BTreeMap::new(),
            patience: BTreeSet::new(),
            named: 0,
        }
    }

    pub(super) fn waiters(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// When the fetch for `key` was asked for, if there is one.
    pub(super) fn since(&self, key: &JwtCacheKey) -> Option<Instant> {
        self.by_key.get(key).and_then(|id| self.flights.get(id)).map(|flight| flight.since)
    }

    /// The one fetch for `key`, made if need be. One that nobody waited for becomes urgent with its first caller.
    pub(super) fn ensure(&mut self, key: &JwtCacheKey, pace: Pace, now: Instant) -> FetchId {
        if let Some(id) = self.by_key.get(key).copied() {
            if let Some(flight) = self.flights.get_mut(&id)
                && (flight.pace, pace) == (Pace::Background, Pace::Urgent)
            {
                flight.pace = Pace::Urgent;
                if flight.deadline.is_none() {
                    self.urgent.push_back(id);
                }
            }
            return id;
        }
        let flight = Flight {
            key: key.clone(),
            waiters: Vec::new(),
            voided: 0,
            suspect: false,
            pace,
            since: now,
            deadline: None,
        };
        self.enqueue(flight)
    }

    /// Asks again for what `flight` asked for, for the same callers.
    pub(super) fn begin_anew(&mut self, flight: Flight, now: Instant) {
        let waiters = flight.waiters.clone();
        let id =
            self.enqueue(Flight { voided: flight.voided + 1, suspect: false, since: now, deadline: None, ..flight });
        for waiter in waiters {
            if let Some((fetch, _)) = self.waiters.get_mut(&waiter) {
                *fetch = id;
            }
        }
    }

    fn enqueue(&mut self, flight: Flight) -> FetchId {
        let id = FetchId(self.name());
        match flight.pace {
            Pace::Urgent => self.urgent.push_back(id),
            Pace::Background => self.background.push_back(id),
        }
        self.by_key.insert(flight.key.clone(), id);
        self.flights.insert(id, flight);
        id
    }

    /// A caller that waits for `fetch` until `deadline`.
    pub(super) fn wait(&mut self, fetch: FetchId, deadline: Instant) -> WaiterId {
        let waiter = WaiterId(self.name());
        if let Some(flight) = self.flights.get_mut(&fetch) {
            flight.waiters.push(waiter);
        }
        self.waiters.insert(waiter, (fetch, deadline));
        self.patience.insert((deadline, waiter));
        waiter
    }

    /// The key that the caller waited for.
    pub(super) fn cancel(&mut self, waiter: WaiterId) -> Option<JwtCacheKey> {
        let (fetch, deadline) = self.waiters.remove(&waiter)?;
        self.patience.remove(&(deadline, waiter));
        let flight = self.flights.get_mut(&fetch)?;
        flight.waiters.retain(|other| *other != waiter);
        Some(flight.key.clone())
    }

    /// The next fetch that may begin at `now`.
    pub(super) fn start(&mut self, now: Instant) -> Option<Fetch> {
        if self.running.len() >= self.fetches_max {
            return None;
        }
        while let Some(id) = self.urgent.pop_front() {
            if let Some(fetch) = self.begin(id, now) {
                return Some(fetch);
            }
        }
        while self.refresh_time(now) <= now {
            let id = self.background.pop_front()?;
            if let Some(fetch) = self.begin(id, now) {
                self.refreshes_paid_until = self.refreshes_paid_until.max(now) + self.refresh_interval;
                return Some(fetch);
            }
        }
        None
    }

    /// `None` for one that has begun, or ended, by another way.
    fn begin(&mut self, id: FetchId, now: Instant) -> Option<Fetch> {
        let flight = self.flights.get_mut(&id).filter(|flight| flight.deadline.is_none())?;
        let deadline = now + self.fetch_timeout;
        flight.deadline = Some(deadline);
        self.running.insert((deadline, id));
        Some(Fetch { id, key: flight.key.clone() })
    }

    /// When the pace allows the next refresh.
    fn refresh_time(&self, now: Instant) -> Instant {
        if self.refreshes_paid_until <= now + BURST { now } else { self.refreshes_paid_until - BURST }
    }

    /// Ends a fetch; its callers are the business of whoever takes it.
    pub(super) fn take(&mut self, id: FetchId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if let Some(deadline) = flight.deadline {
            self.running.remove(&(deadline, id));
        }
        if self.by_key.get(&flight.key) == Some(&id) {
            self.by_key.remove(&flight.key);
        }
        Some(flight)
    }

    /// The callers of a fetch that was taken wait no longer.
    pub(super) fn release(&mut self, waiters: &[WaiterId]) {
        for waiter in waiters {
            if let Some((_, deadline)) = self.waiters.remove(waiter) {
                self.patience.remove(&(deadline, *waiter));
            }
        }
    }

    /// Every fetch that is under way began when a key was still trusted that is not any more.
    pub(super) fn suspect_all(&mut self) {
        self.flights.values_mut().filter(|flight| flight.deadline.is_some()).for_each(|flight| flight.suspect = true);
    }

    /// Ends every fetch whose key `is_meant`.
    pub(super) fn take_of(&mut self, is_meant: impl Fn(&JwtCacheKey) -> bool) -> Vec<Flight> {
        let ids: Vec<_> = self.flights.iter().filter(|(_, flight)| is_meant(&flight.key)).collect();
        let ids: Vec<_> = ids.into_iter().map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// The next caller whose patience has ended, and what it waited for.
    pub(super) fn next_impatient(&mut self, now: Instant) -> Option<(WaiterId, JwtCacheKey)> {
        let (deadline, waiter) = *self.patience.first()?;
        if deadline > now {
            return None;
        }
        Some((waiter, self.cancel(waiter)?))
    }

    /// The next fetch that is to be given up.
    pub(super) fn next_hanging(&mut self, now: Instant) -> Option<Flight> {
        let (deadline, id) = *self.running.first()?;
        if deadline > now { None } else { self.take(id) }
    }

    /// When something is to be done next.
    pub(super) fn timeout(&self, now: Instant) -> Option<Instant> {
        let patience = self.patience.first().map(|(deadline, _)| *deadline);
        let hanging = self.running.first().map(|(deadline, _)| *deadline);
        let has_room = self.running.len() < self.fetches_max && !self.background.is_empty();
        let refresh = has_room.then(|| self.refresh_time(now));
        [patience, hanging, refresh].into_iter().flatten().min()
    }

    fn name(&mut self) -> u64 {
        self.named += 1;
        self.named
    }
}
