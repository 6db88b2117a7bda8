//! The gateway from a pipeline: JSON on every verb, requests that may be made again, the environment, and the shell of
//! docs/pipeline.md as it stands there.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::site::{Daemon, Ended, Sensor, Site, end, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_clawgate");

/// A daemon with one sensor on its line.
fn bench() -> (Site, Daemon, Sensor) {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("bench")));
    let sensor = site.thermometer("bench", &["--device", "th-77"]);
    let daemon = site.start();
    (site, daemon, sensor)
}

/// Every verb that does something, with the verbs before it, as the help lists them.
fn verbs(site: &Site, before: &[String]) -> Vec<String> {
    let mut args: Vec<&str> = before.iter().map(String::as_str).collect();
    args.push("--help");
    let help = site.run(&args).ok().out;
    let lines = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let lines = lines.take_while(|line| line.starts_with("  ")).filter(|line| !line.starts_with("   "));
    let names: Vec<String> = lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    if names.is_empty() {
        return vec![before.join(" ")];
    }
    names.into_iter().filter(|name| name != "help").flat_map(|name| verbs(site, &[before, &[name]].concat())).collect()
}

fn is_json(ended: &Ended) -> bool {
    let is_json =
        |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|value| value.is_object() || value.is_array());
    !ended.out.is_empty() && ended.out.lines().all(is_json)
}

#[test]
fn every_verb_answers_in_json_also_when_it_refuses() {
    let (site, daemon, mut sensor) = bench();
    let paired = {
        site.open_window("bench", &mut sensor);
        site.run_with(&["pair", "bench", "--name", "bench", "--json"], &sensor.label)
    };
    assert!(paired.code == 0 && is_json(&paired) && paired.err.is_empty(), "{paired:?}");
    let code = site.run(&["code", "new", "--json"]).ok().json()["id"].as_str().unwrap().to_owned();
    let (config, state) = (site.config().display().to_string(), site.path("state").display().to_string());
    let (key, keyfile) = (site.path("backup.key").display().to_string(), site.path("client.pem").display().to_string());
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let backup = site.path("backup").display().to_string();

    // What each verb is run with, where it needs something; in this order, before and after the daemon was stopped.
    let running: &[(&str, &[&str])] = &[
        ("scan", &["--for", "300ms"]),
        ("identify", &["bench"]),
        ("devices ls", &[]),
        ("devices show", &["bench"]),
        ("devices rename", &["bench", "pump-3"]),
        ("code new", &["--label", "x"]),
        ("code ls", &[]),
        ("code show", &[&code]),
        ("code explain", &[&code]),
        ("code revoke", &[&code]),
        ("token ls", &[]),
        ("token rotate", &["pump-3"]),
        ("token revoke", &["pump-3", "--why", "stolen"]),
        ("key ls", &[]),
        ("key rotate", &["issuer"]),
        ("dead-letters ls", &[]),
        ("dead-letters replay", &["pump-3"]),
        ("dead-letters drop", &["pump-3"]),
        ("status", &[]),
        ("doctor", &["--config", &config]),
        ("audit tail", &[]),
        ("audit export", &[]),
        ("unpair", &["pump-3"]),
        ("pair", &["nothing-there"]),
    ];
    let stopped: &[(&str, &[&str])] = &[
        ("audit verify", &["--state-dir", &state]),
        ("config check", &["--config", &config]),
        ("backup create", &[&backup, "--key", &key, "--config", &config]),
        ("backup restore", &[&backup, "--key", &key, "--config", &config, "--replace"]),
        ("issuer key", &[&keyfile]),
        ("issuer token", &["--client", "nobody", "--key", &keyfile, "--url", "http://127.0.0.1:1"]),
    ];
    // They run until they are stopped (each is started so by other tests), or print another program's language.
    let others = ["run", "watch", "issuer serve", "demo", "completions", "man"];
    let try_it = |(verb, args): &(&str, &[&str])| {
        let line: Vec<&str> = verb.split(' ').chain(args.iter().copied()).chain(["--json"]).collect();
        let ended = site.run_with(&line, &sensor.label);
        assert!(is_json(&ended), "{verb}: {ended:?}");
        assert!(!ended.err.contains("Usage:"), "{verb}: {ended:?}");
        ended
    };
    for case in running {
        let ended = try_it(case);
        let expected: &[i32] = match case.0 {
            "pair" => &[2, 3, 5, 6],
            "status" | "doctor" => &[0, 8],
            _ => &[0],
        };
        assert!(expected.contains(&ended.code), "{case:?}: {ended:?}");
    }
    assert_eq!(daemon.stop(), 0);
    for case in stopped {
        let code = try_it(case).code;
        assert!(code == 0 || case.0 == "issuer token", "{case:?}: {code}");
    }
    // A verb that is new here, or that nobody answers, says that in JSON too.
    for verb in verbs(&site, &[]) {
        let known = running.iter().chain(stopped).any(|(known, _)| *known == verb);
        let words: Vec<&str> = verb.split(' ').chain(["--json"]).collect();
        if !known && !others.contains(&verb.as_str()) {
            let ended = site.run(&words);
            assert!(ended.code == 2 || is_json(&ended), "{verb}: {ended:?}");
        }
    }
    let gone = site.run(&["status", "--json"]);
    assert!(gone.code == 1 && is_json(&gone), "{gone:?}");
}

