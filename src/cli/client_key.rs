//! `key rotate client`: another key of this gateway at its OAuth server. The old one is good until the server has taken the
//! new one. Where the server lets a client change its registration (RFC 7592) it is done here, else by a person.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use hyper::Method;
use serde::Serialize;

use super::client::Client;
use super::enroll::{Kept, beside, keep, place, read};
use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::blocking::blocking;
use crate::config::Config;
use crate::control::api::{KeyRotated, RotateKeyRequest};
use crate::control::failure::Failure;
use crate::ids::DeviceId;
use crate::token::key::{Jwk, SigningKey};
use crate::token::oauth::{LookError, Managed, OauthOptions, Registered, takes};
use crate::token::scope::Scope;
use crate::token::{IssuerError, Limits, TokenRequest};

/// The result.
#[derive(Serialize)]
struct Rotated {
    issuer: String,
    client_id: String,
    /// Whether the new key is in the old one's place.
    in_use: bool,
    /// Where the new key is.
    key: String,
    thumbprint: String,
    jwk: Jwk,
    public_pem: String,
    done: String,
    /// Whether the daemon knows; empty where there is nothing to know.
    daemon: String,
    next_step: String,
}

/// Both keys of a change, and where.
struct Change {
    config: Config,
    url: String,
    file: PathBuf,
    old: SigningKey,
    aside: PathBuf,
    new: SigningKey,
    client_id: String,
    /// The server's answer to an earlier change is not known: its access token may be another.
    unanswered: bool,
}

pub(super) async fn rotate(terminal: &Terminal, config: &Path) -> Result<Exit, Failure> {
    let mut change = Change::begin(config)?;
    let kept = read(&beside(&change.file))?.filter(|kept| kept.issuer == change.url);
    change.unanswered = kept.as_ref().is_some_and(|kept| kept.unanswered);
    let registered = kept.as_ref().map(|kept| kept.registered.clone());
    let (mut managed, mut shut_out) = (change.managed(kept)?, None);
    if let Some(before) = managed.take() {
        match change.set_keys(before, &[&change.old, &change.new]).await? {
            Ok(now) => managed = Some(now),
            // It may have the new key all the same: from a change that was cut off, or from a person.
            Err(error) if is_shut_out(&error) => shut_out = Some(error),
            Err(error) => {
                return Err(failure(&error, "The old key is in use as before; the new one waits for another try."));
            }
        }
    }
    let options = OauthOptions {
        url: change.url.clone(),
        client_id: change.client_id.clone(),
        key: change.new.clone(),
        ca: change.config.issuer.ca.clone(),
        certificate: None,
    };
    if !takes(options, &change.request()).await.map_err(|error| failure(&error, "The old key is in use as before."))? {
        if let Some(error) = shut_out {
            let holds = format!("{}The old key is in use as before; the new one waits for another try.", change.lost());
            return Err(failure(&error, &holds));
        }
        let result = change.result(false, managed.is_some(), String::new())?;
        terminal.result(&result, words);
        return Ok(if managed.is_some() { Exit::Cloud } else { Exit::Ok });
    }
    change.put_in_place()?;
    let daemon = change.tell_the_daemon().await;
    let by_itself = managed.is_some();
    if let Some(registered) = managed.as_ref().map(|managed| managed.registered.clone()).or(registered) {
        change.keep(&registered, change.unanswered && !by_itself)?;
    }
    let left = match managed {
        Some(managed) => change.set_keys(managed, &[&change.new]).await?.err(),
        None => shut_out,
    };
    if let Some(error) = left {
        return Err(change.old_key_stays(&error, &daemon));
    }
    terminal.result(&change.result(true, by_itself, daemon)?, words);
    Ok(Exit::Ok)
}

