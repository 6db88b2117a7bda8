//! The ring in the form in which it is kept, without the key that signs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Held, Keys, RingError};
use crate::secret::Secret;
use crate::token::key::{Jwk, SigningKey};

#[derive(Serialize, Deserialize)]
struct Rest {
    made: u64,
    longest_s: u64,
    next: Option<Next>,
    retired: Vec<Retired>,
}

#[derive(Serialize, Deserialize)]
struct Next {
    /// PKCS#8, Base64.
    key: String,
    made: u64,
    starts: u64,
}

impl Drop for Next {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct Retired {
    key: Jwk,
    until: u64,
}

impl Keys {
    /// Everything but the key that signs.
    pub(super) fn rest(&self) -> Result<Secret<Vec<u8>>, RingError> {
        let next = match &self.next {
            Some((held, starts)) => {
                let key = BASE64.encode(held.key.to_pkcs8()?.expose());
                Some(Next { key, made: held.made, starts: *starts })
            }
            None => None,
        };
        let retired = self.retired.iter().map(|(key, _, until)| Retired { key: key.clone(), until: *until }).collect();
        let rest = Rest { made: self.signing.made, longest_s: self.longest_s, next, retired };
        serde_json::to_vec(&rest).map(Secret::new).map_err(|error| RingError::Kept(error.to_string()))
    }

    /// Takes in what was kept.
    ///
    /// # Errors
    /// [`RingError::Damaged`], [`RingError::Key`].
    pub(super) fn restore(&mut self, rest: &Secret<Vec<u8>>) -> Result<(), RingError> {
        let rest: Rest = serde_json::from_slice(rest.expose()).map_err(|_| RingError::Damaged)?;
        (self.signing.made, self.longest_s) = (rest.made, rest.longest_s);
        if let Some(next) = rest.next {
            let der = Zeroizing::new(BASE64.decode(next.key.as_bytes()).map_err(|_| RingError::Damaged)?);
            self.next = Some((Held::new(SigningKey::from_pkcs8(&der)?, next.made), next.starts));
        }
        for Retired { key, until } in rest.retired {
            let decoding = Some(key.decoding()?);
            self.retired.push((key, decoding, until));
        }
        Ok(())
    }
}
