//! A device's own baseline of readings a second, and when it is far above it.
//!
//! The baseline is an exponentially weighted moving average with a time constant of an hour, begun with the plain average
//! of a time of learning, in which nothing is judged. Readings are counted over the time since the device was last
//! heard, so that a silence teaches nothing; what it could have sent in a silence it may send later without being
//! noticed, for sensors keep what they could not deliver. A spike is more than `factor` times the baseline for three
//! looks in a row; the baseline learns of it no more than that factor. It begins anew with each start of the gateway.

use std::collections::HashMap;
use std::time::Duration;

use super::AlarmPolicy;
use crate::ids::DeviceId;

/// How often the counts are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
/// Time constant of the average.
const MEMORY_S: f64 = 3600.0;
/// One gap between readings teaches at most as much as so long a time.
const MOST_TAUGHT_S: f64 = 600.0;
/// What a device may deliver late: so much time of its baseline.
const MOST_OWED_S: f64 = 86_400.0;
/// A slower baseline counts as this one, readings a second: one a minute.
const LOWEST: f64 = 1.0 / 60.0;
/// High looks in a row.
const LOOKS: u32 = 3;

/// A device that sends far more than it used to, in readings a second.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spike {
    pub(crate) device: DeviceId,
    pub(crate) rate: f64,
    pub(crate) usual: f64,
}

/// The baselines of all devices.
#[derive(Debug, Default)]
pub(crate) struct Baselines(HashMap<DeviceId, Baseline>);

#[derive(Debug)]
struct Baseline {
    count: u64,
    /// Boot times.
    since: Duration,
    heard: Duration,
    /// Readings a second.
    usual: f64,
    /// Readings in the time of learning, which begins with the first one.
    learnt: Option<f64>,
    /// Readings that it has not sent although it used to.
    owed: f64,
    high: u32,
}

impl Baselines {
    /// Looks at each device's count of readings since the start; those that are not named are forgotten.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        policy: &AlarmPolicy,
        counts: impl IntoIterator<Item = (DeviceId, u64)>,
    ) -> Vec<Spike> {
        let mut before = std::mem::take(&mut self.0);
        let mut spikes = Vec::new();
        for (device, count) in counts {
            let mut baseline = before.remove(&device).unwrap_or_else(|| Baseline::new(now, count));
            if let Some(rate) = baseline.look(now, count, policy) {
                spikes.push(Spike { device: device.clone(), rate, usual: baseline.usual });
            }
            self.0.insert(device, baseline);
        }
        spikes
    }
}

impl Baseline {
    fn new(now: Duration, count: u64) -> Self {
        Self { count, since: now, heard: now, usual: 0.0, learnt: None, owed: 0.0, high: 0 }
    }

    /// The rate, where it is a spike.
    fn look(&mut self, now: Duration, count: u64, policy: &AlarmPolicy) -> Option<f64> {
        // A device that was removed and paired again counts from nothing.
        let came = f64::from(u32::try_from(count.saturating_sub(self.count)).unwrap_or(u32::MAX));
        self.count = count;
        let gap = now.saturating_sub(self.heard).as_secs_f64();
        if came == 0.0 || gap <= 0.0 {
            self.high = 0;
            return None;
        }
        self.heard = now;
        let Some(learnt) = self.learnt else {
            (self.since, self.learnt) = (now, Some(0.0));
            return None;
        };
        let (rate, factor) = (came / gap, f64::from(policy.rate_factor));
        let age = now.saturating_sub(self.since).as_secs_f64();
        if age <= policy.rate_learning.as_secs_f64() || learnt == 0.0 {
            self.learnt = Some(learnt + came);
            self.usual = (learnt + came) / age;
            return None;
        }
        let usual = self.usual.max(LOWEST);
        self.owed = (self.owed + usual * gap).min(usual * MOST_OWED_S) - came;
        let is_late = self.owed > 0.0;
        self.owed = self.owed.max(0.0);
        let is_high = rate > usual * factor && !is_late;
        self.high = if is_high { self.high.saturating_add(1) } else { 0 };
        let weight = 1.0 - (-gap.min(MOST_TAUGHT_S) / MEMORY_S).exp();
        if !is_late {
            self.usual += weight * (rate.min(usual * factor) - self.usual);
        }
        (self.high >= LOOKS).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose readings a look are given; in which looks it was said to be too fast.
    struct Bed {
        baselines: Baselines,
        now: Duration,
        count: u64,
    }

    impl Bed {
        fn new() -> Self {
            let mut bed = Self { baselines: Baselines::default(), now: Duration::from_secs(100), count: 7 };
            bed.looks(1, 0);
            bed
        }

        fn looks(&mut self, looks: usize, readings: u64) -> usize {
            let mut spikes = 0;
            for _ in 0..looks {
                self.count += readings;
                let device = "pump-3".parse().unwrap();
                let policy = AlarmPolicy { rate_factor: 5, ..AlarmPolicy::default() };
                spikes += self.baselines.look(self.now, &policy, [(device, self.count)]).len();
                self.now += LOOK;
            }
            spikes
        }
    }

    #[test]
    fn five_times_the_usual_is_a_spike_from_the_third_look_on() {
        let mut bed = Bed::new();
        assert_eq!(bed.looks(100, 10), 0);
        assert_eq!(bed.looks(100, 40), 0, "four times is not");
        let mut bed = Bed::new();
        bed.looks(100, 10);
        assert_eq!(bed.looks(2, 60), 0);
        assert_eq!(bed.looks(3, 60), 3);
    }

    #[test]
    fn each_device_has_its_own_baseline() {
        let mut bed = Bed::new();
        bed.looks(100, 1000);
        assert_eq!(bed.looks(10, 1500), 0, "what is a flood for one is a day's work for another");
    }

    #[test]
    fn nothing_is_judged_while_the_baseline_is_learnt() {
        let mut bed = Bed::new();
        assert_eq!(bed.looks(3, 1) + bed.looks(50, 1000), 0);
    }

    #[test]
    fn learning_begins_with_the_first_reading() {
        let mut bed = Bed::new();
        assert_eq!(bed.looks(100, 0), 0);
        assert_eq!(bed.looks(100, 1000), 0, "it was silent for longer than the time of learning");
        assert_eq!(bed.looks(3, 6000), 1);
    }

    #[test]
    fn readings_that_come_late_after_a_silence_are_no_spike_but_what_exceeds_them_is() {
        let mut bed = Bed::new();
        bed.looks(100, 10);
        assert_eq!(bed.looks(360, 0), 0, "an hour of silence");
        assert_eq!(bed.looks(36, 100), 0, "3600 readings that were kept meanwhile");
        assert!(bed.looks(10, 100) > 0, "and more than that");
    }

    #[test]
    fn a_silence_does_not_lower_the_baseline_and_a_lasting_change_raises_it() {
        let mut bed = Bed::new();
        bed.looks(100, 10);
        bed.looks(8640, 0);
        bed.looks(1, 8650 * 10);
        assert_eq!(bed.looks(50, 10), 0);
        assert!(bed.looks(1000, 100) > 0);
        assert_eq!(bed.looks(100, 100), 0, "after some hours it is what the device does");
    }

    #[test]
    fn a_device_that_is_gone_is_forgotten() {
        let mut bed = Bed::new();
        bed.looks(100, 10);
        bed.baselines.look(bed.now, &AlarmPolicy::default(), []);
        assert!(bed.baselines.0.is_empty());
    }
}
