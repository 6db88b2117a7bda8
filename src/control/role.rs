//! Who is at the other end of the socket, and what that user may do.
//!
//! The kernel says who connected (`SO_PEERCRED`), the configuration which role that user has. A user's further
//! groups are read from `/etc/group` by the name that `/etc/passwd` gives to the uid: never from the peer's
//! process, which could be another one by then.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::audit::Actor;
use crate::cli::exit::Exit;
use crate::config::{Principal, RolesConfig};

/// What a user may do; each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May look.
    Viewer,
    /// May pair, unpair, name devices, and make codes.
    Operator,
    /// May also revoke and rotate tokens, and export the audit log.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// The user at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Login name, where `/etc/passwd` has one.
    pub name: Option<String>,
    /// Groups that `/etc/group` lists for that name.
    groups: Vec<u32>,
}

impl Caller {
    /// The user with these ids, with what the system's files know of it.
    #[must_use]
    pub(crate) fn of(uid: u32, gid: u32) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = login_name(&passwd, uid);
        let groups = match &name {
            Some(name) => groups_of(&fs::read_to_string("/etc/group").unwrap_or_default(), name),
            None => Vec::new(),
        };
        Self { uid, gid, name, groups }
    }

    /// The highest role that the configuration gives; root and the daemon's own user are admin.
    #[must_use]
    pub(crate) fn role(&self, roles: &RolesConfig) -> Option<Role> {
        let own = rustix::process::geteuid().as_raw();
        if self.uid == 0 || self.uid == own || self.is_in(&roles.admin) {
            Some(Role::Admin)
        } else if self.is_in(&roles.operator) {
            Some(Role::Operator)
        } else if self.is_in(&roles.viewer) {
            Some(Role::Viewer)
        } else {
            None
        }
    }

    /// Refuses with the role that is missing.
    ///
    /// # Errors
    /// `forbidden`, where the user's role is lower than `needed`.
    pub(crate) fn require(&self, needed: Role, roles: &RolesConfig) -> Result<(), Failure> {
        let has = self.role(roles);
        if has >= Some(needed) {
            return Ok(());
        }
        let has = has.map_or_else(|| "no role".to_owned(), |role| format!("the role {role}"));
        Err(Failure::new(
            Exit::Failed,
            "forbidden",
            format!("This needs the role {needed}; uid {} has {has}.", self.uid),
            format!("Run it as root, or add \"uid:{}\" to control.roles.{needed} in clawgate.toml.", self.uid),
        ))
    }

    /// As the audit log names the user.
    #[must_use]
    pub(crate) fn actor(&self) -> Actor {
        Actor::Uid { uid: self.uid, name: self.name.clone() }
    }

    fn is_in(&self, principals: &[Principal]) -> bool {
        principals.iter().any(|principal| match *principal {
            Principal::Uid(uid) => uid == self.uid,
            Principal::Gid(gid) => gid == self.gid || self.groups.contains(&gid),
        })
    }
}

fn login_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn groups_of(group_file: &str, name: &str) -> Vec<u32> {
    let gid_if_member = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields.as_slice() else { return None };
        members.split(',').any(|member| member == name).then(|| gid.parse().ok())?
    };
    group_file.lines().filter_map(gid_if_member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> RolesConfig {
        RolesConfig {
            viewer: vec![Principal::Gid(70_100)],
            operator: vec![Principal::Uid(70_002)],
            admin: vec![Principal::Uid(70_003)],
        }
    }

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, name: None, groups: Vec::new() }
    }

    #[test]
    fn each_user_has_the_role_the_configuration_gives() {
        assert_eq!(caller(70_009, 70_100).role(&roles()), Some(Role::Viewer));
        assert_eq!(caller(70_002, 9).role(&roles()), Some(Role::Operator));
        assert_eq!(caller(70_003, 9).role(&roles()), Some(Role::Admin));
        assert_eq!(caller(0, 0).role(&roles()), Some(Role::Admin));
        assert_eq!(caller(70_004, 9).role(&roles()), None);
    }

    #[test]
    fn a_supplementary_group_counts() {
        let by_group = Caller { groups: vec![70_100], ..caller(70_004, 9) };
        assert_eq!(by_group.role(&roles()), Some(Role::Viewer));
    }

    #[test]
    fn a_refusal_names_the_role_that_is_needed() {
        let failure = caller(70_002, 9).require(Role::Admin, &roles()).unwrap_err();
        assert_eq!(failure.code, "forbidden");
        assert!(failure.message.contains("needs the role admin"), "{failure}");
        assert!(failure.message.contains("has the role operator"), "{failure}");
        assert!(caller(70_002, 9).require(Role::Viewer, &roles()).is_ok());
    }

    #[test]
    fn the_systems_files_are_read_by_field() {
        assert_eq!(login_name("root:x:0:0::/:/bin/sh\nkim:x:1000:1000::/:/bin/sh\n", 1000).as_deref(), Some("kim"));
        assert_eq!(groups_of("dialout:x:20:kim,lee\nempty:x:21:\nbad\nkim:x:1000:\n", "kim"), [20]);
    }
}
