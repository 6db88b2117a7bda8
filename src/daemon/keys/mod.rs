//! The gateway's own keys: which there are, how old they are, and a new one in place of an old one, by command or on
//! schedule. What a rotation of each means stands in docs/keys.md.

mod client;
mod expiry;
mod kept;
mod schedule;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::issuer::LateOauth;
use crate::audit::{Action, Actor, Event};
use crate::blocking::blocking;
use crate::clock::is_synchronised;
use crate::config::KeysConfig;
use crate::control::api::{Key, KeyRotated, RotateKeyRequest};
use crate::control::failure::Failure;
use crate::token::local::{KeyRing, LocalIssuer, RingState};
use expiry::Ending;
pub(crate) use expiry::ending_certificates;
use schedule::{Due, left_s};

/// How soon a key that is due is noticed.
const LOOK: Duration = Duration::from_secs(1);
/// How often what ends is looked at.
const EXPIRY_LOOK: Duration = Duration::from_secs(3600);
/// Within this time after a change of the issuer's key every device has a token under it.
const SPREAD: Duration = Duration::from_secs(20);

/// What there are keys of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Signs access tokens, where the issuer is in this process.
    Issuer,
    /// Signs the audit log.
    Audit,
    /// The gateway's static key, a part of each pairing's.
    Gateway,
    /// Seals every other key.
    Master,
    /// Between a device and the gateway.
    Device,
    /// Proves the gateway at an OAuth server, where the issuer is one.
    Client,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub(crate) const ALL: [Self; 6] =
        [Self::Issuer, Self::Audit, Self::Gateway, Self::Master, Self::Device, Self::Client];

    /// Its name in commands, in the audit log and in the configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Audit => "audit",
            Self::Gateway => "gateway",
            Self::Master => "master",
            Self::Device => "device",
            Self::Client => "client",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) fn of(name: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.into_iter().map(Self::as_str).collect();
            Failure::not_found(format!("There is no kind of key {name:?}."), format!("There are: {}.", all.join(", ")))
        })
    }

    /// How often it is changed without being asked.
    fn every(self, config: &KeysConfig) -> Option<Duration> {
        match self {
            Self::Issuer => config.issuer,
            Self::Audit => config.audit,
            Self::Gateway => config.gateway,
            Self::Master => config.master,
            // The protocol does it by itself; the server has to know the other.
            Self::Device | Self::Client => None,
        }
    }
}

/// What the keys need beside the store.
pub(super) struct Keys {
    /// The issuer, where it is in this process.
    pub(super) issuer: Option<LocalIssuer>,
    /// The client of the OAuth server, where the issuer is one.
    pub(super) client: Option<LateOauth>,
    /// What ends, as it was seen last.
    pub(super) endings: Mutex<Vec<Ending>>,
    /// Why the issuer's keys are not where brokers read them, or not kept.
    pub(super) behind: Mutex<Option<String>>,
    /// Why the same holds for its deny list.
    pub(super) deny_behind: watch::Receiver<Option<String>>,
}

