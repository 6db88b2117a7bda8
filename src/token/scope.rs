//! What a token allows: scopes as the operator grants them, topics as the broker enforces them.
//!
//! The topics of a device are derived from its scopes here and nowhere else. They travel in the form of RFC 9431's
//! AIF (authorization information format for MQTT): pairs of a topic filter and the actions allowed on it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Claims;
use crate::ids::DeviceId;

/// A right that an operator grants to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// `telemetry:write`: publish below the device's own `up/`.
    TelemetryWrite,
    /// `command:read`: subscribe below the device's own `down/`.
    CommandRead,
    /// `status:write`, of the gateway itself and of no device: publish its status, audit checkpoints, alarms, replies.
    StatusWrite,
    /// `alarm:read`, of the gateway itself and of no device: hear what the broker tells beside its own alarms.
    AlarmRead,
}

/// A scope that is not known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: use telemetry:write or command:read")]
pub struct UnknownScope(String);

/// Why a scope that was asked for is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// No such right.
    #[error(transparent)]
    Unknown(#[from] UnknownScope),
    /// A right at a service that this gateway's tokens are not for.
    #[error("this gateway's tokens are for the service {own:?} (issuer.audience), not for {asked:?}")]
    Service {
        /// The service that was asked for.
        asked: String,
        /// The one there is.
        own: String,
    },
}

impl Scope {
    /// A scope as an operator asks for it, `[service/]resource:action`: the service is the audience of this gateway's
    /// tokens, and may be left out; the last slash ends it, for an audience may be a URI.
    ///
    /// # Errors
    /// [`ScopeError`], also where the service is another.
    pub(crate) fn asked(text: &str, audience: &str) -> Result<Self, ScopeError> {
        let Some((service, right)) = text.rsplit_once('/') else { return Ok(text.parse()?) };
        let right = right.parse()?;
        if service == audience {
            return Ok(right);
        }
        Err(ScopeError::Service { asked: service.chars().take(64).collect(), own: audience.to_owned() })
    }

