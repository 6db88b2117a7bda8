//! The issuer's time: wall time that never runs backwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// Wall time with a floor, in seconds since 1970. Cheap to clone.
///
/// A wall clock that is turned back, or that starts in 1970 for want of a battery, must not revive an expired token:
/// from the latest time known, time goes on at the boot clock's rate until the wall clock has caught up.
#[derive(Clone)]
pub struct IssuerTime {
    clock: Clock,
    latest: Arc<Mutex<Latest>>,
}

#[derive(Clone, Copy)]
struct Latest {
    boot: Duration,
    time: Duration,
}

impl IssuerTime {
    /// Time that is never before `floor` (seconds since 1970), the latest time an earlier run is known to have seen.
    #[must_use]
    pub fn starting_at(floor: u64, clock: Clock) -> Self {
        let latest = Latest { boot: clock.boot(), time: Duration::from_secs(floor) };
        Self { clock, latest: Arc::new(Mutex::new(latest)) }
    }

    /// Now, in whole seconds.
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let boot = self.clock.boot();
        let floor = latest.time.saturating_add(boot.saturating_sub(latest.boot));
        *latest = Latest { boot, time: self.clock.wall().max(floor) };
        latest.time.as_secs()
    }
}

impl std::fmt::Debug for IssuerTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuerTime({})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_turned_back_does_not_turn_the_issuers_time() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let time = IssuerTime::starting_at(0, clock.clone());
        assert_eq!(time.now(), 1_000_000);
        clock.set_wall(Duration::from_secs(10));
        clock.advance(Duration::from_secs(5));
        assert_eq!(time.now(), 1_000_005);
        clock.set_wall(Duration::from_secs(2_000_000));
        assert_eq!(time.now(), 2_000_000);
    }

    #[test]
    fn a_machine_without_a_battery_starts_at_the_persisted_floor() {
        let clock = Clock::manual(Duration::ZERO);
        assert_eq!(IssuerTime::starting_at(500, clock).now(), 500);
    }
}
