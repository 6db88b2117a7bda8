//! Certificates of a test's own: a CA, what it signed, and a client's TLS with them.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Writes a CA and what it signed: `NAME.pem`, and `NAME-leaf.pem` with its key for `localhost`.
pub(crate) fn authority(folder: &Path, name: &str, leaf: impl FnOnce(&mut CertificateParams)) {
    let issuer = ca(folder, name);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    leaf(&mut params);
    signed(folder, &format!("{name}-leaf"), &params, &issuer);
}

/// Writes a CA, `NAME.pem`, and a certificate for each of `leaves` with its key: `LEAF.pem`, `LEAF.key`.
pub(crate) fn authority_of(folder: &Path, name: &str, leaves: &[&str]) {
    let issuer = ca(folder, name);
    for leaf in leaves {
        signed(folder, leaf, &CertificateParams::new(vec!["localhost".to_owned()]).unwrap(), &issuer);
    }
}

fn ca(folder: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("{name} CA"));
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), issuer.pem()).unwrap();
    issuer
}

fn signed(folder: &Path, name: &str, params: &CertificateParams, issuer: &CertifiedIssuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    let file = folder.join(format!("{name}.key"));
    std::fs::write(&file, key.serialize_pem()).unwrap();
    // The gateway takes no key that everybody may read.
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// TLS that trusts the CA in `ca`, and shows the certificate of this name where one is given.
pub(crate) fn client_tls(folder: &Path, ca: &str, certificate: Option<&str>) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join(ca)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    Arc::new(match certificate {
        None => config.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap()];
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    })
}
