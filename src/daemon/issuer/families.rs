//! The refresh tokens of devices, sealed in the registry's database, each with when it ends where the server says that.

use std::time::Duration;

use crate::ids::DeviceId;
use crate::secret::Secret;
use crate::store::{REFRESH_TOKEN, Store, StoreError};
use crate::token::oauth::{Families, RefreshToken};

/// Two ends as near as this are one: servers tell whole seconds, and an answer takes a while.
const SAME_END_S: u64 = 30;

/// When the approval of a device ends, and since when that is known; seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::daemon) struct Term {
    pub(in crate::daemon) since: u64,
    pub(in crate::daemon) ends: u64,
}

impl Term {
    /// Of a token that came now. One that does not outlive the one before it shows an end that no refresh moves.
    fn of(life: Duration, now: u64, before: Option<Self>) -> Self {
        let ends = now.saturating_add(life.as_secs());
        before.filter(|before| before.ends.abs_diff(ends) <= SAME_END_S).unwrap_or(Self { since: now, ends })
    }
}

/// What is sealed: the token, and its term in a line of its own; a token has no line feeds (RFC 6749, appendix A.17).
fn to_text(token: &str, term: Option<Term>) -> Secret<String> {
    Secret::new(match term {
        Some(Term { since, ends }) => format!("{token}\n{since} {ends}"),
        None => token.to_owned(),
    })
}

fn from_text(text: &str) -> (&str, Option<Term>) {
    let Some((token, term)) = text.split_once('\n') else { return (text, None) };
    let term = term.split_once(' ').and_then(|(since, ends)| Some((since.parse().ok()?, ends.parse().ok()?)));
    (token, term.map(|(since, ends)| Term { since, ends }))
}

/// The refresh tokens of a store.
pub(super) struct StoredFamilies(pub(super) Store);

impl StoredFamilies {
    fn text(&self, device: &DeviceId) -> Result<Option<Secret<String>>, String> {
        let sealed = self.0.secret(&name(device)).map_err(|error| error.to_string())?;
        let text = sealed.map(|bytes| String::from_utf8(bytes.expose().clone()).map(Secret::new));
        text.transpose().map_err(|_| "the kept refresh token is damaged; approve the device again".to_owned())
    }
}

impl Families for StoredFamilies {
    fn load(&self, device: &DeviceId) -> Result<Option<Secret<String>>, String> {
        let text = self.text(device)?;
        Ok(text.map(|text| Secret::new(from_text(text.expose()).0.to_owned())))
    }

    fn keep(&self, device: &DeviceId, token: &RefreshToken) -> Result<(), String> {
        let now = u64::try_from(self.0.now_ms() / 1000).unwrap_or(0);
        let before = self.text(device).ok().flatten().and_then(|text| from_text(text.expose()).1);
        let term = token.life.map(|life| Term::of(life, now, before));
        let text = to_text(token.token.expose(), term);
        self.0.put_secret(&name(device), text.expose().as_bytes()).map_err(|error| error.to_string())
    }

    fn forget(&self, device: &DeviceId) -> Result<(), String> {
        self.0.remove_secret(&name(device)).map_err(|error| error.to_string())
    }
}

fn name(device: &DeviceId) -> String {
    format!("{REFRESH_TOKEN}{device}")
}

/// When the approvals of devices end, as far as the server says it.
///
/// # Errors
/// Where the registry cannot be read.
pub(in crate::daemon) fn terms(store: &Store) -> Result<Vec<(DeviceId, Term)>, StoreError> {
    let families = StoredFamilies(store.clone());
    let term = |device: DeviceId| {
        let text = families.text(&device).ok().flatten()?;
        Some((device, from_text(text.expose()).1?))
    };
    Ok(store.devices()?.into_iter().filter_map(|device| term(device.id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn an_end_that_refreshes_do_not_move_is_one_end_and_one_that_they_move_is_always_new() {
        let days = |days: u64| Duration::from_secs(days * DAY);
        let first = Term::of(days(40), 1000, None);
        assert_eq!(first, Term { since: 1000, ends: 1000 + 40 * DAY });
        // The same end, told ten days later and a second off.
        let later = 1000 + 10 * DAY;
        assert_eq!(Term::of(days(30) + Duration::from_secs(1), later, Some(first)), first);
        // Good for forty days from each refresh on.
        assert_eq!(Term::of(days(40), later, Some(first)), Term { since: later, ends: later + 40 * DAY });
        // Refreshes that come fast move it, too: not at once, but within the bound.
        let mut term = Term::of(days(1), 0, None);
        for now in (0..1000).step_by(7) {
            term = Term::of(days(1), now, Some(term));
            assert!(term.ends.abs_diff(now + DAY) <= SAME_END_S);
        }
    }

    #[test]
    fn a_token_comes_back_as_it_was_kept_also_one_from_before_terms_were_kept() {
        let term = Term { since: 5, ends: 7 };
        assert_eq!(from_text(to_text("abc.def", Some(term)).expose()), ("abc.def", Some(term)));
        assert_eq!(from_text("abc.def"), ("abc.def", None));
        assert_eq!(from_text("abc.def\nnonsense"), ("abc.def", None));
    }
}
