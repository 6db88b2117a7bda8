//! Shared access signatures of Azure IoT Hub: the credential of a device there, made from its symmetric key.
//!
//! It is no JWT, and it says less: whom it stands for and until when. The claims that the gateway keeps beside it are its
//! own: they say what the device may publish, which the hub does not check beyond the device's own topic.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::local::IssuerTime;
use super::scope::{mqtt_client_id, to_claim};
use super::{AccessToken, Claims, Issuer, IssuerError, TokenFuture, TokenRequest};
use crate::clock::Clock;
use crate::relay::percent;
use crate::secret_source::{EVERYBODY, read_file};

/// Bytes of a symmetric key: IoT Hub and its provisioning service take 16 to 64.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// Makes the signatures of a hub's devices.
#[derive(Debug, Clone)]
pub struct SasIssuer {
    hub: String,
    keys: PathBuf,
    time: IssuerTime,
    clock: Clock,
}

impl SasIssuer {
    /// For the devices of the hub with this host name. `keys` is the file of the group's key, from which the devices'
    /// keys are derived, or a folder with one key file a device; either is read at each signature.
    #[must_use]
    pub fn new(hub: &str, keys: PathBuf, clock: Clock) -> Self {
        let time = IssuerTime::starting_at(0, clock.clone());
        Self { hub: hub.to_ascii_lowercase(), keys, time, clock }
    }

    fn sign(&self, request: &TokenRequest) -> Result<AccessToken, String> {
        let mut id = [0_u8; 16];
        getrandom::fill(&mut id).map_err(|error| error.to_string())?;
        let device = mqtt_client_id(&request.gateway, request.device.as_str());
        let key = device_key(&self.keys, &device)?;
        let iat = self.time.now();
        let exp = iat.saturating_add(request.life.as_secs().max(1));
        let signature = signature(&format!("{}/devices/{device}", self.hub), exp, &key)?;
        let claims = Claims {
            iss: self.hub.clone(),
            sub: request.device.to_string(),
            aud: request.audience.clone(),
            client_id: request.gateway.clone(),
            iat,
            exp,
            jti: STANDARD.encode(id),
            scope: to_claim(&request.scope),
            claw_aif: request.topics(),
            claw_addresses: request.limits.addresses.clone(),
            claw_rate: request.limits.per_second,
            claw_stage: Some(request.stage),
            nbf: None,
            cnf: None,
            act: None,
        };
        Ok(AccessToken::opaque(signature, claims, &self.clock))
    }
}

impl Issuer for SasIssuer {
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken> {
        Box::pin(async move {
            let (issuer, request) = (self.clone(), request.clone());
            // Key files are read: off the async threads.
            let signed = tokio::task::spawn_blocking(move || issuer.sign(&request)).await;
            signed.map_err(|error| IssuerError::Local(error.to_string()))?.map_err(IssuerError::Local)
        })
    }

    fn revoke<'a>(
        &'a self,
        request: &'a TokenRequest,
        _current: Option<&'a AccessToken>,
        _why: &'a str,
    ) -> TokenFuture<'a, ()> {
        // The hub knows devices, not signatures: there the device is disabled, or its keys are made anew.
        let device = mqtt_client_id(&request.gateway, request.device.as_str());
        let endpoint = format!("{}/devices/{device}", self.hub);
        Box::pin(async move { Err(IssuerError::CannotRevoke { endpoint }) })
    }
}

/// Whether signatures can be made with what is there; of a folder, only that it is one: whose key is missing in it shows
/// when that device asks.
pub(crate) fn check_keys(keys: &Path) -> Result<(), String> {
    if keys.is_dir() { Ok(()) } else { read_key(keys).map(drop) }
}

/// The key of one device: its own file, or derived from the group's.
fn device_key(keys: &Path, device: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    if keys.is_dir() {
        return read_key(&keys.join(device));
    }
    derived(&read_key(keys)?, device)
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let text = read_file(path, EVERYBODY).map_err(|error| format!("issuer.device_keys {error}"))?;
    let key = STANDARD.decode(text.expose().trim_ascii()).map(Zeroizing::new);
    key.ok()
        .filter(|key| KEY_BYTES.contains(&key.len()))
        .ok_or_else(|| format!("issuer.device_keys {shown} holds no symmetric key: write its 16 to 64 bytes in base64"))
}

/// The key of a device of an enrolment group: HMAC-SHA256 of its registration id under the group's key.
fn derived(group: &[u8], registration: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    Ok(Zeroizing::new(authentication(group, registration)?.to_vec()))
}

