//! One unit under `hardware/boards/run`: an image that is built once a process, its console, its line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::SOON;

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A board that the images are built for.
pub(crate) struct Board {
    pub(crate) name: &'static str,
    /// Readings that surely fit into its memory.
    pub(crate) held_at_once: u64,
    /// The highest suite that it does.
    pub(crate) suite: u8,
    /// Bytes that its linker script gives to the stack.
    stack: u64,
}

pub(crate) const BIG: Board = Board { name: "mps2-an386", held_at_once: 60, suite: 2, stack: 24576 };
pub(crate) const SMALL: Board = Board { name: "stm32vldiscovery", held_at_once: 8, suite: 1, stack: 3072 };
pub(crate) const ONE_UART: Board = Board { name: "microbit", held_at_once: 30, suite: 1, stack: 3072 };

/// Where the images are; `None` when there is no cross compiler or no emulator to be had.
pub(crate) fn built() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            for tool in ["arm-none-eabi-gcc", "qemu-system-arm"] {
                if Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err() {
                    eprintln!("NOT RUN: there is no {tool}; tests/run installs it");
                    return None;
                }
            }
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
            let lock = File::create(folder.join("sdk-c-bare.lock")).unwrap();
            lock.lock().unwrap();
            let out = folder.join("sdk-c-bare");
            let built = Command::new(format!("{ROOT}/hardware/sdk-c/bare/build")).arg(&out).output().unwrap();
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            Some(out)
        })
        .as_deref()
}

/// A running unit; ended when dropped.
pub(crate) struct Unit {
    pub(crate) board: &'static Board,
    runner: Child,
    console: ChildStdin,
    said: Arc<Mutex<Vec<String>>>,
}

impl Unit {
    /// Gives it power; its line is `line` in the folder. `None` as [`built`] says.
    pub(crate) fn start(board: &'static Board, folder: &Path, args: &[&str]) -> Option<Self> {
        let image = built()?.join(format!("{}.elf", board.name));
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
        let unit = Self { board, runner, console, said };
        unit.until("ready", 1);
        Some(unit)
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

    /// Waits until it holds no reading any more: the gateway has said that all are safe.
    pub(crate) fn until_all_are_safe(&mut self) {
        let end = Instant::now() + SOON;
        while self.status()["held"] != 0 {
            assert!(Instant::now() < end, "{}: readings stay: {:?}", self.board.name, self.said.lock().unwrap().last());
        }
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
