//! State, codes and audit log when the process is killed or the disk refuses: what was reported as done is there,
//! nothing is half done, and an error was never reported as success.
//!
//! A child (this same executable) works and prints each thing that was reported as done; the parent kills it or
//! breaks its disk, then opens what is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clawgate::audit::{Action, Actor, Audit, Event, Selection, Trust, verify};
use clawgate::clock::Clock;
use clawgate::ids::{DeviceId, PairingId};
use clawgate::pairing::code::CodeRequest;
use clawgate::pairing::code_book::Codes;
use clawgate::secret::Secret;
use clawgate::store::{DeviceInfo, KeySlot, NewPairing, Store, StoreOptions};
use clawgate::token::{Limits, Stage};

const DIR: &str = "STATE_FAULTS_DIR";
const WORK: &str = "STATE_FAULTS_WORK";
const DEVICES: u64 = 4;

struct State {
    store: Store,
    audit: Audit,
    codes: Codes,
}

fn open(dir: &Path) -> State {
    let store =
        Store::open(&StoreOptions { dir: dir.join("state"), ..StoreOptions::default() }, Clock::system()).unwrap();
    let audit = Audit::open(&dir.join("audit"), &store.seed("audit").unwrap(), Clock::system()).unwrap();
    let codes = Codes::start(store.clone(), audit.clone(), Clock::system(), Stage::Prod).unwrap();
    State { store, audit, codes }
}

/// Does the `number`th thing; on success says what is promised from then on.
fn step(state: &State, number: u64) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    match number % 4 {
        // Not where faults are injected by the count of calls: its own calls would move them.
        3 if number % 16 == 15 && env::var(WORK).is_err() => {
            state.store.rotate_master_key().map_err(|e| text(&e))?;
            Ok(format!("rekeyed {number}"))
        }
        0 => {
            let event = Event::done(Actor::Daemon, Action::AlarmRaise, number.to_string());
            state.audit.record(event).map_err(|e| text(&e))?;
            Ok(format!("audit {number}"))
        }
        1 => {
            state.store.put_secret("counter", &number.to_be_bytes()).map_err(|e| text(&e))?;
            Ok(format!("secret {number}"))
        }
        2 => {
            let device: DeviceId = format!("d{}", number / 4 % DEVICES).parse().unwrap();
            let pairing = PairingId(number.to_be_bytes());
            let key = KeySlot { pairing, record: Secret::new(number.to_be_bytes().repeat(30)) };
            let hardware_id = format!("hw-{device}");
            let new = NewPairing { device: device.clone(), hardware_id, info: DeviceInfo::default(), key, code: None };
            state.store.put_pending(&new).map_err(|e| text(&e))?;
            state.store.confirm_pending(&device, pairing).map_err(|e| text(&e))?;
            Ok(format!("paired {number}"))
        }
        _ => {
            let sensor = format!("th-{}", number % 3);
            let request = CodeRequest {
                label: None,
                stage: Stage::Prod,
                hardware_id: Some(sensor.clone()),
                device: None,
                scopes: vec![],
                limits: Limits::default(),
                ttl: Duration::from_secs(600),
                idle: None,
                max_attempts: 3,
            };
            state.codes.new_code(request, Actor::Daemon).map_err(|e| text(&e))?;
            let claim = state.codes.claim(&sensor).map_err(|e| text(&e))?;
            state.codes.count_attempt(&claim.record.id).map_err(|e| text(&e))?;
            Ok(format!("attempt {}", claim.record.id))
        }
    }
}

/// The child: works for ever, or until `WORK` steps are done.
#[test]
#[ignore = "runs as the child of the others"]
fn child() {
    let dir = env::var(DIR).unwrap();
    let state = open(Path::new(&dir));
    let steps = env::var(WORK).ok().and_then(|steps| steps.parse().ok()).unwrap_or(u64::MAX);
    let first = u64::from(std::process::id()) << 32;
    for number in first..first.saturating_add(steps) {
        match step(&state, number) {
            Ok(done) => println!("\nack {done}"),
            Err(error) => println!("\nerror {error}"),
        }
    }
}

