//! Checks a log against its signed checkpoint and, where one is kept elsewhere, an anchor.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::checkpoint::{Checkpoint, State};
use super::digest::Digest;
use super::line;
use super::rotation::{self, Rotation};
use super::segment::{self, Line};

/// What a log is held against beyond its own checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The public key that must have signed, now or before it signed in the one that does.
    pub key: Option<Digest>,
    /// A checkpoint of this log that was kept elsewhere.
    pub anchor: Option<Checkpoint>,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Lines read.
    pub lines: u64,
    /// Lines that the checkpoint speaks for.
    pub signed: u64,
    /// The signed Merkle root.
    pub root: Option<Digest>,
    /// The public key that signed; compare it with the one you know.
    pub key: Option<Digest>,
    /// What is wrong, first to last; empty for a log that is whole.
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// After so many findings the rest says nothing new.
const MOST_FINDINGS: usize = 20;

struct Check<'a> {
    trust: &'a Trust,
    checkpoint: Option<Checkpoint>,
    state: State,
    /// The changes of the key, from the oldest that is known.
    rotations: Vec<Rotation>,
    report: Report,
}

/// Reads the whole log in `dir`. It may be written to meanwhile.
///
/// # Errors
/// Only if a file cannot be read; whatever is wrong with the content is a finding.
pub fn verify(dir: &Path, trust: &Trust) -> io::Result<Report> {
    // The checkpoint before the lines: lines that are written meanwhile are merely not signed yet.
    let mut check = Check::start(dir, trust)?;
    let (files, base) = (segment::list(dir)?, check.state.edge.size);
    for (index, first) in files.iter().enumerate() {
        let next = files.get(index + 1);
        // Older than what is kept: a crash came between the checkpoint and the removal.
        if next.is_none_or(|next| *next > base) {
            check.file(dir, *first, next.is_none())?;
        }
    }
    Ok(check.end(dir))
}

impl<'a> Check<'a> {
    fn start(dir: &Path, trust: &'a Trust) -> io::Result<Self> {
        let report = Report { lines: 0, signed: 0, root: None, key: None, findings: Vec::new(), notes: Vec::new() };
        let mut check = Self { trust, checkpoint: None, state: State::default(), rotations: Vec::new(), report };
        let file = dir.join(super::checkpoint::FILE);
        match Checkpoint::read(dir)? {
            None => check.find(&file, None, "the signed checkpoint is missing: lines at the end may be missing too"),
            Some(Err(error)) => check.find(&file, None, format!("not a checkpoint: {error}")),
            Some(Ok(read)) if !read.is_genuine() => check.find(&file, None, "the signature is false: it was changed"),
            Some(Ok(read)) => {
                check.report.signed = read.size();
                check.report.root = Some(read.root());
                check.report.key = Some(read.key());
                check.state = read.body.base.clone();
                check.checkpoint = Some(read);
            }
        }
        if let Some(anchor) = &trust.anchor {
            if !anchor.is_genuine() {
                check.find(&file, None, "the anchor's signature is false: get it again from where it is kept");
            } else if anchor.size() < check.state.edge.size {
                check.report.notes.push("the lines that the anchor speaks for are no longer kept".to_owned());
            }
        }
        let base = check.state.edge.size;
        for rotation in rotation::kept(dir)?.into_iter().filter(|rotation| rotation.seq < base) {
            check.rotation(&dir.join(rotation::FILE), None, rotation);
        }
        // An anchor may be as long as what is no longer kept: then it vouches for where the lines begin.
        check.compare();
        Ok(check)
    }

    fn file(&mut self, dir: &Path, first: u64, is_last: bool) -> io::Result<()> {
        let path = &segment::path(dir, first);
        let mut number = 0;
        segment::read(path, |line, _| {
            number += 1;
            match line {
                Line::Whole(bytes) => {
                    let seq = self.line(path, number, &bytes);
                    // A reader goes by the names.
                    if let Some(seq) = seq.filter(|seq| number == 1 && *seq != first) {
                        self.find(path, Some(number), format!("number {seq} where the file's name says {first}"));
                    }
                }
                Line::Torn(bytes) if is_last => self.report.notes.push(format!(
                    "{}: {} bytes after the last line: a write that was cut off and never reported as done",
                    path.display(),
                    bytes.len()
                )),
                Line::Torn(_) => self.find(path, Some(number), "the file ends within a line"),
            }
        })
    }