impl Gateway {
    /// Every key, by kind.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub(crate) async fn keys(&self) -> Result<Vec<Key>, Failure> {
        let mut keys = Vec::new();
        keys.extend(self.issuer_keys());
        keys.extend(self.audit_keys().await?);
        keys.extend(self.gateway_keys().await?);
        keys.extend(self.master_keys().await?);
        keys.extend(self.device_keys().await?);
        keys.extend(self.client_keys().await?);
        Ok(keys)
    }

    /// A new key of that kind. It stands in the audit log, also where it came to nothing.
    ///
    /// # Errors
    /// Why there is none; the old key is in use then.
    pub(crate) async fn rotate_key(
        &self,
        kind: Kind,
        request: &RotateKeyRequest,
        actor: Actor,
    ) -> Result<KeyRotated, Failure> {
        let done = match kind {
            _ if request.now && kind != Kind::Issuer => Err(Failure::usage(
                "--now is for the issuer's key: the others have no time in which both are good.",
                "",
            )),
            Kind::Issuer => self.rotate_issuer(request.now).await,
            Kind::Audit => self.rotate_audit(actor.clone()).await,
            Kind::Gateway => self.rotate_gateway().await,
            Kind::Master => self.rotate_master().await,
            Kind::Device => self.rotate_device(request.device.as_deref()).await,
            Kind::Client => self.go_over_to_client_key().await,
        };
        let subject = request.device.as_deref().filter(|_| kind == Kind::Device);
        let subject = subject.map_or_else(|| kind.as_str().to_owned(), |device| format!("device {device}"));
        let event = Event::done(actor, Action::KeyRotate, subject);
        let event = match &done {
            Ok(rotated) => event.with(json!({ "id": rotated.id, "at_once": request.now })),
            Err(failure) => event.ended(failure.outcome()).because(&failure.message),
        };
        self.record(event).await;
        done
    }

    /// A key as it is shown.
    fn key(&self, kind: Kind, id: &str, state: &str, made_ms: Option<i64>, protection: String, note: String) -> Key {
        // The issuer has a time of its own, which is never turned back.
        let now_ms = match self.ring().filter(|_| kind == Kind::Issuer) {
            Some((issuer, _)) => i64::try_from(u128::from(issuer.now()) * 1000).unwrap_or(i64::MAX),
            None => self.clock().wall_ms(),
        };
        let age_s = made_ms.map(|made| u64::try_from(now_ms.saturating_sub(made) / 1000).unwrap_or(0));
        let every = kind.every(&self.config().keys).filter(|_| state == "in_use");
        Key {
            kind: kind.as_str().to_owned(),
            id: id.to_owned(),
            state: state.to_owned(),
            made_at: made_ms.map(super::view::rfc3339),
            age_s,
            rotates_in_s: every.zip(made_ms).map(|(every, made)| left_s(every, made, now_ms, is_synchronised)),
            protection,
            note,
        }
    }

    /// What is wrong with keys, and what ends within days, for `clawgate status`: where it is named, and words.
    pub(super) fn key_problems(&self) -> Vec<(String, String)> {
        let now = self.clock().wall().as_secs();
        let behind = self.0.keys.behind.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let endings = self.0.keys.endings.lock().unwrap_or_else(PoisonError::into_inner);
        let ending = endings.iter().filter_map(|ending| Some((ending.subject.clone(), ending.problem(now)?)));
        let behind = behind.map(|words| ("issuer".to_owned(), words));
        let deny_behind = self.deny_list_behind().map(|words| ("deny_list".to_owned(), words));
        behind.into_iter().chain(deny_behind).chain(ending).collect()
    }

    /// Why what was revoked is not on the disk, or not where the broker reads it.
    pub(super) fn deny_list_behind(&self) -> Option<String> {
        self.0.keys.deny_behind.borrow().clone()
    }

    fn ring(&self) -> Option<(&LocalIssuer, &KeyRing)> {
        self.0.keys.issuer.as_ref().map(|issuer| (issuer, issuer.ring()))
    }

    /// The key that signs tokens, the one that will, and those that still have tokens.
    fn issuer_keys(&self) -> Vec<Key> {
        let Some((issuer, ring)) = self.ring() else { return Vec::new() };
        let (now, state) = (issuer.now(), ring.state(issuer.now()));
        let key = |id: &str, word: &str, made: Option<u64>, note: String| {
            let made_ms = made.map(|made| i64::try_from(made.saturating_mul(1000)).unwrap_or(i64::MAX));
            self.key(Kind::Issuer, id, word, made_ms, SEALED.to_owned(), note)
        };
        let signing = key(&state.signing, "in_use", Some(state.made), "signs access tokens".to_owned());
        let next = state.next.as_ref().map(|(id, starts)| {
            let note = format!("published; signs in {} s", starts.saturating_sub(now));
            key(id, "published", None, note)
        });
        let retired = state.retired.iter().map(|(id, until)| {
            let note = format!("published until its last token has expired, {} s", until.saturating_sub(now));
            key(id, "retired", None, note)
        });
        [signing].into_iter().chain(next).chain(retired).collect()
    }

    async fn rotate_issuer(&self, at_once: bool) -> Result<KeyRotated, Failure> {
        let Some((issuer, ring)) = self.ring() else {
            let text = "Tokens come from an OAuth server: its keys are changed there.";
            return Err(Failure::usage(
                text,
                "This gateway's own key there is issuer.client_key: clawgate key rotate client.",
            ));
        };
        let (ring, now, lead) = (ring.clone(), issuer.now(), self.config().keys.issuer_lead);
        let issuer = issuer.clone();
        let made = blocking(move || if at_once { issuer.replace_keys() } else { ring.rotate(now, lead) });
        let state = made.await?;
        if at_once {
            self.refresh_tokens(Duration::ZERO);
            return Ok(KeyRotated {
                kind: Kind::Issuer.as_str().to_owned(),
                id: state.signing,
                done:
                    "A new key signs from now on; tokens under any older one are worthless, and devices get new ones."
                        .to_owned(),
                next_step:
                    "A broker that follows neither /jwks nor issuer.publish_dir must get the new key set now; until \
                            then it refuses."
                        .to_owned(),
            });
        }
        let (id, done) = match state.next {
            Some((id, starts)) => {
                let left = starts.saturating_sub(now);
                (
                    id,
                    format!(
                        "A new key is published and signs in {left} s; the old one is published until its last token has expired."
                    ),
                )
            }
            None => (
                state.signing,
                "A new key signs from now on; the old one is published until its last token has expired.".to_owned(),
            ),
        };
        let next_step =
            "A broker that follows neither /jwks nor issuer.publish_dir needs the new key set by then.".to_owned();
        Ok(KeyRotated { kind: Kind::Issuer.as_str().to_owned(), id, done, next_step })
    }

    /// Gets every device with a token a new one, spread over some time.
    fn refresh_tokens(&self, over: Duration) {
        let with_token = |token: &crate::token::keeper::TokenStatus| token.state == "valid";
        let devices: Vec<_> = self.keeper().list().into_iter().filter(with_token).map(|token| token.device).collect();
        let apart = over / u32::try_from(devices.len().max(1)).unwrap_or(u32::MAX);
        let gateway = self.clone();
        tokio::spawn(async move {
            for device in devices {
                let keeper = gateway.keeper().clone();
                tokio::spawn(async move {
                    if let Err(error) = keeper.rotate(&device).await {
                        tracing::warn!(device = %device, %error, "no token under the new key yet; it is asked for again");
                    }
                });
                if gateway.unless_stopping(tokio::time::sleep(apart)).await.is_none() {
                    return;
                }
            }
        });
    }
}

