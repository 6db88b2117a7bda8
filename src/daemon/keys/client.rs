//! The key that the gateway proves itself with at an OAuth server. It is the operator's, in a place that the configuration
//! names, and `clawgate key rotate client` changes it there and at the server; the daemon goes over to it, and writes into
//! the log which one it uses.

use serde_json::json;

use super::{Gateway, Kind};
use crate::audit::{Action, Actor, Event};
use crate::cli::exit::Exit;
use crate::control::api::{Key, KeyRotated};
use crate::control::failure::{Failure, blocking};
use crate::daemon::issuer::LateOauth;
use crate::store::StoreError;

/// Under this name stands the thumbprint of the key that was in use last: a change is told of over restarts, too.
const KNOWN: &str = "client-key-id";

impl Gateway {
    fn client(&self) -> Option<&LateOauth> {
        self.0.keys.client.as_ref()
    }

    /// The key in use, once it could be had.
    pub(super) async fn client_keys(&self) -> Result<Vec<Key>, Failure> {
        let Some((client, id)) = self.client().and_then(|client| Some((client, client.key()?))) else {
            return Ok(Vec::new());
        };
        let store = self.store().clone();
        let (known, since_ms) =
            blocking(move || Ok::<_, StoreError>((store.secret(KNOWN)?, store.secret_made_ms(KNOWN)?))).await?;
        // When it was made only its place could tell; here it is known since when it is used.
        let since_ms = since_ms.filter(|_| known.is_some_and(|known| known.expose() == id.as_bytes()));
        let note = format!("proves this gateway at {}; its age is since its first use here", self.0.issuer_url);
        Ok(vec![self.key(Kind::Client, &id, "in_use", since_ms, client.place(), note)])
    }

    /// Takes the key that is in its place now, without waiting for the server's refusal of the one before.
    pub(super) async fn go_over_to_client_key(&self) -> Result<KeyRotated, Failure> {
        let client = self.client().ok_or_else(|| {
            Failure::usage("Tokens do not come from an OAuth server here: there is no key of this kind.", "")
        })?;
        let gone_over = client.go_over().await;
        let (id, before) = gone_over.map_err(|error| {
            Failure::new(
                Exit::Failed,
                "key",
                format!("{error}."),
                "The key before is in use, as long as the server takes it.",
            )
        })?;
        // It may have gone over a moment ago by itself; who put the key there is told of all the same.
        let since = if before.as_ref() == Some(&id) { "already" } else { "from now on" };
        Ok(KeyRotated {
            kind: Kind::Client.as_str().to_owned(),
            id,
            done: format!("The key in {} is in use {since}.", client.place()),
            next_step: String::new(),
        })
    }

    /// A line for each key that is another than the one before, whoever put it there. `noted` is the last one.
    pub(super) async fn note_client_key(&self, noted: &mut Option<String>) {
        let Some(id) = self.client().and_then(LateOauth::key).filter(|id| noted.as_ref() != Some(id)) else { return };
        noted.replace(id.clone());
        let store = self.store().clone();
        let known = blocking(move || store.secret(KNOWN)).await;
        let before = known.ok().flatten().map(|known| String::from_utf8_lossy(known.expose()).into_owned());
        if before.as_ref() == Some(&id) {
            return;
        }
        let details = json!({ "id": id, "before": before });
        self.record(Event::done(Actor::Daemon, Action::KeyInUse, Kind::Client.as_str()).with(details)).await;
        let store = self.store().clone();
        if let Err(error) = blocking(move || store.put_secret(KNOWN, id.as_bytes())).await {
            tracing::warn!(%error, "which key this gateway has at its OAuth server is not kept: the next start tells of it again");
        }
    }
}
