//! A receiver that is slow or dead delays no other.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::Notify;

use super::{
    fixture::{deliveries, hooked, local_within, revoke, server},
    receiver::{Receiver, Reply},
};
use crate::support::Setup;

#[tokio::test]
async fn a_receiver_that_hangs_delays_no_other() {
    let dead = Receiver::start(|_, _| Reply::Hang).await;
    let good = Receiver::good().await;
    let settings = local_within("30s", "[\"1h\"]") + "concurrency = 6\nper_host = 2\n";
    let server = Setup::new().config(&settings).delivering().start();
    for _ in 0..40 {
        hooked(&server, &dead.url("/")).await;
    }
    dead.wait_for(2).await;
    for _ in 0..20 {
        hooked(&server, &good.url("/")).await;
    }
    // All of the good receiver's, while the attempts to the dead one, which started first, still run.
    good.wait_for(20).await;
    assert_eq!(dead.requests().len(), 2, "per_host attempts at the same time");
    let delivered = |rows: Vec<super::fixture::Row>| rows.iter().filter(|row| row.state == "delivered").count();
    crate::support::reply::until("the good deliveries are settled", async || {
        (delivered(deliveries(&server).await) == 20).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_delivery_that_waits_for_a_dead_receiver_counts_no_attempt() {
    let dead = Receiver::start(|_, _| Reply::Hang).await;
    let settings = local_within("1s", "[\"1h\"]") + "per_host = 1\n";
    let server = Setup::new().config(&settings).delivering().start();
    for _ in 0..8 {
        hooked(&server, &dead.url("/")).await;
    }
    // Each attempt takes a second. A delivery that could not start in time was released, and its next attempt is its first.
    dead.wait_for(5).await;
    let rows = deliveries(&server).await;
    assert_eq!(rows.len(), 8);
    let failed: Vec<_> = rows.iter().filter(|row| row.last_error == "no answer in time").collect();
    assert!(!failed.is_empty() && rows.iter().all(|row| row.state == "pending"), "{rows:#?}");
    let mut ids: Vec<_> = dead.requests().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    let sent = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), sent, "the second attempt of each is an hour later");
}

#[tokio::test]
async fn a_delivery_whose_endpoint_is_full_counts_no_attempt() {
    let dead = Receiver::start(|_, _| Reply::Hang).await;
    let good = Receiver::good().await;
    // One endpoint may have half of two attempts. The other deliveries to the dead receiver are released, and claimed
    // again.
    let settings = local_within("1s", "[\"1h\"]") + "concurrency = 2\nper_host = 2\n";
    let server = Setup::new().config(&settings).delivering().start();
    for _ in 0..4 {
        hooked(&server, &dead.url("/")).await;
    }
    dead.wait_for(1).await;
    hooked(&server, &good.url("/")).await;
    good.wait_for(1).await;
    let requests = dead.wait_for(4).await;
    let ids: std::collections::HashSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids.len(), 4, "each is a first attempt");
    let errors: Vec<_> = deliveries(&server).await.into_iter().map(|row| row.last_error).collect();
    assert!(errors.iter().all(|error| ["", "no answer in time"].contains(&error.as_str())), "{errors:?}");
}

#[tokio::test]
async fn a_revocation_does_not_wait_for_its_delivery() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let receiver = Receiver::start(
        move |number, _| {
            if number == 0 { Reply::Status(200, "") } else { Reply::Gate(Arc::clone(&held)) }
        },
    )
    .await;
    let server = server("[]");
    let key = hooked(&server, &receiver.url("/")).await;
    receiver.wait_for(1).await;
    // Revoke returns although the receiver has not answered, and cannot before the gate is opened below.
    revoke(&server, &key.id).await;
    receiver.wait_for(2).await;
    let rows = deliveries(&server).await;
    assert_eq!((rows[1].kind.as_str(), rows[1].state.as_str()), ("key.revoked", "pending"));
    gate.notify_one();
    crate::support::reply::until("the delivery is settled", async || {
        (deliveries(&server).await[1].state == "delivered").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_lets_a_running_attempt_finish_and_does_not_wait_for_one_that_hangs() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let receiver = Receiver::start(
        move |_, request| {
            if request.path == "/hang" { Reply::Hang } else { Reply::Gate(Arc::clone(&held)) }
        },
    )
    .await;
    let settings = local_within("60s", "[\"1h\"]");
    let folder = tempfile::tempdir().unwrap();
    let mut server = Setup::new().config(&settings).folder(folder.path()).delivering().start();
    hooked(&server, &receiver.url("/slow")).await;
    hooked(&server, &receiver.url("/hang")).await;
    receiver.wait_for(2).await;
    server.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.notify_one();
    assert_eq!(tokio::task::spawn_blocking(move || (server.wait(), server)).await.unwrap().0, Some(0));
    // The one that hung is sent again at once, as its first attempt; the other is not.
    let server = Setup::new().config(&settings).folder(folder.path()).delivering().start();
    let requests = receiver.wait_for(3).await;
    assert_eq!(requests[2].path, "/hang");
    let rows = deliveries(&server).await;
    let states: Vec<_> = rows.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["delivered", "pending"], "{}", json!(requests.len()));
}
