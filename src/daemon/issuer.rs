//! Who issues this gateway's tokens: an issuer in this process, with its endpoints, or an OAuth server elsewhere.

pub(super) mod families;
mod late;
mod revocations;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tasks::Tasks;
use crate::alarm::Alarms;
use crate::clock::Clock;
use crate::config::{Config, IssuerKind};
use crate::relay::{ClientKey, RelayError};
use crate::secret::Secret;
use crate::secret_source::{SecretSource, Secrets};
use crate::standalone::issuer_server::{
    Client, ClientError, Clients, IssuerListener, IssuerServer, Rights, ServerError, ServerOptions,
};
use crate::store::{Store, StoreError};
use crate::token::azure::SasIssuer;
use crate::token::key::{Jwk, Jwks, KeyError, SigningKey};
use crate::token::local::{DenyError, DenyList, KeyBook, KeyRing, LocalIssuer, PublicFile, RingError};
use crate::token::oauth::{Families, OauthIssuer, OauthOptions};
use crate::token::{BindingError, ClaimForm, ClientCertificate, Issuer, Stage, Thumbprint};
use families::StoredFamilies;
pub(super) use late::LateOauth;
pub use late::NoClient;
use revocations::Revocations;

/// Name of the sealed signing key.
const KEY: &str = "local-issuer-key";
/// Name of what belongs to it: the next key, the older ones.
const RING: &str = "local-issuer-ring";

