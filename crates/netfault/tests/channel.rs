//! One direction of a link in virtual time: seeded, so every count is exact.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use x0t_model::Instant;
use x0t_netfault::{Channel, Faults, QUEUE_DATAGRAMS_MAX, REORDER_HOLD};

const SEED: [u8; 32] = [42; 32];

fn channel(faults: Faults) -> Channel {
    let mut channel = Channel::new(SEED);
    channel.set_faults(faults);
    channel
}

fn number(datagram: &[u8]) -> u32 {
    u32::from_be_bytes(datagram[..4].try_into().unwrap())
}

/// Sends `count` numbered datagrams `gap` apart and gives what came out: (milliseconds, number), in order.
fn carry(channel: &mut Channel, count: u32, gap: Duration) -> Vec<(u64, u32)> {
    let mut arrived = Vec::new();
    let mut now = Instant::ZERO;
    for sequence in 0..count {
        // Everything that is due before the next one is sent.
        while let Some(due) = channel.poll_timeout().filter(|due| *due <= now) {
            drain(channel, due, &mut arrived);
        }
        channel.handle_datagram(&sequence.to_be_bytes(), now);
        drain(channel, now, &mut arrived);
        now += gap;
    }
    while let Some(due) = channel.poll_timeout() {
        drain(channel, due, &mut arrived);
    }
    arrived
}

