//! When an acknowledgement goes out: at once to a sensor that says little, for several readings together to one
//! that says much.
//!
//! Each one is a record sealed and a write to the line, which at hundreds of readings a second cost more than the
//! readings themselves. A sensor with memory for few readings must not wait for it either, so readings that came
//! since the last one shorten the wait.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two.
const SHORTEST: Duration = Duration::from_millis(4);

/// And between two while few readings came in between.
const USUAL: Duration = Duration::from_millis(20);

/// No longer few.
const MANY: u64 = 8;

/// The rhythm of the acknowledgements to one sensor.
#[derive(Debug, Default)]
pub(super) struct Cadence {
    /// Since when there is something to say.
    wanted: Option<Instant>,
    last: Option<Instant>,
    /// Readings since the last one.
    came: u64,
}

impl Cadence {
    /// Readings came; most of them will have to be acknowledged.
    pub(super) fn came(&mut self, readings: u64) {
        self.came = self.came.saturating_add(readings);
    }

    /// There is something to say.
    pub(super) fn want(&mut self, now: Instant) {
        self.wanted.get_or_insert(now);
    }

    /// There is something to say that does not wait for more.
    pub(super) fn want_soon(&mut self, now: Instant) {
        self.came = MANY;
        self.want(now);
    }

    /// Whether there is something to say.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// When it is to be said.
    pub(super) fn due(&self) -> Option<Instant> {
        let gap = if self.came < MANY { USUAL } else { SHORTEST };
        let wanted = self.wanted?;
        Some(self.last.map_or(wanted, |last| wanted.max(last + gap)))
    }

    /// There was nothing to say after all.
    pub(super) fn forgo(&mut self) {
        self.wanted = None;
    }

    /// It was said.
    pub(super) fn said(&mut self, now: Instant) {
        *self = Self { wanted: None, last: Some(now), came: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(50);

    /// Acknowledgements in a second of readings that come every so many steps and are confirmed eight steps later.
    fn acknowledgements(every: u32) -> u32 {
        let (mut cadence, mut now, mut said) = (Cadence::default(), Instant::now(), 0);
        for step in 0..20_000 {
            now += STEP;
            if step % every == 0 {
                cadence.came(1);
            }
            if step >= 8 && (step - 8) % every == 0 {
                cadence.want(now);
            }
            if cadence.due().is_some_and(|due| now >= due) {
                cadence.said(now);
                said += 1;
            }
        }
        said
    }

    #[test]
    fn a_sensor_that_says_little_is_answered_at_once_and_every_time() {
        let (mut cadence, now) = (Cadence::default(), Instant::now());
        cadence.want(now);
        assert_eq!(cadence.due(), Some(now), "the first");
        cadence.said(now);
        assert_eq!(cadence.due(), None);
        let later = now + Duration::from_secs(1);
        cadence.came(1);
        cadence.want(later);
        assert_eq!(cadence.due(), Some(later));
        assert_eq!(acknowledgements(1000), 20);
    }

    #[test]
    fn hundreds_of_readings_a_second_are_acknowledged_together() {
        let acknowledged = acknowledgements(100);
        assert!((40..=50).contains(&acknowledged), "{acknowledged} for 200 readings");
    }

    #[test]
    fn many_readings_shorten_the_wait_for_their_acknowledgement_down_to_a_bound() {
        let (mut cadence, now) = (Cadence::default(), Instant::now());
        cadence.want(now);
        cadence.said(now);
        cadence.came(MANY - 1);
        cadence.want(now);
        assert_eq!(cadence.due(), Some(now + USUAL));
        cadence.came(1);
        assert_eq!(cadence.due(), Some(now + SHORTEST));
        let acknowledged = acknowledgements(1);
        assert!((200..=250).contains(&acknowledged), "{acknowledged} for 20000 readings");
    }

    #[test]
    fn what_the_sensor_waits_for_is_said_soon() {
        let (mut cadence, now) = (Cadence::default(), Instant::now());
        cadence.want(now);
        cadence.said(now);
        cadence.want_soon(now);
        assert_eq!(cadence.due(), Some(now + SHORTEST));
        cadence.forgo();
        assert!(!cadence.is_wanted());
    }
}
