//! The story of the demo, downward: build the mesh, break it, watch it heal, tell.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use x0t_model::Instant;
use x0t_netfault::{Faults, LinkRelay};
use x0t_runtime::clock::Clock;

use super::args::DemoArgs;
use super::board::{Board, Phase};
use super::children::Children;
use super::fault::{FaultKind, FaultReport, FaultState, Target, first_sighting, millis};
use super::nodes::Nodes;
use super::page;
use super::plan::Plan;
use super::progress::Progress;
use super::report::{Report, Spread, StreamReport, Summary};
use super::stream::{INTERVAL, Outage};
use super::watch;
use crate::exit::Exit;
use crate::output::Output;

/// All nodes have to have joined and reached each other by then.
const FORMED_WITHIN: Duration = Duration::from_secs(30);
/// A stream that is not restored by then will not be: the fault counts as failed.
const RESTORED_WITHIN: Duration = Duration::from_secs(5);
/// After a fault was taken away, everybody reaches everybody by then, or the fault counts as failed.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// Packets answered in a row that make a stream steady: half a second.
const STEADY: usize = 50;
/// Packets answered in a row that end the waiting for a restored stream. What is reported looks at all of them.
const RUNNING_AGAIN: usize = 15;
/// How often the script looks whether what it waits for has come.
const LOOK: Duration = Duration::from_millis(10);

