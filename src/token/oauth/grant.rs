//! The ways to ask an OAuth server for a device's token.
//!
//! `client_credentials` trusts the gateway alone; `token_exchange` (RFC 8693) has it vouch for the device, and the token
//! names it as actor; `device_code` (RFC 8628) asks a person once, and then lives on a refresh token of that device's
//! own, which the server replaces at every use.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::approval::Asked;
use super::{Inner, answer, check, details};
use crate::ids::DeviceId;
use crate::secret::Secret;
use crate::token::scope;
use crate::token::{AccessToken, IssuerError, TokenRequest};

const CLIENT_CREDENTIALS: &str = "client_credentials";
const REFRESH: &str = "refresh_token";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// How a device's token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// The gateway's own rights (RFC 6749, section 4.4), the device in `authorization_details`.
    #[default]
    ClientCredentials,
    /// The gateway vouches for the device (RFC 8693).
    TokenExchange,
    /// A person approves the device once (RFC 8628).
    DeviceCode,
}

/// A refresh token as it came.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    /// The token.
    pub token: Secret<String>,
    /// How long it is good from now on, where the server says that.
    pub life: Option<Duration>,
}

/// Where the refresh tokens of devices are kept over a restart.
pub trait Families: Send + Sync {
    /// That of a device.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn load(&self, device: &DeviceId) -> Result<Option<Secret<String>>, String>;

    /// Keeps the one that replaces it. It is on disk when this returns.
    ///
    /// # Errors
    /// Why it cannot be kept.
    fn keep(&self, device: &DeviceId, token: &RefreshToken) -> Result<(), String>;

    /// Forgets it.
    ///
    /// # Errors
    /// Why it cannot be forgotten.
    fn forget(&self, device: &DeviceId) -> Result<(), String>;
}

/// For a grant that has no refresh tokens.
pub(super) struct NoFamilies;

impl Families for NoFamilies {
    fn load(&self, _device: &DeviceId) -> Result<Option<Secret<String>>, String> {
        Ok(None)
    }

    fn keep(&self, _device: &DeviceId, _token: &RefreshToken) -> Result<(), String> {
        Ok(())
    }

    fn forget(&self, _device: &DeviceId) -> Result<(), String> {
        Ok(())
    }
}

/// The refresh tokens as this process knows them.
///
/// The server replaces one at each use, and takes a second use of the old one for theft. So the new one is kept here at
/// once, also when the disk does not take it; a later refresh tries the disk again.
pub(super) struct Kept {
    families: Arc<dyn Families>,
    unsaved: Mutex<Vec<(DeviceId, RefreshToken)>>,
    /// Of devices that are revoked, until the server knows. Not on disk: there it could be used again.
    ended: Mutex<HashMap<DeviceId, Secret<String>>>,
    /// One for each device that is being asked for.
    turns: Mutex<HashMap<DeviceId, Arc<Mutex<()>>>>,
}

impl Kept {
    pub(super) fn new(families: Arc<dyn Families>) -> Self {
        Self { families, unsaved: Mutex::default(), ended: Mutex::default(), turns: Mutex::default() }
    }

    /// Does what uses or ends a device's refresh token while nobody else does. A request goes on when nobody waits for it
    /// any more: the next one would use the same token again, which is theft to the server, and a revocation would end
    /// the token before, while the one that takes its place is on its way and stays.
    pub(super) fn in_turn<T>(&self, device: &DeviceId, work: impl FnOnce() -> T) -> T {
        let turn = Arc::clone(self.turns().entry(device.clone()).or_default());
        let done = {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        };
        drop(turn);
        self.turns().retain(|_, turn| Arc::strong_count(turn) > 1);
        done
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<DeviceId, Arc<Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, device: &DeviceId) -> Result<Option<Secret<String>>, IssuerError> {
        let unsaved = self.unsaved().iter().find(|(whose, _)| whose == device).map(|(_, kept)| kept.token.clone());
        match unsaved {
            Some(token) => Ok(Some(token)),
            None => self.families.load(device).map_err(IssuerError::Local),
        }
    }

    fn keep(&self, device: &DeviceId, token: RefreshToken) {
        self.unsaved().retain(|(whose, _)| whose != device);
        if let Err(error) = self.families.keep(device, &token) {
            tracing::error!(%device, error, "its refresh token is not on disk: after a crash it needs approval again");
            self.unsaved().push((device.clone(), token));
        }
    }

    fn forget(&self, device: &DeviceId) -> Result<(), IssuerError> {
        self.unsaved().retain(|(whose, _)| whose != device);
        self.families.forget(device).map_err(IssuerError::Local)
    }

    /// Ends the refresh token of a device here. What the server is still to be told of, and whether the disk forgot it.
    pub(super) fn end(&self, device: &DeviceId) -> (Option<Secret<String>>, Result<(), IssuerError>) {
        let forgotten = self.load(device).and_then(|live| {
            if let Some(live) = live {
                self.ended().insert(device.clone(), live);
            }
            self.forget(device)
        });
        (self.ended().get(device).cloned(), forgotten)
    }

