//! A new master key at every step of its way, and keys that an operator keeps.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::ids::PairingId;
use crate::store::{DeviceInfo, KeySlot, NewPairing, StoreOptions};
use crate::testing;

const CODE: &str = "ocpc_00000000000000000000000001";

struct Fixture {
    temp: tempfile::TempDir,
    credentials: bool,
}

impl Fixture {
    /// A state with a sealed value in every column.
    fn new() -> Self {
        let fixture = Self { temp: tempfile::tempdir().unwrap(), credentials: false };
        fixture.fill();
        fixture
    }

    /// The same under a key that systemd hands in.
    fn with_credential() -> Self {
        let fixture = Self { temp: tempfile::tempdir().unwrap(), credentials: true };
        fs::create_dir(fixture.credential("")).unwrap();
        fs::write(fixture.credential("clawgate-master-key"), [1; 32]).unwrap();
        fixture.fill();
        fixture
    }

    fn fill(&self) {
        let store = self.open().unwrap();
        store.put_secret("x", b"secret").unwrap();
        let pairing = |number: u8| NewPairing {
            device: "pump-3".parse().unwrap(),
            hardware_id: "th-1".to_owned(),
            info: DeviceInfo::default(),
            key: KeySlot { pairing: PairingId([number; 8]), record: Secret::new(vec![number; 9]) },
            code: None,
        };
        store.put_pending(&pairing(1)).unwrap();
        store.confirm_pending(&"pump-3".parse().unwrap(), PairingId([1; 8])).unwrap();
        store.put_pending(&pairing(2)).unwrap();
        let sealed = store.sealer().seal(Place { table: "codes", row: CODE, name: "code" }, b"code").unwrap();
        store
            .db()
            .execute(
                "INSERT INTO codes (id, state, request, creator, made_boot_ms, made_ms, sealed)
                 VALUES (?2, 'active', '', '', 0, 0, ?1)",
                (sealed, CODE),
            )
            .unwrap();
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn credential(&self, name: &str) -> PathBuf {
        self.temp.path().join("credentials").join(name)
    }

    fn open(&self) -> Result<Store, StoreError> {
        let credentials_dir = self.credentials.then(|| self.credential(""));
        let options = StoreOptions { dir: self.dir(), credentials_dir, ..StoreOptions::default() };
        testing::let_go();
        Store::open(&options, Clock::manual(Duration::from_secs(1_700_000_000)))
    }

    /// Opens it, reads every sealed value, and says which key it was.
    fn key(&self) -> String {
        let store = self.open().unwrap();
        assert_eq!(store.secret("x").unwrap().unwrap().expose(), b"secret");
        let known = store.device_with_keys(&"pump-3".parse().unwrap()).unwrap().unwrap();
        let keys: Vec<_> = known.keys.iter().map(|key| key.record.expose().as_slice()).collect();
        assert_eq!(keys, [[2; 9], [1; 9]], "the pending one first");
        let code = store.code_secret(&CODE.parse().unwrap()).unwrap();
        assert_eq!(code.unwrap().expose(), b"code");
        store.master_key().unwrap().id
    }

    fn files(&self) -> BTreeSet<String> {
        let names = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("master")).collect()
    }
}

