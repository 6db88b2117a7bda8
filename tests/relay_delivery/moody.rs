//! A broker in this process that takes, refuses, delays and hangs up as chance has it, and remembers what it took.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::packet::packet;

/// Chance that a seed repeats (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A place in a list of so many.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap()
    }
}

/// A reading or gap as its name says: pairing, epoch, first seq, last seq.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) lane: String,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Name {
    /// `pairing.epoch.seq`, or `pairing.epoch.seq-to` of a gap.
    pub(crate) fn parse(id: &str) -> Self {
        let (lane, seqs) = id.rsplit_once('.').unwrap();
        let (first, last) = seqs.split_once('-').unwrap_or((seqs, seqs));
        Self { lane: lane.to_owned(), first: first.parse().unwrap(), last: last.parse().unwrap() }
    }
}

/// Something that the broker took.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) connection: u64,
    pub(crate) device: String,
    pub(crate) name: Name,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    /// Everything is taken and said at once.
    calm: bool,
    /// What it refuses for good, unless it has been persuaded: one seq in so many.
    poison: Option<u64>,
    connections: u64,
    log: Vec<Taken>,
    refused: BTreeSet<Name>,
    /// Ends the connections of now; there is none while it is down.
    up: Option<CancellationToken>,
}

/// What it does on one connection, after so many publishes.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Calm,
    /// Answers late.
    Slow,
    /// Hangs up without an answer; whether it has taken the last one.
    Cut {
        takes: bool,
    },
    /// Takes and says nothing for a while, then hangs up.
    Silent,
    /// Refuses everything from then on.
    Refuse(u8),
    /// Says goodbye with a reason.
    Goodbye(u8),
}

pub(crate) struct Broker {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Broker {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            chance: Chance(seed),
            calm: false,
            poison: Some(37),
            connections: 0,
            log: Vec::new(),
            refused: BTreeSet::new(),
            up: Some(CancellationToken::new()),
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Some(cut) = lock(&shared).up.clone() else { continue };
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    tokio::select! {
                        () = cut.cancelled() => {}
                        _ = talk(stream, &state, &cut) => {}
                    }
                });
            }
        });
        Self { port, state, task }
    }

    /// Nothing is taken from here on.
    pub(crate) fn down(&self) {
        if let Some(up) = lock(&self.state).up.take() {
            up.cancel();
        }
    }

    pub(crate) fn up(&self) {
        lock(&self.state).up.get_or_insert_with(CancellationToken::new);
    }

    /// Whether it behaves from here on.
    pub(crate) fn calm(&self, calm: bool) {
        lock(&self.state).calm = calm;
    }

    /// It takes what it refused until now.
    pub(crate) fn persuade(&self) {
        lock(&self.state).poison = None;
    }

    pub(crate) fn log(&self) -> Vec<Taken> {
        lock(&self.state).log.clone()
    }

    /// What it refused for good, at any time.
    pub(crate) fn refused(&self) -> BTreeSet<Name> {
        lock(&self.state).refused.clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

/// One connection, until either side has had enough.
async fn talk(stream: TcpStream, state: &Mutex<State>, cut: &CancellationToken) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    packet(&mut reader).await?;
    let (connection, mood, mut left, connack) = {
        let mut state = lock(state);
        state.connections += 1;
        let roll = if state.calm { 0 } else { state.chance.below(100) };
        let (left, takes) = (state.chance.below(40), state.chance.below(2) == 0);
        let mood = match roll {
            0..40 => Mood::Calm,
            40..60 => Mood::Slow,
            60..75 => Mood::Cut { takes },
            75..82 => Mood::Silent,
            82..86 => Mood::Refuse(0x97),
            86..90 => Mood::Refuse(0x80),
            90..94 => Mood::Goodbye(0x8b),
            _ => Mood::Goodbye(0x97),
        };
        let connack = match roll {
            94..97 => 0x89,
            97.. => 0x88,
            _ => 0,
        };
        (state.connections, mood, left, connack)
    };
    say(&mut writer, &[0x20, 3, 0, connack, 0]).await?;
    if connack != 0 {
        return None;
    }
    loop {
        let (kind, body) = packet(&mut reader).await?;
        match kind & 0xf0 {
            0x30 => {}
            0xc0 => {
                say(&mut writer, &[0xd0, 0]).await?;
                continue;
            }
            _ => return None,
        }
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let [high, low] = [body[2 + topic], body[3 + topic]];
        let topic = String::from_utf8_lossy(&body[2..2 + topic]).into_owned();
        let answer = |code| [0x40, 4, high, low, code, 0];
        if topic.ends_with("/state") {
            say(&mut writer, &answer(0)).await?;
            continue;
        }
        let it = Taken { connection, device: topic.split('/').nth(4).unwrap().to_owned(), name: name_of(&body) };
        let past = left == 0;
        left = left.saturating_sub(1);
        match mood {
            Mood::Refuse(code) if past => {
                say(&mut writer, &answer(code)).await?;
                continue;
            }
            Mood::Goodbye(code) if past => {
                say(&mut writer, &[0xe0, 2, code, 0]).await?;
                return None;
            }
            Mood::Cut { takes: false } if past => return None,
            _ => {}
        }
        let code = take(state, cut, it)?;
        match mood {
            Mood::Cut { .. } if past => return None,
            Mood::Silent if past => {
                let wait = lock(state).chance.below(30);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                if wait.is_multiple_of(3) {
                    return None;
                }
                continue;
            }
            Mood::Slow => {
                let wait = lock(state).chance.below(4);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            _ => {}
        }
        say(&mut writer, &answer(code)).await?;
    }
}

/// Takes a message for good, or refuses it for good. Nothing is taken once the broker is down.
fn take(state: &Mutex<State>, cut: &CancellationToken, it: Taken) -> Option<u8> {
    let mut state = lock(state);
    if cut.is_cancelled() {
        return None;
    }
    if state.poison.is_some_and(|one_in| it.name.first == it.name.last && it.name.first.is_multiple_of(one_in)) {
        state.refused.insert(it.name);
        return Some(0x99);
    }
    state.log.push(it);
    Some(0)
}

/// The name in the user property `id`; the value of a reading is its seq.
fn name_of(body: &[u8]) -> Name {
    let at = body.windows(5).position(|part| part == b"\x26\0\x02id").unwrap() + 5;
    let len = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let name = Name::parse(std::str::from_utf8(&body[at + 2..at + 2 + len]).unwrap());
    let text = String::from_utf8_lossy(body);
    let value = text.rsplit_once("\"v\":").and_then(|(_, rest)| rest.split(['}', ',']).next()?.parse::<u64>().ok());
    assert!(value.is_none_or(|value| value == name.first), "{name:?} holds the reading {value:?}");
    name
}

async fn say(writer: &mut OwnedWriteHalf, bytes: &[u8]) -> Option<()> {
    writer.write_all(bytes).await.ok()
}
