//! The issuer is an OAuth 2.0 server somewhere else, `clawgate issuer serve` among them.
//!
//! The gateway is the client and proves itself with private_key_jwt (RFC 7523). The device it asks for stands in
//! `authorization_details` (RFC 9396), the broker in `resource` (RFC 8707); how it asks, [`Grant`] says. What comes back is compared with what was
//! asked: a server that does not know the details answers 200 with another token.

mod answer;
mod approval;
mod check;
mod grant;
mod manage;
mod register;
#[cfg(test)]
mod tests;
mod transport;

use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};

use super::key::SigningKey;
use super::scope::TELEMETRY_READ;
use super::{
    AccessToken, ClientCertificate, Confirmation, Issuer, IssuerError, Limits, Stage, Thumbprint, TokenFuture,
    TokenRequest,
};
use crate::clock::Clock;
use crate::secret::Secret;
use answer::{Endpoints, Granted};
use approval::Approvals;
use grant::{Kept, NoFamilies};
use transport::Transport;

pub use grant::{Families, Grant, RefreshToken};
pub(crate) use manage::{Managed, takes};
pub(crate) use register::{Registered, Registration, register};
pub use transport::OauthSetupError;

/// Type of our authorization details.
pub const DETAIL_TYPE: &str = "clawgate_device";
/// An assertion is used at once.
const ASSERTION_LIFE_S: u64 = 60;

/// Which device a token is asked for (RFC 9396).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDetail {
    /// Always [`DETAIL_TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Tenant of the site.
    pub tenant: String,
    /// Id of the gateway.
    pub gateway: String,
    /// Id of the device.
    pub device: String,
    /// Life that is asked for, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_s: Option<u64>,
    /// The stage it shall be good in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// From where it shall be usable and how often: `addresses` and `per_second`.
    #[serde(flatten)]
    pub limits: Limits,
    /// Who alone shall be able to show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// How to reach the server, and as whom.
#[derive(Debug, Clone)]
pub struct OauthOptions {
    /// The issuer's URL; `https`, or `http` on this machine.
    pub url: String,
    /// Our client id there.
    pub client_id: String,
    /// The key whose public half is registered there.
    pub key: SigningKey,
    /// The only CA (PEM file) that the server's certificate may come from; the web's roots when there is none.
    pub ca: Option<PathBuf>,
    /// The certificate that we show the broker: tokens shall be bound to it.
    pub certificate: Option<ClientCertificate>,
}

/// A client of one OAuth server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OauthIssuer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    client_id: String,
    key: SigningKey,
    certificate: Option<Thumbprint>,
    transport: Transport,
    /// Shows our certificate, where there is one.
    showing: Option<Transport>,
    clock: Clock,
    grant: Grant,
    kept: Kept,
    approvals: Approvals,
    /// From the server's metadata; asked again after a failure.
    endpoints: Mutex<Option<Endpoints>>,
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
}

/// Fetches the metadata of the issuer at `url` and checks it, without being a client there.
pub(crate) fn look(url: &str, ca: Option<&Path>) -> Result<(), LookError> {
    let at = answer::metadata_url(url);
    let reply = Transport::new(url, ca)?.get(&at)?;
    answer::endpoints(&at, url, &reply)?;
    Ok(())
}

