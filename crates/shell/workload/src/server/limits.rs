//! What one process may take of the endpoint, what all may take, and what is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::ServerConfig;
use super::caller::Eviction;

/// Counted since the start. Gauges say how many there are at this moment.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is described where it is read: ServerCounts")]
pub struct ServerStats {
    pub connections: AtomicUsize,
    pub streams: AtomicUsize,
    pub calls: AtomicU64,
    pub calls_refused: AtomicU64,
    pub calls_limited: AtomicU64,
    pub connections_limited: AtomicU64,
    pub users_limited: AtomicU64,
    pub connections_unattributed: AtomicU64,
    pub connections_evicted: AtomicU64,
    pub pushes: AtomicU64,
    pub pushes_unchanged: AtomicU64,
    pub messages_encoded: AtomicU64,
}

/// [`ServerStats`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Gauge: open connections.
    pub connections: usize,
    /// Gauge: open streams.
    pub streams: usize,
    /// Calls that were looked at.
    pub calls: u64,
    /// Calls that ended with an error, limits included.
    pub calls_refused: u64,
    /// Calls beyond a limit.
    pub calls_limited: u64,
    /// Connections beyond a limit.
    pub connections_limited: u64,
    /// Connections and streams beyond the share of their user; also counted above.
    pub users_limited: u64,
    /// Connections of which the kernel did not say whose they are.
    pub connections_unattributed: u64,
    /// Connections that were cut: a reader that did not read, or idle for too long.
    pub connections_evicted: u64,
    /// Messages that were pushed after a change.
    pub pushes: u64,
    /// Changes that changed nothing for the one who waited.
    pub pushes_unchanged: u64,
    /// Messages that were encoded: callers with equal entitlements share one.
    pub messages_encoded: u64,
}

impl ServerStats {
    /// All of them at this moment.
    pub fn counts(&self) -> ServerCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerCounts {
            connections: self.connections.load(Ordering::Relaxed),
            streams: self.streams.load(Ordering::Relaxed),
            calls: get(&self.calls),
            calls_refused: get(&self.calls_refused),
            calls_limited: get(&self.calls_limited),
            connections_limited: get(&self.connections_limited),
            users_limited: get(&self.users_limited),
            connections_unattributed: get(&self.connections_unattributed),
            connections_evicted: get(&self.connections_evicted),
            pushes: get(&self.pushes),
            pushes_unchanged: get(&self.pushes_unchanged),
            messages_encoded: get(&self.messages_encoded),
        }
    }
}

/// The limits, and who is near them.
#[derive(Debug)]
pub(crate) struct Limits {
    connections_max: usize,
    connections_per_process_max: usize,
    streams_max: usize,
    streams_per_process_max: usize,
    bucket: BucketConfig,
    send_deadline: Duration,
    idle_deadline: Duration,
    greeting_deadline: Duration,
    started: Instant,
    stats: Arc<ServerStats>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
    streams: BTreeMap<u64, (u64, Arc<AtomicU64>)>,
    processes: BTreeMap<i32, Usage>,
    users: BTreeMap<u32, UserUsage>,
}

/// What one process uses.
#[derive(Debug)]
struct Usage {
    connections: usize,
    streams: usize,
    bucket: Bucket,
}

