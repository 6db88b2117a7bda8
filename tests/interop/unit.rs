//! A sensor at work, and the hands at it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value as Json;

use crate::bluez::Bluez;
use crate::cell::{Column, Link};
use crate::sensors::{Power, Starter, Words};
use crate::until;

/// What a unit on the air is called there.
const ADDRESS: &str = "f0:c1:a9:00:00:01";

/// A unit with power; without when dropped.
pub(crate) struct Unit {
    starter: Starter,
    folder: PathBuf,
    column: &'static Column,
    /// Its air, where it has a radio: nobody else is on it.
    air: Option<Bluez>,
    power: Option<(Child, ChildStdin)>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Unit {
    /// Gives power to a unit of this kind.
    pub(crate) fn start(starter: Starter, folder: &Path, column: &'static Column) -> Self {
        let air = (column.link == Link::Ble).then(|| Bluez::start(&folder.join("bluez"), &["hci0"]));
        let mut unit = Self { starter, folder: folder.to_owned(), column, air, power: None, said: Arc::default() };
        unit.switch_on();
        unit
    }

    /// How it says things.
    pub(crate) fn words(&self) -> &'static Words {
        self.starter.kind.words
    }

    pub(crate) fn link(&self) -> Link {
        self.column.link
    }

    /// Where a gateway finds it.
    pub(crate) fn at(&self) -> &'static str {
        if self.link() == Link::Ble { ADDRESS } else { "line1" }
    }

    /// The bus on which BlueZ is, if that is what carries it.
    pub(crate) fn bus(&self) -> Option<String> {
        self.air.as_ref().map(Bluez::address)
    }

    fn switch_on(&mut self) {
        let ready = self.count(self.words().ready);
        let mut command = self.starter.command(&self.folder, self.column);
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
        if let Some(air) = &self.air {
            air.sensor("hci0", ADDRESS, &self.folder.join("air"));
        }
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
                if self.link() == Link::Uart {
                    // As udev does it; the tty's number may be another unit's in a moment.
                    std::fs::remove_file(self.folder.join("line")).unwrap();
                }
                self.switch_off();
                if let Some(air) = &self.air {
                    until("it is off the air", || air.at(ADDRESS, |device| device.service_data.is_empty()));
                }
                self.switch_on();
            }
            Power::Bench => {
                let ready = self.count(self.words().ready);
                self.tell("power-cycle");
                self.hears(self.words().ready, ready + 1);
            }
        }
    }

    /// What an image says of how it stands; only those of the bench do.
    pub(crate) fn status(&mut self) -> Option<Json> {
        if self.starter.kind.power != Power::Bench {
            return None;
        }
        self.does("status", "{");
        let said = self.said.lock().unwrap();
        let last = said.iter().rev().find(|line| line.starts_with('{')).unwrap();
        Some(serde_json::from_str(last).unwrap())
    }

    /// Sees that a part of an image's painted stack was never written to since the power came.
    pub(crate) fn had_stack_enough(&mut self) {
        let Some(status) = self.status() else { return };
        let peak = status["stack"].as_u64().unwrap();
        assert!(peak + 256 < self.starter.kind.stack, "the stack took {peak} bytes");
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
