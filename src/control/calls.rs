//! Control calls that came to nothing, for the audit log. Those that did something have lines of their own there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::failure::Failure;
use super::role::Caller;
use crate::audit::{Action, Event};
use crate::logging::Share;

/// Users that are told apart; beyond, all have one share.
const USERS: usize = 256;
/// Longest path that is quoted, in characters.
const MAX_PATH: usize = 120;

/// Keeps one user's failures from filling the log.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<HashMap<u32, Share>>);

impl Calls {
    /// The event to be written about a failed call at boot time `now`; none where the user has had his share.
    pub(super) fn event(&self, caller: &Caller, call: &str, failure: &Failure, now: Duration) -> Option<Event> {
        let unsaid = self.charge(caller.uid, now)?;
        let call: String = call.chars().take(MAX_PATH).collect();
        let event = Event::done(caller.actor(), Action::ControlCall, call);
        let event = event.ended(failure.outcome()).because(&failure.message);
        Some(event.with(json!({ "code": failure.code, "unsaid_before": unsaid })))
    }

    /// Takes one line of a user's share; how many found none left since his last one.
    fn charge(&self, uid: u32, now: Duration) -> Option<u64> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= USERS {
            shares.retain(|_, share| !share.is_over(now));
        }
        let uid = if shares.len() < USERS || shares.contains_key(&uid) { uid } else { u32::MAX };
        shares.entry(uid).or_default().charge(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_failures_are_said_up_to_his_share_and_then_counted() {
        let calls = Calls::default();
        let second = |s| Duration::from_secs(s);
        let said: Vec<_> = (0..100).filter_map(|_| calls.charge(7, second(1))).collect();
        assert_eq!(said, vec![0; 10]);
        assert_eq!(calls.charge(8, second(1)), Some(0), "others have a share of their own");
        assert_eq!(calls.charge(7, second(61)), Some(90));
        assert_eq!(calls.charge(7, second(61)), Some(0));
    }

    #[test]
    fn many_users_take_no_more_memory_than_a_few() {
        let calls = Calls::default();
        for uid in 0..10_000 {
            let _ = calls.charge(uid, Duration::ZERO);
        }
        assert!(calls.0.lock().unwrap().len() <= USERS + 1);
    }
}
