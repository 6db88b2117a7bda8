//! The file that `clawgate issuer serve` runs by: where it listens, its key, who its clients are.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::clients::{Client, ClientError, Clients, Rights};
use super::keys::KeySchedule;
use crate::config::{default_audience, parse_duration};
use crate::ids::is_valid_id;
use crate::token::Stage;
use crate::token::key::{Jwk, KeyError};

/// Bound of the file and of each key file.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why the file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteFileError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, or a key that is not known or not allowed.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, key, and what is allowed.
        problem: String,
    },
    /// A client's public key cannot be used.
    #[error("clients.{client}.public_key, {path}: {source}")]
    Key {
        /// The client.
        client: String,
        /// Its key file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A client is neither a gateway nor a subscriber, or both.
    #[error(
        "clients.{0}: write either tenant (a gateway) or topics (a subscriber; commands for one that commands gateways)"
    )]
    Kind(String),
    /// A client cannot be registered.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The whole file, its paths resolved against its folder.
#[derive(Debug)]
pub struct SiteFile {
    /// Where to listen; loopback.
    pub listen: SocketAddr,
    /// URL under which clients reach it, when a TLS proxy stands before it.
    pub url: Option<String>,
    /// The signing key; made there at the first start.
    pub key: PathBuf,
    /// When it is changed without being asked.
    pub schedule: KeySchedule,
    /// Where the public keys are written for a broker on this machine.
    pub jwks: Option<PathBuf>,
    /// What was revoked; brokers on this machine may read it.
    pub denylist: PathBuf,
    /// The broker that tokens are for.
    pub audience: String,
    /// The one stage it issues for.
    pub stage: Stage,
    /// Life of a token.
    pub life: Duration,
    /// Who may ask.
    pub clients: Clients,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    url: Option<String>,
    #[serde(default = "default_key")]
    key: PathBuf,
    #[serde(default = "off", deserialize_with = "crate::config::schedule")]
    rotate: Option<Duration>,
    #[serde(default = "default_lead", deserialize_with = "crate::config::lead")]
    lead: Duration,
    jwks: Option<PathBuf>,
    #[serde(default = "default_denylist")]
    denylist: PathBuf,
    audience: Option<String>,
    #[serde(default)]
    stage: Stage,
    #[serde(default = "default_life", deserialize_with = "life")]
    life: Duration,
    #[serde(default)]
    clients: BTreeMap<String, RawClient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    public_key: PathBuf,
    tenant: Option<String>,
    topics: Option<Vec<String>>,
    #[serde(default)]
    commands: Vec<String>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7480))
}

fn default_key() -> PathBuf {
    PathBuf::from("issuer.pem")
}

fn off() -> Option<Duration> {
    None
}

fn default_lead() -> Duration {
    Duration::from_secs(600)
}

fn default_denylist() -> PathBuf {
    PathBuf::from("denylist")
}

fn default_life() -> Duration {
    Duration::from_secs(600)
}

fn life<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let allowed = Duration::from_secs(5)..=Duration::from_secs(86_400);
    parse_duration(&text).filter(|life| allowed.contains(life)).ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} is not allowed: 5s to 1d, as a number and s, m, h or d (\"10m\")"))
    })
}

impl SiteFile {
    /// Reads the file and the public keys that it names.
    ///
    /// # Errors
    /// [`SiteFileError`] names the file, the line or the client, and what is allowed.
    pub(crate) fn load(path: &Path) -> Result<Self, SiteFileError> {
        let text = read(path)?;
        let raw: Raw = toml::from_str(&text)
            .map_err(|error| SiteFileError::Malformed { path: path.to_owned(), problem: placed(&text, &error) })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let clients: Vec<Client> =
            raw.clients.into_iter().map(|(id, client)| client.read(folder, id)).collect::<Result<_, _>>()?;
        Ok(Self {
            listen: raw.listen,
            url: raw.url.map(|url| url.trim_end_matches('/').to_owned()),
            key: folder.join(raw.key),
            schedule: KeySchedule { every: raw.rotate, lead: raw.lead },
            jwks: raw.jwks.map(|jwks| folder.join(jwks)),
            denylist: folder.join(raw.denylist),
            audience: raw.audience.unwrap_or_else(|| default_audience(raw.stage).to_owned()),
            stage: raw.stage,
            life: raw.life,
            clients: Clients::new(clients, None)?,
        })
    }
}