impl Limits {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            connections_max: config.connections_max,
            connections_per_process_max: config.connections_per_process_max,
            streams_max: config.streams_max,
            streams_per_process_max: config.streams_per_process_max,
            bucket: BucketConfig { per_second: config.calls_per_second, burst: config.calls_burst },
            send_deadline: config.send_deadline,
            idle_deadline: config.idle_deadline,
            greeting_deadline: config.greeting_deadline,
            started: Instant::now(),
            stats: Arc::default(),
            state: Mutex::default(),
        }
    }

    pub(crate) fn stats(&self) -> Arc<ServerStats> {
        Arc::clone(&self.stats)
    }

    pub(crate) fn count(&self, counter: impl Fn(&ServerStats) -> &AtomicU64) {
        counter(&self.stats).fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of process `pid`, which runs as `user`; `None` beyond a limit.
    pub(crate) fn connect(self: &Arc<Self>, pid: i32, user: u32) -> Option<Arc<Connection>> {
        let now = self.millis();
        let mut state = self.state();
        let open = state.connections.len();
        let of_user = state.users.get(&user).map_or(0, |usage| usage.connections);
        let usage = state.processes.entry(pid).or_insert_with(|| Usage::new(self.bucket, now));
        let has_share = has_share(of_user, open, self.connections_max);
        if !has_share || usage.connections >= self.connections_per_process_max {
            self.count(|stats| &stats.connections_limited);
            if !has_share {
                self.count(|stats| &stats.users_limited);
            }
            tracing::debug!(pid, user, "a connection to the Workload API is beyond a limit");
            return None;
        }
        usage.connections += 1;
        state.users.entry(user).or_default().connections += 1;
        let id = state.next();
        let connection = Arc::new(Connection {
            id,
            pid,
            user,
            limits: Arc::clone(self),
            since: AtomicU64::new(now),
            calls_open: AtomicUsize::new(0),
            is_greeted: AtomicUsize::new(0),
            eviction: Arc::default(),
        });
        state.connections.insert(id, Arc::clone(&connection));
        self.stats.connections.store(state.connections.len(), Ordering::Relaxed);
        Some(connection)
    }

    fn disconnect(&self, Connection { id, pid, user, .. }: &Connection) {
        let mut state = self.state();
        state.connections.remove(id);
        if let Some(usage) = state.processes.get_mut(pid) {
            usage.connections = usage.connections.saturating_sub(1);
        }
        state.release(*user, |usage| usage.connections = usage.connections.saturating_sub(1));
        self.stats.connections.store(state.connections.len(), Ordering::Relaxed);
    }

    /// Looks at what depends on time: readers that do not read, connections that are idle, processes that are gone.
    pub(crate) fn sweep(&self) {
        let now = self.millis();
        let older = |since: u64, deadline: Duration| u128::from(now.saturating_sub(since)) > deadline.as_millis();
        let mut state = self.state();
        let mut evicted = Vec::new();
        for (connection, sent_at) in state.streams.values() {
            let sent_at = sent_at.load(Ordering::Relaxed);
            if sent_at != TAKEN && older(sent_at, self.send_deadline) {
                evicted.push(*connection);
            }
        }
        for connection in state.connections.values() {
            let is_greeted = connection.is_greeted.load(Ordering::Relaxed) > 0;
            let deadline = if is_greeted { self.idle_deadline } else { self.greeting_deadline };
            let is_idle = connection.calls_open.load(Ordering::Relaxed) == 0;
            if is_idle && older(connection.since.load(Ordering::Relaxed), deadline) {
                evicted.push(connection.id);
            }
        }
        for id in evicted {
            if let Some(connection) = state.connections.get(&id)
                && connection.eviction.evict()
            {
                self.count(|stats| &stats.connections_evicted);
                tracing::debug!(
                    pid = connection.pid,
                    "a connection to the Workload API is cut: idle, or not read from"
                );
            }
        }
        let bucket = self.bucket;
        state.processes.retain(|_, usage| usage.connections > 0 || !usage.bucket.is_full(bucket, now));
    }

    /// Milliseconds since the start.
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A user gives something back; one that holds nothing is forgotten.
    fn release(&mut self, user: u32, give_back: impl FnOnce(&mut UserUsage)) {
        if let Some(usage) = self.users.get_mut(&user) {
            give_back(usage);
            if usage.connections == 0 && usage.streams == 0 {
                self.users.remove(&user);
            }
        }
    }
}

/// What all processes of one user hold.
#[derive(Debug, Default)]
struct UserUsage {
    connections: usize,
    streams: usize,
}

/// Whether a user that holds `held` of the `open` ones may have one more of `max`: at most twice as many as are free. One user alone gets
/// two thirds, the next two thirds of the rest, and so on: there is always something left for whoever comes. A fixed number would have
/// to be either small for a host with one large service, or everything for two users that mean ill.
const fn has_share(held: usize, open: usize, max: usize) -> bool {
    held < 2 * max.saturating_sub(open)
}

