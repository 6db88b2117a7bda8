//! The client of an OAuth server, with its key from wherever the configuration says: fetched with the first request and as
//! long as it cannot be had, and again when the server does not know it any more, so that a key that was changed there is
//! followed without a restart. Meanwhile sensors are served, and what they say is kept.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use crate::blocking::blocking;
use crate::clock::Clock;
use crate::secret_source::{SecretSource, Secrets, SourceError};
use crate::token::key::{KeyError, SigningKey};
use crate::token::oauth::{OauthIssuer, OauthSetupError};
use crate::token::{AccessToken, Issuer, IssuerError, TokenFuture, TokenRequest};

/// However many devices ask, the key's place is left alone for so long after a refusal.
const PAUSE: Duration = Duration::from_secs(1);
/// The same after a look for a newer key that found none.
const LONG_PAUSE: Duration = Duration::from_secs(30);

type Make = dyn Fn(SigningKey) -> Result<OauthIssuer, OauthSetupError> + Send + Sync;

/// Why there is no client yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoClient {
    /// Its key cannot be had.
    #[error("issuer.client_key: {0}")]
    Source(#[from] SourceError),
    /// What is in the key's place is none.
    #[error("issuer.client_key: {0}")]
    Key(#[from] KeyError),
    /// The server's address or its CA.
    #[error(transparent)]
    Setup(#[from] OauthSetupError),
}

/// An issuer that is there once its key is.
#[derive(Clone)]
pub(in crate::daemon) struct LateOauth(Arc<Inner>);

struct Inner {
    secrets: Secrets,
    source: SecretSource,
    make: Box<Make>,
    made: ArcSwapOption<Made>,
    /// Held by who looks at the key's place: what it found last, and until when (on the boot clock) that stands.
    looked: Mutex<Option<(Duration, String)>>,
    clock: Clock,
}

/// A client, and which key it has.
struct Made {
    issuer: OauthIssuer,
    kid: String,
}

impl LateOauth {
    pub(super) fn new(
        secrets: Secrets,
        source: SecretSource,
        clock: Clock,
        make: impl Fn(SigningKey) -> Result<OauthIssuer, OauthSetupError> + Send + Sync + 'static,
    ) -> Self {
        let (make, looked) = (Box::new(make), Mutex::default());
        Self(Arc::new(Inner { secrets, source, make, made: ArcSwapOption::empty(), looked, clock }))
    }

    /// Fetches the key now, where its place can be read without anybody's help.
    ///
    /// # Errors
    /// [`NoClient`].
    pub(super) fn fetch(&self) -> Result<(), NoClient> {
        self.0.made.store(Some(Arc::new(self.0.fetch()?)));
        Ok(())
    }

    /// The key that it proves itself with: its thumbprint; none while it could not be had.
    pub(in crate::daemon) fn key(&self) -> Option<String> {
        self.0.made.load().as_ref().map(|made| made.kid.clone())
    }

    /// Where its key is.
    pub(in crate::daemon) fn place(&self) -> String {
        self.0.source.to_string()
    }

    /// Goes over to the key that is in its place now; its thumbprint, and that of the one before.
    ///
    /// # Errors
    /// [`NoClient`]; the one before is in use then.
    pub(in crate::daemon) async fn go_over(&self) -> Result<(String, Option<String>), NoClient> {
        // Nobody else looks meanwhile, and puts an older one back.
        let mut looked = self.0.looked.lock().await;
        let asking = Arc::clone(&self.0);
        let made = Arc::new(blocking(move || asking.fetch()).await?);
        *looked = None;
        let kid = made.kid.clone();
        Ok((kid, self.0.made.swap(Some(made)).map(|before| before.kid.clone())))
    }

    /// The client; another than the one with the key `refused`, where one is said.
    async fn client(&self, refused: Option<&str>) -> Result<Arc<Made>, IssuerError> {
        let inner = &self.0;
        let wanted = || inner.made.load_full().filter(|made| refused != Some(&made.kid));
        if let Some(made) = wanted() {
            return Ok(made);
        }
        let mut looked = inner.looked.lock().await;
        // Who held it before may have found one.
        if let Some(made) = wanted() {
            return Ok(made);
        }
        if let Some((until, said)) = &*looked
            && inner.clock.boot() < *until
        {
            return Err(IssuerError::Secret(said.clone()));
        }
        let asking = Arc::clone(inner);
        let fetched = tokio::task::spawn_blocking(move || asking.fetch()).await;
        let (wait, said) = match fetched.map_err(|error| IssuerError::Local(error.to_string()))? {
            Ok(made) if refused != Some(&made.kid) => {
                let made = Arc::new(made);
                inner.made.store(Some(Arc::clone(&made)));
                *looked = None;
                return Ok(made);
            }
            Ok(made) => (LONG_PAUSE, format!("issuer.client_key: {} still has the key {}", inner.source, made.kid)),
            Err(NoClient::Source(error)) => {
                let wait = error.retry_after().unwrap_or_default().max(PAUSE);
                (wait, NoClient::Source(error).to_string())
            }
            Err(error) => (PAUSE, error.to_string()),
        };
        *looked = Some((inner.clock.boot().saturating_add(wait), said.clone()));
        Err(IssuerError::Secret(said))
    }

    /// In place of a client that was refused one with a newer key, if there is one.
    async fn renewed(&self, refused: &IssuerError, kid: &str) -> Option<Arc<Made>> {
        let IssuerError::Refused { code, .. } = refused else { return None };
        if !matches!(code.as_str(), "invalid_client" | "unauthorized_client") {
            return None;
        }
        match self.client(Some(kid)).await {
            Ok(made) => {
                tracing::info!(
                    key = made.kid,
                    before = kid,
                    "the OAuth server does not know the old key: a newer one was in its place"
                );
                Some(made)
            }
            Err(error) => {
                tracing::debug!(%error, "the OAuth server does not know the key, and there is no newer one");
                None
            }
        }
    }
}

impl Inner {
    /// A client with the key as it is now. Blocks.
    fn fetch(&self) -> Result<Made, NoClient> {
        let key = match &self.source {
            // Ours to judge more strictly: nobody else has to read it.
            SecretSource::File(path) => SigningKey::load(path)?,
            source => SigningKey::from_pem(self.secrets.read(source)?.expose(), &source.to_string())?,
        };
        let kid = key.public().kid.clone();
        Ok(Made { issuer: (self.make)(key)?, kid })
    }
}

impl Issuer for LateOauth {
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken> {
        Box::pin(async move {
            let made = self.client(None).await?;
            let refused = match made.issuer.issue(request).await {
                Err(refused) => refused,
                issued => return issued,
            };
            match self.renewed(&refused, &made.kid).await {
                Some(newer) => newer.issuer.issue(request).await,
                None => Err(refused),
            }
        })
    }

    fn revoke<'a>(
        &'a self,
        request: &'a TokenRequest,
        current: Option<&'a AccessToken>,
        why: &'a str,
    ) -> TokenFuture<'a, ()> {
        Box::pin(async move {
            let made = self.client(None).await?;
            let Err(refused) = made.issuer.revoke(request, current, why).await else { return Ok(()) };
            match self.renewed(&refused, &made.kid).await {
                Some(newer) => newer.issuer.revoke(request, current, why).await,
                None => Err(refused),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::secret_source::VaultConfig;
    use crate::token::oauth::OauthOptions;
    use crate::token::scope::Scope;
    use crate::token::{Limits, Stage};

    fn late(file: &Path, clock: &Clock) -> (LateOauth, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        let (counted, own) = (Arc::clone(&made), clock.clone());
        let client = move |key| {
            counted.fetch_add(1, Ordering::Relaxed);
            // Nobody answers there.
            let url = "http://127.0.0.1:1".to_owned();
            let client_id = "gw-1".to_owned();
            OauthIssuer::new(OauthOptions { url, client_id, key, ca: None, certificate: None }, own.clone())
        };
        let secrets = Secrets::new(&VaultConfig::default(), clock.clone());
        (LateOauth::new(secrets, SecretSource::File(file.to_owned()), clock.clone(), client), made)
    }

    fn request() -> TokenRequest {
        TokenRequest {
            tenant: "default".to_owned(),
            gateway: "gw-1".to_owned(),
            device: "pump-3".parse().unwrap(),
            scope: vec![Scope::TelemetryWrite],
            life: Duration::from_secs(300),
            audience: "claw".to_owned(),
            limits: Limits::default(),
            stage: Stage::default(),
        }
    }

    #[tokio::test]
    async fn fifty_devices_at_once_fetch_the_key_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.pem");
        SigningKey::load_or_create(&file).unwrap();
        let (late, made) = late(&file, &Clock::manual(Duration::ZERO));
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let late = late.clone();
                tokio::spawn(async move { late.issue(&request()).await })
            })
            .collect();
        for asked in asking {
            assert!(matches!(asked.await.unwrap(), Err(IssuerError::Unreachable { .. })));
        }
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_refusal_stands_for_a_moment_and_is_then_asked_about_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, clock) = (dir.path().join("client.pem"), Clock::manual(Duration::ZERO));
        let (late, made) = late(&file, &clock);
        let refusal = async || late.issue(&request()).await.unwrap_err();
        let first = refusal().await.to_string();
        assert!(first.contains("issuer.client_key: ") && first.contains("check that it is there"), "{first}");
        SigningKey::load_or_create(&file).unwrap();
        assert_eq!(refusal().await.to_string(), first);
        clock.advance(PAUSE);
        assert!(matches!(refusal().await, IssuerError::Unreachable { .. }));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_key_that_the_server_does_not_know_is_looked_for_again_and_only_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let (file, clock) = (dir.path().join("client.pem"), Clock::manual(Duration::ZERO));
        let first = SigningKey::load_or_create(&file).unwrap().public().kid.clone();
        let (late, made) = late(&file, &clock);
        late.fetch().unwrap();
        let refused = |code: &str| IssuerError::Refused {
            endpoint: "e".to_owned(),
            status: 401,
            code: code.to_owned(),
            words: String::new(),
        };
        let unknown = refused("invalid_client");
        assert!(late.renewed(&unknown, &first).await.is_none());
        std::fs::remove_file(&file).unwrap();
        let second = SigningKey::load_or_create(&file).unwrap().public().kid.clone();
        assert!(late.renewed(&unknown, &first).await.is_none(), "its place is left alone for a while");
        clock.advance(LONG_PAUSE);
        // No other refusal has to do with the key.
        assert!(late.renewed(&refused("invalid_scope"), &first).await.is_none());
        assert_eq!(late.renewed(&unknown, &first).await.unwrap().kid, second);
        // Who was refused meanwhile has it without a look.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(late.renewed(&unknown, &first).await.unwrap().kid, second);
        assert_eq!(made.load(Ordering::Relaxed), 3);
    }
}
