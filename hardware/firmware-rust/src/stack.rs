//! The deepest the stack ever was: it is painted at the start, and what lost its paint was used.

const PAINT: u32 = 0xc1a6_c1a6;
/// What `paint` itself needs.
const OWN: usize = 256;

unsafe extern "C" {
    /// The highest address of the stack, and the lowest: from memory.x.
    static _stack_start: u32;
    static _stack_end: u32;
}

fn bounds() -> (usize, usize) {
    (&raw const _stack_end as usize, &raw const _stack_start as usize)
}

/// Paints what lies below the caller.
pub fn paint() {
    let (bottom, _) = bounds();
    let here = cortex_m::register::msp::read() as usize;
    for at in (bottom..here - OWN).step_by(4) {
        // SAFETY: aligned, inside of RAM that belongs to the stack, below everything that is in use.
        unsafe { (at as *mut u32).write_volatile(PAINT) };
    }
}

/// The most bytes that were in use since.
pub fn peak() -> usize {
    let (bottom, top) = bounds();
    // SAFETY: aligned and inside of the stack's RAM.
    let used = (bottom..top).step_by(4).find(|at| unsafe { (*at as *const u32).read_volatile() } != PAINT);
    top - used.unwrap_or(top)
}
