//! What is measured: this machine, the rows of a file, or a count.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use clawgate_protocol::senml::{Record, Value};

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SourceError {
    #[error("readings file {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("readings file {}, line {line}: {reason}", path.display())]
    Row { path: PathBuf, line: usize, reason: String },
}

/// Where readings come from.
pub(crate) enum Source {
    Machine(Machine),
    Rows(Rows),
    Count(Count),
}

impl Source {
    pub(crate) fn rows(path: &Path) -> Result<Self, SourceError> {
        let text = std::fs::read_to_string(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
        Rows::parse(&text).map(Self::Rows).map_err(|(line, reason)| SourceError::Row {
            path: path.to_owned(),
            line,
            reason,
        })
    }

    /// Gives the records of the next reading to `take`; nothing once the rows are at their end.
    pub(crate) fn next<R>(&mut self, take: impl FnOnce(&mut [Record<'_>]) -> R) -> Option<R> {
        match self {
            Self::Machine(machine) => {
                let mut records: Vec<_> =
                    machine.measure().iter().map(|(name, unit, value)| Record::number(name, unit, *value)).collect();
                Some(take(&mut records))
            }
            Self::Rows(rows) => {
                let row = rows.rows.pop_front()?;
                let mut records: Vec<_> =
                    rows.columns.iter().zip(&row).map(|(column, cell)| record(column, cell)).collect();
                Some(take(&mut records))
            }
            Self::Count(count) => Some(count.next(take)),
        }
    }
}

/// A number that grows, and text that fills the reading up.
#[derive(Default)]
pub(crate) struct Count {
    made: u32,
    filling: String,
    size: usize,
}

impl Count {
    /// What a reading takes beside the number and the text: two records with their names, the text's length.
    const FRAME: usize = 19;

    /// Readings of so many bytes each, without the time; as small as they get if that is less.
    pub(crate) fn of_size(size: usize) -> Self {
        Self { made: 0, filling: "x".repeat(size), size }
    }

    fn next<R>(&mut self, take: impl FnOnce(&mut [Record<'_>]) -> R) -> R {
        self.made = self.made.wrapping_add(1);
        let number = match self.made {
            0..=23 => 1,
            24..=0xff => 2,
            0x100..=0xffff => 3,
            _ => 5,
        };
        let value = Value::Number(clawgate_protocol::senml::Number::Integer(self.made.into()));
        let count = Record { name: Some("count"), value: Some(value), ..Record::default() };
        let filling = self.size.saturating_sub(Self::FRAME + number);
        // From 24 bytes on the length of a text takes one byte more.
        match self.filling.get(..if filling < 24 { filling } else { filling - 1 }) {
            None | Some("") => take(&mut [count]),
            Some(text) => {
                let text = Record { name: Some("fill"), value: Some(Value::Text(text)), ..Record::default() };
                take(&mut [count, text])
            }
        }
    }
}

/// The rows of a file, read as a whole.
pub(crate) struct Rows {
    /// Name and unit.
    columns: Vec<(String, Option<String>)>,
    rows: VecDeque<Vec<String>>,
}

impl Rows {
    /// The first line names the columns, `name:unit` or `name`. On failure: the line and the reason.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let cells = |line: &str| line.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut lines =
            text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(|(_, line)| !line.is_empty());
        let (_, header) = lines.next().ok_or((1, "no line with the names of the columns".to_owned()))?;
        let columns: Vec<_> = cells(header)
            .into_iter()
            .map(|column| match column.split_once(':') {
                Some((name, unit)) => (name.to_owned(), Some(unit.to_owned())),
                None => (column, None),
            })
            .collect();
        let plain =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if let Some((name, _)) = columns.iter().find(|(name, _)| !plain(name)) {
            return Err((
                1,
                format!("{name:?} cannot be the name of a column: use letters, digits, '-', '_', '.', '/'"),
            ));
        }
        let rows = lines
            .map(|(line, text)| {
                let row = cells(text);
                if row.len() == columns.len() {
                    Ok(row)
                } else {
                    Err((line, format!("{} cells for {} columns", row.len(), columns.len())))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { columns, rows })
    }
}

fn record<'a>((name, unit): &'a (String, Option<String>), cell: &'a str) -> Record<'a> {
    let number = cell.parse::<f64>().ok().filter(|value| value.is_finite());
    match (number, cell) {
        (Some(value), _) => Record { unit: unit.as_deref(), ..Record::number(name, "", value) },
        (None, "true" | "false") => {
            Record { name: Some(name), value: Some(Value::Bool(cell == "true")), ..Record::default() }
        }
        _ => Record { name: Some(name), value: Some(Value::Text(cell)), ..Record::default() },
    }
}

/// This machine's own figures, from `/proc` and `/sys`. What is not there is left out.
#[derive(Default)]
pub(crate) struct Machine;

impl Machine {
    fn measure(&self) -> Vec<(&'static str, &'static str, f64)> {
        let _ = self;
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let mut figures = Vec::new();
        let mut add = |name, unit, value: Option<f64>| figures.extend(value.map(|value| (name, unit, value)));
        add("load", "/", read("/proc/loadavg").as_deref().and_then(load));
        add("memory", "%", read("/proc/meminfo").as_deref().and_then(memory_used));
        add("disk", "%", disk_used());
        let network = read("/proc/net/dev").as_deref().map(network);
        add("net/rx", "B", network.map(|(received, _)| received));
        add("net/tx", "B", network.map(|(_, sent)| sent));
        add("cpu", "Cel", cpu_temperature());
        figures
    }
}

fn load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn memory_used(text: &str) -> Option<f64> {
    let field = |name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    percent(field("MemTotal:")?, field("MemAvailable:")?)
}

fn disk_used() -> Option<f64> {
    let disk = rustix::fs::statvfs("/").ok()?;
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
    percent(disk.f_blocks as f64, disk.f_bavail as f64)
}

/// How much of `total` is used, with two decimals.
fn percent(total: f64, free: f64) -> Option<f64> {
    (total > 0.0).then(|| ((1.0 - free / total) * 10_000.0).round() / 100.0)
}

/// Bytes received and sent by all interfaces but the loopback.
fn network(text: &str) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (name, figures) in text.lines().filter_map(|line| line.split_once(':')) {
        let figures: Vec<f64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        if name.trim() != "lo" {
            sums.0 += figures.first().unwrap_or(&0.0);
            sums.1 += figures.get(8).unwrap_or(&0.0);
        }
    }
    sums
}

/// The warmest zone, in degrees Celsius.
fn cpu_temperature() -> Option<f64> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?;
    zones
        .filter_map(|zone| std::fs::read_to_string(zone.ok()?.path().join("temp")).ok()?.trim().parse::<f64>().ok())
        .map(|millidegrees| millidegrees / 1000.0)
        .filter(|degrees| (-50.0..150.0).contains(degrees))
        .reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_figures_are_read_as_the_kernel_writes_them() {
        assert_eq!(load("0.42 0.10 0.05 1/200 4242\n"), Some(0.42));
        assert_eq!(memory_used("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"), Some(75.0));
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n lo: 9 0 0 0 0 0 0 0 9 0\n eth0: 100 1 0 0 0 0 0 0 50 1\n";
        assert_eq!(network(text), (100.0, 50.0));
    }

    #[test]
    fn this_machine_has_something_to_measure() {
        let names: Vec<_> = Machine.measure().iter().map(|(name, ..)| *name).collect();
        assert!(names.contains(&"load") && names.contains(&"memory") && names.contains(&"disk"), "{names:?}");
    }

    #[test]
    fn a_small_reading_is_filled_up_to_its_size() {
        let mut out = [0; 200];
        for made in [0, 22, 23, 255, 65_535, 10_000_000] {
            for size in [30, 42, 43, 44, 100] {
                let mut source = Count { made, ..Count::of_size(size) };
                let written = source.next(|records| clawgate_protocol::senml::encode(records, &mut out));
                assert!(written.is_ok_and(|written| written.abs_diff(size) <= usize::from(size < 50)), "{size}");
            }
        }
        let bare = Count::of_size(0).next(|records| records.len());
        assert_eq!(bare, 1);
    }

    #[test]
    fn rows_are_numbers_flags_and_texts() {
        let mut source = Source::Rows(Rows::parse("t:Cel,open,state\n21.5,true,idle\n\n22,false,busy\n").unwrap());
        let seen = source.next(|records| {
            assert_eq!((records[0].name, records[0].unit), (Some("t"), Some("Cel")));
            assert_eq!(records[1].value, Some(Value::Bool(true)));
            assert_eq!(records[2].value, Some(Value::Text("idle")));
        });
        assert!(seen.is_some() && source.next(|_| ()).is_some() && source.next(|_| ()).is_none());
    }

    #[test]
    fn a_row_that_does_not_fit_is_named_by_its_line() {
        assert_eq!(Rows::parse("a,b\n1,2\n3\n").err().map(|(line, _)| line), Some(3));
        assert_eq!(Rows::parse("").err().map(|(line, _)| line), Some(1));
        assert!(Rows::parse("a\u{1b}[2J\n1\n").is_err());
    }
}
