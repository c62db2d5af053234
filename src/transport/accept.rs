//! Accepts connections within bounds.
//!
//! A listener holds a bounded number of connections, in total and of each client address. When it is full, a new
//! connection replaces the oldest one on which no call was authenticated. Connections of authenticated callers are
//! never closed for a new one. So clients that only hold connections displace each other, and a probe or a caller with
//! a credential can always connect.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::budget::network;

/// Pause after an accept that failed. The usual reason is that the process has no file descriptor left; without a pause
/// the accept loop would spin.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Interval between two log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Concurrent calls of a connection on which no call was authenticated.
pub const MAX_ANONYMOUS_CALLS: usize = 32;
/// Credentials refused in a row after which a connection is closed. To go on guessing, its client has to connect again.
pub const MAX_REFUSALS: u32 = 20;
/// Set in [`Admission::auth_state`] once a call was authenticated; the rest counts refused credentials in a row.
const AUTHENTICATED: u32 = 1 << 31;

/// How many connections a listener holds.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// In total.
    pub total: usize,
    /// From one client address (IPv6: each /64).
    pub per_address: usize,
    /// Networks of proxies, each of which connects for many clients: `per_address` does not hold for them.
    pub proxies: Vec<IpNet>,
}

/// The connections of one listener.
pub struct ConnectionTable {
    limits: ConnectionLimits,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// Connections, without those that are being displaced.
    total: usize,
    addresses: HashMap<IpAddr, OfAddress>,
}

/// The connections of one client address.
#[derive(Default)]
struct OfAddress {
    total: usize,
    /// Those without an authenticated call, oldest first.
    anonymous: BTreeMap<u64, CancellationToken>,
}

/// The slot of one connection in its listener's table; released when this is dropped.
pub struct Admission {
    table: Arc<ConnectionTable>,
    network: IpAddr,
    number: u64,
    /// Whether a call was authenticated, and the number of refused credentials in a row. One number, so that a call
    /// that changes neither only reads it.
    auth_state: AtomicU32,
    /// Closed once a call was authenticated.
    call_permits: Semaphore,
    displaced: CancellationToken,
}

impl ConnectionTable {
    /// No connection is open.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// Admits a connection; `None` if it has to be closed. May displace another one.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let (address, network) = (address.to_canonical(), network(address));
        let proxy = self.limits.proxies.iter().any(|proxies| proxies.contains(&address));
        let mut open = self.open.lock();
        let of_address = open.addresses.get(&network).map_or(0, |of_address| of_address.total);
        let admitted = if !proxy && of_address >= self.limits.per_address {
            open.displace(network)
        } else {
            open.total < self.limits.total || open.displace_any()
        };
        if !admitted {
            return None;
        }
        let (number, displaced) = (open.next, CancellationToken::new());
        open.next += 1;
        open.total += 1;
        let of_address = open.addresses.entry(network).or_default();
        of_address.total += 1;
        of_address.anonymous.insert(number, displaced.clone());
        drop(open);
        let (table, auth_state, call_permits) =
            (Arc::clone(self), AtomicU32::new(0), Semaphore::new(MAX_ANONYMOUS_CALLS));
        Some(Admission { table, network, number, auth_state, call_permits, displaced })
    }

    /// Closes a connection without an authenticated call, so that its file descriptor becomes free.
    fn displace_any(&self) {
        self.open.lock().displace_any();
    }
}

impl Open {
    /// Displaces the oldest anonymous connection of the address that has the most of them; whether there is one.
    fn displace_any(&mut self) -> bool {
        let largest = self.addresses.iter().max_by_key(|(_, of_address)| of_address.anonymous.len());
        let Some((&network, _)) = largest else { return false };
        self.displace(network)
    }

    /// Displaces the oldest anonymous connection of an address; whether there is one.
    fn displace(&mut self, network: IpAddr) -> bool {
        let Some(of_address) = self.addresses.get_mut(&network) else { return false };
        let Some((_, displaced)) = of_address.anonymous.pop_first() else { return false };
        displaced.cancel();
        self.forget(network);
        true
    }

    /// Removes one connection from the counts.
    fn forget(&mut self, network: IpAddr) {
        self.total -= 1;
        if let Some(of_address) = self.addresses.get_mut(&network) {
            of_address.total -= 1;
            if of_address.total == 0 {
                self.addresses.remove(&network);
            }
        }
    }
}

