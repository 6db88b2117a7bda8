//! Wrong codes within a sliding time, of all sensors together: who guesses may call himself anything.

use std::collections::VecDeque;
use std::time::Duration;

/// More wrong codes than this are not told apart; no threshold is higher.
pub(super) const MOST: usize = 1000;

/// When wrong codes were tried, on the boot clock.
#[derive(Debug, Default)]
pub(super) struct Attempts(VecDeque<Duration>);

impl Attempts {
    /// Notes one at `now`; how many there were within `window`, this one among them.
    pub(super) fn note(&mut self, now: Duration, window: Duration) -> usize {
        self.0.push_back(now);
        while self.0.len() > MOST || self.0.front().is_some_and(|at| now.saturating_sub(*at) >= window) {
            self.0.pop_front();
        }
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut attempts = Attempts::default();
        let window = Duration::from_secs(600);
        let counts: Vec<_> = [0, 1, 599, 600, 601, 1300].map(|s| attempts.note(Duration::from_secs(s), window)).into();
        assert_eq!(counts, [1, 2, 3, 3, 3, 1]);
    }

    #[test]
    fn a_flood_takes_no_more_memory_than_the_highest_threshold() {
        let mut attempts = Attempts::default();
        for _ in 0..10_000 {
            attempts.note(Duration::ZERO, Duration::from_secs(1));
        }
        assert_eq!(attempts.0.len(), MOST);
    }
}
