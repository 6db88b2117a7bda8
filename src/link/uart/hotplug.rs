//! Says when something changed where ports come and go, so that nobody has to look again and again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use inotify::{Inotify, WatchMask};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::options::UartOptions;

/// How often ports are looked for where the kernel gives us no watch (its limit of watches is reached).
const WITHOUT_WATCH: Duration = Duration::from_secs(5);

/// A count that changes whenever a port may have come, gone or changed its permissions.
#[derive(Debug, Clone)]
pub(crate) struct Hotplug(watch::Receiver<u64>);

impl Hotplug {
    /// Watches the folders of the ports until `stop`; other options are followed at once.
    pub(crate) fn start(mut options: watch::Receiver<UartOptions>, stop: CancellationToken) -> Self {
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let now = options.borrow_and_update().clone();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = run(&now, &sender) => {}
                    changed = options.changed() => if changed.is_err() { return },
                }
            }
        });
        Self(receiver)
    }

    /// Ends at the next change; never, once the watch has stopped.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn run(options: &UartOptions, sender: &watch::Sender<u64>) {
    if let Err(error) = follow(options, sender).await {
        tracing::warn!(error = %error, every_s = WITHOUT_WATCH.as_secs(), "no hot-plug events; ports are looked for from time to time");
    }
    loop {
        tokio::time::sleep(WITHOUT_WATCH).await;
        sender.send_modify(|count| *count += 1);
    }
}

async fn follow(options: &UartOptions, sender: &watch::Sender<u64>) -> io::Result<()> {
    let mut events = Inotify::init()?.into_event_stream([0; 4096])?;
    loop {
        // Again after every event: a folder that was just made or made anew has no watch yet, and a symlink may
        // point elsewhere now. Watches of folders that stay are left as they are.
        for folder in folders(options) {
            let mask =
                WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ATTRIB | WatchMask::DELETE_SELF;
            match events.watches().add(&folder, mask | WatchMask::ONLYDIR) {
                // It went between looking and watching: the watch on its parent tells when it is back.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
        // After the watches stand, so that nothing can slip between a look and its watch.
        sender.send_modify(|count| *count += 1);
        match std::future::poll_fn(|context| Pin::new(&mut events).poll_next(context)).await {
            Some(event) => drop(event?),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Where to look: the folder of each path (or its nearest ancestor that exists, until it does) and the folder
/// of what it points to.
fn folders(options: &UartOptions) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for option in &options.ports {
        folders.extend(option.path.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned));
    }
    for port in options.expand() {
        let target = port.path.canonicalize().ok();
        folders.extend(target.as_deref().and_then(Path::parent).map(Path::to_owned));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::uart::PortOptions;

    fn watched(path: PathBuf) -> UartOptions {
        UartOptions { ports: vec![PortOptions { name: "line".to_owned(), path, baud: 115_200 }] }
    }

    async fn seen(hotplug: &mut Hotplug) {
        tokio::time::timeout(Duration::from_secs(60), hotplug.changed()).await.expect("a change was missed");
    }

    #[tokio::test]
    async fn a_port_is_noticed_even_when_its_folder_comes_with_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("serial/by-id");
        let options = watch::Sender::new(watched(folder.join("usb-port")));
        let mut hotplug = Hotplug::start(options.subscribe(), CancellationToken::new());
        seen(&mut hotplug).await;
        std::fs::create_dir_all(&folder).unwrap();
        seen(&mut hotplug).await;
        std::fs::write(folder.join("usb-port"), "").unwrap();
        seen(&mut hotplug).await;
        std::fs::remove_dir_all(place.path().join("serial")).unwrap();
        seen(&mut hotplug).await;
    }

    #[test]
    fn the_folder_of_the_target_is_watched_too() {
        let place = tempfile::tempdir().unwrap();
        let (by_id, dev) = (place.path().join("by-id"), place.path().join("dev"));
        std::fs::create_dir(&by_id).unwrap();
        std::fs::create_dir(&dev).unwrap();
        std::fs::write(dev.join("ttyUSB0"), "").unwrap();
        std::os::unix::fs::symlink(dev.join("ttyUSB0"), by_id.join("usb-port")).unwrap();
        let found = folders(&watched(by_id.join("usb-port")));
        assert_eq!(found, BTreeSet::from([by_id.canonicalize().unwrap(), dev.canonicalize().unwrap()]));
    }
}
