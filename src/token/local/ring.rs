//! The issuer's keys over time: one signs; the next one is published before it signs, so that a broker that reads the
//! key set now and then knows it in time; an older one stays published until the last token under it has expired.
//!
//! Which key signs follows from the time alone, so that a crash at any point leaves the old key or the new one.

mod kept;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use serde::Serialize;

use crate::secret::Secret;
use crate::token::key::{Jwk, Jwks, KeyError, SigningKey};

/// Keys that are published at a time beside the one that signs: rotating more often than tokens expire must not grow
/// the set without a bound.
const MOST_RETIRED: usize = 8;

/// Why the issuer's key was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A key.
    #[error("the issuer's key: {0}")]
    Key(#[from] KeyError),
    /// The keys are not on disk.
    #[error("the issuer's keys could not be kept, and nothing was changed: {0}")]
    Kept(String),
    /// Brokers would not learn of the new key.
    #[error("the issuer's public keys could not be written for the broker: {0}")]
    Unpublished(String),
    /// What was kept is no set of keys.
    #[error(
        "the issuer's kept keys are damaged: restore a backup, or remove the secret to begin with the signing key alone"
    )]
    Damaged,
    /// The next key is published already.
    #[error("a new key is published already and signs in {left_s} s")]
    UnderWay {
        /// Until it signs.
        left_s: u64,
    },
    /// Too many old keys still have tokens.
    #[error("{MOST_RETIRED} old keys still have tokens that live: wait until they have expired")]
    TooMany,
}

/// Where the keys are kept: both parts in one step, or neither.
pub trait KeyBook: Send + Sync {
    /// Keeps the key that signs (PKCS#8) and the rest of the ring. They are on disk when this returns.
    ///
    /// # Errors
    /// Why they could not be kept.
    fn keep(&self, signing: &Secret<Vec<u8>>, rest: &Secret<Vec<u8>>) -> Result<(), String>;

    /// Puts the public keys where brokers read them, beside the endpoint; nothing where there is no such place.
    ///
    /// # Errors
    /// Why they could not be put there.
    fn publish(&self, keys: &Jwks) -> Result<(), String> {
        let _ = keys;
        Ok(())
    }
}

/// The keys of one issuer. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    keys: Mutex<Keys>,
    book: Option<Arc<dyn KeyBook>>,
}

/// Which keys there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingState {
    /// Thumbprint of the key that signs.
    pub signing: String,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// Thumbprint of the key that is published and does not sign yet, and when it will.
    pub next: Option<(String, u64)>,
    /// Thumbprints of older keys, and until when tokens under them may live.
    pub retired: Vec<(String, u64)>,
}

struct Held {
    key: SigningKey,
    decoding: Option<DecodingKey>,
    made: u64,
}

struct Keys {
    signing: Held,
    next: Option<(Held, u64)>,
    retired: Vec<(Jwk, Option<DecodingKey>, u64)>,
    /// The longest life of a token under the key that signs.
    longest_s: u64,
    /// What is kept is not what is here.
    dirty: bool,
}

impl Held {
    fn new(key: SigningKey, made: u64) -> Self {
        let decoding = key.public().decoding().ok();
        Self { key, decoding, made }
    }

    fn kid(&self) -> &str {
        &self.key.public().kid
    }
}

impl Keys {
    fn of_one(key: SigningKey, made: u64) -> Self {
        Self { signing: Held::new(key, made), next: None, retired: Vec::new(), longest_s: 0, dirty: false }
    }

    /// Brings the keys to `now`: a next key that is due signs, a retired key without tokens goes.
    fn settle(&mut self, now: u64) {
        if let Some((next, _)) = self.next.take_if(|(_, starts)| *starts <= now) {
            let old = std::mem::replace(&mut self.signing, next);
            let until = now.saturating_add(self.longest_s).saturating_add(1);
            self.retired.push((old.key.public().clone(), old.decoding, until));
            self.dirty = true;
        }
        let before = self.retired.len();
        self.retired.retain(|(_, _, until)| *until > now);
        self.dirty |= self.retired.len() != before;
    }

    /// The public keys, the one that signs first.
    fn public(&self) -> Jwks {
        let next = self.next.iter().map(|(held, _)| held.key.public().clone());
        let retired = self.retired.iter().map(|(jwk, _, _)| jwk.clone());
        Jwks { keys: [self.signing.key.public().clone()].into_iter().chain(next).chain(retired).collect() }
    }
}

impl KeyRing {
    /// A ring that has one key and is kept nowhere.
    #[must_use]
    pub(crate) fn of_one(key: SigningKey) -> Self {
        Self(Arc::new(Inner { keys: Mutex::new(Keys::of_one(key, 0)), book: None }))
    }

    /// The ring as it was kept: the key that signs, made at that time unless `rest` knows better, and the rest.
    ///
    /// # Errors
    /// [`RingError::Damaged`], [`RingError::Key`].
    pub(crate) fn open(
        signing: SigningKey,
        made: u64,
        rest: Option<&Secret<Vec<u8>>>,
        book: Arc<dyn KeyBook>,
    ) -> Result<Self, RingError> {
        let mut keys = Keys::of_one(signing, made);
        if let Some(rest) = rest {
            keys.restore(rest)?;
        }
        Ok(Self(Arc::new(Inner { keys: Mutex::new(keys), book: Some(book) })))
    }

