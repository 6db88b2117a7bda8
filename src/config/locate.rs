//! Where in a TOML text something stands, and which key was probably meant.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Line of a byte offset, counted from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// The dotted key whose name or value covers the span; empty where there is none.
pub(super) fn key_at(text: &str, span: &Range<usize>) -> String {
    let mut path = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        descend(table.get_ref(), span, &mut path);
    }
    path.join(".")
}

/// Where a dotted key stands, or else the deepest table it belongs into: how many of its parts are there, and the line.
pub(super) fn line_of_key(text: &str, key: &str) -> Option<(usize, usize)> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut found) = (root.get_ref(), None);
    for (depth, part) in key.split('.').enumerate() {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else { break };
        found = Some((depth + 1, line_of(text, name.span().start)));
        let DeValue::Table(inner) = value.get_ref() else { break };
        table = inner;
    }
    found
}

fn descend(table: &DeTable<'_>, span: &Range<usize>, path: &mut Vec<String>) -> bool {
    for (key, value) in table {
        let inside = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
        path.push(key.get_ref().to_string());
        if let DeValue::Table(inner) = value.get_ref()
            && descend(inner, span, path)
        {
            return true;
        }
        if inside(key.span()) || inside(value.span()) {
            return true;
        }
        path.pop();
    }
    false
}

/// Of the keys that are allowed, the one nearest to what was written; `None` where none is near.
pub(super) fn nearest<'a>(written: &str, allowed: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (written.len() / 3).max(2);
    allowed.map(|key| (distance(written, key), key)).filter(|(d, _)| *d <= limit).min().map(|(_, key)| key)
}

/// Levenshtein distance in bytes; keys are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (*cell + 1).min(left + 1).min(diagonal + usize::from(ca != cb));
            diagonal = *cell;
            *cell = here;
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        let allowed = || ["commit_ms", "max_bytes"].into_iter();
        assert_eq!(nearest("comit_ms", allowed()), Some("commit_ms"));
        assert_eq!(nearest("maxbytes", allowed()), Some("max_bytes"));
        assert_eq!(nearest("listen", allowed()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_span_is_named_by_its_dotted_key() {
        let text = "mode = \"relay\"\n[uart.ports.flow]\nbaud = 7\n";
        let start = text.find('7').unwrap();
        assert_eq!(key_at(text, &(start..start + 1)), "uart.ports.flow.baud");
        assert_eq!(line_of(text, start), 3);
    }
}
