//! ES256 keys: made here, kept as PKCS#8, shown to others as a JWK.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use p256::elliptic_curve::point::AffineCoordinates as _;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::secret::Secret;

/// A key file of ours has about 250 bytes.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Why a key could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gave no randomness.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
    /// Not an EC P-256 private key in PKCS#8.
    #[error(
        "{0} holds no P-256 private key (PEM, PKCS#8): put the right one there; clawgate issuer key FILE makes a new one"
    )]
    NoPrivateKey(String),
    /// Not an EC P-256 public key.
    #[error("not an ES256 public key: a P-256 key is wanted (openssl ecparam -name prime256v1 -genkey)")]
    NoPublicKey,
    /// The key file is readable by others.
    #[error("{path} may be read by others (mode {mode:03o}): chmod 600 it")]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file could not be read or made.
    #[error("key file {path}: {source}; check that it is there and that clawgate may read it")]
    File {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The signature could not be made.
    #[error("signing failed: {0}")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A private ES256 key.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    secret: p256::SecretKey,
    encoding: EncodingKey,
    jwk: Jwk,
}

/// A public ES256 key in RFC 7517's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// Always `EC`.
    pub kty: String,
    /// Always `P-256`.
    pub crv: String,
    /// First coordinate, base64url.
    pub x: String,
    /// Second coordinate, base64url.
    pub y: String,
    /// Its RFC 7638 thumbprint, unless somebody named it otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kid: String,
}

/// A set of public keys (RFC 7517, section 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwks {
    /// The keys.
    pub keys: Vec<Jwk>,
}

