//! `[vault]`: where the store is and how this gateway proves itself there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::http_client::is_safe;
use crate::secret_source::SecretSource;

/// `[vault]`: the store that `"vault:PATH#FIELD"` is read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host[:port]`, or `http` on this machine.
    pub url: Option<String>,
    /// The only CA (PEM) that its certificate may come from; the web's roots when there is none.
    pub ca: Option<PathBuf>,
    /// Namespace, where there are some.
    pub namespace: Option<String>,
    /// Where the KV engine (version 2) is mounted.
    pub mount: String,
    /// A file or a credential with a token.
    pub token: Option<SecretSource>,
    /// AppRole: the role.
    pub role_id: Option<String>,
    /// AppRole: a file or a credential with its secret id.
    pub secret_id: Option<SecretSource>,
}

impl Default for VaultConfig {
    fn default() -> Self {
        let mount = "secret".to_owned();
        Self { url: None, ca: None, namespace: None, mount, token: None, role_id: None, secret_id: None }
    }
}

impl VaultConfig {
    /// What is missing or contradicts itself: the key and words.
    ///
    /// # Errors
    /// The first objection.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(url) = &self.url else {
            let other = [self.ca.is_some(), self.token.is_some(), self.role_id.is_some(), self.secret_id.is_some()];
            let without = || Err(("vault.url", "is missing; write https://host:8200".to_owned()));
            return if other.contains(&true) { without() } else { Ok(()) };
        };
        if !is_safe(url) {
            return Err((
                "vault.url",
                format!("{url:?}: an https URL is wanted (http only for a vault on this machine)"),
            ));
        }
        match (&self.token, &self.role_id, &self.secret_id) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            _ => {
                let text = "or both of vault.role_id and vault.secret_id are needed; write one of the two ways";
                return Err(("vault.token", text.to_owned()));
            }
        }
        for (key, source) in [("vault.token", &self.token), ("vault.secret_id", &self.secret_id)] {
            if matches!(source, Some(SecretSource::Vault { .. } | SecretSource::Environment(_))) {
                return Err((key, "comes from a file or \"credential:NAME\"".to_owned()));
            }
        }
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if !self.mount.split('/').all(plain) {
            return Err(("vault.mount", format!("{:?} is no mount: such as \"secret\" or \"teams/edge\"", self.mount)));
        }
        Ok(())
    }
}
