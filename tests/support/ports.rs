//! Ports for servers that cannot choose their own and say it, and for those that must come back where they were.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the kernel gives to connections and to who asks for any: while a server is down nobody takes its
/// port, and no client that tries it again and again is connected to itself.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port on loopback that is this process's until its end, and on which nobody listens.
pub(crate) fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = std::process::id().wrapping_mul(61).wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(number % u32::from(COUNT)).unwrap();
        let at = (Ipv4Addr::LOCALHOST, port);
        if let (Ok(mark), Ok(_)) = (UdpSocket::bind(at), TcpListener::bind(at)) {
            // Other processes' tests see by it that the port is taken, also while its server is not up.
            std::mem::forget(mark);
            return port;
        }
    }
    panic!("every port from {FIRST} on is taken");
}
