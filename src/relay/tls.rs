//! TLS towards the broker: the pinned CA, a client certificate where asked for, and no way around either.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::RelayError;
use crate::secret::Secret;

/// Certificates in files, and the key of the client's; all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The only CA that the broker's certificate may come from.
    pub ca: PathBuf,
    /// Client certificate chain and its key, where the broker asks for them.
    pub client: Option<(PathBuf, ClientKey)>,
}

/// The key of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKey {
    /// The PEM text.
    pub pem: Secret<Vec<u8>>,
    /// Where it came from, for people.
    pub from: String,
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
                let path = PathBuf::from(&key.from);
                let secret = PrivateKeyDer::from_pem_slice(key.pem.expose())
                    .map_err(|_| RelayError::NoPem { path: path.clone(), what: "private key" })?;
                builder.with_client_auth_cert(chain, secret).map_err(|source| RelayError::Tls { path, source })?
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
