//! The deny list: tokens that were revoked before their time, until their time is over.
//!
//! A JWT is good until it expires, so whoever accepts it must know what was revoked. The list is kept in a file that a
//! broker on the same machine can read too: one entry a line,
//! `jti ID EXP` for one token, `sub CLIENT SUBJECT IAT EXP` for all tokens of a subject issued up to `IAT`, and
//! `time NOW`, the floor of the issuer's time. The file is replaced whole, so a reader sees the old or the new one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::public_file::{PUBLIC, replace};
use crate::token::Claims;

/// First line of the file.
const HEADER: &str = "clawgate-denylist 1";
/// More entries than this are refused: at that rate of revocation something else is wrong.
const MAX_ENTRIES: usize = 65_536;
/// Of these, the subjects of one client: none can use up the room that another needs to revoke. A gateway has at most
/// 10,000 devices.
const MAX_OF_ONE: usize = 16_384;
/// Bound of the file that is read at the start.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Why a revocation could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DenyError {
    /// The file could not be read or replaced.
    #[error("deny list {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the file is not one of ours.
    #[error(
        "deny list {path}, line {line} is damaged: restore the file from a backup; without it, revoked tokens would be good again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// No room for another entry.
    #[error(
        "the deny list holds {MAX_ENTRIES} entries, or {MAX_OF_ONE} of one client: make a new issuer key, which ends every \
         token at once"
    )]
    Full,
    /// The name could not stand in the file.
    #[error("{0:?} cannot be put on the deny list")]
    Unnameable(String),
}

/// Revoked tokens. Cheap to clone.
#[derive(Clone)]
pub struct DenyList(Arc<Inner>);

struct Inner {
    path: Option<PathBuf>,
    entries: Mutex<Entries>,
    /// Whether the file is older than the entries. Changed under their lock.
    unkept: AtomicBool,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entries {
    /// Floor of the issuer's time.
    time: u64,
    /// By `jti`: when it expires anyway.
    tokens: HashMap<String, u64>,
    /// By client and subject.
    subjects: HashMap<(String, String), Cut>,
}

/// Tokens of a subject issued up to `iat` are denied; all of them are expired after `exp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    iat: u64,
    exp: u64,
}

