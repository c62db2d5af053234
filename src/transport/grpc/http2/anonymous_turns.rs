//! Unauthenticated clients of one thread are read one after the other.
//!
//! Between two turns the thread looks at its sockets and answers the calls that have arrived. So an authenticated caller
//! waits for one such turn at most, however many unauthenticated clients send as fast as they can.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use parking_lot::Mutex;
use tokio::task::yield_now;

/// The queue of the turns.
#[derive(Debug, Default)]
pub(crate) struct AnonymousTurns(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Turn, Waker)>,
    /// A task hands out the turns of those that wait. It ends with the queue.
    served: bool,
}

/// The turn of one connection.
#[derive(Debug, Default)]
pub(super) struct Turn(Arc<AtomicBool>);

impl Turn {
    /// Whether the connection may be read.
    pub(super) fn has_come(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The connection is gone.
    fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl AnonymousTurns {
    /// Queues a connection whose task has this waker. It is woken when its turn has come.
    pub(super) fn wait(self: &Arc<Self>, waker: &Waker) -> Turn {
        let turn = Turn::default();
        let mut queue = self.0.lock();
        queue.waiting.push_back((Turn(Arc::clone(&turn.0)), waker.clone()));
        if !mem::replace(&mut queue.served, true) {
            tokio::spawn(Arc::clone(self).hand_out());
        }
        turn
    }

    async fn hand_out(self: Arc<Self>) {
        loop {
            // Comes back once the thread has looked at its sockets and has polled every task that was ready.
            yield_now().await;
            let mut queue = self.0.lock();
            let next = loop {
                match queue.waiting.pop_front() {
                    Some((turn, _)) if turn.is_abandoned() => {}
                    next => break next,
                }
            };
            queue.served = next.is_some();
            drop(queue);
            let Some((turn, waker)) = next else { return };
            turn.0.store(true, Ordering::Release);
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::task::{self, ArcWake};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl ArcWake for Wakes {
        fn wake_by_ref(wakes: &Arc<Self>) {
            wakes.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn turns_come_one_after_the_other_in_their_order_and_not_for_those_that_are_gone() {
        let (turns, wakes) = (Arc::<AnonymousTurns>::default(), Arc::<Wakes>::default());
        let connection = task::waker(Arc::clone(&wakes));
        for _ in 0..2 {
            wakes.0.store(0, Ordering::Relaxed);
            let first = turns.wait(&connection);
            drop(turns.wait(&connection));
            let (second, third) = (turns.wait(&connection), turns.wait(&connection));
            let mut come = vec![];
            while !third.has_come() {
                yield_now().await;
                let now = [&first, &second, &third].iter().filter(|turn| turn.has_come()).count();
                assert_eq!(wakes.0.load(Ordering::Relaxed), now);
                come.push(now);
            }
            come.retain(|&now| now > 0);
            assert_eq!(come, [1, 2, 3]);
            assert!(first.has_come() && second.has_come());
            while turns.0.lock().served {
                yield_now().await;
            }
        }
    }
}
