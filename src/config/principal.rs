//! A local user or group, by number or by name. A name is looked up once, when the configuration is read: in the
//! machine's own files, never over a network.

use std::{fs, io};

use serde::{Deserialize, Deserializer};

/// A local user or group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// A user id.
    Uid(u32),
    /// A group id, primary or supplementary.
    Gid(u32),
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text, fs::read_to_string).map_err(serde::de::Error::custom)
    }
}

/// `uid:1000`, `gid:27`, `user:kim` or `group:plugdev`.
fn parse(text: &str, read: impl Fn(&'static str) -> io::Result<String>) -> Result<Principal, String> {
    let (kind, whom) = text.split_once(':').unwrap_or_default();
    let look_up = |file, what, number| {
        let entries = read(file).map_err(|error| format!("{text:?} cannot be looked up: {file}: {error}"))?;
        id_of(&entries, whom).ok_or_else(|| {
            format!("{text:?} names nobody: {file} has no {what} {whom:?}; add it, or write its number (\"{number}\")")
        })
    };
    match (kind, whom.parse()) {
        ("uid", Ok(uid)) => Ok(Principal::Uid(uid)),
        ("gid", Ok(gid)) => Ok(Principal::Gid(gid)),
        ("user", _) => look_up("/etc/passwd", "user", "uid:1000").map(Principal::Uid),
        ("group", _) => look_up("/etc/group", "group", "gid:27").map(Principal::Gid),
        _ => Err(format!(
            "{text:?} names nobody: \"user:kim\", \"group:plugdev\", \"uid:1000\" or \"gid:27\" is allowed"
        )),
    }
}

/// The id that a line of `/etc/passwd` or `/etc/group` gives to a name.
pub(crate) fn id_of(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(file: &'static str) -> io::Result<String> {
        match file {
            "/etc/passwd" => Ok("root:x:0:0::/:/bin/sh\nkim:x:1000:1001::/:/bin/sh\nbad\n".to_owned()),
            "/etc/group" => Ok("root:x:0:\nclaw:x:1:\nplugdev:x:27:kim\n".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[test]
    fn a_name_is_looked_up_in_the_file_of_its_kind() {
        assert_eq!(parse("user:kim", files), Ok(Principal::Uid(1000)));
        assert_eq!(parse("group:plugdev", files), Ok(Principal::Gid(27)));
        assert_eq!(parse("uid:7", files), Ok(Principal::Uid(7)));
        assert_eq!(parse("gid:7", files), Ok(Principal::Gid(7)));
    }

    #[test]
    fn who_is_not_there_is_refused_with_the_file_and_the_name() {
        for (text, file, name) in [("user:lee", "/etc/passwd", "\"lee\""), ("group:kim", "/etc/group", "\"kim\"")] {
            let said = parse(text, files).unwrap_err();
            assert!(said.contains(file) && said.contains(name), "{said}");
        }
        for nobody in ["kim", "uid:kim", "user:", "gid:-1", ""] {
            assert!(parse(nobody, files).unwrap_err().contains("names nobody"), "{nobody}");
        }
        let gone = parse("user:kim", |_| Err(io::ErrorKind::NotFound.into())).unwrap_err();
        assert!(gone.contains("/etc/passwd"), "{gone}");
    }

    #[test]
    fn ids_are_read_by_field() {
        assert_eq!(id_of("root:x:0:\nclawgate:x:998:kim\n", "clawgate"), Some(998));
        assert_eq!(id_of("claw:x:1:\n", "clawgate"), None);
        assert_eq!(id_of("short\n", "short"), None);
    }
}