impl DenyList {
    /// A list that lives as long as the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(None, Entries::default())
    }

    /// The list in a file; an absent file is an empty list.
    ///
    /// # Errors
    /// [`DenyError`] when the file cannot be read or is damaged: a list that may have forgotten somebody is not used.
    pub fn open(path: &Path) -> Result<Self, DenyError> {
        let failed = |source| DenyError::File { path: path.to_owned(), source };
        let entries = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Entries::default(),
            Err(error) => return Err(failed(error)),
            Ok(about) if about.len() > MAX_FILE => return Err(failed(io::Error::other("the file is too large"))),
            Ok(_) => {
                let text = fs::read_to_string(path).map_err(failed)?;
                Entries::parse(&text).map_err(|line| DenyError::Damaged { path: path.to_owned(), line })?
            }
        };
        Ok(Self::with(Some(path.to_owned()), entries))
    }

    fn with(path: Option<PathBuf>, entries: Entries) -> Self {
        let (entries, unkept, changes) = (Mutex::new(entries), AtomicBool::new(false), watch::Sender::new(0));
        Self(Arc::new(Inner { path, entries, unkept, changes }))
    }

    /// Denies one token until `exp`.
    ///
    /// # Errors
    /// [`DenyError`] when it could not be kept. With [`DenyError::File`] it is denied until a restart.
    pub fn deny_token(&self, jti: &str, exp: u64, now: u64) -> Result<(), DenyError> {
        check_name(jti)?;
        self.change(now, |entries| {
            entries.tokens.insert(jti.to_owned(), exp);
        })
    }

    /// Denies every token that `client` was given for `subject` up to now; none of them lives longer than `life`.
    ///
    /// # Errors
    /// [`DenyError`] when it could not be kept. With [`DenyError::File`] they are denied until a restart.
    pub(crate) fn deny_subject(&self, client: &str, subject: &str, now: u64, life: Duration) -> Result<(), DenyError> {
        check_name(client)?;
        check_name(subject)?;
        self.change(now, |entries| {
            let whose = (client.to_owned(), subject.to_owned());
            // A token made in the second of the last revocation is dated after it: it must not outlive this one.
            let iat = entries.subjects.get(&whose).map_or(now, |cut| now.max(cut.iat.saturating_add(1)));
            let exp = iat.saturating_add(life.as_secs()).saturating_add(1);
            entries.subjects.insert(whose, Cut { iat, exp });
        })
    }

    fn change(&self, now: u64, edit: impl FnOnce(&mut Entries)) -> Result<(), DenyError> {
        let mut entries = self.entries();
        let mut next = entries.clone();
        next.forget_expired(now);
        edit(&mut next);
        if next.is_overfull(&entries) {
            return Err(DenyError::Full);
        }
        let kept = self.keep(&next);
        // A full disk is no reason to let a thief go on.
        *entries = next;
        drop(entries);
        self.0.changes.send_modify(|generation| *generation = generation.wrapping_add(1));
        kept
    }

    /// Puts on the disk what [`DenyError::File`] has kept off it; does nothing where all of it is there.
    ///
    /// # Errors
    /// [`DenyError::File`] when it is still in the way.
    pub(crate) fn keep_again(&self) -> Result<(), DenyError> {
        let entries = self.entries();
        if self.0.unkept.load(Ordering::Relaxed) { self.keep(&entries) } else { Ok(()) }
    }

    fn keep(&self, entries: &Entries) -> Result<(), DenyError> {
        let Some(path) = &self.0.path else { return Ok(()) };
        let kept = replace(path, &entries.render(), PUBLIC);
        self.0.unkept.store(kept.is_err(), Ordering::Relaxed);
        kept.map_err(|source| DenyError::File { path: path.clone(), source })
    }

    /// Wakes whoever acts on revocations: something else made tokens worthless.
    pub(super) fn wake(&self) {
        self.0.changes.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Whether the token with these claims was revoked.
    #[must_use]
    pub(crate) fn denies(&self, claims: &Claims) -> bool {
        let entries = self.entries();
        entries.tokens.contains_key(&claims.jti)
            || entries
                .subjects
                .get(&(claims.client_id.clone(), claims.sub.clone()))
                .is_some_and(|cut| claims.iat <= cut.iat)
    }

    /// The last second whose tokens of this subject are denied: a new one must be issued after it.
    #[must_use]
    pub(crate) fn cut_of(&self, client: &str, subject: &str) -> Option<u64> {
        self.entries().subjects.get(&(client.to_owned(), subject.to_owned())).map(|cut| cut.iat)
    }

    /// The latest time that an earlier run is known to have seen, seconds since 1970.
    #[must_use]
    pub(crate) fn time_floor(&self) -> u64 {
        self.entries().time
    }

    /// The list as text, in the form of its file.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        self.entries().render()
    }

    /// Wakes on every revocation.
    #[must_use]
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for DenyList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.entries();
        write!(f, "DenyList({} tokens, {} subjects)", entries.tokens.len(), entries.subjects.len())
    }
}

impl Entries {
    fn forget_expired(&mut self, now: u64) {
        self.time = self.time.max(now);
        self.tokens.retain(|_, exp| *exp > now);
        self.subjects.retain(|_, cut| cut.exp > now);
    }

    /// Whether what was added to `before` has no room.
    fn is_overfull(&self, before: &Self) -> bool {
        if self.tokens.len() + self.subjects.len() > MAX_ENTRIES {
            return true;
        }
        let added = self.subjects.keys().filter(|whose| !before.subjects.contains_key(*whose));
        let share = |client: &str| self.subjects.keys().filter(|(of, _)| of == client).count();
        added.into_iter().any(|(client, _)| share(client) > MAX_OF_ONE)
    }

    fn render(&self) -> String {
        let mut text = format!("{HEADER}\ntime {}\n", self.time);
        for (jti, exp) in &self.tokens {
            let _ = writeln!(text, "jti {jti} {exp}");
        }
        for ((client, subject), cut) in &self.subjects {
            let _ = writeln!(text, "sub {client} {subject} {} {}", cut.iat, cut.exp);
        }
        text
    }

    /// The entries of a file, or the number of its first bad line.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut entries = Self::default();
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
        if lines.next().is_none_or(|(_, line)| line != HEADER) || !text.ends_with('\n') {
            return Err(1);
        }
        for (at, line) in lines {
            entries.take_line(line).ok_or(at)?;
        }
        Ok(entries)
    }

    fn take_line(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["time", time] => self.time = time.parse().ok()?,
            ["jti", jti, exp] => {
                self.tokens.insert((*jti).to_owned(), exp.parse().ok()?);
            }
            ["sub", client, subject, iat, exp] => {
                let cut = Cut { iat: iat.parse().ok()?, exp: exp.parse().ok()? };
                self.subjects.insert(((*client).to_owned(), (*subject).to_owned()), cut);
            }
            _ => return None,
        }
        Some(())
    }
}

