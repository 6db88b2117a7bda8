//! Who is admitted to the broker, and what for: every connection stands on a token that was verified.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqtt5::broker::auth::{AuthProvider, AuthResult, EnhancedAuthResult};
use mqtt5::broker::{BrokerEventHandler, ClientConnectEvent};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tracing::warn;

use super::OffList;
use super::pace::Pace;
use crate::token::scope::{Action, permits_client_id};
use crate::token::verify::Verifier;
use crate::token::{AUTH_METHOD, Claims};

/// Refusals are logged at most this often; what a peer can trigger must not fill the log.
const LOG_EVERY_S: u64 = 5;

/// Expiries are looked for at least this often: timers stand still while the machine sleeps, and clocks are set.
const LOOK: Duration = Duration::from_secs(30);

/// Uses from a wrong address that wait for who is told of them; the oldest are lost.
const UNTOLD: usize = 16;

type Decision<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The tokens that connections stand on, by MQTT client id.
pub(super) struct Admission {
    verifier: Verifier,
    admitted: Mutex<HashMap<String, Admitted>>,
    /// Clients that are remembered at a time.
    capacity: usize,
    /// A token came that may expire before all others.
    changed: Notify,
    off_list: broadcast::Sender<OffList>,
    refusals: AtomicU64,
    logged_at: AtomicU64,
}

/// A client and its rights.
struct Admitted {
    claims: Arc<Claims>,
    /// The key that signed them.
    key: String,
    /// What the client wanted published should it vanish. The broker itself would refuse it once the token is gone,
    /// and the cloud would see a device that was cut off as online for ever.
    will: Option<PublishPacket>,
    pace: Pace,
}

/// Who shows a token, as far as mqtt5 lets it be seen: no certificate ever, an address only with a password.
struct Peer<'a> {
    client_id: &'a str,
    /// `None` in enhanced authentication.
    address: Option<IpAddr>,
    /// Who the connection belongs to already.
    principal: Option<&'a str>,
}

/// A client whose token is no longer good.
pub(super) struct CutOff {
    pub(super) client_id: String,
    pub(super) subject: String,
    pub(super) why: String,
    pub(super) will: Option<PublishPacket>,
}

impl Admission {
    pub(super) fn new(verifier: Verifier, max_clients: usize) -> Self {
        Self {
            verifier,
            admitted: Mutex::default(),
            // Room for clients that have just been replaced and whose tokens still live.
            capacity: max_clients.saturating_mul(2),
            changed: Notify::new(),
            off_list: broadcast::channel(UNTOLD).0,
            refusals: AtomicU64::new(0),
            logged_at: AtomicU64::new(0),
        }
    }

