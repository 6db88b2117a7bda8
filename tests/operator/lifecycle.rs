//! Start, reload, stop: what the service manager and the operator see of it.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::site::{DEADLINE, Daemon, STRANGER, Site, until};

#[test]
fn it_tells_systemd_ready_progress_and_stopping() {
    let site = Site::standalone("");
    let notified = UnixDatagram::bind(site.path("notify")).unwrap();
    notified.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut daemon = site.start_with(|command| {
        command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "300000");
    });
    let await_words = |words: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = notified.recv(&mut buffer).unwrap_or_else(|error| panic!("{words}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(words) {
                return text;
            }
        }
    };
    let ready = await_words("READY=1");
    assert!(ready.contains("STATUS=ok: 0 devices"), "{ready}");
    await_words("WATCHDOG=1");
    await_words("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    await_words("RELOADING=1");
    await_words("READY=1");
    daemon.signal(Signal::TERM);
    await_words("STOPPING=1");
    assert_eq!(daemon.ended(), 0);
}

#[test]
fn a_stopped_daemon_starves_the_watchdog() {
    let site = Site::standalone("");
    let notified = UnixDatagram::bind(site.path("notify")).unwrap();
    let daemon = site.start_with(|command| {
        command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "300000");
    });
    notified.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let length = notified.recv(&mut buffer).unwrap();
        if String::from_utf8_lossy(&buffer[..length]).contains("WATCHDOG=1") {
            break;
        }
    }
    daemon.signal(Signal::STOP);
    notified.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // What was sent before the stop may still lie there; after it nothing comes.
    let starved = (0..100).any(|_| notified.recv(&mut buffer).is_err());
    daemon.signal(Signal::CONT);
    assert!(starved);
}

