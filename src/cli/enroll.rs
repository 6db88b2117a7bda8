//! `enroll`: the gateway's key, and its registration at the issuer.

use std::fs;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::args::ConfigFile;
use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::config::{self, Config, IssuerKind};
use crate::control::failure::Failure;
use crate::secret::Secret;
use crate::secret_source::SecretSource;
use crate::token::IssuerError;
use crate::token::key::{Jwk, SigningKey};
use crate::token::local::replace;
use crate::token::oauth::{LookError, Registered, Registration, register};

/// The initial access token: never an argument, which every user could see.
const VARIABLE: &str = "OPENCLAW_ENROLL_TOKEN";
/// No such token is longer.
const MAX_TOKEN: u64 = 16 * 1024;

/// `enroll`.
#[derive(Debug, Args)]
pub(super) struct EnrollArgs {
    /// Where the configuration is
    #[command(flatten)]
    file: ConfigFile,
    /// Read the initial access token from standard input
    #[arg(long)]
    token_stdin: bool,
}

/// What is kept beside the key, mode 0600: who this key is, and where.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) issuer: String,
    pub(super) thumbprint: String,
    #[serde(flatten)]
    pub(super) registered: Registered,
    /// A change of it was asked for, and what the server answered is not kept (yet): the access token in it may be another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unanswered: bool,
}

/// The result.
#[derive(Serialize)]
struct Enrolled {
    issuer: String,
    /// `now`, `before`, or `no`.
    registered: &'static str,
    client_id: String,
    /// Whether the configuration names that client id already.
    configured: bool,
    key: String,
    thumbprint: String,
    jwk: Jwk,
    public_pem: String,
    tenant: String,
}

pub(super) fn enroll(terminal: &Terminal, asked: &EnrollArgs) -> Result<Exit, Failure> {
    let config = configuration(&asked.file.config)?;
    let (url, path) = place(&config)?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, "key", error.to_string(), "");
    let key = SigningKey::load_or_create(path).map_err(|error| failed(&error))?;
    let public_pem = key.public_pem().map_err(|error| failed(&error))?;
    let jwk = key.public().clone();
    let own = config.issuer.client_id.clone();
    let result = |registered, client_id: String| Enrolled {
        issuer: url.to_owned(),
        registered,
        configured: own.as_deref().unwrap_or(config.gateway.id.as_str()) == client_id,
        client_id,
        key: path.display().to_string(),
        thumbprint: jwk.kid.clone(),
        jwk: jwk.clone(),
        public_pem: public_pem.clone(),
        tenant: config.gateway.tenant.to_string(),
    };
    let beside = beside(path);
    if let Some(kept) = read(&beside)?.filter(|kept| kept.issuer == url && kept.thumbprint == jwk.kid) {
        terminal.result(&result("before", kept.registered.client_id), words);
        return Ok(Exit::Ok);
    }
    let Some(token) = token(asked.token_stdin)? else {
        let client_id = own.clone().unwrap_or_else(|| config.gateway.id.to_string());
        terminal.result(&result("no", client_id), words);
        return Ok(Exit::Ok);
    };
    let mark = path_with(path, ".enrolling");
    announce(&mark, url, &jwk.kid)?;
    let registered = ask(&config, url, &jwk, &token).map_err(|(failure, may_be_known)| {
        if !may_be_known {
            let _ = fs::remove_file(&mark);
        }
        failure
    })?;
    let kept = Kept { issuer: url.to_owned(), thumbprint: jwk.kid.clone(), registered, unanswered: false };
    keep(&beside, &kept).map_err(|error| {
        let text = format!(
            "Registered as {:?}, but {} cannot be written: {error}.",
            kept.registered.client_id,
            beside.display()
        );
        Failure::new(
            Exit::Failed,
            "not_kept",
            text,
            "Note the client id; a second enroll would register a second client.",
        )
    })?;
    // One that stays says of a client that is known what is true of none: it is not looked at any more.
    let _ = fs::remove_file(&mark);
    terminal.result(&result("now", kept.registered.client_id), words);
    Ok(Exit::Ok)
}

