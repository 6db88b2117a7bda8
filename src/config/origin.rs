//! Where each key of the configuration stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The file that said each key; a key of no file has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origins(BTreeMap<String, PathBuf>);

impl Origins {
    /// Takes in a file; it wins over those before it.
    pub(super) fn add(&mut self, path: &Path, table: &toml::Table) {
        let values = serde_json::to_value(table).unwrap_or_default();
        self.0.extend(keys(&values).into_iter().map(|(key, _)| (key, path.to_owned())));
    }

    /// The file that says this key.
    pub(crate) fn of(&self, key: &str) -> Option<&Path> {
        self.0.get(key).map(PathBuf::as_path)
    }
}

/// Every key with its value, dotted, sorted; a table with nothing in it stands for itself.
pub(crate) fn keys(values: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    gather("", values, &mut all);
    all
}

fn gather(before: &str, value: &Value, into: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (key, value) in table {
                let dotted = if before.is_empty() { key.clone() } else { format!("{before}.{key}") };
                gather(&dotted, value, into);
            }
        }
        value => into.push((before.to_owned(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_file_is_where_a_key_stands() {
        let mut origins = Origins::default();
        origins.add(Path::new("/a"), &toml::from_str("[log]\nlevel = \"warn\"\n[pairing]\nttl = \"5m\"").unwrap());
        origins
            .add(Path::new("/b"), &toml::from_str("[pairing]\nttl = \"6m\"\n[uart.ports.x]\npath = \"/x\"").unwrap());
        assert_eq!(origins.of("log.level"), Some(Path::new("/a")));
        assert_eq!(origins.of("pairing.ttl"), Some(Path::new("/b")));
        assert_eq!(origins.of("uart.ports.x.path"), Some(Path::new("/b")));
        assert_eq!(origins.of("pairing"), None);
        assert_eq!(origins.of("mode"), None);
    }
}