impl Admission {
    /// Records that a call was authenticated on this connection: from now on it is not closed for a new one, and its
    /// calls need no permit. Ends the count of refused credentials. One read if nothing changes.
    pub fn authenticated(&self) {
        if self.auth_state.load(Ordering::Relaxed) == AUTHENTICATED {
            return;
        }
        if self.auth_state.swap(AUTHENTICATED, Ordering::Relaxed) & AUTHENTICATED != 0 {
            return;
        }
        self.call_permits.close();
        let mut open = self.table.open.lock();
        // A connection that was displaced meanwhile is closing, and has no slot to keep.
        if let Some(of_address) = open.addresses.get_mut(&self.network) {
            of_address.anonymous.remove(&self.number);
        }
    }

    /// Whether a call was authenticated on this connection.
    pub fn is_authenticated(&self) -> bool {
        self.auth_state.load(Ordering::Relaxed) & AUTHENTICATED != 0
    }

    /// Counts a refused credential. Returns whether the connection has to be closed for [`MAX_REFUSALS`] in a row.
    pub fn refused(&self) -> bool {
        let refusals = (self.auth_state.fetch_add(1, Ordering::Relaxed) & !AUTHENTICATED) + 1;
        refusals >= MAX_REFUSALS
    }

    /// Whether [`MAX_REFUSALS`] credentials in a row were refused.
    pub fn is_refused(&self) -> bool {
        self.auth_state.load(Ordering::Relaxed) & !AUTHENTICATED >= MAX_REFUSALS
    }

    /// Waits for one of the [`MAX_ANONYMOUS_CALLS`] permits of this connection. Returns `None` at once if a call was
    /// authenticated on it. Dropping the permit releases it.
    pub async fn call_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.call_permits.acquire().await.ok()
    }

    /// Completes when the connection has to close at once, since a new one takes its slot.
    pub fn displaced(&self) -> WaitForCancellationFuture<'_> {
        self.displaced.cancelled()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Admission").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.table.open.lock();
        // Displacing uses the same lock, so a connection is removed from the counts exactly once.
        if !self.displaced.is_cancelled() {
            if let Some(of_address) = open.addresses.get_mut(&self.network) {
                of_address.anonymous.remove(&self.number);
            }
            open.forget(self.network);
        }
    }
}

/// The accept loop of one listener.
pub struct Acceptor {
    listener: Arc<TcpListener>,
    table: Arc<ConnectionTable>,
    failed: Throttle,
    refused: Throttle,
}

impl Acceptor {
    /// Accepts from this listener.
    pub fn new(listener: Arc<TcpListener>, table: Arc<ConnectionTable>) -> Self {
        Self { listener, table, failed: Throttle::default(), refused: Throttle::default() }
    }

    /// Returns the next connection that is admitted. Others are closed at once.
    pub async fn accept(&mut self) -> (TcpStream, IpAddr, Admission) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let client = peer.ip().to_canonical();
                    if let Some(admission) = self.table.admit(client) {
                        // Without it, small responses would wait for the client's acknowledgements.
                        let _ = stream.set_nodelay(true);
                        return (stream, client, admission);
                    }
                    if let Some(count) = self.refused.note(Instant::now()) {
                        tracing::warn!(%client, count, "too many connections, connections refused");
                    }
                }
                Err(error) => {
                    if let Some(count) = self.failed.note(Instant::now()) {
                        tracing::warn!(%error, count, "accept failed, retrying");
                    }
                    if is_out_of_files(&error) {
                        self.table.displace_any();
                    }
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }
}

/// Whether the process or the machine has no file descriptor left. A connection that is closed then makes room; after
/// any other error, such as a client that has disconnected, closing one would not help.
fn is_out_of_files(error: &std::io::Error) -> bool {
    let out_of_files = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].map(rustix::io::Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| out_of_files.contains(&code))
}

/// Limits log lines of one kind to one in each [`LOG_INTERVAL`].
#[derive(Default)]
struct Throttle {
    last: Option<Instant>,
    count: u64,
}

