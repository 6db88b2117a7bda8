//! Frames: how a link delimits and checks what it carries. BLE does both by itself: one characteristic value
//! is one fragment. A serial line needs [`uart`].

pub mod uart;
