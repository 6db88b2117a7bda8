//! `key`: the gateway's own keys; never a key itself.

use clap::Subcommand;
use hyper::Method;

use super::args::ConfigFile;
use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean, span, table};
use super::{client_key, path};
use crate::control::api::{Key, KeyRotated, RotateKeyRequest};
use crate::control::failure::Failure;

/// The kind that the daemon does not have.
const CLIENT: &str = "client";

/// The verbs below `key`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List them: how old they are, when they are changed, how they are kept; never the keys themselves
    Ls,
    /// Make a new one in place of an old one, without an interruption
    Rotate {
        /// What it is for, as `key ls` says; or `client`, this gateway's key at its OAuth server
        #[arg(value_name = "KIND")]
        kind: String,
        /// Whose, for the kind `device`
        device: Option<String>,
        /// Somebody else may know the old one: it goes at once, with all that hangs on it
        #[arg(long)]
        now: bool,
        /// Where the configuration is, for the kind `client`
        #[command(flatten)]
        file: ConfigFile,
    },
}

pub(super) async fn key(terminal: &Terminal, client: &Client, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Ls => {
            let keys: Vec<Key> = client.get("/v1/keys").await?;
            terminal.result(&keys, |keys| list(keys));
        }
        // Not the daemon's: it follows the file, and its unit may not write there.
        Verb::Rotate { kind, device: None, now: false, file } if kind == CLIENT => {
            return client_key::rotate(terminal, &file.config).await;
        }
        Verb::Rotate { kind, .. } if kind == CLIENT => {
            return Err(Failure::usage(
                "The key of this gateway at its OAuth server takes no device and no --now.",
                "",
            ));
        }
        Verb::Rotate { kind, device, now, file: _ } => {
            let request = RotateKeyRequest { device, now };
            let rotated: KeyRotated = client.send(Method::POST, &path("/v1/keys", &kind, "/rotate")?, &request).await?;
            terminal.result(&rotated, |rotated| {
                let next = if rotated.next_step.is_empty() { "" } else { "\n" };
                format!("{}{next}{}", clean(&rotated.done), clean(&rotated.next_step))
            });
        }
    }
    Ok(Exit::Ok)
}

fn list(keys: &[Key]) -> String {
    let row = |key: &Key| {
        vec![
            key.kind.clone(),
            key.id.chars().take(16).collect(),
            key.state.replace('_', " "),
            key.age_s.map_or_else(|| "-".to_owned(), span),
            key.rotates_in_s.map_or_else(|| "-".to_owned(), span),
            key.protection.clone(),
            key.note.clone(),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    table(&["KIND", "ID", "STATE", "AGE", "ROTATES IN", "KEPT", "NOTE"], &rows)
}
