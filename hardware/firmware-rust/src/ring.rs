//! What an interrupt took from a UART, until the main loop looks: one writer, one reader, no lock.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// A ring of `N` bytes, a power of two; it holds one less.
pub struct Ring<const N: usize> {
    bytes: [AtomicU8; N],
    head: AtomicUsize,
    tail: AtomicUsize,
}

impl<const N: usize> Ring<N> {
    pub const fn new() -> Self {
        const { assert!(N.is_power_of_two()) };
        Self { bytes: [const { AtomicU8::new(0) }; N], head: AtomicUsize::new(0), tail: AtomicUsize::new(0) }
    }

    /// From the interrupt only.
    pub fn push(&self, byte: u8) {
        let tail = self.tail.load(Ordering::Relaxed);
        if let Some(cell) = self.bytes.get(tail) {
            cell.store(byte, Ordering::Relaxed);
        }
        self.tail.store((tail + 1) % N, Ordering::Release);
    }

    /// From the main loop only.
    pub fn pop(&self) -> Option<u8> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let byte = self.bytes.get(head)?.load(Ordering::Relaxed);
        self.head.store((head + 1) % N, Ordering::Release);
        Some(byte)
    }

    pub fn is_full(&self) -> bool {
        (self.tail.load(Ordering::Relaxed) + 1) % N == self.head.load(Ordering::Acquire)
    }
}
