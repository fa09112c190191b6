//! Which of several ways a flow takes: weighted rendezvous hashing (Thaler and Ravishankar, 1998).
//!
//! Every way gets as many lots as it has weight, each lot a number drawn from the flow and the link; the highest lot
//! wins. So a flow keeps to its way, a way that is lost moves only its own flows, and one that comes back takes back only those.

use x0t_model::Metric;

/// The weight of the best way, and of all that cost the same.
pub(crate) const WEIGHT_MAX: u8 = 4;
/// Sixteenths of a weight that a cost may move before its weight follows: costs are measured, and flows must not flap.
const HYSTERESIS: u32 = 10;

/// The weight of a way that costs `cost` beside one that costs `best`: inverse to the cost, 0 for more than twice the best.
/// `before` is the weight it had.
pub(crate) fn weight(cost: Metric, best: Metric, before: u8) -> u8 {
    let (cost, best) = (u64::from(cost.as_micros()).max(1), u64::from(best.as_micros()));
    let exact = u32::try_from(16 * u64::from(WEIGHT_MAX) * best / cost).unwrap_or(u32::MAX).min(16 * 4);
    if before > 0 && exact.abs_diff(16 * u32::from(before)) <= HYSTERESIS {
        return before;
    }
    if exact < 16 * u32::from(WEIGHT_MAX) / 2 { 0 } else { ((exact + 8) / 16) as u8 }
}

/// The best lot of a way for a flow. `link` is any number that stays with the way.
pub(crate) fn best_lot(flow: u32, link: u32, weight: u8) -> u64 {
    (0..weight).map(|lot| mix(u64::from(flow) << 32 | u64::from(link), lot)).max().unwrap_or(0)
}

/// A finaliser in the manner of `SplitMix64`: every bit of the input moves half of the output's.
fn mix(key: u64, lot: u8) -> u64 {
    let mut bits = key.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(lot) + 1));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn winner(flow: u32, ways: &[(u32, u8)]) -> u32 {
        ways.iter().max_by_key(|(link, weight)| best_lot(flow, *link, *weight)).unwrap().0
    }

    #[test]
    fn flows_are_spread_by_weight() {
        let mut counts = [0u32; 3];
        for flow in 0..30_000 {
            counts[winner(flow, &[(0, 4), (1, 2), (2, 4)]) as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([12_000, 6_000, 12_000]) {
            assert!(count.abs_diff(expected) < 500, "{counts:?}");
        }
    }

    #[test]
    fn a_way_that_is_lost_moves_only_its_own_flows() {
        let (all, fewer) = ([(7, 4), (8, 3), (9, 2)], [(7, 4), (9, 2)]);
        for flow in 0..5_000 {
            let before = winner(flow, &all);
            assert!(before == 8 || winner(flow, &fewer) == before, "flow {flow}");
        }
    }

    #[test]
    fn a_weight_is_the_inverse_of_the_cost_and_ends_at_twice_the_best() {
        let weight = |cost, before| weight(Metric::from_micros(cost), Metric::from_micros(1_000), before);
        assert_eq!([1_000, 1_333, 1_600, 2_000, 2_001, 9_000].map(|cost| weight(cost, 0)), [4, 3, 3, 2, 0, 0]);
        assert_eq!(weight(2_500, 2), 2, "who is in stays in for a while");
        assert_eq!(weight(3_000, 2), 0);
        assert_eq!(weight(1_150, 4), 4, "and who is out, out");
    }
}
