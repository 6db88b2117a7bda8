//! A listener that takes a bounded number of connections, each for a bounded time, whatever the clients do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at a time; more wait in the system's backlog.
const CONNECTIONS: usize = 64;
/// Life of a connection. A client that drips its request byte by byte does not hold a place longer.
const LIFE: Duration = Duration::from_secs(30);
/// Pause after the system could not accept, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// The listener.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    life: Duration,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS)), life: LIFE }
    }
}

impl Listener for Bounded {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    let life = Box::pin(tokio::time::sleep(self.life));
                    return (BoundedStream { stream, life, _place: place }, addr);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection with its place and its time.
pub(super) struct BoundedStream {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl BoundedStream {
    fn over(&mut self, cx: &mut Context<'_>) -> bool {
        self.life.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_client_that_drips_its_request_gives_its_place_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut bounded = Bounded { life: Duration::from_secs(2), ..Bounded::new(listener) };
        bounded.places = Arc::new(Semaphore::new(1));
        tokio::spawn(async move { axum::serve(bounded, axum::Router::new()).await });
        let mut slow = TcpStream::connect(addr).await.unwrap();
        slow.write_all(b"POST /token HTTP/1.1\r\n").await.unwrap();
        let served = async {
            loop {
                let mut answer = String::new();
                let mut next = TcpStream::connect(addr).await.unwrap();
                let _ = next.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
                let _ = next.read_to_string(&mut answer).await;
                // On a machine that stands still for so long, its time is over before it is served, too.
                if !answer.is_empty() {
                    return answer;
                }
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(60), served).await.expect("the place came free");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
}