#[test]
fn what_is_watched_comes_as_json_lines() {
    let site = Site::standalone("");
    let daemon = site.start();
    let mut command = site.command(Path::new(PROGRAM), &["watch", "--json"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(lines.next()));
    // What happens until it has begun to watch is not in it: it happens again, there and back, each for a while.
    let mut log_levels = ["none", "info"].into_iter().cycle();
    let line = until("something is seen", || {
        let level = log_levels.next().unwrap_or_default();
        let log = format!("[log]\nlevel = {level:?}\n");
        site.configure(&format!("mode = \"standalone\"\n{log}[standalone]\nlisten = \"127.0.0.1:0\"\n"));
        daemon.signal(rustix::process::Signal::HUP);
        told.recv_timeout(std::time::Duration::from_secs(2)).ok()
    });
    let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
    assert!(line["at"].is_string() && line["what"].is_string(), "{line}");
    let _ = watching.kill();
    let _ = watching.wait();
}

#[test]
fn a_code_is_made_once_for_a_key_and_ending_it_twice_is_ok() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let new = |more: &[&str]| site.run(&[&["code", "new", "--json", "--idempotency-key", "run-7"], more].concat());
    let first = new(&["--label", "a"]).ok().json();
    assert!(first["made"] == true && first["code"].is_string(), "{first}");
    let again = new(&["--label", "a"]).ok().json();
    assert_eq!((&again["id"], &again["made"], &again["code"]), (&first["id"], &false.into(), &Value::Null));
    assert_eq!(new(&["--label", "b"]).code, 2);
    assert_eq!(site.run(&["code", "ls", "--json"]).json().as_array().unwrap().len(), 1);
    assert!(site.run(&["code", "new", "--idempotency-key", "run-7", "--label", "a"]).ok().out.contains("shown then"));

    let id = first["id"].as_str().unwrap();
    for _ in 0..2 {
        site.run(&["code", "revoke", id, "--why", "end of the run"]).ok();
    }
    assert_eq!(site.run(&["code", "revoke", "ocpc_nothing"]).code, 3);
    // The key still stands for the one that is over: no other code comes of a request that is made again.
    assert_eq!(new(&["--label", "a"]).ok().json()["id"], first["id"]);
}

/// A script that mistypes reads what is wrong where it reads everything else.
#[test]
fn a_command_line_that_is_wrong_says_so_in_json_too() {
    let site = Site::standalone("");
    let refused = |command: &mut Command| {
        let ended = end(command);
        assert!(ended.code == 2 && ended.err.is_empty(), "{ended:?}");
        ended.json()
    };
    for (line, words) in [
        (
            &["--json", "code", "new", "--ttl", "banana"][..],
            "invalid value 'banana' for '--ttl <DURATION>': whole seconds",
        ),
        (&["code", "nwe", "--json"], "unrecognized subcommand 'nwe'"),
        (&["code", "show", "--json"], "required arguments were not provided: <ID>"),
    ] {
        let told = refused(&mut site.command(Path::new(PROGRAM), line));
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
        assert_eq!((&told["exit_code"], &told["code"]), (&2.into(), &"bad_request".into()));
    }
    let mut command = site.command(Path::new(PROGRAM), &["code", "new", "--rate", "many"]);
    assert!(refused(command.env("OPENCLAW_JSON", "1"))["message"].as_str().unwrap().contains("'many'"));
    let person = site.run(&["code", "new", "--rate", "many"]);
    assert!(person.code == 2 && person.out.is_empty() && person.err.contains("--help"), "{person:?}");
}

