//! What must never happen: it is said on the console, and the unit starts anew.

use core::fmt::{self, Write as _};
use core::panic::PanicInfo;

use cortex_m::peripheral::SCB;
use cortex_m_rt::{ExceptionFrame, exception};

use crate::board;

/// Lines without a unit.
struct Last;

impl fmt::Write for Last {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(board::write_console);
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(place) = info.location() {
        let _ = writeln!(Last, "panic at {}:{}", place.file(), place.line());
    }
    SCB::sys_reset()
}

/// Also a stack that is too deep: it is at the bottom of RAM.
#[exception]
unsafe fn HardFault(_: &ExceptionFrame) -> ! {
    let _ = Last.write_str("hard fault\n");
    SCB::sys_reset()
}
