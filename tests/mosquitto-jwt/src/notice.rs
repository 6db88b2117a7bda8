//! What subscribers are told beside the broker's log: a good token came from an address that it does not allow. It goes
//! where the token's gateway tells its alarms, and in their form: the gateway itself cannot see it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::rate::Owner;
use crate::token::Claims;

/// The same owner's token is not told of again within this time: a thief must not flood the subscribers.
const SILENCE: Duration = Duration::from_secs(60);
/// Owners that are remembered.
const MAX_OWNERS: usize = 1000;

/// A message to publish.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) topic: String,
    pub(crate) payload: String,
}

/// Who was told of, and when.
#[derive(Default)]
pub(crate) struct Notices(HashMap<Owner, Instant>);

impl Notices {
    /// What to tell of a token that came from `address`, by a client that calls itself so; nothing where that was told a
    /// moment ago, or where the token says of no gateway.
    pub(crate) fn off_list(&mut self, claims: &Claims, mqtt_id: &str, address: IpAddr, now: Instant) -> Option<Notice> {
        let topic = claims.claw_aif.iter().find_map(|(filter, _)| alarms_of(filter))?;
        self.0.retain(|_, told| now.duration_since(*told) < SILENCE);
        if self.0.contains_key(&claims.owner()) || self.0.len() >= MAX_OWNERS {
            return None;
        }
        self.0.insert(claims.owner(), now);
        let (sub, allowed) = (&claims.sub, claims.addresses().join(" "));
        let payload = json!({
            "kind": "off_allow_list",
            "subject": sub,
            "by": "broker",
            "words": format!(
                "a client at {address} that calls itself {:?} showed its token, which may be used from {allowed}; it \
                 was refused", mqtt_id.chars().take(64).collect::<String>()
            ),
            "next_step": format!(
                "If that is not where the gateway is, somebody has the token: clawgate token revoke {sub}"
            ),
        });
        Some(Notice { topic, payload: payload.to_string() })
    }
}

/// `claw/v1/{tenant}/{gateway}/_gateway/up/alarm` of a filter below one gateway.
fn alarms_of(filter: &str) -> Option<String> {
    let levels: Vec<&str> = filter.split('/').take(4).collect();
    let ["claw", "v1", tenant, gateway] = levels[..] else { return None };
    let is_one = |level: &str| !level.is_empty() && !level.contains(['+', '#']);
    (is_one(tenant) && is_one(gateway)).then(|| format!("claw/v1/{tenant}/{gateway}/_gateway/up/alarm"))
}
