//! Frames on a serial line: the two tasks behind a [`Link`] over a port.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use clawgate_protocol::fragment::{Header, Joiner};
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::message::Kind;
use clawgate_protocol::{MAX_MESSAGE, Transport};

use super::meter::Meter;
use crate::link::duplex::{Ends, Link, LinkEnd};

/// Read and written at once; four times the longest frame.
const CHUNK: usize = 16 * 1024;

/// A write that makes no progress for this long, beyond what the line's rate explains, means a peer that does
/// not read.
const STALL: Duration = Duration::from_secs(3);

/// Starts a link over an open port.
pub(crate) fn start<S>(stream: S, baud: u32, meter: &Arc<Meter>) -> Link
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let stall = STALL + Duration::from_secs((CHUNK as u64 * 10).div_ceil(u64::from(baud.max(1))));
    start_with(stream, stall, meter)
}

fn start_with<S>(stream: S, stall: Duration, meter: &Arc<Meter>) -> Link
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    meter.opened();
    let (mut link, Ends { incoming, outgoing, end }) = Link::new(Transport::Uart);
    let (from, to) = tokio::io::split(stream);
    let ours = Arc::new(Mutex::new(Vec::new()));
    let reader = Reader { from, incoming, meter: Arc::clone(meter), ours: Arc::clone(&ours) };
    link.drive(end.clone().guard(reader.run()));
    let writer = Writer { to, outgoing, meter: Arc::clone(meter), ours, stall };
    link.drive(end.guard(writer.run()));
    link
}

/// The last message sent that only a gateway sends: coming back, it shows a bridged line.
type Ours = Arc<Mutex<Vec<u8>>>;

fn is_gateways_own(message: &[u8]) -> bool {
    matches!(Kind::of(message), Ok(Kind::Probe | Kind::Identify | Kind::M1 | Kind::M3 | Kind::M5 | Kind::Handshake1))
}

struct Reader<R> {
    from: R,
    incoming: mpsc::Sender<Vec<u8>>,
    meter: Arc<Meter>,
    ours: Ours,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(mut self) -> LinkEnd {
        let mut chunk = vec![0; CHUNK];
        let mut decoder = Box::new(Decoder::<{ uart::MAX_ENCODED }>::new());
        let mut joiner = Box::new(Joiner::<MAX_MESSAGE>::new());
        loop {
            let count = match self.from.read(&mut chunk).await {
                // A terminal that was hung up reads as ended.
                Ok(0) => return LinkEnd::Gone,
                Ok(count) => count,
                Err(error) => return why(&error),
            };
            self.meter.received(count);
            let mut rest = &chunk[..count];
            while let Some(message) = next_message(&mut rest, &mut decoder, &mut joiner, &self.meter) {
                if self.is_echo(&message) {
                    self.meter.echo();
                } else if self.incoming.send(message).await.is_err() {
                    return LinkEnd::Closed;
                }
            }
        }
    }

    fn is_echo(&self, message: &[u8]) -> bool {
        is_gateways_own(message) && *lock(&self.ours) == message
    }
}

/// The next whole message of the bytes, or nothing when they are used up.
fn next_message(
    rest: &mut &[u8],
    decoder: &mut Decoder<{ uart::MAX_ENCODED }>,
    joiner: &mut Joiner<MAX_MESSAGE>,
    meter: &Meter,
) -> Option<Vec<u8>> {
    loop {
        match decoder.decode(rest)? {
            Ok(frame) if frame.address == uart::ADDRESS => {
                meter.good_frame();
                match joiner.join(frame.header, frame.payload) {
                    Ok(Some(message)) => return Some(message.to_vec()),
                    Ok(None) => {}
                    // The frames were sound, so the line is; who misses the message sends it again.
                    Err(error) => tracing::debug!(error = %error, "a fragment was dropped"),
                }
            }
            Ok(_) => {}
            Err(error) => meter.bad_frame(error),
        }
    }
}