impl Usage {
    fn new(bucket: BucketConfig, now: u64) -> Self {
        Self { connections: 0, streams: 0, bucket: Bucket::full(bucket, now) }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    pid: i32,
    user: u32,
    limits: Arc<Limits>,
    /// Since when its state is what it is, in milliseconds since the start: open, or idle.
    since: AtomicU64,
    calls_open: AtomicUsize,
    is_greeted: AtomicUsize,
    eviction: Arc<Eviction>,
}

impl Connection {
    /// A call begins, if its process has any left.
    pub(crate) fn call(self: &Arc<Self>) -> Result<Call, Status> {
        let limits = &self.limits;
        limits.count(|stats| &stats.calls);
        self.is_greeted.store(1, Ordering::Relaxed);
        self.calls_open.fetch_add(1, Ordering::Relaxed);
        let call = Call { connection: Arc::clone(self) };
        let now = limits.millis();
        let mut state = limits.state();
        let usage = state.processes.entry(self.pid).or_insert_with(|| Usage::new(limits.bucket, now));
        if usage.bucket.take(limits.bucket, now) {
            return Ok(call);
        }
        drop(state);
        limits.count(|stats| &stats.calls_limited);
        Err(Status::unavailable("this process calls too often"))
    }

    /// Ends when the connection is to be cut.
    pub(crate) async fn evicted(&self) {
        self.eviction.wait().await;
    }
}

/// Held by the task that serves the connection: when that ends, so does the connection.
#[derive(Debug)]
pub(crate) struct Open(pub(crate) Arc<Connection>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.limits.disconnect(&self.0);
    }
}

/// One call under way.
#[derive(Debug)]
pub(crate) struct Call {
    connection: Arc<Connection>,
}

impl Call {
    /// The call becomes a stream, if there may be one more.
    pub(crate) fn into_stream(self) -> Result<Ticket, Status> {
        let limits = Arc::clone(&self.connection.limits);
        let mut state = limits.state();
        let open = state.streams.len();
        let now = limits.millis();
        let (pid, user) = (self.connection.pid, self.connection.user);
        let of_user = state.users.get(&user).map_or(0, |usage| usage.streams);
        let usage = state.processes.entry(pid).or_insert_with(|| Usage::new(limits.bucket, now));
        let has_share = has_share(of_user, open, limits.streams_max);
        if !has_share || usage.streams >= limits.streams_per_process_max {
            limits.count(|stats| &stats.calls_limited);
            let whose = if has_share { "this process" } else { "this user, or the endpoint," };
            if !has_share {
                limits.count(|stats| &stats.users_limited);
            }
            return Err(Status::unavailable(format!("{whose} has too many open streams")));
        }
        usage.streams += 1;
        state.users.entry(user).or_default().streams += 1;
        let (id, sent_at) = (state.next(), Arc::new(AtomicU64::new(TAKEN)));
        state.streams.insert(id, (self.connection.id, Arc::clone(&sent_at)));
        limits.stats.streams.store(state.streams.len(), Ordering::Relaxed);
        Ok(Ticket { id, sent_at, call: self })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.since.store(self.connection.limits.millis(), Ordering::Relaxed);
        self.connection.calls_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was sent has been taken.
const TAKEN: u64 = u64::MAX;

/// One open stream.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: u64,
    sent_at: Arc<AtomicU64>,
    call: Call,
}

impl Ticket {
    /// A message is handed to the connection. Until [`Self::taken`] it waits for room, which the reader makes by reading.
    pub(crate) fn sent(&self) {
        self.sent_at.store(self.limits().millis(), Ordering::Relaxed);
    }

    /// The connection asks for the next message, so the one before has found room: on its way, or in the connection's own buffer,
    /// which holds one message that nobody reads as long as nothing new comes.
    pub(crate) fn taken(&self) {
        self.sent_at.store(TAKEN, Ordering::Relaxed);
    }

    /// How many streams are open, this one included.
    pub(crate) fn streams_open(&self) -> usize {
        self.limits().stats.streams.load(Ordering::Relaxed)
    }