    /// Takes up a line; its number, where it is one.
    fn line(&mut self, path: &Path, number: u64, bytes: &[u8]) -> Option<u64> {
        self.report.lines += 1;
        let Some((entry, hash)) = line::parse(bytes) else {
            self.find(path, Some(number), "the line was changed: it does not match its own hash");
            // Counted, so that the lines after it are still held against their own numbers.
            self.state.push(Digest::default());
            return None;
        };
        let (expected, prev) = (self.state.edge.size, self.state.last);
        if entry.seq != expected {
            let lost = if entry.seq > expected { "lines before it are missing" } else { "it is out of order" };
            self.find(path, Some(number), format!("number {} where {expected} belongs: {lost}", entry.seq));
        } else if entry.prev != prev {
            self.find(path, Some(number), "it does not follow from the line before: one of them was replaced");
        }
        // Go on from what stands there: one change is one finding.
        self.state.edge.size = entry.seq;
        self.state.push(hash);
        self.compare();
        if let Some(rotation) = Rotation::of(&entry) {
            self.rotation(path, Some(number), rotation);
        }
        Some(entry.seq)
    }

    /// Takes up a change of the key: the key before must have signed it, and have been in use until then.
    fn rotation(&mut self, path: &Path, number: Option<u64>, rotation: Rotation) {
        if !rotation.is_genuine() {
            return self.find(path, number, "the change of the key was not signed by the key before it");
        }
        if self.rotations.last().is_some_and(|before| before.to != rotation.from) {
            self.find(path, number, format!("{} was not the key in use, and signed another one in", rotation.from));
        }
        self.rotations.push(rotation);
    }

    /// The key in use at that size; none where no change of the key is known.
    fn key_at(&self, size: u64) -> Option<Digest> {
        let before = self.rotations.iter().rev().find(|rotation| rotation.seq < size).map(|rotation| rotation.to);
        before.or_else(|| self.rotations.first().map(|rotation| rotation.from))
    }

    /// Holds each signature against the key that was in use.
    fn keys(&mut self, dir: &Path) {
        let file = dir.join(super::checkpoint::FILE);
        let Some(newest) = &self.checkpoint else { return };
        let (newest, size) = (newest.key(), newest.size());
        if let Some(expected) = self.key_at(size).filter(|expected| *expected != newest) {
            self.find(&file, None, format!("signed by {newest}, but at its size the key in use was {expected}"));
        }
        let is_known = |key: Digest| {
            key == newest || self.rotations.iter().any(|rotation| rotation.from == key || rotation.to == key)
        };
        if self.trust.key.is_some_and(|key| !is_known(key)) {
            self.find(&file, None, format!("signed by another key: {newest}; no change of the key leads to it"));
        }
        if let Some(anchor) = self.trust.anchor.as_ref().filter(|anchor| anchor.is_genuine()) {
            let (key, expected) = (anchor.key(), self.key_at(anchor.size()).unwrap_or(newest));
            if key != expected {
                let what = format!("the anchor was signed by another key: {key}; at its size {expected} was in use");
                self.find(&file, None, what);
            }
        }
    }

    /// Holds the tree against the checkpoint and the anchor where it has their size.
    fn compare(&mut self) {
        let size = self.state.edge.size;
        let stated = [(self.checkpoint.as_ref(), "the signed checkpoint"), (self.trust.anchor.as_ref(), "the anchor")];
        let root = self.state.edge.root();
        let is_other = |checkpoint: &Checkpoint| checkpoint.size() == size && checkpoint.root() != root;
        for (is_other, name) in stated.map(|(checkpoint, name)| (checkpoint.is_some_and(is_other), name)) {
            if is_other {
                let what = format!("the {size} lines up to here are not those of {name}: at least one was replaced");
                self.find(Path::new(""), None, what);
            }
        }
    }

    fn end(mut self, dir: &Path) -> Report {
        self.keys(dir);
        let size = self.state.edge.size;
        let stated = [
            (self.report.signed, "the signed checkpoint"),
            (self.trust.anchor.as_ref().map_or(0, Checkpoint::size), "the anchor"),
        ];
        for (signed, name) in stated {
            if size < signed {
                self.find(
                    dir,
                    None,
                    format!("{name} speaks for {signed} lines, but the log ends after {size}: cut off"),
                );
            }
        }
        if self.checkpoint.is_some() && size > self.report.signed {
            let more = size - self.report.signed;
            self.report.notes.push(format!("the last {more} lines are not signed yet"));
        }
        for finding in &mut self.report.findings {
            if finding.file.as_os_str().is_empty() {
                dir.clone_into(&mut finding.file);
            }
        }
        self.report
    }

    fn find(&mut self, file: &Path, line: Option<u64>, what: impl Into<String>) {
        if self.report.findings.len() < MOST_FINDINGS {
            self.report.findings.push(Finding { file: file.to_owned(), line, what: what.into() });
        }
    }
}