struct Writer<W> {
    to: W,
    outgoing: mpsc::Receiver<Vec<u8>>,
    meter: Arc<Meter>,
    ours: Ours,
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(mut self) -> LinkEnd {
        let mut line = Vec::with_capacity(CHUNK);
        while let Some(message) = self.outgoing.recv().await {
            self.append(&message, &mut line);
            // What else waits goes out in the same write.
            while line.len() < CHUNK / 2
                && let Ok(message) = self.outgoing.try_recv()
            {
                self.append(&message, &mut line);
            }
            if let Err(end) = self.write(&line).await {
                return end;
            }
            line.clear();
        }
        LinkEnd::Closed
    }

    fn append(&self, message: &[u8], line: &mut Vec<u8>) {
        if is_gateways_own(message) {
            message.clone_into(&mut lock(&self.ours));
        }
        let start = line.len();
        line.resize(start + uart::max_encoded_len(message.len()), 0);
        match uart::encode(uart::ADDRESS, Header::WHOLE, message, &mut line[start..]) {
            Ok(length) => line.truncate(start + length),
            // Cannot be: there is room for the longest encoding.
            Err(_) => line.truncate(start),
        }
    }

    /// Writes without `flush`: on a terminal that is `tcdrain`, which blocks the whole thread.
    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), LinkEnd> {
        while !bytes.is_empty() {
            match tokio::time::timeout(self.stall, self.to.write(bytes)).await {
                Ok(Ok(0)) => return Err(LinkEnd::Gone),
                Ok(Ok(count)) => {
                    self.meter.sent(count);
                    bytes = &bytes[count..];
                }
                Ok(Err(error)) => return Err(why(&error)),
                Err(_) => return Err(LinkEnd::PeerStalled),
            }
        }
        Ok(())
    }
}

fn why(error: &io::Error) -> LinkEnd {
    // EIO, ENXIO and ENODEV are what a terminal answers whose device was pulled.
    match error.raw_os_error() {
        Some(5 | 6 | 19) => LinkEnd::Gone,
        _ => LinkEnd::Failed(error.to_string()),
    }
}

