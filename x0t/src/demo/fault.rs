//! A fault: what is broken, who must notice, and what was measured. Pure.

use std::time::Duration;

use serde::Serialize;
use x0t_model::Instant;

use super::plan::Plan;

/// The ways to break something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A relay in use is killed with SIGKILL, and started again later.
    Kill,
    /// A relay in use is stopped with SIGSTOP, and goes on later.
    Freeze,
    /// A link in use carries nothing, in both directions and without a word, and carries again later.
    Cut,
}

impl FaultKind {
    /// All of them, in the order in which the demo makes them.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Freeze, Self::Cut];

    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
        }
    }
}

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This relay.
    Relay(usize),
    /// The link between these two.
    Link(usize, usize),
}

impl Target {
    /// Chooses something that `path`, from sender to receiver, is using: another part of it each `round`.
    pub fn on_path(kind: FaultKind, path: &[usize], round: usize) -> Option<Self> {
        match kind {
            FaultKind::Kill | FaultKind::Freeze => {
                let relays = path.get(1..path.len().checked_sub(1)?)?;
                relays.get(round.checked_rem(relays.len())?).copied().map(Self::Relay)
            }
            FaultKind::Cut => {
                let links = path.len().checked_sub(1)?;
                // Begin in the middle: the link that neither end can see.
                let index = (links / 2 + round).checked_rem(links)?;
                Some(Self::Link(path[index], path[index + 1]))
            }
        }
    }

    /// Whether the news that `observer` has lost `peer` is about this.
    pub fn is_seen_by(self, observer: usize, peer: usize) -> bool {
        match self {
            Self::Relay(relay) => peer == relay,
            Self::Link(a, b) => (observer, peer) == (a, b) || (observer, peer) == (b, a),
        }
    }

    /// For people.
    pub fn describe(self, plan: &Plan) -> String {
        match self {
            Self::Relay(relay) => format!("relay {}", plan.name(relay)),
            Self::Link(a, b) => format!("link {}–{}", plan.name(a), plan.name(b)),
        }
    }
}

/// How far a fault has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultState {
    /// It is there, and the stream is interrupted or was not yet looked at.
    Active,
    /// It is there or was taken away, and the stream runs again.
    Restored,
    /// It was taken away, and everybody reaches everybody again.
    Healed,
    /// The stream was not restored, or not everybody was reached again, in time.
    Failed,
}

/// One fault and what was measured. Durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultReport {
    /// 1 is the first.
    pub number: usize,
    /// How.
    pub kind: FaultKind,
    /// What.
    pub target: String,
    /// Both, for people.
    pub text: String,
    /// When, in milliseconds since the start of the demo.
    pub at_ms: u64,
    /// How far it has come.
    pub state: FaultState,
    /// Packets lost while it was there.
    pub lost: u64,
    /// Packets lost from taking it away until all was well.
    pub lost_while_healing: u64,
    /// The fault to the first neighbour that noticed.
    pub detected_ms: Option<f64>,
    /// Who that was.
    pub detected_by: Option<String>,
    /// The fault to the stream running again.
    pub restored_ms: Option<f64>,
    /// Taking the fault away to every link carrying and everybody reaching everybody.
    pub healed_ms: Option<f64>,
    /// The way before, names from sender to receiver.
    pub old_path: Vec<String>,
    /// The way after.
    pub new_path: Vec<String>,
}

/// Milliseconds, to the microsecond.
pub fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

/// What a neighbour said about another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When, on the clock that all share.
    pub at: Instant,
    /// Who says it.
    pub observer: usize,
    /// Of whom.
    pub peer: usize,
}

/// The first news of a fault at `fault`.
pub fn first_sighting(target: Target, fault: Instant, sightings: &[Sighting]) -> Option<Sighting> {
    let about = sightings.iter().filter(|seen| seen.at >= fault && target.is_seen_by(seen.observer, seen.peer));
    about.min_by_key(|seen| seen.at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_on_the_path_and_moves_along_it() {
        let path = [0, 1, 3, 5];
        let relays = |kind| (0..3).map(|round| Target::on_path(kind, &path, round)).collect::<Vec<_>>();
        let relay = |node| Some(Target::Relay(node));
        assert_eq!(relays(FaultKind::Kill), [relay(1), relay(3), relay(1)]);
        let link = |a, b| Some(Target::Link(a, b));
        assert_eq!(relays(FaultKind::Cut), [link(1, 3), link(3, 5), link(0, 1)]);
        for kind in FaultKind::ALL {
            assert_eq!(Target::on_path(kind, &[], 0), None);
            assert_eq!(Target::on_path(kind, &[0], 0), None);
        }
        assert_eq!(Target::on_path(FaultKind::Kill, &[0, 1], 0), None, "the ends are never killed");
    }

    #[test]
    fn only_news_about_the_fault_and_after_it_counts() {
        let seen = |ms, observer, peer| Sighting { at: Instant::from_millis(ms), observer, peer };
        let sightings = [seen(5, 0, 1), seen(70, 5, 3), seen(60, 3, 1), seen(50, 0, 2), seen(90, 1, 0)];
        let fault = Instant::from_millis(10);
        assert_eq!(first_sighting(Target::Relay(1), fault, &sightings), Some(seen(60, 3, 1)));
        assert_eq!(first_sighting(Target::Link(0, 1), fault, &sightings), Some(seen(90, 1, 0)));
        assert_eq!(first_sighting(Target::Link(3, 4), fault, &sightings), None);
    }
}
