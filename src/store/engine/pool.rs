//! A bounded pool of connections.
//!
//! The driver's own pool tests each connection when it is returned, which costs every call a second round trip. Here a
//! connection that a call has left sound goes to the next call untested. If it broke meanwhile, that call notices and is
//! retried on a new one.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::{Connection as _, Database};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::classify::is_full;
use crate::store::database::PoolGauge;

/// How long an unreachable server is assumed to be starting, so that connecting is retried.
const STARTUP_GRACE: Duration = Duration::from_secs(1);
/// How long no new connection is attempted after the server refused one for its limit, while the pool has some.
const FULL_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Timeout of closing a connection cleanly.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type Options<DB> = <<DB as Database>::Connection as sqlx::Connection>::Options;

/// The bounds of a pool.
pub(crate) struct PoolRules<DB: Database> {
    /// Maximum number of connections.
    pub max_connections: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long an unused connection is kept; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a connection is used; `None`: for ever.
    pub max_lifetime: Option<Duration>,
    /// Checks a new connection. An error refuses it.
    pub after_connect: fn(&mut DB::Connection) -> BoxFuture<'_, sqlx::Result<()>>,
    /// Where connections are closed.
    pub runtime: Handle,
}

/// A bounded number of connections.
pub(crate) struct Pool<DB: Database> {
    options: Options<DB>,
    rules: PoolRules<DB>,
    permits: Arc<Semaphore>,
    /// The unused connections. The last one returned is used first, so that few are in use and the others time out.
    idle: Mutex<VecDeque<IdleConnection<DB>>>,
    open: AtomicU32,
    /// Since when the server cannot be reached.
    unreachable_since: Mutex<Option<Instant>>,
    /// Until when no connection is opened, because the server has reached its limit.
    full_until: Mutex<Option<Instant>>,
    /// Signals that a connection was returned or closed.
    returned: Notify,
    /// Connections of an earlier generation are broken, and closed when they are returned.
    generation: AtomicU64,
    /// Number of connections that wait for a lock of another process.
    lock_waits: AtomicU32,
}

struct IdleConnection<DB: Database> {
    connection: DB::Connection,
    opened_at: Instant,
    generation: u64,
    idle_since: Instant,
}

/// A connection in use. Dropping it closes the connection; a sound connection is returned by [`Self::release`].
pub(crate) struct Checkout<DB: Database> {
    connection: Option<DB::Connection>,
    opened_at: Instant,
    generation: u64,
    pool: Arc<Pool<DB>>,
    _permit: OwnedSemaphorePermit,
}

/// A wait for a lock of another process.
pub(crate) struct LockWait<DB: Database>(Arc<Pool<DB>>);