/// A name must be one word of the file.
fn check_name(name: &str) -> Result<(), DenyError> {
    let one_word = !name.is_empty() && name.len() <= 256 && name.bytes().all(|b| b.is_ascii_graphic());
    if one_word { Ok(()) } else { Err(DenyError::Unnameable(name.chars().take(64).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(sub: &str, jti: &str, iat: u64) -> Claims {
        Claims {
            iss: "i".to_owned(),
            sub: sub.to_owned(),
            aud: "a".to_owned(),
            client_id: "g".to_owned(),
            iat,
            exp: iat + 60,
            jti: jti.to_owned(),
            scope: String::new(),
            claw_aif: crate::token::scope::Topics::default(),
            claw_addresses: Vec::new(),
            claw_rate: None,
            claw_stage: None,
            nbf: None,
            cnf: None,
            act: None,
        }
    }

    #[test]
    fn a_revoked_token_stays_revoked_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("denylist");
        let list = DenyList::open(&path).unwrap();
        list.deny_token("one", 160, 100).unwrap();
        list.deny_subject("g", "pump-3", 100, Duration::from_secs(60)).unwrap();
        let again = DenyList::open(&path).unwrap();
        assert!(again.denies(&claims("x", "one", 90)));
        assert!(again.denies(&claims("pump-3", "two", 100)));
        assert!(!again.denies(&claims("pump-3", "three", 101)), "a token issued after the cut");
        assert!(!again.denies(&claims("pump-4", "four", 90)), "another device");
        assert_eq!(again.time_floor(), 100);
        assert_eq!(again.render(), list.render());
    }

    #[test]
    fn what_is_expired_leaves_the_list() {
        let list = DenyList::in_memory();
        list.deny_token("one", 160, 100).unwrap();
        list.deny_token("two", 300, 160).unwrap();
        assert!(!list.render().contains("one"));
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("denylist");
        for (text, line) in [("", 1), ("clawgate-denylist 1\njti a", 1), ("clawgate-denylist 1\njti a 1\nsub x\n", 3)] {
            fs::write(&path, text).unwrap();
            match DenyList::open(&path) {
                Err(DenyError::Damaged { line: at, .. }) => assert_eq!(at, line, "{text:?}"),
                other => panic!("{text:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_name_that_could_forge_a_line_is_refused() {
        let list = DenyList::in_memory();
        assert!(list.deny_token("a 1\njti b", 10, 1).is_err());
        assert!(list.deny_token("", 10, 1).is_err());
    }

    #[test]
    fn a_revocation_that_cannot_be_written_holds_until_a_restart_and_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let list = DenyList::open(&dir.path().join("gone/denylist")).unwrap();
        assert!(matches!(list.deny_token("one", 160, 100), Err(DenyError::File { .. })));
        assert!(list.denies(&claims("x", "one", 90)));
        assert!(list.keep_again().is_err());
        fs::create_dir(dir.path().join("gone")).unwrap();
        list.keep_again().unwrap();
        let again = DenyList::open(&dir.path().join("gone/denylist")).unwrap();
        assert!(again.denies(&claims("x", "one", 90)), "there is room again, and nobody revoked anything since");
    }

    #[test]
    fn one_client_cannot_use_up_the_room_that_another_needs_to_revoke() {
        let list = DenyList::in_memory();
        let revoke = |client: &str, subject: &str| list.deny_subject(client, subject, 100, Duration::from_secs(60));
        {
            let mut entries = list.entries();
            let whose = |n: usize| ("bad".to_owned(), format!("d{n}"));
            entries.subjects = (0..MAX_OF_ONE).map(|n| (whose(n), Cut { iat: 1, exp: 1000 })).collect();
        }
        assert!(matches!(revoke("bad", "one-more"), Err(DenyError::Full)));
        revoke("bad", "d0").unwrap();
        revoke("good", "pump-3").unwrap();
        assert!(list.denies(&Claims { client_id: "good".to_owned(), ..claims("pump-3", "x", 100) }));
    }

    #[test]
    fn a_revocation_wakes_whoever_waits() {
        let list = DenyList::in_memory();
        let changes = list.changes();
        list.deny_token("one", 10, 1).unwrap();
        assert!(changes.has_changed().unwrap());
    }
}
