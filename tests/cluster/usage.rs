//! The last use of a key, as other replicas report it.

use std::time::Duration;

use keyward::proto::{Code, CreateRequest};

use crate::{
    cluster::{Cluster, Start},
    support::{
        grpc::{self, eventually, made, micros, now},
        server::ROOT,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_use_on_one_replica_shows_on_another_within_two_seconds_again_and_again() {
    let (_cluster, first, second) = Cluster::pair(Start::default()).await;
    let key = made(grpc::create(&mut first.client(), ROOT, CreateRequest::default()).await);
    // The first use inserts the row; further uses update it.
    for _ in 0..3 {
        let used = now();
        assert_eq!(first.code(&key.secret).await.unwrap(), Code::Valid);
        // Twice the promised time, for a busy machine.
        eventually(Duration::from_secs(4), "the use on the other replica", async || {
            let shown = grpc::record(&mut second.client(), &key.id).await.last_used_time;
            shown.is_some_and(|at| micros(at) >= used)
        })
        .await;
    }
}
