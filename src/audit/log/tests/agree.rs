//! Two verifiers that know nothing of each other, ours and the one in Python, say the same of whatever was done to a log.

use std::collections::BTreeMap;
use std::process::Command;

use super::*;
use crate::audit::digest::leaf;

/// The files of a log by their names.
type Files = BTreeMap<String, Vec<u8>>;

/// Reads the folders that are named on standard input, a line each, and says of each in a line how many findings there
/// are.
const ALL: &str = r"
import pathlib, sys
import verify
for folder in map(pathlib.Path, sys.stdin.read().split('\n')[:-1]):
    anchor = folder / 'anchor'
    anchor = verify.Checkpoint.kept(anchor.read_text()) if anchor.exists() else None
    verifier = verify.Verifier(sys.argv[1], anchor)
    verify.verify_folder(verifier, folder / 'audit')
    print(len(verifier.end()))
";

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}

/// A log that lost its oldest files and changed its key twice, with two lines at its end that are not signed yet.
struct Good {
    fixture: Fixture,
    files: Files,
    /// Earlier states of the same log, whole each.
    earlier: Vec<Files>,
    /// Checkpoints that were kept: of lines that are gone, of lines in the middle, of the newest.
    anchors: Vec<String>,
    first_key: Digest,
    /// The file that is written to, and how much of it is signed.
    last: (String, usize),
}

impl Good {
    fn new() -> Self {
        let fixture = Fixture::new();
        let audit = fixture.open_within(SMALL);
        let (mut earlier, mut anchors) = (Vec::new(), Vec::new());
        record(&audit, 3);
        let first_key = audit.key();
        anchors.push(serde_json::to_string(&checkpoint(&audit)).unwrap());
        audit.rotate_key(&Secret::new([8; 32]), Actor::Daemon).unwrap();
        for _ in 0..3 {
            record(&audit, 23);
            earlier.push(read(&fixture.dir()));
            anchors.push(serde_json::to_string(&checkpoint(&audit)).unwrap());
        }
        audit.rotate_key(&Secret::new([7; 32]), Actor::Daemon).unwrap();
        record(&audit, 1);
        anchors.push(serde_json::to_string(&checkpoint(&audit)).unwrap());
        let mut files = read(&fixture.dir());
        let (name, signed) = newest(&files);
        audit.set_retention(Retention { max_bytes: 2 * SMALL.max_bytes, max_age: None });
        record(&audit, 2);
        let checkpoint = files.remove("checkpoint.json").unwrap();
        files = read(&fixture.dir());
        files.insert("checkpoint.json".to_owned(), checkpoint);
        assert!(!files.contains_key("audit-000000000000.jsonl") && files.contains_key("keys.jsonl"));
        Self { fixture, files, earlier, anchors, first_key, last: (name, signed) }
    }

    /// Whether all that is signed stands as it did.
    fn is_untouched(&self, files: &Files) -> bool {
        let (last, signed) = &self.last;
        let mut logs = self.files.iter().filter(|(name, _)| name.starts_with("audit-") && *name <= last);
        logs.all(|(name, bytes)| {
            let bytes = if name == last { &bytes[..*signed] } else { bytes };
            files.get(name).is_some_and(|kept| if name == last { kept.starts_with(bytes) } else { kept == bytes })
        })
    }
}

