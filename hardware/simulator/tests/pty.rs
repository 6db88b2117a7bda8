//! The simulator as a process of its own on a pseudo terminal, against a gateway of the protocol's machines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

#[path = "../../../protocol/tests/desk/mod.rs"]
mod desk;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clawgate_protocol::code::Code;
use clawgate_protocol::fragment::{Header, Joiner};
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::pairing::{Ceremony, Failure, Suite};
use clawgate_protocol::senml::{Records, Value};
use desk::Desk;

/// Nothing here takes so long; a test that waits longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// The simulator, and a gateway at the other end of its line.
struct Rig {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
    desk: Desk,
    line: File,
    bytes: Receiver<Vec<u8>>,
    decoder: Box<Decoder<{ uart::MAX_ENCODED }>>,
    joiner: Box<Joiner<4096>>,
    start: Instant,
    /// The unit lost its power, perhaps within a frame.
    cut: bool,
}

impl Rig {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let tty = folder.join("line");
        let mut child = simulator(&[&["--pty", tty.to_str().unwrap()], args].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let stdin = child.stdin.take().unwrap();
        let mut up = Self::wait_for(&said, |line| line.starts_with("line "));
        assert!(up.pop().is_some(), "the simulator is up");
        let line = File::options().read(true).write(true).open(&tty).unwrap();
        let (tell, bytes) = channel();
        let mut reader = line.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if tell.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            stdin,
            said,
            desk: Desk::new(7),
            line,
            bytes,
            decoder: Box::default(),
            joiner: Box::default(),
            start: Instant::now(),
            cut: false,
        }
    }

    fn command(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// Waits until the simulator says a line; returns all up to it.
    fn wait_for(said: &Receiver<String>, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| wanted(line)) {
            lines.push(said.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("not said; only {lines:?}")));
        }
        lines
    }

    fn hears(&mut self, wanted: &str) {
        Self::wait_for(&self.said, |line| line.contains(wanted));
    }

    /// Lets both ends talk until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Desk) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(&self.desk) {
            let said = || self.said.try_iter().collect::<Vec<_>>();
            assert!(Instant::now() < deadline, "never: {what}; the unit said {:?}", said());
            self.turn();
        }
    }

    fn turn(&mut self) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        self.desk.handle_timeout(now_ms);
        while let Some(message) = self.desk.out.pop_front() {
            let mut frame = vec![0; uart::max_encoded_len(message.len())];
            let len = uart::encode(0, Header::WHOLE, &message, &mut frame).unwrap();
            self.line.write_all(&frame[..len]).unwrap();
        }
        let Ok(bytes) = self.bytes.recv_timeout(Duration::from_millis(10)) else { return };
        let mut input = &bytes[..];
        while let Some(frame) = self.decoder.decode(&mut input) {
            let Ok(frame) = frame else {
                assert!(self.cut, "the line is good: {:?}", frame.err());
                continue;
            };
            if let Some(message) = self.joiner.join(frame.header, frame.payload).unwrap() {
                self.desk.handle(message, now_ms);
            }
        }
    }

    fn pair(&mut self, ceremony: Ceremony, code: &Code) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        self.desk.pair(ceremony, code.prs(), Suite::Two, now_ms);
        self.until("paired", |desk| desk.slots.current().is_some());
        self.desk.connect(now_ms);
        self.until("a session", |desk| desk.hellos > 0);
    }

    fn quit(mut self) {
        self.command("quit");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn simulator(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate-simulator"));
    command.args(args);
    command
}

fn code() -> Code {
    Code::random(&mut desk::Seeded(42))
}

/// The log as far as its lines are whole: the simulator goes on writing.
fn log(path: &Path) -> Vec<serde_json::Value> {
    let content = std::fs::read_to_string(path).unwrap();
    let whole = content.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_label_pairs_and_every_reading_that_arrives_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log_path = folder.path().join("log");
    let label = code();
    let mut rig = Rig::start(
        folder.path(),
        &["--label", &label.to_string(), "--every", "5ms", "--log", log_path.to_str().unwrap()],
    );
    rig.command("button");
    rig.hears("pairing window open");
    rig.pair(Ceremony::Label, &label);
    rig.until("twenty readings", |desk| desk.received.len() >= 20);
    let pack = rig.desk.received[0].2.clone();
    let names: Vec<_> = Records::new(&pack).unwrap().map(|record| record.unwrap().name.unwrap().to_owned()).collect();
    assert!(names.contains(&"load".to_owned()) && names.contains(&"memory".to_owned()), "{names:?}");

    let pairing = u64::from_be_bytes(rig.desk.slots.current().unwrap().pairing_id);
    let logged = log(&log_path);
    for (epoch, seq, ..) in &rig.desk.received {
        let id = format!("{pairing:016x}.{epoch:016x}.{seq}");
        assert!(logged.iter().any(|line| line["event"] == "reading" && line["id"] == id), "{id}");
    }
    // The gateway has them; the unit may yet have to hear that.
    rig.until("an acknowledgement in the log", |_| {
        log(&log_path).iter().any(|line| line["event"] == "ack" && line["safe"].as_u64() > Some(0))
    });
    let link = folder.path().join("line");
    assert!(link.is_symlink());
    rig.quit();
    assert!(!link.is_symlink(), "the link is gone with the line");
}

#[test]
fn an_issued_code_is_entered_and_a_typo_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let code = code();
    let mut rig = Rig::start(folder.path(), &[]);
    rig.command("button");
    rig.hears("no label code");
    let mut typo = code.to_string();
    let wrong = if typo.ends_with('0') { "1" } else { "0" };
    typo.replace_range(typo.len() - 1.., wrong);
    rig.command(&format!("code {typo}"));
    rig.hears("check symbol");
    rig.command(&format!("code {}", code.to_string().to_lowercase()));
    rig.hears("pairing window open");
    rig.desk.probe();
    rig.until("an open window", |desk| desk.ident.as_ref().is_some_and(|ident| ident.3.is_some()));
    rig.pair(Ceremony::Issued, &code);
    rig.hears("session open");
    rig.quit();
}

