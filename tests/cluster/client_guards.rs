//! Guards of the level between a replica and its attached clients. As in `guards.rs`, a scenario returns whether a client
//! answered VALID after Revoke had returned OK.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use keyward::proto::Code;
use keyward_client::Client;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, Replica, Start, attach_to, attached_code},
    guards::guard_is_needed,
    proxy::Proxy,
    support::grpc::{Made, eventually},
};

/// Two replicas, and a client of the second one that holds a key.
struct Held {
    cluster: Cluster,
    first: Arc<Replica>,
    second: Arc<Replica>,
    key: Made,
    client: Client,
    /// Between the client and the second replica.
    proxy: Proxy,
}

impl Held {
    async fn new(start: Start) -> Self {
        let (cluster, first, second) = Cluster::pair(start).await;
        let key = cluster.warm_key().await;
        let address: SocketAddr = second.server(|server| server.grpc.parse()).expect("an address");
        let proxy = Proxy::start(address).await;
        let client = attach_to(&proxy.address().to_string());
        let held = Self { cluster, first, second, key, client, proxy };
        eventually(Duration::from_secs(20), "the client holds the key", async || {
            held.is_valid().await && held.client.attach_status().is_some_and(|status| status.live && status.keys == 1)
        })
        .await;
        held
    }

    async fn is_valid(&self) -> bool {
        let code = attached_code(&self.client, &self.key.secret, Duration::from_millis(50)).await;
        code.is_ok_and(|code| code == Code::Valid)
    }

    /// Checks for a while, and returns whether any answer was VALID.
    async fn is_valid_within(&self, span: Duration) -> bool {
        let end = Instant::now() + span;
        while Instant::now() < end {
            if self.is_valid().await {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn revoke(&self) {
        self.first.revoke(&self.key.id).await;
    }

    /// How many replicas have a row.
    async fn rows(&self) -> i64 {
        let mut database = self.cluster.database.connect().await;
        let rows = sqlx::query_scalar("SELECT count(*) FROM keyward_replicas").fetch_one(&mut database).await;
        rows.expect("Postgres answers")
    }
}

/// A replica is cut off from its database until its peers remove its row, and joins again. Its client held a key before.
async fn joins_again(faults: &str) -> bool {
    let held = Held::new(Start::without(faults)).await;
    held.second.proxy.silence(true);
    held.first.logs("removing a replica whose lease expired").await;
    held.revoke().await;
    held.second.reconnect();
    held.second.is_ready_within(Duration::from_secs(10)).await;
    held.is_valid_within(Duration::from_secs(2)).await
}

guard_is_needed!(a_replica_that_joins_again_clears_its_clients, "attach_join_clear", joins_again);

/// A replica stops. Its client does not hear of it.
async fn leaves(faults: &str) -> bool {
    let held = Held::new(Start::without(faults).lease(3)).await;
    held.proxy.silence(true);
    let second = Arc::clone(&held.second);
    let stopping = tokio::spawn(async move { second.stop() });
    // Its row goes at once, or not before the client's grant is over.
    let end = Instant::now() + Duration::from_millis(500);
    while held.rows().await > 1 && Instant::now() < end {
        sleep(Duration::from_millis(5)).await;
    }
    held.revoke().await;
    let valid = held.is_valid().await;
    stopping.await.expect("it stops");
    valid
}

guard_is_needed!(a_replica_that_leaves_waits_for_its_clients, "attach_leave", leaves);

/// A replica loses its membership, and its client does not hear from it.
async fn loses_its_row(faults: &str) -> bool {
    let held = Held::new(Start::without(faults).lease(3)).await;
    held.proxy.silence(true);
    let mut database = held.cluster.database.connect().await;
    let log = held.second.log();
    let id = log.rsplit_once("joined replica=").expect("it has joined").1.split(' ').next().unwrap_or_default();
    let other = sqlx::query("UPDATE keyward_replicas SET step = step + 1000 WHERE id = $1::uuid").bind(id);
    other.execute(&mut database).await.expect("another step");
    held.second.logs("replica rejoining").await;
    held.revoke().await;
    held.is_valid().await
}

guard_is_needed!(a_row_that_is_lost_outlives_the_grants, "attach_lost_row", with "slow_join", loses_its_row);
