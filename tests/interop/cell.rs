//! One cell of the matrix, from the first start to the second pairing.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::Value as Json;

use crate::daemon::Daemon;
use crate::front::Front;
use crate::sensors::{Build, Kind, LABEL, Starter};
use crate::site::Site;
use crate::unit::Unit;
use crate::until;

/// A code that is none of theirs.
const WRONG: &str = "0000-0000";
/// What `pair` ends with when the code is wrong.
const WRONG_CODE: i32 = 4;
const SUITE_1_ONLY: &str = "this sensor has suite 1 only";
const TOO_SMALL: &str = "8 KiB of RAM are not enough for the Rust firmware: the C SDK is for such boards";
const NO_RADIO: &str = "QEMU emulates no radio: this board has none, or its radio is not part of the emulated chip";
const NO_BLE_PROGRAM: &str =
    "the POSIX program has a tty only; the SDK's side of BLE is tested by itself, in hardware/sdk-c/tests/ble.c";
const FOR_THE_BENCH: &str = "it is for serial lines alone: it has no GATT peripheral";

/// Who has the code first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ceremony {
    Label,
    Issued,
}

/// What a sensor is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Uart,
    Ble,
}

/// A column of the matrix.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) link: Link,
    pub(crate) ceremony: Ceremony,
    pub(crate) suite: u8,
}

const fn column(link: Link, ceremony: Ceremony, suite: u8) -> Column {
    Column { link, ceremony, suite }
}

/// All columns.
pub(crate) const COLUMNS: &[Column] = &[
    column(Link::Uart, Ceremony::Label, 1),
    column(Link::Uart, Ceremony::Issued, 1),
    column(Link::Uart, Ceremony::Label, 2),
    column(Link::Uart, Ceremony::Issued, 2),
    column(Link::Ble, Ceremony::Label, 1),
    column(Link::Ble, Ceremony::Issued, 1),
    column(Link::Ble, Ceremony::Label, 2),
    column(Link::Ble, Ceremony::Issued, 2),
];

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = if self.link == Link::Uart { "UART" } else { "BLE" };
        let ceremony = if self.ceremony == Ceremony::Label { "label" } else { "issued" };
        write!(f, "{link} {ceremony} {}", self.suite)
    }
}

/// A sensor in a column.
pub(crate) struct Cell {
    pub(crate) kind: &'static Kind,
    pub(crate) column: &'static Column,
}

impl Cell {
    pub(crate) fn name(&self) -> String {
        format!("{}, {}", self.kind.name, self.column)
    }

    /// Why this cell cannot be run, if it cannot.
    pub(crate) fn reason_not_to_run(&self) -> Option<&'static str> {
        match (self.column.link, self.kind.suites) {
            (_, []) => Some(TOO_SMALL),
            (Link::Ble, _) if self.kind.build != Build::Simulator => Some(match self.kind.build {
                Build::CPosix => NO_BLE_PROGRAM,
                Build::Python => FOR_THE_BENCH,
                _ => NO_RADIO,
            }),
            (_, suites) if suites.contains(&self.column.suite) => None,
            _ => Some(SUITE_1_ONLY),
        }
    }

    /// Runs it; panics where it fails.
    pub(crate) fn run(&self, starter: Starter, number: usize, folder: &Path, site: &Site) {
        let gateway = format!("gw-{number}");
        let unit = Unit::start(starter, folder, self.column);
        let daemon = site.daemon(folder, &gateway, self.column.suite, unit.bus());
        let mut bed = Bed { unit, daemon, site, gateway, read: 0, holds: self.kind.holds };
        bed.sees("");
        bed.pairs(self.column.ceremony, true);
        bed.reads(1000);
        bed.site.has_each_once(&bed.gateway, bed.read);

        let sessions = bed.sessions();
        bed.unit.power_cycle();
        bed.unit.hears(bed.unit.words().session, sessions + 1);
        bed.reads(10);
        bed.site.has_each_once(&bed.gateway, bed.read);

        bed.daemon.kill();
        bed.unit.tell("read 10");
        bed.read += 10;
        bed.daemon.resume();
        bed.site.hears(&bed.gateway, bed.read);
        bed.reads(10);

        bed.renews_its_session(folder);

        bed.unit.does("reset", bed.unit.words().reset);
        bed.pairs(self.column.ceremony, false);
        bed.reads(10);
        bed.is_led_by_the_gateway();
    }
}

/// A sensor, its gateway, and how many readings were made for the broker.
struct Bed<'s> {
    unit: Unit,
    daemon: Daemon,
    site: &'s Site,
    gateway: String,
    read: usize,
    holds: usize,
}

