//! What a person types at the unit: one command a line.

use clawgate_protocol::code::Code;
use heapless::Vec;

/// The longest line; a longer one is no command.
const LINE_MAX: usize = 24;

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens the window for the label's code; stands for a button where there is none.
    Button,
    /// A code that a gateway shows.
    Code(Code),
    /// Factory reset.
    Reset,
    /// Say how it is.
    Status,
    /// Take so many readings now.
    Read(u32),
    /// Take a reading in so many milliseconds; 0: none.
    Every(u32),
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A command.
    Command(Command),
    /// A code that cannot be one: nothing was tried with it.
    BadCode,
    /// Anything else.
    Unknown,
}

/// Collects bytes to lines.
#[derive(Debug, Default)]
pub struct Console {
    line: Vec<u8, LINE_MAX>,
    too_long: bool,
}

impl Console {
    /// Takes a byte; at the end of a line that has something in it, says what it was.
    pub fn push(&mut self, byte: u8) -> Option<Typed> {
        if byte != b'\n' && byte != b'\r' {
            self.too_long |= self.line.push(byte).is_err();
            return None;
        }
        let too_long = core::mem::take(&mut self.too_long);
        let line = core::mem::take(&mut self.line);
        let text = core::str::from_utf8(&line).unwrap_or("?").trim();
        match (text, too_long) {
            ("", false) => None,
            (_, true) => Some(Typed::Unknown),
            (text, false) => Some(parse(text)),
        }
    }
}

fn parse(text: &str) -> Typed {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let number = rest.parse().ok();
    let command = match (word, rest, number) {
        ("button", "", _) => Command::Button,
        ("reset", "", _) => Command::Reset,
        ("status", "", _) => Command::Status,
        ("read", _, Some(count)) => Command::Read(count),
        ("every", _, Some(ms)) => Command::Every(ms),
        ("code", code, _) => match Code::parse(code) {
            Ok(code) => Command::Code(code),
            Err(_) => return Typed::BadCode,
        },
        _ => return Typed::Unknown,
    };
    Typed::Command(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Option<Typed> {
        let mut console = Console::default();
        text.bytes().fold(None, |typed, byte| console.push(byte).or(typed))
    }

    #[test]
    fn commands_are_lines_of_their_own() {
        assert_eq!(typed("button\n"), Some(Typed::Command(Command::Button)));
        assert_eq!(typed(" status \r\n"), Some(Typed::Command(Command::Status)));
        assert_eq!(typed("read 10\n"), Some(Typed::Command(Command::Read(10))));
        assert_eq!(typed("every 500\n"), Some(Typed::Command(Command::Every(500))));
        assert!(matches!(typed("code K7QF-3M9B\n"), Some(Typed::Command(Command::Code(_)))));
        assert_eq!(typed("\n\n"), None);
        assert_eq!(typed("button"), None, "not yet a line");
    }

    #[test]
    fn a_mistyped_code_or_word_or_an_endless_line_is_told_and_forgotten() {
        assert_eq!(typed("code K7QF-3M9C\n"), Some(Typed::BadCode));
        assert_eq!(typed("code\n"), Some(Typed::BadCode));
        assert_eq!(typed("read many\n"), Some(Typed::Unknown));
        assert_eq!(typed("button now\n"), Some(Typed::Unknown));
        let mut console = Console::default();
        assert!((0..10_000).all(|_| console.push(b'x').is_none()));
        assert_eq!(console.push(b'\n'), Some(Typed::Unknown));
        assert!("reset".bytes().all(|byte| console.push(byte).is_none()));
        assert_eq!(console.push(b'\n'), Some(Typed::Command(Command::Reset)));
    }
}
