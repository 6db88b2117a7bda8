//! Who issues this gateway's tokens.

use super::StartError;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;
use crate::token::key::SigningKey;
use crate::token::local::{DenyList, LocalIssuer};

/// Name of the sealed signing key.
const KEY: &str = "local-issuer-key";

/// The issuer inside this process; its key is made at the first start.
pub(super) fn local(config: &Config, store: &Store, clock: &Clock) -> Result<LocalIssuer, StartError> {
    let key = match store.secret(KEY)? {
        Some(der) => SigningKey::from_pkcs8(der.expose())?,
        None => {
            let key = SigningKey::generate()?;
            store.put_secret(KEY, key.to_pkcs8()?.expose())?;
            key
        }
    };
    let deny = DenyList::open(&store.dir().join("revoked.json"))?;
    Ok(LocalIssuer::new(&format!("urn:clawgate:{}", config.gateway.id), key, deny, clock.clone()))
}
