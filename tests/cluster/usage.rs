//! When a key was last used, as other replicas tell it.

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
    // The first use makes the row, further ones change it.
    for _ in 0..3 {
        let used = now();
        assert_eq!(first.code(&key.secret).await.unwrap(), Code::Valid);
        // The test machine gets as long again.
        eventually(Duration::from_secs(4), "the use on the other replica", async || {
            let shown = grpc::record(&mut second.client(), &key.id).await.last_used_time;
            shown.is_some_and(|at| micros(at) >= used)
        })
        .await;
    }
}