impl Change {
    /// A new key beside the old one; the one of a change that came to nothing before is taken up again.
    fn begin(config: &Path) -> Result<Self, Failure> {
        let config = super::enroll::configuration(config)?;
        let (url, file) = place(&config)?;
        let (url, file) = (url.to_owned(), file.to_owned());
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, "key", format!("{error}."), "The old key is in use as before.")
        };
        let old = SigningKey::load(&file).map_err(|error| failed(&error))?;
        let mut aside = file.as_os_str().to_owned();
        aside.push(".next");
        let aside = PathBuf::from(aside);
        let new = SigningKey::load_or_create(&aside).map_err(|error| failed(&error))?;
        // The daemon must be able to read it, whoever runs this.
        let owned = fs::metadata(&file).and_then(|about| chown(&aside, Some(about.uid()), Some(about.gid())));
        owned.map_err(|error| failed(&format!("{}: its owner cannot be set: {error}", aside.display())))?;
        let client_id = config.issuer.client_id.clone().unwrap_or_else(|| config.gateway.id.to_string());
        Ok(Self { config, url, file, old, aside, new, client_id, unanswered: false })
    }

    fn managed(&self, kept: Option<Kept>) -> Result<Option<Managed>, Failure> {
        let Some(kept) = kept else { return Ok(None) };
        if kept.registered.client_id != self.client_id {
            return Err(Failure::usage(
                format!(
                    "This gateway is registered as {:?}, and asks for tokens as {:?}.",
                    kept.registered.client_id, self.client_id
                ),
                "Write issuer.client_id as clawgate enroll shows it, first.",
            ));
        }
        let managed = Managed::of(kept.registered, &self.url, self.config.issuer.ca.as_deref());
        managed.map_err(|error| failure(&error, "The old key is in use as before."))
    }

    /// These keys are good at the server from now on. That an answer is awaited stands on the disk before anything is asked
    /// (which also shows that the disk takes it), and what an answer says of the access token is kept before anything else
    /// is: it may be the only one that is good there now.
    async fn set_keys(
        &self,
        mut managed: Managed,
        keys: &[&SigningKey],
    ) -> Result<Result<Managed, LookError>, Failure> {
        let keys: Vec<Jwk> = keys.iter().map(|key| key.public().clone()).collect();
        self.keep(&managed.registered, true)?;
        let (looking, looked) = blocking(move || {
            let looked = managed.look();
            (managed, looked)
        })
        .await;
        let mut managed = looking;
        let metadata = match looked {
            Ok(metadata) => metadata,
            Err(error) => {
                self.keep(&managed.registered, self.unanswered || !is_refusal(&error))?;
                return Ok(Err(error));
            }
        };
        self.keep(&managed.registered, true)?;
        let (managed, set) = blocking(move || {
            let set = managed.set_keys(metadata, &keys);
            (managed, set)
        })
        .await;
        self.keep(&managed.registered, set.as_ref().is_err_and(|error| !is_refusal(error)))?;
        Ok(set.map(|()| managed))
    }

    fn keep(&self, registered: &Registered, unanswered: bool) -> Result<(), Failure> {
        let in_place = if self.aside.exists() { &self.old } else { &self.new };
        let thumbprint = in_place.public().kid.clone();
        let kept = Kept { issuer: self.url.clone(), thumbprint, registered: registered.clone(), unanswered };
        let file = beside(&self.file);
        keep(&file, &kept).map_err(|error| {
            Failure::new(
                Exit::Failed,
                "not_kept",
                format!("{}: {error}.", file.display()),
                "What this gateway changes its registration with is lost if it was another: enroll it anew for the next change.",
            )
        })
    }

    /// The old key goes, in one step. The daemon follows when the server no longer takes the old one.
    fn put_in_place(&self) -> Result<(), Failure> {
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let renamed = fs::rename(&self.aside, &self.file).and_then(|()| fs::File::open(folder)?.sync_all());
        renamed.map_err(|error| {
            let text = format!("{}: {error}.", self.file.display());
            Failure::new(Exit::Failed, "key", text, "Mend that, and run clawgate key rotate client again.")
        })
    }

    /// It goes over at once, and its audit log has who changed the key. Without a daemon, or its ear, it follows by itself.
    async fn tell_the_daemon(&self) -> String {
        let (client, request) = (Client::new(&self.config.control.socket), RotateKeyRequest::default());
        match client.send::<KeyRotated>(Method::POST, "/v1/keys/client/rotate", &request).await {
            Ok(_) => "The daemon uses it, and its audit log has who changed it.".to_owned(),
            Err(error) => format!(
                "The daemon was not told ({}): it goes over when it starts, or when the server refuses the old key, and its \
                 audit log has the change then, without who made it.",
                error.message.trim_end_matches('.')
            ),
        }
    }

    /// Why an access token of ours may be refused that nobody took away.
    fn lost(&self) -> &'static str {
        if self.unanswered {
            "An earlier change was cut off before the server's answer was on the disk: a server that gives another \
             registration access token with its answer takes only that one now, and nobody has it. "
        } else {
            ""
        }
    }

    fn old_key_stays(&self, error: &LookError, daemon: &str) -> Failure {
        let (old, id) = (&self.old.public().kid, &self.client_id);
        let holds =
            format!("{}The new key is in use, and the server may still take the old one too. {daemon}", self.lost());
        let next_step = if is_shut_out(error) {
            format!(
                "Have the server's administrator take the old key ({old}) out of the client {id}, and give this gateway \
                 another registration access token ({}), or remove that file: the next change is then made by hand.",
                beside(&self.file).display()
            )
        } else {
            "Run clawgate key rotate client again: it changes the key once more and takes all others away.".to_owned()
        };
        Failure { next_step, ..failure(error, &holds) }
    }

    /// For the gateway itself: no device is touched.
    fn request(&self) -> TokenRequest {
        TokenRequest {
            tenant: self.config.gateway.tenant.to_string(),
            gateway: self.config.gateway.id.to_string(),
            device: DeviceId::gateway(),
            scope: vec![Scope::StatusWrite],
            life: self.config.issuer.life,
            audience: self.config.audience().to_owned(),
            limits: Limits::default(),
            stage: self.config.gateway.stage,
        }
    }

    fn result(&self, in_use: bool, by_itself: bool, daemon: String) -> Result<Rotated, Failure> {
        let (url, id, old) = (&self.url, &self.client_id, &self.old.public().kid);
        let again = "then run clawgate key rotate client again: the new key is used once the server takes it";
        let (done, next_step) = match (in_use, by_itself) {
            (true, true) => (
                format!("The new key is registered for {id} at {url} and in use; the old one is good nowhere."),
                String::new(),
            ),
            (true, false) => (
                "The server takes the new key, and it is in the old one's place.".to_owned(),
                format!("Take the old key ({old}) out of the client {id} at {url}."),
            ),
            (false, true) => (
                format!("{url} has the new key and does not take it yet; the old one is in use as before."),
                "Run clawgate key rotate client again later.".to_owned(),
            ),
            (false, false) => (
                "A new key waits; the old one is in use as before.".to_owned(),
                format!("Add the new one to the client {id} at {url}, beside the old one where it takes two, {again}."),
            ),
        };
        let public_pem = self.new.public_pem().map_err(|error| Failure::internal(&error))?;
        Ok(Rotated {
            issuer: url.clone(),
            client_id: id.clone(),
            in_use,
            key: if in_use { &self.file } else { &self.aside }.display().to_string(),
            thumbprint: self.new.public().kid.clone(),
            jwk: self.new.public().clone(),
            public_pem,
            done,
            daemon,
            next_step,
        })
    }
}

