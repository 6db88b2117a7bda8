//! The issuer's keys over time: one signs; the next one is published before it signs, so that a broker that reads the
//! key set now and then knows it in time; an older one stays published until the last token under it has expired.
//!
//! Which key signs follows from the time alone, so that a crash at any point leaves the old key or the new one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

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

/// The ring without the key that signs, as it is kept.
#[derive(Serialize, Deserialize)]
struct Rest {
    made: u64,
    longest_s: u64,
    next: Option<Next>,
    retired: Vec<Retired>,
}

#[derive(Serialize, Deserialize)]
struct Next {
    /// PKCS#8, Base64.
    key: String,
    made: u64,
    starts: u64,
}

impl Drop for Next {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct Retired {
    key: Jwk,
    until: u64,
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

    fn rest(&self) -> Result<Secret<Vec<u8>>, RingError> {
        let next = match &self.next {
            Some((held, starts)) => {
                let key = BASE64.encode(held.key.to_pkcs8()?.expose());
                Some(Next { key, made: held.made, starts: *starts })
            }
            None => None,
        };
        let retired = self.retired.iter().map(|(key, _, until)| Retired { key: key.clone(), until: *until }).collect();
        let rest = Rest { made: self.signing.made, longest_s: self.longest_s, next, retired };
        serde_json::to_vec(&rest).map(Secret::new).map_err(|error| RingError::Kept(error.to_string()))
    }
}

impl KeyRing {
    /// A ring that has one key and is kept nowhere.
    #[must_use]
    pub fn of_one(key: SigningKey) -> Self {
        Self(Arc::new(Inner { keys: Mutex::new(Keys::of_one(key, 0)), book: None }))
    }

    /// The ring as it was kept: the key that signs, made at that time unless `rest` knows better, and the rest.
    ///
    /// # Errors
    /// [`RingError::Damaged`], [`RingError::Key`].
    pub fn open(
        signing: SigningKey,
        made: u64,
        rest: Option<&Secret<Vec<u8>>>,
        book: Arc<dyn KeyBook>,
    ) -> Result<Self, RingError> {
        let mut keys = Keys::of_one(signing, made);
        if let Some(rest) = rest {
            let rest: Rest = serde_json::from_slice(rest.expose()).map_err(|_| RingError::Damaged)?;
            (keys.signing.made, keys.longest_s) = (rest.made, rest.longest_s);
            if let Some(next) = rest.next {
                let der = Zeroizing::new(BASE64.decode(next.key.as_bytes()).map_err(|_| RingError::Damaged)?);
                keys.next = Some((Held::new(SigningKey::from_pkcs8(&der)?, next.made), next.starts));
            }
            for Retired { key, until } in rest.retired {
                let decoding = Some(key.decoding()?);
                keys.retired.push((key, decoding, until));
            }
        }
        Ok(Self(Arc::new(Inner { keys: Mutex::new(keys), book: Some(book) })))
    }

    /// Makes a key and publishes it; it signs from `lead` on. It is on disk before it is published.
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
        if let Err(error) = self.keep(&mut keys) {
            keys.next = None;
            return Err(error);
        }
        keys.settle(now);
        Ok(state(&keys))
    }

    /// Makes a key that signs at once and is the only one from now on: every token under an older one is worthless.
    /// For a key that may be known to somebody else.
    ///
    /// # Errors
    /// [`RingError`]; nothing was changed then.
    pub fn replace(&self, now: u64) -> Result<RingState, RingError> {
        let mut only = Keys::of_one(SigningKey::generate()?, now);
        let mut keys = self.keys();
        only.longest_s = keys.longest_s;
        self.keep(&mut only)?;
        *keys = only;
        Ok(state(&keys))
    }

    /// Tokens live up to `life` from now on; on disk when this returns.
    ///
    /// # Errors
    /// [`RingError::Kept`].
    pub fn lives_up_to(&self, life: Duration) -> Result<(), RingError> {
        let mut keys = self.keys();
        if life.as_secs() > keys.longest_s {
            keys.longest_s = life.as_secs();
            return self.keep(&mut keys);
        }
        Ok(())
    }

    /// The keys as they are now.
    #[must_use]
    pub fn state(&self, now: u64) -> RingState {
        let mut keys = self.keys();
        keys.settle(now);
        state(&keys)
    }

