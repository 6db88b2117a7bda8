//! The state as a whole: first start, refusals, rules of the key slots.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::ids::{DeviceId, PairingId};
use crate::secret::Secret;
use crate::testing;

const CANARY: &[u8; 32] = b"canary-canary-canary-canary-0123";

struct Fixture {
    temp: TempDir,
    clock: Clock,
}

impl Fixture {
    fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), clock: Clock::manual(Duration::from_secs(1_700_000_000)) }
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn open(&self) -> Result<Store, StoreError> {
        testing::let_go();
        Store::open(&StoreOptions { dir: self.dir(), ..StoreOptions::default() }, self.clock.clone())
    }
}

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn pairing(device: &str, hardware: &str, number: u8) -> NewPairing {
    NewPairing {
        device: id(device),
        hardware_id: hardware.to_owned(),
        info: DeviceInfo { firmware: format!("1.{number}"), ..DeviceInfo::default() },
        key: KeySlot { pairing: PairingId([number; 8]), record: Secret::new(vec![number; 254]) },
        code: Some(format!("ocpc_{number}")),
    }
}

/// Name and slots of every device: what must never be half changed.
fn slots(store: &Store) -> Vec<(String, Option<u8>, Option<u8>)> {
    let known = store.devices_with_keys().unwrap();
    assert!(known.iter().map(|known| &known.device.id).eq(store.devices().unwrap().iter().map(|device| &device.id)));
    let number = |known: &Keyed, pairing: PairingId| {
        let key = known.keys.iter().find(|key| key.pairing == pairing).unwrap();
        assert_eq!(key.record.expose(), &vec![pairing.0[0]; 254]);
        pairing.0[0]
    };
    let slots = |known: &Keyed| {
        let Device { id, current, pending, .. } = &known.device;
        let pending = pending.as_ref().map(|pending| pending.pairing);
        (id.to_string(), current.map(|pairing| number(known, pairing)), pending.map(|pairing| number(known, pairing)))
    };
    known.iter().map(slots).collect()
}

#[test]
fn a_pending_key_leaves_the_current_one_until_it_is_proven() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), None, Some(1))]);
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 2)).unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 3)).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), Some(1), Some(3))]);
    assert_eq!(store.device(&id("pump-3")).unwrap().unwrap().info.firmware, "1.1");

    let stale = store.confirm_pending(&id("pump-3"), PairingId([2; 8])).unwrap_err();
    assert!(matches!(stale, StoreError::NotPending { .. }), "{stale}");
    store.confirm_pending(&id("pump-3"), PairingId([3; 8])).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([3; 8])).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), Some(3), None)]);
    assert_eq!(store.device(&id("pump-3")).unwrap().unwrap().info.firmware, "1.3");
}

#[test]
fn a_revoked_device_stays_revoked_until_it_is_paired_again() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let revoked = |store: &Store| store.device(&id("pump-3")).unwrap().unwrap().revoked;
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    store.revoke_device(&id("pump-3"), "stolen").unwrap();
    assert!(matches!(store.revoke_device(&id("pump-4"), "gone"), Err(StoreError::UnknownDevice(_))));
    drop(store);
    let store = fixture.open().unwrap();
    assert_eq!(revoked(&store).as_deref(), Some("stolen"));
    store.put_pending(&pairing("pump-3", "th-1", 2)).unwrap();
    assert!(revoked(&store).is_some(), "a pairing that is not proven lifts nothing");
    store.confirm_pending(&id("pump-3"), PairingId([2; 8])).unwrap();
    assert_eq!(revoked(&store), None);
}

#[test]
fn a_decision_outlives_a_restart_and_is_about_one_pairing() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let decision = |store: &Store| store.device(&id("pump-3")).unwrap().unwrap().info.decision;
    let waiting = Decision::Waiting { since_ms: 5 };
    let yes = Decision::Approved { at_ms: 6, by: crate::audit::Actor::Cloud { key: None }, why: "known".to_owned() };
    let asked = |number: u8| {
        let new = pairing("pump-3", "th-1", number);
        NewPairing { info: DeviceInfo { decision: waiting.clone(), ..new.info }, ..new }
    };
    store.put_pending(&asked(1)).unwrap();
    assert!(store.decide(&id("pump-3"), PairingId([2; 8]), &yes).is_err(), "it was decided about another pairing");
    store.decide(&id("pump-3"), PairingId([1; 8]), &yes).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    drop(store);
    let store = fixture.open().unwrap();
    assert_eq!(decision(&store), yes, "what was decided before the proof stands after it");
    // Paired again, it is decided again; until the new key is proven the old one serves.
    store.put_pending(&asked(2)).unwrap();
    assert_eq!(decision(&store), yes);
    assert!(store.decide(&id("pump-3"), PairingId([2; 8]), &yes).is_err(), "that key is not in use yet");
    store.confirm_pending(&id("pump-3"), PairingId([2; 8])).unwrap();
    assert_eq!(decision(&store), waiting);
}

