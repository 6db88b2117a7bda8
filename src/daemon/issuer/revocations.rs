//! Keeps what was revoked where it must be: in the issuer's own file, over a restart, and in the file that brokers on this
//! machine read. Where that fails a token that was revoked may be good again, so an operator hears of it until it is mended.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::alarm::{Alarm, AlarmKind, Alarms};
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::token::local::{DenyList, PublicFile};

/// Until a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether the broker's file still says what it should.
const LOOK: Duration = Duration::from_secs(5);
/// How often the alarm is raised while it stands: an alarm that nobody raises for an hour counts as over.
const REMIND: Duration = Duration::from_secs(600);

/// What the alarm is about.
const SUBJECT: &str = "deny list";
/// What a person does about it.
const NEXT_STEP: &str = "Make room on the disk and let clawgate write there (keys.md): it tries again every second. Until \
                         then cut a thief off at the broker itself.";

/// The files of a deny list, and who hears what is wrong with them.
pub(super) struct Revocations {
    pub(super) deny: DenyList,
    /// For brokers on this machine, where there are any.
    pub(super) published: Option<PublicFile>,
    pub(super) alarms: Alarms,
    pub(super) clock: Clock,
    /// What is wrong now.
    pub(super) behind: watch::Sender<Option<String>>,
}

impl Revocations {
    /// Keeps the files up to date, until `stop`.
    pub(super) async fn keep(self, stop: &CancellationToken) {
        let (mut changes, mut reminded) = (self.deny.changes(), Duration::ZERO);
        loop {
            changes.mark_unchanged();
            let (deny, published) = (self.deny.clone(), self.published.clone());
            let problem = blocking(move || write(&deny, published.as_ref())).await;
            let now = self.clock.boot();
            if self.tell(problem.as_deref(), now.saturating_sub(reminded) >= REMIND) {
                reminded = now;
            }
            let due = async {
                if problem.is_some() {
                    tokio::time::sleep(AGAIN).await;
                } else {
                    // The list lives as long as this task.
                    let _ = tokio::time::timeout(LOOK, changes.changed()).await;
                }
            };
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
        }
    }

    /// Tells what is new, or again where it is time; whether the alarm was raised.
    fn tell(&self, problem: Option<&str>, remind: bool) -> bool {
        let is_new = self.behind.borrow().as_deref() != problem;
        if is_new {
            self.behind.send_replace(problem.map(str::to_owned));
        }
        let Some(words) = problem else {
            if is_new {
                tracing::info!("the deny list is kept and published again");
                self.alarms.clear(AlarmKind::DenyList, SUBJECT);
            }
            return false;
        };
        if is_new || remind {
            let (subject, next_step) = (SUBJECT.to_owned(), NEXT_STEP.to_owned());
            self.alarms.raise(Alarm { kind: AlarmKind::DenyList, subject, words: words.to_owned(), next_step });
        }
        is_new || remind
    }
}

/// Writes what is not written yet; what went wrong, in words.
fn write(deny: &DenyList, published: Option<&PublicFile>) -> Option<String> {
    let own =
        deny.keep_again().err().map(|error| format!("{error}: what was revoked since is good again at a restart"));
    let for_brokers = published.and_then(|file| file.put(&deny.render()).err());
    let for_brokers =
        for_brokers.map(|error| format!("{error}: a broker that reads it goes by an older one, or by none"));
    let problems: Vec<String> = own.into_iter().chain(for_brokers).collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}
