//! Makes a backup, and takes the old board out of service where that is asked for.

use std::fs::{self, File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use super::envelope::Sealing;
use super::{BackupError, KEY_ENTRY, MANIFEST_ENTRY, Manifest, Unlock, archive, failed, give_to_owner, random};
use crate::audit::{Action, Actor, Event, Outcome};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::audit_key;
use crate::secret::Secret;
use crate::store::{self, Store, StoreOptions};

/// Of the state directory, what is not part of the state.
const LEFT_OUT: &[&str] = &["lock", "purge", KEY_ENTRY];

/// Writes the state of a stopped gateway to `file`. With `fence` this board does not serve again.
pub(crate) fn create(
    config: &Config,
    file: &Path,
    unlock: &Unlock,
    fence: bool,
    actor: Actor,
) -> Result<Manifest, BackupError> {
    let dir = &config.state_dir;
    if !dir.join(store::STATE_FILE).exists() {
        return Err(BackupError::NoState(dir.clone()));
    }
    if file.exists() {
        return Err(BackupError::Exists(file.to_owned()));
    }
    let clock = Clock::system();
    let (master_key, given_key) = (config.master_key.clone(), unsealed_key(config)?);
    // Finishes a change of the key that was cut off.
    let options = StoreOptions { dir: dir.clone(), master_key, given_key, ..StoreOptions::default() };
    let store = Store::open(&options, clock.clone())?;
    let key = store.master_key_itself();
    let manifest = Manifest {
        id: format!("{:016x}", u64::from_be_bytes(random()?)),
        gateway: config.gateway.id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made: crate::daemon::view::rfc3339(clock.wall_ms()),
        moved: fence,
    };
    let audit = audit_key::open::<BackupError>(&store, config.audit.retention(), clock)?;
    // First of all: the line stands in the backup too.
    let details = json!({ "file": file, "moved": fence });
    let event = Event::done(actor, Action::BackupCreate, &manifest.id).with(details);
    audit.record(event.clone())?;
    let made = put(&store, file, dir, &manifest, &key, unlock);
    if let Err(error) = &made {
        audit.record(event.ended(Outcome::Failed).because(error.to_string()))?;
    }
    drop((audit, store));
    give_to_owner(dir)?;
    made.map(|()| manifest)
}

/// Writes the file, puts it into its place, and takes this board out of service where it is `moved`.
fn put(
    store: &Store,
    file: &Path,
    dir: &Path,
    manifest: &Manifest,
    key: &Secret<[u8; 32]>,
    unlock: &Unlock,
) -> Result<(), BackupError> {
    store.fold_journal()?;
    fold_spool(&dir.join("spool.db"))?;
    let aside = aside(file);
    let written = write(&aside, dir, manifest, key, unlock)
        .and_then(|()| fs::rename(&aside, file).map_err(failed(file, "put it into its place")));
    if let Err(error) = written {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    let folder = folder_of(file);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder, "sync the folder"))?;
    // Only now: a move that failed half way leaves a board that serves.
    if manifest.moved {
        store.fence(&serde_json::to_vec(manifest).unwrap_or_default())?;
    }
    Ok(())
}

/// Where it is written first: a name of its own, for whatever stands there goes.
fn aside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The folder that a file is in: of a bare name the one that the program runs in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write(
    file: &Path,
    dir: &Path,
    manifest: &Manifest,
    key: &Secret<[u8; 32]>,
    unlock: &Unlock,
) -> Result<(), BackupError> {
    let io = failed(file, "write the backup");
    let _ = fs::remove_file(file);
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(&io)?;
    let mut sealing = Sealing::begin(BufWriter::new(out), unlock)?;
    let text = serde_json::to_vec(manifest).unwrap_or_default();
    archive::put(&mut sealing, MANIFEST_ENTRY, text.len() as u64, &mut text.as_slice()).map_err(&io)?;
    archive::put(&mut sealing, KEY_ENTRY, 32, &mut key.expose().as_slice()).map_err(&io)?;
    for (name, path) in state_files(dir)? {
        let mut content = File::open(&path).map_err(failed(&path, "read"))?;
        let length = content.metadata().map_err(failed(&path, "read"))?.len();
        archive::put(&mut sealing, &name, length, &mut content).map_err(&io)?;
    }
    archive::end(&mut sealing).map_err(&io)?;
    let out = sealing.finish().map_err(&io)?.into_inner().map_err(|error| io(error.into_error()))?;
    out.sync_all().map_err(&io)
}

/// The files of the state, by their names in a backup.
fn state_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    let list = |folder: &Path| {
        let entries = folder.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>);
        entries.map_err(failed(folder, "read the folder"))
    };
    for entry in list(dir)? {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && name == "audit" {
            for inner in list(&path)? {
                found.push((format!("{name}/{}", inner.file_name().to_string_lossy()), inner.path()));
            }
        } else if path.is_file() && !path.is_symlink() && belongs(&name) {
            found.push((name, path));
        }
    }
    found.retain(|(name, path)| archive::is_safe(name) && path.is_file());
    found.sort();
    Ok(found)
}

fn belongs(name: &str) -> bool {
    let passing = [".new", "-wal", "-shm", "-journal"].iter().any(|end| name.ends_with(end));
    !passing && !name.contains(".schema-") && !LEFT_OUT.contains(&name)
}

/// Folds the journal into the spool's file, so that the file alone is all.
fn fold_spool(path: &Path) -> Result<(), BackupError> {
    if !path.exists() {
        return Ok(());
    }
    let journal = |error: rusqlite::Error| BackupError::Journal { path: path.to_owned(), why: error.to_string() };
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(journal)?;
    store::fold(&db).map_err(journal)
}

/// A key that is sealed to this machine, unsealed by systemd.
fn unsealed_key(config: &Config) -> Result<Option<Secret<[u8; 32]>>, BackupError> {
    let sealed = Path::new("/etc/credstore.encrypted/clawgate-master-key");
    if config.master_key.is_none() && sealed.exists() {
        let asked =
            Command::new("systemd-creds").args(["decrypt", "--name=clawgate-master-key"]).arg(sealed).arg("-").output();
        let asked = asked.map_err(|error| BackupError::Sealed(format!("systemd-creds: {error}")))?;
        if !asked.status.success() {
            return Err(BackupError::Sealed(String::from_utf8_lossy(&asked.stderr).trim().to_owned()));
        }
        return store::parse_key(&asked.stdout).map(Some).ok_or(BackupError::Sealed("what came is no key".to_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_file_name_is_in_the_folder_that_the_program_runs_in() {
        assert_eq!(folder_of(Path::new("gateway.backup")), Path::new("."));
        assert!(File::open(folder_of(Path::new("gateway.backup"))).unwrap().sync_all().is_ok());
        assert_eq!(folder_of(Path::new("kept/gateway.backup")), Path::new("kept"));
        assert_eq!(folder_of(Path::new("/gateway.backup")), Path::new("/"));
    }

    #[test]
    fn what_it_is_written_to_first_is_no_other_file_of_that_stem() {
        assert_eq!(aside(Path::new("/root/gateway.backup")), Path::new("/root/gateway.backup.new"));
    }
}