impl Bed<'_> {
    /// Waits until a scan shows the sensor, in this state if one is named.
    fn sees(&self, state: &str) {
        self.daemon.wait(&format!("the sensor is seen {state}"), |daemon| {
            let found = daemon.cli(&["scan", "--for", "1s", "--json"]).stdout;
            String::from_utf8_lossy(&found).lines().any(|line| {
                line.contains(self.unit.at()) && (state.is_empty() || line.contains(&format!("\"state\":{state:?}")))
            })
        });
    }

    fn sessions(&self) -> usize {
        self.unit.count(self.unit.words().session)
    }

    /// Makes readings, and waits until they are at the subscriber.
    fn reads(&mut self, count: usize) {
        let end = self.read + count;
        while self.read < end {
            let some = self.holds.min(end - self.read);
            self.unit.tell(&format!("read {some}"));
            self.read += some;
            self.site.hears(&self.gateway, self.read);
        }
    }

    /// Pairs by this ceremony; the code may be a wrong one first.
    fn pairs(&mut self, ceremony: Ceremony, wrong_first: bool) {
        match ceremony {
            Ceremony::Label => {
                if wrong_first {
                    let mut pair = self.pair_by_label(WRONG);
                    assert_eq!(pair.wait().unwrap().code(), Some(WRONG_CODE), "a wrong code is told as such");
                    assert_eq!(self.unit.count(self.unit.words().paired), 0);
                }
                let paired = self.unit.count(self.unit.words().paired);
                let pair = self.pair_by_label(LABEL);
                self.is_paired(paired, pair);
            }
            Ceremony::Issued => {
                // On the air it is heard a moment after the gateway started.
                self.sees("");
                let paired = self.unit.count(self.unit.words().paired);
                let command = ["pair", self.unit.at(), "--issue", "--name", "dev", "--json"];
                let mut pair = self.daemon.command(&command);
                let mut pair = pair.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                let mut lines = BufReader::new(pair.stdout.take().unwrap()).lines().map_while(Result::ok);
                let said: Json = serde_json::from_str(&lines.next().unwrap()).unwrap();
                let code = said["code"].as_str().unwrap_or_else(|| panic!("no code: {said}")).to_owned();
                // It goes on talking; somebody has to listen.
                std::thread::spawn(move || lines.for_each(drop));
                if wrong_first {
                    self.unit.does(&format!("code {WRONG}"), self.unit.words().failed);
                    assert_eq!(pair.wait().unwrap().code(), Some(WRONG_CODE), "a wrong code is told as such");
                    assert_eq!(self.unit.count(self.unit.words().paired), paired);
                    // The code lives on, and takes another entry.
                    self.unit.does(&format!("code {code}"), self.unit.words().paired);
                    self.reads(1);
                } else {
                    self.unit.tell(&format!("code {code}"));
                    self.is_paired(paired, pair);
                }
            }
        }
    }

    fn pair_by_label(&mut self, code: &str) -> Child {
        self.unit.does("button", self.unit.words().window);
        if self.unit.link() == Link::Ble {
            // On a line it is asked; on the air one waits for what it says.
            self.sees("pairable");
        }
        let mut pair = self.daemon.command(&["pair", self.unit.at(), "--name", "dev"]);
        pair.env("OPENCLAW_PAIRING_CODE", code).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Gives it a reading to confirm once it is paired, and sees `pair` end well.
    fn is_paired(&mut self, before: usize, mut pair: Child) {
        self.unit.hears(self.unit.words().paired, before + 1);
        self.reads(1);
        assert_eq!(pair.wait().unwrap().code(), Some(0), "pair says that it is paired");
    }

    /// A day goes by on the gateway's clock while readings flow.
    fn renews_its_session(&mut self, folder: &Path) {
        assert!(self.daemon.stop(), "the daemon ended in order");
        let (sessions, begun) = (self.sessions(), Instant::now());
        let mut front = Front::start(folder, &self.gateway, self.unit.bus());
        self.unit.hears(self.unit.words().session, sessions + 1);
        front.a_day_later();
        // Never silent: a sensor that falls silent is looked after with a new session anyway.
        let mut made = 0;
        until("a renewed session", || {
            if front.count() >= made {
                self.unit.tell("read 5");
                made += 5;
            }
            self.sessions() > sessions + 1
        });
        self.unit.tell("read 5");
        until("the readings around it", || front.count() >= made + 5);
        front.has_each_once();
        // On a slow machine the sensor may be silent for so long that it is looked after.
        let looked_after = usize::try_from(begun.elapsed().as_secs()).unwrap() / 3;
        assert!(self.sessions() <= sessions + 2 + looked_after, "one renewal is enough");
        front.stop();
        self.daemon.resume();
    }

    /// It blinks when it is told to, and forgets all keys for good.
    fn is_led_by_the_gateway(&mut self) {
        self.unit.had_stack_enough();
        let blinked = self.unit.count(self.unit.words().blink);
        assert!(self.daemon.cli(&["identify", "dev"]).status.success());
        self.unit.hears(self.unit.words().blink, blinked + 1);
        let unpaired = self.unit.count(self.unit.words().unpaired);
        assert!(self.daemon.cli(&["unpair", "dev"]).status.success());
        self.unit.hears(self.unit.words().unpaired, unpaired + 1);
        self.unit.power_cycle();
        if let Some(status) = self.unit.status() {
            assert_eq!(status["paired"], false, "what was erased came back");
        }
    }
}
