//! The implementations of a sensor: how each is built and started, and in which words it speaks.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cell::{Ceremony, Column, Link};

/// The code on every label here.
pub(crate) const LABEL: &str = "K7QF-3M9B";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An implementation.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The suites that it has.
    pub(crate) suites: &'static [u8],
    pub(crate) build: Build,
    /// The board it runs on, where it is an image.
    pub(crate) board: &'static str,
    pub(crate) power: Power,
    /// As many readings as its memory surely holds.
    pub(crate) holds: usize,
    /// Bytes that an image gives to its stack.
    pub(crate) stack: u64,
    pub(crate) words: &'static Words,
}

/// What is made before it can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Build {
    /// Cargo has built the simulator with the tests.
    Simulator,
    CPosix,
    CFirmware,
    Python,
    RustFirmware,
}

/// How its power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// The process is killed and started again; its line comes back as another tty.
    Kill,
    /// The bench kills the emulated board at this word; the tty stays.
    Bench,
}

/// What its lines on stdout begin with.
pub(crate) struct Words {
    pub(crate) ready: &'static str,
    pub(crate) window: &'static str,
    pub(crate) paired: &'static str,
    pub(crate) failed: &'static str,
    pub(crate) session: &'static str,
    pub(crate) reset: &'static str,
    pub(crate) blink: &'static str,
    /// The gateway told it to forget all keys.
    pub(crate) unpaired: &'static str,
}

const COMMON: Words = Words {
    ready: "ready",
    window: "pairing window open",
    paired: "paired with",
    failed: "pairing failed",
    session: "session open",
    reset: "reset: all keys erased",
    blink: "blink",
    unpaired: "reset: all keys erased",
};
const SIMULATOR: Words = Words { ready: "line ", unpaired: "unpaired by the gateway", ..COMMON };
const C_POSIX: Words = Words {
    ready: "start: ok",
    window: "window-open",
    paired: "paired",
    failed: "pairing-failed",
    session: "session ",
    reset: "reset: ok",
    blink: "blink",
    unpaired: "unpaired",
};

const fn image(
    name: &'static str,
    build: Build,
    board: &'static str,
    suites: &'static [u8],
    (holds, stack): (usize, u64),
) -> Kind {
    Kind { name, suites, build, board, power: Power::Bench, holds, stack, words: &COMMON }
}

const fn program(name: &'static str, build: Build, suites: &'static [u8], words: &'static Words) -> Kind {
    Kind { name, suites, build, board: "", power: Power::Kill, holds: 1000, stack: 0, words }
}

/// All of them, the slowest first.
pub(crate) const KINDS: &[Kind] = &[
    image("C on stm32vldiscovery", Build::CFirmware, "stm32vldiscovery", &[1], (10, 3072)),
    image("C on microbit", Build::CFirmware, "microbit", &[1], (50, 3072)),
    image("C on mps2-an386", Build::CFirmware, "mps2-an386", &[1, 2], (100, 24_576)),
    image("Rust on stm32vldiscovery", Build::RustFirmware, "stm32vldiscovery", &[], (0, 0)),
    image("Rust on microbit", Build::RustFirmware, "microbit", &[1], (30, 15_360)),
    image("Rust on mps2-an386", Build::RustFirmware, "mps2-an386", &[1, 2], (200, 98_304)),
    program("C on POSIX", Build::CPosix, &[1, 2], &C_POSIX),
    program("Python", Build::Python, &[1, 2], &COMMON),
    program("Rust simulator", Build::Simulator, &[1, 2], &SIMULATOR),
];

/// Where each build is, or why it failed.
pub(crate) struct Built(BTreeMap<Build, Result<PathBuf, String>>);

impl Built {
    /// Builds what these need, one after the other.
    pub(crate) fn for_kinds<'a>(kinds: impl Iterator<Item = &'a Kind>) -> Self {
        let mut built = BTreeMap::new();
        for kind in kinds {
            built.entry(kind.build).or_insert_with(|| kind.build.make());
        }
        Self(built)
    }

    /// What starts this one.
    pub(crate) fn of(&self, kind: &'static Kind) -> Result<Starter, String> {
        let built = self.0[&kind.build].clone()?;
        Ok(Starter { kind, built })
    }
}