impl Throttle {
    /// Counts an occurrence. Returns how many there were since the last line if a line is due.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(total: usize, per_address: usize) -> Arc<ConnectionTable> {
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        ConnectionTable::new(ConnectionLimits { total, per_address, proxies })
    }

    fn admit(table: &Arc<ConnectionTable>, address: &str) -> Option<Admission> {
        table.admit(address.parse().unwrap())
    }

    #[test]
    fn only_a_lack_of_files_closes_a_connection() {
        let of = |errno: rustix::io::Errno| is_out_of_files(&std::io::Error::from(errno));
        assert!(of(rustix::io::Errno::MFILE) && of(rustix::io::Errno::NFILE));
        assert!(!of(rustix::io::Errno::CONNABORTED));
    }

    #[test]
    fn a_full_listener_closes_the_oldest_stranger_of_the_address_with_the_most() {
        let table = table(3, 9);
        let honest = admit(&table, "192.0.2.1").unwrap();
        let hostile = [admit(&table, "192.0.2.9").unwrap(), admit(&table, "192.0.2.9").unwrap()];
        let probe = admit(&table, "192.0.2.2").unwrap();
        assert!(hostile[0].displaced.is_cancelled());
        assert!(![&honest, &hostile[1], &probe].iter().any(|open| open.displaced.is_cancelled()));
        assert_eq!(table.open.lock().total, 3);
        drop((honest, hostile, probe));
        assert_eq!(table.open.lock().total, 0);
        assert!(table.open.lock().addresses.is_empty());
    }

    #[test]
    fn connections_of_authenticated_callers_are_never_displaced() {
        let table = table(2, 9);
        let callers = [admit(&table, "192.0.2.1").unwrap(), admit(&table, "192.0.2.1").unwrap()];
        callers.iter().for_each(Admission::authenticated);
        assert!(admit(&table, "192.0.2.2").is_none());
        assert!(!callers.iter().any(|open| open.displaced.is_cancelled()));
        drop(callers);
        assert!(admit(&table, "192.0.2.2").is_some());
    }

    #[test]
    fn an_address_displaces_only_its_own_connections() {
        let table = table(9, 2);
        let other = admit(&table, "192.0.2.2").unwrap();
        let own = [admit(&table, "2001:db8::1").unwrap(), admit(&table, "2001:db8::2").unwrap()];
        own[0].authenticated();
        let third = admit(&table, "2001:db8::3").unwrap();
        assert!(own[1].displaced.is_cancelled());
        third.authenticated();
        assert!(admit(&table, "2001:db8::4").is_none());
        assert!(!other.displaced.is_cancelled());
        // A proxy connects for many clients.
        let proxied: Vec<_> = (0..4).map(|_| admit(&table, "10.0.0.1").unwrap()).collect();
        assert!(!proxied.iter().any(|open| open.displaced.is_cancelled()));
    }

    #[test]
    fn many_refusals_in_a_row_end_a_connection_and_one_good_credential_ends_the_count() {
        let table = table(9, 9);
        for authenticated in [false, true] {
            let connection = admit(&table, "192.0.2.1").unwrap();
            if authenticated {
                connection.authenticated();
            }
            for _ in 1..MAX_REFUSALS {
                assert!(!connection.refused());
            }
            connection.authenticated();
            assert!(connection.is_authenticated());
            for _ in 1..MAX_REFUSALS {
                assert!(!connection.refused() && !connection.is_refused());
            }
            assert!(connection.refused() && connection.is_refused());
        }
    }

    #[tokio::test]
    async fn an_unauthenticated_connection_has_a_bounded_number_of_permits_and_an_authenticated_one_any() {
        let table = table(9, 9);
        let connection = admit(&table, "192.0.2.1").unwrap();
        let mut call_permits = Vec::new();
        for _ in 0..MAX_ANONYMOUS_CALLS {
            call_permits.push(connection.call_permit().await.unwrap());
        }
        let mut waiting = std::pin::pin!(connection.call_permit());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(call_permits.pop());
        call_permits.push(waiting.await.unwrap());
        let mut waiting = std::pin::pin!(connection.call_permit());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        connection.authenticated();
        assert!(waiting.await.is_none());
        assert!(connection.call_permit().await.is_none());
    }

    #[test]
    fn one_line_in_each_second_says_how_often_something_happened() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.note(start), Some(1));
        for _ in 0..5 {
            assert_eq!(throttle.note(start + LOG_INTERVAL / 2), None);
        }
        assert_eq!(throttle.note(start + LOG_INTERVAL), Some(6));
    }
}