fn own_files() -> BTreeSet<String> {
    BTreeSet::from(["master.key".to_owned()])
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_master_key_or_the_new_one() {
    let fixture = Fixture::new();
    let old = fixture.key();
    // The new key is written, whole or torn; nothing more.
    let fresh = master_key::write_new(&fixture.dir()).unwrap();
    assert_eq!((fixture.key(), fixture.files()), (old.clone(), own_files()));
    fs::write(fixture.dir().join("master.key.new"), [7; 5]).unwrap();
    assert_eq!((fixture.key(), fixture.files()), (old.clone(), own_files()));
    // The database has changed over; the files have not.
    let store = fixture.open().unwrap();
    let fresh_again = master_key::write_new(&fixture.dir()).unwrap();
    assert!(fresh != fresh_again);
    store.reseal(&fresh_again).unwrap();
    drop(store);
    let new = fixture.key();
    assert!(new != old);
    assert_eq!(fixture.files(), own_files());
    // All of it, at one go.
    let store = fixture.open().unwrap();
    let newest = store.rotate_master_key().unwrap().id;
    assert_eq!(store.secret("x").unwrap().unwrap().expose(), b"secret", "it goes on without a restart");
    store.put_secret("y", b"later").unwrap();
    drop(store);
    assert_eq!((fixture.key(), fixture.files()), (newest.clone(), own_files()));
    assert!(newest != new);
    assert_eq!(fixture.open().unwrap().secret("y").unwrap().unwrap().expose(), b"later");
    assert_eq!(fs::metadata(fixture.dir().join("master.key")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_was_altered_stops_the_change_and_nothing_is_half_changed() {
    let fixture = Fixture::new();
    let old = fixture.key();
    let store = fixture.open().unwrap();
    let broken = |store: &Store, to: &str| {
        let update = format!("UPDATE devices SET pending_sealed = {to} WHERE id = 'pump-3'");
        store.db().execute(&update, []).unwrap();
    };
    broken(&store, "current_sealed");
    assert!(matches!(store.rotate_master_key(), Err(StoreError::Unsealable(_))));
    assert_eq!(store.secret("x").unwrap().unwrap().expose(), b"secret");
    broken(&store, "NULL");
    drop(store);
    assert_eq!(fixture.open().unwrap().master_key().unwrap().id, old);
    assert_eq!(fixture.files(), own_files());
}

#[test]
fn a_new_credential_beside_the_old_one_is_changed_over_at_the_start() {
    let fixture = Fixture::with_credential();
    let old = fixture.key();
    let refused = fixture.open().unwrap().rotate_master_key().unwrap_err();
    assert!(matches!(refused, StoreError::KeyKept { .. }), "{refused}");
    fs::write(fixture.credential("clawgate-master-key.new"), [2; 32]).unwrap();
    let new = fixture.key();
    assert!(new != old);
    // Started again before the operator cleaned up, and after.
    assert_eq!(fixture.key(), new);
    fs::write(fixture.credential("clawgate-master-key"), [2; 32]).unwrap();
    assert_eq!(fixture.key(), new);
    // The two were put in the wrong places: an old key is not taken again.
    fs::write(fixture.credential("clawgate-master-key.new"), [1; 32]).unwrap();
    assert_eq!(fixture.key(), new);
    fs::remove_file(fixture.credential("clawgate-master-key.new")).unwrap();
    assert_eq!(fixture.key(), new);
    // Only the old one is left.
    fs::write(fixture.credential("clawgate-master-key"), [1; 32]).unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::KeyWrong { .. })));
}

#[test]
fn a_new_credential_that_is_no_key_is_said() {
    let fixture = Fixture::with_credential();
    fs::write(fixture.credential("clawgate-master-key.new"), b"short").unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::KeyMalformed(_))));
}

#[test]
fn every_column_of_sealed_values_is_sealed_again() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let db = store.db();
    let mut tables = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut found = BTreeSet::new();
    for table in tables {
        let mut columns = db.prepare(&format!("PRAGMA table_info({table})")).unwrap();
        let columns = columns.query_map([], |row| row.get::<_, String>(1)).unwrap().map(Result::unwrap);
        found.extend(columns.filter(|name| name.contains("sealed")).map(|name| format!("{table}.{name}")));
    }
    let known = COLUMNS.iter().map(|column| format!("{}.{}", column.table, column.sealed)).collect();
    assert_eq!(found, known);
}

#[test]
fn whoever_works_meanwhile_reads_and_writes_under_one_key() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    std::thread::scope(|threads| {
        for name in ["a", "b"] {
            let store = &store;
            threads.spawn(move || {
                for number in 0..50_u8 {
                    store.put_secret(name, &[number]).unwrap();
                    assert_eq!(store.secret(name).unwrap().unwrap().expose(), &[number]);
                }
            });
        }
        for _ in 0..5 {
            store.rotate_master_key().unwrap();
        }
    });
    drop(store);
    fixture.key();
}

#[test]
fn the_master_keys_age_counts_from_the_first_start_whatever_other_keys_were_changed_since() {
    let temp = tempfile::tempdir().unwrap();
    let (first, month) = (Duration::from_secs(1_700_000_000), Duration::from_secs(30 * 86_400));
    let clock = Clock::manual(first);
    let options = StoreOptions { dir: temp.path().to_owned(), ..StoreOptions::default() };
    let open = || {
        testing::let_go();
        Store::open(&options, clock.clone()).unwrap()
    };
    let made = |store: &Store| Duration::from_millis(store.master_key().unwrap().made_ms.unwrap().unsigned_abs());
    open().seed("audit-key").unwrap();
    clock.advance(month);
    open().put_secret("audit-key", &[1; 32]).unwrap();
    assert_eq!(made(&open()), first);
    // A state from before this was noted: as old as the oldest secret in it.
    open().db().execute("DELETE FROM meta WHERE name = ?1", [MADE]).unwrap();
    clock.advance(month);
    assert_eq!(made(&open()), first + month);
    open().rotate_master_key().unwrap();
    assert_eq!(made(&open()), first + 2 * month);
}