    /// Brings what is kept up to `now`.
    ///
    /// # Errors
    /// [`RingError::Kept`]; the ring works on, and a restart begins from what was kept before.
    pub fn tend(&self, now: u64) -> Result<RingState, RingError> {
        let mut keys = self.keys();
        keys.settle(now);
        if keys.dirty {
            self.keep(&mut keys)?;
        }
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
        let next = keys.next.iter().map(|(held, _)| held.key.public().clone());
        let retired = keys.retired.iter().map(|(jwk, _, _)| jwk.clone());
        Jwks { keys: [keys.signing.key.public().clone()].into_iter().chain(next).chain(retired).collect() }
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
mod tests {
    use super::*;

    /// A disk that a crash leaves as it is, and that may be full.
    #[derive(Default)]
    struct Disk {
        kept: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
        full: std::sync::atomic::AtomicBool,
    }

    impl KeyBook for Arc<Disk> {
        fn keep(&self, signing: &Secret<Vec<u8>>, rest: &Secret<Vec<u8>>) -> Result<(), String> {
            if self.full.load(std::sync::atomic::Ordering::Relaxed) {
                return Err("no space".to_owned());
            }
            *self.kept.lock().unwrap() = Some((signing.expose().clone(), rest.expose().clone()));
            Ok(())
        }
    }

    impl Disk {
        fn fill(&self, full: bool) {
            self.full.store(full, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn begin(disk: &Arc<Disk>) -> KeyRing {
        let ring = KeyRing::open(SigningKey::generate().unwrap(), 5, None, Arc::new(Arc::clone(disk))).unwrap();
        ring.lives_up_to(Duration::from_secs(600)).unwrap();
        ring
    }

    /// As after kill -9.
    fn again(disk: &Arc<Disk>) -> KeyRing {
        let (signing, rest) = disk.kept.lock().unwrap().clone().unwrap();
        let signing = SigningKey::from_pkcs8(&signing).unwrap();
        KeyRing::open(signing, 0, Some(&Secret::new(rest)), Arc::new(Arc::clone(disk))).unwrap()
    }

    fn signer(ring: &KeyRing, now: u64) -> String {
        let jwt = ring.sign("at+jwt", &serde_json::json!({}), Duration::from_secs(600), now).unwrap();
        jsonwebtoken::decode_header(&jwt).unwrap().kid.unwrap()
    }

    fn published(ring: &KeyRing, now: u64) -> Vec<String> {
        ring.jwks(now).keys.into_iter().map(|jwk| jwk.kid).collect()
    }

    #[test]
    fn a_new_key_is_published_before_it_signs_and_the_old_one_until_its_last_token_has_expired() {
        let disk = Arc::new(Disk::default());
        let ring = begin(&disk);
        let old = signer(&ring, 1000);
        let new = ring.rotate(1000, Duration::from_secs(60)).unwrap().next.unwrap().0;
        assert_eq!((signer(&ring, 1059), published(&ring, 1059)), (old.clone(), vec![old.clone(), new.clone()]));
        assert!(ring.decoding(&new, 1059).is_some());
        assert_eq!(signer(&ring, 1060), new);
        // The last token of the old key was made at 1059 and lives 600 s.
        assert_eq!(published(&ring, 1659), [new.clone(), old.clone()]);
        assert!(ring.decoding(&old, 1659).is_some());
        assert_eq!(published(&ring, 1661), [new]);
        assert!(ring.decoding(&old, 1661).is_none());
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_old_key_or_the_new_one_and_every_live_token_good() {
        let disk = Arc::new(Disk::default());
        let ring = begin(&disk);
        let old = signer(&ring, 1000);
        // Before anything was kept.
        disk.fill(true);
        assert!(matches!(ring.rotate(1000, Duration::from_secs(60)), Err(RingError::Kept(_))));
        assert_eq!((published(&ring, 1100), signer(&again(&disk), 1100)), (vec![old.clone()], old.clone()));
        disk.fill(false);
        let new = ring.rotate(1000, Duration::from_secs(60)).unwrap().next.unwrap().0;
        // Published, not signing.
        assert_eq!(signer(&again(&disk), 1059), old);
        // Signing, and that was never written down.
        let late = again(&disk);
        assert_eq!((signer(&late, 1200), published(&late, 1200)), (new.clone(), vec![new.clone(), old.clone()]));
        // Written down; then gone.
        assert_eq!(ring.tend(1060).unwrap().retired.len(), 1);
        assert_eq!(published(&again(&disk), 1660), [new.clone(), old]);
        ring.tend(1700).unwrap();
        assert_eq!(published(&again(&disk), 1000), [new]);
    }

    #[test]
    fn a_second_rotation_waits_for_the_first_and_the_set_is_bounded() {
        let disk = Arc::new(Disk::default());
        let ring = begin(&disk);
        ring.rotate(0, Duration::from_secs(60)).unwrap();
        assert!(matches!(ring.rotate(20, Duration::ZERO), Err(RingError::UnderWay { left_s: 40 })));
        for _ in 0..MOST_RETIRED - 1 {
            ring.rotate(70, Duration::ZERO).unwrap();
        }
        assert!(matches!(ring.rotate(70, Duration::ZERO), Err(RingError::TooMany)));
        assert_eq!(published(&ring, 70).len(), 1 + MOST_RETIRED);
        ring.rotate(2000, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_key_that_somebody_knows_goes_at_once_with_all_before_it() {
        let disk = Arc::new(Disk::default());
        let ring = begin(&disk);
        ring.rotate(0, Duration::ZERO).unwrap();
        let new = ring.replace(10).unwrap().signing;
        assert_eq!((published(&ring, 10), published(&again(&disk), 10)), (vec![new.clone()], vec![new]));
    }

    #[test]
    fn damaged_keys_are_refused() {
        let disk = Arc::new(Disk::default());
        let key = SigningKey::generate().unwrap();
        let refused = KeyRing::open(key, 0, Some(&Secret::new(b"{}".to_vec())), Arc::new(disk));
        assert!(matches!(refused, Err(RingError::Damaged)));
    }
}
