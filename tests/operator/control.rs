//! The control socket against users who may not, and clients who will not.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::site::{DEADLINE, Daemon, STRANGER, Site, end, until};

#[test]
fn a_user_may_do_what_his_role_allows_and_is_told_what_is_missing() {
    if !rustix::process::geteuid().is_root() {
        // Only root can be somebody else.
        return;
    }
    let site = Site::standalone("");
    // The stranger must reach program and socket; the roles are what holds him.
    let program = site.program_for_all();
    let socket = site.socket().display().to_string();
    let configure = |roles: &str| {
        site.configure(&format!(
            "mode = \"standalone\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n[control]\nsocket = \"{socket}\"\n[control.roles]\n{roles}\n"
        ));
    };
    configure("");
    let daemon = site.start();
    let as_stranger = |args: &[&str]| end(site.command(&program, args).uid(STRANGER).gid(STRANGER));

    // The mode of the socket keeps him out before any role is looked at.
    assert!(as_stranger(&["status"]).err.contains("may not open"));
    fs::set_permissions(site.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let refused = as_stranger(&["status", "--json"]);
    assert_eq!(refused.json()["code"], "forbidden");
    assert!(refused.json()["message"].as_str().unwrap().contains("needs the role viewer"), "{refused:?}");

    let reload = |roles: &str| {
        configure(roles);
        daemon.signal(rustix::process::Signal::HUP);
    };
    reload(&format!("viewer = [\"uid:{STRANGER}\"]"));
    until("a viewer may look", || (as_stranger(&["status"]).code == 0).then_some(()));
    let refused = as_stranger(&["code", "new"]);
    assert!(refused.err.contains("needs the role operator; uid 65533 has the role viewer"), "{refused:?}");

    reload(&format!("operator = [\"gid:{STRANGER}\"]"));
    until("an operator may make a code", || (as_stranger(&["code", "new"]).code == 0).then_some(()));
    let refused = as_stranger(&["token", "rotate", "pump"]);
    assert!(refused.err.contains("needs the role admin"), "{refused:?}");
    assert_eq!(as_stranger(&["audit", "export"]).code, 1);

    // What he follows ends with the role.
    let mut watch = site.command(&program, &["watch"]);
    let mut watching = watch.uid(STRANGER).gid(STRANGER).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut words = BufReader::new(watching.stderr.take().unwrap()).lines();
    assert!(words.next().unwrap().unwrap().contains("Following"));
    reload("");
    let ended = until("the stream of a user without a role ends", || watching.try_wait().unwrap());
    assert!(!ended.success(), "nobody takes it for the daemon's end");

    // Who was refused what stands in the audit log; a user who goes on and on is counted.
    let refused = site.audit().into_iter().filter(|line| line["action"] == "control.call").collect::<Vec<_>>();
    let called =
        |call: &str| refused.iter().find(|line| line["subject"] == call).unwrap_or_else(|| panic!("{refused:?}"));
    let line = called("POST /v1/tokens/pump/rotate");
    assert_eq!((&line["outcome"], &line["actor"]["uid"]), (&json!("refused"), &json!(STRANGER)));
    assert_eq!(line["details"]["code"], "forbidden");
    called("GET /v1/audit/export");
    for _ in 0..20 {
        assert_eq!(as_stranger(&["audit", "export"]).code, 1);
    }
    let lines = site.audit().iter().filter(|line| line["action"] == "control.call").count();
    assert!(lines <= 20, "{lines} lines of one user within a minute");
}

#[test]
fn what_changed_something_or_should_have_stands_in_the_audit_log() {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("bench")));
    let mut sensor = site.thermometer("bench", &[]);
    let daemon = site.start();
    assert_eq!(site.pair("bench", &mut sensor).code, 0);
    site.run(&["identify", "bench"]).ok();
    site.run(&["token", "rotate", "bench"]).ok();
    assert_eq!(site.run(&["token", "rotate", "nobody"]).code, 3);
    site.run(&["devices", "rename", "bench", "pump-3"]).ok();
    site.run(&["token", "revoke", "pump-3", "--why", "stolen"]).ok();
    site.run(&["unpair", "pump-3"]).ok();
    site.run(&["status"]).ok();
    site.run(&["audit", "export"]).ok();
    let said: Vec<String> = site
        .audit()
        .iter()
        .map(|line| format!("{} {}", line["action"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            "daemon.start ok",
            "device.pair ok",
            "token.issue ok",
            "device.identify ok",
            "token.rotate ok",
            "control.call refused",
            "device.rename ok",
            "token.revoke ok",
            "device.unpair ok",
            "audit.export ok",
        ]
    );
    // Tokens that came by themselves are listed, at the latest at the end.
    assert_eq!(site.pair("bench", &mut sensor).code, 0);
    assert_eq!(daemon.stop(), 0);
    let _daemon = site.start();
    let lines = site.audit();
    let list = lines.iter().find(|line| line["action"] == "token.refresh").unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(list["actor"]["kind"], "daemon");
    assert!(!list["details"]["issued"].as_array().unwrap().is_empty(), "{list}");
}