    /// Admits the client if its token is good for this client id; the name of its principal, or what to answer it.
    fn admit(&self, token: &[u8], peer: &Peer<'_>) -> Result<String, ReasonCode> {
        let client_id = peer.client_id;
        let (claims, key) = match self.verifier.verify_signed(token) {
            Ok(signed) => signed,
            Err(refusal) => return Err(self.refuse(client_id, &refusal.to_string())),
        };
        let limits = claims.limits();
        // Before all else: whoever it is and calls itself, it has a token that is good elsewhere.
        if let Some(address) = peer.address.filter(|address| !limits.permits_address(*address)) {
            let (device, client_id) = (claims.sub, client_id.to_owned());
            let why = format!("the token of {device} is not for address {address}");
            let refusal = self.refuse(&client_id, &why);
            // Nobody listening is no failure.
            let _ = self.off_list.send(OffList { device, client_id, address, limits });
            return Err(refusal);
        }
        if !permits_client_id(&claims, client_id) {
            return Err(self.refuse(client_id, "the token belongs to another client id"));
        }
        if claims.cnf.is_some() {
            return Err(self.refuse(client_id, "the token is bound to a certificate, and none can be seen here"));
        }
        if peer.address.is_none() && !limits.addresses.is_empty() {
            self.refuse(client_id, "the token is for certain addresses, which only a CONNECT with a password shows");
            // A client that has another way takes it.
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        let name = format!("{}/{}", claims.client_id, claims.sub);
        if peer.principal.is_some_and(|before| before != name) {
            return Err(self.refuse(client_id, "a connection cannot change its owner"));
        }
        if peer.principal.is_some() && !self.reads_on(client_id, &claims) {
            return Err(self.refuse(client_id, "it may read less than before: it has to connect anew"));
        }
        let mut admitted = self.admitted();
        if admitted.len() >= self.capacity && !admitted.contains_key(client_id) {
            drop(admitted);
            return Err(self.refuse(client_id, "too many clients"));
        }
        let known = admitted.get_mut(client_id);
        // Who comes back has not more.
        let (will, pace) = known.map(|known| (known.will.take(), known.pace)).unwrap_or_default();
        admitted.insert(client_id.to_owned(), Admitted { claims: Arc::new(claims), key, will, pace });
        drop(admitted);
        self.changed.notify_one();
        Ok(name)
    }

    /// Whether a live connection may read all that it could until now. Whether it may is asked once, when it subscribes,
    /// and again when a session is taken up: not while it lives.
    fn reads_on(&self, client_id: &str, claims: &Claims) -> bool {
        let admitted = self.admitted();
        admitted.get(client_id).is_none_or(|known| claims.claw_aif.read_all_of(&known.claims.claw_aif))
    }

    /// The peer learns only that it is not authorized; the reason is the operator's.
    fn refuse(&self, client_id: &str, why: &str) -> ReasonCode {
        let refusals = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.verifier.now();
        let before = self.logged_at.swap(now, Ordering::Relaxed);
        if now < before.saturating_add(LOG_EVERY_S) {
            self.logged_at.store(before, Ordering::Relaxed);
        } else {
            let client = client_id.escape_default().to_string();
            warn!(client, error = why, refusals, "embedded broker refused a client");
        }
        ReasonCode::NotAuthorized
    }

    /// Whether the client's token is good now and allows this.
    fn allows(&self, client_id: &str, topic: &str, action: Action) -> bool {
        let claims = self.admitted().get(client_id).map(|admitted| Arc::clone(&admitted.claims));
        claims.is_some_and(|claims| claims.claw_aif.allows(topic, action) && self.verifier.still_good(&claims).is_ok())
    }

    /// Counts a publish; how long it has to wait for its turn.
    fn pace(&self, client_id: &str) -> Duration {
        let mut admitted = self.admitted();
        let paced = admitted.get_mut(client_id).and_then(|it| it.claims.claw_rate.map(|rate| (&mut it.pace, rate)));
        paced.map_or(Duration::ZERO, |(pace, rate)| pace.take(rate, Instant::now()))
    }

    /// Takes out every client whose token is no longer good.
    pub(super) fn cut_off(&self) -> Vec<CutOff> {
        let mut cut = Vec::new();
        self.admitted().retain(|client_id, admitted| {
            let why = match self.verifier.still_good(&admitted.claims) {
                Ok(()) if self.verifier.takes_key(&admitted.key) => return true,
                Ok(()) => "the key that signed its token was withdrawn".to_owned(),
                Err(refusal) => refusal.to_string(),
            };
            cut.push(CutOff {
                client_id: client_id.clone(),
                subject: admitted.claims.sub.clone(),
                why,
                will: admitted.will.take(),
            });
            false
        });
        cut
    }

    /// Until something may have to be cut off: the next expiry, a revocation, or a token that changes the next expiry.
    pub(super) async fn wait(&self, revocations: &mut tokio::sync::watch::Receiver<u64>) {
        let next = self.admitted().values().map(|admitted| admitted.claims.exp).min();
        let left = next.map_or(LOOK, |exp| Duration::from_secs(exp.saturating_sub(self.verifier.now())));
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            () = self.changed.notified() => {}
            Ok(()) = revocations.changed() => {}
        }
    }

    /// Every use of a good token from an address that it does not allow, from now on.
    pub(super) fn off_list(&self) -> broadcast::Receiver<OffList> {
        self.off_list.subscribe()
    }

