//! One change of a device's life at a time: unpairing, renaming, deciding and bringing into service take several steps
//! in several parts, and two of them at once would leave what neither means, as a token of a device that is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::ids::DeviceId;

/// Whose turn it is, by the device's name.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<DeviceId, Weak<tokio::sync::Mutex<()>>>>>);

/// The turn ends when this is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

impl Turns {
    /// Waits for the turn.
    pub(super) async fn of(&self, device: &DeviceId) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(device).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(device.clone(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }

    /// Waits for the turns of two names, whichever is asked for first.
    pub(super) async fn of_both(&self, one: &DeviceId, other: &DeviceId) -> (Turn, Option<Turn>) {
        let first = self.of(one.min(other)).await;
        let second = if one == other { None } else { Some(self.of(one.max(other)).await) };
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_device_has_one_turn_and_no_other_waits_for_it() {
        let turns = Turns::default();
        let (one, two) = (id("pump-3"), id("pump-4"));
        let turn = turns.of(&one).await;
        let waits = |device| {
            let turns = turns.clone();
            async move { tokio::time::timeout(std::time::Duration::from_secs(60), turns.of(device)).await.is_err() }
        };
        assert!(waits(&one).await && !waits(&two).await);
        drop(turn);
        assert!(!waits(&one).await);
        // Asked for in either order they stop nobody for ever.
        drop(turns.of_both(&two, &one).await);
        let both = turns.of_both(&one, &two).await;
        assert!(waits(&one).await && waits(&two).await);
        drop(both);
        drop(turns.of_both(&one, &one).await);
        assert!(turns.0.lock().unwrap().len() <= 2);
    }
}
