//! A pairing as the technician sees it, and what of it stands in the audit log.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::site::{Ended, Site, end, until};

fn site() -> Site {
    let site = Site::standalone("");
    site.configure(&format!("mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n", site.line("bench")));
    site
}

/// Whether `text` holds a number and `unit`.
fn has_time(text: &str) -> bool {
    let mut words = text.split_whitespace().rev();
    let (unit, number) = (words.next(), words.next());
    matches!(unit, Some("ms" | "s")) && number.is_some_and(|number| number.parse::<f64>().is_ok_and(|n| n > 0.0))
}

#[test]
fn every_stage_says_how_long_it_took_and_the_first_reading_its_value() {
    let site = site();
    // So seldom that none is there when the sensor says hello.
    let mut sensor = site.thermometer("bench", &["--every", "3s"]);
    let _daemon = site.start();
    let paired = site.pair("bench", &mut sensor).ok();
    let stages: Vec<&str> = paired.err.lines().collect();
    for (line, stage) in stages.iter().zip(["connect", "key exchange", "confirm", "token", "first reading"]) {
        assert!(line.trim_start().starts_with(stage) && has_time(line), "{paired:?}");
    }
    assert!(stages[3].contains("telemetry:write ok") && stages[4].contains("first reading 21.5 Cel ok"), "{paired:?}");
    let words = "the cloud confirmed the first reading after ";
    let after = paired.out.trim_end().split_once(words).unwrap_or_else(|| panic!("{paired:?}")).1;
    assert!(after.strip_suffix(" ms.").is_some_and(|ms| ms.parse::<u64>().is_ok_and(|ms| ms > 0)), "{paired:?}");

    // The same for programs, of a device that is paired again: its numbers go on, and are no reading.
    site.open_window("bench", &mut sensor);
    let again = site.run_with(&["pair", "bench", "--json"], &sensor.label).ok();
    let lines: Vec<Value> = again.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = lines.iter().find(|line| line["stage"] == "first_reading").unwrap();
    assert_eq!(first["detail"], "21.5 Cel");
    assert!(lines.last().unwrap()["confirmed_after_ms"].as_u64().unwrap() > 0, "{again:?}");
}

#[test]
fn a_device_whose_sensor_was_reset_is_paired_again_by_its_name() {
    let site = site();
    let mut sensor = site.thermometer("bench", &["--device", "th-0815"]);
    let daemon = site.start();
    site.open_window("bench", &mut sensor);
    site.run_with(&["pair", "bench", "--name", "pump-3"], &sensor.label).ok();
    assert_eq!(daemon.stop(), 0);
    // It shows nothing of the pairing any more, and no session is left of it.
    sensor.say("reset");
    let _daemon = site.start();
    site.open_window("bench", &mut sensor);
    let again = site.run_with(&["pair", "pump-3"], &sensor.label).ok();
    assert!(again.out.starts_with("pump-3 is paired"), "{again:?}");
}

#[test]
fn a_sensor_that_has_not_answered_yet_is_waited_for_not_unknown() {
    let site = site();
    let mut sensor = site.thermometer("bench", &["--device", "th-0815"]);
    sensor.say("button");
    // Its line is open, and it cannot answer the first probe.
    sensor.signal(Signal::STOP);
    let _daemon = site.start();
    let requests = || {
        let metrics = site.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        let line = metrics.lines().find(|line| line.starts_with("clawgate_control_requests_total")).unwrap();
        line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    let before = requests();
    let program = Path::new(env!("CARGO_BIN_EXE_clawgate"));
    std::fs::write(site.path("code"), &sensor.label).unwrap();
    let mut pairing = site.command(program, &["pair", "th-0815", "--name", "pump-3"]);
    let pairing = pairing.stdin(File::open(site.path("code")).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let pairing = pairing.spawn().unwrap();
    // Beside those made by counting.
    let mut own = 0;
    until("the request is there", || {
        own += 1;
        (requests() > before + own).then_some(())
    });
    sensor.signal(Signal::CONT);
    let paired = pairing.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&paired.stderr).into_owned();
    assert!(paired.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&paired.stdout).starts_with("pump-3 is paired"), "{said}");
}

#[test]
fn a_pairing_that_is_refused_before_it_begins_stands_in_the_audit_log() {
    let site = site();
    let sensor = site.thermometer("bench", &["--device", "th-0815"]);
    let _daemon = site.start();
    until("the sensor is met", || site.run(&["scan", "--for", "100ms", "--json"]).out.contains("bench").then_some(()));
    let pair = |target: &str| site.run_with(&["pair", target, "--name", "pump-3"], &sensor.label);
    let refused = |ended: Ended, code: i32, words: &str, next: &str| {
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.err.contains(words) && ended.err.contains(next), "{ended:?}");
        site.audit().last().unwrap().clone()
    };
    let line = refused(pair("nobody"), 3, "No sensor, port or device goes by \"nobody\".", "clawgate scan");
    assert_eq!(
        (&line["action"], &line["subject"], &line["outcome"]),
        (&json!("device.pair"), &json!("nobody"), &json!("failed"))
    );
    assert_eq!(line["details"], json!({ "stage": "connect", "cause": "not_found", "ceremony": "label" }));
    assert_eq!(line["actor"]["kind"], "uid");

    let line = refused(pair("bench"), 5, "window is closed", "Press the sensor's button");
    assert_eq!(line["details"]["cause"], "window_closed");
    let line = refused(site.run(&["pair", "nobody", "--issue"]), 3, "goes by", "clawgate scan");
    assert_eq!((&line["subject"], &line["details"]["ceremony"]), (&json!("nobody"), &json!("issued")));

    // A device that is known and out of reach is not called unknown.
    let mut sensor = sensor;
    assert_eq!(site.pair("bench", &mut sensor).code, 0);
    drop(sensor);
    let gone = until("its port is closed", || {
        let ended = site.run(&["pair", "bench", "--issue"]);
        (ended.code != 0).then_some(ended)
    });
    assert_eq!(gone.code, 6, "{gone:?}");
    let again = site.run(&["devices", "rename", "bench", "pump-9"]).ok();
    assert!(again.out.contains("pump-9"));
    let mut command = site.command(Path::new(env!("CARGO_BIN_EXE_clawgate")), &["pair", "pump-9"]);
    let line = refused(end(command.env("OPENCLAW_PAIRING_CODE", "K7QF-3M9V")), 4, "check symbol", "Correct");
    assert_ne!(line["subject"], "pump-9", "a typo is said before the gateway hears of it");
    let line =
        refused(site.run(&["pair", "pump-9", "--issue"]), 5, "pump-9 is paired, but its sensor", "clawgate scan");
    assert_eq!(line["subject"], "pump-9");
}
