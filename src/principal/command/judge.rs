//! Whether a command is to be carried out: form, signature, whom it is for, who gave it, when.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;

use super::{Claims, CommandKeys, CommandName};

/// A longer command is refused unread.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// The type in a command's header; no other JWT of the same key passes for one.
const TYPE: &str = "claw-cmd+jwt";
/// A command lives no longer.
const MAX_LIFE_S: u64 = 3600;
/// Its maker's clock may be ahead by so much.
const AHEAD_S: u64 = 60;
/// Longest id.
const MAX_JTI: usize = 64;

/// What a command is held against.
pub(crate) struct Rules<'a> {
    pub(crate) keys: &'a CommandKeys,
    /// `TENANT/GATEWAY`.
    pub(crate) audience: &'a str,
    /// Seconds since 1970.
    pub(crate) now_s: u64,
    /// Whether that is known to be right.
    pub(crate) clock_is_right: bool,
}

/// A command that is to be carried out, unless it was before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judged {
    pub(crate) claims: Claims,
}

/// A command that is not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    pub(crate) why: Why,
    /// Who signed it, and under which id it wants its answer; known once the signature is good.
    pub(crate) signed: Option<(String, String, CommandName)>,
}

/// Why a command is refused. What anybody can send gets no answer; the reason is the operator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    #[error("it has {0} bytes; at most {MAX_BYTES} are taken")]
    TooLarge(usize),
    #[error("it is not a signed command (a compact JWS)")]
    NotSigned,
    #[error("its type is not {TYPE}")]
    Type,
    #[error("it is not signed by ES256")]
    Algorithm,
    #[error("nobody who may command signs as {0:?}; see cloud.command_keys")]
    UnknownKey(String),
    #[error("its signature is not that of {0:?}")]
    Signature(String),
    #[error("its claims are not those of a command: {0}")]
    Claims(String),
    #[error("its id is no level of a topic: 1 to {MAX_JTI} letters, digits, '_' and '-' are taken")]
    Id,
    #[error("it is for {0:?}")]
    Audience(String),
    #[error("it came on the topic of another command")]
    Topic,
    #[error("{key:?} may not command {command:?}")]
    NotAllowed { key: String, command: &'static str },
    #[error("it lives longer than {MAX_LIFE_S} s, or not at all")]
    Life,
    #[error("this gateway's clock is not synchronised, so that nobody knows whether the command is still good")]
    Clock,
    #[error("it expired {0} s ago")]
    Expired(u64),
    #[error("it was made {0} s in the future")]
    Future(u64),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Named {
    iss: String,
}

/// Judges the bytes that came on `down/cmd/{leaf}`.
pub(crate) fn judge(rules: &Rules<'_>, leaf: &str, bytes: &[u8]) -> Result<Judged, Refused> {
    let claims = authentic(rules.keys, bytes).map_err(|why| Refused { why, signed: None })?;
    if claims.jti.is_empty() || claims.jti.len() > MAX_JTI || !claims.jti.bytes().all(is_plain) {
        return Err(Refused { why: Why::Id, signed: None });
    }
    match fits(rules, leaf, &claims) {
        Ok(()) => Ok(Judged { claims }),
        Err(why) => Err(Refused { why, signed: Some((claims.iss, claims.jti, claims.cmd)) }),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// The claims, if somebody who may command has signed them.
fn authentic(keys: &CommandKeys, bytes: &[u8]) -> Result<Claims, Why> {
    if bytes.len() > MAX_BYTES {
        return Err(Why::TooLarge(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Why::NotSigned)?;
    let mut parts = text.split('.');
    let (Some(header), Some(_), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Why::NotSigned);
    };
    let header = BASE64URL.decode(header).map_err(|_| Why::NotSigned)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| Why::NotSigned)?;
    // Pinned here, and once more below: a header never chooses how it is checked.
    if header.alg != "ES256" || signature.is_empty() {
        return Err(Why::Algorithm);
    }
    // What must be understood is not.
    if header.typ != TYPE || header.crit.is_some() {
        return Err(Why::Type);
    }
    // Who it claims to be decides which key it is checked with.
    let named: Named = jsonwebtoken::dangerous::insecure_decode_claims(text).map_err(|_| Why::NotSigned)?;
    let name: String = named.iss.chars().take(32).collect();
    let key = keys.commander(&named.iss).and_then(|commander| commander.key(header.kid.as_deref()));
    let key = key.ok_or_else(|| Why::UnknownKey(name.clone()))?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    // The claims are read as text first, so that a good signature over bad claims is told from a bad signature.
    let signed = jsonwebtoken::decode::<serde_json::Value>(text, key, &validation);
    signed.map_err(|_| Why::Signature(name))?;
    let claims = text.split('.').nth(1).and_then(|part| BASE64URL.decode(part).ok()).ok_or(Why::NotSigned)?;
    serde_json::from_slice(&claims).map_err(|error| Why::Claims(error.to_string().chars().take(200).collect()))
}

/// Whether authentic claims are for this gateway, from somebody who may, and good now.
fn fits(rules: &Rules<'_>, leaf: &str, claims: &Claims) -> Result<(), Why> {
    if claims.aud != rules.audience {
        return Err(Why::Audience(claims.aud.chars().take(80).collect()));
    }
    if claims.cmd.as_str() != leaf {
        return Err(Why::Topic);
    }
    let may = rules.keys.commander(&claims.iss).is_some_and(|commander| commander.may.contains(&claims.cmd));
    if !may {
        return Err(Why::NotAllowed { key: claims.iss.clone(), command: claims.cmd.as_str() });
    }
    if claims.exp <= claims.iat || claims.exp - claims.iat > MAX_LIFE_S {
        return Err(Why::Life);
    }
    if !rules.clock_is_right {
        return Err(Why::Clock);
    }
    if claims.exp <= rules.now_s {
        return Err(Why::Expired(rules.now_s - claims.exp));
    }
    if claims.iat > rules.now_s.saturating_add(AHEAD_S) {
        return Err(Why::Future(claims.iat - rules.now_s));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::{CloudConfig, CommandKeyConfig};
    use crate::token::key::SigningKey;

    const NOW: u64 = 1_800_000_000;

    /// The keys `ops` (may revoke) and `other` (may nothing but approve).
    fn keys() -> (SigningKey, CommandKeys) {
        let dir = tempfile::tempdir().unwrap();
        let (ops, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let config = |name: &str, key: &SigningKey, may| {
            let path = dir.path().join(name);
            std::fs::write(&path, key.public_pem().unwrap()).unwrap();
            let name = serde_json::from_value(json!(name)).unwrap();
            (name, CommandKeyConfig { public_key: path, commands: vec![may] })
        };
        let command_keys =
            BTreeMap::from([config("ops", &ops, CommandName::Revoke), config("other", &other, CommandName::Approve)]);
        let keys = CommandKeys::of(&CloudConfig { command_keys, ..CloudConfig::default() }).unwrap();
        (ops, keys)
    }

    fn claims() -> Value {
        json!({
            "iss": "ops", "aud": "default/gw-1", "iat": NOW - 5, "exp": NOW + 60, "jti": "a-1", "cmd": "revoke",
            "args": { "device": "pump-3" },
        })
    }

    fn judged(keys: &CommandKeys, right: bool, leaf: &str, command: &str) -> Result<Judged, Refused> {
        let rules = Rules { keys, audience: "default/gw-1", now_s: NOW, clock_is_right: right };
        judge(&rules, leaf, command.as_bytes())
    }

    #[test]
    fn a_command_is_taken_until_its_last_second_and_refused_for_each_single_thing_that_is_wrong() {
        let (ops, keys) = keys();
        let sign = |claims: &Value| ops.sign(TYPE, claims).unwrap();
        assert_eq!(judged(&keys, true, "revoke", &sign(&claims())).unwrap().claims.args["device"], "pump-3");
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            sign(&claims)
        };
        judged(&keys, true, "revoke", &with("exp", json!(NOW + 1))).unwrap();
        for (command, why) in [
            (with("exp", json!(NOW)), Why::Expired(0)),
            (with("exp", json!(NOW + 3596)), Why::Life),
            (with("exp", json!(NOW - 5)), Why::Life),
            (with("iat", json!(NOW + 61)), Why::Life),
            (with("aud", json!("default/gw-2")), Why::Audience("default/gw-2".to_owned())),
            (with("cmd", json!("code")), Why::Topic),
        ] {
            let refused = judged(&keys, true, "revoke", &command).unwrap_err();
            assert_eq!(refused.why, why);
            assert!(refused.signed.is_some(), "whoever signed it is told: {why}");
        }
        let ahead = json!({ "iss": "ops", "aud": "default/gw-1", "iat": NOW + 61, "exp": NOW + 100, "jti": "a", "cmd": "revoke" });
        assert_eq!(judged(&keys, true, "revoke", &sign(&ahead)).unwrap_err().why, Why::Future(61));
        assert_eq!(judged(&keys, false, "revoke", &sign(&claims())).unwrap_err().why, Why::Clock);
        let other = Why::NotAllowed { key: "ops".to_owned(), command: "code" };
        assert_eq!(judged(&keys, true, "code", &with("cmd", json!("code"))).unwrap_err().why, other);
        for id in ["", "a/b", "+", "a b", &"x".repeat(65)] {
            assert_eq!(judged(&keys, true, "revoke", &with("jti", json!(id))).unwrap_err().why, Why::Id, "{id}");
        }
        assert!(matches!(judged(&keys, true, "revoke", &with("nbf", json!(1))).unwrap_err().why, Why::Claims(_)));
    }

    #[test]
    fn what_is_not_signed_by_a_configured_key_with_es256_gets_no_answer() {
        let (ops, keys) = keys();
        let good = ops.sign(TYPE, &claims()).unwrap();
        let [_, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
        let header = |header: Value| BASE64URL.encode(header.to_string());
        let none = header(json!({ "alg": "none", "typ": TYPE }));
        let hs256 = header(json!({ "alg": "HS256", "typ": TYPE }));
        let critical = header(json!({ "alg": "ES256", "typ": TYPE, "crit": ["b64"], "b64": false }));
        let stranger = SigningKey::generate().unwrap();
        let mut claims_of_nobody = claims();
        claims_of_nobody["iss"] = json!("nobody");
        let mut of_the_other = claims();
        of_the_other["iss"] = json!("other");
        for (command, why) in [
            (format!("{none}.{payload}."), Why::Algorithm),
            (format!("{none}.{payload}.{signature}"), Why::Algorithm),
            (format!("{hs256}.{payload}.{signature}"), Why::Algorithm),
            (format!("{critical}.{payload}.{signature}"), Why::Type),
            (ops.sign("JWT", &claims()).unwrap(), Why::Type),
            (ops.sign("at+jwt", &claims()).unwrap(), Why::Type),
            (stranger.sign(TYPE, &claims()).unwrap(), Why::Signature("ops".to_owned())),
            // Who may give another command does not pass for this key.
            (ops.sign(TYPE, &of_the_other).unwrap(), Why::Signature("other".to_owned())),
            (ops.sign(TYPE, &claims_of_nobody).unwrap(), Why::UnknownKey("nobody".to_owned())),
            (claims().to_string(), Why::NotSigned),
            (format!("{good}.x"), Why::NotSigned),
            ("x".repeat(MAX_BYTES + 1), Why::TooLarge(MAX_BYTES + 1)),
            (String::new(), Why::NotSigned),
        ] {
            assert_eq!(judged(&keys, true, "revoke", &command), Err(Refused { why, signed: None }), "{command}");
        }
    }

    #[test]
    fn every_changed_byte_of_a_command_is_noticed() {
        let (ops, keys) = keys();
        let good = ops.sign(TYPE, &claims()).unwrap().into_bytes();
        // The last character may carry unused bits; every other one counts.
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let rules = Rules { keys: &keys, audience: "default/gw-1", now_s: NOW, clock_is_right: true };
            assert!(judge(&rules, "revoke", &bad).is_err(), "byte {at}");
        }
    }
}
