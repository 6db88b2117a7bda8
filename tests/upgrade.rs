//! A gateway's files as an earlier version left them: taken with everything in them; files of a later version refused.
//!
//! `fixtures/state-VERSION` was written by that version: one paired sensor, `pump-3`, and twelve readings that wait. A
//! release that changes a database adds its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "support/daemon.rs"]
mod daemon;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::{Daemon, quoted};

const CONFIG: &str = "[broker]\nurl = \"mqtt://127.0.0.1:1\"\n[issuer]\nlisten = \"127.0.0.1:0\"\n\
                      [metrics]\nlisten = \"off\"\n[ble]\nenabled = \"off\"\n";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
            // Version control keeps no modes.
            fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
    }
}

/// Every state that a version left.
fn fixtures() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let is_state = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state-"));
    let found: Vec<_> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).filter(is_state).collect();
    assert!(!found.is_empty());
    found
}

#[test]
fn what_an_earlier_version_left_is_taken_with_everything_in_it() {
    for fixture in fixtures() {
        let board = tempfile::tempdir().unwrap();
        copy(&fixture, &board.path().join("state"));
        let mut daemon = Daemon::start(board.path(), CONFIG);
        assert_eq!(daemon.json(&["devices", "ls"])[0][0]["id"], "pump-3", "{}", fixture.display());
        let status = daemon.command(&["status", "--json"]).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(status["spool"]["waiting"], 12, "{}: {status}", fixture.display());
        assert!(daemon.stop());
        let verify = Command::new(env!("CARGO_BIN_EXE_clawgate"))
            .args(["audit", "verify", "--state-dir"])
            .arg(board.path().join("state"))
            .output()
            .unwrap();
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
    }
}

#[test]
fn what_a_later_version_left_is_refused_with_the_way_back_and_left_as_it_is() {
    for database in ["state.db", "spool.db"] {
        let board = tempfile::tempdir().unwrap();
        let state = board.path().join("state");
        copy(&fixtures()[0], &state);
        let file = state.join(database);
        rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 1000).unwrap();
        let before = fs::read(&file).unwrap();
        let config = format!(
            "state_dir = {}\n{CONFIG}[control]\nsocket = {}\n",
            quoted(&state),
            quoted(&board.path().join("control.sock"))
        );
        fs::write(board.path().join("clawgate.toml"), config).unwrap();
        // One that is taken would run on.
        let run = Command::new("timeout")
            .args(["60", env!("CARGO_BIN_EXE_clawgate")])
            .args(["run", "--config"])
            .arg(board.path().join("clawgate.toml"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success() && said.contains("newer") && said.contains("1000"), "{database}: {said}");
        assert!(fs::read(&file).unwrap() == before, "{database} was changed");
    }
}
