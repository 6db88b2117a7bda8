//! `watch`: follows what happens, a line an event, until interrupted.

use hyper::Method;

use super::client::Client;
use super::exit::Exit;
use super::terminal::{Terminal, clean};
use crate::control::api::WatchLine;
use crate::control::failure::Failure;

pub(super) async fn watch(terminal: &Terminal, client: &Client) -> Result<Exit, Failure> {
    let mut lines = client.stream(Method::GET, "/v1/watch", None::<&()>).await?;
    terminal.progress("Following; Ctrl-C ends it.");
    while let Some(line) = lines.next_as::<WatchLine>().await? {
        terminal.result(&line, |line| format!("{}  {:<10} {}", clean(&line.at), clean(&line.part), clean(&line.what)));
    }
    terminal.progress("The daemon ended the stream.");
    Ok(Exit::Ok)
}