/// `SharedAccessSignature sr=..&sig=..&se=..` for a resource until `expiry` (seconds since 1970).
fn signature(resource: &str, expiry: u64, key: &[u8]) -> Result<String, String> {
    let resource = percent(resource);
    let code = authentication(key, &format!("{resource}\n{expiry}"))?;
    Ok(format!("SharedAccessSignature sr={resource}&sig={}&se={expiry}", percent(&STANDARD.encode(code))))
}

fn authentication(key: &[u8], text: &str) -> Result<[u8; 32], String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|error| error.to_string())?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::token::scope::{Action, Scope};
    use crate::token::{Limits, Remedy, Stage};

    fn request(device: &str) -> TokenRequest {
        TokenRequest {
            tenant: "t".to_owned(),
            gateway: "g".to_owned(),
            device: device.parse().unwrap(),
            scope: vec![Scope::TelemetryWrite],
            life: Duration::from_secs(3600),
            audience: "hub".to_owned(),
            limits: Limits::default(),
            stage: Stage::default(),
        }
    }

    fn key_file(path: &Path, content: &str) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_signature_is_the_one_that_azures_own_library_makes() {
        // https://github.com/Azure/azure-iot-sdk-node, common/core/test/_shared_access_signature_test.js:
        // key = base64 of "password", resource "uri", expiry 12345.
        assert_eq!(
            signature("uri", 12345, b"password").unwrap(),
            "SharedAccessSignature sr=uri&sig=kcWxXAK2OAaAoq2oCkaGzX2NMqDB8nCyNuq2fPYCDhk%3D&se=12345"
        );
        // The same file: a device's resource.
        let text = signature("fakeHostName/devices/fakeDeviceId", 1, b"x").unwrap();
        assert!(text.starts_with("SharedAccessSignature sr=fakeHostName%2Fdevices%2FfakeDeviceId&sig="), "{text}");
    }

    #[test]
    fn a_devices_key_is_derived_as_the_provisioning_service_documents_it() {
        // https://learn.microsoft.com/azure/iot-dps/how-to-legacy-device-symm-key, "Derive a device key".
        let group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
        let key = derived(&STANDARD.decode(group).unwrap(), "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").unwrap();
        assert_eq!(STANDARD.encode(key.as_slice()), "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=");
    }

    #[tokio::test]
    async fn a_device_gets_a_signature_of_its_own_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        key_file(&folder.path().join("group"), &STANDARD.encode([7; 32]));
        let issuer = SasIssuer::new("Contoso.azure-devices.net", folder.path().join("group"), clock.clone());
        let token = issuer.issue(&request("pump-3")).await.unwrap();
        let other = issuer.issue(&request("pump-4")).await.unwrap();
        let prefix = "SharedAccessSignature sr=contoso.azure-devices.net%2Fdevices%2Fg.pump-3&sig=";
        assert!(token.bearer().starts_with(prefix), "{}", token.bearer());
        assert!(token.bearer().ends_with("&se=1700003600"), "{}", token.bearer());
        let sig = |token: &AccessToken| token.bearer().split('&').nth(1).unwrap().to_owned();
        assert_ne!(sig(&token), sig(&other));
        assert_eq!(token.left(&clock), Duration::from_secs(3600));
        assert!(token.allows("claw/v1/t/g/pump-3/up/telemetry", Action::Publish));
        assert!(!token.allows("claw/v1/t/g/pump-4/up/telemetry", Action::Publish));
        let refused = issuer.revoke(&request("pump-3"), None, "test").await.unwrap_err();
        assert!(refused.to_string().contains("cannot revoke"), "{refused}");
    }

    #[tokio::test]
    async fn a_key_of_its_own_is_used_and_one_that_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        key_file(&folder.path().join("g.pump-3"), &format!("{}\n", STANDARD.encode([7; 64])));
        key_file(&folder.path().join("g.pump-4"), "short");
        key_file(&folder.path().join("g.pump-6"), &STANDARD.encode([7; 64]));
        std::fs::set_permissions(folder.path().join("g.pump-6"), Permissions::from_mode(0o644)).unwrap();
        let issuer = SasIssuer::new("hub", folder.path().to_owned(), Clock::system());
        let token = issuer.issue(&request("pump-3")).await.unwrap();
        let wanted = signature("hub/devices/g.pump-3", token.claims().exp, &[7; 64]).unwrap();
        assert_eq!(token.bearer(), wanted);
        for (device, words) in [("pump-4", "no symmetric key"), ("pump-5", "may read it"), ("pump-6", "mode 0644")] {
            let error = issuer.issue(&request(device)).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.remedy(), Remedy::Retry(None));
        }
    }
}
