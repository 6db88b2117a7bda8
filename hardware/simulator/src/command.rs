//! What a person does at the unit: one command a line on stdin.

use clawgate_protocol::code::{Code, CodeError};

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Code(Code),
    Button,
    PowerCycle,
    Read(u32),
    Reset,
    Silence,
    Status,
    Quit,
}

/// Why a line is no command.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum CommandError {
    #[error("{0:?} is not a command: use code CODE, button, power-cycle, read N, reset, silence, status or quit")]
    Unknown(String),
    #[error("{0}")]
    Code(#[from] CodeError),
}

impl std::str::FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (word, rest.is_empty()) {
            ("code", false) => Ok(Self::Code(Code::parse(rest)?)),
            ("button", true) => Ok(Self::Button),
            ("power-cycle", true) => Ok(Self::PowerCycle),
            ("read", false) => rest.parse().map(Self::Read).map_err(|_| CommandError::Unknown(line.to_owned())),
            ("reset", true) => Ok(Self::Reset),
            ("silence", true) => Ok(Self::Silence),
            ("status", true) => Ok(Self::Status),
            ("quit", true) => Ok(Self::Quit),
            _ => Err(CommandError::Unknown(line.to_owned())),
        }
    }
}

/// The bytes of stdin, cut into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that are complete with these bytes. One without an end is dropped at 1 KiB.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()),
                byte if self.rest.len() < 1024 => self.rest.push(*byte),
                _ => self.rest.clear(),
            }
        }
        lines.retain(|line| !line.trim().is_empty());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_a_typo_in_a_code_is_said() {
        assert_eq!("button".parse(), Ok(Command::Button));
        assert_eq!(" power-cycle\r".parse(), Ok(Command::PowerCycle));
        assert_eq!("read 10".parse(), Ok(Command::Read(10)));
        assert!("read some".parse::<Command>().is_err());
        assert!(matches!("code 0000-0000".parse(), Ok(Command::Code(_))));
        assert_eq!("code 0000-0001".parse::<Command>(), Err(CommandError::Code(CodeError::CheckSymbol)));
        assert!("code".parse::<Command>().is_err());
        assert!("button now".parse::<Command>().is_err());
    }

    #[test]
    fn lines_are_cut_wherever_the_bytes_are() {
        let mut lines = Lines::default();
        assert!(lines.push(b"sta").is_empty());
        assert_eq!(lines.push(b"tus\n\nquit\nx"), ["status", "quit"]);
    }
}
