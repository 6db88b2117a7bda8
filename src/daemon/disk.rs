//! What this gateway keeps on disk, opened in the order that makes a second daemon fail first.

use std::time::Duration;

use super::{StartError, audit_key};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::{Config, stages};
use crate::pairing::code_book::Codes;
use crate::spool::{Spool, SpoolOptions};
use crate::store::{Store, StoreOptions};

/// What is on disk.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) store: Store,
    pub(super) spool: Spool,
    pub(super) audit: Audit,
    pub(super) codes: Codes,
}

/// Opens it, or says why not; nothing starts empty over damage.
pub(super) async fn open(config: &Config, clock: &Clock) -> Result<Disk, StartError> {
    let options = StoreOptions {
        dir: config.state_dir.clone(),
        master_key: config.master_key.clone(),
        credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
        given_key: None,
    };
    let spool_options = SpoolOptions {
        commit: Duration::from_millis(config.spool.commit_ms),
        max_bytes: config.spool.max_bytes,
        ..SpoolOptions::default()
    };
    let (clock, stage, retention) = (clock.clone(), config.gateway.stage, config.audit.retention());
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        // The store first: it takes the directory for this process, and the others stand in it.
        let store = Store::open(&options, clock.clone())?;
        stages::enter(store.dir(), &config)?;
        let audit = audit_key::open::<StartError>(&store, retention, clock.clone())?;
        let spool = Spool::open(&store.dir().join("spool.db"), spool_options, clock.clone())?;
        let codes = Codes::start(store.clone(), audit.clone(), clock, stage)?;
        Ok(Disk { store, spool, audit, codes })
    })
    .await?
}
