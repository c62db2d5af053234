//! Bounds management calls by caller, so that one caller's calls leave room for those of others.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::context::CallContext;
use crate::domain::{
    access::{self, Manager},
    caller::Caller,
    error::{Error, ErrorKind, Result},
};

/// Maximum number of pages of one caller that are read concurrently. Further ones wait for a permit.
const MAX_CONCURRENT_PAGES: usize = 2;

/// The management calls in flight.
pub struct ManagementCalls {
    /// Calls of one caller at once, including those that wait.
    limit: usize,
    /// Only callers with a call in flight have an entry.
    callers: Mutex<HashMap<String, InFlight>>,
}

struct InFlight {
    calls: usize,
    pages: Arc<Semaphore>,
}

/// A call in flight. Dropping it ends the call.
pub struct Call<'a> {
    calls: &'a ManagementCalls,
    actor: String,
    page: Option<OwnedSemaphorePermit>,
}

impl ManagementCalls {
    /// Allows each caller `limit` calls at once.
    pub fn new(limit: usize) -> Self {
        Self { limit, callers: Mutex::default() }
    }

    /// Begins a call of a caller that may manage keys. It ends when the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`access::may_manage`]; RESOURCE_EXHAUSTED if too many calls of the caller are in flight.
    pub fn begin<'c>(&self, caller: &'c Caller) -> Result<(Manager<'c>, Call<'_>)> {
        let manager = access::may_manage(caller)?;
        let actor = caller.actor();
        let mut callers = self.callers.lock();
        let in_flight = callers
            .entry(actor.clone())
            .or_insert_with(|| InFlight { calls: 0, pages: Arc::new(Semaphore::new(MAX_CONCURRENT_PAGES)) });
        if in_flight.calls >= self.limit {
            return Err(too_many_calls());
        }
        in_flight.calls += 1;
        drop(callers);
        Ok((manager, Call { calls: self, actor, page: None }))
    }
}

impl Call<'_> {
    /// Waits for a permit to read a page, at most until the deadline. The permit is released with the call.
    ///
    /// # Errors
    ///
    /// DEADLINE_EXCEEDED.
    pub async fn acquire_page_permit(&mut self, context: CallContext<'_>) -> Result<()> {
        let pages = self.calls.callers.lock().get(&self.actor).map(|in_flight| Arc::clone(&in_flight.pages));
        let Some(pages) = pages else { return Ok(()) };
        let permit = tokio::time::timeout_at(context.deadline, pages.acquire_owned()).await;
        self.page = permit.map_err(|_| Error::deadline_exceeded())?.ok();
        Ok(())
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut callers = self.calls.callers.lock();
        if let Some(in_flight) = callers.get_mut(&self.actor) {
            in_flight.calls -= 1;
            if in_flight.calls == 0 {
                callers.remove(&self.actor);
            }
        }
    }
}

fn too_many_calls() -> Error {
    Error {
        retry_after: Some(std::time::Duration::from_secs(1)),
        ..Error::new(ErrorKind::ResourceExhausted, "RATE_LIMITED", "Too many calls of this caller at once")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::domain::caller::AuthMethod;

    fn root() -> Caller {
        Caller::Operator { method: AuthMethod::Root }
    }

    fn other() -> Caller {
        Caller::Operator { method: AuthMethod::Certificate("spiffe://example.org/other".into()) }
    }

    fn within(wait: Duration) -> CallContext<'static> {
        CallContext { deadline: Instant::now() + wait, host_environment: "", client: None }
    }

    #[test]
    fn a_caller_past_its_bound_is_refused_and_others_are_not() {
        let (calls, root, other) = (ManagementCalls::new(2), root(), other());
        let first = calls.begin(&root).unwrap();
        let _second = calls.begin(&root).unwrap();
        let refused = calls.begin(&root).err().unwrap();
        assert_eq!((refused.kind, refused.reason), (ErrorKind::ResourceExhausted, "RATE_LIMITED"));
        assert!(refused.retry_after.is_some());
        assert!(calls.begin(&other).is_ok());
        drop(first);
        assert!(calls.begin(&root).is_ok());
    }

    #[test]
    fn a_caller_without_a_call_in_flight_takes_no_memory() {
        let (calls, root) = (ManagementCalls::new(2), root());
        drop(calls.begin(&root).unwrap());
        assert!(calls.callers.lock().is_empty());
    }

    #[tokio::test]
    async fn pages_of_one_caller_wait_for_each_other_and_not_for_those_of_others() {
        let (calls, root, other) = (ManagementCalls::new(16), root(), other());
        let mut running = Vec::new();
        for _ in 0..MAX_CONCURRENT_PAGES {
            let (_, mut call) = calls.begin(&root).unwrap();
            call.acquire_page_permit(within(Duration::from_secs(30))).await.unwrap();
            running.push(call);
        }
        let (_, mut waiting) = calls.begin(&root).unwrap();
        let refused = waiting.acquire_page_permit(within(Duration::ZERO)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::DeadlineExceeded);
        let (_, mut call) = calls.begin(&other).unwrap();
        call.acquire_page_permit(within(Duration::from_secs(30))).await.unwrap();
        running.pop();
        waiting.acquire_page_permit(within(Duration::from_secs(30))).await.unwrap();
    }
}