/// Why there is no issuer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuingError {
    /// The sealed signing key.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key.
    #[error("the issuer's key: {0}")]
    Key(#[from] KeyError),
    /// The keys that it signs with.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The deny list.
    #[error(transparent)]
    Deny(#[from] DenyError),
    /// The endpoints.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The OAuth server, or the key that this gateway proves itself with there.
    #[error(transparent)]
    Oauth(#[from] NoClient),
    /// The certificate that tokens are bound to.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// Its key.
    #[error(transparent)]
    BindingKey(#[from] RelayError),
    /// `issuer.kind = "oauth"` without its key.
    #[error("issuer.url and issuer.client_key are needed with kind = \"oauth\"")]
    Incomplete,
    /// `issuer.kind = "azure-sas"` without its keys.
    #[error("broker.url and issuer.device_keys are needed with kind = \"azure-sas\"")]
    NoDeviceKeys,
    /// A subscriber of the configuration.
    #[error("standalone.subscribers: {0}")]
    Client(#[from] ClientError),
    /// A subscriber's key.
    #[error("standalone.subscribers.{name}.public_key {}: {reason}", path.display())]
    SubscriberKey {
        /// The subscriber.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The issuer, and what of it runs here.
pub(super) struct Issuing {
    /// What the keeper asks.
    pub(super) issuer: Arc<dyn Issuer>,
    /// The same, where it is in this process.
    pub(super) local: Option<LocalIssuer>,
    /// The client of an OAuth server, where the issuer is one.
    pub(super) client: Option<LateOauth>,
    /// Where it is.
    pub(super) url: String,
    /// Takes what a reload changes, where it is in this process.
    pub(super) terms: Option<watch::Sender<Terms>>,
    /// What keeps its deny list from where it must be.
    pub(super) deny_behind: watch::Receiver<Option<String>>,
}

/// Who gets tokens from the endpoints, and for how long.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    clients: Clients,
    life: Duration,
}

impl Terms {
    /// As the configuration has them; the subscribers' keys are read.
    pub(super) fn of(config: &Config) -> Result<Self, IssuingError> {
        Ok(Self { clients: subscribers(config)?, life: config.issuer.life })
    }
}

/// Whether the subscribers of the configuration, and their keys, would be taken.
///
/// # Errors
/// What the start would say.
pub(crate) fn check_subscribers(config: &Config) -> Result<(), IssuingError> {
    match config.issuer.kind {
        IssuerKind::Local => subscribers(config).map(drop),
        IssuerKind::Oauth | IssuerKind::AzureSas => Ok(()),
    }
}

/// Starts the issuer of the configuration. `key` is that of the client certificate.
pub(super) async fn start(
    config: &Config,
    store: &Store,
    clock: &Clock,
    key: Option<&ClientKey>,
    alarms: &Alarms,
    tasks: &mut Tasks,
) -> Result<Issuing, IssuingError> {
    match config.issuer.kind {
        IssuerKind::Local => local(config, store, clock, alarms, tasks).await,
        IssuerKind::Oauth => oauth(config, store, clock, key),
        IssuerKind::AzureSas => azure_sas(config, clock),
    }
}

async fn local(
    config: &Config,
    store: &Store,
    clock: &Clock,
    alarms: &Alarms,
    tasks: &mut Tasks,
) -> Result<Issuing, IssuingError> {
    let listener = IssuerListener::bind(config.issuer.listen).await?;
    let stage = config.gateway.stage;
    let url = config.issuer.url.clone().unwrap_or_else(|| own_url(listener.addr(), stage));
    let deny = DenyList::open(&store.dir().join(of_stage("revoked", stage) + ".json"))?;
    let terms = Terms::of(config)?;
    let published = |name: &str| config.issuer.publish_dir.as_ref().map(|folder| PublicFile::new(folder.join(name)));
    let ring = key_ring(store, stage, terms.life, published("jwks"))?;
    let issuer = LocalIssuer::with_ring(&url, ring, deny, clock.clone())
        .of_stage(stage)
        .with_claims(ClaimForm::of(config.broker.profile))
        .bound_to(certificate(config).map(Thumbprint::of_file).transpose()?);
    // A broker that starts beside us has them from now on. What fails is said by who looks after the keys.
    let _ = issuer.ring().tend(issuer.now());
    let options =
        ServerOptions { audience: config.audience().to_owned(), life: terms.life, url: config.issuer.url.clone() };
    let server = IssuerServer::start(listener, issuer.clone(), terms.clients.clone(), options);
    let (sender, changed) = watch::channel(terms);
    let (behind, deny_behind) = watch::channel(None);
    let (deny, published) = (issuer.deny_list().clone(), published("denylist"));
    let revocations = Revocations { deny, published, alarms: alarms.clone(), clock: clock.clone(), behind };
    tasks.spawn("issuer", |stop| async move {
        tokio::join!(follow(changed, &server, &stop), revocations.keep(&stop));
        server.stop().await;
    });
    Ok(Issuing {
        issuer: Arc::new(issuer.clone()),
        local: Some(issuer),
        client: None,
        url,
        terms: Some(sender),
        deny_behind,
    })
}

/// Takes what a reload changes, until `stop`.
async fn follow(mut changed: watch::Receiver<Terms>, server: &IssuerServer, stop: &CancellationToken) {
    while let Some(Ok(())) = stop.run_until_cancelled(changed.changed()).await {
        let Terms { clients, life } = changed.borrow_and_update().clone();
        server.replace_clients(clients);
        server.set_life(life);
    }
}

/// The issuer's name where none is written: a stage's own, for a token says by whom it was made.
fn own_url(address: SocketAddr, stage: Stage) -> String {
    match stage {
        Stage::Prod => format!("http://{address}"),
        Stage::Dev | Stage::Staging => format!("http://{address}/{stage}"),
    }
}

/// What a stage keeps for itself; prod has the plain name, as it had before there were stages.
fn of_stage(name: &str, stage: Stage) -> String {
    match stage {
        Stage::Prod => name.to_owned(),
        Stage::Dev | Stage::Staging => format!("{name}-{stage}"),
    }
}

fn oauth(config: &Config, store: &Store, clock: &Clock, key: Option<&ClientKey>) -> Result<Issuing, IssuingError> {
    let shown = match certificate(config).zip(key) {
        Some((path, key)) => Some(ClientCertificate::of_file(path, key.pem.expose())?),
        None => None,
    };
    let (Some(url), Some(key)) = (config.issuer.url.clone(), &config.issuer.client_key) else {
        return Err(IssuingError::Incomplete);
    };
    let families: Arc<dyn Families> = Arc::new(StoredFamilies(store.clone()));
    let client_id = config.issuer.client_id.clone().unwrap_or_else(|| config.gateway.id.to_string());
    let (ca, grant, clock) = (config.issuer.ca.clone(), config.issuer.grant, clock.clone());
    let with_key = {
        let (url, clock) = (url.clone(), clock.clone());
        move |key| {
            let (url, client_id, ca, certificate) = (url.clone(), client_id.clone(), ca.clone(), shown.clone());
            let options = OauthOptions { url, client_id, key, ca, certificate };
            OauthIssuer::with_grant(options, grant, Arc::clone(&families), clock.clone())
        }
    };
    let late = LateOauth::new(Secrets::new(&config.vault, clock.clone()), key.clone(), clock, with_key);
    // What this process was not started with, it will never have; a vault may be away for a while.
    if !matches!(key, SecretSource::Vault { .. }) {
        late.fetch()?;
    }
    Ok(Issuing {
        issuer: Arc::new(late.clone()),
        local: None,
        client: Some(late),
        url,
        terms: None,
        deny_behind: watch::channel(None).1,
    })
}

fn azure_sas(config: &Config, clock: &Clock) -> Result<Issuing, IssuingError> {
    let (Some(broker), Some(keys)) = (&config.broker.url, config.issuer.device_keys.clone()) else {
        return Err(IssuingError::NoDeviceKeys);
    };
    let issuer = Arc::new(SasIssuer::new(&broker.host, keys, clock.clone()));
    Ok(Issuing {
        issuer,
        local: None,
        client: None,
        url: format!("https://{}", broker.host),
        terms: None,
        deny_behind: watch::channel(None).1,
    })
}

/// The certificate that this gateway shows its broker: devices' tokens are bound to it. The broker of standalone mode
/// asks for none.
fn certificate(config: &Config) -> Option<&Path> {
    let shown = config.broker.url.as_ref().is_some_and(|broker| broker.tls);
    config.broker.client_cert.as_deref().filter(|_| shown)
}

/// The issuer's keys, sealed in the registry's database. An older clawgate reads the one that signs.
struct StoredRing {
    store: Store,
    stage: Stage,
    published: Option<PublicFile>,
}

impl KeyBook for StoredRing {
    fn keep(&self, signing: &Secret<Vec<u8>>, rest: &Secret<Vec<u8>>) -> Result<(), String> {
        let (key, ring) = (of_stage(KEY, self.stage), of_stage(RING, self.stage));
        self.store.put_secrets(&[(&key, signing.expose()), (&ring, rest.expose())]).map_err(|error| error.to_string())
    }

    fn publish(&self, keys: &Jwks) -> Result<(), String> {
        self.published.as_ref().map_or(Ok(()), |file| file.put(&keys.to_text()))
    }
}

/// The first key is made at the first start. Tokens live for up to `life`.
fn key_ring(
    store: &Store,
    stage: Stage,
    life: Duration,
    published: Option<PublicFile>,
) -> Result<KeyRing, IssuingError> {
    let name = of_stage(KEY, stage);
    let (key, rest) = match store.secret(&name)? {
        Some(der) => (SigningKey::from_pkcs8(der.expose())?, store.secret(&of_stage(RING, stage))?),
        None => (SigningKey::generate()?, None),
    };
    let made_ms = store.secret_made_ms(&name)?.unwrap_or_else(|| store.now_ms());
    let made = u64::try_from(made_ms / 1000).unwrap_or(0);
    let ring =
        KeyRing::open(key, made, rest.as_ref(), Arc::new(StoredRing { store: store.clone(), stage, published }))?;
    // Keeps a key that was just made, too.
    ring.lives_up_to(life)?;
    Ok(ring)
}

/// The subscribers of the configuration, with their keys read.
fn subscribers(config: &Config) -> Result<Clients, IssuingError> {
    let mut clients = Vec::new();
    for (name, subscriber) in &config.standalone.subscribers {
        let path = subscriber.public_key.clone();
        let pem = fs::read_to_string(&path).map_err(|error| error.to_string());
        let key = pem.and_then(|pem| Jwk::from_pem(&pem).map_err(|error| error.to_string()));
        let refused = |reason| IssuingError::SubscriberKey { name: name.to_string(), path, reason };
        let rights = Rights::Subscriber { topics: subscriber.topics.clone(), commands: Vec::new() };
        clients.push(Client { id: name.to_string(), key: key.map_err(refused)?, rights });
    }
    Ok(Clients::new(clients, Some(config.gateway.id.as_str()))?)
}
