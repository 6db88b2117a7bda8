//! The issuer's keys over time, on a disk that crashes and is full.

use super::*;

/// A disk that a crash leaves as it is, and that may be full.
#[derive(Default)]
struct Disk {
    kept: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    full: std::sync::atomic::AtomicBool,
    /// What brokers read; `None` where that file cannot be written.
    published: Mutex<Option<Vec<String>>>,
}

impl KeyBook for Arc<Disk> {
    fn keep(&self, signing: &Secret<Vec<u8>>, rest: &Secret<Vec<u8>>) -> Result<(), String> {
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err("no space".to_owned());
        }
        *self.kept.lock().unwrap() = Some((signing.expose().clone(), rest.expose().clone()));
        Ok(())
    }

    fn publish(&self, keys: &Jwks) -> Result<(), String> {
        let mut published = self.published.lock().unwrap();
        let published = published.as_mut().ok_or("not writable")?;
        *published = keys.keys.iter().map(|jwk| jwk.kid.clone()).collect();
        Ok(())
    }
}

impl Disk {
    fn fill(&self, full: bool) {
        self.full.store(full, std::sync::atomic::Ordering::Relaxed);
    }
}

fn begin(disk: &Arc<Disk>) -> KeyRing {
    *disk.published.lock().unwrap() = Some(Vec::new());
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

#[test]
fn brokers_have_the_new_key_in_their_file_before_it_is_kept_and_no_key_that_they_cannot_have_is_made() {
    let disk = Arc::new(Disk::default());
    let ring = begin(&disk);
    let old = signer(&ring, 1000);
    let file = || disk.published.lock().unwrap().clone();
    // The file cannot be written.
    *disk.published.lock().unwrap() = None;
    let before = disk.kept.lock().unwrap().clone();
    let refused = ring.rotate(1000, Duration::from_secs(60));
    assert!(matches!(refused, Err(RingError::Unpublished(_))), "{refused:?}");
    assert_eq!((published(&ring, 2000), disk.kept.lock().unwrap().clone()), (vec![old.clone()], before));
    assert!(matches!(ring.tend(1000), Err(RingError::Unpublished(_))));
    // It can, and the key cannot be kept: it is published and never signs, and the next look takes it out again.
    *disk.published.lock().unwrap() = Some(Vec::new());
    disk.fill(true);
    assert!(matches!(ring.rotate(1000, Duration::from_secs(60)), Err(RingError::Kept(_))));
    assert_eq!((file().unwrap().len(), signer(&ring, 2000)), (2, old.clone()));
    disk.fill(false);
    ring.tend(2000).unwrap();
    assert_eq!(file(), Some(vec![old.clone()]));
    // Both can: the file follows to the end.
    let new = ring.rotate(2000, Duration::from_secs(60)).unwrap().next.unwrap().0;
    assert_eq!(file(), Some(vec![old.clone(), new.clone()]));
    ring.tend(2060).unwrap();
    assert_eq!(file(), Some(vec![new.clone(), old]));
    ring.tend(2700).unwrap();
    assert_eq!(file(), Some(vec![new]));
    // A key that somebody knows goes, whatever the file's disk says.
    *disk.published.lock().unwrap() = None;
    let newest = ring.replace(2700).unwrap().signing;
    *disk.published.lock().unwrap() = Some(Vec::new());
    ring.tend(2701).unwrap();
    assert_eq!(file(), Some(vec![newest]));
}
