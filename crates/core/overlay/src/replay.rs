//! The replay window: each packet counts once (RFC 4303 section 3.4.3).

/// Packets that may overtake each other and still be accepted. A flow that takes one way and a flow that takes another share a
/// session, so the window must hold what the faster way brings while a packet is under way on the slower one: with 8,192, ways may
/// differ by 80 ms at 100,000 packets per second.
pub(crate) const WINDOW: u64 = 8192;
const WORDS: usize = (WINDOW / 64) as usize;
/// Numbers that [`Seen`] speaks of.
const RECENT_WORDS: usize = 16;

/// Which of the newest packets of a session have come: bit `i` of the words stands for `highest - i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The highest number seen.
    pub highest: u64,
    /// The 1,024 numbers from there on downwards.
    pub words: [u64; RECENT_WORDS],
}

/// Which of the newest [`WINDOW`] packet numbers were seen. Numbers go on across key epochs, so one window serves them all.
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow {
    /// One above the highest number seen.
    next: u64,
    /// Bit `pn % WINDOW` stands for the one `pn` in `next - WINDOW .. next` that it can mean.
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Whether `pn` is new. Cheap, and asked before a packet is opened.
    pub(crate) const fn is_fresh(&self, pn: u64) -> bool {
        if pn >= self.next {
            return pn < u64::MAX;
        }
        self.next - pn <= WINDOW && !self.bit(pn)
    }

    /// Whether `pn` is too old for the window to know.
    pub(crate) const fn is_too_old(&self, pn: u64) -> bool {
        pn < self.next && self.next - pn > WINDOW
    }

    /// Whether `pn` is above all seen: only the newest packet may move a session to another address.
    pub(crate) const fn is_newest(&self, pn: u64) -> bool {
        pn >= self.next
    }

    /// Remembers `pn`, whose packet did open.
    pub(crate) fn insert(&mut self, pn: u64) {
        if pn >= self.next {
            let skipped = pn - self.next;
            if skipped >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                self.clear(self.next, pn);
            }
            self.next = pn.saturating_add(1);
        }
        self.seen[word(pn)] |= 1 << (pn % 64);
    }

    const fn bit(&self, pn: u64) -> bool {
        self.seen[word(pn)] >> (pn % 64) & 1 == 1
    }

    /// Forgets `from .. to`, which are fewer than the window holds: a word at a time.
    fn clear(&mut self, from: u64, to: u64) {
        let mut pn = from;
        while pn < to {
            let count = (64 - pn % 64).min(to - pn);
            let bits = u64::MAX >> (64 - count) << (pn % 64);
            self.seen[word(pn)] &= !bits;
            pn += count;
        }
    }

    /// The newest numbers, if any was seen.
    pub(crate) fn recent(&self) -> Option<Seen> {
        let highest = self.next.checked_sub(1)?;
        let mut words = [0; RECENT_WORDS];
        // Bits run upwards in the window and downwards in what is told.
        for (at, word) in words.iter_mut().enumerate() {
            let Some(last) = highest.checked_sub(at as u64 * 64) else { break };
            *word = self.upto(last).reverse_bits();
        }
        Some(Seen { highest, words })
    }

    /// The 64 numbers up to `last`, which is the highest bit. Numbers below zero were not seen.
    fn upto(&self, last: u64) -> u64 {
        let low = last % 64 + 1;
        let upper = self.seen[word(last)] << (64 - low);
        let lower = if low == 64 || last < 64 { 0 } else { self.seen[word(last - 64)] >> low };
        upper | lower
    }
}

const fn word(pn: u64) -> usize {
    (pn % WINDOW / 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn accept(window: &mut ReplayWindow, pn: u64) -> bool {
        let fresh = window.is_fresh(pn);
        if fresh {
            window.insert(pn);
        }
        fresh
    }

    #[test]
    fn a_packet_counts_once_and_an_old_one_not_at_all() {
        let mut window = ReplayWindow::default();
        assert!(accept(&mut window, 0) && !accept(&mut window, 0));
        assert!(accept(&mut window, 50_000) && accept(&mut window, 50_000 - WINDOW + 1));
        assert!(!accept(&mut window, 50_000 - WINDOW), "just outside");
        assert!(accept(&mut window, 49_999) && !accept(&mut window, 49_999));
        assert!(accept(&mut window, u64::MAX - 1) && !accept(&mut window, u64::MAX - 1));
        assert!(!accept(&mut window, u64::MAX), "the last number is never used");
    }

    #[test]
    fn the_newest_are_told_from_the_highest_downwards() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.recent(), None);
        let told = |window: &ReplayWindow| {
            let Seen { highest, words } = window.recent().unwrap();
            (
                highest,
                (0..1024)
                    .filter(|bit| words[bit / 64] >> (bit % 64) & 1 == 1)
                    .map(|bit| bit as u64)
                    .collect::<Vec<_>>(),
            )
        };
        [0, 2, 3].into_iter().for_each(|pn| window.insert(pn));
        assert_eq!(told(&window), (3, vec![0, 1, 3]));
        window.insert(100);
        assert_eq!(told(&window), (100, vec![0, 97, 98, 100]));
        [20_000, 19_999, 19_500, 18_977, 18_976].into_iter().for_each(|pn| window.insert(pn));
        assert_eq!(told(&window), (20_000, vec![0, 1, 500, 1_023]), "and no further than 1,024");
    }

    proptest! {
        #[test]
        fn a_window_agrees_with_a_set_of_everything_seen(steps in proptest::collection::vec((any::<bool>(), 0u64..3 * WINDOW), 1..400)) {
            let (mut window, mut seen, mut top) = (ReplayWindow::default(), BTreeSet::new(), 0u64);
            for (ahead, by) in steps {
                let pn = if ahead { top + by } else { top.saturating_sub(by) };
                let fresh = !seen.contains(&pn) && (seen.is_empty() || pn + WINDOW > top);
                prop_assert_eq!(accept(&mut window, pn), fresh, "pn {} with top {}", pn, top);
                if fresh {
                    seen.insert(pn);
                    top = top.max(pn);
                }
            }
        }
    }
}