/// `x0t demo`. Exit code 0 only if everything healed.
pub async fn run(args: DemoArgs, out: Output) -> anyhow::Result<Exit> {
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut demo = Demo::prepare(&args).await?;
    let outcome = tokio::select! {
        outcome = demo.play(&args, out) => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and(Err(Interrupted.into())),
        _ = terminate.recv() => Err(Interrupted.into()),
        _ = hang_up.recv() => Err(Interrupted.into()),
    };
    demo.children.stop().await;
    match outcome {
        Ok(true) => Ok(Exit::Ok),
        Ok(false) => Ok(Exit::Degraded),
        // Whoever stops the mesh that was kept has seen the report.
        Err(error) if error.is::<Interrupted>() && demo.reported == Some(true) => Ok(Exit::Ok),
        Err(error) => Err(error),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// How much time a person is given to look.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Before a fault.
    calm: Duration,
    /// How long a fault stays at least. The mesh is told of a dead neighbour after 400 ms, and what that changes is to be
    /// seen.
    fault_lasts: Duration,
}

impl Pace {
    const SHOW: Self = Self { calm: Duration::from_secs(2), fault_lasts: Duration::from_millis(2_500) };
    const BENCHMARK: Self = Self { calm: Duration::from_millis(500), fault_lasts: Duration::from_millis(1_500) };
}

struct Demo {
    board: Arc<Board>,
    children: Children,
    nodes: Nodes,
    /// One for each link of the plan; side `a` is the end nearer to the sender.
    relays: Vec<LinkRelay>,
    progress: Progress,
    page: page::Server,
    pace: Pace,
    /// Whether a report was printed, and whether it was a good one.
    reported: Option<bool>,
}

impl Demo {
    async fn prepare(args: &DemoArgs) -> anyhow::Result<Self> {
        let plan = Plan::of(usize::from(args.nodes));
        let names: Vec<String> = (0..plan.len()).map(|node| plan.name(node)).collect();
        let children = Children::prepare(&names)?;
        let mut relays = Vec::new();
        for &(a, b) in plan.links() {
            let seed = x0t_runtime::clock::seed().context("failed to get randomness")?;
            relays.push(
                LinkRelay::bind(children.address(a), children.address(b), seed)
                    .await
                    .context("failed to open a link")?,
            );
        }
        let nodes = Nodes::new(&children, names);
        let board = Arc::new(Board::new(plan));
        let pace = if args.rounds.is_some() { Pace::BENCHMARK } else { Pace::SHOW };
        let page = page::Server::bind(args.http, Arc::clone(&board)).await?;
        Ok(Self { board, children, nodes, relays, progress: Progress::new(), page, pace, reported: None })
    }

    /// The whole story. Gives whether everything healed.
    async fn play(&mut self, args: &DemoArgs, out: Output) -> anyhow::Result<bool> {
        let moved = if self.page.address() == args.http || args.http.port() == 0 {
            String::new()
        } else {
            format!(" ({} is in use)", args.http)
        };
        self.progress.done(&format!("live page: http://{}/{moved}", self.page.address()));
        let _watching = watch::watch_all(&self.board, &self.nodes);
        self.build().await?;
        self.grow_together(FORMED_WITHIN).await?;
        let formed = Clock.now();
        let _streaming = watch::stream(&self.board, &self.nodes);
        let seconds = formed.since(self.board.started).as_secs_f64();
        self.progress.done(&format!("all links are up and all reach all after {seconds:.1} s; packets flow"));
        self.say(Phase::Steady, "Everybody reaches everybody. Packets flow.");
        for (index, kind) in args.faults().enumerate() {
            sleep(self.pace.calm).await;
            self.steady().await?;
            let number = index + 1;
            let round = index / FaultKind::ALL.len();
            self.fault(number, kind, round).await?;
        }
        self.steady().await?;
        let all_well = self.grow_together(HEALED_WITHIN).await.is_ok();
        let report = self.report(formed, all_well);
        self.say(Phase::Done, &summary_line(&report));
        self.reported = Some(report.healed);
        out.result(&report, |_| report.text())?;
        if args.keep {
            self.keep().await;
        }
        Ok(report.healed)
    }

    /// Starts the first node, then layer by layer the others, each joining through a member it is linked to.
    async fn build(&mut self) -> anyhow::Result<()> {
        let plan = self.board.plan.clone();
        let authority = plan.sender();
        self.say(Phase::Starting, &format!("Starting {} nodes as processes on this host", plan.len()));
        self.children.create(authority, &self.peers(authority))?;
        self.answering(authority).await?;
        for pair in plan.layers().windows(2) {
            for &node in &pair[1] {
                let introducer = pair[0][node % pair[0].len()];
                let via = self.facing(node, introducer).context("the introducer is not linked")?;
                let token = self.nodes.token(authority, node, via).await?;
                self.children.join(node, &self.peers(node), &token, via)?;
            }
            for &node in &pair[1] {
                self.answering(node).await?;
                let introducer = plan.name(pair[0][node % pair[0].len()]);
                self.progress.done(&format!("node {} joined through {introducer}", plan.name(node)));
            }
        }
        self.say(Phase::Starting, "Waiting until everybody reaches everybody");
        Ok(())
    }

    /// One fault, from a steady stream to a mesh that is whole again.
    async fn fault(&mut self, number: usize, kind: FaultKind, round: usize) -> anyhow::Result<()> {
        let old_path = self.trace().await.context("failed to trace the stream before a fault")?;
        let target = Target::on_path(kind, &old_path, round).context("the stream uses nothing that could be broken")?;
        let text = format!("{} {}", kind.name(), target.describe(&self.board.plan));
        let path = self.names(&old_path).join("·");
        self.say(Phase::Fault, &format!("Fault {number}: {text}, while packets go {path}"));

        let struck = self.strike(kind, target)?;
        let index = self.enter(number, kind, target, &text, struck, &old_path);
        self.board.tell(struck, "bad", &format!("{text}: done"));
        let in_time = self.running_again(index, target, struck).await;
        while Clock.now().since(struck) < self.pace.fault_lasts {
            self.measure(index, target, struck, Instant::FAR_FUTURE);
            sleep(LOOK).await;
        }
        let new_path = self.trace().await.unwrap_or_default();
        let names = self.names(&new_path);
        self.update(index, |fault| fault.new_path = names);

        let repaired = Clock.now();
        self.repair(kind, target).await?;
        self.say(Phase::Healing, &format!("{} Waiting until all is as before.", self.sentence(index)));
        self.wait_until(HEALED_WITHIN, |board| board.state().stream.is_concluded(repaired)).await;
        self.measure(index, target, struck, repaired);
        let whole = self.grow_together(HEALED_WITHIN).await;
        let healed = Clock.now();
        let steady =
            self.wait_until(HEALED_WITHIN, |board| board.state().stream.answered_in_a_row(Clock.now()) >= STEADY).await;
        let lost = self.board.state().stream.lost_between(repaired, Clock.now());
        self.update(index, |fault| {
            fault.lost_while_healing = lost;
            fault.healed_ms = whole.is_ok().then(|| millis(healed.since(repaired)));
            let good = in_time && steady && whole.is_ok() && fault.restored_ms.is_some();
            fault.state = if good { FaultState::Healed } else { FaultState::Failed };
        });
        let sentence = self.sentence(index);
        self.progress.done(&format!("{number:>2}. {sentence}"));
        self.board.tell(Clock.now(), if whole.is_ok() { "good" } else { "bad" }, &sentence);
        self.say(Phase::Steady, &sentence);
        Ok(())
    }

    /// Breaks something; gives the instant from which on it is broken.
    fn strike(&mut self, kind: FaultKind, target: Target) -> anyhow::Result<Instant> {
        match (kind, target) {
            (FaultKind::Kill, Target::Relay(node)) => self.children.kill(node)?,
            (FaultKind::Freeze, Target::Relay(node)) => self.children.freeze(node)?,
            (_, Target::Link(a, b)) => self.link(a, b)?.set_faults_both(Faults::BLOCKED),
            (FaultKind::Cut, Target::Relay(_)) => bail!("a relay cannot be cut"),
        }
        let struck = Clock.now();
        if let Target::Relay(node) = target {
            self.board.state().notes[node] = Some(if kind == FaultKind::Kill { "killed" } else { "frozen" });
        }
        Ok(struck)
    }

    /// Takes the fault away.
    async fn repair(&mut self, kind: FaultKind, target: Target) -> anyhow::Result<()> {
        match (kind, target) {
            (FaultKind::Kill, Target::Relay(node)) => {
                self.children.reap(node).await;
                self.board.forget(node);
                self.children.restart(node)?;
            }
            (_, Target::Relay(node)) => self.children.thaw(node)?,
            (_, Target::Link(a, b)) => self.link(a, b)?.set_faults_both(Faults::NONE),
        }
        if let Target::Relay(node) = target {
            self.board.state().notes[node] = None;
        }
        Ok(())
    }

    fn enter(
        &self,
        number: usize,
        kind: FaultKind,
        target: Target,
        text: &str,
        struck: Instant,
        path: &[usize],
    ) -> usize {
        let fault = FaultReport {
            number,
            kind,
            target: target.describe(&self.board.plan),
            text: text.to_owned(),
            at_ms: struck.since(self.board.started).as_millis() as u64,
            state: FaultState::Active,
            lost: 0,
            lost_while_healing: 0,
            detected_ms: None,
            detected_by: None,
            restored_ms: None,
            healed_ms: None,
            old_path: self.names(path),
            new_path: Vec::new(),
        };
        let mut state = self.board.state();
        state.faults.push(fault);
        state.faults.len() - 1
    }

    /// Waits until packets sent after the fault are answered again, a few in a row.
    async fn running_again(&self, index: usize, target: Target, struck: Instant) -> bool {
        let deadline = struck + RESTORED_WITHIN;
        loop {
            self.measure(index, target, struck, Instant::FAR_FUTURE);
            let answered = self.board.state().stream.answered_in_a_row(Clock.now());
            let since = Clock.now().since(struck);
            // As many packets as are asked for have been sent since the fault, and have had time to be answered.
            if since > INTERVAL * (RUNNING_AGAIN as u32 + 5) && answered >= RUNNING_AGAIN {
                return true;
            }
            if Clock.now() > deadline {
                return false;
            }
            sleep(LOOK).await;
        }
    }

    /// Writes down what is known about a fault so far.
    fn measure(&self, index: usize, target: Target, struck: Instant, until: Instant) {
        let name = |node| self.board.plan.name(node);
        let mut state = self.board.state();
        let Outage { lost, restored } = state.stream.outage(struck, until);
        let sightings: Vec<_> = state.sightings.iter().copied().collect();
        let seen = first_sighting(target, struck, &sightings);
        let Some(fault) = state.faults.get_mut(index) else { return };
        fault.lost = lost;
        // Before a packet has been lost nothing has been restored either.
        fault.restored_ms = restored.filter(|_| lost > 0 || until < Instant::FAR_FUTURE).map(millis);
        fault.detected_ms = seen.map(|seen| millis(seen.at.since(struck)));
        fault.detected_by = seen.map(|seen| name(seen.observer));
        if fault.state == FaultState::Active && fault.restored_ms.is_some() {
            fault.state = FaultState::Restored;
        }
    }

    /// Waits for half a second without a loss.
    async fn steady(&mut self) -> anyhow::Result<()> {
        let steady = |board: &Board| board.state().stream.answered_in_a_row(Clock.now()) >= STEADY;
        if self.wait_until(HEALED_WITHIN, steady).await {
            return Ok(());
        }
        self.check_alive()?;
        bail!("the stream was not steady within {} s", HEALED_WITHIN.as_secs())
    }

    async fn wait_until(&self, patience: Duration, is_so: impl Fn(&Board) -> bool) -> bool {
        let deadline = Clock.now() + patience;
        while !is_so(&self.board) {
            if Clock.now() > deadline {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }

    /// Waits until every link carries and everybody gets an answer from everybody.
    async fn grow_together(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Clock.now() + patience;
        if !self.wait_until(patience, Board::is_whole).await {
            self.check_alive()?;
            bail!("not every link was up within {} s", patience.as_secs());
        }
        loop {
            let Err(pair) = self.nodes.all_reach_all().await else { return Ok(()) };
            self.check_alive()?;
            if Clock.now() > deadline {
                bail!("not everybody reached everybody within {} s: {pair}", patience.as_secs());
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until a process answers on its admin socket.
    async fn answering(&mut self, node: usize) -> anyhow::Result<()> {
        let deadline = Clock.now() + FORMED_WITHIN;
        loop {
            match self.nodes.views(node).await {
                Ok(views) => {
                    self.board.learn(node, views);
                    return Ok(());
                }
                Err(error) if Clock.now() > deadline => {
                    return Err(error.context(format!("node {} did not come up", self.board.plan.name(node))));
                }
                Err(_) => self.check_alive()?,
            }
            sleep(LOOK).await;
        }
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        for node in 0..self.board.plan.len() {
            if let Some(cause) = self.children.cause_of_death(node) {
                bail!("{cause}");
            }
        }
        Ok(())
    }

    async fn trace(&self) -> Option<Vec<usize>> {
        let (from, to) = (self.board.plan.sender(), self.board.plan.receiver());
        for _ in 0..5 {
            if let Some(path) = self.nodes.trace(&self.board, from, to).await {
                self.board.state().path.clone_from(&path);
                return Some(path);
            }
        }
        None
    }

    /// Where `node` finds `neighbor`: the side of the link's relay that faces it.
    fn facing(&self, node: usize, neighbor: usize) -> Option<std::net::SocketAddr> {
        let link = self.board.plan.link_between(node, neighbor)?;
        let relay = &self.relays[link];
        Some(if self.board.plan.links()[link].0 == node { relay.facing_a() } else { relay.facing_b() })
    }

    fn peers(&self, node: usize) -> Vec<std::net::SocketAddr> {
        self.board.plan.neighbors(node).filter_map(|neighbor| self.facing(node, neighbor)).collect()
    }

    fn link(&self, a: usize, b: usize) -> anyhow::Result<&LinkRelay> {
        self.board.plan.link_between(a, b).and_then(|link| self.relays.get(link)).context("there is no such link")
    }

    fn names(&self, path: &[usize]) -> Vec<String> {
        path.iter().map(|&node| self.board.plan.name(node)).collect()
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut FaultReport)) {
        if let Some(fault) = self.board.state().faults.get_mut(index) {
            change(fault);
        }
    }

    /// What happened to the stream, for people.
    fn sentence(&self, index: usize) -> String {
        let state = self.board.state();
        let Some(fault) = state.faults.get(index) else { return String::new() };
        let detected =
            fault.detected_ms.map_or_else(|| "not detected".to_owned(), |ms| format!("detected after {ms:.0} ms"));
        let restored = fault
            .restored_ms
            .map_or_else(|| "not restored".to_owned(), |ms| format!("traffic restored after {ms:.0} ms"));
        let healed = fault.healed_ms.map_or_else(String::new, |ms| format!(", all well {ms:.0} ms after repair"));
        format!("{}: {detected}, {restored}, {} packets lost{healed}.", fault.text, fault.lost)
    }

    fn say(&self, phase: Phase, text: &str) {
        self.board.enter(phase, text);
        self.progress.doing(text);
    }

    fn report(&self, formed: Instant, all_well: bool) -> Report {
        let state = self.board.state();
        let rtts = state.stream.round_trips(formed).into_iter().map(|us| Some(f64::from(us) / 1_000.0));
        let faults = state.faults.clone();
        Report {
            version: 1,
            nodes: self.board.plan.len(),
            links: self.board.plan.links().len(),
            formed_ms: millis(formed.since(self.board.started)),
            stream: StreamReport {
                interval_ms: INTERVAL.as_millis() as u64,
                totals: state.stream.totals(),
                rtt_ms: Spread::of(rtts),
            },
            summary: Summary::of(&faults),
            healed: all_well && faults.iter().all(|fault| fault.state == FaultState::Healed),
            faults,
            took_ms: millis(Clock.now().since(self.board.started)),
        }
    }

    /// Stays up until Ctrl-C.
    async fn keep(&self) {
        self.progress.done(&format!(
            "\nThe mesh stays up until Ctrl-C. Live page: http://{}/. Explore it:",
            self.page.address()
        ));
        for node in [self.board.plan.sender(), self.board.plan.receiver()] {
            self.progress.done(&format!("  x0t --state-dir {} status", self.children.state_dir(node).display()));
        }
        let far = self.board.plan.name(self.board.plan.receiver());
        let near = self.children.state_dir(self.board.plan.sender()).display();
        self.progress.done(&format!("  x0t --state-dir {near} trace {far}"));
        self.progress.doing("up; Ctrl-C stops everything");
        std::future::pending::<()>().await;
    }
}

fn summary_line(report: &Report) -> String {
    let healed = report.faults.iter().filter(|fault| fault.state == FaultState::Healed).count();
    let all = report.faults.len();
    match report.summary.restored_ms.p50 {
        Some(p50) => format!("{healed} of {all} faults healed; traffic was restored after {p50:.0} ms (median)."),
        None => format!("{healed} of {all} faults healed."),
    }
}
