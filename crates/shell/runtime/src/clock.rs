//! The only place that asks what time it is, and the only one that asks the operating system for randomness.

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use x0t_model::{Instant, Seed, UnixTime};

/// The two clocks of a host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// `CLOCK_BOOTTIME` in nanoseconds: the same for all processes of one host, so that their events can be put in order. Unlike
    /// `CLOCK_MONOTONIC` it goes on while the host sleeps, so a node that wakes up knows that what it believed is old.
    pub fn now(self) -> Instant {
        let time = clock_gettime(ClockId::Boottime);
        // The kernel never reports a negative time since boot, nor one that needs more than 63 bits before the year 2262.
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
        Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// Wall-clock time. A clock set before 1970 reads as 1970: every certificate is then not yet valid, which is what to report.
    pub fn wall(self) -> UnixTime {
        UnixTime::from_secs(u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or_default())
    }
}

/// 256 bits from the kernel's generator, from which a node grows all its randomness.
///
/// # Errors
/// If the kernel has no `getrandom(2)` or was interrupted before its generator was seeded.
pub fn seed() -> std::io::Result<Seed> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        // Calls for 256 bytes or less are not interrupted once the generator is seeded (getrandom(2)); the loop is for early boot.
        match getrandom(&mut seed[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back_and_the_wall_clock_is_in_this_century() {
        let before = Clock.now();
        assert!(Clock.now() >= before && before > Instant::ZERO);
        assert!(Clock.wall() > UnixTime::from_secs(946_684_800));
    }

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed().unwrap(), seed().unwrap());
    }
}
