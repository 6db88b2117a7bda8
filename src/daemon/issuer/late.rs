//! The client of an OAuth server whose key comes from elsewhere: it is fetched with the first request, and again as long as
//! it cannot be had. Meanwhile sensors are served, and what they say is kept.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::secret_source::{SecretSource, Secrets};
use crate::token::key::SigningKey;
use crate::token::oauth::{OauthIssuer, OauthSetupError};
use crate::token::{AccessToken, Issuer, IssuerError, TokenFuture, TokenRequest};

type Make = dyn Fn(SigningKey) -> Result<OauthIssuer, OauthSetupError> + Send + Sync;

/// An issuer that is there once its key is.
#[derive(Clone)]
pub(super) struct LateOauth(Arc<Inner>);

struct Inner {
    secrets: Secrets,
    source: SecretSource,
    make: Box<Make>,
    made: OnceLock<OauthIssuer>,
    /// What the store of secrets said, and when (on the boot clock) it may be asked again.
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
        if let Some(made) = self.0.made.get() {
            return Ok(made.clone());
        }
        let inner = Arc::clone(&self.0);
        let local = |error: &dyn std::fmt::Display| IssuerError::Local(format!("issuer.client_key: {error}"));
        let made = tokio::task::spawn_blocking(move || {
            let refused = || inner.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((until, said)) = refused().clone()
                && inner.clock.boot() < until
            {
                return Err(local(&said));
            }
            let pem = inner.secrets.read(&inner.source).map_err(|error| {
                let wait = error.retry_after().unwrap_or_default();
                *refused() = Some((inner.clock.boot().saturating_add(wait), error.to_string()));
                local(&error)
            })?;
            let key = SigningKey::from_pem(pem.expose(), &inner.source.to_string()).map_err(|error| local(&error))?;
            (inner.make)(key).map_err(|error| local(&error))
        });
        let made = made.await.map_err(|error| IssuerError::Local(error.to_string()))??;
        Ok(self.0.made.get_or_init(|| made).clone())
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
