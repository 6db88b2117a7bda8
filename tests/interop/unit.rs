//! A sensor at work, and the hands at it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};

use crate::sensors::{Power, Starter, Words};
use crate::until;

/// A unit with power; without when dropped.
pub(crate) struct Unit {
    starter: Starter,
    folder: PathBuf,
    label: bool,
    suite: u8,
    power: Option<(Child, ChildStdin)>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Unit {
    /// Gives power to a unit of this kind.
    pub(crate) fn start(starter: Starter, folder: &Path, label: bool, suite: u8) -> Self {
        let mut unit = Self { starter, folder: folder.to_owned(), label, suite, power: None, said: Arc::default() };
        unit.switch_on();
        unit
    }

    /// How it says things.
    pub(crate) fn words(&self) -> &'static Words {
        self.starter.kind.words
    }

    fn switch_on(&mut self) {
        let ready = self.count(self.words().ready);
        let mut command = self.starter.command(&self.folder, self.label, self.suite);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        self.power = Some((process, stdin));
        let said = Arc::clone(&self.said);
        let mut copy = File::options().create(true).append(true).open(self.folder.join("said")).unwrap();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = writeln!(copy, "{line}");
                said.lock().unwrap().push(line);
            }
        });
        self.hears(self.words().ready, ready + 1);
    }

    fn switch_off(&mut self) {
        if let Some((mut process, _)) = self.power.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Cuts its power in the middle of whatever it does, and gives it back.
    pub(crate) fn power_cycle(&mut self) {
        match self.starter.kind.power {
            Power::Kill => {
                // As udev does it; the tty's number may be another unit's in a moment.
                std::fs::remove_file(self.folder.join("line")).unwrap();
                self.switch_off();
                self.switch_on();
            }
            Power::Bench => {
                let ready = self.count(self.words().ready);
                self.tell("power-cycle");
                self.hears(self.words().ready, ready + 1);
            }
        }
    }

    /// A line on its keyboard.
    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.power.as_mut().unwrap().1, "{order}").unwrap();
    }

    /// A line on its keyboard, and waits until it has said that it was done.
    pub(crate) fn does(&mut self, order: &str, words: &str) {
        let before = self.count(words);
        self.tell(order);
        self.hears(words, before + 1);
    }

    /// How often it said this.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|line| line.starts_with(words)).count()
    }

    /// Waits until it has said this so often.
    pub(crate) fn hears(&self, words: &str, times: usize) {
        until(&format!("{times} times {words:?}"), || self.count(words) >= times);
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.switch_off();
    }
}
