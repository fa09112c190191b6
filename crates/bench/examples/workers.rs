//! What threads are worth to the data plane: `cargo run --release -p x0t-bench --example workers`.
//!
//! A node that hands out its work says what is to be sealed, another what is to be opened; here one thread does it, then two, taking
//! jobs in turns. What the nodes themselves do in between is timed apart: it is what no number of threads makes shorter.

#![expect(clippy::disallowed_methods, reason = "it measures what a clock says")]
#![expect(clippy::print_stdout, reason = "it reports")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on says so by panicking")]

use std::time::Instant;

use x0t_bench::line::{Line, SEGMENT_LEN, SEGMENTS};
use x0t_bench::processor_time;

/// Super-packets that a node is told of at once: no more than its queue holds.
const LOADS: usize = 20;
/// How often, in one round: so many that the start of a thread counts for little.
const REPEATS: usize = 10;
const ROUNDS: usize = 80;

fn main() {
    let mut line = Line::that_hands_out(2, Some(4_096)).unwrap();
    let threads = [1, 2];
    let (mut seal, mut open) = ([Times::default(), Times::default()], [Times::default(), Times::default()]);
    let (mut give, mut judge) = (Times::default(), Times::default());
    for round in 0..ROUNDS {
        let (at, count) = (round % 2, threads[round % 2]);
        let sealings = give.of(|| (0..REPEATS).flat_map(|_| line.sealings(LOADS)).collect());
        let trains = seal[at].of_jobs(sealings, count, |unsealed| unsealed.seal().unwrap());
        let openings = line.openings(trains);
        let openings = open[at].of_jobs(openings, count, |mut opening| {
            opening.open();
            opening
        });
        let delivered = judge.of(|| line.opened(openings));
        assert_eq!(delivered, (LOADS * REPEATS * SEGMENTS) as u64, "everything arrives");
    }
    println!("{:<38} {:>12} {:>18} {:>12}", "", "us a train", "Gbit/s of payload", "CPU-s/GB");
    give.report("the sender decides, cuts and copies");
    for (at, count) in threads.iter().enumerate() {
        seal[at].report(&format!("sealing, threads: {count}"));
    }
    for (at, count) in threads.iter().enumerate() {
        open[at].report(&format!("opening, threads: {count}"));
    }
    judge.report("the receiver judges and puts together");
}

/// Seconds on the clock, and of processors, that rounds took.
#[derive(Default)]
struct Times(Vec<f64>, Vec<f64>);

impl Times {
    fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, spent) = (Instant::now(), processor_time());
        let done = work();
        self.0.push(start.elapsed().as_secs_f64());
        self.1.push((processor_time() - spent) as f64 / 1e9);
        done
    }

    /// Does the jobs on so many threads, and gives what came of them in their order.
    fn of_jobs<J: Send, D: Send>(&mut self, jobs: Vec<J>, threads: usize, work: impl Fn(J) -> D + Sync) -> Vec<D> {
        let mut hands: Vec<Vec<(usize, J)>> = (0..threads).map(|_| Vec::new()).collect();
        for (number, job) in jobs.into_iter().enumerate() {
            hands[number % threads].push((number, job));
        }
        let work = |hand: Vec<(usize, J)>| {
            let spent = processor_time();
            let done: Vec<(usize, D)> = hand.into_iter().map(|(number, job)| (number, work(job))).collect();
            (done, (processor_time() - spent) as f64 / 1e9)
        };
        let start = Instant::now();
        let done: Vec<(Vec<(usize, D)>, f64)> = std::thread::scope(|scope| {
            let others: Vec<_> = hands.drain(1..).map(|hand| scope.spawn(|| work(hand))).collect();
            let own = hands.pop().map(work);
            own.into_iter().chain(others.into_iter().map(|thread| thread.join().unwrap())).collect()
        });
        self.0.push(start.elapsed().as_secs_f64());
        self.1.push(done.iter().map(|(_, spent)| spent).sum());
        let mut done: Vec<(usize, D)> = done.into_iter().flat_map(|(done, _)| done).collect();
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, done)| done).collect()
    }

    /// The tenth percentile: what it takes when others on the machine leave it alone.
    fn report(&mut self, what: &str) {
        let [clock, spent] = [&mut self.0, &mut self.1].map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 10]
        });
        let (trains, bytes) = ((LOADS * REPEATS) as f64, (LOADS * REPEATS * SEGMENTS * SEGMENT_LEN) as f64);
        println!(
            "{what:<38} {:>12.1} {:>18.1} {:>12.3}",
            clock * 1e6 / trains,
            bytes * 8.0 / clock / 1e9,
            spent / bytes * 1e9
        );
    }
}