impl Build {
    fn make(self) -> Result<PathBuf, String> {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
        match self {
            Self::Simulator => Ok(env!("CARGO_BIN_EXE_clawgate").into()),
            Self::Python => Ok(Path::new(ROOT).join("hardware/python")),
            Self::CPosix => run_to("hardware/sdk-c/build", out.join("interop-sdk-c")),
            Self::CFirmware => run_to("hardware/sdk-c/bare/build", out.join("interop-sdk-c-bare")),
            Self::RustFirmware => {
                // The tests of this firmware build it at the same place.
                let lock = File::create(out.join("firmware-rust.lock")).map_err(|error| error.to_string())?;
                lock.lock().map_err(|error| error.to_string())?;
                let script = "hardware/firmware-rust/build";
                run(&mut Command::new(Path::new(ROOT).join(script)), script)?;
                Ok(Path::new(ROOT).join("target/firmware"))
            }
        }
    }
}

fn run_to(script: &str, out: PathBuf) -> Result<PathBuf, String> {
    run(Command::new(Path::new(ROOT).join(script)).arg(&out), script)?;
    Ok(out)
}

fn run(build: &mut Command, script: &str) -> Result<(), String> {
    let end = build.output().map_err(|error| format!("{script}: {error}"))?;
    if end.status.success() { Ok(()) } else { Err(format!("{script}: {}", String::from_utf8_lossy(&end.stderr))) }
}

/// Starts units of one kind.
pub(crate) struct Starter {
    pub(crate) kind: &'static Kind,
    built: PathBuf,
}

impl Starter {
    /// The process of a unit that lives in `folder`, with `line` there as its tty, or `air` as the socket of its radio.
    /// The same command gives it its power back.
    pub(crate) fn command(&self, folder: &Path, column: &Column) -> Command {
        let (label, suite) = (column.ceremony == Ceremony::Label, column.suite);
        let built = &self.built;
        let (line, keys) = (folder.join("line"), folder.join("keys"));
        let mut command = match self.kind.build {
            Build::Simulator => {
                let mut command = Command::new(built);
                command.args(["simulator", "--device", "unit-1", "--rate", "1", "--count", "0"]);
                match column.link {
                    Link::Uart => command.arg("--pty").arg(line),
                    Link::Ble => command.arg("--ble-socket").arg(folder.join("air")),
                };
                command.arg("--keys").arg(keys).args((suite == 1).then_some("--suite1"));
                command
            }
            Build::CPosix => {
                let name = if suite == 1 { "clawgate-sensor" } else { "clawgate-sensor-suite2" };
                let mut command = Command::new(built.join(name));
                command.args(["--id", "unit-1", "--pty"]).arg(line).arg("--keys").arg(keys);
                command
            }
            Build::Python => {
                let mut command = Command::new("/usr/bin/python3");
                command.current_dir(built).args(["-B", "-m", "clawgate_sensor", "--id", "unit-1"]);
                command.args(["--suite", &suite.to_string(), "--pty"]).arg(line).arg("--keys").arg(keys);
                command
            }
            Build::RustFirmware => self.on_board(&built.join(format!("rust-{}.elf", self.kind.board)), folder, suite),
            Build::CFirmware => self.on_board(&built.join(format!("{}.elf", self.kind.board)), folder, suite),
        };
        match (label, self.kind.power) {
            (true, _) => command.args(["--label", LABEL]),
            (false, Power::Bench) => command.args(["--label", "none"]),
            (false, Power::Kill) => &mut command,
        };
        command
    }

    fn on_board(&self, image: &Path, folder: &Path, suite: u8) -> Command {
        let mut command = Command::new(Path::new(ROOT).join("hardware/boards/run"));
        command.arg(self.kind.board).arg(image).arg(folder).args(["--device", "unit-1"]);
        command.args(["--suite", &suite.to_string()]);
        command
    }
}
