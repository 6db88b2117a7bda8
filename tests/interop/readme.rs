//! The matrix as hardware/README.md shows it: which cells are run, and why the others are not.

use std::fmt::Write as _;

use crate::cell::{COLUMNS, Cell};
use crate::sensors::KINDS;

/// Rows are sensors, columns are link, ceremony and suite; reasons stand below.
pub(crate) fn table() -> String {
    let mut text = String::from("| sensor |");
    for column in COLUMNS {
        let _ = write!(text, " {column} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(COLUMNS.len()));
    let mut reasons: Vec<&str> = Vec::new();
    for kind in KINDS.iter().rev() {
        let _ = write!(text, "\n| {} |", kind.name);
        for column in COLUMNS {
            match (Cell { kind, column }).reason_not_to_run() {
                None => text.push_str(" run |"),
                Some(reason) => {
                    let _ = write!(text, " ({}) |", place(&mut reasons, reason));
                }
            }
        }
    }
    text.push_str("\n\n");
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "({}) {reason}  ", number + 1);
    }
    text
}

/// The number of a reason, from 1.
pub(crate) fn place<'r>(reasons: &mut Vec<&'r str>, reason: &'r str) -> usize {
    let known = reasons.iter().position(|known| *known == reason);
    known.unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    }) + 1
}
