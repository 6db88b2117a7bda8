//! The audit log of the real daemon, held against two verifiers: ours, and one in Python that was written from
//! docs/audit.md alone. Whatever was done to the log, both find it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clawgate::audit::{Action, Actor, Audit, AuditKeys, Event, Retention};
use clawgate::clock::Clock;
use clawgate::secret::Secret;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::site::{Ended, Site, end, until};

/// A state directory with a log in it, to be spoiled.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(log: &Path) -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(copy.log()).unwrap();
        for file in fs::read_dir(log).unwrap() {
            let file = file.unwrap();
            let copied = fs::copy(file.path(), copy.log().join(file.file_name()));
            // What a daemon writes beside its place and moves there may be gone.
            assert!(copied.is_ok() || !file.path().exists(), "{copied:?}");
        }
        copy
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    /// The log's files, the newest last.
    fn files(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(self.log()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("audit-")).collect();
        names.sort();
        names.iter().map(|name| self.log().join(name)).collect()
    }

    fn file(&self) -> PathBuf {
        self.files().pop().unwrap()
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.file()).unwrap().lines().map(str::to_owned).collect()
    }

    fn rewrite(&self, lines: &[String]) {
        fs::write(self.file(), lines.join("\n") + "\n").unwrap();
    }

    fn checkpoint(&self) -> PathBuf {
        self.log().join("checkpoint.json")
    }

    /// What both verifiers say, in one word each.
    fn verdicts(&self, site: &Site, more: &[&str]) -> (bool, bool) {
        let state = self.dir.path().to_str().unwrap();
        let ours = site.run(&[&["audit", "verify", "--state-dir", state], more].concat());
        let theirs = python(&[&[self.log().to_str().unwrap()], more].concat());
        for ended in [&ours, &theirs] {
            assert!(ended.code == 0 || ended.code == 1, "{ended:?}");
        }
        assert_eq!(ours.code == 0, ours.out.starts_with("whole"), "{ours:?}");
        // The same of the folder alone, as an auditor has it.
        let alone = site.run(&[&["audit", "verify", "--state-dir", self.log().to_str().unwrap()], more].concat());
        assert_eq!((alone.code, &alone.out), (ours.code, &ours.out), "{alone:?}");
        assert_eq!(theirs.code == 0, theirs.out.starts_with("whole"), "{theirs:?}");
        (ours.code == 0, theirs.code == 0)
    }
}

fn python(args: &[&str]) -> Ended {
    let verifier = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit-verifier/verify.py");
    end(Command::new("/usr/bin/python3").args(["-B", verifier]).args(args))
}

fn leaf(body: &str) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(body).finalize().into()
}

