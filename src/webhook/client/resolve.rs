//! Name resolution.
//!
//! Callers choose the names of receivers, so a name server that never answers must not block resources that others
//! need. The operating system's resolver has no timeout of its own and blocks a thread of a pool, which the database's
//! look-ups wait for, too. This resolver is asynchronous and reads the same files, `/etc/resolv.conf` and `/etc/hosts`.

use std::{fs, io, net::IpAddr, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use hickory_resolver::{
    Hosts, Resolver, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use parking_lot::Mutex;

/// Timeout of one query to one server. A look-up as a whole is bounded by its caller.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How often a query is sent again.
const RETRIES: usize = 1;
/// Queries at once to one server. More than all deliveries that are attempted at once.
const MAX_QUERIES: usize = 4_096;
/// Answers that are kept.
const CACHE_SIZE: u64 = 1_024;
/// How long an answer is kept, whatever its TTL is.
const MAX_CACHE_TIME: Duration = Duration::from_secs(30);
/// How long the answer that a name has no address is kept.
const MAX_NEGATIVE_CACHE_TIME: Duration = Duration::from_secs(5);
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Where a name server is without any file, as for the C library.
const LOCAL_SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Resolves names to addresses. Tests use their own, to decide what a name resolves to.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a name, in the order in which to try them.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Queries the machine's name servers, without blocking a thread. The machine's hosts file takes precedence.
pub struct DnsResolver {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    current: Mutex<Option<(Stamps, Arc<Loaded>)>>,
}

/// Identifies one state of both files, so that a change is seen.
type Stamps = [Option<(u64, u64, i64, i64)>; 2];

/// The content of the files.
pub(super) struct Loaded {
    hosts: Hosts,
    resolver: TokioResolver,
}

impl Default for DnsResolver {
    fn default() -> Self {
        Self::reading("/etc/resolv.conf", "/etc/hosts")
    }
}

impl DnsResolver {
    /// Reads these files, and again whenever they change.
    pub(super) fn reading(resolv_conf: impl Into<PathBuf>, hosts: impl Into<PathBuf>) -> Self {
        Self { resolv_conf: resolv_conf.into(), hosts: hosts.into(), current: Mutex::new(None) }
    }

    fn loaded(&self) -> io::Result<Arc<Loaded>> {
        let stamps = [&self.resolv_conf, &self.hosts].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
        });
        let mut current = self.current.lock();
        if let Some((known, loaded)) = &*current
            && *known == stamps
        {
            return Ok(Arc::clone(loaded));
        }
        let read = |path: &PathBuf| {
            let file = fs::metadata(path).ok().filter(|file| file.len() <= MAX_FILE_BYTES)?;
            file.is_file().then(|| fs::read(path).ok()).flatten()
        };
        let system = read(&self.resolv_conf).and_then(|text| parse_resolv_conf(text).ok());
        let (servers, ndots) = match system {
            Some((servers, options)) => (servers, options.ndots),
            None => (ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(LOCAL_SERVER)]), 1),
        };
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(read(&self.hosts).unwrap_or_default().as_slice())?;
        let loaded = Arc::new(Loaded::new(servers, ndots, hosts).map_err(io::Error::other)?);
        *current = Some((stamps, Arc::clone(&loaded)));
        Ok(loaded)
    }
}

#[async_trait]
impl Resolve for DnsResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.loaded()?.resolve(name).await
    }
}

impl Loaded {
    pub(super) fn new(servers: ResolverConfig, ndots: usize, hosts: Hosts) -> Result<Self, NetError> {
        let mut options = ResolverOpts::default();
        options.ndots = ndots;
        options.timeout = QUERY_TIMEOUT;
        options.attempts = RETRIES;
        options.max_active_requests = MAX_QUERIES;
        options.cache_size = CACHE_SIZE;
        options.positive_max_ttl = Some(MAX_CACHE_TIME);
        options.negative_max_ttl = Some(MAX_NEGATIVE_CACHE_TIME);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // The hosts file is read here instead, before a server is queried.
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = Resolver::builder_with_config(servers, TokioRuntimeProvider::default());
        Ok(Self { hosts, resolver: resolver.with_options(options).build()? })
    }

    pub(super) async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let own = self.own(name)?;
        if !own.is_empty() {
            return Ok(own);
        }
        let found = self.resolver.lookup_ip(name).await.map_err(io::Error::other)?;
        Ok(alternating(found.iter()))
    }

    /// The addresses of a name in the hosts file.
    fn own(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut name = Name::from_utf8(name).map_err(io::Error::other)?;
        name.set_fqdn(true);
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let answers = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
        Ok(answers
            .flat_map(|answer| hickory_resolver::lookup_ip::LookupIp::from(answer).iter().collect::<Vec<_>>())
            .collect())
    }
}