/// Says on the disk that this key is about to be registered, before the server is asked: who is cut off then, or gets no
/// answer, does not register a second client without knowing of the first. It also shows that the disk takes something.
fn announce(mark: &Path, url: &str, thumbprint: &str) -> Result<(), Failure> {
    let text = format!("{url} {thumbprint}\n");
    if fs::read_to_string(mark).is_ok_and(|before| before == text) {
        return Err(Failure::new(
            Exit::Cloud,
            "may_be_registered",
            format!(
                "{url} was asked to register this key ({thumbprint}) before, and what it answered is not known here."
            ),
            format!(
                "Ask its administrator to look for it. Where there is such a client, write its id into issuer.client_id; \
                 where there is none, remove {} and run clawgate enroll again.",
                mark.display()
            ),
        ));
    }
    replace(mark, &text, 0o600).map_err(|error| {
        let text = format!("{}: {error}. Nothing was registered.", mark.display());
        Failure::new(Exit::Failed, "not_kept", text, "Mend that, and run clawgate enroll again.")
    })
}

pub(super) fn configuration(path: &Path) -> Result<Config, Failure> {
    config::load(path)
        .map_err(|error| Failure::new(Exit::Config, "config", error.to_string(), "Check it: clawgate config check"))
}

/// The server, and the file with this gateway's key there.
pub(super) fn place(config: &Config) -> Result<(&str, &Path), Failure> {
    let (Some(url), Some(source), IssuerKind::Oauth) =
        (&config.issuer.url, &config.issuer.client_key, config.issuer.kind)
    else {
        return Err(Failure::usage(
            "This gateway signs its tokens itself (issuer.kind = \"local\"): there is nowhere to enroll.",
            "For an issuer elsewhere write issuer.kind = \"oauth\", issuer.url and issuer.client_key.",
        ));
    };
    let SecretSource::File(path) = source else {
        return Err(Failure::usage(
            "issuer.client_key is not a file: a key in a secret store or a credential is made and registered there.",
            "To enroll from here, name a file in issuer.client_key first.",
        ));
    };
    Ok((url, path))
}

/// Registers; else why not, and whether the server may know the key all the same.
fn ask(config: &Config, url: &str, jwk: &Jwk, token: &Secret<String>) -> Result<Registered, (Failure, bool)> {
    let name = format!("clawgate {}/{}", config.gateway.tenant, config.gateway.id);
    let asked = register(&Registration {
        url,
        ca: config.issuer.ca.as_deref(),
        token,
        name: &name,
        key: jwk,
        grant: config.issuer.grant,
    });
    match asked {
        Ok(Some(registered)) => Ok(registered),
        Ok(None) => Err((
            Failure::new(
                Exit::Cloud,
                "no_registration",
                format!("{url} offers no registration by itself (RFC 7591)."),
                "Register the key by hand: clawgate enroll without a token shows it.",
            ),
            false,
        )),
        Err(error) => {
            let may_be_known = may_be_known(&error);
            Err((refusal(error), may_be_known))
        }
    }
}

/// Whether the server may have registered the key: it was asked to, and did not say no.
fn may_be_known(error: &LookError) -> bool {
    match error {
        LookError::Issuer(IssuerError::Unreachable { endpoint, reason }) => {
            !is_metadata(endpoint) && !reason.contains("certificate")
        }
        LookError::Issuer(IssuerError::Answer { endpoint, .. }) => !is_metadata(endpoint),
        _ => false,
    }
}

fn is_metadata(endpoint: &str) -> bool {
    endpoint.contains("/.well-known/")
}