#[test]
fn a_dropped_pending_key_takes_only_a_device_without_another_key_along() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 2)).unwrap();
    store.put_pending(&pairing("pump-4", "th-2", 4)).unwrap();
    store.drop_pending(&id("pump-3"), PairingId([2; 8])).unwrap();
    store.drop_pending(&id("pump-4"), PairingId([4; 8])).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), Some(1), None)]);
}

#[test]
fn a_name_stands_for_one_sensor_and_a_sensor_for_one_name() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    let taken = store.put_pending(&pairing("pump-3", "th-2", 2)).unwrap_err();
    assert!(matches!(taken, StoreError::NameTaken { .. }), "{taken}");
    let known = store.put_pending(&pairing("pump-4", "th-1", 2)).unwrap_err();
    assert!(matches!(known, StoreError::SensorTaken { .. }), "{known}");
    assert_eq!(slots(&store), [("pump-3".to_owned(), None, Some(1))]);
}

#[test]
fn a_renamed_device_keeps_its_keys_and_a_removed_one_is_gone() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 2)).unwrap();
    store.set_anchor(PairingId([1; 8]), 9, Duration::from_secs(1)).unwrap();
    store.rename_device(&id("pump-3"), &id("well")).unwrap();
    assert_eq!(slots(&store), [("well".to_owned(), Some(1), Some(2))]);
    let known = store.device(&id("well")).unwrap().unwrap();
    store.remove_device(&known).unwrap();
    assert_eq!(slots(&store), []);
    assert_eq!(store.anchor(PairingId([1; 8]), 9).unwrap(), None);
    assert!(matches!(store.remove_device(&known), Err(StoreError::UnknownDevice(_))));
}

#[test]
fn a_pairing_that_was_made_while_the_one_before_is_unpaired_stays() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let look = || store.device(&id("pump-3")).unwrap().unwrap();
    // Its key is pending when the old one goes.
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    let known = look();
    store.put_pending(&pairing("pump-3", "th-1", 2)).unwrap();
    store.remove_device(&known).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), None, Some(2))]);
    store.confirm_pending(&id("pump-3"), PairingId([2; 8])).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), Some(2), None)]);
    // It is proven already.
    let known = look();
    store.put_pending(&pairing("pump-3", "th-1", 3)).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([3; 8])).unwrap();
    store.remove_device(&known).unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), Some(3), None)]);
    store.remove_device(&look()).unwrap();
    assert_eq!(slots(&store), []);
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    store.device_seen(&id("pump-3"), "uart usb1").unwrap();
    store.put_secret("local-issuer", b"key").unwrap();
    let identity = store.gateway_identity().unwrap();
    let anchor = store.set_anchor(PairingId([1; 8]), u64::MAX, Duration::from_secs(5)).unwrap();
    drop(store);

    fixture.clock.advance(Duration::from_secs(100));
    let store = fixture.open().unwrap();
    assert_eq!(slots(&store), [("pump-3".to_owned(), None, Some(1))]);
    assert_eq!(store.device(&id("pump-3")).unwrap().unwrap().seen.unwrap().link, "uart usb1");
    assert_eq!(store.secret("local-issuer").unwrap().unwrap().expose(), b"key");
    assert!(store.gateway_identity().unwrap() == identity);
    assert_eq!(store.set_anchor(PairingId([1; 8]), u64::MAX, Duration::from_secs(9)).unwrap(), anchor);
    assert_eq!(anchor.zero_unix_ms, 1_699_999_995_000);
}

#[test]
fn anchors_of_long_gone_epochs_do_not_pile_up() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    for epoch in 0..40 {
        fixture.clock.advance(Duration::from_secs(1));
        store.set_anchor(PairingId([1; 8]), epoch, Duration::ZERO).unwrap();
    }
    let kept = (0..40).filter(|epoch| store.anchor(PairingId([1; 8]), *epoch).unwrap().is_some()).count();
    assert_eq!(kept, 16);
    assert!(store.anchor(PairingId([1; 8]), 39).unwrap().is_some());
}

#[test]
fn a_second_daemon_is_refused_while_the_first_lives() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::Locked { pid: Some(pid), .. }) if pid == std::process::id()));
    drop(store);
    fixture.open().unwrap();
}

