//! Control calls that only look, for the audit log: counted a user and route, and written now and then. A line for each
//! would be a line for each scrape of a monitor.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::role::Caller;
use crate::audit::{Action, Actor, Event};

/// Calls of this time make one line a user.
pub(super) const PERIOD: Duration = Duration::from_secs(3600);
/// Users that are told apart; all others share one line.
const USERS: usize = 256;

/// What was looked at since the last lines.
#[derive(Debug, Default)]
pub(super) struct Reads(Mutex<HashMap<Option<u32>, Account>>);

#[derive(Debug, Default)]
struct Account {
    name: Option<String>,
    /// By route; there are as many as there are routes.
    calls: BTreeMap<&'static str, u64>,
}

impl Reads {
    /// One call of this user.
    pub(super) fn count(&self, caller: &Caller, route: &'static str) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = accounts.len() < USERS || accounts.contains_key(&Some(caller.uid));
        let account = accounts.entry(known.then_some(caller.uid)).or_default();
        if known {
            account.name.clone_from(&caller.name);
        }
        *account.calls.entry(route).or_default() += 1;
    }

    /// The lines about them, a user each; what was counted is forgotten.
    pub(super) fn events(&self) -> Vec<Event> {
        let accounts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut accounts: Vec<_> = accounts.into_iter().collect();
        accounts.sort_unstable_by_key(|(uid, _)| *uid);
        let event = |(uid, account): (Option<u32>, Account)| {
            let (actor, subject) = match uid {
                Some(uid) => (Actor::Uid { uid, name: account.name }, "control socket"),
                None => (Actor::Daemon, "control socket: users beyond those that are told apart"),
            };
            Event::done(actor, Action::ControlRead, subject).with(json!({ "calls": account.calls }))
        };
        accounts.into_iter().map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_line_with_what_he_looked_at() {
        let reads = Reads::default();
        for (uid, route) in [(7, "/v1/status"), (8, "/metrics"), (7, "/v1/status"), (7, "/v1/codes")] {
            reads.count(&Caller::of(uid, 65_533), route);
        }
        let events = reads.events();
        let calls: Vec<_> = events.iter().map(|event| event.details.clone()).collect();
        let wanted = [json!({ "calls": { "/v1/codes": 1, "/v1/status": 2 } }), json!({ "calls": { "/metrics": 1 } })];
        assert_eq!(calls, wanted);
        assert!(matches!(&events[0].actor, Actor::Uid { uid: 7, .. }), "{events:?}");
        assert!(reads.events().is_empty(), "told once");
    }

    #[test]
    fn many_users_take_no_more_lines_than_a_few() {
        let reads = Reads::default();
        for uid in 0..2_000 {
            reads.count(&Caller::of(uid + 70_000, 65_533), "/v1/status");
        }
        let events = reads.events();
        assert_eq!(events.len(), USERS + 1);
        assert_eq!(events[0].details["calls"]["/v1/status"], 2_000 - u64::try_from(USERS).unwrap());
    }
}