fn drain(channel: &mut Channel, now: Instant, arrived: &mut Vec<(u64, u32)>) {
    while let Some(datagram) = channel.poll_transmit(now) {
        arrived.push((now.as_millis(), number(&datagram)));
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_perfect_channel_passes_everything_at_once_and_in_order() {
    let mut channel = channel(Faults::NONE);
    let arrived = carry(&mut channel, 100, MS);
    assert_eq!(arrived, (0..100).map(|n| (u64::from(n), n)).collect::<Vec<_>>());
    assert_eq!((channel.stats().received, channel.stats().passed), (100, 100));
    assert_eq!(channel.poll_timeout(), None);
}

#[test]
fn the_same_seed_loses_the_same_datagrams() {
    let faults = Faults { loss_permille: 200, ..Faults::NONE };
    let (mut one, mut two) = (channel(faults), channel(faults));
    assert_eq!(carry(&mut one, 10_000, MS), carry(&mut two, 10_000, MS));
    assert_eq!(one.stats().lost, two.stats().lost);
    // Five standard deviations of 10,000 rolls at 20 %.
    assert!((1_800..=2_200).contains(&one.stats().lost), "{}", one.stats().lost);
    assert_eq!(one.stats().lost + one.stats().passed, 10_000);
}

#[test]
fn a_share_of_a_thousand_is_all_of_them() {
    let mut losing = channel(Faults { loss_permille: 1_000, ..Faults::NONE });
    assert_eq!(carry(&mut losing, 50, MS), []);
    assert_eq!(losing.stats().lost, 50);

    let mut doubling = channel(Faults { duplicate_permille: 1_000, ..Faults::NONE });
    assert_eq!(carry(&mut doubling, 2, MS), [(0, 0), (0, 0), (1, 1), (1, 1)]);
    assert_eq!((doubling.stats().duplicated, doubling.stats().passed), (2, 4));
}

#[test]
fn delay_moves_every_datagram_and_jitter_keeps_their_order() {
    let mut steady = channel(Faults { delay: 20 * MS, ..Faults::NONE });
    assert_eq!(carry(&mut steady, 3, 5 * MS), [(20, 0), (25, 1), (30, 2)]);

    let mut shaky = channel(Faults { delay: 20 * MS, jitter: 50 * MS, ..Faults::NONE });
    let arrived = carry(&mut shaky, 500, MS);
    assert_eq!(arrived.iter().map(|(_, n)| *n).collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
    assert!(arrived.iter().all(|(at, n)| (20..=70 + 50).contains(&(at - u64::from(*n)))));
    assert!(arrived.iter().any(|(at, n)| at - u64::from(*n) > 45), "some jitter must show");
}

#[test]
fn a_reordered_datagram_is_overtaken_by_the_next_one() {
    let mut channel = channel(Faults { reorder_permille: 1_000, ..Faults::NONE });
    // Every even one is held, every odd one finds the place taken and overtakes it.
    assert_eq!(carry(&mut channel, 4, MS), [(1, 1), (1, 0), (3, 3), (3, 2)]);
    assert_eq!(channel.stats().reordered, 2);
}

#[test]
fn a_reordered_datagram_that_nobody_follows_arrives_late() {
    let mut channel = channel(Faults { reorder_permille: 1_000, ..Faults::NONE });
    assert_eq!(carry(&mut channel, 1, MS), [(REORDER_HOLD.as_millis() as u64, 0)]);
}

#[test]
fn corruption_flips_exactly_one_bit() {
    let mut channel = channel(Faults { corrupt_permille: 1_000, ..Faults::NONE });
    for length in [1, 2, 1_400] {
        channel.handle_datagram(&vec![0; length], Instant::ZERO);
        let datagram = channel.poll_transmit(Instant::ZERO).unwrap();
        assert_eq!(datagram.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
    channel.handle_datagram(&[], Instant::ZERO);
    assert_eq!(channel.poll_transmit(Instant::ZERO), Some(Vec::new()), "an empty datagram has no bit to flip");
    assert_eq!(channel.stats().corrupted, 3);
}

#[test]
fn a_rate_limit_spaces_datagrams_out() {
    // Four bytes at 1,000 bytes a second take 4 ms.
    let mut channel = channel(Faults { bytes_per_second: Some(1_000), ..Faults::NONE });
    assert_eq!(carry(&mut channel, 4, Duration::ZERO), [(4, 0), (8, 1), (12, 2), (16, 3)]);
}

#[test]
fn a_blocked_channel_loses_what_is_under_way_and_carries_again_when_unblocked() {
    let mut channel = channel(Faults { delay: 10 * MS, reorder_permille: 1_000, ..Faults::NONE });
    (0..3_u32).for_each(|n| channel.handle_datagram(&n.to_be_bytes(), Instant::ZERO));
    channel.set_faults(Faults::BLOCKED);
    channel.handle_datagram(&3_u32.to_be_bytes(), Instant::ZERO);
    assert_eq!((channel.poll_timeout(), channel.poll_transmit(Instant::FAR_FUTURE)), (None, None));
    assert_eq!(channel.stats().blocked, 4);

    channel.set_faults(Faults::NONE);
    channel.handle_datagram(&4_u32.to_be_bytes(), Instant::from_millis(1));
    assert_eq!(channel.poll_transmit(Instant::from_millis(1)).as_deref().map(number), Some(4));
}

#[test]
fn a_full_channel_drops_the_newest_and_counts_it() {
    let mut full = channel(Faults { delay: Duration::from_secs(1), ..Faults::NONE });
    let arrived = carry(&mut full, QUEUE_DATAGRAMS_MAX as u32 + 10, Duration::ZERO);
    assert_eq!(arrived.len(), QUEUE_DATAGRAMS_MAX);
    assert_eq!(full.stats().overflowed, 10);

    let mut large = channel(Faults { delay: Duration::from_secs(1), ..Faults::NONE });
    (0..200).for_each(|_| large.handle_datagram(&[0; 65_507], Instant::ZERO));
    assert_eq!(large.stats().overflowed, 200 - 128, "8 MiB hold 128 of the largest datagrams");
}

#[test]
fn every_datagram_is_accounted_for() {
    let mut channel = channel(Faults {
        loss_permille: 50,
        delay: 3 * MS,
        jitter: 7 * MS,
        reorder_permille: 100,
        duplicate_permille: 70,
        corrupt_permille: 30,
        bytes_per_second: Some(2_500),
        blocked: false,
    });
    carry(&mut channel, 20_000, MS);
    let stats = channel.stats();
    assert_eq!(stats.received, 20_000);
    assert_eq!(stats.received + stats.duplicated, stats.passed + stats.lost + stats.overflowed + stats.blocked);
    assert!(stats.overflowed > 0, "2,500 bytes a second are less than 4,000: {stats:?}");
}