fn memory_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
}

#[test]
fn a_large_request_is_refused_without_being_taken_in() {
    let site = Site::standalone("");
    let daemon = site.start();
    let before = memory_kib(&daemon);
    let mut request = post("/v1/codes", 100 << 20).into_bytes();
    request.resize(request.len() + (100 << 20), b' ');
    let answer = site.raw(&request);
    assert!(answer.is_empty() || answer.contains("413"), "{answer}");
    let chunked =
        "POST /v1/codes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut request = chunked.as_bytes().to_vec();
    for _ in 0..100 {
        request.extend(b"100000\r\n");
        request.resize(request.len() + (1 << 20), b' ');
        request.extend(b"\r\n");
    }
    let answer = site.raw(&request);
    assert!(answer.is_empty() || answer.contains("413"), "{answer}");
    let grown = memory_kib(&daemon).saturating_sub(before);
    assert!(grown < 8 * 1024, "the daemon took {grown} KiB for it");
    assert_eq!(site.run(&["status"]).code, 0);
}

#[test]
fn deep_json_and_unknown_fields_are_refused_in_words() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let deep = format!("{{\"label\":{}", "[".repeat(60_000));
    for body in [deep.as_str(), "{\"labl\": 1}", "not json", "", "{\"ttl_s\": -1}", "[]"] {
        let answer = site.raw(format!("{}{body}", post("/v1/codes", body.len())).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("\"exit_code\":2"), "{answer}");
    }
    let answer = site.raw(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no_route"), "{answer}");
    let answer = site.raw(b"\x16\x03\x01\x00garbage\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn slow_clients_are_cut_and_keep_nobody_out() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let slow = |begin: &[u8]| {
        let mut stream = UnixStream::connect(site.socket()).unwrap();
        stream.write_all(begin).unwrap();
        stream
    };
    let body = format!("{}{{\"label\":", post("/v1/codes", 1000));
    let mut dawdlers: Vec<_> = (0..6).map(|_| slow(b"GET /v1/status HT")).collect();
    dawdlers.push(slow(b""));
    let mut half_a_body = slow(body.as_bytes());
    assert_eq!(site.run(&["status"]).code, 0, "others are served meanwhile");
    // All of them together have one time, so that a bound that is gone is a failure and not a hang.
    let deadline = Instant::now() + DEADLINE;
    let rest = |stream: &mut UnixStream, what: &str| {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        // A reset is an end too, a time-out is none.
        let is_cut = end.is_ok() || Instant::now() < deadline;
        assert!(is_cut, "{what}: still connected after {DEADLINE:?}");
        String::from_utf8_lossy(&rest).into_owned()
    };
    for stream in &mut dawdlers {
        rest(stream, "half a header");
    }
    let answer = rest(&mut half_a_body, "half a body");
    assert!(answer.contains("too_slow"), "{answer}");
}

