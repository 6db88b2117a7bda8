//! Who gets the adapter: one decision at a time, over plain data.
//!
//! An adapter has few links, can make one at a time, and hears little while it does. So: one connect at a time;
//! who is to be paired comes first and has a slot of its own; the rest take turns.

use std::time::Duration;

use tokio::time::Instant;

/// A session that others wait for keeps its link at least so long.
pub(crate) const TURN: Duration = Duration::from_secs(30);

/// The first try again after a failure; it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// And at least so often, for ever.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What a sensor's link would be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing: it is only listed.
    Nothing,
    /// Readings of a device of ours.
    Session,
    /// Somebody waits: an operator, or a code was entered at it.
    Pairing,
}

/// A sensor in reach.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) address: &'a str,
    pub(crate) want: Want,
    pub(crate) linked: bool,
    /// It is not tried before.
    pub(crate) not_before: Instant,
    /// When it last got or lost a link, or came into reach.
    pub(crate) since: Instant,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision<'a> {
    /// Connect to it.
    Connect(&'a str),
    /// End its session for now: another's turn.
    Rest(&'a str),
}

/// Decides; `links` is how many the adapter can have, of which one is kept for pairing if there are two.
pub(crate) fn decide<'a>(candidates: &[Candidate<'a>], links: usize, now: Instant) -> Option<Decision<'a>> {
    let linked = || candidates.iter().filter(|candidate| candidate.linked);
    let waiting = |want| {
        let ready = move |c: &&Candidate<'a>| !c.linked && c.want == want && c.not_before <= now;
        candidates.iter().filter(ready).min_by_key(|candidate| candidate.since)
    };
    let longest = linked().filter(|candidate| candidate.want != Want::Pairing).min_by_key(|candidate| candidate.since);
    if let Some(first) = waiting(Want::Pairing) {
        if linked().count() < links {
            return Some(Decision::Connect(first.address));
        }
        return longest.map(|candidate| Decision::Rest(candidate.address));
    }
    let next = waiting(Want::Session)?;
    // One sensor that is being paired uses the slot that is kept for that.
    let sessions = linked().count().saturating_sub(usize::from(linked().any(|c| c.want == Want::Pairing)));
    if sessions < links.saturating_sub(1).max(1) && linked().count() < links {
        return Some(Decision::Connect(next.address));
    }
    let over = |candidate: &&Candidate<'a>| now.saturating_duration_since(candidate.since) >= TURN;
    longest.filter(over).map(|candidate| Decision::Rest(candidate.address))
}

/// How long to wait after so many failures in a row.
pub(crate) fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_RETRY * (1 << doublings)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensor(address: &str, want: Want, linked: bool, since: Instant) -> Candidate<'_> {
        Candidate { address, want, linked, not_before: since, since }
    }

    #[test]
    fn one_slot_is_kept_for_pairing_and_given_to_it_at_once() {
        let now = Instant::now();
        let mut all = vec![
            sensor("a", Want::Session, true, now),
            sensor("b", Want::Session, true, now),
            sensor("c", Want::Session, false, now),
        ];
        assert_eq!(decide(&all, 3, now), None, "the third slot is not for sessions");
        all.push(sensor("new", Want::Pairing, false, now));
        assert_eq!(decide(&all, 3, now), Some(Decision::Connect("new")));
        all[3].linked = true;
        assert_eq!(decide(&all, 3, now), None);
    }

    #[test]
    fn an_adapter_with_one_link_interrupts_a_session_for_pairing() {
        let now = Instant::now();
        let all = [sensor("a", Want::Session, true, now), sensor("new", Want::Pairing, false, now)];
        assert_eq!(decide(&all, 1, now), Some(Decision::Rest("a")));
        assert_eq!(decide(&all[..1], 1, now), None);
    }

    #[test]
    fn more_sensors_than_links_take_turns_and_nobody_waits_for_ever() {
        let start = Instant::now();
        let names = ["a", "b", "c", "d", "e"];
        let mut all: Vec<_> = names.iter().map(|name| sensor(name, Want::Session, false, start)).collect();
        let mut served = std::collections::BTreeMap::<&str, u32>::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            while let Some(decision) = decide(&all, 3, now) {
                let (name, linked) = match decision {
                    Decision::Connect(name) => (name, true),
                    Decision::Rest(name) => (name, false),
                };
                let candidate = all.iter_mut().find(|candidate| candidate.address == name).unwrap();
                (candidate.linked, candidate.since) = (linked, now);
                if linked {
                    *served.entry(name).or_default() += 1;
                }
                assert!(all.iter().filter(|candidate| candidate.linked).count() <= 2);
            }
        }
        assert!(names.iter().all(|name| served[name] >= 5), "{served:?}");
    }

    #[test]
    fn nobody_gives_way_to_a_sensor_that_must_wait() {
        let now = Instant::now();
        let mut all = vec![sensor("a", Want::Session, true, now), sensor("b", Want::Session, false, now)];
        all[1].not_before = now + Duration::from_secs(100);
        assert_eq!(decide(&all, 2, now + Duration::from_secs(99)), None);
        assert_eq!(decide(&all, 2, now + Duration::from_secs(100)), Some(Decision::Rest("a")));
    }

    #[test]
    fn the_back_off_is_capped_and_never_ends() {
        assert_eq!([1, 2, 3, 7, 1000].map(|failures| back_off(failures).as_secs()), [1, 2, 4, 60, 60]);
    }
}
