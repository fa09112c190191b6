//! Whether a peer has moved to another address (after RFC 9000 section 9).
//!
//! An authentic packet that came from elsewhere proves nothing: whoever copies packets on their way, and is faster, makes them
//! come from wherever it likes. So both addresses are asked, each with a number of its own that only the peer can read, three times within a
//! timeout. The session moves if the new one has been answered for and the old one has not. A copyist who passes the question on as well
//! (RFC 9000 section 9.3.3) has gained nothing as long as the peer is still where it was.

use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::Instant;

/// How often both addresses are asked.
const TRIES: u32 = 3;
/// An answer is waited for at least this long: peers are processes on busy hosts.
const PATIENCE_MIN: Duration = Duration::from_millis(50);
/// After a peer has proved to be where it was, so long no such doubt is heeded, for doubts are cheap for a copyist. A peer that moves just
/// then is still found before the silence at its old address makes the link dead.
pub(crate) const SETTLED_FOR: Duration = Duration::from_millis(100);

/// A doubt where the peer is.
#[derive(Debug)]
pub(crate) struct Validation {
    old: Asked,
    new: Asked,
    candidate: SocketAddr,
    patience: Duration,
    tries: u32,
    next: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    token: u64,
    answered: bool,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing yet.
    Wait,
    /// Ask the old address for the first number and `candidate` for the second.
    Ask { old: u64, candidate: SocketAddr, new: u64 },
    /// The peer is where it was, or nowhere.
    Stay,
    /// The peer is there.
    Move(SocketAddr),
}

impl Validation {
    /// A packet came from `candidate`. An answer is waited for as long as `timeout`, three times.
    pub(crate) fn new(candidate: SocketAddr, tokens: [u64; 2], timeout: Duration, now: Instant) -> Self {
        let [old, new] = tokens.map(|token| Asked { token, answered: false });
        Self { old, new, candidate, patience: timeout.max(PATIENCE_MIN), tries: 0, next: now }
    }

    /// Somebody has read a number, and it was the peer.
    pub(crate) fn on_response(&mut self, token: u64) {
        for asked in [&mut self.old, &mut self.new] {
            asked.answered |= asked.token == token;
        }
    }

    /// When to call [`Self::step`].
    pub(crate) const fn deadline(&self) -> Instant {
        self.next
    }

    pub(crate) fn step(&mut self, now: Instant) -> Step {
        if self.old.answered {
            return Step::Stay;
        }
        if now < self.next {
            return Step::Wait;
        }
        if self.tries == TRIES {
            return if self.new.answered { Step::Move(self.candidate) } else { Step::Stay };
        }
        self.tries += 1;
        self.next = now + self.patience;
        Step::Ask { old: self.old.token, candidate: self.candidate, new: self.new.token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u64 = 11;
    const NEW: u64 = 22;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// What comes of it if these numbers are answered after the first question.
    fn outcome(answers: &[u64]) -> (Step, u64) {
        let candidate = "192.0.2.7:7".parse().unwrap();
        let mut validation = Validation::new(candidate, [OLD, NEW], Duration::from_millis(10), at(0));
        assert_eq!(validation.step(at(0)), Step::Ask { old: OLD, candidate, new: NEW });
        assert_eq!(validation.step(at(1)), Step::Wait);
        answers.iter().for_each(|token| validation.on_response(*token));
        let mut asked = 1;
        for millis in 2.. {
            match validation.step(at(millis)) {
                Step::Wait => {}
                Step::Ask { .. } => asked += 1,
                step => {
                    assert!(asked <= 3);
                    return (step, millis);
                }
            }
        }
        unreachable!()
    }

    #[test]
    fn a_peer_has_moved_if_it_answers_there_and_no_longer_here() {
        assert_eq!(outcome(&[NEW]), (Step::Move("192.0.2.7:7".parse().unwrap()), 150));
        assert_eq!(outcome(&[NEW, OLD]), (Step::Stay, 2));
        assert_eq!(outcome(&[OLD]), (Step::Stay, 2));
        assert_eq!(outcome(&[]), (Step::Stay, 150));
        assert_eq!(outcome(&[33, 0]), (Step::Stay, 150));
    }
}
