//! A token that only the holder of a TLS certificate may show (RFC 8705): stolen, it is worth nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ureq::tls::{ClientCert, PemItem, PrivateKey};

/// Why tokens cannot be bound to a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// The certificate's file.
    #[error("broker.client_cert {}: {reason}; a certificate chain in PEM is wanted, ours first", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Its key.
    #[error("broker.client_key: {reason}; the certificate's private key in PEM is wanted")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
}

/// SHA-256 of a certificate's DER, in base64url (`x5t#S256`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Thumbprint(String);

impl Thumbprint {
    /// Of the first certificate of a PEM file: the one that TLS proves the key of.
    ///
    /// # Errors
    /// [`BindingError`] when the file cannot be read or holds none.
    pub fn of_file(path: &Path) -> Result<Self, BindingError> {
        let failed = |reason: String| BindingError::Certificate { path: path.to_owned(), reason };
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|error| failed(error.to_string()))?;
        Ok(Self(BASE64URL.encode(Sha256::digest(&certificate))))
    }

    /// As a token carries it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The certificate that we show the broker: tokens shall be bound to it.
#[derive(Clone)]
pub struct ClientCertificate {
    thumbprint: Thumbprint,
    /// With its key, for an issuer that binds tokens to what is shown to it (RFC 8705, section 3).
    shown: Option<ClientCert>,
}

impl ClientCertificate {
    /// The first certificate of a PEM file, with the others as its chain and its private key in PEM.
    ///
    /// # Errors
    /// [`BindingError`] when the file cannot be read, or one of the two is none.
    pub fn of_file(path: &Path, key: &[u8]) -> Result<Self, BindingError> {
        let failed = |reason: String| BindingError::Certificate { path: path.to_owned(), reason };
        let thumbprint = Thumbprint::of_file(path)?;
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let mut chain = Vec::new();
        for item in ureq::tls::parse_pem(&pem) {
            if let PemItem::Certificate(one) = item.map_err(|error| failed(error.to_string()))? {
                chain.push(one);
            }
        }
        let key = PrivateKey::from_pem(key).map_err(|error| BindingError::Key { reason: error.to_string() })?;
        Ok(Self { thumbprint, shown: Some(ClientCert::new_with_certs(&chain, key)) })
    }

    /// What a token names it by.
    #[must_use]
    pub(crate) fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    pub(super) fn shown(&self) -> Option<&ClientCert> {
        self.shown.as_ref()
    }
}

/// Where only its name is known, no issuer is shown it.
impl From<Thumbprint> for ClientCertificate {
    fn from(thumbprint: Thumbprint) -> Self {
        Self { thumbprint, shown: None }
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.thumbprint.as_str())
    }
}

/// How the holder of a token is recognised (RFC 7800): by its certificate, or in a way that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The certificate that must be shown with the token.
    #[serde(rename = "x5t#S256", default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Thumbprint>,
}

impl From<Thumbprint> for Confirmation {
    fn from(certificate: Thumbprint) -> Self {
        Self { certificate: Some(certificate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_the_hash_of_the_certificate_and_not_of_its_file() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("# a chain\n{}", made.cert.pem())).unwrap();
        let thumbprint = Thumbprint::of_file(file.path()).unwrap();
        let bytes = BASE64URL.decode(thumbprint.as_str()).unwrap();
        assert_eq!(bytes, Sha256::digest(made.cert.der()).to_vec());
        let claim = serde_json::to_value(Confirmation::from(thumbprint.clone())).unwrap();
        assert_eq!(claim, serde_json::json!({ "x5t#S256": thumbprint.as_str() }));
        std::fs::write(file.path(), "nothing").unwrap();
        assert!(Thumbprint::of_file(file.path()).unwrap_err().to_string().contains("broker.client_cert"));
    }
}