/// How a key is kept that stands in the registry's database.
const SEALED: &str = "sealed under the master key";

/// Changes what is due, and finishes what was begun, until `stop`.
pub(super) async fn tend(gateway: Gateway, stop: CancellationToken) {
    let mut signing = gateway.ring().map(|(issuer, ring)| ring.state(issuer.now()).signing);
    if gateway.store().key_changed_at_start() {
        let details = json!({ "by": "the new one that was found beside it" });
        gateway.record(Event::done(Actor::Daemon, Action::KeyRotate, Kind::Master.as_str()).with(details)).await;
    }
    let mut due = Due::default();
    let mut client_key = None;
    let mut expiry_due = gateway.clock().boot();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if gateway.clock().boot() >= expiry_due {
            expiry_due = gateway.clock().boot().saturating_add(EXPIRY_LOOK);
            let endings = expiry::look(&gateway).await;
            *gateway.0.keys.endings.lock().unwrap_or_else(PoisonError::into_inner) = endings;
        }
        gateway.note_client_key(&mut client_key).await;
        if let Some(state) = tend_issuer(&gateway).await
            && signing.as_ref() != Some(&state.signing)
        {
            let details = json!({ "id": state.signing, "before": signing });
            gateway.record(Event::done(Actor::Daemon, Action::KeyInUse, Kind::Issuer.as_str()).with(details)).await;
            signing = Some(state.signing);
            gateway.refresh_tokens(SPREAD);
        }
        for kind in due.look(&gateway).await {
            let rotated = gateway.rotate_key(kind, &RotateKeyRequest::default(), Actor::Daemon).await;
            match rotated {
                Ok(rotated) => tracing::info!(kind = kind.as_str(), id = rotated.id, "a key was changed on schedule"),
                Err(error) => {
                    tracing::error!(kind = kind.as_str(), %error, "a key that is due was not changed; tried again in an hour");
                }
            }
        }
    }
}

/// Brings what is kept of the issuer's keys up to date.
async fn tend_issuer(gateway: &Gateway) -> Option<RingState> {
    let (issuer, ring) = gateway.ring()?;
    let (ring, now) = (ring.clone(), issuer.now());
    let state = ring.state(now);
    let behind = blocking(move || ring.tend(now)).await.err().map(|error| format!("{error}."));
    let mut known = gateway.0.keys.behind.lock().unwrap_or_else(PoisonError::into_inner);
    if behind != *known {
        if let Some(problem) = &behind {
            tracing::error!(problem, "the issuer's keys work on; what is kept or published of them is older");
        } else {
            tracing::info!("the issuer's keys are kept and published again");
        }
        *known = behind;
    }
    Some(state)
}