#[test]
fn what_is_not_said_is_taken_from_the_environment() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let run = |args: &[&str]| {
        let mut command = site.command(Path::new(PROGRAM), args);
        command.env_remove("CLAWGATE_SOCKET").env("OPENCLAW_SOCKET", site.socket()).env("OPENCLAW_JSON", "1");
        let wishes = [("LABEL", "night run"), ("STAGE", "prod"), ("SENSOR", "th-77"), ("DEVICE", "pump-3")];
        let more = [("TTL", "5m"), ("SCOPES", "telemetry:write,command:read"), ("IDEMPOTENCY_KEY", "run-8")];
        let limits = [("IDLE", "1m"), ("ALLOW_ADDRESSES", "192.0.2.0/24,2001:db8::/32"), ("RATE", "5")];
        for (name, value) in wishes.into_iter().chain(more).chain(limits) {
            command.env(format!("OPENCLAW_{name}"), value);
        }
        end(command.env("OPENCLAW_WHY", "by the environment")).ok()
    };
    let made = run(&["code", "new"]).json();
    assert_eq!(made["ttl_s"], 300);
    let listed = run(&["code", "ls"]).json()[0].clone();
    assert_eq!(
        (&listed["label"], &listed["sensor"], &listed["device"]),
        (&"night run".into(), &"th-77".into(), &"pump-3".into())
    );
    assert_eq!(listed["scopes"], serde_json::json!(["telemetry:write", "command:read"]));
    assert_eq!(listed["addresses"], serde_json::json!(["192.0.2.0/24", "2001:db8::/32"]));
    assert_eq!((&listed["idle_s"], &listed["per_second"]), (&60.into(), &5.into()));
    assert_eq!(run(&["code", "new"]).json()["made"], false);
    run(&["code", "revoke", made["id"].as_str().unwrap()]);
    assert_eq!(run(&["code", "new", "--label", "said", "--idempotency-key", "other"]).json()["made"], true);
    let revoked = |entry: &Value| entry["action"] == "code.revoke" && entry["reason"] == "by the environment";
    assert!(site.audit().iter().any(revoked), "{:?}", site.audit());
}

/// The shell of the page, in a folder with `clawgate` on the path and a hand-over of the test's.
fn pipeline(site: &Site, run: &str, hand_over: &str) -> Command {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pipeline.md")).unwrap();
    let block = page.split_once("<!-- A test runs this block. -->\n```sh\n").unwrap().1;
    let script = site.path("pipeline.sh");
    fs::write(&script, block.split_once("\n```").unwrap().0).unwrap();
    let program = site.script("hand-over", hand_over);
    let folder = Path::new(PROGRAM).parent().unwrap().display().to_string();
    let mut command = site.command(Path::new("/bin/sh"), &[script.to_str().unwrap()]);
    command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
    command.env("RUN_ID", run).env("SENSOR", "th-77").env("DEVICE", "pump-3").env("HAND_OVER", program);
    command
}

#[test]
fn the_pipeline_of_the_documentation_mints_hands_over_and_cleans_up() {
    let (site, _daemon, mut sensor) = bench();
    let note = site.path("note");
    let mut command = pipeline(&site, "41", &format!("cat > {0}.new; mv {0}.new {0}", note.display()));
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The technician enters the code at the sensor.
    let code = until("the code is handed over", || fs::read_to_string(&note).ok().filter(|text| !text.is_empty()));
    sensor.say(&format!("code {}", code.trim()));
    let output = running.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{err}\n{}", site.log());
    let device: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&device["id"], &device["scopes"]), (&"pump-3".into(), &serde_json::json!(["telemetry:write"])));
    assert!(!err.contains(code.trim()) && !out.contains(code.trim()), "the code is in the pipeline's log");

    // A run whose hand-over fails leaves no code behind.
    let failed = end(&mut pipeline(&site, "42", "exit 9"));
    assert_ne!(failed.code, 0, "{failed:?}");
    let codes = site.run(&["code", "ls", "--json"]).ok().json();
    let states: Vec<&str> = codes.as_array().unwrap().iter().map(|code| code["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["revoked", "used"], "{codes}");
    let audit = site.audit();
    let why = |entry: &&Value| entry["action"] == "code.revoke" && entry["reason"] == "end of run 42";
    assert_eq!(audit.iter().filter(why).count(), 1);
}