/// Why an issuer's metadata could not be had.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum LookError {
    /// The address or the CA.
    Setup(#[from] OauthSetupError),
    /// The answer, or none.
    Issuer(#[from] IssuerError),
}

impl OauthIssuer {
    /// A client that asks with its own rights; nothing is asked yet.
    ///
    /// # Errors
    /// [`OauthSetupError`] when the URL or the CA file is unusable.
    pub fn new(options: OauthOptions, clock: Clock) -> Result<Self, OauthSetupError> {
        Self::with_grant(options, Grant::ClientCredentials, Arc::new(NoFamilies), clock)
    }

    /// A client that asks for devices' tokens as `grant` says, and keeps their refresh tokens in `families`.
    ///
    /// # Errors
    /// [`OauthSetupError`] when the URL or the CA file is unusable.
    pub fn with_grant(
        options: OauthOptions,
        grant: Grant,
        families: Arc<dyn Families>,
        clock: Clock,
    ) -> Result<Self, OauthSetupError> {
        let OauthOptions { url, client_id, key, ca, certificate } = options;
        let transport = Transport::new(&url, ca.as_deref())?;
        let shown = certificate.as_ref().and_then(ClientCertificate::shown);
        let showing = shown.map(|shown| Transport::showing(shown, ca.as_deref())).transpose()?;
        let certificate = certificate.map(|certificate| certificate.thumbprint().clone());
        let url = url.trim_end_matches('/').to_owned();
        let kept = Kept::new(families);
        let (approvals, endpoints) = (Approvals::default(), Mutex::default());
        Ok(Self(Arc::new(Inner {
            url,
            client_id,
            key,
            certificate,
            transport,
            showing,
            clock,
            grant,
            kept,
            approvals,
            endpoints,
        })))
    }

    /// A token of the client itself, as a subscriber has one.
    ///
    /// # Errors
    /// [`IssuerError`] when none came.
    pub async fn own_token(&self, audience: &str) -> Result<AccessToken, IssuerError> {
        let form = vec![("scope", TELEMETRY_READ.to_owned()), ("resource", audience.to_owned())];
        let (client_id, audience) = (self.0.client_id.clone(), audience.to_owned());
        self.blocking(move |inner| {
            let token = inner.ask("client_credentials", form)?.token;
            check::own(&token, &inner.url, &client_id, &audience)?;
            Ok(token)
        })
        .await
    }

    /// ureq blocks: off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, IssuerError> + Send + 'static,
    ) -> Result<T, IssuerError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|error| IssuerError::Local(error.to_string()))?
    }
}