    /// Makes a key and publishes it; it signs from `lead` on. It is on disk before this returns. A crash before that
    /// leaves at most a public key in the brokers' file that nobody signs with.
    ///
    /// # Errors
    /// [`RingError`]; nothing was changed then.
    pub fn rotate(&self, now: u64, lead: Duration) -> Result<RingState, RingError> {
        let fresh = Held::new(SigningKey::generate()?, now);
        let mut keys = self.keys();
        keys.settle(now);
        if let Some((_, starts)) = &keys.next {
            return Err(RingError::UnderWay { left_s: starts.saturating_sub(now) });
        }
        if keys.retired.len() >= MOST_RETIRED {
            return Err(RingError::TooMany);
        }
        keys.next = Some((fresh, now.saturating_add(lead.as_secs())));
        if let Err(error) = self.publish(&keys).and_then(|()| self.keep(&mut keys)) {
            keys.next = None;
            return Err(error);
        }
        keys.settle(now);
        Ok(state(&keys))
    }

    /// Makes a key that signs at once and is the only one from now on: every token under an older one is worthless.
    /// For a key that may be known to somebody else. That brokers cannot be told by their file is no reason to keep it;
    /// [`Self::tend`] tries again.
    ///
    /// # Errors
    /// [`RingError`]; nothing was changed then.
    pub(crate) fn replace(&self, now: u64) -> Result<RingState, RingError> {
        let mut only = Keys::of_one(SigningKey::generate()?, now);
        let mut keys = self.keys();
        only.longest_s = keys.longest_s;
        self.keep(&mut only)?;
        *keys = only;
        let _ = self.publish(&keys);
        Ok(state(&keys))
    }

    /// Tokens live up to `life` from now on; on disk when this returns.
    ///
    /// # Errors
    /// [`RingError::Kept`].
    pub(crate) fn lives_up_to(&self, life: Duration) -> Result<(), RingError> {
        let mut keys = self.keys();
        if life.as_secs() > keys.longest_s {
            keys.longest_s = life.as_secs();
            return self.keep(&mut keys);
        }
        Ok(())
    }

    /// The keys as they are now.
    #[must_use]
    pub(crate) fn state(&self, now: u64) -> RingState {
        let mut keys = self.keys();
        keys.settle(now);
        state(&keys)
    }

    /// Brings what is kept and what is published up to `now`.
    ///
    /// # Errors
    /// [`RingError::Kept`]; the ring works on, and a restart begins from what was kept before.
    /// [`RingError::Unpublished`].
    pub(crate) fn tend(&self, now: u64) -> Result<RingState, RingError> {
        let mut keys = self.keys();
        keys.settle(now);
        if keys.dirty {
            self.keep(&mut keys)?;
        }
        self.publish(&keys)?;
        Ok(state(&keys))
    }

    /// A JWT over `claims` by the key that signs now.
    pub(super) fn sign<T: Serialize>(
        &self,
        typ: &str,
        claims: &T,
        life: Duration,
        now: u64,
    ) -> Result<String, KeyError> {
        let key = {
            let mut keys = self.keys();
            keys.settle(now);
            if life.as_secs() > keys.longest_s {
                (keys.longest_s, keys.dirty) = (life.as_secs(), true);
            }
            keys.signing.key.clone()
        };
        key.sign(typ, claims)
    }

    /// The public keys that are published now.
    pub(super) fn jwks(&self, now: u64) -> Jwks {
        let mut keys = self.keys();
        keys.settle(now);
        keys.public()
    }

    /// The published key of that id.
    pub(crate) fn decoding(&self, kid: &str, now: u64) -> Option<DecodingKey> {
        let mut keys = self.keys();
        keys.settle(now);
        let held = [Some(&keys.signing), keys.next.as_ref().map(|(held, _)| held)];
        let known = held.into_iter().flatten().find(|held| held.kid() == kid).map(|held| &held.decoding);
        let retired = || keys.retired.iter().find(|(jwk, _, _)| jwk.kid == kid).map(|(_, decoding, _)| decoding);
        known.or_else(retired)?.clone()
    }

    fn keep(&self, keys: &mut Keys) -> Result<(), RingError> {
        if let Some(book) = &self.0.book {
            book.keep(&keys.signing.key.to_pkcs8()?, &keys.rest()?).map_err(RingError::Kept)?;
        }
        keys.dirty = false;
        Ok(())
    }

    fn publish(&self, keys: &Keys) -> Result<(), RingError> {
        self.0.book.as_ref().map_or(Ok(()), |book| book.publish(&keys.public()).map_err(RingError::Unpublished))
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(keys: &Keys) -> RingState {
    RingState {
        signing: keys.signing.kid().to_owned(),
        made: keys.signing.made,
        next: keys.next.as_ref().map(|(held, starts)| (held.kid().to_owned(), *starts)),
        retired: keys.retired.iter().map(|(jwk, _, until)| (jwk.kid.clone(), *until)).collect(),
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({:?})", state(&self.keys()))
    }
}

/// Where a verifier finds the keys of its issuer.
#[derive(Clone)]
pub(crate) enum KeySource {
    /// As they were given.
    Fixed(Arc<HashMap<String, DecodingKey>>),
    /// As the issuer in this process has them now.
    Ring(KeyRing),
}

impl KeySource {
    pub(crate) fn find(&self, kid: &str, now: u64) -> Option<DecodingKey> {
        match self {
            Self::Fixed(keys) => keys.get(kid).cloned(),
            Self::Ring(ring) => ring.decoding(kid, now),
        }
    }
}

#[cfg(test)]
mod tests;