/// What came of the registration instead, and what a person does now.
fn refusal(error: LookError) -> Failure {
    let failure = |text: String, next: &str| Failure::new(Exit::Cloud, "not_registered", text, next);
    match error {
        LookError::Setup(error) => {
            Failure::new(Exit::Config, "config", format!("{error}."), "Mend it, and run clawgate enroll again.")
        }
        LookError::Issuer(IssuerError::Unreachable { endpoint, reason }) => {
            let next = if reason.contains("certificate") {
                "Its certificate does not come from issuer.ca (or from the web's roots, without one): name the CA that it \
                 comes from there. Nothing was registered."
            } else if is_metadata(&endpoint) {
                "Nothing was registered. See that it runs and is reached from here (issuer.url), and run clawgate enroll \
                 again."
            } else {
                "It may have registered this key: ask its administrator to look for it, before you run clawgate enroll \
                 again."
            };
            failure(format!("{endpoint} did not answer: {reason}."), next)
        }
        LookError::Issuer(IssuerError::Refused { endpoint, status, code, words }) => {
            let next = if matches!(status, 401 | 403) {
                "Nothing was registered. Ask the server's administrator for another initial access token: one is often \
                 good once, and for a short time."
            } else {
                "Nothing was registered. Have it allow clients with private_key_jwt and ES256, or register the key by \
                 hand: clawgate enroll without a token shows it."
            };
            failure(format!("{endpoint} refused the registration: {status} {code}: {words}."), next)
        }
        LookError::Issuer(error @ IssuerError::Busy { .. }) => {
            failure(format!("{error}."), "Nothing was registered. Run clawgate enroll again later.")
        }
        LookError::Issuer(error) => failure(
            format!("{error}."),
            "See that issuer.url names an OAuth server. If it registered this key all the same, its administrator sees it.",
        ),
    }
}

/// The initial access token, from the environment or standard input.
fn token(from_stdin: bool) -> Result<Option<Secret<String>>, Failure> {
    let text = if from_stdin {
        if std::io::stdin().is_terminal() {
            return Err(Failure::usage(
                "--token-stdin: nothing is piped in.",
                "For example: pass show enroll | clawgate enroll --token-stdin",
            ));
        }
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text);
        read.map_err(|error| Failure::usage(format!("standard input: {error}."), ""))?;
        text
    } else {
        std::env::var(VARIABLE).unwrap_or_default()
    };
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage("The initial access token is not plain ASCII.", ""));
    }
    Ok(Some(Secret::new(text.to_owned())))
}

pub(super) fn beside(key: &Path) -> PathBuf {
    path_with(key, ".registration")
}

fn path_with(key: &Path, end: &str) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(end);
    path.into()
}

pub(super) fn read(path: &Path) -> Result<Option<Kept>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let text = format!("{}: {error}.", path.display());
        Failure::new(
            Exit::Failed,
            "registration",
            text,
            "It says who this gateway is at its issuer: restore it, or remove it to enroll anew.",
        )
    };
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Whole or not at all, and for its owner only.
pub(super) fn keep(path: &Path, kept: &Kept) -> std::io::Result<()> {
    replace(path, &serde_json::to_string(kept)?, 0o600)
}

fn words(it: &Enrolled) -> String {
    let jwk = serde_json::to_string(&it.jwk).unwrap_or_default();
    let shown = format!("key         {}\nthumbprint  {}\njwk         {jwk}\n", clean(&it.key), it.thumbprint);
    let id = clean(&it.client_id);
    let next = if it.configured {
        String::new()
    } else {
        format!("\nWrite into the configuration:\n\n[issuer]\nclient_id = \"{id}\"\n")
    };
    match it.registered {
        "no" => format!(
            "{shown}\nNot registered by this command: no initial access token came ({VARIABLE}, or --token-stdin).\n\
             Register the JWK at {} as a client with private_key_jwt (ES256), or, for clawgate issuer serve, save this as\n\
             {id}.pub beside its file:\n\n{}\nand add to that file:\n\n[clients.{id}]\npublic_key = \"{id}.pub\"\ntenant = \"{}\"\n",
            clean(&it.issuer),
            it.public_pem,
            clean(&it.tenant),
        ),
        when => format!("registered  as {id} at {} ({when})\n{shown}{next}", clean(&it.issuer)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_kept_is_its_owners_only_whatever_stands_in_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("key.pem.registration"), dir.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, dir.path().join("key.pem.registration.new")).unwrap();
        let registered = Registered {
            client_id: "gw-1".to_owned(),
            registration_client_uri: None,
            registration_access_token: Some("secret".to_owned()),
        };
        let issuer = "https://id.example".to_owned();
        let kept = Kept { issuer, thumbprint: "t".to_owned(), registered, unanswered: false };
        keep(&path, &kept).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        // What a crash left, open to all.
        fs::write(dir.path().join("key.pem.registration.new"), "").unwrap();
        keep(&path, &kept).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path).unwrap().unwrap().registered == kept.registered);
    }
}