impl RawClient {
    fn read(self, folder: &Path, id: String) -> Result<Client, SiteFileError> {
        let path = folder.join(self.public_key);
        let pem = read(&path)?;
        let key = Jwk::from_pem(&pem).map_err(|source| SiteFileError::Key { client: id.clone(), path, source })?;
        let rights = match (self.tenant, self.topics) {
            (Some(_), _) if !self.commands.is_empty() => return Err(SiteFileError::Kind(id)),
            (Some(tenant), None) if is_valid_id(&tenant) => Rights::Gateway { tenant },
            (Some(tenant), None) => return Err(ClientError::BadId(tenant).into()),
            (None, topics) if topics.is_some() || !self.commands.is_empty() => {
                Rights::Subscriber { topics: topics.unwrap_or_default(), commands: self.commands }
            }
            _ => return Err(SiteFileError::Kind(id)),
        };
        Ok(Client { id, key, rights })
    }
}

/// The problem with its line, in one line.
fn placed(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
}

fn read(path: &Path) -> Result<String, SiteFileError> {
    let failed = |source| SiteFileError::Unreadable { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(failed(std::io::Error::other("the file is too large")));
    }
    fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::key::SigningKey;

    fn load(text: &str) -> Result<SiteFile, SiteFileError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gw.pem"), SigningKey::generate().unwrap().public_pem().unwrap()).unwrap();
        fs::write(dir.path().join("bad.pem"), "no key").unwrap();
        let path = dir.path().join("issuer.toml");
        fs::write(&path, text).unwrap();
        SiteFile::load(&path)
    }

    #[test]
    fn a_file_with_a_gateway_and_a_subscriber_is_taken() {
        let text = "rotate = \"90d\"\nlead = \"5m\"\njwks = \"jwks\"\n[clients.gw-1]\npublic_key = \"gw.pem\"\ntenant = \"default\"\n\
                    [clients.dash]\npublic_key = \"gw.pem\"\ntopics = [\"claw/#\"]\n";
        let site = load(text).unwrap();
        assert!(site.clients.get("gw-1").is_some() && site.clients.get("dash").is_some());
        assert_eq!((site.schedule.every, site.schedule.lead.as_secs()), (Some(Duration::from_secs(90 * 86_400)), 300));
    }

    #[test]
    fn a_refusal_names_the_place() {
        for (text, named) in [
            ("\nlisen = 1\n", "line 2: unknown field `lisen`"),
            ("life = \"2d\"\n", "5s to 1d"),
            ("rotate = \"1s\"\n", "1m to 3650d"),
            ("lead = \"2d\"\n", "0s to 1d"),
            ("[clients.a]\npublic_key = \"bad.pem\"\ntenant = \"t\"\n", "clients.a.public_key"),
            ("[clients.a]\npublic_key = \"gone.pem\"\ntenant = \"t\"\n", "gone.pem"),
            ("[clients.a]\npublic_key = \"gw.pem\"\n", "either tenant"),
            ("[clients.a]\npublic_key = \"gw.pem\"\ntenant = \"t\"\ntopics = []\n", "either tenant"),
            ("[clients.a]\npublic_key = \"gw.pem\"\ntopics = [\"a/#/b\"]\n", "a/#/b"),
        ] {
            let said = load(text).unwrap_err().to_string();
            assert!(said.contains(named), "{text:?} gave {said}");
        }
    }
}
