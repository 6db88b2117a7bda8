//! An audit log on a full disk: the operator hears of it, what may go on without its line does and what may not does not,
//! and when there is room again the log itself says what it lacks.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::site::{Site, until};

/// A small file system, unmounted when dropped; `None` where this user may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"]).arg(at).status();
        let mounted = mounted.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("not run: mounting a small file system needs root");
        }
        mounted.then(|| Self(at.to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// What is written already may grow within its last page.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn problem(status: &Value) -> Option<String> {
    let problems = status["problems"].as_array().unwrap();
    let found = problems.iter().find(|problem| problem["part"] == "audit")?;
    Some(found["message"].as_str().unwrap().to_owned())
}

fn alarm(status: &Value) -> Option<Value> {
    status["alarms"].as_array().unwrap().iter().find(|alarm| alarm["kind"] == "audit").cloned()
}

fn metric(site: &Site, name: &str) -> u64 {
    let text = site.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name).to_owned();
    value.trim().parse().unwrap()
}

#[test]
fn an_audit_line_that_cannot_be_written_is_told_until_it_is_and_the_log_says_what_it_lacks() {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("line1")));
    let audit = site.path("state/audit");
    fs::create_dir_all(&audit).unwrap();
    let Some(disk) = SmallDisk::mount(&audit) else { return };
    let daemon = site.start();
    let mut sensor = site.thermometer("line1", &[]);
    site.pair("line1", &mut sensor).ok();
    assert_eq!((problem(&site.status()), alarm(&site.status())), (None, None));

    disk.fill();
    let told = until("the status says it", || {
        // Goes on without its line.
        site.run(&["token", "rotate", "line1"]).ok();
        problem(&site.status())
    });
    assert!(told.contains("lines could not be written") && told.contains("No space left"), "{told}");
    assert_eq!(site.run(&["status"]).code, 8);
    let alarm_says = until("the alarm stands", || alarm(&site.status()));
    assert!(alarm_says["words"].as_str().unwrap().contains("No space left"), "{alarm_says}");
    assert!(alarm_says["next_step"].as_str().unwrap().contains("Make room"), "{alarm_says}");
    assert!(metric(&site, "clawgate_audit_missing") > 0);
    let alarms = || site.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    until("the alarm is counted", || alarms().contains("clawgate_alarms_total{kind=\"audit\"} 1").then_some(()));
    assert!(site.log().contains("an audit event is missing in the log"));
    // A code rests on its lines: none is made, and none that was half made can be used.
    let refused = site.run(&["code", "new"]);
    assert!(refused.code != 0 && refused.err.contains("the audit log must be writable"), "{refused:?}");
    let codes = site.run(&["code", "ls", "--json"]).json();
    assert!(codes.as_array().unwrap().iter().all(|code| code["state"] != "active"), "{codes}");
    // Readings flow, and a thief is cut off.
    let device = || site.status()["devices"][0].clone();
    let confirmed = || device()["relay"]["confirmed"].as_u64().unwrap();
    let before = confirmed();
    until("readings go on", || (confirmed() > before).then_some(()));
    site.run(&["token", "revoke", "line1", "--why", "stolen"]).ok();
    assert_eq!(device()["token"]["state"], "revoked");

    disk.make_room();
    until("it is over", || {
        let status = site.status();
        (problem(&status).is_none() && alarm(&status).is_none()).then_some(())
    });
    assert_eq!(metric(&site, "clawgate_audit_missing"), 0);
    let line =
        site.audit().into_iter().find(|line| line["action"] == "audit.missing").expect("the log does not say it");
    assert!(line["outcome"] == "failed" && line["reason"].as_str().unwrap().contains("No space left"), "{line}");
    assert!(line["details"]["lines"].as_u64().unwrap() >= 3 && line["details"]["since"].is_string(), "{line}");
    site.run(&["code", "new"]).ok();
    assert_eq!(daemon.stop(), 0);
    site.run(&["audit", "verify", "--state-dir", site.path("state").to_str().unwrap()]).ok();
}
