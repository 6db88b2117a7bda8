//! Every decision of the plugin, without a broker: tokens in, verdicts out.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::deny::DenyList;
use crate::topics::{covers, shared_filter};

/// A longer token is refused unread.
const MAX_TOKEN: usize = 8 * 1024;
/// Bound of the files that are read.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How long the rights of a closed connection are kept, for its will and its session.
const WILL_LIFE: Duration = Duration::from_secs(300);
/// Scope of a token that only reads.
const TELEMETRY_READ: &str = "telemetry:read";

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

/// The options of the plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) key_file: PathBuf,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) denylist_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
struct Claims {
    sub: String,
    client_id: String,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    claw_aif: Vec<(String, Vec<String>)>,
}

struct Connection {
    claims: Claims,
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
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired(subject) => write!(f, "the token of {subject} expired"),
            Self::Revoked(subject) => write!(f, "the token of {subject} was revoked"),
        }
    }
}

/// All connections and what they may do.
pub(crate) struct Decisions {
    options: Options,
    keys: Vec<(Option<String>, DecodingKey)>,
    deny: DenyList,
    /// Modification time and length of the deny list that is in `deny`.
    deny_seen: Option<(SystemTime, u64)>,
    connections: HashMap<ConnectionId, Connection>,
    /// The client that is being cut off right now.
    cutting: Option<Overdue>,
}

impl Options {
    /// From the pairs of the broker's configuration.
    ///
    /// # Errors
    /// Which option is missing or not known.
    pub(crate) fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut options = Self::default();
        for (key, value) in pairs {
            match key {
                "key_file" => options.key_file = value.into(),
                "issuer" => value.clone_into(&mut options.issuer),
                "audience" => value.clone_into(&mut options.audience),
                "denylist_file" => options.denylist_file = Some(value.into()),
                other => return Err(format!("plugin_opt_{other} is not known")),
            }
        }
        for (name, empty) in [
            ("key_file", options.key_file.as_os_str().is_empty()),
            ("issuer", options.issuer.is_empty()),
            ("audience", options.audience.is_empty()),
        ] {
            if empty {
                return Err(format!("plugin_opt_{name} is missing"));
            }
        }
        Ok(options)
    }
}