fn node(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A line's text with another `prev`, and its hash made right.
fn chained(line: &str, prev: &str) -> (String, [u8; 32]) {
    let open = line.rsplit_once(",\"hash\":\"").unwrap().0;
    let open = format!("{}\"prev\":\"{prev}\"", open.rsplit_once("\"prev\":\"").unwrap().0);
    let hash = leaf(&format!("{open}}}"));
    (format!("{open},\"hash\":\"{}\"}}", hex(&hash)), hash)
}

/// The whole chain made again, every hash right.
fn rebuilt(lines: &[String]) -> (Vec<String>, Vec<[u8; 32]>) {
    let mut prev = "0".repeat(64);
    lines
        .iter()
        .map(|line| {
            let (line, hash) = chained(line, &prev);
            prev = hex(&hash);
            (line, hash)
        })
        .unzip()
}

/// A checkpoint over these leaves, by a key of the forger's own.
fn forged_checkpoint(leaves: &[[u8; 32]]) -> String {
    let mut peaks: Vec<(u32, [u8; 32])> = Vec::new();
    for leaf in leaves {
        let (mut height, mut peak) = (0, *leaf);
        while let Some((_, left)) = peaks.pop_if(|(other, _)| *other == height) {
            (height, peak) = (height + 1, node(left, peak));
        }
        peaks.push((height, peak));
    }
    let root = peaks.iter().rev().map(|(_, peak)| *peak).reduce(|right, left| node(left, right)).unwrap();
    let texts: Vec<String> = peaks.iter().map(|(_, peak)| format!("\"{}\"", hex(peak))).collect();
    let key = SigningKey::from_bytes(&[66; 32]);
    let (size, last, zeros) = (leaves.len(), hex(leaves.last().unwrap()), "0".repeat(64));
    let body = format!(
        "{{\"size\":{size},\"root\":\"{}\",\"head\":{{\"edge\":{{\"size\":{size},\"peaks\":[{}]}},\"last\":\"{last}\"}},\
         \"base\":{{\"edge\":{{\"size\":0,\"peaks\":[]}},\"last\":\"{zeros}\"}},\"time_ms\":0,\"key\":\"{}\"",
        hex(&root),
        texts.join(","),
        hex(key.verifying_key().as_bytes())
    );
    let signature = key.sign(format!("clawgate audit checkpoint 1\n{body}}}").as_bytes());
    format!("{body},\"signature\":\"{}\"}}\n", hex(&signature.to_bytes()))
}

#[test]
fn the_daemons_log_is_whole_and_whatever_is_done_to_it_both_verifiers_find() {
    let site = Site::standalone("");
    let daemon = site.start();
    for label in ["one", "two", "three"] {
        site.run(&["code", "new", "--label", label]).ok();
    }
    assert_eq!(site.run(&["code", "revoke", "ocpc_nothing"]).code, 3);
    let log = site.path("state/audit");
    // The daemon may be writing: a copy that was made between two files of one line is no copy of the log.
    let early = until("the log is copied as a whole", || {
        Some(Copy::of(&log)).filter(|copy| copy.verdicts(&site, &[]) == (true, true))
    });
    site.run(&["code", "new", "--label", "four"]).ok();
    let export = site.path("export");
    fs::write(&export, site.run(&["audit", "export"]).ok().out).unwrap();
    assert_eq!(daemon.stop(), 0);

    let good = Copy::of(&log);
    let lines = good.lines();
    assert!(lines.len() > 8, "{lines:?}");
    let key: Value = serde_json::from_str(&fs::read_to_string(good.checkpoint()).unwrap()).unwrap();
    let key = key["key"].as_str().unwrap().to_owned();
    let anchors = [early.checkpoint(), good.checkpoint(), export.clone()];
    assert_eq!(good.verdicts(&site, &[]), (true, true));
    for anchor in &anchors {
        let told = good.verdicts(&site, &["--key", &key, "--anchor", anchor.to_str().unwrap()]);
        assert_eq!(told, (true, true), "{}", anchor.display());
    }
    assert!(python(&[export.to_str().unwrap()]).ok().out.starts_with("whole"));

    let edited = |from: &str, to: &str| {
        let changed: Vec<String> = lines.iter().map(|line| line.replace(from, to)).collect();
        assert_ne!(changed, lines, "{from}");
        changed
    };
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat();
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    // One line's content changed and its own hash made right.
    let mut patched = lines.clone();
    let other = lines[3].replacen("\"outcome\":\"ok\"", "\"outcome\":\"failed\"", 1);
    let before: Value = serde_json::from_str(&lines[2]).unwrap();
    patched[3] = chained(&other, before["hash"].as_str().unwrap()).0;
    let (remade, leaves) = rebuilt(&edited("\"three\"", "\"other\""));
    let cases = [
        ("an edit", edited("\"two\"", "\"TWO\"")),
        ("an edit with its hash made right", patched),
        ("a deletion", without(3)),
        ("a deletion of the first line", without(0)),
        ("a reordering", swapped),
        ("a truncation", lines[..lines.len() - 2].to_vec()),
        ("an empty log", Vec::new()),
        ("a rebuilt chain", remade.clone()),
    ];
    for (what, lines) in cases {
        let copy = Copy::of(&log);
        copy.rewrite(&lines);
        assert_eq!(copy.verdicts(&site, &[]), (false, false), "{what}");
    }

    let copy = Copy::of(&log);
    fs::remove_file(copy.checkpoint()).unwrap();
    assert_eq!(copy.verdicts(&site, &[]), (false, false), "no checkpoint");
    let text = fs::read_to_string(good.checkpoint()).unwrap();
    for (from, to) in [("\"time_ms\":1", "\"time_ms\":2"), ("\"signature\":\"", "\"signature\":\"00")] {
        let forged = text.replacen(from, to, 1);
        assert_ne!(forged, text);
        fs::write(copy.checkpoint(), forged).unwrap();
        assert_eq!(copy.verdicts(&site, &[]), (false, false), "a forged checkpoint: {from}");
    }

    // Without something kept elsewhere nothing can tell a log that was made again with another key, or cut together
    // with its checkpoint: with it, both can.
    copy.rewrite(&remade);
    fs::write(copy.checkpoint(), forged_checkpoint(&leaves)).unwrap();
    assert_eq!(copy.verdicts(&site, &[]), (true, true));
    assert_eq!(copy.verdicts(&site, &["--key", &key]), (false, false), "rebuilt under another key");
    for anchor in &anchors {
        assert_eq!(copy.verdicts(&site, &["--anchor", anchor.to_str().unwrap()]), (false, false));
    }
    assert_eq!(early.verdicts(&site, &[]), (true, true));
    let anchor = export.to_str().unwrap();
    assert_eq!(early.verdicts(&site, &["--key", &key, "--anchor", anchor]), (false, false), "cut with its checkpoint");
}

#[test]
fn a_log_that_lost_its_oldest_lines_and_changed_its_key_twice_is_whole_for_both() {
    let site = Site::standalone("");
    let copy = Copy { dir: tempfile::tempdir().unwrap() };
    let seeds = [Secret::new([1; 32]), Secret::new([2; 32]), Secret::new([3; 32])];
    let keys = AuditKeys { current: &seeds[0], next: None, is_known: false };
    let small = Retention { max_bytes: 16 * 1520, max_age: None };
    let audit = Audit::open_with(&copy.log(), &keys, small, Clock::system()).unwrap();
    let record = |count: usize| {
        for number in 0..count {
            let event =
                Event::done(Actor::Cloud { key: None }, Action::AlarmRaise, format!("fühler-{number} \u{1f600}\n"));
            audit.record(event.because("\u{202e}")).unwrap();
        }
    };
    record(3);
    let (first, oldest) = (audit.key(), serde_json::to_string(&*audit.checkpoints().borrow()).unwrap());
    audit.rotate_key(&seeds[1], Actor::Daemon).unwrap();
    record(80);
    let anchor = serde_json::to_string(&*audit.checkpoints().borrow()).unwrap();
    audit.rotate_key(&seeds[2], Actor::Daemon).unwrap();
    record(3);
    assert!(copy.log().join("keys.jsonl").exists() && !copy.log().join("audit-000000000000.jsonl").exists());

    let files = [copy.dir.path().join("oldest"), copy.dir.path().join("anchor")];
    fs::write(&files[0], oldest).unwrap();
    fs::write(&files[1], anchor).unwrap();
    for key in [first, audit.key()] {
        for file in &files {
            let told = copy.verdicts(&site, &["--key", &key.to_string(), "--anchor", file.to_str().unwrap()]);
            assert_eq!(told, (true, true), "{key} {}", file.display());
        }
    }
    // Signed by a key that was replaced, or by none that is known: found by both.
    let text = fs::read_to_string(copy.log().join("keys.jsonl")).unwrap();
    fs::write(copy.log().join("keys.jsonl"), "").unwrap();
    assert_eq!(copy.verdicts(&site, &["--key", &first.to_string()]), (false, false));
    fs::write(copy.log().join("keys.jsonl"), text).unwrap();
    let file = copy.files().into_iter().find(|file| fs::read_to_string(file).unwrap().contains("audit.key")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| line.contains("audit.key")).unwrap();
    let entry: Value = serde_json::from_str(line).unwrap();
    let signature = entry["details"]["signature"].as_str().unwrap();
    fs::write(&file, text.replace(signature, &"0".repeat(128))).unwrap();
    assert_eq!(copy.verdicts(&site, &[]), (false, false));
}

#[test]
fn an_export_is_resumed_by_number_and_followed_as_it_grows() {
    let site = Site::standalone("");
    let daemon = site.start();
    site.run(&["code", "new"]).ok();
    let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64();
    let whole = site.run(&["audit", "export"]).ok().out;
    let last = whole.lines().filter_map(number).max().unwrap();
    let rest = site.run(&["audit", "export", "--after", &last.to_string()]).ok().out;
    // The line about the export itself, and the checkpoint.
    assert_eq!(rest.lines().map(number).collect::<Vec<_>>(), [Some(last + 1), None]);
    assert_eq!(site.run(&["audit", "export", "--since", "1h"]).ok().out.lines().filter_map(number).min(), Some(0));
    assert_eq!(site.run(&["audit", "export", "--since", "2099-01-01T00:00:00Z"]).ok().out.lines().count(), 1);
    assert_eq!(site.run(&["audit", "export", "--since", "yesterday"]).code, 2);

    let program = Path::new(env!("CARGO_BIN_EXE_clawgate"));
    let mut command = site.command(program, &["audit", "export", "--follow", "--after", &last.to_string()]);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || number(&lines.next().unwrap().unwrap()).unwrap();
    let mut seen = next();
    assert_eq!(seen, last + 1);
    site.run(&["code", "new", "--label", "followed"]).ok();
    let newest = site.audit().last().unwrap()["seq"].as_u64().unwrap();
    while seen < newest {
        let line = next();
        assert_eq!(line, seen + 1);
        seen = line;
    }
    drop(daemon);
    until("who follows ends with the daemon", || follower.try_wait().unwrap());
}

#[test]
fn each_line_says_which_start_of_the_machine_it_was() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let boot: String = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
    assert!(site.audit().iter().all(|entry| entry["boot_id"] == boot.as_str() && entry["boot_ms"].is_u64()));
}
