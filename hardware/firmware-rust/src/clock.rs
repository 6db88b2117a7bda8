//! Time since the power came, from SysTick: an interrupt each 10 ms, and the counter in between.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::Peripherals;
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;

use crate::board::CORE_HZ;

/// One interrupt in so many ticks of the core's clock.
const PERIOD: u32 = CORE_HZ / 100;
const NS_PER_TICK: u64 = 1_000_000_000 / CORE_HZ as u64;
const NS_PER_PERIOD: u64 = PERIOD as u64 * 1_000_000_000 / CORE_HZ as u64;

/// Periods that are over. 32 bits of 10 ms are 497 days; the high half counts their wraps.
static PERIODS: AtomicU32 = AtomicU32::new(0);
static WRAPS: AtomicU32 = AtomicU32::new(0);

pub fn start() {
    if let Some(core) = Peripherals::take() {
        let mut tick = core.SYST;
        tick.set_clock_source(SystClkSource::Core);
        tick.set_reload(PERIOD - 1);
        tick.clear_current();
        tick.enable_counter();
        tick.enable_interrupt();
    }
}

pub fn now_ns() -> u64 {
    loop {
        let (wraps, periods) = (WRAPS.load(Ordering::Acquire), PERIODS.load(Ordering::Acquire));
        let left = SYST::get_current();
        // The interrupt came in between, or is about to: look again.
        let same = wraps == WRAPS.load(Ordering::Acquire) && periods == PERIODS.load(Ordering::Acquire);
        if same && !cortex_m::peripheral::SCB::is_pendst_pending() {
            let whole = (u64::from(wraps) << 32 | u64::from(periods)) * NS_PER_PERIOD;
            return whole + u64::from(PERIOD - 1 - left.min(PERIOD - 1)) * NS_PER_TICK;
        }
    }
}

#[exception]
fn SysTick() {
    let periods = PERIODS.load(Ordering::Relaxed).wrapping_add(1);
    PERIODS.store(periods, Ordering::Release);
    if periods == 0 {
        WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }
}
