//! Named secrets: the gateway's own static key and the keys of its parts.

use rusqlite::OptionalExtension;
use zeroize::Zeroizing;

use super::error::failed;
use super::{Place, Store, StoreError};
use crate::secret::Secret;

/// Names of devices' refresh tokens begin so.
pub(crate) const REFRESH_TOKEN: &str = "refresh-token.";

/// Name of the gateway's static secret.
const STATIC: &str = "gateway-static";

fn place(name: &str) -> Place<'_> {
    Place { table: "secrets", row: name, name: "secret" }
}

impl Store {
    /// The gateway's X25519 static secret; made at the first call.
    ///
    /// # Errors
    /// [`StoreError::Unsealable`] when it was altered, [`StoreError::Database`] and [`StoreError::Random`].
    pub(crate) fn gateway_identity(&self) -> Result<Secret<[u8; 32]>, StoreError> {
        self.seed(STATIC)
    }

    /// A new static secret for the pairings to come; those there are have the one that they were made with.
    ///
    /// # Errors
    /// [`StoreError::Database`] and [`StoreError::Random`]; the old one is kept then.
    pub(crate) fn renew_gateway_identity(&self) -> Result<Secret<[u8; 32]>, StoreError> {
        let mut fresh = Zeroizing::new([0u8; 32]);
        getrandom::fill(fresh.as_mut()).map_err(|error| StoreError::Random(error.to_string()))?;
        self.put_secret(STATIC, fresh.as_ref())?;
        Ok(Secret::new(*fresh))
    }

    /// When the static secret was made, in milliseconds since 1970.
    pub(crate) fn gateway_identity_made_ms(&self) -> Result<Option<i64>, StoreError> {
        self.secret_made_ms(STATIC)
    }

    /// 32 secret random bytes under `name`, made at the first call: the seed of a key.
    ///
    /// # Errors
    /// As [`Self::gateway_identity`].
    pub fn seed(&self, name: &str) -> Result<Secret<[u8; 32]>, StoreError> {
        if self.secret(name)?.is_none() {
            let mut fresh = Zeroizing::new([0u8; 32]);
            getrandom::fill(fresh.as_mut()).map_err(|error| StoreError::Random(error.to_string()))?;
            self.write_secret("INSERT OR IGNORE", name, fresh.as_ref())?;
        }
        // Read back also what was just made: of two callers at once both get the one that was kept.
        let kept = self.secret(name)?.ok_or_else(|| StoreError::Unsealable(name.to_owned()))?;
        let bytes =
            <[u8; 32]>::try_from(kept.expose().as_slice()).map_err(|_| StoreError::Unsealable(name.to_owned()))?;
        Ok(Secret::new(bytes))
    }

    /// The secret under `name`, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unsealable`] when it was altered, [`StoreError::Database`].
    pub fn secret(&self, name: &str) -> Result<Option<Secret<Vec<u8>>>, StoreError> {
        let under = self.sealer();
        let sealed: Option<Vec<u8>> = self
            .db()
            .query_row("SELECT sealed FROM secrets WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(failed("read a secret"))?;
        sealed.map(|sealed| under.open(place(name), &sealed)).transpose()
    }

    /// Seals `secret` under `name`, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Random`].
    pub fn put_secret(&self, name: &str, secret: &[u8]) -> Result<(), StoreError> {
        self.write_secret("INSERT OR REPLACE", name, secret)
    }

    /// Seals several secrets in place of earlier ones: all of them or none.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Random`].
    pub(crate) fn put_secrets(&self, secrets: &[(&str, &[u8])]) -> Result<(), StoreError> {
        let error = failed("write secrets");
        let under = self.sealer();
        let mut db = self.db();
        let transaction = db.transaction().map_err(&error)?;
        for (name, secret) in secrets {
            let sealed = under.seal(place(name), secret)?;
            transaction
                .execute(
                    "INSERT OR REPLACE INTO secrets (name, sealed, made_ms) VALUES (?1, ?2, ?3)",
                    (name, sealed, self.now_ms()),
                )
                .map_err(&error)?;
        }
        transaction.commit().map_err(error)
    }

    /// When the secret under `name` was sealed, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn secret_made_ms(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.db()
            .query_row("SELECT made_ms FROM secrets WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(failed("read when a secret was made"))
    }

    /// Forgets the secret under `name`; none is no error.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn remove_secret(&self, name: &str) -> Result<(), StoreError> {
        let removed = self.db().execute("DELETE FROM secrets WHERE name = ?1", [name]);
        removed.map(drop).map_err(failed("remove a secret"))
    }

    /// Forgets every device's refresh token: whoever else has a copy of this state may have used them since.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn remove_refresh_tokens(&self) -> Result<usize, StoreError> {
        let all = "DELETE FROM secrets WHERE substr(name, 1, length(?1)) = ?1";
        self.db().execute(all, [REFRESH_TOKEN]).map_err(failed("remove refresh tokens"))
    }

    /// Forgets the refresh tokens of devices that are not there any more: a rename that was cut off left one. Who gets the
    /// name next is approved anew. How many.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) fn remove_refresh_tokens_of_nobody(&self) -> Result<usize, StoreError> {
        let nobodys = "DELETE FROM secrets WHERE substr(name, 1, length(?1)) = ?1
                       AND substr(name, length(?1) + 1) NOT IN (SELECT id FROM devices)";
        self.db().execute(nobodys, [REFRESH_TOKEN]).map_err(failed("remove refresh tokens of nobody"))
    }

    fn write_secret(&self, how: &str, name: &str, secret: &[u8]) -> Result<(), StoreError> {
        let under = self.sealer();
        let sealed = under.seal(place(name), secret)?;
        self.db()
            .execute(
                &format!("{how} INTO secrets (name, sealed, made_ms) VALUES (?1, ?2, ?3)"),
                (name, sealed, self.now_ms()),
            )
            .map(drop)
            .map_err(failed("write a secret"))
    }
}
