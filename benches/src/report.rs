//! The result as JSON and as a table, clawgate's peers as ratios.

use std::fmt::Write as _;

use serde::Serialize;

use crate::Outcome;
use crate::options::Options;
use crate::own::Own;
use crate::scenario::Figures;

/// All figures of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    /// A look, not a result to quote.
    quick: bool,
    /// Processors of the machine.
    cores: usize,
    /// Its system.
    system: String,
    /// Each subject's figures.
    subjects: Vec<Figures>,
    /// What only clawgate is asked.
    pub(crate) own: Option<Own>,
}

/// A row of the table: what it says, a unit, and how to read it off.
struct Row {
    what: &'static str,
    value: fn(&Figures) -> f64,
    digits: usize,
}

const fn row(what: &'static str, digits: usize, value: fn(&Figures) -> f64) -> Row {
    Row { what, value, digits }
}

const ROWS: [Row; 16] = [
    row("flood, readings/s", 0, |f| f.flood.per_s),
    row("flood, CPU us/reading", 1, |f| f.flood.cpu_us_per_reading),
    row("flood, disk bytes/reading", 1, |f| f.flood.disk_bytes_per_reading),
    row("200/s, p50 ms", 2, |f| f.steady.p50_ms),
    row("200/s, p99 ms", 2, |f| f.steady.p99_ms),
    row("200/s, max ms", 2, |f| f.steady.max_ms),
    row("200/s, CPU us/reading", 1, |f| f.steady.cpu_us_per_reading),
    row("200/s, disk bytes/reading", 1, |f| f.steady.disk_bytes_per_reading),
    row("RSS MB, 1 device, idle", 1, |f| mb(f.one.idle.rss_kib)),
    row("RSS MB, 1 device, flood", 1, |f| mb(f.one.load.rss_kib)),
    row("PSS MB, many devices, idle", 1, |f| mb(f.many.idle.pss_kib)),
    row("PSS MB, many devices, 10/s each", 1, |f| mb(f.many.load.pss_kib)),
    row("outage + kill: acknowledged", 0, |f| count(f.outage.acknowledged)),
    row("outage + kill: lost of these", 0, |f| count(f.outage.lost)),
    row("outage + kill: extra deliveries", 0, |f| count(f.outage.duplicates)),
    row("outage + kill: disk bytes/reading", 0, |f| f.outage.disk_bytes_per_reading),
];

fn mb(kib: u64) -> f64 {
    real(kib) * 1024.0 / 1e6
}

fn count(of: usize) -> f64 {
    real(of as u64)
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "a figure for people; 52 bits are more than enough")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

impl Report {
    /// A report without subjects yet.
    pub(crate) fn new(options: &Options) -> Self {
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown system");
        Self {
            quick: options.quick,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            system: system.trim_matches('"').to_owned(),
            subjects: Vec::new(),
            own: None,
        }
    }

    /// Adds what one subject did.
    pub(crate) fn add(&mut self, figures: Figures) {
        self.subjects.push(figures);
    }

    /// Everything, for programs.
    ///
    /// # Errors
    /// A figure that JSON cannot carry.
    pub(crate) fn json(&self) -> Outcome<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// The table: one column a subject, then the first subject's figure divided by each of the others'.
    pub(crate) fn table(&self) -> String {
        let Some((first, others)) = self.subjects.split_first() else { return String::new() };
        let mut table = String::from("|  |");
        for figures in &self.subjects {
            let _ = write!(table, " {} |", figures.subject);
        }
        for figures in others {
            let _ = write!(table, " {} / {} |", first.subject, figures.subject);
        }
        table.push_str("\n|---|");
        table.push_str(&"---:|".repeat(self.subjects.len() + others.len()));
        for Row { what, value, digits } in &ROWS {
            let _ = write!(table, "\n| {what} |");
            for figures in &self.subjects {
                let _ = write!(table, " {:.digits$} |", value(figures));
            }
            for figures in others {
                let ratio = value(first) / value(figures);
                let _ = if ratio.is_finite() { write!(table, " {ratio:.2} |") } else { write!(table, " - |") };
            }
        }
        table.push_str("\n\n");
        table.push_str(&self.own.as_ref().map(Own::table).unwrap_or_default());
        let _ = writeln!(
            table,
            "\n{} cores, {}{}",
            self.cores,
            self.system,
            if self.quick { ", quick run: not a result to quote" } else { "" }
        );
        table
    }
}
