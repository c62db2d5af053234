//! The database statements of a check, counted in process: none for a forged secret, one for a cache miss, none for a
//! cache hit.

use std::{sync::Arc, time::Duration};

use keyward::{
    domain::{
        clock::{Clock, Micros, SystemClock, SystemEntropy},
        keyspace::{Keyspace, Registry},
        verdict::VerdictCode,
    },
    replica::{PeerMode, Replica},
    service::{
        ServiceDeps, Services, bootstrap,
        verify::{Check, VerifyCaller},
    },
    store::{
        Store,
        sqlite::{Sqlite, SqliteOptions},
    },
};
use tokio::{runtime::Handle, time::Instant};

/// A service on its own store, and the store, which counts its look-ups.
async fn service(folder: &std::path::Path) -> (Arc<Services>, Arc<Sqlite>) {
    let runtime = Handle::current();
    let url = format!("sqlite://{}", folder.join("keyward.db").display());
    let sqlite = Sqlite::open(SqliteOptions::new(url, runtime.clone())).await.unwrap();
    sqlite.migrate().await.unwrap();
    let store = Arc::clone(&sqlite) as Arc<dyn Store>;
    let master_keys = Arc::new(bootstrap::load_master_keys(&*store, &SystemEntropy, &[]).await.unwrap());
    let registry = Arc::new(Registry::new(vec![Keyspace::default_keyspace()]));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let replica = Replica::new(
        Arc::clone(&store),
        Arc::clone(&registry),
        Arc::clone(&clock),
        1 << 24,
        PeerMode::SingleProcess,
        &runtime,
    );
    replica.lease.extend(Micros::MAX);
    let (replica, entropy) = (Arc::new(replica), Arc::new(SystemEntropy));
    let service =
        Services::with_defaults(ServiceDeps { store, replica, registry, master_keys, clock, entropy, runtime });
    (Arc::new(service), sqlite)
}

async fn verdict(service: &Services, secret: &str) -> VerdictCode {
    let check = Check { secret, cost: Some(1), ..Check::default() };
    let deadline = Instant::now() + Duration::from_secs(10);
    service.verify.verify(VerifyCaller::Authorized(None), &check, deadline).await.unwrap().code
}

#[tokio::test]
async fn a_forged_checksum_costs_no_query_and_a_miss_costs_one() {
    let folder = tempfile::tempdir().unwrap();
    let (service, store) = service(folder.path()).await;
    let secret = service.keys.create_root_key("ann").await.unwrap();
    let before = store.queries();

    // Each character changed in turn: none of these secrets is valid.
    for index in "kw_".len()..secret.expose().len() {
        let mut forged = secret.expose().to_owned();
        let other = if forged.as_bytes()[index] == b'a' { "b" } else { "a" };
        forged.replace_range(index..=index, other);
        assert_eq!(verdict(&service, &forged).await, VerdictCode::Malformed, "changed at {index}");
    }
    assert_eq!(store.queries(), before, "a forged secret reached the database");

    assert_eq!(verdict(&service, secret.expose()).await, VerdictCode::Valid);
    assert_eq!(store.queries(), before + 1, "a miss is one query");
    for _ in 0..100 {
        assert_eq!(verdict(&service, secret.expose()).await, VerdictCode::Valid);
    }
    assert_eq!(store.queries(), before + 1, "a cache hit is no query");
}
