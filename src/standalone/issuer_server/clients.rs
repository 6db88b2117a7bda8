//! Who may ask for tokens: clients with a registered ES256 public key each.

use std::collections::HashMap;

use crate::ids::{GATEWAY_PRINCIPAL, is_valid_id};
use crate::token::key::Jwk;

/// A site has some gateways and some consumers.
const MAX_CLIENTS: usize = 1024;

/// Why a client was not registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Its id could not stand in a topic or a client id.
    #[error("client {0:?}: an id is 1 to 32 of a-z, 0-9, '_' and '-'")]
    BadId(String),
    /// Two clients, or a client and the gateway here, have one id: one could take the other's connections.
    #[error("client {0:?} is there twice, or is this gateway itself: give it another name")]
    Taken(String),
    /// A topic filter is empty or malformed.
    #[error("client {client:?}: {filter:?} is no topic filter")]
    BadFilter {
        /// The client.
        client: String,
        /// Its filter.
        filter: String,
    },
    /// Too many.
    #[error("more than {MAX_CLIENTS} clients")]
    TooMany,
}

/// A client and its key.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its id: the gateway's id, or the subscriber's name.
    pub id: String,
    /// What its assertions are checked with.
    pub key: Jwk,
    /// What it may ask for.
    pub rights: Rights,
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// Tokens of its own devices.
    Gateway {
        /// Tenant of the site.
        tenant: String,
    },
    /// A token of its own, to read these topics.
    Subscriber {
        /// Topic filters.
        topics: Vec<String>,
        /// Topics of gateways' commands that it may publish to, as filters below `_gateway/down/cmd/`.
        commands: Vec<String>,
    },
}

/// The registered clients, by id.
#[derive(Debug, Clone, Default)]
pub struct Clients(HashMap<String, Client>);

impl Clients {
    /// Registers clients. `own` is the gateway that the issuer lives in, if it lives in one: its name is taken.
    ///
    /// # Errors
    /// [`ClientError`] names the client and what is wrong with it.
    pub fn new(all: impl IntoIterator<Item = Client>, own: Option<&str>) -> Result<Self, ClientError> {
        let mut known = HashMap::new();
        for client in all {
            if !is_valid_id(&client.id) {
                return Err(ClientError::BadId(client.id.chars().take(64).collect()));
            }
            if let Rights::Subscriber { topics, commands } = &client.rights
                && let Some(bad) = topics
                    .iter()
                    .find(|filter| !is_filter(filter))
                    .or_else(|| commands.iter().find(|filter| !is_command_filter(filter)))
            {
                return Err(ClientError::BadFilter { client: client.id, filter: bad.clone() });
            }
            if own == Some(client.id.as_str()) || known.contains_key(&client.id) {
                return Err(ClientError::Taken(client.id));
            }
            known.insert(client.id.clone(), client);
        }
        if known.len() > MAX_CLIENTS { Err(ClientError::TooMany) } else { Ok(Self(known)) }
    }

    /// A client by its id.
    pub(super) fn get(&self, id: &str) -> Option<&Client> {
        self.0.get(id)
    }
}

/// Whether it can match nothing but topics on which gateways hear commands.
fn is_command_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let (fixed, own) = (["claw", "v1"], [GATEWAY_PRINCIPAL, "down", "cmd"]);
    is_filter(filter) && levels.len() >= 8 && levels[..2] == fixed && levels[4..7] == own
}

/// Whether this is an MQTT topic filter (MQTT 5, section 4.7.1).
fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let last = levels.len() - 1;
    !filter.is_empty()
        && filter.len() <= 1024
        && !filter.contains('\0')
        && levels.iter().enumerate().all(|(at, level)| match *level {
            "+" => true,
            "#" => at == last,
            other => !other.contains(['+', '#']),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::key::SigningKey;

    fn subscriber(id: &str, filter: &str) -> Client {
        let key = SigningKey::generate().unwrap().public().clone();
        Client {
            id: id.to_owned(),
            key,
            rights: Rights::Subscriber { topics: vec![filter.to_owned()], commands: vec![] },
        }
    }

    #[test]
    fn a_client_that_could_take_anothers_place_is_refused() {
        assert!(Clients::new([subscriber("dash", "a/#"), subscriber("dash", "a/#")], None).is_err());
        assert!(Clients::new([subscriber("gw-1", "a/#")], Some("gw-1")).is_err());
        assert!(Clients::new([subscriber("da/sh", "a/#")], None).is_err());
        assert!(Clients::new([subscriber("dash", "a/#")], Some("gw-1")).is_ok());
    }

    #[test]
    fn who_commands_publishes_to_topics_of_commands_and_to_no_other() {
        let with = |filter: &str| {
            let rights = Rights::Subscriber { topics: vec!["a/#".to_owned()], commands: vec![filter.to_owned()] };
            Clients::new([Client { rights, ..subscriber("backend", "a/#") }], None).is_ok()
        };
        assert!(with("claw/v1/default/+/_gateway/down/cmd/#") && with("claw/v1/t/g/_gateway/down/cmd/revoke"));
        for bad in
            ["#", "claw/#", "claw/v1/t/g/+/down/cmd/#", "claw/v1/t/g/_gateway/#", "claw/v1/t/g/pump-3/up/telemetry"]
        {
            assert!(!with(bad), "{bad} was allowed");
        }
    }

    #[test]
    fn a_malformed_filter_is_refused() {
        for bad in ["", "a/#/b", "a+", "#b"] {
            assert!(Clients::new([subscriber("dash", bad)], None).is_err(), "{bad:?}");
        }
    }
}
