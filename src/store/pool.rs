//! Connections that go from call to call.
//!
//! The driver's own pool tests each connection as it comes back, which is a second round trip for every call. Here one
//! that a call has left sound goes to the next call as it is; one that has broken meanwhile is found by the call that
//! gets it, which is sent again on a new one.

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
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::PoolGauge;

/// How long a server is taken to be just starting.
const STARTING: Duration = Duration::from_secs(1);
/// How long a connection is waited for that says goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

type Options<DB> = <<DB as Database>::Connection as sqlx::Connection>::Options;

/// The bounds of a pool.
pub(super) struct Rules<DB: Database> {
    /// Connections at most.
    pub most: u32,
    /// How long a call waits for one.
    pub acquire_timeout: Duration,
    /// How long one that nobody uses is kept; none: for ever.
    pub idle: Option<Duration>,
    /// How long one is used; none: for ever.
    pub lifetime: Option<Duration>,
    /// Refuses a new connection.
    pub admit: fn(&mut DB::Connection) -> BoxFuture<'_, sqlx::Result<()>>,
    /// Where connections end.
    pub runtime: Handle,
}

/// A bounded number of connections.
pub(super) struct Pool<DB: Database> {
    options: Options<DB>,
    rules: Rules<DB>,
    places: Arc<Semaphore>,
    /// Those that nobody uses; whichever came back last goes first, so that few are in use.
    resting: Mutex<VecDeque<Resting<DB>>>,
    open: AtomicU32,
    /// Since when no connection can be opened.
    refused: Mutex<Option<Instant>>,
    /// Connections of an earlier one went to a server that is gone.
    generation: AtomicU64,
}

struct Resting<DB: Database> {
    connection: DB::Connection,
    born: Instant,
    generation: u64,
    since: Instant,
}

/// A connection at work. Dropped, it is closed; what has left it sound gives it back.
pub(super) struct Taken<DB: Database> {
    connection: Option<DB::Connection>,
    born: Instant,
    generation: u64,
    pool: Arc<Pool<DB>>,
    _place: OwnedSemaphorePermit,
}

impl<DB: Database> Pool<DB> {
    /// No connection yet.
    pub fn new(options: Options<DB>, rules: Rules<DB>) -> Arc<Self> {
        Arc::new(Self {
            options,
            places: Arc::new(Semaphore::new(rules.most as usize)),
            rules,
            resting: Mutex::default(),
            open: AtomicU32::new(0),
            refused: Mutex::default(),
            generation: AtomicU64::new(0),
        })
    }

    /// A connection: one that rests, or a new one.
    ///
    /// # Errors
    ///
    /// `PoolTimedOut`, `PoolClosed`, and why a new one could not be opened.
    pub async fn take(self: &Arc<Self>) -> sqlx::Result<Taken<DB>> {
        let until = Instant::now() + self.rules.acquire_timeout;
        let place = timeout_at(until, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let taken = |connection, born, generation| Taken {
            connection: Some(connection),
            born,
            generation,
            pool: Arc::clone(self),
            _place: place,
        };
        if let Some(Resting { connection, born, generation, .. }) = self.rested() {
            return Ok(taken(connection, born, generation));
        }
        let generation = self.generation.load(Ordering::SeqCst);
        let connection = timeout_at(until, self.connect()).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(taken(connection, Instant::now(), generation))
    }

    /// Opens a connection. A server that is just starting is waited for; one that is away for longer costs nobody time.
    async fn connect(&self) -> sqlx::Result<DB::Connection> {
        let mut pause = Duration::from_millis(10);
        loop {
            let error = match DB::Connection::connect_with(&self.options).await {
                Ok(mut connection) => {
                    (self.rules.admit)(&mut connection).await?;
                    *self.refused.lock() = None;
                    return Ok(connection);
                }
                Err(error) => error,
            };
            let since = *self.refused.lock().get_or_insert_with(Instant::now);
            if !is_starting(&error) || since.elapsed() > STARTING {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn rested(&self) -> Option<Resting<DB>> {
        let mut old = Vec::new();
        let found = {
            let mut resting = self.resting.lock();
            loop {
                match resting.pop_back() {
                    Some(one) if self.is_current(one.born, one.generation) => break Some(one),
                    Some(one) => old.push(one.connection),
                    None => break None,
                }
            }
        };
        self.end_all(old);
        found
    }

    fn is_current(&self, born: Instant, generation: u64) -> bool {
        generation == self.generation.load(Ordering::SeqCst)
            && self.rules.lifetime.is_none_or(|lifetime| born.elapsed() < lifetime)
    }

    /// The server went away, and every connection to it with it: none that is open now is given to another call.
    pub fn suspect_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let suspected = std::mem::take(&mut *self.resting.lock());
        self.end_all(suspected.into_iter().map(|one| one.connection));
    }

    /// Lets calls in flight end, then ends every connection. Whoever comes later is told that the pool is closed.
    pub async fn close(&self) {
        let all = self.places.acquire_many(self.rules.most).await;
        self.places.close();
        drop(all);
        let resting = std::mem::take(&mut *self.resting.lock());
        for one in resting {
            self.open.fetch_sub(1, Ordering::SeqCst);
            let _ = timeout(GOODBYE, one.connection.close()).await;
        }
    }

    /// Connections now.
    pub fn gauge(&self) -> PoolGauge {
        let idle = u32::try_from(self.resting.lock().len()).unwrap_or(u32::MAX);
        PoolGauge { open: self.open.load(Ordering::SeqCst), idle }
    }

    fn end(&self, connection: DB::Connection) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.rules.runtime.spawn(timeout(GOODBYE, connection.close()));
    }

    fn end_all(&self, connections: impl IntoIterator<Item = DB::Connection>) {
        for connection in connections {
            self.end(connection);
        }
    }

    /// Keeps a sound connection for the next call, and ends those that nobody has needed for long.
    fn keep(&self, connection: DB::Connection, born: Instant, generation: u64) {
        if !self.is_current(born, generation) || self.places.is_closed() {
            return self.end(connection);
        }
        let since = Instant::now();
        let mut unneeded = Vec::new();
        {
            let mut resting = self.resting.lock();
            resting.push_back(Resting { connection, born, generation, since });
            let is_old = |one: &Resting<DB>| self.rules.idle.is_some_and(|idle| since - one.since > idle);
            while resting.front().is_some_and(is_old) {
                unneeded.extend(resting.pop_front().map(|one| one.connection));
            }
        }
        self.end_all(unneeded);
    }
}

/// Whether an error is that of a server that nobody can connect to yet.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
}

impl<DB: Database> Taken<DB> {
    /// Gives it back: it is between two statements, and in no transaction.
    pub fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.keep(connection, self.born, self.generation);
        }
    }
}

impl<DB: Database> std::ops::Deref for Taken<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect("it is there until it is given back")
    }
}

impl<DB: Database> std::ops::DerefMut for Taken<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("it is there until it is given back")
    }
}

impl<DB: Database> Drop for Taken<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.end(connection);
        }
    }
}
