//! The database becomes unavailable during an attempt.

use std::{net::ToSocketAddrs as _, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    fixture::{hooked, local_within},
    postgres::fresh_database,
    proxy::Proxy,
    receiver::{Receiver, Reply},
};
use crate::support::{Setup, reply::until};

/// A new database behind a proxy.
async fn behind_proxy() -> (Proxy, String) {
    let database = url::Url::parse(&fresh_database().await).unwrap();
    let (host, port) = (database.host_str().unwrap(), database.port().unwrap_or(5_432));
    let proxy = Proxy::start((host, port).to_socket_addrs().unwrap().next().unwrap()).await;
    let mut through = database;
    through.set_host(Some("127.0.0.1")).unwrap();
    through.set_port(Some(proxy.address().port())).unwrap();
    (proxy, through.to_string())
}

// The proxy must run while the test blocks on a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_recorded_once_the_database_is_available_again() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let receiver = Receiver::start(move |_, _| Reply::Gate(Arc::clone(&held))).await;
    let (proxy, url) = behind_proxy().await;
    let settings = local_within("4s", "[\"1h\"]");
    let server = Setup::new().config(&settings).database(&url).delivering().start();
    hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(1).await;
    proxy.down(true);
    proxy.cut();
    gate.notify_one();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    proxy.down(false);
    until("the delivery is settled", async || {
        let text = server.rest("GET", "/metrics").send().await.unwrap().text().await.unwrap();
        text.contains("keyward_webhook_delivery_seconds_count 1").then_some(())
    })
    .await;
    assert_eq!(receiver.requests().len(), 1);
    // The next delivery works, too.
    hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(2).await;
    gate.notify_one();
}

// The proxy must run while the test blocks on a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_time_with_an_unavailable_database_and_a_receiver_that_hangs() {
    let receiver = Receiver::start(|_, _| Reply::Hang).await;
    let (proxy, url) = behind_proxy().await;
    let settings = local_within("30s", "[\"1h\"]") + "per_host = 1\n";
    let silent = Setup::new().config(&settings).database(&url).start();
    for _ in 0..20 {
        hooked(&silent, &receiver.url("/")).await;
    }
    // Claims all of them: one is attempted, the others wait for it.
    let mut server = Setup::new().config(&settings).database(&url).delivering().start();
    receiver.wait_for(1).await;
    proxy.silence(true);
    server.signal("TERM");
    let stopping = tokio::task::spawn_blocking(move || (server.wait(), server));
    let stopped = tokio::time::timeout(Duration::from_secs(10), stopping).await;
    assert_eq!(stopped.expect("it ends").unwrap().0, Some(0));
}
