//! What a token says in a broker's own words, beside the claims that are ours.
//!
//! The words follow from `claw_aif` and never say more than it: what a broker's form cannot say exactly is left out.

use serde::Serialize;
use serde_json::{Value, json};

use super::Claims;
use super::scope::{Action, TELEMETRY_READ, mqtt_client_id};
use crate::config::BrokerProfile;
use crate::relay::percent;

/// Which broker's words a token carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClaimForm {
    /// None but ours.
    #[default]
    Plain,
    /// `claw_rabbitmq`: scopes of RabbitMQ's OAuth 2 backend, for its `auth_oauth2.additional_scopes_key`.
    Rabbitmq,
    /// `acl`: the access control list of EMQX 5.5 and later.
    Emqx,
}

impl ClaimForm {
    /// The words that this broker understands.
    #[must_use]
    pub fn of(profile: BrokerProfile) -> Self {
        match profile {
            BrokerProfile::Rabbitmq => Self::Rabbitmq,
            BrokerProfile::Emqx => Self::Emqx,
            _ => Self::Plain,
        }
    }
}

/// Claims as they are signed: ours, and a broker's.
#[derive(Debug, Serialize)]
pub(super) struct Signed<'a> {
    #[serde(flatten)]
    claims: &'a Claims,
    #[serde(skip_serializing_if = "Option::is_none")]
    claw_rabbitmq: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acl: Option<Value>,
}

impl<'a> Signed<'a> {
    pub(super) fn new(claims: &'a Claims, form: ClaimForm) -> Self {
        Self {
            claims,
            claw_rabbitmq: (form == ClaimForm::Rabbitmq).then(|| rabbitmq(claims)),
            acl: (form == ClaimForm::Emqx).then(|| emqx(claims)),
        }
    }
}

/// `AUDIENCE.PERMISSION:VHOST/NAME/ROUTING-KEY`, separated by spaces. MQTT's topics are routing keys of the exchange
/// `amq.topic`, with dots for slashes.
fn rabbitmq(claims: &Claims) -> String {
    let mut scopes = Vec::new();
    let mut grant = |permission: &str, what: &str| scopes.push(format!("{}.{permission}:%2F/{what}", claims.aud));
    for (filter, actions) in claims.claw_aif.granted() {
        let Some(key) = routing_key(filter) else { continue };
        if actions.contains(&Action::Publish) {
            grant("write", &format!("amq.topic/{key}"));
        }
        if actions.contains(&Action::Subscribe) {
            grant("read", &format!("amq.topic/{key}"));
            // The queues that stand behind a connection's subscriptions are named after its client id.
            for queue in queues(claims) {
                for permission in ["configure", "write", "read"] {
                    grant(permission, &queue);
                }
            }
        }
    }
    scopes.join(" ")
}

fn queues(claims: &Claims) -> Vec<String> {
    let queue = |client_id: &str, more: &str| format!("mqtt-subscription-{}{more}qos*", percent(client_id));
    if claims.scope == TELEMETRY_READ {
        return vec![queue(&claims.sub, ""), queue(&claims.sub, ".*")];
    }
    vec![queue(&mqtt_client_id(&claims.client_id, &claims.sub), "")]
}

/// A topic filter as a pattern of routing keys; `None` where `+` stands in it: RabbitMQ's `*` takes many levels.
fn routing_key(filter: &str) -> Option<String> {
    let (levels, rest) = match filter.strip_suffix("/#") {
        Some(levels) => (levels, ".*"),
        None => (filter, ""),
    };
    if levels.contains(['+', '#', '*']) {
        return None;
    }
    let levels: Vec<String> = levels.split('/').map(percent).collect();
    Some(format!("{}{rest}", levels.join(".")))
}

/// Rules in order; the last one stops other authorizers from being asked.
fn emqx(claims: &Claims) -> Value {
    let mut rules = Vec::new();
    for (filter, actions) in claims.claw_aif.granted() {
        for action in actions {
            let action = match action {
                Action::Publish => "publish",
                Action::Subscribe => "subscribe",
            };
            rules.push(json!({ "permission": "allow", "action": action, "topic": filter }));
        }
    }
    rules.push(json!({ "permission": "deny", "action": "all", "topic": "#" }));
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::scope::{Scope, Topics};

    fn claims(topics: Topics) -> Claims {
        let text = r#"{"iss":"i","sub":"pump-3","aud":"claw","client_id":"gw-1","iat":1,"exp":2,"jti":"j","scope":""}"#;
        Claims { claw_aif: topics, ..serde_json::from_str(text).unwrap() }
    }

    fn device(scopes: &[Scope]) -> Claims {
        claims(Topics::of_device("default", "gw-1", &"pump-3".parse().unwrap(), scopes))
    }

    #[test]
    fn rabbitmq_gets_scopes_of_its_own_grammar() {
        // https://github.com/rabbitmq/rabbitmq-server/blob/v3.10.8/deps/rabbitmq_auth_backend_oauth2/README.md, "Scope-to-
        // Permission Translation": `write:%2F/amq.topic/routing.key`, behind the resource server's id and a dot.
        let signed = serde_json::to_value(Signed::new(&device(&[Scope::TelemetryWrite]), ClaimForm::Rabbitmq)).unwrap();
        assert_eq!(signed["claw_rabbitmq"], "claw.write:%2F/amq.topic/claw.v1.default.gw-1.pump-3.up.*");
        assert_eq!(signed["sub"], "pump-3");
        assert!(signed.get("acl").is_none());
        let commands = rabbitmq(&device(&[Scope::CommandRead]));
        assert_eq!(
            commands,
            "claw.read:%2F/amq.topic/claw.v1.default.gw-1.pump-3.down.* \
             claw.configure:%2F/mqtt-subscription-gw-1.pump-3qos* \
             claw.write:%2F/mqtt-subscription-gw-1.pump-3qos* \
             claw.read:%2F/mqtt-subscription-gw-1.pump-3qos*"
        );
    }

    #[test]
    fn what_rabbitmq_cannot_say_exactly_is_not_granted_there() {
        let all = |filter: &str| claims(Topics::new(vec![(filter.to_owned(), vec![Action::Publish])]));
        for wide in ["claw/v1/default/+/+/up/#", "#", "+", "a/#/b", "a*b"] {
            assert_eq!(rabbitmq(&all(wide)), "", "{wide}");
        }
        assert_eq!(rabbitmq(&all("a/b c")), "claw.write:%2F/amq.topic/a.b%20c");
    }

    #[test]
    fn emqx_gets_rules_that_end_in_a_refusal() {
        // https://docs.emqx.com/en/emqx/latest/access-control/authn/acl.html, "New Format": without a match other
        // authorizers are asked.
        let signed = serde_json::to_value(Signed::new(&device(&[Scope::TelemetryWrite]), ClaimForm::Emqx)).unwrap();
        assert_eq!(
            signed["acl"],
            json!([
                { "permission": "allow", "action": "publish", "topic": "claw/v1/default/gw-1/pump-3/up/#" },
                { "permission": "deny", "action": "all", "topic": "#" },
            ])
        );
    }

    #[test]
    fn other_brokers_get_our_claims_alone() {
        let claims = device(&[Scope::TelemetryWrite]);
        let plain = serde_json::to_value(Signed::new(&claims, ClaimForm::of(BrokerProfile::Mqtt5))).unwrap();
        assert_eq!(plain, serde_json::to_value(&claims).unwrap());
    }
}
