//! A long line to a broker: what goes in comes out later, in order, at whatever speed it came.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A proxy that holds every byte for the same time, each way; ended when dropped.
pub(crate) struct Line {
    port: u16,
    task: JoinHandle<()>,
}

impl Line {
    /// A line to `broker` with this delay each way.
    pub(crate) async fn to(broker: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut carried = tokio::task::JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                carried.spawn(async move {
                    // The handshake of TCP crosses the line, too.
                    tokio::time::sleep(2 * delay).await;
                    let Ok(far) = TcpStream::connect(broker).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(carry(near_in, far_out, delay), carry(far_in, near_out, delay));
                });
            }
        });
        Self { port, task }
    }

    /// Its near end.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One direction, until its end, which takes as long as everything before it.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(10_000);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
        let _ = sender.send((Instant::now() + delay, Vec::new())).await;
    };
    let write = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                let _ = to.shutdown().await;
                return;
            }
        }
    };
    tokio::join!(read, write);
}
