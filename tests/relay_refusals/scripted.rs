//! Brokers that answer by a script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::packet::packet;

/// What the broker does about one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Ack(u8),
    Nothing,
    Twice,
    Late(Duration),
    Disconnect(u8),
    Cut,
}

/// Decides by seq and by how often that seq was seen.
type Script = dyn Fn(u64, usize) -> Reply + Send + Sync;

/// A broker that does as its script says, on a port of its own.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<u64>>>,
    /// When each connection came.
    pub(crate) connects: Arc<Mutex<Vec<tokio::time::Instant>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    pub(crate) async fn start(connack: u8, script: impl Fn(u64, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_saying(vec![0x20, 3, 0, connack, 0], script).await
    }

    /// With this answer to a CONNECT.
    pub(crate) async fn start_saying(
        connack: Vec<u8>,
        script: impl Fn(u64, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, connects) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let script: Arc<Script> = Arc::new(script);
        let (all, times) = (Arc::clone(&seen), Arc::clone(&connects));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                times.lock().unwrap().push(tokio::time::Instant::now());
                tokio::spawn(talk(stream, connack.clone(), Arc::clone(&script), Arc::clone(&all)));
            }
        });
        Self { port, seen, connects, task }
    }

    pub(crate) fn seen(&self) -> Vec<u64> {
        self.seen.lock().unwrap().clone()
    }

    /// Each seq where it came last.
    pub(crate) fn count(&self, seq: u64) -> usize {
        self.seen().iter().filter(|seen| **seen == seq).count()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The value of the last record in a publish, which these tests make the same as its seq; `None` in presence.
fn reading_in(publish: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(publish);
    let (_, rest) = text.rsplit_once("\"v\":")?;
    rest.split(['}', ',']).next()?.parse().ok()
}

async fn talk(mut stream: TcpStream, mut connack: Vec<u8>, script: Arc<Script>, seen: Arc<Mutex<Vec<u64>>>) {
    let Some((0x10, connect)) = packet(&mut stream).await else { return };
    // One that offers a method is told that there is none, as mosquitto does.
    if connect.windows(10).any(|part| part == b"OAUTH2-JWT") {
        connack = vec![0x20, 3, 0, 0x8c, 0];
    }
    stream.write_all(&connack).await.unwrap();
    if connack[3] != 0 {
        return;
    }
    while let Some((kind, body)) = packet(&mut stream).await {
        if kind == 0xe0 {
            return;
        }
        if kind & 0xf0 != 0x30 {
            let _ = stream.write_all(&[0xd0, 0]).await;
            continue;
        }
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let id = u16::from_be_bytes([body[2 + topic], body[3 + topic]]);
        let seq = reading_in(&body);
        let reply = match seq {
            None => Reply::Ack(0),
            Some(seq) => {
                let times = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(seq);
                    seen.iter().filter(|known| **known == seq).count()
                };
                script(seq, times)
            }
        };
        let ack = |id: u16, code| [0x40, 4, id.to_be_bytes()[0], id.to_be_bytes()[1], code, 0];
        let sent = match reply {
            Reply::Ack(code) => stream.write_all(&ack(id, code)).await,
            Reply::Nothing => Ok(()),
            Reply::Twice => stream.write_all(&[ack(id, 0), ack(id, 0)].concat()).await,
            Reply::Late(wait) => {
                tokio::time::sleep(wait).await;
                stream.write_all(&ack(id, 0)).await
            }
            Reply::Disconnect(code) => {
                let _ = stream.write_all(&[0xe0, 2, code, 0]).await;
                return;
            }
            Reply::Cut => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A broker that takes tokens by enhanced authentication, and for which the first one ends between the fourth reading and
/// the second token.
pub(crate) async fn ends_a_token(mut stream: TcpStream, seen: Arc<Mutex<Vec<u64>>>) {
    const METHOD: &[u8] = b"\x15\x00\x0aOAUTH2-JWT";
    let Some((0x10, _)) = packet(&mut stream).await else { return };
    stream.write_all(&[&[0x20, 16, 0, 0, 13], METHOD].concat()).await.unwrap();
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let mut fresh = false;
    while let Some((kind, body)) = packet(&mut stream).await {
        if kind == 0xf0 {
            fresh = true;
            seen.lock().unwrap().push(0);
            answers.push([&[0xf0, 15, 0, 13], METHOD].concat());
            continue;
        }
        if kind & 0xf0 != 0x30 {
            continue;
        }
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let seq = reading_in(&body);
        let is_again = seq.is_some_and(|seq| seen.lock().unwrap().contains(&seq));
        seen.lock().unwrap().extend(seq);
        let refused = seq.is_some_and(|seq| seq > 4) && !fresh && !is_again;
        answers.push(vec![0x40, 4, body[2 + topic], body[3 + topic], if refused { 0x87 } else { 0 }, 0]);
        // The presence, and what is sent again, is answered at once; all else when the last one is here.
        if seq.is_none_or(|seq| seq == 20) || is_again {
            for answer in answers.drain(..) {
                stream.write_all(&answer).await.unwrap();
            }
        }
    }
}
