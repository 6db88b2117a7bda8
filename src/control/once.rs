//! Requests that may be made again: a pipeline that lost the answer asks with the same key, and nothing is made twice.

use std::collections::VecDeque;

use tokio::sync::Mutex;

use super::failure::Failure;
use crate::audit::Actor;
use crate::pairing::code::{CodeId, CodeRequest};

/// Keys that are remembered, of all users together; the oldest is forgotten first.
const KEPT: usize = 1024;
/// Longest key, in characters.
const MAX_KEY: usize = 128;

/// The codes that were made under a key. In memory: a restart voids every code, so that a key then makes a new one.
#[derive(Debug, Default)]
pub(super) struct Once(Mutex<VecDeque<Made>>);

#[derive(Debug)]
struct Made {
    creator: Actor,
    key: String,
    request: CodeRequest,
    id: CodeId,
}

/// What came of a request under a key.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It was made now.
    Now(T),
    /// It was made before.
    Before(CodeId),
}

impl Once {
    /// Makes a code under the creator's `key`, or says which one was. Two that ask at once get one code.
    ///
    /// # Errors
    /// Where the key is too long or was used for something else, and what `make` says.
    pub(super) async fn make<T>(
        &self,
        creator: &Actor,
        key: &str,
        request: &CodeRequest,
        make: impl AsyncFnOnce() -> Result<(CodeId, T), Failure>,
    ) -> Result<Outcome<T>, Failure> {
        if key.is_empty() || key.chars().count() > MAX_KEY {
            return Err(Failure::usage(format!("An idempotency key has 1 to {MAX_KEY} characters."), ""));
        }
        let mut kept = self.0.lock().await;
        if let Some(before) = kept.iter().find(|made| made.key == key && made.creator == *creator) {
            if before.request != *request {
                let text = format!("The idempotency key {key:?} made {} with other wishes.", before.id);
                return Err(Failure::usage(text, "Take another key for another code."));
            }
            return Ok(Outcome::Before(before.id.clone()));
        }
        let (id, value) = make().await?;
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(Made { creator: creator.clone(), key: key.to_owned(), request: request.clone(), id });
        Ok(Outcome::Now(value))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::token::{Limits, Stage};

    fn request(label: &str) -> CodeRequest {
        CodeRequest {
            label: Some(label.to_owned()),
            stage: Stage::default(),
            hardware_id: None,
            device: None,
            scopes: Vec::new(),
            limits: Limits::default(),
            ttl: Duration::from_secs(60),
            idle: None,
            max_attempts: 3,
        }
    }

    fn id(number: u8) -> CodeId {
        format!("ocpc_{number:026}").parse().unwrap()
    }

    #[tokio::test]
    async fn one_key_of_one_user_makes_one_code() {
        let once = Once::default();
        let (kim, lee) = (Actor::Uid { uid: 1, name: None }, Actor::Uid { uid: 2, name: None });
        let made = async |who: &Actor, key: &str, label: &str, number: u8| {
            once.make(who, key, &request(label), async || Ok((id(number), ()))).await
        };
        assert!(matches!(made(&kim, "run-1", "a", 1).await, Ok(Outcome::Now(()))));
        assert!(matches!(made(&kim, "run-1", "a", 2).await, Ok(Outcome::Before(it)) if it == id(1)));
        assert!(made(&kim, "run-1", "b", 3).await.unwrap_err().message.contains("other wishes"));
        assert!(matches!(made(&lee, "run-1", "a", 4).await, Ok(Outcome::Now(()))), "a key is its user's own");
        assert!(matches!(made(&kim, "run-2", "a", 5).await, Ok(Outcome::Now(()))));
        assert!(made(&kim, "", "a", 6).await.is_err() && made(&kim, &"k".repeat(129), "a", 6).await.is_err());
    }

    #[tokio::test]
    async fn what_failed_may_be_tried_again_under_its_key_and_memory_is_bounded() {
        let once = Once::default();
        let refused = once
            .make(&Actor::Daemon, "k", &request("a"), async || Err::<(CodeId, ()), _>(Failure::usage("no", "")))
            .await;
        assert!(refused.is_err());
        for number in 0..KEPT + 10 {
            let made = once.make(&Actor::Daemon, &format!("k{number}"), &request("a"), async || Ok((id(1), ()))).await;
            assert!(matches!(made, Ok(Outcome::Now(()))));
        }
        assert_eq!(once.0.lock().await.len(), KEPT);
    }
}
