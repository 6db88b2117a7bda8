//! A gateway moved to another board: what was paired stays paired, what was called safe is not lost, the old board is out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clawgate::clock::Clock;
use clawgate::store::{Store, StoreOptions};
use daemon::{Daemon, Sensor, quoted};
use serde_json::Value as Json;

const PASSPHRASE: &str = "correct horse battery";

/// No broker answers: what is called safe is on the disk of the gateway, and only there.
fn config(sensor: &Sensor) -> String {
    format!(
        "[broker]\nurl = \"mqtt://127.0.0.1:1\"\n[issuer]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"off\"\n\
         [uart.ports.line]\npath = {}\n",
        quoted(&sensor.line())
    )
}

/// `clawgate backup ...` on the files of a board.
fn backup(board: &Path, words: &[&str], file: &Path, passphrase: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate"));
    command.arg("backup").args(words).arg(file).arg("--config").arg(board.join("clawgate.toml"));
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(running.stdin.take().unwrap(), "{passphrase}").unwrap();
    running.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn waiting(daemon: &Daemon) -> u64 {
    let status = daemon.command(&["status", "--json"]).output().unwrap();
    serde_json::from_slice::<Json>(&status.stdout).map_or(0, |status| status["spool"]["waiting"].as_u64().unwrap())
}

/// The registry of a board that is stopped.
fn state(board: &Path) -> Store {
    let options = StoreOptions { dir: board.join("state"), ..StoreOptions::default() };
    Store::open(&options, Clock::system()).unwrap()
}

fn folder(place: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = place.path().join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

/// A board with a paired sensor whose readings wait on its disk; it lost power, so that its journals are not folded in.
fn old_board(board: &Path, sensor: &mut Sensor) -> Daemon {
    let mut daemon = Daemon::start(board, &config(sensor));
    // The cloud does not confirm the first reading: the pairing itself stands all the same.
    daemon.wait("the sensor is seen", |daemon| said(&daemon.cli(&["scan", "--for", "1s"])).contains("line"));
    sensor.tell("button");
    let _ = daemon.command(&["pair", "line", "--name", "pump-3"]).env("OPENCLAW_PAIRING_CODE", &sensor.label).output();
    daemon.wait("readings are safe on the disk", |_| sensor.acknowledged().len() >= 5);
    daemon.kill();
    daemon
}

#[test]
fn a_gateway_moves_with_its_pairings_and_what_waits_and_the_old_board_serves_no_more() {
    let place = tempfile::tempdir().unwrap();
    let mut sensor = Sensor::start(&place.path().join("sensor"), &["--every", "100ms"]);
    let (old, new) = (folder(&place, "old"), folder(&place, "new"));
    let mut daemon = old_board(&old, &mut sensor);
    let safe = sensor.acknowledged().len() as u64;
    let file = place.path().join("gateway.clawbak");
    state(&old).put_secret("refresh-token.pump-3", b"of the old board").unwrap();

    let short = backup(&old, &["create"], &file, "short");
    assert_eq!(short.status.code(), Some(2), "{}", said(&short));
    let made = backup(&old, &["create", "--fence"], &file, PASSPHRASE);
    assert!(made.status.success(), "{}", said(&made));

    // Nothing of the state in clear, and nobody else may read it.
    let sealed = std::fs::read(&file).unwrap();
    let key = std::fs::read(old.join("state/master.key")).unwrap();
    for secret in [&key[..], b"pump-3", b"SQLite format 3", PASSPHRASE.as_bytes()] {
        assert!(!sealed.windows(secret.len()).any(|window| window == secret));
    }
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );

    // The old board is out: it says why, and systemd does not try again.
    // One that is taken would run on.
    let refused = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_clawgate")])
        .arg("run")
        .arg("--config")
        .arg(old.join("clawgate.toml"))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
    assert!(said(&refused).contains("was moved to another board"), "{}", said(&refused));

    // The new one: not with a wrong passphrase, and then with everything.
    let mut moved = Daemon::start(&new, &config(&sensor));
    assert!(moved.stop());
    let wrong = backup(&new, &["restore"], &file, "correct horse batterx");
    assert!(!wrong.status.success() && said(&wrong).contains("does not open"), "{}", said(&wrong));
    let restored = backup(&new, &["restore"], &file, PASSPHRASE);
    assert!(restored.status.success(), "{}", said(&restored));
    let dropped = state(&new).secret("refresh-token.pump-3").unwrap().is_none();
    assert!(dropped, "two boards with one refresh token are as good as a theft");
    moved.resume();
    assert!(waiting(&moved) >= safe, "of {safe} safe readings {} came along", waiting(&moved));
    assert_eq!(moved.json(&["devices", "ls"])[0][0]["id"], "pump-3");
    moved.wait("the sensor goes on", |_| sensor.acknowledged().len() as u64 > safe + 5);
    let audit = said(&moved.cli(&["audit", "tail", "-n", "50"]));
    assert!(audit.contains("backup.create") && audit.contains("backup.restore"), "{audit}");
    let verified = Command::new(env!("CARGO_BIN_EXE_clawgate"))
        .args(["audit", "verify", "--state-dir"])
        .arg(new.join("state"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
    // A board with sensors of its own is not overwritten by accident.
    assert!(moved.stop());
    let again = backup(&new, &["restore"], &file, PASSPHRASE);
    assert!(!again.status.success() && said(&again).contains("--replace"), "{}", said(&again));
    daemon.kill();
}

#[test]
fn an_old_backup_takes_no_new_reading_for_an_old_one() {
    let place = tempfile::tempdir().unwrap();
    let mut sensor = Sensor::start(&place.path().join("sensor"), &["--every", "100ms"]);
    let (old, new) = (folder(&place, "old"), folder(&place, "new"));
    let mut daemon = old_board(&old, &mut sensor);
    let file = place.path().join("gateway.clawbak");
    let made = backup(&old, &["create"], &file, PASSPHRASE);
    assert!(made.status.success(), "{}", said(&made));
    // The old board goes on for a while: the sensor forgets readings that the backup never saw.
    let then = sensor.acknowledged().len();
    daemon.resume();
    daemon.wait("the sensor goes on", |_| sensor.acknowledged().len() > then + 10);
    assert!(daemon.stop());
    let mut moved = Daemon::start(&new, &config(&sensor));
    assert!(moved.stop());
    let restored = backup(&new, &["restore"], &file, PASSPHRASE);
    assert!(restored.status.success(), "{}", said(&restored));
    let before = sensor.acknowledged().len();
    moved.resume();
    moved.wait("the sensor goes on with the restored board", |_| sensor.acknowledged().len() > before + 30);
    // Every reading that it calls safe from here on is one more beside those in the backup: none passed for one of them.
    let safe_since = sensor.acknowledged().len() - before;
    let has = waiting(&moved);
    assert!(has >= (then + safe_since) as u64, "{has} of {then} + {safe_since}");
}
