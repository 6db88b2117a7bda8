//! The interop matrix: every implementation of a sensor x ceremony x suite x link against the real daemon. A cell pairs
//! (after a wrong code), sends 1,000 readings to a broker's subscriber, comes back after a power cut of each side, renews
//! its session under traffic, is reset and paired again. Every cell is run or says why not; the table is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "../ble/bluez/mod.rs"]
#[allow(dead_code, reason = "the tests of BLE use all of it")]
mod bluez;
mod cell;
#[path = "../support/daemon.rs"]
mod daemon;
mod front;
mod readme;
mod sensors;
mod site;
#[path = "../support/mod.rs"]
mod support;
mod unit;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cell::{COLUMNS, Cell};
use sensors::{Built, KINDS, Kind};
use site::Site;

/// Cells that run at the same time; most of a cell's time is waiting.
const AT_ONCE: usize = 3;
/// What must come, comes within this time, also on a slow and busy machine.
const SOON: Duration = Duration::from_secs(120);

/// Waits for a condition, not for a time.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What became of a cell.
enum Outcome {
    Ran(Duration),
    Failed(String),
    NotRun(&'static str),
}

#[test]
fn every_cell_is_run_or_says_why_not() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let only = std::env::var("INTEROP").unwrap_or_default();
    let cells: Vec<_> = KINDS
        .iter()
        .flat_map(|kind| COLUMNS.iter().map(move |column| Cell { kind, column }))
        .filter(|cell| cell.name().contains(&only))
        .collect();
    let run = cells.iter().filter(|cell| cell.reason_not_to_run().is_none());
    let built = Built::for_kinds(run.map(|cell| cell.kind));
    let site = Site::start(runtime.handle());
    let waiting: Mutex<VecDeque<_>> = Mutex::new((0..cells.len()).collect());
    let outcomes: Vec<_> = cells.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(next) = waiting.lock().unwrap().pop_front() else { break };
                    *outcomes[next].lock().unwrap() = Some(outcome(&cells[next], next, &site, &built));
                }
            });
        }
    });
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap().unwrap()).collect();
    // Straight to the terminal: the harness would keep it to itself when all is well.
    let _ = std::io::stderr().write_all(table(&cells, &outcomes).as_bytes());
    let failed: Vec<_> = cells
        .iter()
        .zip(&outcomes)
        .filter_map(|(cell, outcome)| match outcome {
            Outcome::Failed(why) => Some(format!("{}: {why}", cell.name())),
            _ => None,
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// No test: a part of each cell, in a process of its own. A gateway over BLE takes the bus that its environment names.
#[test]
#[ignore = "the matrix starts it"]
fn the_front_half_of_a_cell() {
    front::work();
}

/// The table of hardware/README.md says what is run and what is not.
#[test]
fn the_readme_shows_this_matrix() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/hardware/README.md");
    let page = std::fs::read_to_string(file).unwrap();
    let (before, rest) = page.split_once("renews it -->\n").unwrap();
    let (shown, after) = rest.split_once("<!-- end of matrix -->").unwrap();
    let expected = readme::table();
    if std::env::var("INTEROP_README").is_ok_and(|word| word == "write") {
        std::fs::write(file, format!("{before}renews it -->\n{expected}<!-- end of matrix -->{after}")).unwrap();
    } else {
        assert_eq!(shown, expected, "INTEROP_README=write renews it");
    }
}

fn outcome(cell: &Cell, number: usize, site: &Site, built: &Built) -> Outcome {
    if let Some(reason) = cell.reason_not_to_run() {
        return Outcome::NotRun(reason);
    }
    let command = match built.of(cell.kind) {
        Ok(command) => command,
        Err(why) => return Outcome::Failed(why),
    };
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cell.run(command, number, folder.path(), site)));
    let tail = |file: &str| {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap_or_default();
        text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    match ran {
        Ok(()) => Outcome::Ran(start.elapsed()),
        Err(panic) => {
            let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            Outcome::Failed(format!("{why}\nit said:\n{}\nthe daemon:\n{}", tail("said"), tail("log")))
        }
    }
}

/// Rows are sensors, columns are link, ceremony and suite; reasons stand below.
fn table(cells: &[Cell], outcomes: &[Outcome]) -> String {
    let mut text = format!("\n{:<28}", "sensor");
    for column in COLUMNS {
        let _ = write!(text, "{:>15}", column.to_string());
    }
    let mut reasons: Vec<&str> = Vec::new();
    let mut row: Option<&Kind> = None;
    for (cell, outcome) in cells.iter().zip(outcomes) {
        if row.is_none_or(|kind| kind.name != cell.kind.name) {
            row = Some(cell.kind);
            let _ = write!(text, "\n{:<28}", cell.kind.name);
        }
        let shown = match outcome {
            Outcome::Ran(time) => format!("ok {:.0} s", time.as_secs_f32()),
            Outcome::Failed(_) => "FAILED".to_owned(),
            Outcome::NotRun(reason) => format!("- ({})", readme::place(&mut reasons, reason)),
        };
        let _ = write!(text, "{shown:>15}");
    }
    text.push('\n');
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "({}) {reason}", number + 1);
    }
    text
}