#[test]
fn a_wrong_code_is_refused_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let label = code();
    let mut rig = Rig::start(folder.path(), &["--label", &label.to_string()]);
    rig.command("button");
    rig.hears("pairing window open");
    let now_ms = u64::try_from(rig.start.elapsed().as_millis()).unwrap();
    rig.desk.pair(Ceremony::Label, *b"0000000", Suite::One, now_ms);
    rig.until("an end", |desk| desk.failure.is_some());
    assert_eq!(rig.desk.failure, Some(Failure::Refused));
    rig.hears("the code does not match");
}

#[test]
fn keys_survive_a_power_cycle_and_a_new_process_but_not_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let args = ["--keys", keys.to_str().unwrap(), "--label", "random", "--every", "10ms"];
    let mut rig = Rig::start(folder.path(), &args);
    rig.command("button");
    rig.hears("pairing window open");
    let content: serde_json::Value = serde_json::from_slice(&std::fs::read(&keys).unwrap()).unwrap();
    let label = Code::parse(content["label"].as_str().unwrap()).unwrap();
    rig.pair(Ceremony::Label, &label);
    rig.until("a reading", |desk| !desk.received.is_empty());
    rig.cut = true;
    rig.command("power-cycle");
    rig.hears("power-cycled");
    rig.desk.connect(0);
    let epoch = rig.desk.received[0].0;
    rig.until("a new epoch", |desk| desk.received.last().is_some_and(|(of, ..)| *of != epoch));

    let slots = rig.desk.slots.clone();
    rig.quit();
    let mut rig = Rig::start(folder.path(), &args);
    rig.desk.slots = slots;
    rig.desk.connect(0);
    rig.until("a reading from the new process", |desk| !desk.received.is_empty());
    rig.command("reset");
    rig.hears("all keys erased");
    rig.command("status");
    let said = Rig::wait_for(&rig.said, |line| line.starts_with('{'));
    let status: serde_json::Value = serde_json::from_str(said.last().unwrap()).unwrap();
    assert_eq!((&status["paired"], &status["connected"]), (&false.into(), &false.into()));
    rig.quit();
}

#[test]
fn the_rows_of_a_file_arrive_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("rows.csv");
    std::fs::write(&csv, "t:Cel,open\n21.5,true\n22,false\n").unwrap();
    let label = code();
    let mut rig =
        Rig::start(folder.path(), &["--label", &label.to_string(), "--csv", csv.to_str().unwrap(), "--every", "1ms"]);
    rig.command("button");
    rig.hears("pairing window open");
    rig.pair(Ceremony::Label, &label);
    rig.until("both rows", |desk| desk.received.len() == 2);
    let values: Vec<Vec<_>> = (rig.desk.received.iter())
        .map(|(.., pack, _)| Records::new(pack).unwrap().map(|record| format!("{:?}", record.unwrap().value)).collect())
        .collect();
    assert!(values[0][0].contains("21.5") && values[1][1].contains(&format!("{:?}", Value::Bool(false))), "{values:?}");
}

#[test]
fn a_flood_loses_nothing_and_shares_records() {
    let folder = tempfile::tempdir().unwrap();
    let label = code();
    let mut rig = Rig::start(folder.path(), &["--label", &label.to_string(), "--flood", "--count", "20000"]);
    rig.command("button");
    rig.hears("pairing window open");
    rig.pair(Ceremony::Label, &label);
    rig.until("all of them", |desk| desk.received.len() == 20_000);
    let seqs: Vec<_> = rig.desk.received.iter().map(|(_, seq, ..)| *seq).collect();
    assert_eq!(seqs, (1..=20_000).collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_with_the_line_is_said_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("file");
    std::fs::write(&occupied, "mine").unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["/nonexistent/tty"], 6, "cannot open"),
        (&[occupied.to_str().unwrap()], 6, "is not a serial port"),
        (&["--pty", occupied.to_str().unwrap()], 6, "not a symbolic link"),
        (&[], 2, "required"),
        (&["--pty", "x", "--label", "K7QF-3M90"], 2, "check symbol"),
    ];
    for (args, exit, text) in cases {
        let output = simulator(args).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        assert!(said.contains(text), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&occupied).unwrap(), "mine");
}

#[test]
fn the_simulator_ends_with_its_stdin_if_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let link: PathBuf = folder.path().join("line");
    let output = simulator(&["--pty", link.to_str().unwrap(), "--until-eof"]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
}