fn lock(ours: &Ours) -> std::sync::MutexGuard<'_, Vec<u8>> {
    ours.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::state::LineCondition;
    use crate::link::testing::{Pty, frame};
    use crate::link::uart::{Port, open};
    use crate::metrics::LinkMetrics;

    const PROBE: [u8; 4] = [0x01, 0xa1, 0x01, 0x01];
    const IDENT: [u8; 2] = [0x02, 0xa0];

    fn open_link(pty: &Pty) -> (Link, Arc<Meter>) {
        let port = Port { name: "line".to_owned(), path: pty.slave().to_owned(), baud: 3_000_000 };
        let meter = Arc::new(Meter::new("line".to_owned(), &LinkMetrics::default()));
        // A stalled test is no peer that stalls.
        (start_with(open(&port).unwrap(), Duration::from_secs(600), &meter), meter)
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("nothing came")
    }

    /// Bytes that look random and are the same in every run.
    fn noise(length: usize, allow: impl Fn(u8) -> bool) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let bytes = std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        });
        bytes.filter(|&byte| allow(byte)).take(length).collect()
    }

    #[tokio::test]
    async fn ten_megabytes_of_noise_make_no_frame_and_the_next_frame_is_found() {
        let mut pty = Pty::new();
        let (mut link, meter) = open_link(&pty);
        let mut bytes = noise(10 << 20, |_| true);
        // Noise that looks like a frame: whole ones, each with one bit turned.
        let whole = frame(&IDENT);
        for bit in 0..8 {
            let mut spoiled = whole.clone();
            let payload = spoiled.iter().position(|&byte| byte == IDENT[1]).unwrap();
            spoiled[payload] ^= 1 << bit;
            bytes.splice((bit + 1) << 20..(bit + 1) << 20, spoiled);
        }
        let ((), first) = soon(async {
            tokio::join!(
                async {
                    pty.wire.write_all(&bytes).await.unwrap();
                    pty.wire.write_all(&frame(&IDENT)).await.unwrap();
                },
                link.receive()
            )
        })
        .await;
        assert_eq!(first.unwrap(), IDENT);
        assert_eq!((meter.frames_in(), meter.bytes_in() >= 10 << 20), (1, true));
        assert!(meter.frames_bad() > 1000);
    }

    #[tokio::test]
    async fn a_stream_without_a_delimiter_takes_no_memory_and_is_called_a_wrong_baud_rate() {
        let mut pty = Pty::new();
        let (mut link, meter) = open_link(&pty);
        let bytes = noise(4 << 20, |byte| byte != 0);
        soon(async {
            for _ in 0..4 {
                pty.wire.write_all(&bytes).await.unwrap();
            }
        })
        .await;
        assert_eq!(meter.condition(), LineCondition::WrongBaudRate);
        soon(pty.wire.write_all(&frame(&IDENT))).await.unwrap();
        soon(pty.wire.write_all(&frame(&IDENT))).await.unwrap();
        assert_eq!(soon(link.receive()).await.unwrap(), IDENT, "the line did not recover");
        // All of it was one bad frame, of which no more than one frame's length was ever kept.
        assert_eq!(meter.frames_bad(), 1);
    }

    #[tokio::test]
    async fn an_echo_is_recognised_and_never_taken_for_a_sensor() {
        let mut pty = Pty::new();
        let (mut link, meter) = open_link(&pty);
        link.send(PROBE.to_vec()).await.unwrap();
        let mut back = frame(&PROBE);
        soon(pty.wire.read_exact(&mut back)).await.unwrap();
        soon(pty.wire.write_all(&back)).await.unwrap();
        soon(async {
            while meter.condition() != LineCondition::Echo {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert!(link.try_receive().is_none());
    }

    #[tokio::test]
    async fn a_plug_pulled_during_a_write_ends_the_link() {
        let pty = Pty::new();
        let (mut link, _meter) = open_link(&pty);
        // Room for the last of them says that the first is being written.
        for _ in 0..=QUEUED {
            soon(link.send(vec![0x23; 4000])).await.unwrap();
        }
        // And that nothing more fits into the terminal, that the write cannot end: nobody reads.
        let mut beside = pty.open_beside();
        soon(async {
            while io::Write::write(&mut beside, &[0x23]).is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(beside);
        drop(pty);
        assert_eq!(soon(link.receive()).await, Err(LinkEnd::Gone));
        assert_eq!(soon(link.close()).await, LinkEnd::Gone);
    }

    /// Fills the queue, and by far what a terminal takes.
    const QUEUED: usize = crate::link::duplex::QUEUE;

    #[tokio::test]
    async fn a_peer_that_never_reads_ends_the_link_after_a_while() {
        let (ours, _theirs) = tokio::io::duplex(4096);
        let meter = Arc::new(Meter::new("line".to_owned(), &LinkMetrics::default()));
        let mut link = start_with(ours, Duration::from_millis(50), &meter);
        for _ in 0..QUEUED {
            link.send(vec![0x23; 4000]).await.unwrap();
        }
        assert_eq!(soon(link.receive()).await, Err(LinkEnd::PeerStalled));
        assert_eq!(link.send(PROBE.to_vec()).await, Err(LinkEnd::PeerStalled));
    }

    #[tokio::test]
    async fn a_message_in_fragments_arrives_whole() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let meter = Arc::new(Meter::new("line".to_owned(), &LinkMetrics::default()));
        let mut link = start(ours, 115_200, &meter);
        let message: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for (header, part) in clawgate_protocol::fragment::split(&message, 100) {
            let mut encoded = [0; 128];
            let length = uart::encode(uart::ADDRESS, header, part, &mut encoded).unwrap();
            theirs.write_all(&encoded[..length]).await.unwrap();
        }
        assert_eq!(soon(link.receive()).await.unwrap(), message);
    }

    #[tokio::test]
    async fn a_closed_link_has_let_go_of_the_port() {
        let pty = Pty::new();
        let (link, _meter) = open_link(&pty);
        assert_eq!(link.close().await, LinkEnd::Closed);
        crate::testing::let_go();
        let _again = open_link(&pty);
    }
}
