//! How often a sensor is heard, and so from when on its silence means that it restarted.
//!
//! A sensor that lost its session cannot say so: whoever could ask for a handshake on the air could wear the
//! gateway out. So the gateway notices the silence, by the sensor's own measure, and shakes hands anew.

use std::time::Duration;

use tokio::time::Instant;

/// Silence is never noticed sooner.
const SHORTEST: Duration = Duration::from_secs(3);

/// Nor later, when it is looked after for nothing again and again.
const LONGEST: Duration = Duration::from_secs(600);

/// What is assumed of a sensor that was never heard.
const FIRST_GUESS: Duration = Duration::from_secs(2);

/// So many usual intervals make a silence.
const INTERVALS: u32 = 4;

/// The rhythm of one sensor's records.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Instant,
    usual: Duration,
    /// It is waited for so long, from here on: its last record, or when it was last looked after.
    patience: Duration,
    since: Instant,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, usual: FIRST_GUESS, patience: FIRST_GUESS * INTERVALS, since: now }
    }

    /// A record came. If it answers that the sensor was looked after, the silence before that was a usual one.
    pub(super) fn beat(&mut self, now: Instant) {
        let interval = now.saturating_duration_since(self.last);
        self.last = now;
        self.since = now;
        // Grows at once, shrinks slowly: a burst after a pause does not make the pause look long.
        self.usual = interval.max(self.usual / 8 * 7).min(LONGEST);
        self.patience = (self.usual * INTERVALS).clamp(SHORTEST, LONGEST);
    }

    /// From when on the sensor is too quiet.
    pub(super) fn missed_at(&self) -> Instant {
        self.since + self.patience
    }

    /// It is looked after now; if that was for nothing, the next time comes later.
    pub(super) fn look_after(&mut self, now: Instant) {
        self.since = now;
        self.patience = (self.patience * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensor_of_one_record_a_second_is_missed_after_seconds_and_a_slow_one_after_minutes() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for _ in 0..20 {
            now += Duration::from_secs(1);
            pulse.beat(now);
        }
        assert!((3..=5).contains(&(pulse.missed_at() - now).as_secs()));
        now += Duration::from_secs(30);
        pulse.beat(now);
        assert_eq!((pulse.missed_at() - now).as_secs(), 120);
    }

    #[test]
    fn a_sensor_that_is_alive_and_has_nothing_to_say_is_looked_after_ever_more_seldom() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for _ in 0..100 {
            now += Duration::from_millis(10);
            pulse.beat(now);
        }
        let mut handshakes = 0;
        let end = now + Duration::from_secs(3600);
        while now < end {
            now = pulse.missed_at();
            pulse.look_after(now);
            handshakes += 1;
            // It answers, and says hello.
            now += Duration::from_millis(20);
            pulse.beat(now);
        }
        assert!((6..=12).contains(&handshakes), "{handshakes} handshakes in an hour");
        assert_eq!(pulse.missed_at() - now, LONGEST);
    }

    #[test]
    fn looking_after_a_sensor_for_nothing_becomes_rare() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for _ in 0..10 {
            now = pulse.missed_at();
            pulse.look_after(now);
        }
        assert_eq!(pulse.missed_at() - now, LONGEST);
    }
}
