//! The issuer's deny list, as it stands in its file.

use std::collections::HashMap;

/// First line of the file.
const HEADER: &str = "clawgate-denylist 1";

/// What was revoked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DenyList {
    /// The issuer's time when it wrote the file, seconds since 1970: ours is not before it.
    pub(crate) time: u64,
    tokens: HashMap<String, u64>,
    /// By client and subject: the last second whose tokens are denied.
    subjects: HashMap<(String, String), u64>,
}

impl DenyList {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The number of the first line that is not the issuer's.
    pub(crate) fn parse(text: &str) -> Result<Self, usize> {
        let mut list = Self::default();
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
        if lines.next().is_none_or(|(_, line)| line != HEADER) || !text.ends_with('\n') {
            return Err(1);
        }
        for (at, line) in lines {
            list.take(line).ok_or(at)?;
        }
        Ok(list)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["time", time] => self.time = time.parse().ok()?,
            ["jti", jti, exp] => {
                self.tokens.insert((*jti).to_owned(), exp.parse().ok()?);
            }
            ["sub", client, subject, iat, _exp] => {
                self.subjects.insert(((*client).to_owned(), (*subject).to_owned()), iat.parse().ok()?);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether this token was revoked.
    pub(crate) fn denies(&self, jti: &str, client: &str, subject: &str, iat: u64) -> bool {
        self.tokens.contains_key(jti)
            || self.subjects.get(&(client.to_owned(), subject.to_owned())).is_some_and(|cut| iat <= *cut)
    }
}
