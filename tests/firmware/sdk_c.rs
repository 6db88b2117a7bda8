//! The C SDK's own tests, on this machine: published vectors, the worked example of docs/protocol.md, power cuts, fuzzing.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::unit::ROOT;

#[test]
fn its_own_tests_pass_against_the_vectors_and_the_page() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(folder.join("sdk-c.lock")).unwrap();
    lock.lock().unwrap();
    let out = folder.join("sdk-c");
    let built = Command::new(format!("{ROOT}/hardware/sdk-c/build")).arg(&out).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let done = Command::new(out.join("tests")).env("CLAWGATE_ROOT", ROOT).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}
