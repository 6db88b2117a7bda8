//! AWS IoT's custom authorizer: the token in the username, signed once more where the authorizer wants that.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};

use super::percent;
use crate::secret_source::{EVERYBODY, SourceError, read_file};

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The key's file.
    #[error("broker.authorizer_key {0}")]
    File(#[source] SourceError),
    /// It does not hold what it should.
    #[error("broker.authorizer_key {} holds no RSA private key in PEM form: {source}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
}

/// A custom authorizer, as the connection must name it.
#[derive(Debug, Clone)]
pub(super) struct Authorizer {
    name: String,
    /// Without it the token goes as password.
    signing: Option<Signing>,
}

/// How AWS IoT knows a token before it asks the authorizer.
#[derive(Clone)]
struct Signing {
    /// Name of the token's parameter.
    parameter: String,
    path: PathBuf,
    key: Option<EncodingKey>,
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").field("parameter", &self.parameter).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Authorizer {
    /// `signing`: the name of the token's parameter and the file of the RSA key.
    pub(super) fn new(name: &str, signing: Option<(String, PathBuf)>) -> Self {
        let signing = signing.map(|(parameter, path)| Signing { parameter, path, key: None });
        Self { name: name.to_owned(), signing }
    }

    /// Reads the key, if it has one.
    pub(super) fn load(&mut self) -> Result<(), ProfileError> {
        if let Some(signing) = &mut self.signing {
            signing.key = Some(rsa_key(&signing.path)?);
        }
        Ok(())
    }

    /// Username and password.
    pub(super) fn login(&self, device: &str, token: &str) -> Result<(String, String), String> {
        let name = percent(&self.name);
        let Some(signing) = &self.signing else {
            return Ok((format!("{device}?x-amz-customauthorizer-name={name}"), token.to_owned()));
        };
        let key = signing.key.as_ref().ok_or("the authorizer's key was not read")?;
        let signature =
            rs256(token, key).map_err(|error| format!("the token could not be signed for the authorizer: {error}"))?;
        let username = format!(
            "{device}?x-amz-customauthorizer-name={name}&x-amz-customauthorizer-signature={}&{}={}",
            percent(&signature),
            percent(&signing.parameter),
            percent(token),
        );
        Ok((username, String::new()))
    }
}

/// The key in a file that not every user may read.
fn rsa_key(path: &Path) -> Result<EncodingKey, ProfileError> {
    let pem = read_file(path, EVERYBODY).map_err(ProfileError::File)?;
    let unusable = |source| ProfileError::Key { path: path.to_owned(), source };
    let key = EncodingKey::from_rsa_pem(pem.expose()).map_err(unusable)?;
    // A public key is taken until it shall sign.
    jsonwebtoken::crypto::sign(b"", &key, Algorithm::RS256).map_err(unusable)?;
    Ok(key)
}

/// RSASSA-PKCS1-v1_5 with SHA-256 over the token, in base64.
fn rs256(token: &str, key: &EncodingKey) -> Result<String, String> {
    let signed = jsonwebtoken::crypto::sign(token.as_bytes(), key, Algorithm::RS256).map_err(|e| e.to_string())?;
    // The library writes it as a JWT has it.
    let raw = URL_SAFE_NO_PAD.decode(signed).map_err(|e| e.to_string())?;
    Ok(STANDARD.encode(raw))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::Command;

    use jsonwebtoken::DecodingKey;

    use super::*;
    use crate::testing;

    /// An RSA key as an operator makes one, and its public half.
    fn key_pair(folder: &Path) -> (PathBuf, PathBuf) {
        let (key, public) = (folder.join("key.pem"), folder.join("key.pub.pem"));
        let openssl = |args: &[&str], out: &Path| {
            let made = testing::output(Command::new("openssl").args(args).arg("-out").arg(out)).unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        };
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], &key);
        openssl(&["pkey", "-pubout", "-in", key.to_str().unwrap()], &public);
        for file in [&key, &public] {
            std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
        (key, public)
    }

    #[test]
    fn a_token_without_a_signature_is_the_password() {
        let authorizer = Authorizer::new("claw", None);
        let (username, password) = authorizer.login("pump-3", "a.b.c").unwrap();
        assert_eq!((username.as_str(), password.as_str()), ("pump-3?x-amz-customauthorizer-name=claw", "a.b.c"));
    }

    #[test]
    fn a_signed_token_stands_in_the_username_as_documented() {
        // https://docs.aws.amazon.com/iot/latest/developerguide/custom-auth.html:
        // username?x-amz-customauthorizer-name=NAME&x-amz-customauthorizer-signature=SIGNATURE&TOKEN-KEY-NAME=TOKEN,
        // the signature RSA with SHA-256, in base64 and URL-encoded.
        let folder = tempfile::tempdir().unwrap();
        let (key, public) = key_pair(folder.path());
        let mut authorizer = Authorizer::new("claw", Some(("token".to_owned(), key)));
        assert!(authorizer.login("pump-3", "a.b.c").is_err(), "the key was not read");
        authorizer.load().unwrap();
        let (username, password) = authorizer.login("pump-3", "a.b.c").unwrap();
        assert!(password.is_empty());
        let rest = username.strip_prefix("pump-3?x-amz-customauthorizer-name=claw&x-amz-customauthorizer-signature=");
        let signature = rest.and_then(|rest| rest.strip_suffix("&token=a.b.c")).unwrap();
        assert!(!signature.contains(['+', '/', '=']), "{signature}");
        let raw = STANDARD.decode(signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")).unwrap();
        let key = DecodingKey::from_rsa_pem(&std::fs::read(public).unwrap()).unwrap();
        let verify = |token: &[u8]| {
            jsonwebtoken::crypto::verify(&URL_SAFE_NO_PAD.encode(&raw), token, &key, Algorithm::RS256).unwrap()
        };
        assert!(verify(b"a.b.c") && !verify(b"a.b.d"));
    }

    #[test]
    fn a_key_that_every_user_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (key, _) = key_pair(folder.path());
        let load = |mode| {
            std::fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            Authorizer::new("claw", Some(("token".to_owned(), key.clone()))).load()
        };
        load(0o640).unwrap();
        let refused = load(0o644).unwrap_err().to_string();
        assert!(refused.contains("authorizer_key") && refused.contains("chmod o-rwx"), "{refused}");
    }

    #[test]
    fn a_key_that_is_none_is_named() {
        let missing = Authorizer::new("claw", Some(("token".to_owned(), "/nowhere".into()))).load().unwrap_err();
        assert!(missing.to_string().contains("authorizer_key /nowhere"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let (_, public) = key_pair(folder.path());
        let wrong = Authorizer::new("claw", Some(("token".to_owned(), public))).load().unwrap_err();
        assert!(wrong.to_string().contains("no RSA private key"), "{wrong}");
    }
}