#[test]
fn a_reload_changes_what_changed_and_refuses_what_is_wrong() {
    let site = Site::standalone("");
    let daemon = site.start();
    let standalone = "mode = \"standalone\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n";
    site.configure(&format!("{standalone}{}", site.line("late")));
    daemon.signal(Signal::HUP);
    until("the new port is there", || (site.status()["ports"][0]["id"] == "late").then_some(()));

    fs::write(site.config(), "mode = \"standalone\"\n[spool]\ncomit_ms = 5\n").unwrap();
    daemon.signal(Signal::HUP);
    let refused = until("the refusal is said", || site.status()["config_refused"].as_str().map(str::to_owned));
    assert!(refused.contains("clawgate.toml:3: ") && refused.contains("commit_ms"), "{refused}");
    assert_eq!(site.status()["ports"][0]["id"], "late", "the old configuration goes on");
    assert!(daemon.log().contains("the one before goes on"));

    // What needs a restart is named, and does not keep the rest from being applied.
    site.configure(&format!("{standalone}[spool]\ncommit_ms = 500\n"));
    daemon.signal(Signal::HUP);
    until("what needs a restart is said", || {
        (site.status()["restart_needed"] == json!(["spool.commit_ms"])).then_some(())
    });
    let status = site.run(&["status"]);
    assert!(status.code == 8 && status.out.contains("spool.commit_ms is another in the files; restart"), "{status:?}");
    assert!(daemon.log().contains("needs a restart: systemctl restart clawgate key=\"spool.commit_ms\""));
    until("the port of before is given up", || site.status()["ports"].as_array().unwrap().is_empty().then_some(()));
    // A line follows what it tells of.
    let reloads = |count: usize| {
        until("the reload is in the audit log", || {
            let lines = site.audit().into_iter().filter(|line| line["action"] == "config.reload");
            Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() >= count)
        })
    };
    let told = &reloads(3)[2]["details"];
    assert_eq!(*told, json!({ "applied": ["uart.ports"], "restart_needed": ["spool.commit_ms"] }));

    site.configure(standalone);
    daemon.signal(Signal::HUP);
    until("all is well again", || (site.run(&["status"]).code == 0).then_some(()));
    let reloads = reloads(4);
    let outcomes: Vec<_> = reloads.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ok", "refused", "ok", "ok"]);
    assert!(reloads[1]["reason"].as_str().unwrap().contains("commit_ms"));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_reload_reaches_pairings_codes_and_tokens() {
    let site = Site::standalone("");
    let configure = |more: &str| {
        site.configure(&format!(
            "mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n{more}",
            site.line("bench")
        ));
    };
    configure("");
    let mut sensor = site.thermometer("bench", &["--suite1"]);
    let daemon = site.start();
    let reload = |more: &str| {
        let count = || site.audit().iter().filter(|line| line["action"] == "config.reload").count();
        let before = count();
        configure(more);
        daemon.signal(Signal::HUP);
        until("the configuration is read again", || (count() > before).then_some(()));
        assert!(site.status()["config_refused"].is_null(), "{}", site.status());
    };
    reload("[pairing]\nmin_suite = 2\nattempts = 7\nttl = \"9m\"\n");
    let refused = site.pair("bench", &mut sensor);
    assert!(refused.code == 6 && refused.err.contains("no suite that the policy allows"), "{refused:?}");
    // Its code ends with the command that waits for it.
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_clawgate"));
    let mut waiting = site.command(program, &["pair", "bench", "--issue"]);
    let mut waiting = waiting.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let code = until("the code is made", || site.run(&["code", "ls", "--json"]).json().get(0).cloned());
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let over = until("its code is over", || {
        let listed = site.run(&["code", "ls", "--json"]).json();
        listed.get(0).filter(|code| code["state"] == "revoked").cloned()
    });
    assert!(over["ended_why"] == "whoever asked for it waits no more" && over["id"] == code["id"], "{over}");
    assert_eq!(code["attempts"], 7);
    assert!((500..=540).contains(&code["left_s"].as_u64().unwrap()), "{code}");

    reload("");
    assert_eq!(site.pair("bench", &mut sensor).code, 0);
    fs::create_dir(site.path("conf.d")).unwrap();
    fs::write(site.path("conf.d/life.toml"), "[issuer]\nlife = \"2m\"\n").unwrap();
    reload("");
    until("the token has the new life", || {
        let token = site.run(&["token", "ls", "--json"]).json()[0].clone();
        token["expires_in_s"].as_u64().filter(|left| *left <= 120 && token["refreshed"] == 2)
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_second_daemon_is_refused_and_a_killed_one_leaves_nothing_in_the_way() {
    let site = Site::standalone("");
    let mut first = site.start();
    let mut second = site.start_with(|_| {});
    assert_eq!(second.ended(), 1);
    assert!(second.log().contains("is in use by"), "{}", second.log());
    assert_eq!(site.run(&["status"]).code, 0, "the first one is not disturbed");
    first.signal(Signal::KILL);
    first.ended();
    let third = site.start();
    assert_eq!(site.run(&["status"]).code, 0);
    assert_eq!(third.stop(), 0);
    assert!(!site.socket().exists());
}

#[test]
fn a_refused_configuration_exits_78_and_a_damaged_state_is_not_started_over() {
    let site = Site::standalone("");
    fs::write(site.config(), "").unwrap();
    let mut daemon = site.start_with(|_| {});
    assert_eq!(daemon.ended(), 78);
    assert!(daemon.log().contains("mode = "), "{}", daemon.log());

    let site = Site::standalone("");
    assert_eq!(site.start().stop(), 0);
    let database = site.path("state/state.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[..4096].fill(0xa5);
    fs::write(&database, &bytes).unwrap();
    let mut daemon = site.start_with(|_| {});
    assert_eq!(daemon.ended(), 1);
    let log = daemon.log();
    assert!(log.contains("state.db") && log.contains("Nothing was changed"), "{log}");
    assert_eq!(fs::read(&database).unwrap(), bytes);

    // Nor over one that is gone, when the rest of the state shows that there was one.
    fs::remove_file(&database).unwrap();
    let mut daemon = site.start_with(|_| {});
    assert_eq!(daemon.ended(), 1);
    let log = daemon.log();
    assert!(log.contains("state.db: missing, but ") && log.contains("Restore a copy"), "{log}");
    assert!(!database.exists());
}

#[test]
fn it_starts_without_its_broker_and_says_so() {
    let site = Site::standalone("");
    site.configure(&format!("{}[broker]\nurl = \"mqtt://127.0.0.1:1\"\n", site.line("bench")));
    let mut sensor = site.sensor("bench");
    let daemon = site.start();
    let paired = site.pair("bench", &mut sensor);
    assert_eq!(paired.code, 7, "{paired:?}");
    assert!(paired.err.contains("bench is paired, but not in service"), "{paired:?}");
    until("readings wait on disk", || {
        let status = site.status();
        let safe = status["spool"]["waiting"].as_u64() > Some(2) && status["spool"]["disk_bytes"].as_u64() > Some(0);
        (safe && status["health"] == "degraded").then_some(())
    });
    let begun = Instant::now();
    assert_eq!(daemon.stop(), 0);
    assert!(begun.elapsed() < DEADLINE, "the stop took {:?}", begun.elapsed());
}

#[test]
fn no_core_is_dumped() {
    let site = Site::standalone("");
    let daemon = site.start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
}

#[test]
fn other_processes_of_the_same_user_cannot_read_its_memory() {
    let site = Site::standalone("");
    let program = site.program_for_all();
    let mut command = site.command(&program, &["run", "--config", site.config().to_str().unwrap()]);
    let mut witness = Command::new("sleep");
    witness.arg("100");
    if rustix::process::geteuid().is_root() {
        // Root may read everything: daemon and reader are somebody else.
        chown(site.path("."), Some(STRANGER), Some(STRANGER)).unwrap();
        command.uid(STRANGER).gid(STRANGER);
        witness.uid(STRANGER).gid(STRANGER);
    }
    command.stderr(Stdio::null());
    let daemon = Daemon::of(command.spawn().unwrap(), site.path("log"));
    let witness = Daemon::of(witness.spawn().unwrap(), site.path("log"));
    let memory_of = |pid: u32| {
        let mut read = Command::new("head");
        read.args(["-c", "0", &format!("/proc/{pid}/mem")]);
        if rustix::process::geteuid().is_root() {
            read.uid(STRANGER).gid(STRANGER);
        }
        read.stderr(Stdio::null()).status().unwrap().success()
    };
    until("the daemon answers", || UnixStream::connect(site.socket()).ok());
    assert!(memory_of(witness.id()), "this user may read no process at all");
    assert!(!memory_of(daemon.id()));
}

#[test]
fn metrics_are_served_and_state_their_bounds() {
    let site = Site::standalone("");
    let _daemon = site.start();
    let url = site.status()["metrics"].as_str().unwrap().to_owned();
    let text = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
    for line in [
        "clawgate_limit{what=\"spool_bytes\"} 268435456",
        "clawgate_limit{what=\"codes_active\"} 32",
        "clawgate_spool_dropped_total 0",
        "clawgate_control_connections",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
