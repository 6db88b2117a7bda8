//! The options of the plugin, as they stand in the broker's configuration.

use std::path::PathBuf;

/// Where keys and deny list are, and whose tokens are taken for which broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) key_file: PathBuf,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) denylist_file: Option<PathBuf>,
}

impl Options {
    /// From the pairs of the broker's configuration.
    ///
    /// # Errors
    /// Which option is missing or not known.
    pub(crate) fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut options = Self::default();
        for (key, value) in pairs {
            match key {
                "key_file" => options.key_file = value.into(),
                "issuer" => value.clone_into(&mut options.issuer),
                "audience" => value.clone_into(&mut options.audience),
                "denylist_file" => options.denylist_file = Some(value.into()),
                other => return Err(format!("plugin_opt_{other} is not known")),
            }
        }
        for (name, empty) in [
            ("key_file", options.key_file.as_os_str().is_empty()),
            ("issuer", options.issuer.is_empty()),
            ("audience", options.audience.is_empty()),
        ] {
            if empty {
                return Err(format!("plugin_opt_{name} is missing"));
            }
        }
        Ok(options)
    }
}
