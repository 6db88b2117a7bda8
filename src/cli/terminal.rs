//! What reaches a person's terminal: results on standard output, progress on standard error, colour only where
//! a terminal wants it, and nothing that came from the air before it is escaped.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Shows a text from elsewhere: control characters, bidirectional marks and other invisible ones as `\u{..}`.
#[must_use]
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            let _ = write!(clean, "{}", c.escape_unicode());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Characters that change how others are shown: bidi marks, zero widths, line separators, tags.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Where a command says what it has to say.
pub struct Terminal {
    json: bool,
    colour: bool,
}

impl Terminal {
    /// JSON on standard output where `json`, else words.
    #[must_use]
    pub(crate) fn new(json: bool) -> Self {
        let colour = io::stdout().is_terminal() && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colour }
    }

    /// Whether results are JSON.
    #[must_use]
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A result: JSON in one line, or the words that `human` makes of it.
    pub(crate) fn result<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) {
        let text = if self.json { serde_json::to_string(value).unwrap_or_default() } else { human(value) };
        self.line(&text);
    }

    /// A line of words on standard output; the caller has escaped what came from elsewhere.
    #[expect(clippy::unused_self, reason = "only what was given the terminal writes to it")]
    pub(crate) fn line(&self, text: &str) {
        // A reader that went away (`| head`) is not an error.
        let _ = writeln!(io::stdout().lock(), "{}", text.trim_end());
    }

    /// Bytes on standard output as they are; whether they were taken.
    #[must_use]
    #[expect(clippy::unused_self, reason = "only what was given the terminal writes to it")]
    pub(crate) fn raw(&self, bytes: &[u8]) -> bool {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).is_ok()
    }

    /// Progress, on standard error; nothing under `--json`.
    pub(crate) fn progress(&self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Green, where colour is wanted.
    #[must_use]
    pub(crate) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Red, where colour is wanted.
    #[must_use]
    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Rows under headings, aligned; every cell is escaped.
#[must_use]
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut add = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    add(&mut headings.iter().copied());
    for row in &rows {
        add(&mut row.iter().map(String::as_str));
    }
    text
}

/// Seconds as people read them: `12 s`, `4:12`, `3 h 5 min`, `2 d 4 h`.
#[must_use]
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Bytes as people read them.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_air_cannot_move_the_cursor() {
        assert_eq!(clean("TH\x1b]0;x\x07\r\nKit"), "TH\\u{1b}]0;x\\u{7}\\u{d}\\u{a}Kit");
        assert_eq!(clean("a\u{202e}b\u{200b}c\u{9b}"), "a\\u{202e}b\\u{200b}c\\u{9b}");
        assert_eq!(clean("Fühler-3 温度"), "Fühler-3 温度");
    }

    #[test]
    fn a_table_lines_up_and_escapes_its_cells() {
        let text = table(&["ID", "NAME"], &[vec!["7F3A".into(), "a\nb".into()], vec!["x".into(), "y".into()]]);
        assert_eq!(text, "ID    NAME\n7F3A  a\\u{a}b\nx     y\n");
    }

    #[test]
    fn spans_are_short() {
        let said: Vec<_> = [5, 252, 3700, 180_000].into_iter().map(span).collect();
        assert_eq!(said, ["5 s", "4:12", "1 h 1 min", "2 d 2 h"]);
    }
}
