//! The subscriber's log, read by the demonstration as it grows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A line of the subscriber's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Line {
    /// The broker took the subscription.
    Subscribed,
    /// A token is in use.
    Token {
        /// Its id.
        jti: String,
        /// Seconds it lives.
        life_s: u64,
    },
    /// A reading came.
    Reading {
        /// Its name for ever.
        id: String,
        /// The device, from the topic.
        device: String,
        /// What was measured.
        fields: Vec<Field>,
    },
    /// The connection ended.
    Lost {
        /// Why.
        why: String,
    },
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Field {
    /// Its name in the reading.
    pub(super) name: String,
    /// Its unit.
    pub(super) unit: String,
    /// The value.
    pub(super) value: f64,
}

/// How often each reading was delivered.
#[derive(Debug, Default)]
pub(super) struct Received(HashMap<String, u64>);

impl Received {
    /// Takes a line of the log; gives what it says.
    pub(super) fn add(&mut self, line: &str) -> Option<Line> {
        let line = serde_json::from_str(line).ok()?;
        if let Line::Reading { id, .. } = &line {
            *self.0.entry(id.clone()).or_default() += 1;
        }
        Some(line)
    }

    /// How often a reading came.
    pub(super) fn deliveries(&self, id: &str) -> u64 {
        self.0.get(id).copied().unwrap_or(0)
    }
}

/// A file that grows; gives its new whole lines.
#[derive(Debug)]
pub(super) struct Follow {
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
}

impl Follow {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, rest: Vec::new() }
    }

    /// The lines that were added since the last call; none while the file is missing.
    pub(super) fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let read = file.read_to_end(&mut self.rest)?;
        self.offset += u64::try_from(read).unwrap_or(0);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_growing_file_gives_each_whole_line_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let mut follow = Follow::new(path.clone());
        assert_eq!(follow.lines().unwrap(), [""; 0]);
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(follow.lines().unwrap(), ["one"]);
        file.write_all(b"o\n").unwrap();
        assert_eq!(follow.lines().unwrap(), ["two"]);
        assert_eq!(follow.lines().unwrap(), [""; 0]);
    }
}