/// Addresses of both IP versions alternately: only a few are tried, and one version may not be reachable from here.
fn alternating(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    let mut mixed = Vec::with_capacity(four.len() + six.len());
    let (mut four, mut six) = (four.into_iter(), six.into_iter());
    loop {
        let pair = [four.next(), six.next()];
        if pair == [None, None] {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use hickory_resolver::config::ConnectionConfig;
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server for a few names, which never answers queries for names that begin with `silent`.
    async fn server(names: &[(&str, &[&str])]) -> (ResolverConfig, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let addresses = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let names: HashMap<String, Vec<IpAddr>> =
            names.iter().map(|(name, list)| ((*name).to_owned(), addresses(list))).collect();
        let queries = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&queries);
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&buffer[..length], &names) {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        let mut udp = ConnectionConfig::udp();
        udp.port = port;
        let mut server = NameServerConfig::udp(LOCAL_SERVER);
        server.connections = vec![udp];
        (ResolverConfig::from_name_servers(vec![server]), queries)
    }

    /// The answer to a query (RFC 1035); none for a silent name.
    fn answer(query: &[u8], names: &HashMap<String, Vec<IpAddr>>) -> Option<Vec<u8>> {
        let (mut at, mut name) = (12, String::new());
        while query[at] > 0 {
            let end = at + 1 + usize::from(query[at]);
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(std::str::from_utf8(&query[at + 1..end]).unwrap());
            at = end;
        }
        let name = name.to_ascii_lowercase();
        if name.starts_with("silent") {
            return None;
        }
        let (question, kind) = (&query[12..at + 5], query[at + 2]);
        let known = names.get(&name);
        let found: Vec<Vec<u8>> = known
            .into_iter()
            .flatten()
            .filter_map(|address| match (address, kind) {
                (IpAddr::V4(four), 1) => Some(four.octets().to_vec()),
                (IpAddr::V6(six), 28) => Some(six.octets().to_vec()),
                _ => None,
            })
            .collect();
        let mut answer = query[..2].to_vec();
        answer.extend([
            0x81,
            if known.is_some() { 0x80 } else { 0x83 },
            0,
            1,
            0,
            u8::try_from(found.len()).unwrap(),
            0,
            0,
            0,
            0,
        ]);
        answer.extend(question);
        for data in found {
            answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 14, 16, 0, u8::try_from(data.len()).unwrap()]);
            answer.extend(data);
        }
        Some(answer)
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn both_versions_are_asked_for_and_alternate() {
        let (config, _) = server(&[
            ("four.example", &["192.0.2.1"]),
            ("six.example", &["2001:db8::1"]),
            ("both.example", &["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"]),
        ])
        .await;
        let loaded = Loaded::new(config, 1, Hosts::default()).unwrap();
        assert_eq!(texts(&loaded.resolve("four.example").await.unwrap()), ["192.0.2.1"]);
        assert_eq!(texts(&loaded.resolve("SIX.example.").await.unwrap()), ["2001:db8::1"]);
        let both = loaded.resolve("both.example").await.unwrap();
        let four: Vec<bool> = both.iter().map(IpAddr::is_ipv4).collect();
        assert_eq!(four, [true, false, true, false, true], "{both:?}");
        for unknown in ["none.example", "", "a..b", &"a".repeat(300)] {
            assert!(loaded.resolve(unknown).await.is_err(), "{unknown:?}");
        }
    }

    /// A thousand names without an answer occupy no thread, time out, and do not delay other names.
    #[test]
    fn a_name_server_that_hangs_holds_neither_other_names_nor_the_blocking_pool() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let (config, queries) = server(&[("good.example", &["192.0.2.1"])]).await;
            let loaded = Arc::new(Loaded::new(config, 1, Hosts::default()).unwrap());
            let start = Instant::now();
            let hanging: Vec<_> = (0..1_000)
                .map(|number| {
                    let loaded = Arc::clone(&loaded);
                    tokio::spawn(async move { loaded.resolve(&format!("silent{number}.example")).await })
                })
                .collect();
            while queries.load(Ordering::SeqCst) < 1_000 {
                assert!(start.elapsed() < Duration::from_secs(30), "{queries:?} queries");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The only thread for blocking calls is free: the database's own look-ups do not wait.
            tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(|| ())).await.unwrap().unwrap();
            let good = tokio::time::timeout(Duration::from_secs(10), loaded.resolve("good.example")).await;
            assert_eq!(texts(&good.unwrap().unwrap()), ["192.0.2.1"]);
            for task in hanging {
                assert!(task.await.unwrap().is_err());
            }
            assert!(start.elapsed() < Duration::from_secs(60), "each ends in time: {:?}", start.elapsed());
        });
    }

    #[tokio::test]
    async fn the_files_of_the_machine_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let (resolv_conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
        let resolver = DnsResolver::reading(&resolv_conf, &hosts);
        fs::write(&hosts, "127.0.0.1 localhost\n192.0.2.7 Hook.Example other # a comment\n2001:db8::7 hook.example\n")
            .unwrap();
        for name in ["hook.example", "HOOK.example", "hook.example."] {
            let found = texts(&resolver.resolve(name).await.unwrap());
            assert_eq!(found, ["192.0.2.7", "2001:db8::7"], "{name}");
        }
        fs::write(&hosts, "198.51.100.7 hook.example\n").unwrap();
        assert_eq!(texts(&resolver.resolve("hook.example").await.unwrap()), ["198.51.100.7"]);
        // Without a usable file there is a server on this machine, as for the C library.
        for text in ["", "nonsense\n", "nameserver 192.0.2.53\nsearch a.example\noptions ndots:3\n"] {
            fs::write(&resolv_conf, text).unwrap();
            assert_eq!(texts(&resolver.resolve("hook.example").await.unwrap()), ["198.51.100.7"], "{text}");
        }
    }
}