impl<DB: Database> Drop for LockWait<DB> {
    fn drop(&mut self) {
        self.0.lock_waits.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<DB: Database> Pool<DB> {
    /// Makes a pool without connections.
    pub fn new(options: Options<DB>, rules: PoolRules<DB>) -> Arc<Self> {
        Arc::new(Self {
            options,
            permits: Arc::new(Semaphore::new(rules.max_connections as usize)),
            rules,
            idle: Mutex::default(),
            open: AtomicU32::new(0),
            unreachable_since: Mutex::default(),
            full_until: Mutex::default(),
            returned: Notify::new(),
            generation: AtomicU64::new(0),
            lock_waits: AtomicU32::new(0),
        })
    }

    /// Takes an idle connection or opens a new one.
    ///
    /// # Errors
    ///
    /// `PoolTimedOut`, `PoolClosed`, or why a new connection could not be opened.
    pub async fn acquire(self: &Arc<Self>) -> sqlx::Result<Checkout<DB>> {
        let deadline = Instant::now() + self.rules.acquire_timeout;
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let checkout = |connection, opened_at, generation| Checkout {
            connection: Some(connection),
            opened_at,
            generation,
            pool: Arc::clone(self),
            _permit: permit,
        };
        loop {
            // Register before checking the idle connections, so that one that is returned in between is noticed.
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if let Some(IdleConnection { connection, opened_at, generation, .. }) = self.pop_idle() {
                return Ok(checkout(connection, opened_at, generation));
            }
            if !self.is_server_full() {
                let generation = self.generation.load(Ordering::SeqCst);
                match timeout_at(deadline, self.connect()).await.map_err(|_| sqlx::Error::PoolTimedOut)? {
                    Ok(connection) => {
                        self.open.fetch_add(1, Ordering::SeqCst);
                        return Ok(checkout(connection, Instant::now(), generation));
                    }
                    Err(error) if !is_full(&error) || self.open.load(Ordering::SeqCst) == 0 => return Err(error),
                    // Wait: the calls that use the pool's connections return them soon.
                    Err(_) => *self.full_until.lock() = Some(Instant::now() + FULL_RETRY_DELAY),
                }
            }
            if timeout_at(deadline.min(Instant::now() + FULL_RETRY_DELAY), returned).await.is_err()
                && Instant::now() >= deadline
            {
                return Err(sqlx::Error::PoolTimedOut);
            }
        }
    }

    /// Whether the server refused a further connection a moment ago, while the pool has some.
    fn is_server_full(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0 && self.full_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Opens a connection. Retries while the server may be starting; a server that is unreachable for longer fails at once.
    async fn connect(&self) -> sqlx::Result<DB::Connection> {
        let mut delay = Duration::from_millis(10);
        loop {
            let error = match DB::Connection::connect_with(&self.options).await {
                Ok(mut connection) => {
                    (self.rules.after_connect)(&mut connection).await?;
                    *self.unreachable_since.lock() = None;
                    return Ok(connection);
                }
                Err(error) => error,
            };
            if is_full(&error) && self.open.load(Ordering::SeqCst) > 0 {
                return Err(error);
            }
            let since = *self.unreachable_since.lock().get_or_insert_with(Instant::now);
            if !is_starting(&error) || since.elapsed() > STARTUP_GRACE {
                return Err(error);
            }
            sleep(delay).await;
            delay = (delay * 2).min(Duration::from_millis(200));
        }
    }

    fn pop_idle(&self) -> Option<IdleConnection<DB>> {
        let mut outdated = Vec::new();
        let found = {
            let mut idle = self.idle.lock();
            loop {
                match idle.pop_back() {
                    Some(one) if self.is_current(one.opened_at, one.generation) => break Some(one),
                    Some(one) => outdated.push(one.connection),
                    None => break None,
                }
            }
        };
        self.close_each(outdated);
        found
    }

    fn is_current(&self, opened_at: Instant, generation: u64) -> bool {
        generation == self.generation.load(Ordering::SeqCst)
            && self.rules.max_lifetime.is_none_or(|lifetime| opened_at.elapsed() < lifetime)
    }

    /// Closes every idle connection, and those in use when they are returned, because their server is unreachable.
    pub fn invalidate_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let invalidated = std::mem::take(&mut *self.idle.lock());
        self.close_each(invalidated.into_iter().map(|one| one.connection));
    }

    /// Closes all idle connections but one, so that another user of a server that has reached its limit can connect.
    pub fn release_idle(&self) {
        loop {
            let mut idle = self.idle.lock();
            let Some(one) = (self.open.load(Ordering::SeqCst) > 1).then(|| idle.pop_front()).flatten() else { return };
            drop(idle);
            self.close_one(one.connection);
        }
    }

    /// Waits for the calls in flight, then closes every connection. Later calls fail with `PoolClosed`.
    pub async fn close(&self) {
        let all = self.permits.acquire_many(self.rules.max_connections).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle.lock());
        for one in idle {
            self.open.fetch_sub(1, Ordering::SeqCst);
            let _ = timeout(CLOSE_TIMEOUT, one.connection.close()).await;
        }
    }

    /// Whether a connection waits for a lock of another process.
    pub fn waits_for_lock(&self) -> bool {
        self.lock_waits.load(Ordering::SeqCst) > 0
    }

    /// Returns the current numbers of connections.
    pub fn gauge(&self) -> PoolGauge {
        let idle = u32::try_from(self.idle.lock().len()).unwrap_or(u32::MAX);
        PoolGauge { open: self.open.load(Ordering::SeqCst), idle }
    }

    /// Closes a connection in a task of its own.
    fn close_one(&self, connection: DB::Connection) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.returned.notify_one();
        self.rules.runtime.spawn(timeout(CLOSE_TIMEOUT, connection.close()));
    }

    fn close_each(&self, connections: impl IntoIterator<Item = DB::Connection>) {
        for connection in connections {
            self.close_one(connection);
        }
    }

    /// Keeps a sound connection for the next call, and closes those that were idle for too long.
    fn put_back(&self, connection: DB::Connection, opened_at: Instant, generation: u64) {
        if !self.is_current(opened_at, generation) || self.permits.is_closed() {
            return self.close_one(connection);
        }
        let idle_since = Instant::now();
        let mut expired = Vec::new();
        {
            let mut idle = self.idle.lock();
            idle.push_back(IdleConnection { connection, opened_at, generation, idle_since });
            let is_expired = |one: &IdleConnection<DB>| {
                self.rules.idle_timeout.is_some_and(|timeout| idle_since - one.idle_since > timeout)
            };
            while idle.front().is_some_and(is_expired) {
                expired.extend(idle.pop_front().map(|one| one.connection));
            }
        }
        self.returned.notify_one();
        self.close_each(expired);
    }
}

/// Whether the error is that of a server that does not accept connections yet.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
}

impl<DB: Database> Checkout<DB> {
    /// Counts the connection as waiting for a lock of another process, until the value is dropped.
    pub fn wait_for_lock(&self) -> LockWait<DB> {
        self.pool.lock_waits.fetch_add(1, Ordering::SeqCst);
        LockWait(Arc::clone(&self.pool))
    }

    /// Returns the connection to the pool. It must be between two statements and in no transaction.
    pub fn release(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put_back(connection, self.opened_at, self.generation);
        }
    }
}

impl<DB: Database> std::ops::Deref for Checkout<DB> {
    type Target = DB::Connection;

    #[expect(clippy::expect_used, reason = "a checkout without a connection cannot be reached any more")]
    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect("only release and drop take it, and both end the checkout")
    }
}

impl<DB: Database> std::ops::DerefMut for Checkout<DB> {
    #[expect(clippy::expect_used, reason = "a checkout without a connection cannot be reached any more")]
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("only release and drop take it, and both end the checkout")
    }
}

impl<DB: Database> Drop for Checkout<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.close_one(connection);
        }
    }
}
