//! The command line's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::exit::Exit;
use crate::control::failure::Failure;

/// Time for the answer to begin; longer than the daemon's own bound.
const ANSWER_TIME: Duration = Duration::from_secs(45);
/// Largest answer that is taken whole.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest line of a streamed answer.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Speaks to the daemon at one socket; a connection a request.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon at `socket`.
    #[must_use]
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// What the daemon refused, or why it could not be asked.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        whole(self.ask(Method::GET, path, Bytes::new()).await?).await
    }

    /// Sends a body, and reads the whole answer.
    ///
    /// # Errors
    /// What the daemon refused, or why it could not be asked.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::internal(&e))?;
        whole(self.ask(method, path, body.into()).await?).await
    }

    /// Asks for an answer that goes on.
    ///
    /// # Errors
    /// What the daemon refused, or why it could not be asked.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Lines, Failure> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| Failure::internal(&e))?,
            None => Vec::new(),
        };
        let response = self.ask(method, path, body.into()).await?;
        if response.status().is_success() {
            Ok(Lines { body: response.into_body(), held: Vec::new(), ended: false })
        } else {
            Err(refusal(response).await)
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "clawgate")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| Failure::usage(format!("{path:?} is not a path: {e}."), ""))?;
        match tokio::time::timeout(ANSWER_TIME, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|e| broken(&e)),
            Err(_) => Err(Failure::new(
                Exit::TimeOut,
                "no_answer",
                "The daemon did not answer in time.",
                "See systemctl status clawgate and its log.",
            )),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        let (message, next_step) = match error.kind() {
            io::ErrorKind::PermissionDenied => (
                format!("This user may not open {socket}."),
                format!("Run it as root, or join the group that owns the socket (ls -l {socket})."),
            ),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => (
                format!("No clawgate answers at {socket}."),
                "Start the daemon (systemctl start clawgate), or name its socket with --socket.".to_owned(),
            ),
            _ => (format!("{socket} cannot be opened: {error}."), String::new()),
        };
        Failure::new(Exit::Failed, "no_daemon", message, next_step)
    }
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        "connection_lost",
        format!("The daemon closed the connection: {error}."),
        "See whether it still runs: clawgate status. Too many connections of one user are closed too.",
    )
}

async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Failure> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let bytes = body.collect().await.map_err(|e| Failure::internal(&e))?.to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|e| Failure::internal(&format!("the daemon's answer was not understood: {e}")))
}

async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_LINE_BYTES);
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_else(|_| Failure::internal(&format!("the daemon answered {status}")))
}

/// A streamed answer, line by line.
pub struct Lines {
    body: Incoming,
    held: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// Where the connection breaks or a line is too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let rest = self.held.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            if self.held.len() > MAX_LINE_BYTES {
                return Err(Failure::internal(&"a line of the daemon's answer has no end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.held.extend(frame.into_data().unwrap_or_default()),
                Some(Err(e)) => return Err(broken(&e)),
                None => self.ended = true,
            }
        }
    }

    /// The next line, taken as `T`.
    ///
    /// # Errors
    /// As [`Lines::next`], and where a line is not a `T`.
    pub(crate) async fn next_as<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let Some(line) = self.next().await? else { return Ok(None) };
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|e| Failure::internal(&format!("a line was not understood: {e}")))
    }
}