/// The server does not know the access token of the registration.
fn is_shut_out(error: &LookError) -> bool {
    matches!(error, LookError::Issuer(IssuerError::Refused { status: 401 | 403, .. }))
}

/// It answered, and changed nothing. One that is in trouble may have changed something all the same.
fn is_refusal(error: &LookError) -> bool {
    matches!(error, LookError::Setup(_) | LookError::Issuer(IssuerError::Refused { .. }))
}

/// What the server said, and what holds now.
fn failure(error: &LookError, holds: &str) -> Failure {
    let next = match error {
        _ if is_shut_out(error) => {
            "The server does not let this gateway change its registration any more: have its administrator put the key \
             there, or remove KEY.registration and do it by hand with the same command."
        }
        LookError::Setup(_) => "Mend the configuration, and run clawgate key rotate client again.",
        LookError::Issuer(_) => "Run clawgate key rotate client again later.",
    };
    Failure::new(Exit::Cloud, "not_rotated", format!("{error}. {holds}"), next)
}

fn words(it: &Rotated) -> String {
    let jwk = serde_json::to_string(&it.jwk).unwrap_or_default();
    let shown = format!("key         {}\nthumbprint  {}\njwk         {jwk}\n", clean(&it.key), it.thumbprint);
    let pem = if it.in_use { String::new() } else { format!("\n{}", it.public_pem) };
    let said: Vec<_> = [&it.done, &it.daemon, &it.next_step].into_iter().filter(|said| !said.is_empty()).collect();
    let said: Vec<_> = said.into_iter().map(|said| clean(said)).collect();
    format!("{}\n\n{shown}{pem}", said.join("\n"))
}