    /// A number that no other stream has.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.call.connection.limits
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let connection = &self.call.connection;
        let mut state = connection.limits.state();
        state.streams.remove(&self.id);
        if let Some(usage) = state.processes.get_mut(&connection.pid) {
            usage.streams = usage.streams.saturating_sub(1);
        }
        state.release(connection.user, |usage| usage.streams = usage.streams.saturating_sub(1));
        connection.limits.stats.streams.store(state.streams.len(), Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
struct BucketConfig {
    per_second: u32,
    burst: u32,
}

/// A token bucket, in thousandths of a call.
#[derive(Debug)]
struct Bucket {
    millicalls: u64,
    at: u64,
}

impl Bucket {
    fn full(config: BucketConfig, now: u64) -> Self {
        Self { millicalls: u64::from(config.burst) * 1000, at: now }
    }

    fn refill(&mut self, config: BucketConfig, now: u64) {
        let refill = now.saturating_sub(self.at).saturating_mul(u64::from(config.per_second));
        self.millicalls = self.millicalls.saturating_add(refill).min(u64::from(config.burst) * 1000);
        self.at = now;
    }

    fn take(&mut self, config: BucketConfig, now: u64) -> bool {
        self.refill(config, now);
        match self.millicalls.checked_sub(1000) {
            Some(left) => {
                self.millicalls = left;
                true
            }
            None => false,
        }
    }

    fn is_full(&mut self, config: BucketConfig, now: u64) -> bool {
        self.refill(config, now);
        self.millicalls == u64::from(config.burst) * 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, streams: usize) -> Arc<Limits> {
        let config = ServerConfig {
            connections_max: connections,
            streams_max: streams,
            calls_burst: 10_000,
            ..ServerConfig::default()
        };
        Arc::new(Limits::new(&config))
    }

    #[tokio::test]
    async fn ws_12_a_user_with_many_processes_leaves_room_for_the_others_and_gets_it_back() {
        let limits = limits(900, 900);
        let take_all = |user: u32, first: i32| -> Vec<Open> {
            (first..first + 2_000).map_while(|pid| limits.connect(pid, user).map(Open)).collect()
        };
        let greedy = take_all(1000, 1);
        assert_eq!(greedy.len(), 600, "two thirds");
        let second = take_all(1001, 10_000);
        assert_eq!(second.len(), 200, "two thirds of the rest, though nobody has given anything back");
        let third = limits.connect(20_000, 1002);
        assert!(third.is_some(), "and there is always something left");
        assert_eq!(limits.stats().counts().users_limited, 2);
        drop((greedy, second));
        assert_eq!(take_all(1001, 30_000).len(), 600);
        assert_eq!(limits.state().users.len(), 1, "who holds nothing is forgotten");
    }

    #[tokio::test]
    async fn ws_12_streams_of_a_user_are_limited_over_all_its_processes() {
        let limits = limits(1_000, 30);
        let connections: Vec<_> = (1..60).filter_map(|pid| limits.connect(pid, 1000).map(Open)).collect();
        let open = |connection: &Open| connection.0.call().and_then(Call::into_stream);
        let streams: Vec<_> = connections.iter().map_while(|connection| open(connection).ok()).collect();
        assert_eq!(streams.len(), 20);
        let counts = limits.stats().counts();
        assert_eq!((counts.users_limited, counts.calls_limited, counts.connections_limited), (1, 1, 0));
        let other = Open(limits.connect(100, 1001).unwrap());
        assert!(open(&other).is_ok());
        drop(streams);
        assert!(open(&connections[0]).is_ok());
    }

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_the_rate() {
        let config = BucketConfig { per_second: 10, burst: 3 };
        let mut bucket = Bucket::full(config, 0);
        assert_eq!((0..5).filter(|_| bucket.take(config, 0)).count(), 3);
        assert!(!bucket.take(config, 99));
        assert!(bucket.take(config, 100));
        assert!(!bucket.take(config, 100));
        assert_eq!((0..50).filter(|_| bucket.take(config, 1_000_000)).count(), 3);
        assert!(bucket.is_full(config, 2_000_000));
    }
}
