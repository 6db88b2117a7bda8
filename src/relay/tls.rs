//! TLS towards the broker: the pinned CA, a client certificate where asked for, and no way around either.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use zeroize::Zeroizing;

use super::RelayError;
use crate::secret::Secret;

/// Certificates and keys, as files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The only CA that the broker's certificate may come from.
    pub ca: PathBuf,
    /// Client certificate chain and its key, where the broker asks for them.
    pub client: Option<(PathBuf, ClientKey)>,
}

/// The key of a client certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientKey {
    /// In a file.
    File(PathBuf),
    /// From elsewhere.
    Given {
        /// The PEM text.
        pem: Secret<Vec<u8>>,
        /// Where it came from, for people.
        from: String,
    },
}

impl From<PathBuf> for ClientKey {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl ClientKey {
    /// Where it is, and its PEM text.
    pub(crate) fn read(&self) -> Result<(PathBuf, Zeroizing<Vec<u8>>), RelayError> {
        match self {
            Self::File(path) => Ok((path.clone(), Zeroizing::new(read(path)?))),
            Self::Given { pem, from } => Ok((from.into(), Zeroizing::new(pem.expose().clone()))),
        }
    }
}

impl TlsFiles {
    /// Reads the files into what a connection needs. `alpn` names the protocol in the handshake, where a broker insists.
    pub(crate) fn load(&self, alpn: Option<&[u8]>) -> Result<Arc<ClientConfig>, RelayError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|source| RelayError::Tls { path: self.ca.clone(), source })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| RelayError::Tls { path: self.ca.clone(), source })?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain)?;
                let (key, text) = key.read()?;
                let secret = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|_| RelayError::NoPem { path: key.clone(), what: "private key" })?;
                builder.with_client_auth_cert(chain, secret).map_err(|source| RelayError::Tls { path: key, source })?
            }
        };
        config.alpn_protocols.extend(alpn.map(<[u8]>::to_vec));
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RelayError> {
    let text = read(path)?;
    let none = || RelayError::NoPem { path: path.to_owned(), what: "certificate" };
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, RelayError> {
    std::fs::read(path).map_err(|source| RelayError::File { path: path.to_owned(), source })
}
