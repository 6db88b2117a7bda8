//! Shows the scene: a live picture by ratatui where standard output is a terminal, else plain lines.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Stylize as _};
use ratatui::text::Line as Text;
use ratatui::widgets::{Block, Paragraph, Sparkline};
use ratatui::{DefaultTerminal, Frame};
use tokio::time::Instant;

use super::scene::{DeviceView, Scene};
use crate::cli::terminal::{clean, size};

/// Between two plain lines about the readings.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// Where the scene is shown.
pub(super) struct Show {
    picture: Option<DefaultTerminal>,
    /// Plain lines go to standard error where standard output is for the JSON object.
    is_json: bool,
    last_line: Option<Instant>,
}

impl Show {
    /// A picture on a terminal; lines elsewhere and under `--json`.
    pub(super) fn begin(is_json: bool) -> Self {
        let picture = if !is_json && io::stdout().is_terminal() { ratatui::try_init().ok() } else { None };
        Self { picture, is_json, last_line: None }
    }

    /// Something happened: a line of its own, or one in the picture.
    pub(super) fn happened(&mut self, scene: &mut Scene, what: &str) {
        let what = what.lines().map(clean).collect::<Vec<_>>().join("\n");
        scene.happened(&what);
        if self.picture.is_none() {
            self.plain(&what);
        }
    }

    /// The scene as it is now. True when the person at the terminal wants to end it.
    pub(super) fn draw(&mut self, scene: &Scene, now: Instant) -> bool {
        if let Some(terminal) = &mut self.picture {
            // A terminal that went away shows nothing; SIGHUP ends the run.
            let _ = terminal.draw(|frame| picture(frame, scene));
            return wants_end();
        }
        let is_due = self.last_line.is_none_or(|last| now.duration_since(last) >= PLAIN_EVERY);
        if is_due && !scene.devices.is_empty() {
            self.last_line = Some(now);
            self.plain(&clean(&scene.line()));
        }
        false
    }

    fn plain(&self, text: &str) {
        // A reader that went away is not an error.
        let _ = if self.is_json { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") };
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if self.picture.is_some() {
            ratatui::restore();
        }
    }
}

/// The terminal is in raw mode, so Ctrl-C comes as a key.
fn wants_end() -> bool {
    while event::poll(Duration::ZERO).unwrap_or(false) {
        if let Ok(Event::Key(key)) = event::read()
            && (key.code == KeyCode::Char('q')
                || (key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)))
        {
            return true;
        }
    }
    false
}

fn picture(frame: &mut Frame<'_>, scene: &Scene) {
    let rows = u16::try_from(scene.devices.len()).unwrap_or(u16::MAX).saturating_mul(4);
    let [head, devices, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Max(rows), Constraint::Min(4)]).areas(frame.area());
    let left = scene.left.map_or_else(String::new, |left| format!(" · {} s left", left.as_secs()));
    let title = format!(" clawgate demo · broker {}{left} · q ends it", scene.broker);
    let spool = format!(" spool: {} readings wait for the broker, {} on disk", scene.waiting, size(scene.disk_bytes));
    frame.render_widget(Paragraph::new(vec![Text::from(title).bold(), Text::from(spool)]), head);
    let areas = Layout::vertical(scene.devices.iter().map(|_| Constraint::Length(4))).split(devices);
    for ((name, view), area) in scene.devices.iter().zip(areas.iter()) {
        device(frame, name, view, *area);
    }
    let room = usize::from(foot.height.saturating_sub(2));
    let from = scene.happenings.len().saturating_sub(room);
    let lines: Vec<Text<'_>> = scene.happenings.iter().skip(from).map(|line| Text::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" what happened ")), foot);
}

fn device(frame: &mut Frame<'_>, name: &str, view: &DeviceView, area: Rect) {
    let title = format!(
        " {name} · {} · {} received · {} waiting · token {} ",
        clean(&view.value),
        view.received,
        view.waiting,
        view.token()
    );
    let block = Block::bordered().title(title);
    let width = usize::from(area.width.saturating_sub(2));
    let bars = view.bars();
    let shown = bars.get(bars.len().saturating_sub(width)..).unwrap_or_default();
    frame.render_widget(Sparkline::default().data(shown).max(100).fg(Color::Cyan).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_picture_shows_devices_tokens_and_the_spool_on_any_size() {
        let mut scene = Scene { broker: "mqtt://127.0.0.1:1883".to_owned(), waiting: 7, ..Scene::default() };
        let view = DeviceView { value: "load 0.5 /".to_owned(), token_left_s: Some(6), ..DeviceView::default() };
        scene.devices.insert("demo-1".to_owned(), view);
        scene.happened("demo-1 is paired.");
        for (width, height) in [(100, 20), (20, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| picture(frame, &scene)).unwrap();
            if width == 100 {
                let text = terminal.backend().to_string();
                for words in ["demo-1", "token 6 s left", "7 readings wait", "demo-1 is paired."] {
                    assert!(text.contains(words), "{words}: {text}");
                }
            }
        }
    }
}