#[test]
fn one_user_cannot_hold_every_connection() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let held: Vec<_> = (0..64).map(|_| UnixStream::connect(site.socket()).unwrap()).collect();
    // Those beyond the bound are closed at once, not queued.
    let closed = until("the rest is closed", || {
        let closed = held.iter().filter(|stream| {
            stream.set_nonblocking(true).unwrap();
            matches!((&**stream).read(&mut [0]), Ok(0))
        });
        Some(closed.count()).filter(|count| *count >= 50)
    });
    assert!(closed < 64);
    drop(held);
    until("the seats are free again", || (site.run(&["status"]).code == 0).then_some(()));
}

#[test]
fn escapes_in_a_field_reach_no_terminal_log_or_audit_line() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let label = "a\u{1b}[31m\u{7}\nb\u{202e}";
    site.run(&["code", "new", "--label", label]).ok();
    let listed = site.run(&["code", "ls"]).ok().out;
    assert_eq!(listed.lines().count(), 2, "{listed:?}");
    assert!(listed.contains("a\\u{1b}[31m\\u{7}\\u{a}b\\u{202e}"), "{listed:?}");
    let body = serde_json::json!({ "target": "x\u{1b}]0;owned\u{7}\n2026 forged line", "name": "ok" }).to_string();
    site.raw(format!("{}{body}", post("/v1/pair", body.len())).as_bytes());
    let refused = site.run(&["identify", "x\u{1b}[2J\ny"]);
    assert!(!refused.err.contains('\u{1b}'), "{refused:?}");
    let log = site.log();
    assert!(!log.contains('\u{1b}') && !log.lines().any(|line| line.starts_with("2026 forged")), "{log}");
    let audit = site.run(&["audit", "export"]).ok().out;
    assert!(!audit.contains('\u{1b}') && audit.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()));
}

#[test]
fn a_sensors_own_name_reaches_no_terminal_log_or_audit_line_as_it_is() {
    const NAME: &str = "T\u{1b}[31m\nforged\u{202e}\u{9b}\u{7}";
    let site = Site::standalone("");
    site.configure(&format!(
        "mode = \"standalone\"\n{}[log]\nlevel = \"trace\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n",
        site.line("bench")
    ));
    let mut sensor = site.sensor_with("bench", &["--name", NAME]);
    let _daemon = site.start();
    let mut seen = vec![("pair", site.pair("bench", &mut sensor).ok())];
    for verb in [
        &["scan", "--for", "100ms"][..],
        &["devices", "ls"],
        &["devices", "show", "bench"],
        &["status"],
        &["audit", "tail"],
        &["audit", "export"],
    ] {
        seen.push((verb[0], site.run(verb).ok()));
    }
    let scanned = &seen[1].1.out;
    assert!(scanned.contains("31m"), "the name is not shown at all: {scanned}");
    let texts = seen.iter().flat_map(|(what, ended)| [(*what, ended.out.clone()), (*what, ended.err.clone())]);
    for (what, text) in texts.chain([("log", site.log())]) {
        let moves = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(moves) && !text.lines().any(|line| line.starts_with("forged")), "{what}: {text:?}");
    }
}

#[test]
fn files_are_for_their_owner_only() {
    let site = Site::standalone("");
    let daemon = site.start();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&site.socket()), 0o660);
    let check = || {
        let mut looked_at = 0;
        let mut folders = vec![site.path("state")];
        while let Some(folder) = folders.pop() {
            assert_eq!(mode(&folder), 0o700, "{}", folder.display());
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                // Some files are written beside their places and moved there.
                let Ok(found) = fs::metadata(&path) else { continue };
                if found.is_dir() {
                    folders.push(path);
                } else {
                    assert_eq!(found.permissions().mode() & 0o7777, 0o600, "{}", path.display());
                    looked_at += 1;
                }
            }
        }
        assert!(looked_at > 4, "only {looked_at} files");
    };
    site.run(&["code", "new"]).ok();
    check();
    assert_eq!(daemon.stop(), 0);
    check();
}
