//! What the gateway has to say of itself, until the broker has it: the newest status and checkpoint, and bounded
//! queues of alarms and replies. Nobody who puts something in waits for the cloud.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Alarms that wait; the oldest goes first, counted. They stand in the log and in the audit log too.
pub(super) const MOST_ALARMS: usize = 64;
/// Replies that wait: with so many no further command is taken. Beyond that the oldest goes first: whoever asked asks
/// again and gets the kept result.
pub(super) const MOST_REPLIES: usize = 64;

/// One message of the gateway's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// How the gateway is; retained.
    Status(Bytes),
    /// The newest signed checkpoint; retained.
    Audit(Bytes),
    /// An alarm.
    Alarm(Bytes),
    /// The answer to the command with this id.
    Reply(String, Bytes),
}

impl Item {
    /// The topic's part below `up/`.
    pub(super) fn leaf(&self) -> String {
        match self {
            Self::Status(_) => "status".to_owned(),
            Self::Audit(_) => "audit".to_owned(),
            Self::Alarm(_) => "alarm".to_owned(),
            Self::Reply(jti, _) => format!("reply/{jti}"),
        }
    }

    /// Whether the broker keeps it for who comes later.
    pub(super) fn is_retained(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Audit(_))
    }

    /// What it says.
    pub(super) fn payload(&self) -> &Bytes {
        match self {
            Self::Status(payload) | Self::Audit(payload) | Self::Alarm(payload) | Self::Reply(_, payload) => payload,
        }
    }
}

/// Shared by those who have something to say and the one connection that says it.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// A reply went.
    went: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The newest, said or not: a new connection says it again, over the will of the one before.
    status: Option<Bytes>,
    audit: Option<Bytes>,
    status_unsaid: bool,
    audit_unsaid: bool,
    alarms: VecDeque<Bytes>,
    replies: VecDeque<(String, Bytes)>,
    dropped: u64,
}

impl Outbox {
    /// Takes a message in place of an older one of its kind, or at the end of its queue.
    pub(super) fn put(&self, item: Item) {
        let mut waiting = self.waiting();
        match item {
            Item::Status(payload) => (waiting.status, waiting.status_unsaid) = (Some(payload), true),
            Item::Audit(payload) => (waiting.audit, waiting.audit_unsaid) = (Some(payload), true),
            Item::Alarm(payload) => {
                waiting.alarms.push_back(payload);
                if waiting.alarms.len() > MOST_ALARMS {
                    waiting.alarms.pop_front();
                    waiting.dropped += 1;
                }
            }
            Item::Reply(jti, payload) => {
                waiting.replies.push_back((jti, payload));
                if waiting.replies.len() > MOST_REPLIES {
                    waiting.replies.pop_front();
                    waiting.dropped += 1;
                }
            }
        }
        drop(waiting);
        self.0.changed.notify_one();
    }

    /// A message that was taken and did not arrive; a newer one of its kind stays.
    pub(super) fn put_back(&self, item: Item) {
        let mut waiting = self.waiting();
        match item {
            Item::Status(_) => waiting.status_unsaid = true,
            Item::Audit(_) => waiting.audit_unsaid = true,
            Item::Alarm(payload) if waiting.alarms.len() < MOST_ALARMS => waiting.alarms.push_front(payload),
            // One more than that: its place may have been given to the next meanwhile.
            Item::Reply(jti, payload) if waiting.replies.len() <= MOST_REPLIES => {
                waiting.replies.push_front((jti, payload));
            }
            Item::Alarm(_) | Item::Reply(..) => waiting.dropped += 1,
        }
        drop(waiting);
        self.0.changed.notify_one();
    }

    /// What is retained is to be said again: a connection begins.
    pub(super) fn begin(&self) {
        let mut waiting = self.waiting();
        waiting.status_unsaid = waiting.status.is_some();
        waiting.audit_unsaid = waiting.audit.is_some();
        drop(waiting);
        self.0.changed.notify_one();
    }

    /// The next message: answers before alarms before the state of things. Cancel safe.
    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.take() {
                return item;
            }
            self.0.changed.notified().await;
        }
    }

    /// Ready when a further reply is not too many; for the one who writes them. Cancel safe.
    pub(super) async fn has_room(&self) {
        while self.waiting().replies.len() >= MOST_REPLIES {
            self.0.went.notified().await;
        }
    }

    /// Messages that were given up, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.waiting().dropped
    }

    /// The same, if there is one.
    pub(super) fn take(&self) -> Option<Item> {
        let mut waiting = self.waiting();
        if let Some((jti, payload)) = waiting.replies.pop_front() {
            self.0.went.notify_one();
            return Some(Item::Reply(jti, payload));
        }
        if let Some(payload) = waiting.alarms.pop_front() {
            return Some(Item::Alarm(payload));
        }
        if std::mem::take(&mut waiting.status_unsaid) {
            return waiting.status.clone().map(Item::Status);
        }
        if std::mem::take(&mut waiting.audit_unsaid) {
            return waiting.audit.clone().map(Item::Audit);
        }
        None
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn only_the_newest_status_is_said_and_answers_go_first() {
        let outbox = Outbox::default();
        outbox.put(Item::Status(text("old")));
        outbox.put(Item::Status(text("new")));
        outbox.put(Item::Audit(text("checkpoint")));
        outbox.put(Item::Alarm(text("alarm")));
        outbox.put(Item::Reply("a".to_owned(), text("done")));
        let mut said = Vec::new();
        for _ in 0..4 {
            said.push(outbox.next().await.leaf());
        }
        assert_eq!(said, ["reply/a", "alarm", "status", "audit"]);
        assert_eq!(outbox.take(), None);
        outbox.begin();
        assert_eq!(outbox.take(), Some(Item::Status(text("new"))), "a new connection says it again");
    }

    #[test]
    fn what_did_not_arrive_is_said_again_unless_it_is_overtaken() {
        let outbox = Outbox::default();
        outbox.put(Item::Status(text("old")));
        let taken = outbox.take().unwrap();
        outbox.put(Item::Status(text("new")));
        outbox.put_back(taken);
        assert_eq!(outbox.take(), Some(Item::Status(text("new"))));
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn a_long_outage_keeps_the_newest_alarms_and_no_more_memory() {
        let outbox = Outbox::default();
        for n in 0..1000 {
            outbox.put(Item::Alarm(Bytes::from(n.to_string())));
            outbox.put(Item::Reply(n.to_string(), text("done")));
        }
        let first = outbox.take();
        assert_eq!(first, Some(Item::Reply((1000 - MOST_REPLIES).to_string(), text("done"))));
        assert_eq!(outbox.waiting().alarms.len(), MOST_ALARMS);
        assert_eq!(outbox.dropped(), 2 * 1000 - (MOST_ALARMS + MOST_REPLIES) as u64);
    }
}