fn read(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// The newest file of the log, and its length.
fn newest(files: &Files) -> (String, usize) {
    let (name, bytes) = files.iter().rfind(|(name, _)| name.starts_with("audit-")).unwrap();
    (name.clone(), bytes.len())
}

/// Something that somebody does to the files.
fn spoil(good: &Good, dice: &mut Dice) -> Files {
    let mut files = good.files.clone();
    let names: Vec<String> = files.keys().cloned().collect();
    let logs: Vec<&String> = names.iter().filter(|name| name.starts_with("audit-")).collect();
    let (any, log, other) =
        (&names[dice.below(names.len())], logs[dice.below(logs.len())], logs[dice.below(logs.len())]);
    let bytes = files[any].clone();
    let at = dice.below(bytes.len());
    let lines = |name: &String| -> Vec<Vec<u8>> {
        files[name].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let (mut own, mut foreign) = (lines(log), lines(other));
    let (here, place) = (dice.below(own.len()), dice.below(foreign.len()));
    match dice.below(13) {
        0 => drop(
            files.insert(any.clone(), [&bytes[..at], &[bytes[at] ^ 1 << dice.below(8)], &bytes[at + 1..]].concat()),
        ),
        1 => drop(files.insert(any.clone(), bytes[..at].to_vec())),
        2 => {
            let junk: Vec<u8> = (0..dice.below(9)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
            files.insert(any.clone(), [&bytes[..at], &junk, &bytes[at..]].concat());
        }
        3 => drop(own.remove(here)),
        4 => own.insert(here, foreign.swap_remove(place)),
        5 if log != other => {
            std::mem::swap(&mut own[here], &mut foreign[place]);
            files.insert(other.clone(), foreign.concat());
        }
        6 => drop(files.remove(any)),
        7 => {
            let name = format!("audit-{:012}.jsonl", dice.below(90));
            let moved = files.remove(log).unwrap();
            files.insert(name, moved);
            return files;
        }
        8 => {
            let name = format!("audit-{:012}.jsonl", dice.below(90));
            files.entry(name).or_insert(foreign.concat());
            return files;
        }
        9 => {
            let old = &good.earlier[dice.below(good.earlier.len())];
            files.insert("checkpoint.json".to_owned(), old["checkpoint.json"].clone());
        }
        10 => return good.earlier[dice.below(good.earlier.len())].clone(),
        11 => {
            for name in ["audit-x.jsonl", "audit-7.jsonl", "audit-.jsonl", "audit-99999999999999999999.jsonl", "x"] {
                files.insert(name.to_owned(), bytes.clone());
            }
        }
        _ => {
            // A line with another content, its own hash made right.
            let line = String::from_utf8(own[here].clone()).unwrap();
            own[here] = hashed(&line.replacen("subject", "subject ", 1), str::to_owned);
        }
    }
    if files.contains_key(log) && own.concat() != good.files[log] {
        files.insert(log.clone(), own.concat());
    }
    files
}

/// A line after something was done to its text, its hash made right.
fn hashed(line: &str, change: impl Fn(&str) -> String) -> Vec<u8> {
    let open = change(line.rsplit_once(",\"hash\":\"").unwrap().0);
    format!("{open},\"hash\":\"{}\"}}\n", leaf(format!("{open}}}").as_bytes())).into_bytes()
}

/// What JSON can be bent to, in a last line that nobody has signed yet; its hash is right.
fn bent(line: &str) -> Vec<Vec<u8>> {
    let nested = |depth: usize| format!("\"details\":{}1{}", "[".repeat(depth), "]".repeat(depth));
    let details: Vec<String> =
        ["1.5", "1e999", "-1e999", "NaN", "Infinity", "-0", "0", "\"\\ud800\"", "\"\\ud83d\\ude00\""]
            .into_iter()
            .chain([
                "{\"a\":1,\"a\":2}",
                "[1,]",
                "01",
                "99999999999999999999999",
                "\"\u{e4}\"",
                "\"\\x\"",
                "\"\t\"",
                "nul",
            ])
            .map(|value| format!("\"details\":{value}"))
            .chain([nested(126), nested(127), nested(2000), format!("\"details\":\"{}\"", "x".repeat(65_000))])
            .collect();
    let actors = [
        r#"{"kind":"uid","uid":4294967295,"name":null}"#,
        r#"{"kind":"uid","uid":4294967296}"#,
        r#"{"kind":"uid","uid":-1}"#,
        r#"{"kind":"uid","uid":1.0}"#,
        r#"{"kind":"uid","uid":1,"uid":2}"#,
        r#"{"kind":"uid"}"#,
        r#"{"kind":"daemon","uid":1,"uid":2}"#,
        r#"{"kind":"daemon","kind":"daemon"}"#,
        r#"{"kind":"device","id":"a b"}"#,
        r#"{"kind":"device","id":"pump-3"}"#,
        r#"{"kind":"cloud","key":1}"#,
        r#"{"kind":"somebody"}"#,
        r#"{"kind":7}"#,
        r#""daemon""#,
        "null",
    ];
    let others = [
        ("\"seq\":", "\"seq\":1e0,\"x\":"),
        ("\"seq\":", "\"x\":1,\"x\":2,\"seq\":"),
        ("{\"seq\":", " {\"seq\": "),
        ("{\"seq\":", "{\"seq\":0,\"seq\":"),
        ("\"boot_ms\":", "\"boot_ms\":-0,\"x\":"),
        ("\"boot_ms\":", "\"boot_ms\":18446744073709551616,\"x\":"),
        ("\"boot_ms\":", "\"boot_ms\":true,\"x\":"),
        ("\"boot_id\":", "\"x\":"),
        ("\"reason\":", "\"x\":"),
        ("\"details\":", "\"x\":"),
        ("\"subject\":", "\"x\":"),
        ("\"outcome\":\"ok\"", "\"outcome\":\"OK\""),
        ("\"outcome\":\"ok\"", "\"outcome\":null"),
        ("\"reason\":null", "\"reason\":7"),
        ("\"action\":\"alarm.raise\"", "\"action\":\"audit.key\""),
        ("\"details\":null", "\"details\":[]},\"x\":{"),
        ("\"time\":\"2", "\"time\":\"x2"),
    ];
    let one = |from: &str, to: &str| {
        assert!(line.contains(from), "{from}");
        hashed(line, |open| open.replacen(from, to, 1))
    };
    let all = details.iter().map(|to| one("\"details\":null", to));
    let all = all.chain(actors.iter().map(|to| one("{\"kind\":\"daemon\"}", to)));
    all.chain(others.iter().map(|(from, to)| one(from, to))).collect()
}

/// Every state that is held against both.
fn cases(good: &Good) -> Vec<Files> {
    let mut dice = Dice(0x5eed_0000_0000_0001);
    let mut cases: Vec<Files> = (0..400).map(|_| spoil(good, &mut dice)).collect();
    // Cut at each byte around each border of two files, and through the newest.
    let logs: Vec<&String> = good.files.keys().filter(|name| name.starts_with("audit-")).collect();
    let newest = newest(&good.files);
    for name in &logs[logs.len() - 4..] {
        let length = good.files[*name].len();
        let step = if **name == newest.0 { 11 } else { 97 };
        for at in (0..=length).filter(|at| *at <= 2 || *at + 3 >= length || at % step == 0) {
            let mut files = good.files.clone();
            files.retain(|other, _| !other.starts_with("audit-") || other <= *name);
            files.get_mut(*name).unwrap().truncate(at);
            cases.push(files);
        }
    }
    let text = String::from_utf8(good.files[&newest.0].clone()).unwrap();
    let (before, line) = text.trim_end().rsplit_once('\n').unwrap();
    for line in bent(line) {
        let mut files = good.files.clone();
        files.insert(newest.0.clone(), [format!("{before}\n").into_bytes(), line].concat());
        cases.push(files);
    }
    // A checkpoint in another form, or with something that nobody signed.
    let checkpoint = String::from_utf8(good.files["checkpoint.json"].clone()).unwrap();
    for (from, to) in [
        ("{\"size\":", "{\"x\":1,\"size\":"),
        ("{\"size\":", "{\"size\":1,\"size\":"),
        ("{\"size\":", " {\n\"size\" : "),
        ("\"edge\":{", "\"edge\":{\"x\":[],"),
        ("\"signature\":\"", "\"signature\":\" "),
        ("\"time_ms\":", "\"time_ms\":-0,\"x\":"),
        ("\"peaks\":[", "\"peaks\":[],\"x\":["),
    ] {
        let mut files = good.files.clone();
        files.insert("checkpoint.json".to_owned(), checkpoint.replacen(from, to, 1).into_bytes());
        cases.push(files);
    }
    cases
}

#[test]
fn both_verifiers_say_the_same_of_whatever_was_done_to_a_log() {
    let good = Good::new();
    let cases: Vec<Files> = [good.files.clone()].into_iter().chain(cases(&good)).collect();
    let temp = tempfile::tempdir().unwrap();
    let (mut folders, mut ours) = (String::new(), Vec::new());
    for (number, files) in cases.iter().enumerate() {
        let folder = temp.path().join(number.to_string());
        fs::create_dir_all(folder.join("audit")).unwrap();
        for (name, bytes) in files {
            fs::write(folder.join("audit").join(name), bytes).unwrap();
        }
        // Most are held against a checkpoint that was kept elsewhere too.
        let anchor = good.anchors.get(number % (good.anchors.len() + 1));
        if let Some(anchor) = anchor {
            fs::write(folder.join("anchor"), anchor).unwrap();
        }
        let anchor = anchor.map(|text| Checkpoint::from_text(text).unwrap());
        let report = verify(&folder.join("audit"), &Trust { key: Some(good.first_key), anchor }).unwrap();
        assert!(number > 0 || report.is_whole(), "{report:?}");
        // An earlier state of all of it, and its checkpoint, is whole without an anchor: nothing can tell.
        let is_rolled_back = good.earlier.contains(files);
        assert!(!report.is_whole() || good.is_untouched(files) || is_rolled_back, "{number}: nothing was found");
        folders.extend([folder.to_str().unwrap(), "\n"]);
        ours.push(report);
    }
    let list = temp.path().join("folders");
    fs::write(&list, folders).unwrap();
    let mut program = Command::new("/usr/bin/python3");
    program
        .args(["-B", "-c", ALL, &good.first_key.to_string()])
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit-verifier"))
        .stdin(fs::File::open(&list).unwrap());
    let program = crate::testing::output(&mut program).unwrap();
    let (said, errors) = (String::from_utf8(program.stdout).unwrap(), String::from_utf8_lossy(&program.stderr));
    let theirs: Vec<bool> = said.lines().map(|findings| findings == "0").collect();
    assert_eq!(theirs.len(), ours.len(), "the other verifier ended at case {}: {errors}", theirs.len());
    for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        if ours.is_whole() != theirs {
            let kept = temp.keep();
            panic!("{}: ours {ours:?}, theirs {theirs}", kept.join(number.to_string()).display());
        }
    }
    let whole = ours.iter().filter(|report| report.is_whole()).count();
    assert!(whole > 20 && ours.len() - whole > 300, "{whole} of {} are whole", ours.len());
    assert!(good.fixture.dir().exists());
}