impl Decisions {
    /// Reads the keys and the deny list.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let keys = read_keys(&options.key_file)?;
        let mut decisions = Self {
            options,
            keys,
            deny: DenyList::default(),
            deny_seen: None,
            connections: HashMap::new(),
            cutting: None,
        };
        decisions.read_deny_list()?;
        Ok(decisions)
    }

    /// Reads the keys again; the old ones stay when the new ones are unusable.
    ///
    /// # Errors
    /// Why they are.
    pub(crate) fn reload_keys(&mut self) -> Result<(), String> {
        self.keys = read_keys(&self.options.key_file)?;
        Ok(())
    }

    /// Reads the deny list if it changed. An absent file is an empty list; a damaged one changes nothing.
    ///
    /// # Errors
    /// Why it could not be read.
    pub(crate) fn read_deny_list(&mut self) -> Result<(), String> {
        let Some(path) = &self.options.denylist_file else { return Ok(()) };
        let about = match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let seen = (about.modified().unwrap_or(UNIX_EPOCH), about.len());
        if self.deny_seen == Some(seen) {
            return Ok(());
        }
        if about.len() > MAX_FILE {
            return Err(format!("{} is too large", path.display()));
        }
        // Once a version: a damaged file is not complained about ten times a second.
        self.deny_seen = Some(seen);
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        self.deny = DenyList::parse(&text).map_err(|line| format!("{}, line {line} is damaged", path.display()))?;
        Ok(())
    }

    /// Admits a connection whose token is good for its client id; again for a fresh token on a live connection.
    ///
    /// # Errors
    /// For the broker's log; the peer only learns that it is not authorized.
    pub(crate) fn admit(&mut self, id: ConnectionId, mqtt_id: &str, token: &[u8], again: bool) -> Result<(), String> {
        let checked = self.verify(token).and_then(|claims| {
            let owner = self.connections.get(&id).map(|connection| &connection.claims);
            if !permits_client_id(&claims, mqtt_id) {
                Err(format!("the token of {} is not for client id {mqtt_id:?}", claims.sub))
            } else if again && owner.is_none_or(|o| o.sub != claims.sub || o.client_id != claims.client_id) {
                Err("a connection cannot change its owner".to_owned())
            } else {
                Ok(claims)
            }
        });
        match checked {
            Ok(claims) => {
                let connection = Connection { claims, mqtt_id: mqtt_id.to_owned(), closed: None };
                self.connections.insert(id, connection);
                Ok(())
            }
            Err(refusal) => {
                self.connections.remove(&id);
                Err(refusal)
            }
        }
    }

    /// Whether this connection was admitted and is not closed.
    pub(crate) fn is_live(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.closed.is_none())
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
    /// to keep it: after an expiry yes, after a revocation no.
    fn outlives_token(&self, connection: &Connection, access: Access) -> bool {
        let cut = self.cutting.as_ref().filter(|cut| cut.mqtt_id == connection.mqtt_id);
        match access {
            Access::Publish => connection.closed.is_some() || cut.is_some(),
            Access::Read => connection.closed.is_some(),
            Access::Subscribe => cut.is_some_and(|cut| matches!(cut.refusal, Refusal::Expired(_))),
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
        let now = SystemTime::now();
        self.connections.retain(|_, connection| {
            connection.closed.is_none_or(|at| now.duration_since(at).is_ok_and(|since| since < WILL_LIFE))
        });
        let live = self.connections.values().filter(|connection| connection.closed.is_none());
        live.filter_map(|connection| {
            let refusal = self.still_good(&connection.claims).err()?;
            Some(Overdue { mqtt_id: connection.mqtt_id.clone(), refusal })
        })
        .collect()
    }

    /// Which client is being cut off, while it is.
    pub(crate) fn cutting(&mut self, client: Option<Overdue>) {
        self.cutting = client;
    }

    fn verify(&self, token: &[u8]) -> Result<Claims, String> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err("no token, or one that is too long".to_owned());
        }
        let token = str::from_utf8(token).map_err(|_| "not a JWT".to_owned())?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| "not a JWT".to_owned())?;
        if !header.typ.is_some_and(|typ| typ.eq_ignore_ascii_case("at+jwt")) {
            return Err("not an access token: its type is not at+jwt".to_owned());
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.options.issuer]);
        validation.set_audience(&[&self.options.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // Checked below: without leeway, and not before the issuer's own time.
        validation.validate_exp = false;
        let mut refusal = "unknown key id".to_owned();
        for (kid, key) in &self.keys {
            if kid.is_some() && *kid != header.kid {
                continue;
            }
            match jsonwebtoken::decode::<Claims>(token, key, &validation) {
                Ok(token) => {
                    let good = self.still_good(&token.claims).map_err(|refusal| refusal.to_string());
                    return good.map(|()| token.claims);
                }
                Err(error) => refusal = error.to_string(),
            }
        }
        Err(refusal)
    }

    fn still_good(&self, claims: &Claims) -> Result<(), Refusal> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = wall.max(self.deny.time);
        if claims.exp <= now {
            return Err(Refusal::Expired(claims.sub.clone()));
        }
        if self.deny.denies(&claims.jti, &claims.client_id, &claims.sub, claims.iat) {
            return Err(Refusal::Revoked(claims.sub.clone()));
        }
        Ok(())
    }
}

/// A device has exactly `GATEWAY.DEVICE`, so that no other token can take its connection over; a subscriber has its
/// own name, or `NAME.anything`.
fn permits_client_id(claims: &Claims, mqtt_id: &str) -> bool {
    if claims.scope == TELEMETRY_READ {
        return mqtt_id.strip_prefix(&claims.sub).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    }
    mqtt_id == format!("{}.{}", claims.client_id, claims.sub)
}

/// A JWKS, or one public key as PEM.
fn read_keys(path: &PathBuf) -> Result<Vec<(Option<String>, DecodingKey)>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if fs::metadata(path).map_err(|error| failed(&error))?.len() > MAX_FILE {
        return Err(failed(&"the file is too large"));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    if !text.trim_start().starts_with('{') {
        let key = DecodingKey::from_ec_pem(text.as_bytes()).map_err(|error| failed(&error))?;
        return Ok(vec![(None, key)]);
    }
    let set: JwkSet = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    let keys: Vec<_> = set
        .keys
        .iter()
        .map(|jwk| Ok((jwk.common.key_id.clone(), DecodingKey::from_jwk(jwk).map_err(|error| failed(&error))?)))
        .collect::<Result<_, String>>()?;
    if keys.is_empty() { Err(failed(&"no key in it")) } else { Ok(keys) }
}
