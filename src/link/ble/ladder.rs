//! What is done when data is expected and missing, one step at a time, and never without need.
//!
//! A sensor that says nothing because it has nothing to say is left alone: only a question of ours that is not
//! answered, a connect that fails, or a device of ours that is not heard at all counts as missing.

use std::time::Duration;

use tokio::time::Instant;

/// A question that is not answered for so long: the notifications are subscribed anew.
pub(crate) const DEAF: Duration = Duration::from_secs(4);

/// And for so long: the link is made anew.
pub(crate) const DEAD: Duration = Duration::from_secs(9);

/// Links that failed in a row, before BlueZ is told to forget the device with all it cached of it.
const STALE_AFTER: u32 = 3;

/// A device of ours that is not heard for so long, while the adapter should hear it: discovery is started anew.
pub(crate) const UNHEARD: Duration = Duration::from_secs(60);

/// The adapter is not power-cycled more often, and ever more seldom while it does not help.
const POWER_CYCLE: Duration = Duration::from_secs(10 * 60);
const POWER_CYCLE_SELDOM: Duration = Duration::from_secs(6 * 3600);

/// A step of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Subscribe to the notifications anew.
    Resubscribe,
    /// End the link; it is made anew.
    Reconnect,
    /// Tell BlueZ to forget the device.
    Forget,
    /// Stop discovery and start it anew.
    RestartDiscovery,
    /// Switch the adapter off and on.
    PowerCycle,
}

impl Step {
    /// What was done, for people.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Resubscribe => "notifications subscribed anew",
            Self::Reconnect => "link made anew",
            Self::Forget => "stale device removed from BlueZ",
            Self::RestartDiscovery => "discovery restarted",
            Self::PowerCycle => "adapter power-cycled",
        }
    }
}

/// The rungs of one link.
#[derive(Debug, Default)]
pub(crate) struct LinkLadder {
    resubscribed: bool,
}

impl LinkLadder {
    /// A question has been waiting for its answer for so long.
    pub(crate) fn unanswered(&mut self, waiting: Option<Duration>) -> Option<Step> {
        match waiting {
            None => {
                self.resubscribed = false;
                None
            }
            Some(waiting) if waiting >= DEAD => Some(Step::Reconnect),
            Some(waiting) if waiting >= DEAF && !self.resubscribed => {
                self.resubscribed = true;
                Some(Step::Resubscribe)
            }
            Some(_) => None,
        }
    }
}

/// Links to one sensor that failed in a row.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: u32,
}

impl Failures {
    /// Another one. Every third in a row asks for the device to be forgotten.
    pub(crate) fn another(&mut self) -> Option<Step> {
        self.count = self.count.saturating_add(1);
        self.count.is_multiple_of(STALE_AFTER).then_some(Step::Forget)
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// A link that was of use.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }
}

/// The rungs of an adapter.
#[derive(Debug)]
pub(crate) struct AdapterLadder {
    /// When all was well, or the last step was taken.
    last: Instant,
    restarts: u32,
    cycled: Option<Instant>,
    cycle_gap: Duration,
}

impl AdapterLadder {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: now, restarts: 0, cycled: None, cycle_gap: POWER_CYCLE }
    }

    /// Everything that is expected is there, or nothing is expected.
    pub(crate) fn well(&mut self, now: Instant) {
        self.last = now;
        self.restarts = 0;
        if self.cycled.is_some_and(|at| now.saturating_duration_since(at) >= self.cycle_gap) {
            self.cycle_gap = POWER_CYCLE;
        }
    }

    /// A device of ours is missing. `in_use`: others are linked, and power stays on for them.
    pub(crate) fn missing(&mut self, in_use: bool, now: Instant) -> Option<Step> {
        if now.saturating_duration_since(self.last) < UNHEARD {
            return None;
        }
        self.last = now;
        let may_cycle = self.cycled.is_none_or(|at| now.saturating_duration_since(at) >= self.cycle_gap);
        if self.restarts >= 2 && !in_use && may_cycle {
            if self.cycled.replace(now).is_some() {
                self.cycle_gap = (self.cycle_gap * 2).min(POWER_CYCLE_SELDOM);
            }
            self.restarts = 0;
            return Some(Step::PowerCycle);
        }
        self.restarts = self.restarts.saturating_add(1);
        Some(Step::RestartDiscovery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_sensor_is_left_alone_and_a_deaf_one_is_first_resubscribed_then_reconnected() {
        let mut ladder = LinkLadder::default();
        assert_eq!(ladder.unanswered(None), None);
        assert_eq!(ladder.unanswered(Some(DEAF / 2)), None);
        assert_eq!(ladder.unanswered(Some(DEAF)), Some(Step::Resubscribe));
        assert_eq!(ladder.unanswered(Some(DEAF * 2)), None, "once");
        assert_eq!(ladder.unanswered(Some(DEAD)), Some(Step::Reconnect));
        ladder.unanswered(None);
        assert_eq!(ladder.unanswered(Some(DEAF)), Some(Step::Resubscribe), "an answer begins it anew");
    }

    #[test]
    fn every_third_failure_in_a_row_forgets_the_device() {
        let mut failures = Failures::default();
        let steps: Vec<_> = (0..7).map(|_| failures.another().is_some()).collect();
        assert_eq!(steps, [false, false, true, false, false, true, false]);
        failures.clear();
        assert_eq!((failures.another(), failures.count()), (None, 1));
    }

    #[test]
    fn an_adapter_climbs_only_while_something_is_missing_and_cycles_ever_more_seldom() {
        let start = Instant::now();
        let mut ladder = AdapterLadder::new(start);
        let mut steps = Vec::new();
        for second in 0..24 * 3600 {
            steps.extend(ladder.missing(false, start + Duration::from_secs(second)));
        }
        assert_eq!(steps[..3], [Step::RestartDiscovery, Step::RestartDiscovery, Step::PowerCycle]);
        let cycles = steps.iter().filter(|step| **step == Step::PowerCycle).count();
        assert!((4..=10).contains(&cycles), "{cycles} in a day");

        let mut ladder = AdapterLadder::new(start);
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            ladder.well(now);
            assert_eq!(ladder.missing(false, now), None);
        }
    }

    #[test]
    fn an_adapter_that_others_use_is_not_switched_off() {
        let start = Instant::now();
        let mut ladder = AdapterLadder::new(start);
        let steps = (0..7200).filter_map(|s| ladder.missing(true, start + Duration::from_secs(s)));
        let steps: Vec<_> = steps.collect();
        assert!(steps.len() > 2 && steps.iter().all(|step| *step == Step::RestartDiscovery), "{steps:?}");
    }
}