#[test]
fn a_wrong_or_lost_master_key_is_said_and_changes_nothing() {
    let fixture = Fixture::new();
    drop(fixture.open().unwrap());
    let state = fs::read(fixture.dir().join(STATE_FILE)).unwrap();
    let key_file = fixture.dir().join("master.key");
    let right = fs::read(&key_file).unwrap();

    fs::write(&key_file, "00".repeat(32)).unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::KeyWrong { .. })));
    fs::remove_file(&key_file).unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::KeyMissing { .. })));
    assert!(!key_file.exists());
    fs::write(&key_file, right).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(fs::read(fixture.dir().join(STATE_FILE)).unwrap() == state, "the state was changed");
    fixture.open().unwrap();
}

#[test]
fn a_database_that_is_empty_torn_or_noise_is_refused_and_kept() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    for number in 1..40 {
        store.put_pending(&pairing(&format!("d{number}"), &format!("h{number}"), number)).unwrap();
    }
    drop(store);
    let file = fixture.dir().join(STATE_FILE);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    // The page of one device, as a bad sector would leave it; nothing else at the start reads it.
    let row = whole.windows(4).rposition(|window| window == b"1.20").unwrap();
    let page = row / 4096 * 4096;
    flipped[page..page + 4096].fill(0xa5);
    for (what, content) in
        [("empty", vec![]), ("torn", whole[..5000].to_vec()), ("noise", vec![0x5a; 8192]), ("page", flipped)]
    {
        fs::write(&file, &content).unwrap();
        let error = fixture.open().unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error}");
        assert!(error.to_string().contains("state.db"), "{error}");
        assert!(fs::read(&file).unwrap() == content, "{what}: was changed");
    }
    fs::write(&file, whole).unwrap();
    assert_eq!(slots(&fixture.open().unwrap()).len(), 39);
}

#[test]
fn a_lost_database_is_not_replaced_while_its_journal_is_there() {
    let fixture = Fixture::new();
    drop(fixture.open().unwrap());
    fs::rename(fixture.dir().join(STATE_FILE), fixture.dir().join("state.db-wal")).unwrap();
    assert!(matches!(fixture.open(), Err(StoreError::Damaged { .. })));
}

#[test]
fn every_file_is_private() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_secret("x", b"y").unwrap();
    for entry in fs::read_dir(fixture.dir()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_secret_stands_in_no_file_in_clear() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_secret("canary", CANARY).unwrap();
    let mut new = pairing("pump-3", "th-1", 1);
    new.key.record = Secret::new(CANARY.to_vec());
    store.put_pending(&new).unwrap();
    store.confirm_pending(&new.device, new.key.pairing).unwrap();
    let identity = store.gateway_identity().unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(fixture.dir()).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        seen += content.len();
        for secret in [&CANARY[..], identity.expose()] {
            assert!(!content.windows(secret.len()).any(|window| window == secret));
        }
    }
    assert!(seen > 4096, "the files were looked at");
    assert_eq!(store.device_with_keys(&new.device).unwrap().unwrap().keys[0].record.expose(), CANARY);
}

#[test]
fn a_sealed_key_moved_to_another_device_opens_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("a", "h1", 1)).unwrap();
    store.put_pending(&pairing("b", "h2", 2)).unwrap();
    store
        .db()
        .execute(
            "UPDATE devices SET pending_sealed = (SELECT pending_sealed FROM devices WHERE id = 'a') WHERE id = 'b'",
            [],
        )
        .unwrap();
    assert!(matches!(store.device_with_keys(&id("b")), Err(StoreError::Unsealable(_))));
    assert!(matches!(store.devices_with_keys(), Err(StoreError::Unsealable(_))));
    assert!(store.device_with_keys(&id("a")).is_ok());
}

#[test]
fn what_is_known_of_a_device_is_read_without_opening_a_key() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    store.confirm_pending(&id("pump-3"), PairingId([1; 8])).unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 2)).unwrap();
    // Nothing opens these, so who reads the device has opened nothing.
    store.db().execute("UPDATE devices SET current_sealed = x'00', pending_sealed = x'00'", []).unwrap();
    let one = store.device(&id("pump-3")).unwrap().unwrap();
    let all = store.devices().unwrap();
    for device in [one, store.device_by_hardware("th-1").unwrap().unwrap(), all[0].clone()] {
        assert_eq!(device.pairings().collect::<Vec<_>>(), [PairingId([1; 8]), PairingId([2; 8])]);
        assert_eq!(device.pending.unwrap().code.as_deref(), Some("ocpc_2"));
    }
    assert!(matches!(store.devices_with_keys(), Err(StoreError::Unsealable(_))));
}

