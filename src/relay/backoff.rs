//! How long to wait before the next connect: doubling, capped, and different for everybody.

use std::time::Duration;

/// Waits of one device.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, tries: 0 }
    }

    /// The connection did what it is for.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    /// What failed will not be mended soon: go to the cap.
    pub(crate) fn exhaust(&mut self) {
        self.tries = u32::MAX;
    }

    /// The next wait: anywhere in the upper half, so that those who lost a broker together come back apart.
    pub(crate) fn next(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        full / 2 + jitter(full / 2)
    }
}

/// A random part of `span`.
fn jitter(span: Duration) -> Duration {
    // Without randomness all wait alike, which is no reason not to wait.
    let part = getrandom::u32().unwrap_or(u32::MAX);
    span.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_success() {
        let (first, cap) = (Duration::from_millis(500), Duration::from_secs(60));
        let mut backoff = Backoff::new(first, cap);
        for full in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let wait = backoff.next().as_secs_f64();
            assert!(wait >= full / 2.0 && wait <= full, "{wait} of {full}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
        backoff.exhaust();
        assert!(backoff.next() >= cap / 2);
        assert!(backoff.next() >= cap / 2);
    }

    #[test]
    fn two_devices_do_not_come_back_at_the_same_moment() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(60));
        let mut waits: Vec<Duration> = (0..50).map(|_| backoff.next()).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 40);
    }
}
