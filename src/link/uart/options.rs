//! Which serial ports the gateway may touch. Nothing outside this list is ever opened.

use std::path::{Path, PathBuf};

/// The serial ports of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UartOptions {
    /// The ports, each by its stable path.
    pub ports: Vec<PortOptions>,
}

/// One port, or several by a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOptions {
    /// What the operator calls it; of a glob, the matches after the first get `NAME.2`, `NAME.3`.
    pub name: String,
    /// An absolute path, best one of `/dev/serial/by-id/`; `*` and `?` may stand in its last part.
    pub path: PathBuf,
    /// Line speed, bits per second.
    pub baud: u32,
}

/// One port to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// The name of the option it comes from.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) baud: u32,
}

impl UartOptions {
    /// The ports as they stand on the machine now: a plain path always, a glob for each match.
    /// Where two lines name the same path, the first counts.
    pub(crate) fn expand(&self) -> Vec<Port> {
        let mut ports: Vec<Port> = Vec::new();
        for option in &self.ports {
            for path in option.matches() {
                if ports.iter().all(|port| port.path != path) {
                    ports.push(Port { name: option.name.clone(), path, baud: option.baud });
                }
            }
        }
        ports
    }
}

impl PortOptions {
    fn matches(&self) -> Vec<PathBuf> {
        let Some((folder, pattern)) = self.glob() else {
            return vec![self.path.clone()];
        };
        let Ok(entries) = folder.read_dir() else {
            return Vec::new();
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| fits(pattern, name)))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    /// Folder and pattern, where the last part of the path is one.
    fn glob(&self) -> Option<(&Path, &str)> {
        let pattern = self.path.file_name()?.to_str()?;
        pattern.contains(['*', '?']).then_some((self.path.parent()?, pattern))
    }
}

/// Whether `name` fits a pattern of `*` (any run) and `?` (any one character).
fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at_pattern, mut at_name) = (0, 0);
    // Where to go on when the run that the last `*` took was too short.
    let mut retry: Option<(usize, usize)> = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some('*') => {
                retry = Some((at_pattern, at_name + 1));
                at_pattern += 1;
            }
            Some(&c) if c == '?' || c == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => match retry {
                Some((star, next)) => {
                    retry = Some((star, next + 1));
                    at_pattern = star + 1;
                    at_name = next;
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_lists_what_fits_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["usb-FTDI_A-port0", "usb-FTDI_B-port0", "usb-Quectel-port1"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let line =
            |pattern: &str| PortOptions { name: "line".to_owned(), path: folder.path().join(pattern), baud: 9600 };
        let options = UartOptions { ports: vec![line("usb-FTDI_A-port0"), line("usb-FTDI*"), line("absent")] };
        let names: Vec<String> =
            options.expand().iter().map(|p| p.path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["usb-FTDI_A-port0", "usb-FTDI_B-port0", "absent"]);
    }

    #[test]
    fn a_pattern_takes_runs_and_single_characters() {
        assert!(fits("tty*", "ttyUSB0") && fits("ttyUSB?", "ttyUSB0") && fits("*a*b", "xaab") && fits("*", ""));
        assert!(!fits("ttyUSB?", "ttyUSB10") && !fits("tty", "ttyS0") && !fits("?", ""));
    }
}
