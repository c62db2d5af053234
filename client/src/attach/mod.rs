//! Attach: keys in this process's own memory, under leases of a replica.
//!
//! No check that starts after Revoke returned is answered VALID from here: Revoke waits for this client as it waits for
//! a replica. The rules, in the words of `docs/consistency.md`: a grant counts from before it was requested; a check
//! reads the clock, then the deadline, then the key; a key is removed before its change is acknowledged; one task reads
//! the stream and fills the memory; a session's memory and deadline are its own, and a new session starts without
//! either.
//!
//! Only VALID is answered from memory. Every other verdict is the server's, by a call.

mod clock;
mod local;
mod memory;
mod options;
mod session;
mod status;
mod tag;
mod watch;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

pub use self::{
    local::{LocalKey, LocalMemory},
    options::{AttachOptions, WhileAway},
    status::{AttachState, AttachStatus},
};
use self::{
    memory::Memory,
    session::{End, LookUpRequest},
    tag::Tagger,
    watch::{AttachedWatcher, KeyName, Watches},
};
use crate::{
    asserted::Asserted, backoff::Backoff, endpoints::Endpoints, error::BuildError, key_facts::KeyWatcher,
    verdict::Principal,
};

/// Queued requests to look up a key. A further one is dropped, and checks of its key stay calls.
const MAX_QUEUED_LOOK_UPS: usize = 1_024;
/// Delays between two sessions: the first and the longest.
const SESSION_DELAYS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// A session that lasted this long was stable: the delay before the next one starts again at the first value.
const STABLE_SESSION: Duration = Duration::from_secs(5);
/// Delay after a replica of a version without Attach, or one that refuses this caller.
const REFUSED_DELAY: Duration = Duration::from_secs(10);

/// What checks and the session's task share.
struct Shared {
    options: AttachOptions,
    /// The memory of the session that may answer. It is replaced as a whole.
    current: ArcSwapOption<Memory>,
    watches: Arc<Watches>,
    /// A check found no lease, so the session is to be renewed, even if it was never granted any time.
    lease_needed: AtomicBool,
    state: AtomicU8,
    sessions: AtomicU64,
    answers: AtomicU64,
    calls_without_lease: AtomicU64,
    calls_for_keys: AtomicU64,
}

impl Shared {
    fn set_state(&self, state: AttachState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn state(&self) -> AttachState {
        let all = [AttachState::Connecting, AttachState::Open, AttachState::Unsupported, AttachState::Refused];
        let state = self.state.load(Ordering::Relaxed);
        all.into_iter().find(|known| *known as u8 == state).unwrap_or(AttachState::Connecting)
    }
}

/// The attached part of a client.
pub(crate) struct Attached {
    shared: Arc<Shared>,
    tagger: Tagger,
    look_ups: mpsc::Sender<LookUpRequest>,
    /// Ends the task once it is true.
    stop: tokio::sync::watch::Sender<bool>,
}

impl Attached {
    /// Starts the task that keeps a session. It ends with this.
    ///
    /// # Errors
    ///
    /// An option that is out of its bounds; a system without a clock that counts suspension.
    pub(crate) fn start(endpoints: Arc<Endpoints>, options: AttachOptions) -> Result<Self, BuildError> {
        options.validate()?;
        if clock::boottime().is_none() {
            return Err(BuildError::new("attach", "needs a clock that counts suspension, which this system has not"));
        }
        let tagger = Tagger::new().ok_or_else(|| BuildError::new("attach", "the system gives no random bytes"))?;
        let shared = Arc::new(Shared {
            options,
            current: ArcSwapOption::empty(),
            watches: Watches::new(options.grace_period),
            lease_needed: AtomicBool::new(false),
            state: AtomicU8::new(AttachState::Connecting as u8),
            sessions: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            calls_without_lease: AtomicU64::new(0),
            calls_for_keys: AtomicU64::new(0),
        });
        let (look_ups, requests) = mpsc::channel(MAX_QUEUED_LOOK_UPS);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(keep_session(Arc::clone(&shared), endpoints, requests, stopped));
        Ok(Self { shared, tagger, look_ups, stop })
    }