/// The command of the child, under `wrapper` if there is one.
fn command(wrapper: &[&str], dir: &Path) -> Command {
    let own = env::current_exe().unwrap();
    let mut words = wrapper.iter().map(Into::into).chain([own.into_os_string()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The promises of a child, from its output; `each` sees every one as it comes.
fn listen(child: &mut Child, mut each: impl FnMut(usize)) -> (Vec<String>, Vec<String>) {
    let (mut acks, mut errors) = (Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(ack) = line.strip_prefix("ack ") {
            acks.push(ack.to_owned());
            each(acks.len());
        } else if let Some(error) = line.strip_prefix("error ") {
            errors.push(error.to_owned());
        }
    }
    (acks, errors)
}

/// Opens what is left and holds it against the promises.
fn check(dir: &Path, acks: &[String]) {
    let state = open(dir);
    let mut kept = Vec::new();
    state.audit.export(Selection::default(), true, &mut kept).unwrap();
    let kept = String::from_utf8(kept).unwrap();
    let report = verify(&dir.join("audit"), &Trust::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let codes: BTreeMap<String, u8> =
        state.codes.list().unwrap().into_iter().map(|code| (code.id.to_string(), code.attempts)).collect();
    let mut paired = BTreeMap::new();
    let mut counter = 0;
    for ack in acks {
        let (what, value) = ack.split_once(' ').unwrap();
        match what {
            "audit" => assert!(kept.contains(&format!("\"subject\":\"{value}\"")), "{ack} is lost"),
            "attempt" => assert_eq!(codes.get(value), Some(&1), "{ack} is lost"),
            // That the state opens is what is promised.
            "rekeyed" => {}
            "secret" => counter = value.parse().unwrap(),
            _ => {
                let number: u64 = value.parse().unwrap();
                paired.insert(number / 4 % DEVICES, number);
            }
        }
    }
    if counter > 0 {
        let secret = state.store.secret("counter").unwrap().unwrap();
        assert!(u64::from_be_bytes(secret.expose().as_slice().try_into().unwrap()) >= counter);
    }
    for (index, number) in paired {
        let device = state.store.device(&format!("d{index}").parse().unwrap()).unwrap().unwrap();
        assert!(u64::from_be_bytes(device.current.unwrap().0) >= number, "an old key came back");
    }
    for known in state.store.devices_with_keys().unwrap() {
        assert_eq!(known.keys.len(), known.device.pairings().count(), "a pairing without its key");
        for key in &known.keys {
            assert_eq!(key.record.expose(), &key.pairing.0.repeat(30), "half a key");
        }
    }
}

#[test]
fn kill_nine_at_any_moment_loses_nothing_that_was_promised() {
    let temp = tempfile::tempdir().unwrap();
    let mut promised = Vec::new();
    for round in 1..=12_usize {
        let mut child = command(&[], temp.path()).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        // At a random moment after a promise, which is while the next thing is being done.
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let (moment, pause) = (round * 7 + usize::from(random[0] % 8), u64::from(random[1]) * 8);
        let (acks, _) = listen(&mut child, |count| {
            if count == moment {
                std::thread::sleep(Duration::from_micros(pause));
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        });
        child.wait().unwrap();
        assert!(acks.len() >= moment);
        // A later promise about the same thing stands for the earlier ones; codes of all rounds stay.
        promised.extend(acks);
        check(temp.path(), &promised);
    }
}

#[test]
fn an_fsync_that_fails_is_an_error_and_what_was_promised_stays() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("not run: failing an fsync needs strace");
        return;
    }
    for fault in ["fsync,fdatasync:error=EIO:when=30+7", "pwrite64,write:error=ENOSPC:when=150+90"] {
        let temp = tempfile::tempdir().unwrap();
        drop(open(temp.path()));
        let calls = format!("trace={}", fault.split(':').next().unwrap());
        let (log, inject) = (temp.path().join("strace.log"), format!("inject={fault}"));
        let wrapper = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &calls, "-e", &inject];
        let mut child = command(&wrapper, temp.path()).env(WORK, "120").spawn().unwrap();
        let (acks, errors) = listen(&mut child, |_| {});
        child.wait().unwrap();
        let injected = fs::read_to_string(&log).unwrap().matches("INJECTED").count();
        assert!(injected > 3 && !errors.is_empty(), "{fault}: {injected} injected, errors: {errors:?}");
        for disk_user in ["audit log", "state.db"] {
            assert!(
                errors.iter().any(|error| error.contains(disk_user)),
                "{fault}: {disk_user} said nothing: {errors:?}"
            );
        }
        assert!(acks.len() > 20, "{fault}: it did not go on: {errors:?}");
        check(temp.path(), &acks);
    }
}

#[test]
fn a_full_or_read_only_disk_is_an_error_with_a_way_out_and_work_goes_on_after_it() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    // A mount namespace of its own: the small disk is seen by the child alone, and goes with it.
    let script = "mount -t tmpfs -o size=1200k none \"$0\" && exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, dir];
    let own = env::current_exe().unwrap();
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(own)
        .args(["--exact", "small_disk", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .output();
    let Ok(output) = output else { return eprintln!("not run: a small disk needs unshare") };
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("running 1 test") {
        return eprintln!("not run: this user may not mount: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs on a disk of 1.2 MB of its own.
#[test]
#[ignore = "runs as the child of the one above"]
fn small_disk() {
    let dir = env::var(DIR).unwrap();
    let dir = Path::new(&dir);
    let mut acks = Vec::new();
    {
        let state = open(dir);
        let work = |from: u64, acks: &mut Vec<String>| -> Vec<String> {
            let results: Vec<_> = (from..from + 80).map(|number| step(&state, number)).collect();
            let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            acks.extend(done.into_iter().flatten());
            failed.into_iter().filter_map(Result::err).collect()
        };
        assert_eq!(work(0, &mut acks), [""; 0], "a healthy disk");
        let ballast = dir.join("ballast");
        let filled = fs::write(&ballast, vec![0; 2 << 20]);
        assert!(filled.is_err(), "the disk is full now");
        let errors = work(80, &mut acks);
        assert!(errors.iter().any(|error| error.contains("free space")), "{errors:?}");
        assert!(errors.iter().any(|error| error.contains("audit")), "{errors:?}");
        fs::remove_file(&ballast).unwrap();
        assert_eq!(work(160, &mut acks), [""; 0], "room again");
    }
    check(dir, &acks);

    let remount = |how: &str| {
        Command::new("mount").args(["-o", how]).arg(dir).status().unwrap().success().then_some(()).expect("remount");
    };
    remount("remount,ro");
    let options = StoreOptions { dir: dir.join("state"), ..StoreOptions::default() };
    let error = Store::open(&options, Clock::system()).unwrap_err();
    assert!(error.to_string().contains("ead-only"), "{error}");
    remount("remount,rw");
    check(dir, &acks);
}
