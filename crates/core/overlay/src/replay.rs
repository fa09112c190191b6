//! The replay window: each packet counts once (RFC 4303 section 3.4.3).

/// Packets that may overtake each other and still be accepted.
pub(crate) const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// Which of the newest [`WINDOW`] packet numbers were seen. Numbers go on across key epochs, so one window serves them all.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplayWindow {
    /// One above the highest number seen.
    next: u64,
    /// Bit `pn % WINDOW` stands for the one `pn` in `next - WINDOW .. next` that it can mean.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether `pn` is new. Cheap, and asked before a packet is opened.
    pub(crate) const fn is_fresh(&self, pn: u64) -> bool {
        if pn >= self.next {
            return pn < u64::MAX;
        }
        self.next - pn <= WINDOW && !self.bit(pn)
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
                (self.next..pn).for_each(|between| self.clear(between));
            }
            self.next = pn.saturating_add(1);
        }
        self.seen[word(pn)] |= 1 << (pn % 64);
    }

    const fn bit(&self, pn: u64) -> bool {
        self.seen[word(pn)] >> (pn % 64) & 1 == 1
    }

    fn clear(&mut self, pn: u64) {
        self.seen[word(pn)] &= !(1 << (pn % 64));
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
        assert!(accept(&mut window, 5000) && accept(&mut window, 5000 - WINDOW + 1));
        assert!(!accept(&mut window, 5000 - WINDOW), "just outside");
        assert!(accept(&mut window, 4999) && !accept(&mut window, 4999));
        assert!(accept(&mut window, u64::MAX - 1) && !accept(&mut window, u64::MAX - 1));
        assert!(!accept(&mut window, u64::MAX), "the last number is never used");
    }

    proptest! {
        #[test]
        fn a_window_agrees_with_a_set_of_everything_seen(steps in proptest::collection::vec((any::<bool>(), 0u64..3000), 1..400)) {
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
