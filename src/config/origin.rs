//! Where each key of the configuration stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// The file that said each key; a key of no file has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origins(BTreeMap<String, PathBuf>);

impl Origins {
    /// Takes in a file; it wins over those before it.
    pub(super) fn add(&mut self, path: &Path, table: &DeTable<'_>) {
        self.add_below("", path, table);
    }

    fn add_below(&mut self, before: &str, path: &Path, table: &DeTable<'_>) {
        for (key, value) in table {
            let dotted = dotted(before, key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if !inner.is_empty() => self.add_below(&dotted, path, inner),
                _ => drop(self.0.insert(dotted, path.to_owned())),
            }
        }
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
                gather(&dotted(before, key), value, into);
            }
        }
        value => into.push((before.to_owned(), value.clone())),
    }
}

fn dotted(before: &str, key: &str) -> String {
    if before.is_empty() { key.to_owned() } else { format!("{before}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_file_is_where_a_key_stands() {
        let mut origins = Origins::default();
        let mut add = |path: &str, text| origins.add(Path::new(path), DeTable::parse(text).unwrap().get_ref());
        add("/a", "[log]\nlevel = \"warn\"\n[pairing]\nttl = \"5m\"");
        add("/b", "[pairing]\nttl = \"6m\"\n[uart.ports.x]\npath = \"/x\"");
        assert_eq!(origins.of("log.level"), Some(Path::new("/a")));
        assert_eq!(origins.of("pairing.ttl"), Some(Path::new("/b")));
        assert_eq!(origins.of("uart.ports.x.path"), Some(Path::new("/b")));
        assert_eq!(origins.of("pairing"), None);
        assert_eq!(origins.of("mode"), None);
    }
}
