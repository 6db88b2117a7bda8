//! The certificate that a client showed the broker.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ffi;

/// SHA-256 over the certificate's DER in base64url, as `x5t#S256` has it (RFC 8705, section 3.1); `None` where the
/// client showed none: mosquitto asks for one only with `require_certificate true`.
pub(crate) fn thumbprint(client: *const ffi::Client) -> Option<String> {
    // SAFETY: the broker hands over the client that is connecting.
    let certificate = unsafe { ffi::mosquitto_client_certificate(client) };
    if certificate.is_null() {
        return None;
    }
    // SAFETY: a constant of OpenSSL's.
    let sha256 = unsafe { ffi::EVP_sha256() };
    // The longest hash that OpenSSL knows (`EVP_MAX_MD_SIZE`) has 64 bytes, this one 32.
    let (mut hash, mut length) = ([0_u8; 64], 0);
    // SAFETY: the certificate is not null and ours until it is freed below; the buffer takes any hash.
    let done = unsafe { ffi::X509_digest(certificate, sha256, hash.as_mut_ptr(), &raw mut length) };
    // SAFETY: the broker gave a reference of its own, which is given back once.
    unsafe { ffi::X509_free(certificate) };
    let hash = hash.get(..usize::try_from(length).ok()?)?;
    (done == 1).then(|| URL_SAFE_NO_PAD.encode(hash))
}
