//! The factory page: what is written into a unit's flash once, when it is made.

use clawgate_protocol::code::Code;
use clawgate_protocol::id::Id;
use clawgate_protocol::pairing::Suite;

/// The length of the page.
pub const FACTORY_LEN: usize = 64;

/// Who the unit is.
#[derive(Debug)]
pub struct Factory {
    /// Its id.
    pub device: Id,
    /// The code on its label, random per unit.
    pub label: Option<Code>,
    /// The highest suite that it is to do, if not the highest it can.
    pub max_suite: Option<Suite>,
}

impl Factory {
    /// Reads `ID LF [CODE] LF [SUITE]`, then 0xff. None if there is no valid id; a label that is no code is none.
    #[must_use]
    pub fn parse(page: &[u8; FACTORY_LEN]) -> Option<Self> {
        let mut lines = page.split(|byte| *byte == b'\n').map(core::str::from_utf8);
        let device = lines.next()?.ok()?.parse().ok()?;
        let label = lines.next().and_then(Result::ok).and_then(|code| Code::parse(code).ok());
        let max_suite = match page.splitn(3, |byte| *byte == b'\n').nth(2).and_then(<[u8]>::first) {
            Some(b'1') => Some(Suite::One),
            Some(b'2') => Some(Suite::Two),
            _ => None,
        };
        Some(Self { device, label, max_suite })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &[u8]) -> [u8; FACTORY_LEN] {
        let mut page = [0xff; FACTORY_LEN];
        page[..text.len()].copy_from_slice(text);
        page
    }

    #[test]
    fn a_unit_has_an_id_and_perhaps_a_label() {
        let whole = Factory::parse(&page(b"unit-7\nK7QF-3M9B\n")).unwrap();
        assert_eq!((whole.device.as_str(), whole.label.is_some()), ("unit-7", true));
        assert!(Factory::parse(&page(b"unit-7\n\n")).unwrap().label.is_none());
        assert_eq!(whole.max_suite, None);
        let first = Factory::parse(&page(b"unit-7\nK7QF-3M9B\n1")).unwrap();
        assert_eq!((first.label.is_some(), first.max_suite), (true, Some(Suite::One)));
        assert!(Factory::parse(&page(b"")).is_none(), "never programmed");
    }
}
