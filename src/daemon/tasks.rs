//! Essential tasks: each has a name and a stop of its own; one that ends unasked ends the daemon in order.

use std::pin::Pin;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Tasks that the daemon cannot do without.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<&'static str>,
    names: Vec<(tokio::task::Id, &'static str)>,
    stops: Vec<(&'static str, CancellationToken)>,
}

/// An essential task that ended.
pub(super) struct Ended {
    pub(super) name: &'static str,
    pub(super) how: String,
}

impl Tasks {
    /// Starts a task; it ends soon after its token is cancelled.
    pub(super) fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        // Boxed, so that there is one type of such a task: each has its own copy of the runtime's code for tasks.
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task(stop.clone()));
        let handle = self.set.spawn(async move {
            task.await;
            name
        });
        self.names.push((handle.id(), name));
        self.stops.push((name, stop));
    }

    /// Ends when a task has ended by itself. Pending for ever while all run.
    pub(super) async fn ended(&mut self) -> Ended {
        match self.set.join_next().await {
            Some(result) => self.told(result),
            None => std::future::pending().await,
        }
    }

    /// Asks one task to end and waits, at most so long; then it is aborted. `true` where it ended by itself.
    pub(super) async fn stop(&mut self, name: &'static str, within: Duration) -> bool {
        let Some(at) = self.stops.iter().position(|(known, _)| *known == name) else { return true };
        let (_, stop) = self.stops.swap_remove(at);
        stop.cancel();
        let waited = tokio::time::timeout(within, async {
            while let Some(result) = self.set.join_next().await {
                let ended = self.told(result);
                if ended.name == name {
                    return;
                }
                tracing::warn!(task = ended.name, how = %ended.how, "an essential task ended during the stop");
            }
        });
        waited.await.is_ok()
    }

    /// Ends all at once: the start failed.
    pub(super) async fn abandon(mut self) {
        for (_, stop) in &self.stops {
            stop.cancel();
        }
        self.set.shutdown().await;
    }

    fn told(&mut self, result: Result<&'static str, JoinError>) -> Ended {
        match result {
            Ok(name) => Ended { name, how: "it returned".to_owned() },
            Err(error) => {
                let name = self.names.iter().find(|(id, _)| *id == error.id()).map_or("unknown", |(_, name)| name);
                Ended { name, how: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("steady", |stop| async move { stop.cancelled().await });
        tasks.spawn("shaky", |_| async { panic!("on purpose") });
        let ended = tasks.ended().await;
        assert_eq!(ended.name, "shaky");
        assert!(ended.how.contains("panicked"), "{}", ended.how);
        assert!(tasks.stop("steady", Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_left_behind_after_its_time() {
        let mut tasks = Tasks::default();
        tasks.spawn("deaf", |_| std::future::pending());
        assert!(!tasks.stop("deaf", Duration::from_secs(5)).await);
        tasks.abandon().await;
    }
}