#[test]
fn the_state_is_kept_as_the_older_clawgate_left_it() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    // As schema 2 was.
    store
        .db()
        .execute_batch(
            "ALTER TABLE devices DROP COLUMN revoked_why; DROP TABLE commands; DROP TABLE overlay;
                        PRAGMA user_version = 2",
        )
        .unwrap();
    drop(store);
    let upgraded = fixture.open().unwrap();
    assert_eq!(slots(&upgraded), [("pump-3".to_owned(), None, Some(1))]);
    drop(upgraded);
    let kept = fixture.dir().join("state.db.schema-2");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    // The way back: the copy in the place of the new one opens as it was, and could be upgraded again.
    for journal in ["state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(fixture.dir().join(journal));
    }
    fs::rename(&kept, fixture.dir().join("state.db")).unwrap();
    let old = Connection::open(fixture.dir().join("state.db")).unwrap();
    assert_eq!(old.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 2);
    drop(old);
    assert_eq!(slots(&fixture.open().unwrap()), [("pump-3".to_owned(), None, Some(1))]);
}

#[test]
fn a_command_is_new_once_and_a_flood_of_them_is_bounded() {
    use super::{Begun, CommandId};
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let id = |jti| CommandId { key: "ops", jti, digest: [1; 32], iat_s: 100, exp_s: 200 };
    assert_eq!(store.begin_command(id("a"), 110).unwrap(), Begun::New);
    assert_eq!(store.begin_command(id("a"), 110).unwrap(), Begun::Before(None), "stopped in between");
    store.end_command("ops", "a", "done").unwrap();
    drop(store);
    let store = fixture.open().unwrap();
    assert_eq!(store.begin_command(id("a"), 110).unwrap(), Begun::Before(Some("done".to_owned())));
    assert_eq!(store.begin_command(CommandId { digest: [2; 32], ..id("a") }, 110).unwrap(), Begun::Other);
    assert_eq!(store.begin_command(CommandId { key: "other", ..id("a") }, 110).unwrap(), Begun::New);
    let ids: Vec<_> = (0..400).map(|n| n.to_string()).collect();
    let new = ids.iter().filter(|jti| store.begin_command(id(jti), 110).unwrap() == Begun::New).count();
    assert_eq!(new, 299, "one key's share");
    assert_eq!(store.begin_command(CommandId { key: "other", ..id("b") }, 110).unwrap(), Begun::New);
    // What expired makes room; the newest stays, as the floor of the clock.
    let late = CommandId { iat_s: 300, exp_s: 400, ..id("late") };
    assert_eq!(store.begin_command(late, 110).unwrap(), Begun::Full);
    assert_eq!(store.begin_command(CommandId { key: "other", ..late }, 300).unwrap(), Begun::New);
    assert_eq!(store.begin_command(late, 300).unwrap(), Begun::New);
    let of_old = CommandId { jti: "c", iat_s: 50, exp_s: 2000, ..late };
    assert_eq!(store.begin_command(of_old, 1000).unwrap(), Begun::New);
    assert_eq!(store.latest_command().unwrap(), 300);
}

#[test]
fn a_command_that_was_carried_out_is_not_good_again_after_a_restart_under_a_clock_that_was_set_back() {
    use super::{Begun, CommandId};
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let id = |jti, iat_s, exp_s| CommandId { key: "ops", jti, digest: [1; 32], iat_s, exp_s };
    assert_eq!(store.begin_command(id("old", 100, 200), 110).unwrap(), Begun::New);
    store.end_command("ops", "old", "done").unwrap();
    // One that was made before the old one expired, and comes after.
    assert_eq!(store.begin_command(id("late", 150, 900), 250).unwrap(), Begun::New);
    assert_eq!(store.begin_command(id("later", 160, 900), 260).unwrap(), Begun::New);
    drop(store);
    let store = fixture.open().unwrap();
    let floor = store.latest_command().unwrap();
    assert!(floor < 200, "the floor alone would keep it out");
    assert_eq!(store.begin_command(id("old", 100, 200), floor).unwrap(), Begun::Before(Some("done".to_owned())));
    // Made since, it lets the old one go for good: the next start is not before it.
    assert_eq!(store.begin_command(id("new", 260, 900), 270).unwrap(), Begun::New);
    assert!(store.latest_command().unwrap() >= 200);
    assert_eq!(store.begin_command(id("old", 200, 210), 270).unwrap(), Begun::New, "its id is free");
}

#[test]
fn a_refresh_token_of_a_name_that_no_device_has_is_forgotten_and_no_other() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.put_pending(&pairing("pump-3", "th-1", 1)).unwrap();
    for name in ["refresh-token.pump-3", "refresh-token.pump-4", "other"] {
        store.put_secret(name, CANARY).unwrap();
    }
    assert_eq!(store.remove_refresh_tokens_of_nobody().unwrap(), 1);
    let there =
        ["refresh-token.pump-3", "refresh-token.pump-4", "other"].map(|name| store.secret(name).unwrap().is_some());
    assert_eq!(there, [true, false, true]);
}
