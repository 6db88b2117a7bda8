//! Which keys are due by the configuration's schedule. A key that could not be changed is tried again after a while.

use std::time::Duration;

use super::{Gateway, Kind};
use crate::control::api::Key;

/// After a look or a failed try.
const AGAIN: Duration = Duration::from_secs(3600);
/// The shortest schedule is a minute: looked for more often than that only while one is that short.
const CLOSE: Duration = Duration::from_secs(5);

/// A key that was made further in the future than this was made, or is looked at, by a wrong clock. A synchronised clock
/// is set back by less.
const AHEAD_MS: i64 = 3_600_000;

/// How many seconds a key has by its schedule.
///
/// One that was made in what is still to come has no age, and would never get one while the clock that was wrong was far
/// ahead: as soon as the clock is known to be right, it is due. While nobody knows, it is left alone; a board without a
/// battery begins in the past at each start.
pub(super) fn left_s(every: Duration, made_ms: i64, now_ms: i64, is_synchronised: impl FnOnce() -> bool) -> u64 {
    let age_ms = now_ms.saturating_sub(made_ms);
    if age_ms < -AHEAD_MS && is_synchronised() {
        return 0;
    }
    every.as_secs().saturating_sub(u64::try_from(age_ms / 1000).unwrap_or(0))
}

/// When each kind is looked at next, on the boot clock.
#[derive(Debug, Default)]
pub(super) struct Due(Vec<(Kind, Duration)>);

impl Due {
    /// The kinds whose key is older than its schedule, and was not tried within the last while.
    pub(super) async fn look(&mut self, gateway: &Gateway) -> Vec<Kind> {
        let (now, config) = (gateway.clock().boot(), gateway.config());
        let is_ours = |kind: &Kind| *kind != Kind::Master || gateway.store().owns_master_key();
        let scheduled = Kind::ALL.into_iter().filter(|kind| kind.every(&config.keys).is_some() && is_ours(kind));
        let asked: Vec<Kind> = scheduled.filter(|kind| self.may_look(*kind, now)).collect();
        if asked.is_empty() {
            return asked;
        }
        let Ok(keys) = gateway.keys().await else { return Vec::new() };
        asked.into_iter().filter(|kind| self.is_due(*kind, left_of(&keys, *kind), now)).collect()
    }

    fn may_look(&self, kind: Kind, now: Duration) -> bool {
        self.0.iter().all(|(known, at)| *known != kind || *at <= now)
    }

    fn is_due(&mut self, kind: Kind, left_s: Option<u64>, now: Duration) -> bool {
        let is_due = left_s == Some(0);
        let wait = match left_s {
            Some(left) if !is_due => Duration::from_secs(left).clamp(CLOSE, AGAIN),
            Some(_) => AGAIN,
            None => CLOSE,
        };
        self.0.retain(|(known, _)| *known != kind);
        self.0.push((kind, now.saturating_add(wait)));
        is_due
    }
}

/// What the key of this kind has left that ends first; nothing to wait for, where the next one is there already.
fn left_of(keys: &[Key], kind: Kind) -> Option<u64> {
    let of_kind = keys.iter().filter(|key| key.kind == kind.as_str());
    // A new key that does not sign yet is the answer to a key that is due.
    if of_kind.clone().any(|key| key.state == "published") {
        return None;
    }
    of_kind.filter_map(|key| key.rotates_in_s).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_due_is_left_alone_while_the_next_one_waits_to_sign() {
        let key = |kind: Kind, state: &str, rotates_in_s| Key {
            kind: kind.as_str().to_owned(),
            id: state.to_owned(),
            state: state.to_owned(),
            made_at: None,
            age_s: None,
            rotates_in_s,
            protection: String::new(),
            note: String::new(),
        };
        // The start between the two finds both, and a third would be made.
        let mut keys = vec![
            key(Kind::Issuer, "in_use", Some(0)),
            key(Kind::Issuer, "published", None),
            key(Kind::Audit, "in_use", Some(7)),
        ];
        assert_eq!((left_of(&keys, Kind::Issuer), left_of(&keys, Kind::Audit)), (None, Some(7)));
        assert_eq!(left_of(&keys, Kind::Gateway), None);
        keys.remove(1);
        assert_eq!(left_of(&keys, Kind::Issuer), Some(0));
    }

    #[test]
    fn a_key_without_an_age_is_due_when_the_clock_is_known_to_be_right() {
        let (every, day) = (Duration::from_secs(30 * 86_400), 86_400_000);
        let left = |made: i64, synchronised: bool| left_s(every, made * day, 100 * day, || synchronised);
        for synchronised in [true, false] {
            // Off for three periods is due like off for one.
            assert_eq!((left(0, synchronised), left(69, synchronised)), (0, 0));
            assert_eq!(left(99, synchronised), 29 * 86_400);
            // Set back a little, as it happens when a clock is synchronised.
            assert_eq!(left_s(every, 100 * day + 2000, 100 * day, || synchronised), 30 * 86_400);
        }
        assert_eq!((left(1100, false), left(1100, true)), (30 * 86_400, 0));
    }

    #[test]
    fn a_key_is_due_once_and_tried_again_after_a_while() {
        let (mut due, at) = (Due::default(), Duration::from_secs);
        assert!(due.may_look(Kind::Issuer, at(0)));
        assert!(!due.is_due(Kind::Issuer, Some(30), at(0)));
        assert!(!due.may_look(Kind::Issuer, at(29)) && due.may_look(Kind::Issuer, at(30)));
        assert!(due.is_due(Kind::Issuer, Some(0), at(30)));
        assert!(!due.may_look(Kind::Issuer, at(31)) && due.may_look(Kind::Issuer, at(3630)));
        // A schedule that is made shorter by a reload is seen within the hour.
        assert!(!due.is_due(Kind::Issuer, Some(86_400 * 90), at(4000)));
        assert!(due.may_look(Kind::Issuer, at(7600)));
    }
}
