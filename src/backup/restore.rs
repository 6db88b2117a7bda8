//! Puts a backup into the state directory of another board: all of it, or nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde_json::json;

use super::envelope::Opening;
use super::{BackupError, KEY_ENTRY, MANIFEST_ENTRY, Manifest, Unlock, archive, failed, give_to_owner};
use crate::audit::{Action, Actor, Event};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::audit_key;
use crate::store::{self, Store, StoreError, StoreOptions};

/// More than that is no backup of a gateway.
const MOST_BYTES: u64 = 64 << 30;

/// Restores `file` into the state directory. What was there is set aside: without `replace` only when no sensor was
/// paired with it.
pub(crate) fn restore(
    config: &Config,
    file: &Path,
    unlock: &Unlock,
    replace: bool,
    actor: Actor,
) -> Result<Manifest, BackupError> {
    let dir = &config.state_dir;
    let own_key = dir.join(KEY_ENTRY);
    let sealed = Path::new("/etc/credstore.encrypted/clawgate-master-key");
    let from = config.master_key.clone().or_else(|| sealed.exists().then(|| sealed.to_owned()));
    if let Some(from) = from {
        return Err(BackupError::KeyElsewhere { file: own_key, from: from.display().to_string() });
    }
    // Holds the directory and counts what is there; a fresh board's state is made here if it never started.
    let present = match Store::open(&StoreOptions { dir: dir.clone(), ..StoreOptions::default() }, Clock::system()) {
        Ok(store) => {
            let devices = store.devices()?.len();
            if devices > 0 && !replace {
                return Err(BackupError::InUse { dir: dir.clone(), devices });
            }
            Some(store)
        }
        // Damaged, of a newer schema, without its key, moved away: set aside unread, where that is asked for.
        Err(error) if !replace || matches!(error, StoreError::Locked { .. }) => return Err(error.into()),
        Err(_) => None,
    };
    let aside = dir.join("restore.new");
    let _ = fs::remove_dir_all(&aside);
    let unpacked = unpack(file, &aside, unlock);
    let manifest = match unpacked {
        Ok(manifest) => manifest,
        Err(error) => {
            let _ = fs::remove_dir_all(&aside);
            return Err(error);
        }
    };
    set_aside(dir, &dir.join(format!("before-{}", manifest.id)))?;
    // The state last: without it there is no gateway yet, and the key beside it is of no use.
    let mut names = entries(&aside)?;
    names.sort_by_key(|name| name == store::STATE_FILE);
    for name in names {
        let to = dir.join(&name);
        fs::rename(aside.join(&name), &to).map_err(failed(&to, "put it into its place"))?;
    }
    let _ = fs::remove_dir_all(&aside);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir, "sync the folder"))?;
    drop(present);
    let clock = Clock::system();
    let store = Store::open(&StoreOptions { dir: dir.clone(), ..StoreOptions::default() }, clock.clone())?;
    // Used since by the old board, they would end at the issuer as stolen ones do.
    let ended = store.remove_refresh_tokens()?;
    let audit = audit_key::open::<BackupError>(&store, config.audit.retention(), clock)?;
    audit.record(
        Event::done(actor, Action::BackupRestore, &manifest.id)
            .with(json!({ "made": manifest.made, "moved": manifest.moved, "refresh_tokens_dropped": ended })),
    )?;
    drop((audit, store));
    give_to_owner(dir)?;
    Ok(manifest)
}

/// Opens the whole backup into a folder of its own; every byte is authenticated before it is written.
fn unpack(file: &Path, aside: &Path, unlock: &Unlock) -> Result<Manifest, BackupError> {
    let source = File::open(file).map_err(failed(file, "read the backup"))?;
    let mut opening = Opening::begin(io::BufReader::new(source), unlock)?;
    let altered = |_: io::Error| BackupError::NotOpened;
    DirBuilder::new().mode(0o700).create(aside).map_err(failed(aside, "make the folder"))?;
    let mut manifest = None;
    while let Some((name, length)) = archive::next(&mut opening).map_err(altered)? {
        if length > MOST_BYTES {
            return Err(BackupError::NotOpened);
        }
        if name == MANIFEST_ENTRY {
            let mut text = Vec::new();
            (&mut opening).take(length).read_to_end(&mut text).map_err(altered)?;
            manifest = serde_json::from_slice(&text).ok();
            continue;
        }
        let path = aside.join(&name);
        if let Some(folder) = path.parent().filter(|folder| *folder != aside && !folder.exists()) {
            DirBuilder::new().mode(0o700).create(folder).map_err(failed(folder, "make the folder"))?;
        }
        let io = failed(&path, "write");
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(&io)?;
        if io::copy(&mut (&mut opening).take(length), &mut out).map_err(&io)? != length {
            return Err(BackupError::NotOpened);
        }
        out.sync_all().map_err(&io)?;
    }
    if !opening.is_at_end() || !aside.join(store::STATE_FILE).exists() || !aside.join(KEY_ENTRY).exists() {
        return Err(BackupError::NotOpened);
    }
    manifest.ok_or(BackupError::NotOpened)
}

/// Moves what is there into a folder beside it; the lock stays, for it is held.
fn set_aside(dir: &Path, into: &Path) -> Result<(), BackupError> {
    DirBuilder::new().mode(0o700).recursive(true).create(into).map_err(failed(into, "make the folder"))?;
    for name in entries(dir)? {
        if name == "lock" || name == "restore.new" || name.starts_with("before-") {
            continue;
        }
        let from = dir.join(&name);
        fs::rename(&from, into.join(&name)).map_err(failed(&from, "set it aside"))?;
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<String>, BackupError> {
    let entries = dir.read_dir().map_err(failed(dir, "read the folder"))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<Result<_, _>>().map_err(failed(dir, "read the folder"))
}
