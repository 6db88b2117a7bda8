//! Dev, staging and prod have an issuer, a key and an audience each. What a state directory served with in one stage is
//! remembered there, so that another stage that would use the same is refused: at `config check`, and at the start.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, IssuerKind};
use crate::secret_source::SecretSource;
use crate::token::Stage;
use crate::token::key::{KeyError, SigningKey};

/// In the state directory. It holds no secret.
const FILE: &str = "stages.json";
/// Three stages take some hundred bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// What a stage serves with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Served {
    audience: String,
    /// The issuer's URL, where one is configured; the issuer inside has a name and a key of each stage by itself.
    issuer: Option<String>,
    /// Of the key that this gateway proves itself with.
    key: Option<String>,
}

type Book = BTreeMap<String, Served>;

/// Why a stage is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// Something of it is another stage's.
    #[error("{key}: {value} is that of the stage {other}, and gateway.stage is {own}: each stage has its own")]
    Shared {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        value: String,
        /// Whose it is.
        other: String,
        /// The stage that is configured.
        own: Stage,
    },
    /// The key file of an OAuth client.
    #[error("issuer.client_key: {0}")]
    Key(#[from] KeyError),
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("{}: is damaged; what each stage was served with is written anew when it is removed", .0.display())]
    Damaged(PathBuf),
}

impl Served {
    fn of(config: &Config) -> Result<Self, StageError> {
        let key = config.issuer.client_key.as_ref().filter(|_| config.issuer.kind == IssuerKind::Oauth);
        let key = match key {
            Some(SecretSource::File(path)) => Some(SigningKey::load(path)?.public().kid.clone()),
            // Read when it is needed; here its place stands for it.
            Some(place) => Some(place.to_string()),
            None => None,
        };
        let issuer = config.issuer.url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        Ok(Self { audience: config.audience().to_owned(), issuer, key })
    }

    /// What of it another stage has, too.
    fn shared(&self, own: Stage, book: &Book) -> Result<(), StageError> {
        for (other, theirs) in book.iter().filter(|(other, _)| other.as_str() != own.as_str()) {
            let pairs = [
                ("issuer.audience", Some(&self.audience), Some(&theirs.audience)),
                ("issuer.url", self.issuer.as_ref(), theirs.issuer.as_ref()),
                ("issuer.client_key", self.key.as_ref(), theirs.key.as_ref()),
            ];
            for (key, mine, its) in pairs {
                if let Some(value) = mine.filter(|_| mine == its) {
                    let (value, other) = (value.clone(), other.clone());
                    return Err(StageError::Shared { key, value, other, own });
                }
            }
        }
        Ok(())
    }
}

/// What no key of the configuration shows by itself: the key file, and what other stages of this state directory use.
///
/// # Errors
/// [`ConfigError::Incomplete`] names the key.
pub(crate) fn examine(main: &Path, config: &Config) -> Result<(), ConfigError> {
    let found = Served::of(config).and_then(|served| {
        match read(&config.state_dir.join(FILE)) {
            // The state is the daemon's alone; who may not read it is told what can be told.
            Err(StageError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
            Ok(book) => served.shared(config.gateway.stage, &book),
        }
    });
    // So is the key; that it could not be read is said where secrets are looked at.
    let found = match found {
        Err(StageError::Key(KeyError::File { source, .. })) if source.kind() == io::ErrorKind::PermissionDenied => {
            Ok(())
        }
        found => found,
    };
    found.map_err(|error| ConfigError::Incomplete {
        path: main.to_owned(),
        key: String::new(),
        message: error.to_string(),
    })
}

/// Refuses a stage that shares something with another, and remembers what this one is served with.
///
/// # Errors
/// [`StageError`].
pub(crate) fn enter(state_dir: &Path, config: &Config) -> Result<(), StageError> {
    let file = state_dir.join(FILE);
    let (served, mut book) = (Served::of(config)?, read(&file)?);
    served.shared(config.gateway.stage, &book)?;
    if book.get(config.gateway.stage.as_str()) == Some(&served) {
        return Ok(());
    }
    book.insert(config.gateway.stage.to_string(), served);
    write(&file, &serde_json::json!(book).to_string()).map_err(|source| StageError::Io { path: file, source })
}

fn read(file: &Path) -> Result<Book, StageError> {
    let failed = |source| StageError::Io { path: file.to_owned(), source };
    let damaged = || StageError::Damaged(file.to_owned());
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::new()),
        Err(error) => return Err(failed(error)),
        Ok(about) if about.len() > MAX_BYTES => return Err(damaged()),
        Ok(_) => {}
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    serde_json::from_str(&text).map_err(|_| damaged())
}

/// Whole or not at all, also over a power cut.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let staged = file.with_extension("new");
    let mut aside = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    aside.write_all(text.as_bytes())?;
    aside.sync_all()?;
    fs::rename(&staged, file)?;
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path, stage: Stage) -> Config {
        let mut config = Config { state_dir: dir.to_owned(), ..Config::default() };
        config.gateway.stage = stage;
        config
    }

    #[test]
    fn a_stage_with_its_own_audience_is_served_beside_another() {
        let dir = tempfile::tempdir().unwrap();
        for stage in [Stage::Prod, Stage::Dev, Stage::Staging, Stage::Prod] {
            enter(dir.path(), &config(dir.path(), stage)).unwrap();
        }
    }

    #[test]
    fn audience_issuer_and_key_of_another_stage_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("client.pem");
        SigningKey::load_or_create(&key).unwrap();
        let mut prod = config(dir.path(), Stage::Prod);
        (prod.issuer.kind, prod.issuer.url) = (IssuerKind::Oauth, Some("https://id.example/".to_owned()));
        (prod.issuer.audience, prod.issuer.client_key) = (Some("urn:shed".to_owned()), Some(SecretSource::File(key)));
        enter(dir.path(), &prod).unwrap();
        let mut dev = prod.clone();
        dev.gateway.stage = Stage::Dev;
        let mut refused = |change: fn(&mut Config)| {
            let error = examine(Path::new("clawgate.toml"), &dev).unwrap_err().to_string();
            assert!(enter(dir.path(), &dev).is_err());
            change(&mut dev);
            error
        };
        let audience = refused(|config| config.issuer.audience = None);
        assert!(audience.contains("issuer.audience: urn:shed is that of the stage prod"), "{audience}");
        let issuer = refused(|config| config.issuer.url = Some("https://id.example/dev".to_owned()));
        assert!(issuer.contains("issuer.url: https://id.example is that of the stage prod"), "{issuer}");
        let same_key = refused(|config| config.issuer.client_key = None);
        assert!(same_key.contains("issuer.client_key: ") && same_key.contains("of the stage prod"), "{same_key}");
        examine(Path::new("clawgate.toml"), &dev).unwrap();
        enter(dir.path(), &dev).unwrap();
    }

    #[test]
    fn a_key_file_that_is_none_is_found_before_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), Stage::Prod);
        (config.issuer.kind, config.issuer.client_key) =
            (IssuerKind::Oauth, Some(SecretSource::File(dir.path().join("client.pem"))));
        let found = || examine(Path::new("clawgate.toml"), &config).unwrap_err().to_string();
        assert!(found().contains("issuer.client_key: "), "{}", found());
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.path().join("client.pem"))
            .unwrap();
        assert!(found().contains("issuer.client_key: "), "{}", found());
    }

    #[test]
    fn a_damaged_book_is_refused_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"prod\": 7}").unwrap();
        assert!(matches!(enter(dir.path(), &config(dir.path(), Stage::Dev)), Err(StageError::Damaged(_))));
    }
}
