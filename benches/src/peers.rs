//! The peers: `mosquitto_pub -l` on each serial line, straight to the broker or through a local mosquitto.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Outcome;
use crate::broker;
use crate::line::{self, Feed, Pace, Sent};
use crate::process::{self, Service};
use crate::pty::Pty;
use crate::receiver::Identify;
use crate::subject::{Gateway, Site, Subject};

/// `mosquitto_pub -l -q 1` to the main broker: memory only.
pub(crate) struct MosquittoPub;

impl Subject for MosquittoPub {
    fn name(&self) -> &'static str {
        "mosquitto_pub"
    }

    fn identify(&self) -> Identify {
        line::identify
    }

    fn start(&self, site: &Site, devices: usize) -> Outcome<Box<dyn Gateway>> {
        Ok(Box::new(Lines::start(Vec::new(), site.broker, devices)?))
    }
}

/// `mosquitto_pub -l -q 1` to a local mosquitto that writes its queue to disk each second and bridges it on.
pub(crate) struct Bridge;

impl Subject for Bridge {
    fn name(&self) -> &'static str {
        "mosquitto_bridge"
    }

    fn identify(&self) -> Identify {
        line::identify
    }

    fn start(&self, site: &Site, devices: usize) -> Outcome<Box<dyn Gateway>> {
        let local = process::free_port()?;
        let more = format!(
            "autosave_interval 1\nconnection up\naddress {}\ntopic # out 1\ncleansession false\n\
             restart_timeout 1\nnotifications false\n",
            site.broker
        );
        let bridge = broker::mosquitto(&site.dir, "local", local, &more)?;
        Ok(Box::new(Lines::start(vec![bridge], local, devices)?))
    }
}

/// Serial lines, each read by a `mosquitto_pub`.
struct Lines {
    services: Vec<Service>,
    ptys: Vec<Pty>,
    feed: Option<Feed>,
    /// Readings that each sensor has made in earlier feeds.
    made: u64,
}

impl Lines {
    fn start(mut services: Vec<Service>, to: SocketAddr, devices: usize) -> Outcome<Self> {
        let mut ptys = Vec::new();
        for device in 0..devices {
            let pty = Pty::open()?;
            let far = pty.far.try_clone()?;
            services.push(Service::start(move || {
                let mut command = Command::new("mosquitto_pub");
                command.args(["-l", "-q", "1", "-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
                command.args(["-t", &format!("bench/{device}")]);
                command.stdin(far.try_clone()?).stdout(Stdio::null()).stderr(Stdio::null());
                Ok(command)
            })?);
            ptys.push(pty);
        }
        Ok(Self { services, ptys, feed: None, made: 0 })
    }
}

impl Gateway for Lines {
    fn services(&mut self) -> &mut [Service] {
        &mut self.services
    }

    fn feed(&mut self, pace: Pace, _time: Duration) -> Outcome<()> {
        self.feed = Some(Feed::start(self.ptys.iter().map(|pty| &pty.near), self.made, pace)?);
        Ok(())
    }

    fn end_feed(&mut self) -> Outcome<Vec<Sent>> {
        let sent = self.feed.take().ok_or("no feed to end")?.stop()?;
        self.made = sent.iter().map(|sent| sent.identity.1).max().unwrap_or(self.made);
        Ok(sent)
    }
}