    /// The key of a secret if memory may answer, has it, and it satisfies the check. None: a call decides.
    pub(crate) fn verify(&self, secret: &str, asserted: &Asserted<'_>) -> Option<Principal> {
        let tag = self.tagger.tag(secret);
        let current = self.shared.current.load();
        let Some(memory) = current.as_deref() else { return self.without_lease() };
        // The clock, then the deadline, then the key: in another order, the key could be older than the lease.
        let Some(now) = memory.live() else { return self.without_lease() };
        let found = memory.get(tag, now).filter(|entry| asserted.holds_for(&entry.facts));
        if found.is_none() {
            self.shared.calls_for_keys.fetch_add(1, Ordering::Relaxed);
        }
        let entry = found?;
        entry.used(now);
        Some(Principal::of_memory(Arc::clone(&entry.facts)))
    }

    /// The memory, if it may answer now.
    pub(crate) fn local(&self) -> Option<LocalMemory<'_>> {
        let memory = self.shared.current.load_full();
        let live = memory.and_then(|memory| Some((memory.live()?, memory)));
        if live.is_none() {
            self.without_lease();
        }
        let (now, memory) = live?;
        Some(LocalMemory { memory, tagger: &self.tagger, now })
    }

    /// Ends the session in good order, and waits until it has ended.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }

    #[cold]
    fn without_lease(&self) -> Option<Principal> {
        self.shared.calls_without_lease.fetch_add(1, Ordering::Relaxed);
        // The session renews only while it is used.
        self.shared.lease_needed.store(true, Ordering::Relaxed);
        None
    }

    /// Requests the key of a secret that a call has found valid, to keep it in memory.
    pub(crate) fn request_look_up(&self, secret: &str) {
        let request = LookUpRequest { tag: self.tagger.tag(secret), secret: Zeroizing::new(secret.to_owned()) };
        // If the queue is full, a later check of the key requests it again.
        let _ = self.look_ups.try_send(request);
    }

    /// Watches a key that a call has found valid.
    pub(crate) fn watcher(&self, secret: String) -> Box<dyn KeyWatcher> {
        Box::new(AttachedWatcher {
            watches: Arc::clone(&self.shared.watches),
            tag: self.tagger.tag(&secret),
            name: KeyName::Secret(Arc::new(Zeroizing::new(secret))),
            expires: None,
        })
    }

    pub(crate) fn status(&self) -> AttachStatus {
        let current = self.shared.current.load();
        let memory = current.as_deref();
        let lease = memory.map(Memory::lease).unwrap_or_default();
        AttachStatus {
            state: self.shared.state(),
            live: !lease.is_zero(),
            lease,
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            answers: self.shared.answers.load(Ordering::Relaxed),
            keys: memory.map_or(0, Memory::len),
            bytes: memory.map_or(0, Memory::bytes),
            watched_keys: self.shared.watches.keys(),
            waiters: self.shared.watches.waiters(),
            calls_without_lease: self.shared.calls_without_lease.load(Ordering::Relaxed),
            calls_for_keys: self.shared.calls_for_keys.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}

/// Completes once the client was detached or dropped.
async fn stopped(stop: &mut tokio::sync::watch::Receiver<bool>) {
    // An error: it was dropped.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps a session, with one replica after the other, until the client is detached or dropped.
async fn keep_session(
    shared: Arc<Shared>,
    endpoints: Arc<Endpoints>,
    mut requests: mpsc::Receiver<LookUpRequest>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    // Whatever ends this task, a panic included: no wait for the end of a key may outlive it.
    let _close = CloseOnDrop(Arc::clone(&shared));
    let new_backoff = || Backoff::new(SESSION_DELAYS.0, SESSION_DELAYS.1);
    let mut backoff = new_backoff();
    loop {
        let began = Instant::now();
        let end = session::run(&shared, endpoints.next(), &mut requests, &mut stop).await;
        if began.elapsed() >= STABLE_SESSION {
            backoff = new_backoff();
        }
        let (state, delay) = match end {
            End::ClientGone => return,
            End::Unsupported => (AttachState::Unsupported, REFUSED_DELAY),
            End::Refused => (AttachState::Refused, REFUSED_DELAY),
            End::Broken => (AttachState::Connecting, backoff.delay()),
        };
        shared.set_state(state);
        tokio::select! {
            () = sleep(delay) => {}
            () = stopped(&mut stop) => return,
        }
    }
}

/// When dropped: ends memory, and completes every wait for the end of a key.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // The memory of a session that broke is live until its lease ends.
        if let Some(memory) = self.0.current.swap(None) {
            memory.end();
        }
        self.0.watches.close();
    }
}