    /// The server has been told of it.
    pub(super) fn forget_ended(&self, device: &DeviceId) {
        self.ended().remove(device);
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<DeviceId, Secret<String>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsaved(&self) -> MutexGuard<'_, Vec<(DeviceId, RefreshToken)>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Inner {
    /// A device's token by the way that is configured, for as long as somebody waits for it.
    pub(super) fn issue(&self, request: &TokenRequest, waits: &Weak<()>) -> Result<AccessToken, IssuerError> {
        let token = match self.grant {
            // For itself it needs nobody's word: it is the client.
            _ if request.device.is_gateway() => self.ask(CLIENT_CREDENTIALS, self.for_device(request)?)?.token,
            Grant::ClientCredentials => self.ask(CLIENT_CREDENTIALS, self.for_device(request)?)?.token,
            Grant::TokenExchange => self.exchange(request)?,
            Grant::DeviceCode => self.kept.in_turn(&request.device, || {
                if waits.strong_count() == 0 {
                    return Err(IssuerError::Local("nobody waits for this token any more".to_owned()));
                }
                self.by_approval(request)
            })?,
        };
        check::device(token, &self.url, &self.client_id, request, self.certificate.as_ref())
    }

    fn exchange(&self, request: &TokenRequest) -> Result<AccessToken, IssuerError> {
        let mut form = self.for_device(request)?;
        form.push(("subject_token", self.assertion(request.device.as_str())?));
        form.push(("subject_token_type", JWT.to_owned()));
        form.push(("requested_token_type", ACCESS_TOKEN.to_owned()));
        let token = self.ask(EXCHANGE, form)?.token;
        check::actor(&token, &self.client_id)?;
        Ok(token)
    }

    fn by_approval(&self, request: &TokenRequest) -> Result<AccessToken, IssuerError> {
        if let Some(refresh) = self.kept.load(&request.device)? {
            return self.refresh(request, &refresh);
        }
        let granted = match self.approvals.of(&request.device) {
            None => return Err(self.begin_approval(request)?.into_wait(&self.clock)),
            Some(asked) => self.poll(request, &asked)?,
        };
        self.approvals.forget(&request.device);
        Ok(self.take(&request.device, granted))
    }

    fn begin_approval(&self, request: &TokenRequest) -> Result<Asked, IssuerError> {
        let endpoint = self.endpoints()?.device_authorization.ok_or_else(|| IssuerError::Answer {
            endpoint: self.url.clone(),
            reason: "its metadata names no device authorization endpoint; correct issuer.grant".to_owned(),
        })?;
        let mut form = self.for_device(request)?;
        self.authenticate(&mut form)?;
        let reply = self.transport.post(&endpoint, &form)?;
        let asked = answer::device_authorization(&endpoint, &reply, &self.clock)?;
        self.approvals.keep(&request.device, asked.clone());
        Ok(asked)
    }

    fn poll(&self, request: &TokenRequest, asked: &Asked) -> Result<answer::Granted, IssuerError> {
        let form = vec![("device_code", asked.device_code.expose().clone())];
        let polled = self.ask("urn:ietf:params:oauth:grant-type:device_code", form);
        let Err(IssuerError::Refused { endpoint, status, code, words }) = polled else { return polled };
        match code.as_str() {
            "authorization_pending" => Err(asked.clone().into_wait(&self.clock)),
            "slow_down" => Err(self.approvals.slower(&request.device, asked).into_wait(&self.clock)),
            // A person said no, nobody came, or the server forgot what it was asked.
            "access_denied" | "expired_token" | "invalid_grant" => {
                self.approvals.forget(&request.device);
                Err(IssuerError::NotApproved { endpoint, reason: format!("{code}: {words}") })
            }
            // Nothing that a person said: the approval goes on.
            _ => Err(IssuerError::Refused { endpoint, status, code, words }),
        }
    }

    fn refresh(&self, request: &TokenRequest, refresh: &Secret<String>) -> Result<AccessToken, IssuerError> {
        let mut form = self.for_device(request)?;
        form.push(("refresh_token", refresh.expose().clone()));
        match self.ask(REFRESH, form) {
            Ok(granted) => Ok(self.take(&request.device, granted)),
            // Withdrawn, expired, or used by another: whoever has it, this device needs a person again.
            Err(IssuerError::Refused { endpoint, code, words, .. }) if code == "invalid_grant" => {
                self.kept.forget(&request.device)?;
                Err(IssuerError::ApprovalEnded { endpoint, words })
            }
            Err(problem) => Err(problem),
        }
    }

    /// The refresh token is kept before the access token is used.
    fn take(&self, device: &DeviceId, granted: answer::Granted) -> AccessToken {
        if let Some(refresh) = granted.refresh {
            self.kept.keep(device, refresh);
        }
        granted.token
    }

    /// What every way of asking for a device's token has in common.
    fn for_device(&self, request: &TokenRequest) -> Result<Vec<(&'static str, String)>, IssuerError> {
        Ok(vec![
            ("scope", scope::to_claim(&request.scope)),
            ("resource", request.audience.clone()),
            ("authorization_details", details(request, self.certificate.as_ref())?),
        ])
    }
}
