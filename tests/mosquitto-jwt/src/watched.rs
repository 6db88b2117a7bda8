//! A file that somebody else replaces now and then, read again when it is another one than last time.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Bound of a file that is read.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The file, and which one it was when it was read last.
pub(crate) struct Watched {
    path: PathBuf,
    seen: Option<Version>,
    /// It could not even be looked at, and that was said.
    is_hidden: bool,
}

/// What tells one version of a file from the next: it may be replaced, or written where it is.
type Version = (u64, u64, i64, i64);

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The file that was read last; also where that one could not be read.
    Same,
    /// There is none.
    Nothing,
    /// Another one.
    Text(String),
}

impl Watched {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, is_hidden: false }
    }

    /// Reads the file if it is another one than last time. A problem is said once for each version, so that a damaged
    /// file is not complained about ten times a second.
    ///
    /// # Errors
    /// Why it could not be read, with its path.
    pub(crate) fn look(&mut self) -> Result<Found, String> {
        let about = match fs::metadata(&self.path) {
            Ok(about) => about,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(_) if self.is_hidden => return Ok(Found::Same),
            Err(error) => {
                self.is_hidden = true;
                return Err(self.problem(&error));
            }
        };
        self.is_hidden = false;
        let seen = version(&about);
        if self.seen == Some(seen) {
            return Ok(Found::Same);
        }
        self.seen = Some(seen);
        if about.len() > MAX_FILE {
            return Err(self.problem(&"it is too large"));
        }
        fs::read_to_string(&self.path).map(Found::Text).map_err(|error| self.problem(&error))
    }

    /// The next look reads the file in any case.
    pub(crate) fn forget(&mut self) {
        (self.seen, self.is_hidden) = (None, false);
    }

    /// A problem with the file, with its path.
    pub(crate) fn problem(&self, problem: &dyn std::fmt::Display) -> String {
        format!("{}: {problem}", self.path.display())
    }
}

fn version(about: &Metadata) -> Version {
    (about.ino(), about.len(), about.mtime(), about.mtime_nsec())
}
