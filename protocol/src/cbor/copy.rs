//! Copying a map without some of its keys.

use super::reader::{Key, MAX_DEPTH};
use super::{CborError, Reader, Writer};

/// Copies the map `map` without the keys in `without` (the protocol's "encoded again without that key").
/// Returns how many bytes were written.
///
/// # Errors
/// As the reader's for `map`; `NoRoom`.
pub fn copy_without(map: &[u8], without: &[i64], out: &mut [u8]) -> Result<usize, CborError> {
    let kept = |key: i64| !without.contains(&key);
    let mut entries: usize = 0;
    for_each_entry(map, |key, _| {
        entries = entries.saturating_add(usize::from(key.is_none_or(kept)));
        Ok(())
    })?;
    let mut writer = Writer::new(out);
    writer.map(entries)?;
    for_each_entry(map, |key, entry| if key.is_none_or(kept) { writer.raw(entry).map(|_| ()) } else { Ok(()) })?;
    Ok(writer.len())
}

/// Calls `each` with the integer key, if it is one, and the encoded key and value of every entry.
fn for_each_entry(
    map: &[u8],
    mut each: impl FnMut(Option<i64>, &[u8]) -> Result<(), CborError>,
) -> Result<(), CborError> {
    let mut reader = Reader::new(map);
    let mut entries = reader.map()?;
    loop {
        let start = entries.value().position();
        let key = match entries.key(MAX_DEPTH)? {
            Some(Key::Integer(key)) => Some(key),
            Some(Key::Other) => None,
            None => break,
        };
        entries.value().skip()?;
        each(key, map.get(start..entries.value().position()).ok_or(CborError::Malformed)?)?;
    }
    reader.end()
}