    /// The scope as it stands in a token.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TelemetryWrite => "telemetry:write",
            Self::CommandRead => "command:read",
            Self::StatusWrite => "status:write",
            Self::AlarmRead => "alarm:read",
        }
    }

    /// Whether this principal may have it at all: a device sends no gateway's status, a gateway no telemetry.
    #[must_use]
    pub(crate) fn suits(self, principal: &DeviceId) -> bool {
        match self {
            Self::TelemetryWrite => !principal.is_gateway(),
            Self::CommandRead => true,
            Self::StatusWrite | Self::AlarmRead => principal.is_gateway(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        match text {
            "telemetry:write" => Ok(Self::TelemetryWrite),
            "command:read" => Ok(Self::CommandRead),
            "status:write" => Ok(Self::StatusWrite),
            "alarm:read" => Ok(Self::AlarmRead),
            _ => Err(UnknownScope(text.chars().take(64).collect())),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = UnknownScope;

    fn try_from(text: String) -> Result<Self, UnknownScope> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.as_str().to_owned()
    }
}

/// Scopes as the `scope` claim and request parameter carry them: separated by spaces, sorted, each once.
#[must_use]
pub(crate) fn to_claim(scopes: &[Scope]) -> String {
    let mut sorted = scopes.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

/// What may be done on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Publish to it, as a will too.
    #[serde(rename = "pub")]
    Publish,
    /// Subscribe to it.
    #[serde(rename = "sub")]
    Subscribe,
}

/// The `claw_aif` claim: topic filters, each with what is allowed on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topics(Vec<(String, Vec<Action>)>);

impl Topics {
    /// Topics that were granted by name, as a subscriber's are by the config.
    #[must_use]
    pub fn new(granted: Vec<(String, Vec<Action>)>) -> Self {
        Self(granted)
    }

    /// The topics of one device, or of the gateway itself, under its scopes.
    #[must_use]
    pub fn of_device(tenant: &str, gateway: &str, device: &DeviceId, scopes: &[Scope]) -> Self {
        let base = device_base(tenant, gateway, device);
        let mut granted = Vec::new();
        if device.is_gateway() {
            if scopes.contains(&Scope::StatusWrite) {
                let up = |leaf: &str| (format!("{base}/up/{leaf}"), vec![Action::Publish]);
                granted.extend(["status", "audit", "alarm", "reply/#"].map(up));
            }
            if scopes.contains(&Scope::CommandRead) {
                granted.push((format!("{base}/down/cmd/#"), vec![Action::Subscribe]));
            }
            if scopes.contains(&Scope::AlarmRead) {
                granted.push((format!("{base}/up/alarm"), vec![Action::Subscribe]));
            }
            return Self(granted);
        }
        if scopes.contains(&Scope::TelemetryWrite) {
            granted.push((format!("{base}/up/#"), vec![Action::Publish]));
        }
        if scopes.contains(&Scope::CommandRead) {
            granted.push((format!("{base}/down/#"), vec![Action::Subscribe]));
        }
        Self(granted)
    }

    /// Whether `topic` may be published to, or `topic` as a filter be subscribed to.
    ///
    /// A filter is allowed only where everything it could match is allowed.
    #[must_use]
    pub(crate) fn allows(&self, topic: &str, action: Action) -> bool {
        let wanted = match action {
            Action::Publish if topic.is_empty() || topic.contains(['+', '#']) => return false,
            Action::Publish => topic,
            Action::Subscribe => match shared_filter(topic) {
                Some(filter) => filter,
                None => return false,
            },
        };
        self.0.iter().any(|(granted, actions)| actions.contains(&action) && covers(granted, wanted))
    }

    /// Whether everything that may be subscribed to under `before` may be under these, too.
    #[must_use]
    pub(crate) fn read_all_of(&self, before: &Self) -> bool {
        let mut read = before.0.iter().filter(|(_, actions)| actions.contains(&Action::Subscribe));
        read.all(|(filter, _)| self.allows(filter, Action::Subscribe))
    }

    /// Each filter with what is allowed on it.
    pub(super) fn granted(&self) -> &[(String, Vec<Action>)] {
        &self.0
    }

    /// Whether nothing is granted.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `claw/v1/{tenant}/{gateway}/{device}`: where everything of a device lives.
#[must_use]
pub(crate) fn device_base(tenant: &str, gateway: &str, device: &DeviceId) -> String {
    format!("claw/v1/{tenant}/{gateway}/{device}")
}

/// The MQTT client id that a device's token belongs to.
#[must_use]
pub(crate) fn mqtt_client_id(gateway: &str, device: &str) -> String {
    format!("{gateway}.{device}")
}

/// Scope of a token that only reads what gateways sent; its owner is a subscriber, never a device.
pub const TELEMETRY_READ: &str = "telemetry:read";

/// Whether a connection with this MQTT client id may stand on a token with these claims.
///
/// A device has exactly its own id, so that no other token can take its connection over. A subscriber has its own name,
/// or several connections `NAME.anything`.
#[must_use]
pub(crate) fn permits_client_id(claims: &Claims, client_id: &str) -> bool {
    if claims.scope == TELEMETRY_READ {
        return client_id.strip_prefix(&claims.sub).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    }
    client_id == mqtt_client_id(&claims.client_id, &claims.sub)
}

/// The filter of a subscription, without `$share/{name}/`; `None` where that prefix is malformed.
fn shared_filter(filter: &str) -> Option<&str> {
    if filter.is_empty() {
        return None;
    }
    let Some(rest) = filter.strip_prefix("$share/") else { return Some(filter) };
    let (name, filter) = rest.split_once('/')?;
    (!name.is_empty() && !name.contains(['+', '#']) && !filter.is_empty()).then_some(filter)
}

/// Whether everything that the filter `wanted` can match is matched by `granted` too.
fn covers(granted: &str, wanted: &str) -> bool {
    // A leading `$` is outside of what a wildcard matches (MQTT 5, 4.7.2).
    if wanted.starts_with('$') && granted.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = wanted.split('/');
    for level in granted.split('/') {
        if level == "#" {
            return true;
        }
        match wanted.next() {
            Some("#") | None => return false,
            Some(asked) if level == "+" || level == asked => {}
            Some(_) => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pump() -> DeviceId {
        "pump-3".parse().unwrap()
    }

    #[test]
    fn a_device_publishes_below_its_own_up_and_nowhere_else() {
        let topics = Topics::of_device("t", "g", &pump(), &[Scope::TelemetryWrite]);
        assert!(topics.allows("claw/v1/t/g/pump-3/up/telemetry", Action::Publish));
        assert!(topics.allows("claw/v1/t/g/pump-3/up/reply/7", Action::Publish));
        for other in [
            "claw/v1/t/g/pump-4/up/telemetry",
            "claw/v1/t/g/pump-33/up/telemetry",
            "claw/v1/t/g/pump-3/down/cmd/x",
            "claw/v1/t/h/pump-3/up/telemetry",
            "claw/v1/t/g/pump-3/upp/telemetry",
            "claw/v1/t/g/pump-3/up/+",
            "",
            "$SYS/x",
        ] {
            assert!(!topics.allows(other, Action::Publish), "{other} was allowed");
        }
        assert!(!topics.allows("claw/v1/t/g/pump-3/up/telemetry", Action::Subscribe));
    }

    #[test]
    fn the_gateway_itself_says_how_it_is_and_hears_commands_and_nothing_else() {
        let all = [Scope::TelemetryWrite, Scope::CommandRead, Scope::StatusWrite];
        let topics = Topics::of_device("t", "g", &DeviceId::gateway(), &all);
        for own in ["status", "audit", "alarm", "reply/7"] {
            assert!(topics.allows(&format!("claw/v1/t/g/_gateway/up/{own}"), Action::Publish), "{own}");
        }
        for other in
            ["claw/v1/t/g/_gateway/up/telemetry", "claw/v1/t/g/pump-3/up/status", "claw/v1/t/g/_gateway/down/cmd/x"]
        {
            assert!(!topics.allows(other, Action::Publish), "{other} was allowed");
        }
        assert!(topics.allows("claw/v1/t/g/_gateway/down/cmd/+", Action::Subscribe));
        assert!(!topics.allows("claw/v1/t/g/_gateway/down/#", Action::Subscribe));
        assert!(!topics.allows("claw/v1/t/g/_gateway/up/alarm", Action::Subscribe));
        let hears = Topics::of_device("t", "g", &DeviceId::gateway(), &[Scope::AlarmRead]);
        assert!(hears.allows("claw/v1/t/g/_gateway/up/alarm", Action::Subscribe));
        assert!(!hears.allows("claw/v1/t/g/_gateway/up/+", Action::Subscribe));
        assert!(!hears.allows("claw/v1/t/g/_gateway/up/alarm", Action::Publish));
        // A device that was granted one of them by mistake has nothing of it.
        for own in [Scope::StatusWrite, Scope::AlarmRead] {
            assert!(Topics::of_device("t", "g", &pump(), &[own]).is_empty() && !own.suits(&pump()), "{own}");
        }
        assert!(!Scope::TelemetryWrite.suits(&DeviceId::gateway()));
    }

    #[test]
    fn commands_need_their_own_scope() {
        let without = Topics::of_device("t", "g", &pump(), &[Scope::TelemetryWrite]);
        let with = Topics::of_device("t", "g", &pump(), &[Scope::TelemetryWrite, Scope::CommandRead]);
        assert!(!without.allows("claw/v1/t/g/pump-3/down/#", Action::Subscribe));
        assert!(with.allows("claw/v1/t/g/pump-3/down/#", Action::Subscribe));
        assert!(with.allows("claw/v1/t/g/pump-3/down/cmd/+", Action::Subscribe));
        assert!(!with.allows("claw/v1/t/g/pump-3/down/cmd/x", Action::Publish));
    }

    #[test]
    fn a_filter_is_allowed_only_where_all_it_matches_is() {
        let topics = Topics::new(vec![("claw/v1/t/+/+/up/#".to_owned(), vec![Action::Subscribe])]);
        for inside in ["claw/v1/t/+/+/up/#", "claw/v1/t/g/+/up/telemetry", "$share/ai/claw/v1/t/g/d/up/+"] {
            assert!(topics.allows(inside, Action::Subscribe), "{inside} was refused");
        }
        for outside in ["#", "claw/#", "claw/v1/+/g/d/up/#", "claw/v1/t/#", "$share/ai/#", "$share/claw/v1", "+/v1", ""]
        {
            assert!(!topics.allows(outside, Action::Subscribe), "{outside} was allowed");
        }
        let everything = Topics::new(vec![("#".to_owned(), vec![Action::Subscribe])]);
        assert!(!everything.allows("$SYS/#", Action::Subscribe));
    }

    #[test]
    fn topics_travel_as_rfc_9431_pairs() {
        let topics = Topics::of_device("t", "g", &pump(), &[Scope::TelemetryWrite, Scope::CommandRead]);
        assert_eq!(
            serde_json::to_string(&topics).unwrap(),
            r#"[["claw/v1/t/g/pump-3/up/#",["pub"]],["claw/v1/t/g/pump-3/down/#",["sub"]]]"#
        );
    }

    #[test]
    fn a_scope_may_name_its_service_and_only_this_gateways() {
        for text in ["telemetry:write", "claw/telemetry:write"] {
            assert_eq!(Scope::asked(text, "claw"), Ok(Scope::TelemetryWrite));
        }
        let uri = "https://broker.example";
        assert_eq!(Scope::asked("https://broker.example/command:read", uri), Ok(Scope::CommandRead));
        for text in ["other/telemetry:write", "/telemetry:write", "claw-dev/telemetry:write"] {
            assert!(matches!(Scope::asked(text, "claw"), Err(ScopeError::Service { .. })), "{text}");
        }
        assert!(matches!(Scope::asked("claw/telemetry:read", "claw"), Err(ScopeError::Unknown(_))));
    }

    #[test]
    fn scopes_are_one_sorted_string() {
        assert_eq!(
            to_claim(&[Scope::CommandRead, Scope::TelemetryWrite, Scope::CommandRead]),
            "telemetry:write command:read"
        );
        assert!("telemetry:*".parse::<Scope>().is_err());
    }
}
