//! The rate of a token (`claw_rate`), kept here too: what the broker would refuse is not sent but waits in the spool.
//!
//! A bucket that holds two seconds' worth: so much may go at once, and no more than the rate in the long run. It outlives
//! a connection, so that connecting anew is no way around it.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// What may go at once, in time.
const BURST: Duration = Duration::from_secs(2);

/// How much of a device's rate is left.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: Option<NonZeroU32>,
    /// When the bucket is full again.
    full: Instant,
}

impl Rate {
    /// Without a limit.
    pub(super) fn none(now: Instant) -> Self {
        Self { per_second: None, full: now }
    }

    /// Takes the rate of a fresh token; what was used under the one before stays used.
    pub(super) fn set(&mut self, per_second: Option<NonZeroU32>) {
        self.per_second = per_second;
    }

    /// So many publishes may go now.
    pub(super) fn room(&self, now: Instant) -> usize {
        let Some(each) = self.each() else { return usize::MAX };
        let left = BURST.saturating_sub(self.full.saturating_duration_since(now));
        usize::try_from(left.as_nanos() / each.as_nanos().max(1)).unwrap_or(usize::MAX)
    }

    /// So many go.
    pub(super) fn take(&mut self, count: usize, now: Instant) {
        if let Some(each) = self.each() {
            let used = each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
            self.full = self.full.max(now) + used;
        }
    }

    /// When there is room for the next one; none where there is now.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let each = self.each()?;
        (self.room(now) == 0).then(|| self.full + each - BURST)
    }

    /// The time that one publish takes of the bucket; rounded up, so that the rate is never exceeded.
    fn each(&self) -> Option<Duration> {
        let second = 1_000_000_000_u64;
        self.per_second.map(|rate| Duration::from_nanos(second.div_ceil(u64::from(rate.get()))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32, now: Instant) -> Rate {
        let mut rate = Rate::none(now);
        rate.set(NonZeroU32::new(per_second));
        rate
    }

    #[test]
    fn without_a_limit_everything_goes() {
        let now = Instant::now();
        let mut rate = rate(0, now);
        rate.take(1_000_000, now);
        assert_eq!((rate.room(now), rate.next(now)), (usize::MAX, None));
    }

    #[test]
    fn two_seconds_worth_goes_at_once_and_then_one_at_a_time() {
        let now = Instant::now();
        let mut rate = rate(5, now);
        assert_eq!(rate.room(now), 10);
        rate.take(10, now);
        assert_eq!(rate.room(now), 0);
        let next = rate.next(now).unwrap();
        assert_eq!(next - now, Duration::from_millis(200));
        assert_eq!((rate.room(next - Duration::from_nanos(1)), rate.room(next)), (0, 1));
        assert_eq!(rate.room(now + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn a_fresh_token_does_not_fill_the_bucket() {
        let now = Instant::now();
        let mut rate = rate(5, now);
        rate.take(10, now);
        rate.set(NonZeroU32::new(10));
        assert_eq!(rate.room(now), 0);
        rate.set(None);
        assert_eq!(rate.room(now), usize::MAX);
    }

    proptest! {
        /// Whoever sends whenever there is room never sends more than the rate and one burst.
        #[test]
        fn the_rate_holds_over_any_time(per_second in 1_u32..2000, steps in prop::collection::vec(0_u64..3_000_000_000, 1..40)) {
            let begin = Instant::now();
            let (mut now, mut sent) = (begin, 0_u128);
            let mut rate = rate(per_second, begin);
            for step in steps {
                let room = rate.room(now);
                rate.take(room, now);
                sent += room as u128;
                let most = u128::from(per_second) * ((now - begin).as_nanos() + 2_000_000_000) / 1_000_000_000;
                prop_assert!(sent <= most, "{sent} after {:?}", now - begin);
                now += Duration::from_nanos(step);
            }
        }
    }
}
