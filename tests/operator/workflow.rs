//! The workflow of docs/pipeline.md as it stands there, its steps run by tests/workflow/run.py at the real daemon.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::site::{Sensor, Site, until};

/// A gateway, and what the workflow finds in its workspace.
struct Bench {
    site: Site,
    sensor: Sensor,
}

impl Bench {
    fn new() -> Self {
        let site = Site::standalone("");
        let standalone = "[standalone]\nlisten = \"127.0.0.1:0\"\n";
        site.configure(&format!("mode = \"standalone\"\n{}{standalone}", site.line("bench")));
        let sensor = site.thermometer("bench", &["--device", "th-77"]);
        fs::create_dir(site.path("workspace")).unwrap();
        Self { site, sensor }
    }

    /// A run of the workflow, of the page with `from` replaced, that hands codes over by `hand_over`.
    fn run(&self, id: &str, seconds: u32, hand_over: &str, (from, to): (&str, &str)) -> Run {
        self.site.script("workspace/send-to-technician", hand_over);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = self.site.path("page.md");
        fs::write(&page, fs::read_to_string(root.join("docs/pipeline.md")).unwrap().replace(from, to)).unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").arg(root.join("tests/workflow/run.py")).arg(page).arg(id).arg(seconds.to_string());
        command.args(["sensor=th-77", "device=pump-3"]).current_dir(self.site.path("workspace"));
        let folder = Path::new(env!("CARGO_BIN_EXE_clawgate")).parent().unwrap().display().to_string();
        command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
        command.env_remove("CLAWGATE_SOCKET").env("OPENCLAW_SOCKET", self.site.socket()).stdin(Stdio::null());
        Run(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// State of the newest code, and why it ended.
    fn newest(&self) -> (String, String) {
        let codes = self.site.run(&["code", "ls", "--json"]).ok().json();
        let text = |field: &str| codes[0][field].as_str().unwrap_or_default().to_owned();
        (text("state"), text("ended_why"))
    }

    fn leaves_no_code_behind(&self) {
        assert!(!self.site.path("workspace/made.json").exists(), "the code still lies there");
    }
}

struct Run(Child);

impl Run {
    /// Whether all went well, each step's outcome and exit code, and everything that was logged.
    fn ended(self) -> (bool, Vec<(String, Option<i64>)>, String) {
        let output = self.0.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(err.is_empty(), "{out}{err}");
        let steps: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let outcome = |step: &Value| (step["outcome"].as_str().unwrap().to_owned(), step["code"].as_i64());
        (output.status.success(), steps.iter().map(outcome).collect(), out)
    }
}

fn step(outcome: &str, code: i64) -> (String, Option<i64>) {
    (outcome.to_owned(), Some(code))
}

#[test]
fn the_workflow_hands_a_code_over_waits_until_it_is_used_and_keeps_it_out_of_its_log() {
    let mut bench = Bench::new();
    let _daemon = bench.site.start();
    let note = bench.site.path("note").display().to_string();
    let run = bench.run("41", 120, &format!("cat > {note}.new; mv {note}.new {note}"), ("", ""));
    let code = until("the code is handed over", || fs::read_to_string(&note).ok());
    bench.sensor.say(&format!("code {}", code.trim()));
    let (ok, steps, log) = run.ended();
    let all_well = [step("success", 0), step("success", 0), step("success", 0), step("success", 0)];
    assert!(ok && steps == all_well, "{log}{}", bench.site.log());
    assert!(!log.contains(code.trim()), "the code is in the workflow's log");
    assert_eq!(bench.newest().0, "used");
    let device = bench.site.run(&["devices", "show", "pump-3", "--json"]).ok().json();
    assert_eq!((&device["sensor"], &device["scopes"]), (&"th-77".into(), &serde_json::json!(["telemetry:write"])));
    bench.leaves_no_code_behind();
}

#[test]
fn a_workflow_whose_code_nobody_uses_revokes_it_at_its_end() {
    let bench = Bench::new();
    let _daemon = bench.site.start();
    // The job's time is over first.
    let (ok, steps, log) = bench.run("42", 2, "cat > /dev/null", ("", "")).ended();
    assert_eq!((ok, steps[2].0.as_str(), &steps[3]), (false, "cancelled", &step("success", 0)), "{log}");
    assert_eq!(bench.newest(), ("revoked".to_owned(), "end of the run".to_owned()));
    // The code's time is.
    let (ok, steps, log) = bench.run("43", 120, "cat > /dev/null", ("OPENCLAW_TTL: 15m", "OPENCLAW_TTL: 2s")).ended();
    assert_eq!((ok, &steps[2..]), (false, &[step("failure", 1), step("success", 0)][..]), "{log}");
    assert!(log.contains("The code is expired"), "{log}");
    assert_eq!(bench.newest().0, "expired");
    // It cannot be handed over.
    let (ok, steps, log) = bench.run("44", 120, "cat; exit 9", ("", "")).ended();
    let skipped = ("skipped".to_owned(), None);
    assert_eq!((ok, &steps[1..]), (false, &[step("failure", 9), skipped, step("success", 0)][..]), "{log}");
    assert!(log.contains("***"), "what a step says of the code is masked: {log}");
    assert_eq!(bench.newest(), ("revoked".to_owned(), "end of the run".to_owned()));
    bench.leaves_no_code_behind();
    // No code, so nothing to end.
    let (ok, steps, log) = bench.run("45", 120, "cat", ("OPENCLAW_TTL: 15m", "OPENCLAW_TTL: 9d")).ended();
    assert!(!ok && steps.iter().all(|(outcome, _)| outcome != "success"), "{log}");
    assert_eq!(steps[3].0, "skipped", "{log}");
}
