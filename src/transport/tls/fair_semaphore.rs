//! A semaphore that is fair between client addresses.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A bounded number of permits. Waiting addresses are served round robin, one waiter at a time: an address with a
/// thousand waiters delays another one by a single permit.
pub(crate) struct FairSemaphore(Mutex<State>);

struct State {
    free: usize,
    /// The waiting addresses, each once, in the order in which they are served.
    rotation: VecDeque<IpAddr>,
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<FairPermit>>>,
}

/// A permit, released when this is dropped; `None` once it is released.
pub(crate) struct FairPermit(Option<Arc<FairSemaphore>>);

impl FairSemaphore {
    /// A semaphore with this many permits.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: count, rotation: VecDeque::new(), waiting: HashMap::new() })))
    }

    /// Waits for a permit for this address.
    pub(crate) async fn acquire(self: &Arc<Self>, address: IpAddr) -> FairPermit {
        loop {
            let waiter = {
                let mut state = self.0.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return FairPermit(Some(Arc::clone(self)));
                }
                let (sender, waiter) = oneshot::channel();
                if !state.waiting.contains_key(&address) {
                    state.rotation.push_back(address);
                }
                state.waiting.entry(address).or_default().push_back(sender);
                waiter
            };
            // The sender is dropped only together with this queue, which this future keeps.
            if let Ok(permit) = waiter.await {
                return permit;
            }
        }
    }
}

impl State {
    /// The next waiter, round robin.
    fn next(&mut self) -> Option<oneshot::Sender<FairPermit>> {
        let address = self.rotation.pop_front()?;
        let queue = self.waiting.get_mut(&address)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.rotation.push_back(address);
        }
        next
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let Some(semaphore) = self.0.take() else { return };
        loop {
            let mut state = semaphore.0.lock();
            let Some(next) = state.next() else {
                state.free += 1;
                return;
            };
            drop(state);
            // A waiter that was dropped does not take the permit: offer it to the next one.
            match next.send(Self(Some(Arc::clone(&semaphore)))) {
                Ok(()) => return,
                Err(mut back) => drop(back.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test]
    async fn an_address_with_many_waiters_delays_another_one_by_a_single_permit() {
        let semaphore = FairSemaphore::new(1);
        let taken = semaphore.acquire(address(1)).await;
        let mut many: Vec<_> = (0..100).map(|_| Box::pin(semaphore.acquire(address(1)))).collect();
        for waiter in &mut many {
            assert!(poll!(waiter).is_pending());
        }
        let mut other = pin!(semaphore.acquire(address(2)));
        assert!(poll!(other.as_mut()).is_pending());
        drop(taken);
        let first = many.remove(0).await;
        assert!(poll!(other.as_mut()).is_pending());
        drop(first);
        let others = other.await;
        assert!(poll!(&mut many[0]).is_pending());
        drop(others);
        drop(many.remove(0).await);
    }

    #[tokio::test]
    async fn a_dropped_waiter_takes_no_permit() {
        let semaphore = FairSemaphore::new(1);
        let taken = semaphore.acquire(address(1)).await;
        for _ in 0..3 {
            assert!(poll!(pin!(semaphore.acquire(address(1)))).is_pending());
        }
        // This waiter is dropped after the permit was sent to it.
        let mut sent = Box::pin(semaphore.acquire(address(2)));
        assert!(poll!(&mut sent).is_pending());
        drop(taken);
        drop(sent);
        let state = semaphore.0.lock();
        assert_eq!((state.free, state.rotation.len(), state.waiting.len()), (1, 0, 0));
    }
}
