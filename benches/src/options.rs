//! The command line, and how long each part of a run takes.

use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;

const USAGE: &str = "usage: benches/run [--quick] [--only NAME]... [--out FILE]
  --quick      shorter and coarser: a look, not a result to quote
  --only NAME  only clawgate, mosquitto_pub or mosquitto_bridge; may be said again
  --out FILE   where the JSON goes (default: target/bench/result.json)";

/// What to run and for how long.
pub(crate) struct Options {
    /// Shorter everything.
    pub(crate) quick: bool,
    /// Subjects to run; empty means all.
    pub(crate) only: Vec<String>,
    /// The JSON file.
    pub(crate) out: PathBuf,
    /// State of the programs that are measured; on a real disk, so that disk bytes mean something.
    pub(crate) work: PathBuf,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// An unknown argument or a missing value, with the usage.
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Outcome<Self> {
        let target = PathBuf::from("target/bench");
        let mut options =
            Self { quick: false, only: Vec::new(), out: target.join("result.json"), work: target.join("work") };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only.push(args.next().ok_or(USAGE)?),
                "--out" => options.out = args.next().ok_or(USAGE)?.into(),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
            }
        }
        std::fs::create_dir_all(&options.work)?;
        options.work = options.work.canonicalize()?;
        Ok(options)
    }

    /// Whether this subject is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Floods; the median is reported.
    pub(crate) fn floods(&self) -> usize {
        self.pick(1, 3)
    }

    /// How long one flood is fed.
    pub(crate) fn flood(&self) -> Duration {
        Duration::from_secs(self.pick(3, 8))
    }

    /// How long 200 readings a second are fed.
    pub(crate) fn steady(&self) -> Duration {
        Duration::from_secs(self.pick(5, 30))
    }

    /// How long a flooded line of a given rate is measured.
    pub(crate) fn line(&self) -> Duration {
        Duration::from_secs(self.pick(5, 20))
    }

    /// How long the broker is away.
    pub(crate) fn outage(&self) -> Duration {
        Duration::from_secs(self.pick(5, 15))
    }

    /// Devices in the large setting.
    pub(crate) fn many(&self) -> usize {
        self.pick(20, 100)
    }
}
