//! Every decision of the plugin, without a broker: tokens in, verdicts out.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::deny::DenyList;
use crate::notice::{Notice, Notices};
use crate::options::Options;
use crate::peer::Peer;
use crate::rate::Rates;
use crate::token::{Claims, Keys, Signer};
use crate::topics::{covers, shared_filter};
use crate::watched::{Found, Watched};

/// How long the rights of a closed connection are kept, for its will and its session.
const WILL_LIFE: Duration = Duration::from_secs(300);

/// A connection, by the address of the broker's record of it.
pub(crate) type ConnectionId = usize;

/// What a client wants on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Publish to it.
    Publish,
    /// Subscribe to it.
    Subscribe,
    /// Get a message of it, now or, for a session whose client is away, later.
    Read,
}

struct Connection {
    claims: Claims,
    /// Whose word it is; it may be withdrawn.
    signer: Signer,
    mqtt_id: String,
    closed: Option<SystemTime>,
}

/// A live client whose token is no longer good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) mqtt_id: String,
    /// For the log.
    pub(crate) refusal: Refusal,
}

/// Why a token is no longer good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Expired(String),
    Revoked(String),
    /// The issuer's key that signed it is no longer one of the issuer's.
    Withdrawn(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired(subject) => write!(f, "the token of {subject} expired"),
            Self::Revoked(subject) => write!(f, "the token of {subject} was revoked"),
            Self::Withdrawn(subject) => write!(f, "the key that signed the token of {subject} was withdrawn"),
        }
    }
}

/// All connections and what they may do.
pub(crate) struct Decisions {
    options: Options,
    keys: Keys,
    key_file: Watched,
    deny: DenyList,
    deny_file: Option<Watched>,
    connections: HashMap<ConnectionId, Connection>,
    rates: Rates,
    notices: Notices,
    /// The client that is being cut off right now.
    cutting: Option<Overdue>,
    /// When the first token of a live connection ends, as far as is known: it does not end before.
    first_end: u64,
}

