//! The client of an OAuth server whose key comes from elsewhere: it is fetched with the first request, and again as long as
//! it cannot be had. Meanwhile sensors are served, and what they say is kept.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::secret_source::{SecretSource, Secrets};
use crate::token::key::SigningKey;
use crate::token::oauth::{OauthIssuer, OauthSetupError};
use crate::token::{AccessToken, Issuer, IssuerError, TokenFuture, TokenRequest};

/// However many devices ask, the store is left alone for so long after a refusal.
const PAUSE: Duration = Duration::from_secs(1);

type Make = dyn Fn(SigningKey) -> Result<OauthIssuer, OauthSetupError> + Send + Sync;

/// An issuer that is there once its key is.
#[derive(Clone)]
pub(super) struct LateOauth(Arc<Inner>);

struct Inner {
    secrets: Secrets,
    source: SecretSource,
    make: Box<Make>,
    made: OnceLock<OauthIssuer>,
    /// Held by who asks the store of secrets: what it refused with, and until when (on the boot clock) that stands.
    refused: Mutex<Option<(Duration, String)>>,
    clock: Clock,
}

impl LateOauth {
    pub(super) fn new(
        secrets: Secrets,
        source: SecretSource,
        clock: Clock,
        make: impl Fn(SigningKey) -> Result<OauthIssuer, OauthSetupError> + Send + Sync + 'static,
    ) -> Self {
        let make = Box::new(make);
        Self(Arc::new(Inner { secrets, source, make, made: OnceLock::new(), refused: Mutex::default(), clock }))
    }

    async fn issuer(&self) -> Result<OauthIssuer, IssuerError> {
        let inner = &self.0;
        if let Some(made) = inner.made.get() {
            return Ok(made.clone());
        }
        let mut refused = inner.refused.lock().await;
        // Who held it before may have been given the key.
        if let Some(made) = inner.made.get() {
            return Ok(made.clone());
        }
        if let Some((until, said)) = &*refused
            && inner.clock.boot() < *until
        {
            return Err(IssuerError::Secret(said.clone()));
        }
        let asking = Arc::clone(inner);
        let made = tokio::task::spawn_blocking(move || asking.make()).await;
        match made.map_err(|error| IssuerError::Local(error.to_string()))? {
            Ok(made) => Ok(inner.made.get_or_init(|| made).clone()),
            Err((wait, said)) => {
                *refused = Some((inner.clock.boot().saturating_add(wait.max(PAUSE)), said.clone()));
                Err(IssuerError::Secret(said))
            }
        }
    }
}

impl Inner {
    /// With the key as it is now; else how long to wait, and why.
    fn make(&self) -> Result<OauthIssuer, (Duration, String)> {
        let refused = |wait, error: &dyn std::fmt::Display| (wait, format!("issuer.client_key: {error}"));
        let pem = self.secrets.read(&self.source);
        let pem = pem.map_err(|error| refused(error.retry_after().unwrap_or_default(), &error))?;
        let key = SigningKey::from_pem(pem.expose(), &self.source.to_string());
        let key = key.map_err(|error| refused(Duration::ZERO, &error))?;
        (self.make)(key).map_err(|error| refused(Duration::ZERO, &error))
    }
}

impl Issuer for LateOauth {
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken> {
        Box::pin(async move { self.issuer().await?.issue(request).await })
    }

    fn revoke<'a>(
        &'a self,
        request: &'a TokenRequest,
        current: Option<&'a AccessToken>,
        why: &'a str,
    ) -> TokenFuture<'a, ()> {
        Box::pin(async move { self.issuer().await?.revoke(request, current, why).await })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
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
        let make = move |key| {
            counted.fetch_add(1, Ordering::Relaxed);
            // Nobody answers there.
            let url = "http://127.0.0.1:1".to_owned();
            let client_id = "gw-1".to_owned();
            OauthIssuer::new(OauthOptions { url, client_id, key, ca: None, certificate: None }, own.clone())
        };
        let secrets = Secrets::new(&VaultConfig::default(), clock.clone());
        (LateOauth::new(secrets, SecretSource::File(file.to_owned()), clock.clone(), make), made)
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
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
        written.write_all(b"no key").unwrap();
        assert_eq!(refusal().await.to_string(), first);
        clock.advance(PAUSE);
        assert!(refusal().await.to_string().contains("P-256"));
        std::fs::remove_file(&file).unwrap();
        SigningKey::load_or_create(&file).unwrap();
        clock.advance(PAUSE);
        assert!(matches!(refusal().await, IssuerError::Unreachable { .. }));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
