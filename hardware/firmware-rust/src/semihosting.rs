//! Files of the machine that runs the emulator. Test-only: on a real board the trap stops the core.

use core::arch::asm;
use core::ffi::CStr;

const OPEN: usize = 0x01;
const CLOSE: usize = 0x02;
const WRITE: usize = 0x05;
const READ: usize = 0x06;
const SEEK: usize = 0x0a;
/// Modes of `OPEN`: fopen's "rb", "r+b" and "w+b".
pub const READ_ONLY: usize = 1;
pub const READ_WRITE: usize = 3;
pub const CREATE: usize = 7;

/// A file that is open.
#[derive(Debug)]
pub struct File(usize);

/// The emulator's answer, by the operation's own rule.
fn call(operation: usize, arguments: &[usize; 4]) -> usize {
    let result;
    // SAFETY: the trap reads the arguments and what they point to, and returns in r0; each caller gives what its
    // operation asks for.
    unsafe {
        asm!("bkpt #0xab", inout("r0") operation => result, in("r1") arguments.as_ptr(), options(nostack));
    }
    result
}

impl File {
    pub fn open(name: &CStr, mode: usize) -> Option<Self> {
        let len = name.to_bytes().len();
        let handle = call(OPEN, &[name.as_ptr() as usize, mode, len, 0]);
        (handle != usize::MAX).then_some(Self(handle))
    }

    pub fn seek(&mut self, at: usize) -> bool {
        call(SEEK, &[self.0, at, 0, 0]) == 0
    }

    /// How many bytes came.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let missing = call(READ, &[self.0, out.as_mut_ptr() as usize, out.len(), 0]);
        out.len().saturating_sub(missing)
    }

    pub fn write(&mut self, bytes: &[u8]) -> bool {
        call(WRITE, &[self.0, bytes.as_ptr() as usize, bytes.len(), 0]) == 0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        call(CLOSE, &[self.0, 0, 0, 0]);
    }
}

/// The beginning of a file; none if there is no such file.
pub fn read_file(name: &CStr, out: &mut [u8]) -> Option<usize> {
    File::open(name, READ_ONLY).map(|mut file| file.read(out))
}

/// Shows a byte.
#[cfg(feature = "microbit")]
pub fn write_byte(byte: u8) {
    const WRITEC: usize = 0x03;
    let byte = [byte];
    // SAFETY: this operation's argument is the address of the byte.
    unsafe {
        asm!("bkpt #0xab", inout("r0") WRITEC => _, in("r1") byte.as_ptr(), options(nostack));
    }
}
