//! The gateway as systemd runs it: the units' hardening, the packaged configuration, the socket that is handed over.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
/// The exposure that `systemd-analyze security` may find at most, times ten.
const EXPOSURE: u32 = 16;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_unit_is_as_closed_as_promised() {
    let asked = Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", &format!("--threshold={EXPOSURE}")])
        .arg(project("systemd/clawgate.service"))
        .output()
        .expect("systemd-analyze is in the package systemd");
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(said.contains("Overall exposure level"), "{said}{}", String::from_utf8_lossy(&asked.stderr));
    // It exits with another code than 0 above the threshold.
    assert!(asked.status.success(), "{said}");
}

#[test]
fn the_packaged_configuration_is_taken() {
    let asked = Command::new(env!("CARGO_BIN_EXE_clawgate"))
        .args(["config", "check", "--config"])
        .arg(project("packaging/clawgate.toml"))
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
}

/// Whether somebody listens there, found out without a connection: that would be the first. A socket that is only bound
/// is there already, and refuses.
fn is_listened_at(path: &Path) -> bool {
    const ACCEPTS: &str = " 00010000 ";
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|line| line.contains(ACCEPTS) && line.ends_with(path.to_str().unwrap()))
}

#[test]
fn the_socket_that_systemd_passes_is_taken_and_left_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = format!(
        "mode = \"standalone\"\nstate_dir = {:?}\n[control]\nsocket = {:?}\n[standalone]\nlisten = \"127.0.0.1:0\"\n\
         [issuer]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"off\"\n",
        path("state"),
        path("control.sock")
    );
    std::fs::write(path("clawgate.toml"), config).unwrap();
    let mut activate = Command::new("systemd-socket-activate");
    activate.arg("--listen").arg(path("control.sock")).arg(env!("CARGO_BIN_EXE_clawgate"));
    activate.args(["run", "--config"]).arg(path("clawgate.toml")).stdin(Stdio::null());
    let _running = Running(activate.spawn().expect("systemd-socket-activate is in the package systemd"));
    let end = Instant::now() + DEADLINE;
    while !is_listened_at(&path("control.sock")) {
        assert!(Instant::now() < end, "systemd-socket-activate does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first request starts the daemon, and waits for it instead of failing.
    let asked = Command::new(env!("CARGO_BIN_EXE_clawgate"))
        .args(["status", "--json", "--socket"])
        .arg(path("control.sock"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(said.contains("\"mode\":\"standalone\""), "{said}{}", String::from_utf8_lossy(&asked.stderr));
    assert!(std::fs::metadata(path("control.sock")).unwrap().file_type().is_socket());
}

#[test]
fn doctor_looks_at_everything_and_its_exit_code_says_the_same_as_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("state_dir = {:?}\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n", folder.path().join("state"));
    std::fs::write(folder.path().join("clawgate.toml"), config).unwrap();
    let asked = Command::new(env!("CARGO_BIN_EXE_clawgate"))
        .args(["doctor", "--json", "--config"])
        .arg(folder.path().join("clawgate.toml"))
        .arg("--socket")
        .arg(folder.path().join("no.sock"))
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    for part in ["config", "daemon", "clock", "bluetooth", "users", "ports", "broker", "spool", "disk", "master key"] {
        assert!(findings.iter().any(|finding| finding["part"] == part), "nothing about {part}: {report}");
    }
    let broker = findings.iter().find(|finding| finding["part"] == "broker").unwrap();
    assert_eq!(broker["level"], "problem", "{report}");
    assert!(findings.iter().all(|f| f["level"] != "problem" || !f["message"].as_str().unwrap().is_empty()));
    assert_eq!((report["health"].as_str(), asked.status.code()), (Some("degraded"), Some(8)));
    assert!(!folder.path().join("state").exists(), "doctor made something");
}
