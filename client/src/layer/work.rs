//! Work that ends with the key that it was admitted under.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::denial::Denial;
use crate::{ended::Ended, verdict::Principal};

/// Work that was admitted under a key. The key is watched once the work has to wait for something.
#[derive(Debug)]
pub(super) struct Work {
    principal: Principal,
    ended: Option<Ended>,
    /// It was polled before.
    polled: bool,
}

impl Work {
    pub(super) fn new(principal: Principal) -> Self {
        Self { principal, ended: None, polled: false }
    }

    /// Polls the work, unless its key is over.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, Denial>> {
        // Work that makes progress on every poll never waits, and must end, too.
        if self.polled
            && let Poll::Ready(denial) = self.poll_end(cx)
        {
            return Poll::Ready(Err(denial));
        }
        self.polled = true;
        match work(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            // Most work completes in its first poll, and its key is never watched.
            Poll::Pending if self.ended.is_none() => self.poll_end(cx).map(Err),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Denial> {
        let ended = self.ended.get_or_insert_with(|| self.principal.ended());
        Poll::Ready(match ready!(Pin::new(ended).poll(cx)) {
            Ok(reason) => Denial::Ended(reason),
            Err(why) => Denial::NotWatched(why),
        })
    }
}