impl Inner {
    /// A token for the given request parameters.
    fn ask(&self, grant: &str, mut form: Vec<(&'static str, String)>) -> Result<Granted, IssuerError> {
        let endpoints = self.endpoints()?;
        let (transport, endpoint, shows) = match (&self.showing, endpoints.binding_token) {
            (Some(showing), Some(endpoint)) => (showing, endpoint, true),
            _ => (&self.transport, endpoints.token, false),
        };
        form.push(("grant_type", grant.to_owned()));
        self.authenticate(&mut form)?;
        let reply = transport.post(&endpoint, &form).map_err(|mut error| {
            self.forget_endpoints();
            if let IssuerError::Unreachable { reason, .. } = &mut error
                && shows
            {
                // TLS 1.3 tells a client last that its certificate is not taken: mostly it only sees the line break.
                reason.push_str(" (the certificate of broker.client_cert was shown: who does not take it hangs up)");
            }
            error
        })?;
        answer::token(&endpoint, &reply, &self.clock).inspect_err(|problem| {
            if matches!(problem, IssuerError::Answer { .. }) {
                self.forget_endpoints();
            }
        })
    }

    fn revoke(&self, request: &TokenRequest, token: Option<String>) -> Result<(), IssuerError> {
        self.approvals.forget(&request.device);
        // Good here no more, whatever comes now; a full disk is no reason not to tell the server.
        let (family, forgotten) = self.kept.end(&request.device);
        let told = self.tell_revocation(request, family, token);
        // What was not taken for another reason than a refusal is told again.
        let is_over = match &told {
            Ok(()) => forgotten.is_ok(),
            Err(error) => error.is_final(),
        };
        if is_over {
            self.kept.forget_ended(&request.device);
        }
        told.and(forgotten)
    }

    fn tell_revocation(
        &self,
        request: &TokenRequest,
        family: Option<Secret<String>>,
        token: Option<String>,
    ) -> Result<(), IssuerError> {
        let endpoints = self.endpoints()?;
        let mut form = Vec::new();
        let hint = if family.is_some() { "refresh_token" } else { "access_token" };
        match family.map(|token| token.expose().clone()).or(token) {
            Some(token) => form.push(("token", token)),
            // There is nothing that this server could be told.
            None if !endpoints.knows_devices => return Ok(()),
            None => {}
        }
        if endpoints.knows_devices {
            form.push(("authorization_details", details(request, self.certificate.as_ref())?));
        }
        let endpoint = endpoints.revocation;
        let endpoint = endpoint.ok_or_else(|| IssuerError::CannotRevoke { endpoint: self.url.clone() })?;
        form.push(("token_type_hint", hint.to_owned()));
        self.authenticate(&mut form)?;
        let reply = self.transport.post(&endpoint, &form)?;
        answer::revoked(&endpoint, &reply, &self.clock)
    }

    /// Adds who we are, signed, for one use.
    fn authenticate(&self, form: &mut Vec<(&'static str, String)>) -> Result<(), IssuerError> {
        let assertion = self.assertion(&self.client_id)?;
        form.push(("client_id", self.client_id.clone()));
        form.push(("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()));
        form.push(("client_assertion", assertion));
        Ok(())
    }

    /// Our word for `subject`, signed, for one use.
    fn assertion(&self, subject: &str) -> Result<String, IssuerError> {
        let local = |error: &dyn std::fmt::Display| IssuerError::Local(error.to_string());
        let mut id = [0_u8; 16];
        getrandom::fill(&mut id).map_err(|error| local(&error))?;
        let now = self.clock.wall().as_secs();
        let assertion = Assertion {
            iss: &self.client_id,
            sub: subject,
            aud: &self.url,
            iat: now,
            exp: now.saturating_add(ASSERTION_LIFE_S),
            jti: BASE64URL.encode(id),
        };
        self.key.sign("JWT", &assertion).map_err(|error| local(&error))
    }

    fn endpoints(&self) -> Result<Endpoints, IssuerError> {
        if let Some(known) = self.known_endpoints().clone() {
            return Ok(known);
        }
        let at = answer::metadata_url(&self.url);
        let reply = self.transport.get(&at)?;
        let found = answer::endpoints(&at, &self.url, &reply)?;
        self.transport.permits(&found.token)?;
        for endpoint in [&found.binding_token, &found.revocation, &found.device_authorization].into_iter().flatten() {
            self.transport.permits(endpoint)?;
        }
        *self.known_endpoints() = Some(found.clone());
        Ok(found)
    }

    fn forget_endpoints(&self) {
        *self.known_endpoints() = None;
    }

    fn known_endpoints(&self) -> std::sync::MutexGuard<'_, Option<Endpoints>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer for OauthIssuer {
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken> {
        let request = request.clone();
        Box::pin(async move {
            // Goes with this future: what nobody waits for any more is not begun.
            let waiting = Arc::new(());
            let waits = Arc::downgrade(&waiting);
            let issued = self.blocking(move |inner| inner.issue(&request, &waits)).await;
            drop(waiting);
            issued
        })
    }

    fn revoke<'a>(
        &'a self,
        request: &'a TokenRequest,
        current: Option<&'a AccessToken>,
        _why: &'a str,
    ) -> TokenFuture<'a, ()> {
        let (request, token) = (request.clone(), current.map(|token| token.bearer().to_owned()));
        Box::pin(self.blocking(move |inner| {
            let device = request.device.clone();
            inner.kept.in_turn(&device, || inner.revoke(&request, token))
        }))
    }
}

/// The device of a request, as authorization details.
fn details(request: &TokenRequest, certificate: Option<&Thumbprint>) -> Result<String, IssuerError> {
    let details = [DeviceDetail {
        kind: DETAIL_TYPE.to_owned(),
        tenant: request.tenant.clone(),
        gateway: request.gateway.clone(),
        device: request.device.to_string(),
        life_s: Some(request.life.max(Duration::from_secs(1)).as_secs()),
        stage: Some(request.stage),
        limits: request.limits.clone(),
        cnf: certificate.cloned().map(Thumbprint::into),
    }];
    serde_json::to_string(&details).map_err(|error| IssuerError::Local(error.to_string()))
}
