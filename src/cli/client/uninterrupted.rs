//! Steps that Ctrl-C does not interrupt.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

/// How many such steps run. A command is one thread, and a completion may run at the same time.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A step that runs to its end although the command was interrupted: as long as this is held.
pub struct Uninterrupted(());

impl Uninterrupted {
    /// Begins one. It has to end by itself in a bounded time.
    pub fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs interrupted work on until no such step runs.
pub async fn finish<T>(mut work: Pin<&mut impl Future<Output = T>>) {
    std::future::poll_fn(|context| {
        if RUNNING.load(Ordering::Relaxed) == 0 || work.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if RUNNING.load(Ordering::Relaxed) == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
