//! How a whole server behaves while its database is slow, silent, unreachable or back: a real server, a real Postgres,
//! and a proxy between them.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../webhooks/receiver.rs"]
mod receiver;

mod backends;
mod killed;
mod outage;
mod pending;
mod read_only;
mod start;
mod stop;
mod stream;
mod workers;

use std::net::SocketAddr;

use proxy::Proxy;
use tonic::Status;

/// A new database, reached through a proxy that can cut it off.
struct ProxiedDatabase {
    proxy: Proxy,
    /// Through the proxy.
    url: String,
    /// Past it.
    direct: String,
}

impl ProxiedDatabase {
    async fn new() -> Self {
        let direct = postgres::fresh_database().await;
        let mut url = url::Url::parse(&direct).unwrap();
        let upstream: SocketAddr =
            format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5_432)).parse().unwrap();
        let proxy = Proxy::start(upstream).await;
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(proxy.address().port())).unwrap();
        Self { proxy, url: url.into(), direct }
    }
}

/// A message to a client must not contain text of the database or of its driver.
#[track_caller]
fn assert_public(text: &str) {
    const WORDS: [&str; 14] = [
        "select",
        "insert",
        "update ",
        "sqlx",
        "postgres",
        "sqlite",
        "relation",
        "connection",
        "refused",
        "pool",
        "tokio",
        "statement",
        "os error",
        "keyward_keys",
    ];
    let lower = text.to_lowercase();
    for word in WORDS {
        assert!(!lower.contains(word), "\"{word}\" is on the wire: {text}");
    }
}

/// All that a status sends over the wire.
fn wire(status: &Status) -> String {
    format!("{} {} {:?}", status.message(), String::from_utf8_lossy(status.details()), status.metadata())
}
