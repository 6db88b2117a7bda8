//! What the simulated unit keeps: its id, its label code and the sensor's state, in one private file that is
//! replaced whole.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clawgate_protocol::Random;
use clawgate_protocol::code::Code;
use clawgate_protocol::id::Id;
use clawgate_protocol::sensor::{STATE_LEN, Storage, StorageFailed};
use serde::{Deserialize, Serialize};

use crate::options::Label;

/// Why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StoreError {
    /// Not readable or not writable.
    #[error("key file {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Not what we wrote.
    #[error("key file {} is damaged ({reason}): restore it, or remove it and pair the sensor again", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The OS gives no random bytes.
    #[error("the OS gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    device: String,
    label: Option<String>,
    /// The sensor's state in hexadecimal.
    state: Option<String>,
}

/// The unit's memory that survives, and its random source.
pub(crate) struct Store {
    path: Option<PathBuf>,
    pub(crate) device: Id,
    pub(crate) label: Option<Code>,
    state: Option<Vec<u8>>,
}

impl Store {
    /// Opens the file, or makes it. `device` and `label` win over what the file says.
    pub(crate) fn open(path: Option<&Path>, device: Option<Id>, label: Option<&Label>) -> Result<Self, StoreError> {
        // One draw, to fail here and not in the middle of a pairing if there is no source.
        getrandom::fill(&mut [0; 1]).map_err(StoreError::Random)?;
        let kept = path.map(read).transpose()?.flatten();
        let mut store = kept.unwrap_or(Self { path: None, device: random_id(), label: None, state: None });
        store.path = path.map(Path::to_owned);
        store.device = device.unwrap_or(store.device);
        match label {
            Some(Label::Fixed(code)) => store.label = Some(code.clone()),
            Some(Label::Random) if store.label.is_none() => store.label = Some(Code::random(&mut OsRandom)),
            Some(Label::Random) | None => (),
        }
        store.write()?;
        Ok(store)
    }

    /// The sensor's state as it was last saved.
    pub(crate) fn state(&self) -> Option<&[u8]> {
        self.state.as_deref()
    }

    fn write(&self) -> Result<(), StoreError> {
        let Some(path) = &self.path else { return Ok(()) };
        let content = Content {
            format: 1,
            device: self.device.as_str().to_owned(),
            label: self.label.as_ref().map(ToString::to_string),
            state: self.state.as_deref().map(hex),
        };
        let failed = |source| StoreError::Io { path: path.clone(), source };
        let text = serde_json::to_vec(&content).map_err(|error| failed(error.into()))?;
        replace(path, &text).map_err(failed)
    }
}

/// The unit's memory lent to a sensor until the next power cycle.
pub(crate) struct Platform<'s>(pub(crate) &'s mut Store);

impl Storage for Platform<'_> {
    fn save(&mut self, state: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        self.0.save(state)
    }
}

impl Random for Platform<'_> {
    fn fill(&mut self, bytes: &mut [u8]) {
        OsRandom.fill(bytes);
    }
}

impl Store {
    /// Keeps the sensor's state.
    fn save(&mut self, state: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        let before = self.state.replace(state.to_vec());
        self.write().map_err(|error| {
            let _ = writeln!(std::io::stderr(), "clawgate-simulator: {error}");
            self.state = before;
            StorageFailed
        })
    }
}

/// The OS's random source.
struct OsRandom;

impl Random for OsRandom {
    #[expect(
        clippy::expect_used,
        reason = "the source answered at the start; going on without one would make keys weak"
    )]
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the OS's random source stopped working");
    }
}

fn read(path: &Path) -> Result<Option<Store>, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
    };
    let content: Content = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if content.format != 1 {
        return Err(damaged(format!("format {} is not known", content.format)));
    }
    Ok(Some(Store {
        path: None,
        device: content.device.parse().map_err(|error| damaged(format!("device id: {error}")))?,
        label: content
            .label
            .map(|label| Code::parse(&label))
            .transpose()
            .map_err(|error| damaged(error.to_string()))?,
        state: content.state.map(|state| unhex(&state).ok_or_else(|| damaged("state".to_owned()))).transpose()?,
    }))
}

/// Writes beside, syncs, renames, syncs the folder: a power cut leaves the old file or the new one.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let beside = beside(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The path where something is made that then takes the place of `path`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[expect(clippy::expect_used, reason = "four hexadecimal digits after sim- are an id")]
fn random_id() -> Id {
    let mut bytes = [0; 2];
    OsRandom.fill(&mut bytes);
    format!("sim-{}", hex(&bytes)).parse().expect("a valid id")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_unit_is_the_same_after_a_restart_and_its_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut first = Store::open(Some(&path), None, Some(&Label::Random)).unwrap();
        first.save(&[7; STATE_LEN]).unwrap();
        let second = Store::open(Some(&path), None, Some(&Label::Random)).unwrap();
        assert_eq!((second.device, &second.label), (first.device, &first.label));
        assert_eq!(second.state(), Some(&[7; STATE_LEN][..]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, "{\"format\":1,").unwrap();
        assert!(matches!(Store::open(Some(&path), None, None), Err(StoreError::Damaged { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"format\":1,");
    }

    #[test]
    fn a_state_that_cannot_be_written_is_not_taken_as_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut store = Store::open(Some(&path), None, None).unwrap();
        // A folder in the place of the file that is written beside.
        std::fs::create_dir(folder.path().join("keys.json.new")).unwrap();
        assert_eq!(store.save(&[1; STATE_LEN]), Err(StorageFailed));
        assert_eq!(store.state(), None);
    }
}