impl Decisions {
    /// Reads the keys and the deny list.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let mut key_file = Watched::new(options.key_file.clone());
        let keys = read_keys(&mut key_file, &options)?.ok_or_else(|| key_file.problem(&"there is no such file"))?;
        let mut decisions = Self {
            deny_file: options.denylist_file.clone().map(Watched::new),
            options,
            keys,
            key_file,
            deny: DenyList::default(),
            connections: HashMap::new(),
            rates: Rates::default(),
            notices: Notices::default(),
            cutting: None,
            first_end: u64::MAX,
        };
        decisions.read_deny_list()?;
        Ok(decisions)
    }

    /// Reads the keys again if their file changed; whether it did. The old ones stay while the file is gone or cannot be
    /// used: somebody may be writing it.
    ///
    /// # Errors
    /// Why it cannot be used, once for each version of it.
    pub(crate) fn read_keys(&mut self) -> Result<bool, String> {
        let read = read_keys(&mut self.key_file, &self.options)?;
        let changed = read.is_some();
        if let Some(keys) = read {
            self.keys = keys;
        }
        Ok(changed)
    }

    /// Reads the keys again, changed or not.
    ///
    /// # Errors
    /// Why they cannot be used; the old ones stay.
    pub(crate) fn reload_keys(&mut self) -> Result<(), String> {
        self.key_file.forget();
        if self.read_keys()? { Ok(()) } else { Err(self.key_file.problem(&"there is no such file")) }
    }

    /// Reads the deny list if it changed. An absent file is an empty list; a damaged one changes nothing.
    ///
    /// # Errors
    /// Why it could not be read, once for each version of it.
    pub(crate) fn read_deny_list(&mut self) -> Result<(), String> {
        let Some(file) = &mut self.deny_file else { return Ok(()) };
        if let Found::Text(text) = file.look()? {
            self.deny = DenyList::parse(&text).map_err(|line| file.problem(&format_args!("line {line} is damaged")))?;
        }
        Ok(())
    }

    /// Admits a connection whose token is good for this client; again for a fresh token on a live connection, of
    /// which the same is asked.
    ///
    /// # Errors
    /// For the broker's log; the peer only learns that it is not authorized. And what subscribers are told, if anything.
    pub(crate) fn admit(
        &mut self,
        id: ConnectionId,
        peer: &Peer<'_>,
        token: &[u8],
        again: bool,
    ) -> Result<(), (String, Option<Notice>)> {
        let mut notice = None;
        match self.check(id, peer, token, again, &mut notice) {
            Ok((claims, signer)) => {
                self.first_end = self.first_end.min(claims.exp);
                let connection = Connection { claims, signer, mqtt_id: peer.mqtt_id.to_owned(), closed: None };
                self.connections.insert(id, connection);
                Ok(())
            }
            Err(refusal) => {
                self.connections.remove(&id);
                Err((refusal, notice))
            }
        }
    }

    fn check(
        &mut self,
        id: ConnectionId,
        peer: &Peer<'_>,
        token: &[u8],
        again: bool,
        notice: &mut Option<Notice>,
    ) -> Result<(Claims, Signer), String> {
        let (claims, signer) = self.keys.verify(token)?;
        self.still_good(&claims).map_err(|refusal| refusal.to_string())?;
        if let Some(early) = claims.early(self.time()) {
            return Err(format!("the token of {} is not good before {early} s from now", claims.sub));
        }
        // Whoever it is and calls itself, it has a token that is good elsewhere.
        if let Some(address) = claims.off_list(peer) {
            *notice = self.notices.off_list(&claims, peer.mqtt_id, address, Instant::now());
        }
        claims.permits(peer)?;
        let owner = self.connections.get(&id).map(|connection| connection.claims.owner());
        if again && owner != Some(claims.owner()) {
            return Err("a connection cannot change its owner".to_owned());
        }
        Ok((claims, signer))
    }

    /// Whether this connection was admitted and is not closed.
    pub(crate) fn is_live(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.closed.is_none())
    }

    /// Whether a live connection's publish is within the rate of its token; counts it.
    pub(crate) fn within_rate(&mut self, id: ConnectionId) -> bool {
        let live = self.connections.get(&id).filter(|connection| connection.closed.is_none());
        let Some((connection, rate)) = live.and_then(|connection| Some((connection, connection.claims.claw_rate?)))
        else {
            return true;
        };
        self.rates.take(&connection.claims.owner(), rate.get(), Instant::now())
    }

    /// Whether the connection may do that now.
    pub(crate) fn allows(&self, id: ConnectionId, topic: &str, access: Access) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            // A session that the broker kept over its own restart: its subscriptions were permitted when they were
            // made, and what is queued for it reaches only who connects again with a good token.
            return access == Access::Read;
        };
        let (asked, word) = match access {
            Access::Publish => (Some(topic), "pub"),
            Access::Subscribe => (shared_filter(topic), "sub"),
            Access::Read => (Some(topic), "sub"),
        };
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return false };
        let granted = |(filter, actions): &(String, Vec<String>)| {
            actions.iter().any(|action| action == word) && covers(filter, asked)
        };
        connection.claims.claw_aif.iter().any(granted)
            && (self.outlives_token(connection, access) || self.still_good(&connection.claims).is_ok())
    }

    /// What was permitted while the token was good and happens when the client is gone: its will is published, and
    /// messages are queued for its session. When it is cut off, mosquitto asks about each of its subscriptions whether
    /// to keep it: not after a revocation. Else it stands, and what is queued reaches only who comes with a good token.
    fn outlives_token(&self, connection: &Connection, access: Access) -> bool {
        let cut = self.cutting.as_ref().filter(|cut| cut.mqtt_id == connection.mqtt_id);
        match access {
            Access::Publish => connection.closed.is_some() || cut.is_some(),
            Access::Read => connection.closed.is_some(),
            Access::Subscribe => cut.is_some_and(|cut| !matches!(cut.refusal, Refusal::Revoked(_))),
        }
    }

    /// The connection is gone.
    pub(crate) fn closed(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closed = Some(SystemTime::now());
        }
    }

    /// Live connections whose token is no longer good; those closed long ago are forgotten.
    pub(crate) fn overdue(&mut self) -> Vec<Overdue> {
        self.no_longer_good().into_iter().map(|(_, cut)| cut).collect()
    }

    /// The same where a token has ended since the last look, but for the connection whose message makes us look: it
    /// was allowed to send that, and the broker is still busy with it.
    pub(crate) fn overdue_at_message_of(&mut self, publisher: ConnectionId) -> Vec<Overdue> {
        if self.first_end > self.time() {
            return Vec::new();
        }
        self.no_longer_good().into_iter().filter(|(id, _)| *id != publisher).map(|(_, cut)| cut).collect()
    }

    fn no_longer_good(&mut self) -> Vec<(ConnectionId, Overdue)> {
        let now = SystemTime::now();
        self.connections.retain(|_, connection| {
            connection.closed.is_none_or(|at| now.duration_since(at).is_ok_and(|since| since < WILL_LIFE))
        });
        let live = || self.connections.iter().filter(|(_, connection)| connection.closed.is_none());
        let mut overdue: Vec<_> = live()
            .filter_map(|(id, connection)| {
                // Only here, where it is cut off next: between a new key file and that, a subscriber is still a live
                // one, and what it is refused would be lost to its session.
                let is_withdrawn = !self.keys.has(&connection.signer);
                let refusal = is_withdrawn.then(|| Refusal::Withdrawn(connection.claims.sub.clone()));
                let refusal = refusal.or_else(|| self.still_good(&connection.claims).err())?;
                let cut = Overdue { mqtt_id: connection.mqtt_id.clone(), refusal };
                Some((connection.claims.publishes(), *id, cut))
            })
            .collect();
        let time = self.time();
        self.first_end = live().map(|(_, it)| it.claims.exp).filter(|exp| *exp > time).min().unwrap_or(u64::MAX);
        // Whoever only listens goes first: the last will of another is not refused to it any more, but waits for it.
        overdue.sort_by_key(|(publishes, ..)| *publishes);
        overdue.into_iter().map(|(_, id, cut)| (id, cut)).collect()
    }

    /// Which client is being cut off, while it is.
    pub(crate) fn cutting(&mut self, client: Option<Overdue>) {
        self.cutting = client;
    }

    /// Seconds since 1970, not before the issuer's own time.
    fn time(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        wall.max(self.deny.time)
    }

    fn still_good(&self, claims: &Claims) -> Result<(), Refusal> {
        if claims.exp <= self.time() {
            return Err(Refusal::Expired(claims.sub.clone()));
        }
        if self.deny.denies(&claims.jti, &claims.client_id, &claims.sub, claims.iat) {
            return Err(Refusal::Revoked(claims.sub.clone()));
        }
        Ok(())
    }
}

/// The keys in the file, where it is another one than was read last.
fn read_keys(file: &mut Watched, options: &Options) -> Result<Option<Keys>, String> {
    match file.look()? {
        Found::Text(text) => Keys::parse(&text, options).map(Some).map_err(|error| file.problem(&error)),
        Found::Same | Found::Nothing => Ok(None),
    }
}
