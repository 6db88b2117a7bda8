//! Holds a client to the rate of its token.
//!
//! mqtt5 lets a publish be authorized or not, and "not" would pause the device for good. So what comes too fast waits
//! for its turn: the connection is read no faster than its token allows, nothing is refused, and nothing is lost.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// So much time's worth may come at once: what a line held up arrives together.
const BURST: Duration = Duration::from_secs(2);
/// And at least so many messages.
const BURST_MESSAGES: u32 = 10;

/// When the next publish of a client is due.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// Counts a publish; how long it has to wait.
    pub(super) fn take(&mut self, per_second: NonZeroU32, now: Instant) -> Duration {
        let each = Duration::from_secs(1) / per_second.get();
        let due = self.due.map_or(now, |due| due.max(now)) + each;
        self.due = Some(due);
        due.duration_since(now).saturating_sub(BURST.max(each * BURST_MESSAGES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_what_follows_waits_for_its_turn() {
        let (start, mut pace, rate) = (Instant::now(), Pace::default(), NonZeroU32::new(10).unwrap());
        let each = Duration::from_millis(100);
        for n in 0..20 {
            assert_eq!(pace.take(rate, start), Duration::ZERO, "{n}");
        }
        assert_eq!(pace.take(rate, start), each);
        assert_eq!(pace.take(rate, start + each), each, "its pace, and no more");
        let later = start + Duration::from_secs(3600);
        for n in 0..20 {
            assert_eq!(pace.take(rate, later), Duration::ZERO, "{n}");
        }
        assert_eq!(pace.take(rate, later), each, "a pause is not saved up");
    }

    #[test]
    fn even_the_slowest_rate_allows_a_few_at_once() {
        let (start, mut pace, rate) = (Instant::now(), Pace::default(), NonZeroU32::MIN);
        for n in 0..10 {
            assert_eq!(pace.take(rate, start), Duration::ZERO, "{n}");
        }
        assert_eq!(pace.take(rate, start), Duration::from_secs(1));
    }
}
