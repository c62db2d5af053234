//! The database goes away while a delivery is under way.

use std::{net::ToSocketAddrs as _, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    fixture::{hooked, local},
    postgres::fresh_database,
    proxy::Proxy,
    receiver::{Receiver, Reply},
};
use crate::support::{Setup, reply::until};

/// A database of its own behind a proxy.
async fn behind_proxy() -> (Proxy, String) {
    let database = url::Url::parse(&fresh_database().await).unwrap();
    let (host, port) = (database.host_str().unwrap(), database.port().unwrap_or(5_432));
    let proxy = Proxy::start((host, port).to_socket_addrs().unwrap().next().unwrap()).await;
    let mut through = database;
    through.set_host(Some("127.0.0.1")).unwrap();
    through.set_port(Some(proxy.address().port())).unwrap();
    (proxy, through.to_string())
}

// The proxy goes on while the test waits for a server.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_an_attempt_is_written_down_once_the_database_is_back() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let receiver = Receiver::start(move |_, _| Reply::Gate(Arc::clone(&held))).await;
    let (proxy, url) = behind_proxy().await;
    let settings = local("[\"1h\"]").replace("2s", "4s");
    let server = Setup::new().config(&settings).database(&url).delivering().start();
    hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(1).await;
    proxy.down(true);
    proxy.cut();
    gate.notify_one();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    proxy.down(false);
    until("it is known to be delivered", async || {
        let text = server.rest("GET", "/metrics").send().await.unwrap().text().await.unwrap();
        text.contains("keyward_webhook_delivery_seconds_count 1").then_some(())
    })
    .await;
    assert_eq!(receiver.requests().len(), 1);
    // And goes on as before.
    hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(2).await;
    gate.notify_one();
}

// The proxy goes on while the test waits for a server.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_time_although_the_database_is_away_and_a_receiver_hangs() {
    let receiver = Receiver::start(|_, _| Reply::Hang).await;
    let (proxy, url) = behind_proxy().await;
    let settings = local("[\"1h\"]").replace("2s", "30s") + "per_host = 1\n";
    let silent = Setup::new().config(&settings).database(&url).start();
    for _ in 0..20 {
        hooked(&silent, &receiver.url("/")).await;
    }
    // Takes all of them at once: one is under way, and the others wait for it.
    let mut server = Setup::new().config(&settings).database(&url).delivering().start();
    receiver.wait_for(1).await;
    proxy.silence(true);
    server.signal("TERM");
    let stopping = tokio::task::spawn_blocking(move || (server.wait(), server));
    let stopped = tokio::time::timeout(Duration::from_secs(25), stopping).await;
    assert_eq!(stopped.expect("it ends").unwrap().0, Some(0));
}
