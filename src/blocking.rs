//! Work that waits for the disk, kept off the threads that serve links and connections.

use std::sync::{Arc, Mutex, PoisonError};

/// Runs what reaches the disk beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let result = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&result);
    beside(Box::new(move || {
        let done = work();
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
    }))
    .await;
    let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    match done {
        Some(done) => done,
        // Never: the work has ended.
        None => std::future::pending().await,
    }
}

/// Boxed, so that there is one type of such a task: each has its own copy of the runtime's code for tasks, 2 KB.
async fn beside(work: Box<dyn FnOnce() + Send>) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        match error.try_into_panic() {
            // A panic there is a panic here: the port's supervisor starts it anew.
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_is_done_and_its_result_comes_back() {
        assert_eq!(blocking(|| 2 + 2).await, 4);
    }

    #[tokio::test]
    async fn a_panic_of_the_work_is_one_of_who_waits_for_it() {
        let waits = tokio::spawn(blocking(|| panic!("the disk is gone")));
        let panic = waits.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"the disk is gone"));
    }
}
