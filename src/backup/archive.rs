//! The files inside of the seal: a name, a length, the bytes; an empty name ends them.

use std::io::{self, Read, Write};

/// Longest name, with its folder.
const MAX_NAME: usize = 200;

pub(super) fn put(out: &mut impl Write, name: &str, length: u64, content: &mut impl Read) -> io::Result<()> {
    head(out, name, length)?;
    if io::copy(&mut content.take(length), out)? != length {
        return Err(io::Error::other(format!("{name} grew shorter while it was read")));
    }
    Ok(())
}

/// Marks the end.
pub(super) fn end(out: &mut impl Write) -> io::Result<()> {
    head(out, "", 0)
}

fn head(out: &mut impl Write, name: &str, length: u64) -> io::Result<()> {
    let size = u8::try_from(name.len()).map_err(io::Error::other)?;
    out.write_all(&[size])?;
    out.write_all(name.as_bytes())?;
    out.write_all(&length.to_be_bytes())
}

/// Name and length of the next file, whose bytes follow; `None` at the end.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut size = [0];
    from.read_exact(&mut size)?;
    let mut name = vec![0; usize::from(size[0])];
    from.read_exact(&mut name)?;
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let name = String::from_utf8(name).map_err(io::Error::other)?;
    if name.is_empty() {
        return Ok(None);
    }
    if !is_safe(&name) {
        return Err(io::Error::other(format!("{name:?} is no name of a file of ours")));
    }
    Ok(Some((name, u64::from_be_bytes(length))))
}

/// A file, or a file in one folder; nothing that leads elsewhere.
pub(super) fn is_safe(name: &str) -> bool {
    let plain = |part: &str| {
        let all = part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        all && !part.is_empty() && !part.starts_with('.')
    };
    name.len() <= MAX_NAME && name.split('/').count() <= 2 && name.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_out_as_they_went_in() {
        let mut out = Vec::new();
        put(&mut out, "state.db", 3, &mut &b"abc"[..]).unwrap();
        put(&mut out, "audit/1.log", 0, &mut &b""[..]).unwrap();
        end(&mut out).unwrap();
        let mut from = &out[..];
        assert_eq!(next(&mut from).unwrap(), Some(("state.db".to_owned(), 3)));
        io::copy(&mut (&mut from).take(3), &mut io::sink()).unwrap();
        assert_eq!(next(&mut from).unwrap(), Some(("audit/1.log".to_owned(), 0)));
        assert_eq!(next(&mut from).unwrap(), None);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for bad in ["../x", "/etc/passwd", "a/../b", "a/b/c", ".hidden", "a//b", "a/", "a\nb", "a\0"] {
            assert!(!is_safe(bad), "{bad:?}");
            let mut out = Vec::new();
            put(&mut out, bad, 0, &mut &b""[..]).unwrap();
            assert!(next(&mut &out[..]).is_err(), "{bad:?}");
        }
    }
}
