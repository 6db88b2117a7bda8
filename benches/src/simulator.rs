//! Simulated sensors, each a process of its own: what they are told, and what they noted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio, id};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Outcome;
use crate::line::{Pace, READING, Sent};
use crate::receiver::Identity;

/// How long a sensor may take to have its last reading acknowledged.
const PATIENCE: Duration = Duration::from_secs(20);

/// Memory of a sensor that feeds: 8192 readings in a flood wait to become safe, a fraction of a second's worth.
const MEMORY_KIB: &str = "1024";

/// What a sensor makes readings of.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// One a second: enough to be paired.
    Tick,
    /// Nothing: connected and at rest.
    Rest,
    /// As said, for so long.
    Feed(Pace, Duration),
}

/// The serial line of a sensor.
#[derive(Clone)]
pub(crate) enum Line {
    /// A pty of the sensor's own, found at this place.
    Own(PathBuf),
    /// A line with a rate, made by somebody else.
    Port {
        /// The sensor's end.
        sensor: PathBuf,
        /// The gateway's end.
        gateway: PathBuf,
        /// Its rate.
        baud: u32,
    },
}

/// One sensor: the unit stays, its process comes and goes with its work.
pub(crate) struct Simulator {
    program: PathBuf,
    line: Line,
    keys: PathBuf,
    log: PathBuf,
    suite1: bool,
    running: Option<(Child, BufReader<ChildStdout>)>,
}

impl Simulator {
    /// A unit that keeps its keys and notes in `dir` under `name`; not running yet.
    pub(crate) fn new(program: &Path, line: Line, dir: &Path, name: &str, suite1: bool) -> Self {
        let (keys, log) = (dir.join(format!("{name}.keys")), notes(dir).join(format!("{name}-{}.jsonl", id())));
        Self { program: program.to_owned(), line, keys, log, suite1, running: None }
    }

    /// Starts it with this work; what it noted before is forgotten.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(&mut self, work: Work) -> Outcome<()> {
        let _ = fs::remove_file(&self.log);
        let mut command = Command::new(&self.program);
        command.arg("--keys").arg(&self.keys).args(["--label", "random", "--until-eof"]);
        if self.suite1 {
            command.arg("--suite1");
        }
        match &self.line {
            Line::Own(link) => command.arg("--pty").arg(link),
            Line::Port { sensor, baud, .. } => command.args(["--baud", &baud.to_string()]).arg(sensor),
        };
        match work {
            Work::Tick => {}
            Work::Rest => drop(command.args(["--count", "0"])),
            Work::Feed(pace, time) => {
                command.arg("--log").arg(&self.log).args(["--size", &READING.to_string(), "--memory", MEMORY_KIB]);
                match pace {
                    Pace::Flood => command.arg("--flood"),
                    Pace::PerSecond(rate) => {
                        let count = u64::from(rate) * time.as_secs();
                        command.args(["--rate", &rate.to_string(), "--count", &count.to_string()])
                    }
                };
            }
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let told = child.stdout.take().ok_or("no standard output")?;
        self.running = Some((child, BufReader::new(told)));
        Ok(())
    }

    /// Waits until it says something that begins so; the rest of that line.
    ///
    /// # Errors
    /// It ended without.
    pub(crate) fn wait_for(&mut self, beginning: &str) -> Outcome<String> {
        let (_, told) = self.running.as_mut().ok_or("the sensor does not run")?;
        let mut line = String::new();
        while told.read_line(&mut line)? > 0 {
            if let Some(rest) = line.strip_prefix(beginning) {
                return Ok(rest.trim().to_owned());
            }
            line.clear();
        }
        Err(format!("the sensor never said {beginning:?}").into())
    }

    /// Gives it a command, as a person at the unit would.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn command(&mut self, line: &str) -> Outcome<()> {
        let (child, _) = self.running.as_mut().ok_or("the sensor does not run")?;
        let stdin = child.stdin.as_mut().ok_or("no standard input")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Waits until all it made is acknowledged, or patience ends.
    ///
    /// # Errors
    /// Its notes cannot be read.
    pub(crate) fn wait_acknowledged(&self) -> Outcome<()> {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE && !self.notes()?.iter().all(|sent| sent.acknowledged) {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        if let Some((mut child, _)) = self.running.take() {
            drop(child.stdin.take());
            child.wait()?;
        }
        Ok(())
    }

    /// What it noted since its start.
    ///
    /// # Errors
    /// The notes are damaged.
    pub(crate) fn notes(&self) -> Outcome<Vec<Sent>> {
        let mut sent = Vec::new();
        let mut safe: HashMap<u64, u64> = HashMap::new();
        for line in BufReader::new(File::open(&self.log)?).split(b'\n') {
            // The last line may be half written while the sensor runs.
            let Ok(Note { at_us, what }) = serde_json::from_slice(&line?) else { break };
            match what {
                What::Reading { id } => {
                    let identity = identity(&id).ok_or("a reading without a name in a sensor's notes")?;
                    sent.push(Sent { identity, at_ns: at_us * 1000, acknowledged: false });
                }
                What::Ack { epoch, safe: seq } => drop(safe.insert(u64::from_str_radix(&epoch, 16)?, seq)),
                What::Other => {}
            }
        }
        for reading in &mut sent {
            let (epoch, seq) = reading.identity;
            reading.acknowledged = safe.get(&epoch).is_some_and(|safe| seq <= *safe);
        }
        Ok(sent)
    }
}

/// Where sensors keep their notes: in memory, as the peers' sensors do. A sensor that waits for the disk would be
/// measured as a gateway that is late.
fn notes(dir: &Path) -> &Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { dir }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.log);
        if let Some((child, _)) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The name that a reading has for ever, `pairing.epoch.seq` in hex, hex and decimal.
pub(crate) fn identity(id: &str) -> Option<Identity> {
    let mut parts = id.split('.').skip(1);
    Some((u64::from_str_radix(parts.next()?, 16).ok()?, parts.next()?.parse().ok()?))
}

#[derive(Deserialize)]
struct Note {
    at_us: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum What {
    Reading {
        id: String,
    },
    Ack {
        epoch: String,
        safe: u64,
    },
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_named_by_epoch_and_number() {
        assert_eq!(identity("00000000000000aa.00000000000000ff.12"), Some((255, 12)));
        assert_eq!(identity("0 12 xxx"), None);
    }
}