impl Jwks {
    /// The set as JSON, in one line.
    pub(crate) fn to_text(&self) -> String {
        // Strings in a list: there is nothing that could fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

impl SigningKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Random`] when there is none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut scalar = zeroize::Zeroizing::new([0_u8; 32]);
        loop {
            getrandom::fill(scalar.as_mut()).map_err(KeyError::Random)?;
            // Zero and values above the group's order are no scalars; 1 in 2^32.
            if let Ok(secret) = p256::SecretKey::from_slice(scalar.as_ref()) {
                return Self::from_secret(secret, "the new key");
            }
        }
    }

    /// A key from PKCS#8 DER, as the store seals it.
    ///
    /// # Errors
    /// [`KeyError::NoPrivateKey`] when it is none.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let secret =
            p256::SecretKey::from_pkcs8_der(der).map_err(|_| KeyError::NoPrivateKey("the stored secret".to_owned()))?;
        Self::from_secret(secret, "the stored secret")
    }

    /// The key as PKCS#8 DER.
    ///
    /// # Errors
    /// [`KeyError::NoPrivateKey`] when it cannot be encoded.
    pub fn to_pkcs8(&self) -> Result<Secret<Vec<u8>>, KeyError> {
        let der = self.0.secret.to_pkcs8_der().map_err(|_| KeyError::NoPrivateKey("the key".to_owned()))?;
        Ok(Secret::new(der.as_bytes().to_vec()))
    }

    /// The key as PEM, as [`Self::load`] reads it.
    ///
    /// # Errors
    /// [`KeyError::NoPrivateKey`] when it cannot be encoded.
    pub(crate) fn to_pem(&self) -> Result<Secret<String>, KeyError> {
        let pem = self.0.secret.to_pkcs8_pem(LineEnding::LF);
        pem.map(|pem| Secret::new(pem.to_string())).map_err(|_| KeyError::NoPrivateKey("the key".to_owned()))
    }

    /// The key in a PEM file of mode 0600; made there when the file is absent. A damaged file is never replaced.
    ///
    /// # Errors
    /// [`KeyError`] when the file is exposed, damaged, or cannot be read or made.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::create(path),
            other => other,
        }
    }

    /// The key in a PEM file of mode 0600.
    ///
    /// # Errors
    /// [`KeyError`] when the file is absent, exposed or damaged.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let about = fs::metadata(path).map_err(failed)?;
        // A folder in place of the file is not to be chmodded, but to fail below as what it is.
        if !about.is_dir() && about.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode: about.mode() & 0o777 });
        }
        if about.len() > MAX_KEY_FILE {
            return Err(KeyError::NoPrivateKey(path.display().to_string()));
        }
        let pem = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        let secret =
            p256::SecretKey::from_pkcs8_pem(&pem).map_err(|_| KeyError::NoPrivateKey(path.display().to_string()))?;
        Self::from_secret(secret, &path.display().to_string())
    }

    /// The key in a PEM text from `origin`.
    ///
    /// # Errors
    /// [`KeyError::NoPrivateKey`] when it is none.
    pub(crate) fn from_pem(pem: &[u8], origin: &str) -> Result<Self, KeyError> {
        let none = || KeyError::NoPrivateKey(origin.to_owned());
        let text = std::str::from_utf8(pem).map_err(|_| none())?;
        let secret = p256::SecretKey::from_pkcs8_pem(text.trim()).map_err(|_| none())?;
        Self::from_secret(secret, origin)
    }

    fn create(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate()?;
        let pem = key.to_pem()?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(pem.expose().as_bytes())?;
            file.sync_all()?;
            // A bare file name has an empty parent: it stands in the working folder.
            let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| KeyError::File { path: path.to_owned(), source })?;
        Ok(key)
    }

    fn from_secret(secret: p256::SecretKey, origin: &str) -> Result<Self, KeyError> {
        let unusable = || KeyError::NoPrivateKey(origin.to_owned());
        let der = secret.to_pkcs8_der().map_err(|_| unusable())?;
        let encoding = EncodingKey::from_ec_der(der.as_bytes());
        let jwk = Jwk::of(&secret.public_key()).ok_or_else(unusable)?;
        Ok(Self(Arc::new(Inner { secret, encoding, jwk })))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &Jwk {
        &self.0.jwk
    }

    /// The secret that this key and `other` share (ECDH on P-256): the x coordinate of the common point.
    ///
    /// # Errors
    /// [`KeyError::NoPublicKey`] when the other is none.
    pub(crate) fn agree(&self, other: &Jwk) -> Result<zeroize::Zeroizing<[u8; 32]>, KeyError> {
        let scalar = self.0.secret.to_nonzero_scalar();
        // The group has no small subgroup, and the point was checked to lie on the curve: the product is none either.
        let common = (other.point()?.to_projective() * *scalar).to_affine();
        Ok(zeroize::Zeroizing::new(common.x().into()))
    }

    /// Its public half as PEM, for brokers that read keys from a file.
    ///
    /// # Errors
    /// [`KeyError::NoPublicKey`] when it cannot be encoded.
    pub fn public_pem(&self) -> Result<String, KeyError> {
        self.0.secret.public_key().to_public_key_pem(LineEnding::LF).map_err(|_| KeyError::NoPublicKey)
    }

    /// A JWT over `claims`, with `typ` in its header.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the claims cannot be encoded.
    pub fn sign<T: Serialize>(&self, typ: &str, claims: &T) -> Result<String, KeyError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.0.jwk.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.0.encoding).map_err(KeyError::Sign)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.0.jwk.kid)
    }
}

impl Jwk {
    /// The key in a PEM text, as `openssl ec -pubout` writes it.
    ///
    /// # Errors
    /// [`KeyError::NoPublicKey`] when it holds no P-256 public key.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = p256::PublicKey::from_public_key_pem(pem).map_err(|_| KeyError::NoPublicKey)?;
        Self::of(&key).ok_or(KeyError::NoPublicKey)
    }

    fn of(key: &p256::PublicKey) -> Option<Self> {
        let point = key.to_encoded_point(false);
        let (x, y) = (BASE64URL.encode(point.x()?), BASE64URL.encode(point.y()?));
        let mut jwk = Self { kty: "EC".to_owned(), crv: "P-256".to_owned(), x, y, kid: String::new() };
        jwk.kid = jwk.thumbprint();
        Some(jwk)
    }

    /// RFC 7638 thumbprint.
    fn thumbprint(&self) -> String {
        let canonical = format!(r#"{{"crv":"{}","kty":"{}","x":"{}","y":"{}"}}"#, self.crv, self.kty, self.x, self.y);
        BASE64URL.encode(Sha256::digest(canonical.as_bytes()))
    }

    /// The key for checking signatures; its point is checked to lie on the curve.
    pub(crate) fn decoding(&self) -> Result<DecodingKey, KeyError> {
        self.point()?;
        DecodingKey::from_ec_components(&self.x, &self.y).map_err(|_| KeyError::NoPublicKey)
    }

    /// Its point, on the curve.
    fn point(&self) -> Result<p256::PublicKey, KeyError> {
        if self.kty != "EC" || self.crv != "P-256" {
            return Err(KeyError::NoPublicKey);
        }
        let coordinate = |text: &str| BASE64URL.decode(text).ok().filter(|bytes| bytes.len() == 32);
        let (Some(x), Some(y)) = (coordinate(&self.x), coordinate(&self.y)) else { return Err(KeyError::NoPublicKey) };
        let point = [&[4_u8][..], &x, &y].concat();
        p256::PublicKey::from_sec1_bytes(&point).map_err(|_| KeyError::NoPublicKey)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_with_mode_0600_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.pem");
        let first = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let second = SigningKey::load_or_create(&path).unwrap();
        assert_eq!(first.public(), second.public());
    }

    #[test]
    fn a_damaged_or_exposed_key_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.pem");
        SigningKey::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SigningKey::load_or_create(&path), Err(KeyError::Exposed { mode: 0o644, .. })));
        fs::write(&path, "not a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(SigningKey::load_or_create(&path), Err(KeyError::NoPrivateKey(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }

    #[test]
    fn a_key_survives_pkcs8() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8(key.to_pkcs8().unwrap().expose()).unwrap();
        assert_eq!(key.public(), again.public());
        assert!(SigningKey::from_pkcs8(b"garbage").is_err());
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let mut jwk = SigningKey::generate().unwrap().public().clone();
        jwk.y = BASE64URL.encode([1_u8; 32]);
        assert!(matches!(jwk.decoding(), Err(KeyError::NoPublicKey)));
    }
}
