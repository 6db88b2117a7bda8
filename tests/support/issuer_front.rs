//! What stands before an issuer in a test: it writes down every request with its time and its device, lets it through,
//! or answers in the issuer's place as an issuer in trouble would. Included by path where a test needs it.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What it does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Mood {
    /// It goes to the issuer.
    Through,
    /// The connection is closed, and nothing was said.
    Mute,
    /// This stands for the issuer's answer.
    Says(Answer),
}

/// Status, further header lines, body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    /// For whom a token was asked for; empty where for none.
    pub(crate) device: String,
    /// How many requests for the same device, and how many in all, were unanswered then, itself among them.
    pub(crate) in_flight: (usize, usize),
}

#[derive(Debug)]
struct State {
    issuer: Option<SocketAddr>,
    mood: Mood,
    /// Instead of `mood` for these devices.
    of_device: BTreeMap<String, Mood>,
    /// Before each answer.
    takes: Duration,
    asked: Vec<Asked>,
    in_flight: BTreeMap<String, usize>,
}

/// On a free port of this machine, for as long as the test's process lives.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Front {
    /// Nobody stands behind it yet.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            issuer: None,
            mood: Mood::Through,
            of_device: BTreeMap::new(),
            takes: Duration::ZERO,
            asked: Vec::new(),
            in_flight: BTreeMap::new(),
        }));
        let front = Self { url, state };
        let serving = front.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                // Who hangs up early is no concern of the test.
                std::thread::spawn(move || serving.serve(stream).ok());
            }
        });
        front
    }

    /// Where the issuer is for everybody else.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The issuer is there now.
    pub(crate) fn leads_to(&self, issuer: SocketAddr) {
        self.state.lock().unwrap().issuer = Some(issuer);
    }

    /// The issuer is gone. Its port may be anybody's by now: nobody is asked there.
    pub(crate) fn leads_nowhere(&self) {
        self.state.lock().unwrap().issuer = None;
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// For this device only.
    pub(crate) fn is_to(&self, device: &str, mood: Mood) {
        self.state.lock().unwrap().of_device.insert(device.to_owned(), mood);
    }

    /// Every answer takes so long.
    pub(crate) fn takes(&self, time: Duration) {
        self.state.lock().unwrap().takes = time;
    }

    /// The requests so far; those without a device are the ones for its metadata and keys.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let (head, body) = read(&mut client)?;
        let device = device_in(&body);
        let (mood, issuer, takes) = {
            let mut state = self.state.lock().unwrap();
            let mine = state.in_flight.entry(device.clone()).or_default();
            *mine += 1;
            let in_flight = (*mine, state.in_flight.values().sum());
            state.asked.push(Asked { at: Instant::now(), device: device.clone(), in_flight });
            let mood = state.of_device.get(&device).unwrap_or(&state.mood).clone();
            (mood, state.issuer, state.takes)
        };
        std::thread::sleep(takes);
        let answer = match (mood, issuer) {
            (Mood::Mute, _) | (Mood::Through, None) => Ok(Vec::new()),
            (Mood::Through, Some(issuer)) => forward(issuer, &head, &body),
            (Mood::Says(answer), _) => Ok(http(&answer)),
        };
        // Counted as answered before the client can know it, for then it may ask again.
        *self.state.lock().unwrap().in_flight.entry(device).or_default() -= 1;
        client.write_all(&answer?)
    }
}

/// Head and body of one request.
pub(crate) fn read(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    client.set_read_timeout(Some(Duration::from_secs(120)))?;
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let body = &bytes[end + 4..];
            if body.len() >= length.unwrap_or(0) {
                return Ok((head, body.to_vec()));
            }
        }
        match client.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            some => bytes.extend_from_slice(&part[..some]),
        }
    }
}

/// The issuer's answer, whole. A dead issuer is an error, and the client is hung up on.
fn forward(issuer: SocketAddr, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(issuer)?;
    let mut request = String::new();
    for line in head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("connection: close\r\n\r\n");
    upstream.write_all(&[request.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn http(Answer { status, headers, body }: &Answer) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

/// The device in a form's authorization details.
fn device_in(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let details = text.split('&').find_map(|part| part.strip_prefix("authorization_details=")).unwrap_or_default();
    let named = details.split_once("%22device%22%3A%22").and_then(|(_, rest)| rest.split_once("%22"));
    named.map(|(device, _)| device.to_owned()).unwrap_or_default()
}
