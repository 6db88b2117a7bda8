//! One unit under `hardware/boards/run`: its image, its console, its line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use clawgate_protocol::pairing::Suite;
use serde_json::Value as Json;

use crate::SOON;

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Whose image it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Rust,
    C,
}

/// A board that an image is built for.
pub(crate) struct Board {
    make: Make,
    name: &'static str,
    /// The highest suite that it does.
    pub(crate) suite: Suite,
    /// It uses the emulated chip's own random source, not the bench's seed.
    pub(crate) has_random: bool,
    /// Bytes that its linker script gives to the stack.
    stack: u64,
}

const fn board(make: Make, name: &'static str, suite: Suite, stack: u64) -> Board {
    Board { make, name, suite, has_random: false, stack }
}

pub(crate) const RUST_BIG: Board = board(Make::Rust, "mps2-an386", Suite::Two, 98_304);
pub(crate) const RUST_SMALL: Board = board(Make::Rust, "microbit", Suite::One, 15_360);
pub(crate) const C_BIG: Board = board(Make::C, "mps2-an386", Suite::Two, 24_576);
pub(crate) const C_SMALL: Board = board(Make::C, "stm32vldiscovery", Suite::One, 3_072);
pub(crate) const C_ONE_UART: Board = Board { has_random: true, ..board(Make::C, "microbit", Suite::One, 3_072) };

/// Where the images are, built once a process; `None` when a compiler for them or the emulator is not there.
pub(crate) fn built(make: Make) -> Option<&'static Path> {
    static RUST: OnceLock<Option<PathBuf>> = OnceLock::new();
    static C: OnceLock<Option<PathBuf>> = OnceLock::new();
    match make {
        Make::Rust => RUST.get_or_init(|| {
            let tools = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/bin/arm-none-eabi-ld"];
            build("firmware-rust", &tools, &mut Command::new(format!("{ROOT}/hardware/firmware-rust/build")))?;
            Some(Path::new(ROOT).join("target/firmware"))
        }),
        Make::C => C.get_or_init(|| {
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk-c-bare");
            let mut script = Command::new(format!("{ROOT}/hardware/sdk-c/bare/build"));
            build("sdk-c-bare", &["/usr/bin/arm-none-eabi-gcc"], script.arg(&out))?;
            Some(out)
        }),
    }
    .as_deref()
}

fn build(name: &str, tools: &[&str], script: &mut Command) -> Option<()> {
    if let Some(missing) = tools.iter().chain(&["/usr/bin/qemu-system-arm"]).find(|tool| !Path::new(tool).exists()) {
        eprintln!("NOT RUN: there is no {missing}; tests/run installs it");
        return None;
    }
    // Other tests build it at the same place.
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let built = script.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(())
}

/// A running unit; ended when dropped.
pub(crate) struct Unit {
    board: &'static Board,
    runner: Child,
    console: ChildStdin,
    said: Arc<Mutex<Vec<String>>>,
}

impl Unit {
    /// Gives it power; its line is `line` in the folder. `None` as [`built`] says.
    pub(crate) fn start(board: &'static Board, folder: &Path, args: &[&str]) -> Option<Self> {
        let unit = Self::start_any(board, folder, args)?;
        unit.until("ready", 1);
        Some(unit)
    }

    /// As [`Self::start`], without a look at what it says.
    pub(crate) fn start_any(board: &'static Board, folder: &Path, args: &[&str]) -> Option<Self> {
        let of_rust = if board.make == Make::Rust { "rust-" } else { "" };
        let image = built(board.make)?.join(format!("{of_rust}{}.elf", board.name));
        let mut runner = Command::new(format!("{ROOT}/hardware/boards/run"))
            .arg(board.name)
            .arg(image)
            .arg(folder.join("unit"))
            .arg("--line")
            .arg(folder.join("line"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = runner.stdin.take().unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&said);
        let stdout = BufReader::new(runner.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line)));
        Some(Self { board, runner, console, said })
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.console, "{order}").unwrap();
    }

    /// How many lines began so.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.starts_with(words)).count()
    }

    /// The last line that begins with one of these.
    pub(crate) fn last_of(&self, words: &[&str]) -> String {
        let said = self.said.lock().unwrap();
        let last = said.iter().rev().find(|line| words.iter().any(|word| line.starts_with(word)));
        last.cloned().unwrap_or_default()
    }

    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + SOON;
        while !condition(self) {
            assert!(Instant::now() < end, "{}: not {what}: {:?}", self.board.name, self.said.lock().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it said this so many times since its start.
    pub(crate) fn until(&self, words: &str, times: usize) {
        self.wait(&format!("{times} times {words:?}"), |unit| unit.count(words) >= times);
    }

    /// How it stands.
    pub(crate) fn status(&mut self) -> Json {
        let before = self.count("{");
        self.tell("status");
        self.until("{", before + 1);
        serde_json::from_str(&self.last_of(&["{"])).unwrap()
    }

    /// Presses its button.
    pub(crate) fn open_window(&mut self) {
        let opened = self.count("pairing window open");
        self.tell("button");
        self.until("pairing window open", opened + 1);
    }

    /// Takes its power away, without a word before, and gives it back.
    pub(crate) fn power_cycle(&mut self) {
        let starts = self.count("ready");
        self.tell("power-cycle");
        self.until("ready", starts + 1);
    }

    /// The painted stack has a part that was never written to.
    pub(crate) fn stack_was_enough(&mut self) {
        let peak = self.status()["stack"].as_u64().unwrap();
        assert!(peak + 256 < self.board.stack, "{}: the stack took {peak} bytes", self.board.name);
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // The end of its stdin ends the runner too, but not before the next test.
        let _ = self.runner.kill();
        let _ = self.runner.wait();
    }
}