    pub(super) fn revocations(&self) -> tokio::sync::watch::Receiver<u64> {
        self.verifier.revocations()
    }

    fn admitted(&self) -> MutexGuard<'_, HashMap<String, Admitted>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enhanced(&self, method: &str, data: Option<&[u8]>, client_id: &str, user: Option<&str>) -> EnhancedAuthResult {
        if method != AUTH_METHOD {
            self.refuse(client_id, "unknown authentication method");
            return EnhancedAuthResult::fail(method, ReasonCode::BadAuthenticationMethod);
        }
        let peer = Peer { client_id, address: None, principal: user };
        match self.admit(data.unwrap_or_default(), &peer) {
            Ok(name) => EnhancedAuthResult::success_with_user(method, name),
            Err(code) => EnhancedAuthResult::fail(method, code),
        }
    }
}

impl AuthProvider for Admission {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        client_addr: SocketAddr,
    ) -> Decision<'a, mqtt5::Result<AuthResult>> {
        // MQTT 3.1.1 has no answer for a refused publish: it would be confirmed and dropped.
        let decision = if connect.protocol_version == 5 {
            let peer = Peer { client_id: &connect.client_id, address: Some(client_addr.ip()), principal: None };
            self.admit(connect.password.as_deref().unwrap_or_default(), &peer)
        } else {
            Err(ReasonCode::UnsupportedProtocolVersion)
        };
        Box::pin(std::future::ready(Ok(match decision {
            Ok(name) => AuthResult::success_with_user(name),
            Err(code) => AuthResult::fail(code),
        })))
    }

    fn authorize_publish<'a>(&'a self, client_id: &str, _user: Option<&'a str>, topic: &'a str) -> Decision<'a, bool> {
        if !self.allows(client_id, topic, Action::Publish) {
            return Box::pin(std::future::ready(false));
        }
        let wait = self.pace(client_id);
        if wait.is_zero() {
            return Box::pin(std::future::ready(true));
        }
        let client_id = client_id.to_owned();
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            self.allows(&client_id, topic, Action::Publish)
        })
    }

    fn authorize_subscribe<'a>(
        &'a self,
        client_id: &str,
        _user: Option<&'a str>,
        filter: &'a str,
    ) -> Decision<'a, bool> {
        Box::pin(std::future::ready(self.allows(client_id, filter, Action::Subscribe)))
    }

    fn supports_enhanced_auth(&self) -> bool {
        true
    }

    fn authenticate_enhanced<'a>(
        &'a self,
        method: &'a str,
        data: Option<&'a [u8]>,
        client_id: &'a str,
    ) -> Decision<'a, mqtt5::Result<EnhancedAuthResult>> {
        Box::pin(std::future::ready(Ok(self.enhanced(method, data, client_id, None))))
    }

    fn reauthenticate<'a>(
        &'a self,
        method: &'a str,
        data: Option<&'a [u8]>,
        client_id: &'a str,
        user: Option<&'a str>,
    ) -> Decision<'a, mqtt5::Result<EnhancedAuthResult>> {
        Box::pin(std::future::ready(Ok(self.enhanced(method, data, client_id, user))))
    }
}

impl BrokerEventHandler for Admission {
    fn on_client_connect(&self, event: ClientConnectEvent) -> Decision<'_, ()> {
        let will = event.will_topic.zip(event.will_payload).map(|(topic, payload)| {
            let qos = event.will_qos.unwrap_or(mqtt5::QoS::AtMostOnce);
            let mut will = PublishPacket::new(topic.to_string(), payload, qos);
            will.retain = event.will_retain.unwrap_or(false);
            will
        });
        if let Some(admitted) = self.admitted().get_mut(&*event.client_id) {
            // Only what the client could have published itself.
            admitted.will = will.filter(|will| admitted.claims.claw_aif.allows(&will.topic_name, Action::Publish));
        }
        Box::pin(std::future::ready(()))
    }
}
