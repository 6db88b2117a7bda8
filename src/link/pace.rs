//! How often a sensor may say who it is. Each time may cost a look into the registry, which all links share, and anybody
//! on the wire can say it as fast as the line goes.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once: somebody looks for sensors, one starts, a code is entered.
const AT_ONCE: u32 = 16;

/// And one each so often after that, which is sooner than anybody is asked.
const GAP: Duration = Duration::from_millis(250);

/// A sensor says who it is more often than anybody asks.
#[derive(Debug, thiserror::Error)]
#[error("it says who it is more often than it is asked; if it goes on so, look what is at the other end")]
pub(super) struct TooOften;

/// What was taken of one sensor.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all that was taken would have been due.
    due: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { due: Instant::now() }
    }

    /// Takes one more, if it is not too soon.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), TooOften> {
        let due = self.due.max(now);
        if due > now + GAP * (AT_ONCE - 1) {
            return Err(TooOften);
        }
        self.due = due + GAP;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_and_then_one_now_and_then() {
        let (mut pace, now) = (Pace::new(), Instant::now());
        let mut taken = |now| (0..1000).filter(|_| pace.take(now).is_ok()).count();
        assert_eq!((taken(now), taken(now + GAP), taken(now + 3 * GAP)), (16, 1, 2));
        assert_eq!(taken(now + 100 * GAP), 16);
    }
}
