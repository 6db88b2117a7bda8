//! When to ask for a token: plain functions over plain data, and a sleep on the boot clock.

use std::time::Duration;

use crate::clock::Clock;

/// First wait after a failure; doubled at each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait of our own.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest wait that a server may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// tokio's timers stand still while the machine sleeps: look at the boot clock at least this often.
const LOOK: Duration = Duration::from_secs(30);

/// How long after its receipt a token is refreshed: 70 to 80 % of its life, so that devices do not ask in step.
pub(super) fn refresh_after(life: Duration, random: u32) -> Duration {
    life.mul_f64(0.7 + 0.1 * fraction(random))
}

/// How long to wait after the `failures`th failure in a row (from 1): half of it certain, half by chance, and never
/// less than the server asked for.
pub(super) fn back_off(failures: u32, retry_after: Option<Duration>, random: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    let own = doubled.mul_f64(0.5 + 0.5 * fraction(random));
    match retry_after {
        Some(asked) => asked.min(LONGEST_RETRY_AFTER) + own,
        None => own,
    }
}

fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

/// A random number for jitter. Without randomness everyone is in step, which is no reason to stop.
pub(super) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

/// Sleeps until the boot clock shows `deadline`; for ever without one.
pub(super) async fn sleep_until(clock: &Clock, deadline: Option<Duration>) {
    let Some(deadline) = deadline else { return std::future::pending().await };
    loop {
        let left = deadline.saturating_sub(clock.boot());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_refresh_comes_at_70_to_80_percent(life_ms in 1_000_u64..1_000_000_000, random: u32) {
            let life = Duration::from_millis(life_ms);
            let at = refresh_after(life, random);
            prop_assert!(at >= life.mul_f64(0.699) && at <= life.mul_f64(0.801));
        }

        #[test]
        fn a_back_off_is_bounded_and_keeps_retry_after(failures: u32, asked in proptest::option::of(0_u64..1 << 40), random: u32) {
            let asked = asked.map(Duration::from_secs);
            let wait = back_off(failures, asked, random);
            let floor = asked.unwrap_or_default().min(LONGEST_RETRY_AFTER);
            prop_assert!(wait >= floor + FIRST_WAIT / 2 && wait <= floor + LONGEST_WAIT);
        }
    }
}
