//! One question to the kernel: how far may its clock be off? Every NTP client keeps that bound small, whichever it is,
//! and the kernel lets it grow while nobody disciplines the clock.

use std::io;
use std::time::Duration;

/// The largest error that the kernel's clock may have, as the kernel reckons it; 16 s stands for "unknown".
///
/// # Errors
/// What the system answered; a service whose sandbox protects the clock may not ask (`EPERM`).
pub fn max_error() -> io::Result<Duration> {
    // SAFETY: a C struct of integers, for which zero is a value; `modes` 0 asks without changing anything.
    let mut answer: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that outlives the call.
    if unsafe { libc::adjtimex(&raw mut answer) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::from_micros(u64::try_from(answer.maxerror).unwrap_or(u64::MAX)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn it_is_what_another_program_is_told() {
        // `struct timex` on 64-bit Linux: modes, padding, offset, freq, maxerror.
        let script = "import ctypes,struct;b=ctypes.create_string_buffer(256);ctypes.CDLL(None).adjtimex(b);\
                      print(struct.unpack_from('iqqq',b.raw)[3])";
        let ours = || u64::try_from(max_error().unwrap().as_micros()).unwrap();
        let mut seen = Vec::new();
        // It grows by 500 us a second; a client may bring it down in between, but not between any two looks.
        for _ in 0..5 {
            let before = ours();
            let Ok(output) = Command::new("python3").args(["-c", script]).output() else {
                return eprintln!("not run: there is no python3");
            };
            let theirs: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            let after = ours();
            if (before..=after).contains(&theirs) {
                return;
            }
            seen.push((before, theirs, after));
        }
        panic!("never theirs between ours of before and after: {seen:?}");
    }
}
