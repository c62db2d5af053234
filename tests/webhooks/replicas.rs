//! Replicas share the deliveries, and take over those of a replica that was killed.

use std::{collections::HashMap, time::Duration};

use super::{
    fixture::{hooked, local, local_within},
    postgres::fresh_database,
    receiver::{Receiver, Reply},
};
use crate::support::{Server, Setup};

fn replica(database: &str, settings: &str) -> Server {
    Setup::new().config(settings).database(database).delivering().start()
}

#[tokio::test]
async fn replicas_share_the_deliveries_without_repeating_any() {
    let receiver = Receiver::good().await;
    let database = fresh_database().await;
    let settings = local("[\"1h\"]");
    let replicas = [replica(&database, &settings), replica(&database, &settings)];
    let mut keys = Vec::new();
    for round in 0..100 {
        keys.push(hooked(&replicas[round % 2], &receiver.url("/")).await.id);
    }
    let requests = receiver.wait_for(100).await;
    // A repeated delivery would arrive with or before that of the next event.
    hooked(&replicas[0], &receiver.url("/last")).await;
    receiver.wait_until("the last", |all| all.iter().any(|request| request.path == "/last")).await;
    let mut times = HashMap::new();
    for request in receiver.requests().iter().filter(|request| request.path == "/") {
        *times.entry(request.json()["data"]["id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!((requests.len(), times.len()), (100, 100));
    assert!(keys.iter().all(|key| times[key] == 1), "{times:?}");
}

#[tokio::test]
async fn a_delivery_of_a_killed_replica_is_made_by_another() {
    // The first attempt never ends; the replica that makes it is killed.
    let receiver = Receiver::start(|number, _| if number == 0 { Reply::Hang } else { Reply::Status(200, "") }).await;
    let database = fresh_database().await;
    let settings = local_within("3s", "[\"1h\"]");
    let victim = replica(&database, &settings);
    let key = hooked(&victim, &receiver.url("/")).await;
    let first = receiver.wait_for(1).await.remove(0);
    let survivor = replica(&database, &settings);
    victim.signal("KILL");
    // The claim expires after two timeouts and 5 s.
    let again = receiver.wait_for(2).await.remove(1);
    assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
    assert!(again.is_by(&key.secret));
    assert!(again.at - first.at < Duration::from_secs(15), "{:?}", again.at - first.at);
    drop(survivor);
}
