//! Cases on batches: concurrent writes share statements, and each has its own result.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::join_all;
use keyward::{
    domain::keyspace::Registry,
    replica::{cache::KeyCache, lookup::Lookups},
    store::{KeyStore as _, Store, StoreError},
};
use sqlx::{Executor as _, PgConnection};
use tokio::runtime::Handle;

use crate::{
    change::{revocation, webhook},
    fixture::{
        Fixture, Raw, eventually, everything, ids, key, key_with, now, open_postgres, postgres_options, raw_postgres,
        write,
    },
};

/// More creations than one statement holds, with each way in which one can end differently from the others.
pub async fn concurrent_creations_have_their_own_results(mut f: Fixture) {
    let existing = key();
    f.store.create_key(existing.clone()).await.unwrap();
    let good: Vec<_> = (0..300).map(|n| key_with(|key| key.name = format!("key {n}"))).collect();
    let (twin, without_webhook) = (key(), key_with(|key| (key.webhook_url, key.webhook_version) = (String::new(), 0)));
    let others = vec![
        key_with(|key| key.digest = existing.digest),
        key_with(|key| key.id = existing.id),
        existing.clone(),
        // Two with one id, and two with one digest: one of each is written.
        twin.clone(),
        key_with(|key| key.id = twin.id),
        key_with(|key| key.digest = twin.digest),
        without_webhook.clone(),
    ];
    let all = good.iter().chain(&others).map(|key| f.store.create_key(key.clone()));
    let outcomes = join_all(all).await;
    assert!(outcomes[..300].iter().all(Result::is_ok));
    let ends: Vec<_> = outcomes[300..]
        .iter()
        .map(|outcome| match outcome {
            Ok(()) => "written",
            Err(StoreError::DigestCollision) => "collision",
            Err(StoreError::Row(_)) => "row",
            Err(StoreError::Broken(_)) => "broken",
            Err(StoreError::Unavailable(_)) => "unavailable",
        })
        .collect();
    assert_eq!(ends, ["collision", "row", "written", "written", "row", "collision", "written"]);
    for made in good.iter().chain([&existing, &twin, &without_webhook]) {
        assert_eq!(f.store.find_by_id(made.id).await.unwrap().as_ref(), Some(made));
    }
    assert_eq!(ids(&f.store, everything()).await.len(), 303);
    let creations = "SELECT count(*) FROM keyward_events e JOIN keyward_keys k ON k.id = e.id AND k.id = e.key_id";
    assert_eq!(f.raw.number(creations).await, 303);
    assert_eq!(f.raw.number("SELECT count(*) FROM keyward_events").await, 303);
    assert_eq!(f.raw.number("SELECT count(*) FROM keyward_deliveries").await, 302, "not for the one without a webhook");
}

/// More revocations than one statement holds, of keys that are revoked already or twice at once, and of one that does not
/// exist.
pub async fn concurrent_revocations_have_their_own_results(mut f: Fixture) {
    let keys: Vec<_> = (0..200).map(|_| key()).collect();
    for key in &keys {
        f.store.create_key(key.clone()).await.unwrap();
    }
    let early = f.store.revoke_key(keys[0].id, revocation("early")).await.unwrap().unwrap();
    let ids = keys.iter().chain(&keys[..20]).map(|key| key.id).chain([key().id]).collect::<Vec<_>>();
    let why = |index: usize| revocation(&format!("reason {index}"));
    let answers = join_all(ids.iter().enumerate().map(|(index, id)| f.store.revoke_key(*id, why(index)))).await;
    let mut revisions = std::collections::BTreeSet::new();
    for (index, (id, answer)) in ids.iter().zip(&answers).enumerate() {
        let Some(revoked) = answer.as_ref().unwrap() else {
            assert_eq!(index, 220, "only the last one does not exist");
            continue;
        };
        assert_eq!(revoked.id, *id);
        assert_eq!(f.store.find_by_id(*id).await.unwrap().as_ref(), Some(revoked));
        if *id == early.id {
            assert_eq!(revoked, &early);
        } else {
            // Of two revocations of one key, one was made, and both return its result.
            let reasons =
                [format!("reason {index}"), format!("reason {}", index + 200), format!("reason {}", index % 200)];
            assert!(reasons.contains(&revoked.revoke_reason), "{index}: {}", revoked.revoke_reason);
        }
        revisions.insert(revoked.revision);
    }
    assert_eq!(revisions, (1..=200).collect(), "each change has a revision of its own, and there are no others");
    let revocations = "SELECT count(*) FROM keyward_events WHERE type = 'key.revoked'";
    assert_eq!(f.raw.number(revocations).await, 200);
    assert_eq!(f.raw.number("SELECT count(DISTINCT key_id) FROM keyward_events WHERE type = 'key.revoked'").await, 200);
    assert_eq!(f.raw.number("SELECT count(*) FROM keyward_deliveries").await, 400);
}

/// Many statements change the same few keys, several keys each, in different orders. None may deadlock.
pub async fn concurrent_changes_do_not_deadlock(mut f: Fixture) {
    for _ in 0..10 {
        let ids: Vec<_> = write(&f.store, (0..40).map(|_| key())).await;
        let revoke = |backwards: bool| {
            let mut ids = ids.clone();
            if backwards {
                ids.reverse();
            }
            join_all(ids.into_iter().map(|id| f.store.revoke_key(id, revocation(""))))
        };
        let hook = join_all(ids.iter().map(|id| f.store.set_webhook(*id, webhook("https://a.example/", now()))));
        let (one, other, hooked) = futures::join!(revoke(false), revoke(true), hook);
        assert!(one.iter().chain(&other).all(Result::is_ok), "{one:?} {other:?}");
        assert!(hooked.iter().all(Result::is_ok), "{hooked:?}");
    }
    if let Raw::Postgres(_) = f.raw {
        // The server publishes its counters a moment later.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        assert_eq!(f.raw.number(deadlocks).await, 0);
    }
}

/// Blocks every reader and writer of keys. The end of the transaction releases them.
async fn block(raw: &mut PgConnection) {
    raw.execute("BEGIN; LOCK TABLE keyward_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
}

/// Waits until all of so many calls were made, and the first ones of them wait for the lock of [`block`].
async fn all_wait(raw: &mut PgConnection, made: &AtomicUsize, expected: usize) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'keyward_keys'::regclass";
    eventually("the calls wait for the lock", async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *raw).await.unwrap();
        waiting > 0 && made.load(Ordering::SeqCst) == expected
    })
    .await;
}

/// The same future, which counts its first poll.
async fn counted<F: Future>(made: &AtomicUsize, call: F) -> F::Output {
    made.fetch_add(1, Ordering::SeqCst);
    call.await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creations_are_few_transactions() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    block(&mut raw).await;
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let writing =
        tokio::spawn(async move { join_all((0..200).map(|_| counted(&counter, store.create_key(key())))).await });
    all_wait(&mut raw, &made, 200).await;
    raw.execute("COMMIT").await.unwrap();
    assert!(writing.await.unwrap().iter().all(Result::is_ok));
    let transactions = "SELECT count(DISTINCT xmin::text) FROM keyward_keys";
    let transactions: i64 = sqlx::query_scalar(transactions).fetch_one(&mut raw).await.unwrap();
    assert!(transactions <= 10, "{transactions} for 200 keys");
}

/// A text that Postgres refuses fails only its own write.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_written_does_not_fail_the_others() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    let mut keys: Vec<_> = (0..20).map(|_| key()).collect();
    keys[7].name = "nul \0".to_owned();
    block(&mut raw).await;
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let writing =
        tokio::spawn(
            async move { join_all(keys.into_iter().map(|key| counted(&counter, store.create_key(key)))).await },
        );
    all_wait(&mut raw, &made, 20).await;
    raw.execute("COMMIT").await.unwrap();
    for (index, outcome) in writing.await.unwrap().into_iter().enumerate() {
        assert_eq!(matches!(outcome, Err(StoreError::Row(_))), index == 7, "{index}: {outcome:?}");
        assert_eq!(outcome.is_ok(), index != 7, "{index}: {outcome:?}");
    }
}

/// A row that was not written by this service, but by hand or by another version.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_read_does_not_fail_other_look_ups() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    let store = open_postgres(options).await;
    let keys: Vec<_> = (0..20).map(|_| key()).collect();
    for key in &keys {
        store.create_key(key.clone()).await.unwrap();
    }
    let corrupt = sqlx::query("UPDATE keyward_keys SET scopes = 'none' WHERE id = $1").bind(keys[7].id.0);
    corrupt.execute(&mut raw).await.unwrap();
    let registry = Arc::new(Registry::new(Vec::new()));
    let cache = Arc::new(KeyCache::new(1 << 20));
    let reader = Arc::clone(&store) as Arc<dyn Store>;
    let lookups = Arc::new(Lookups::start(reader, Arc::clone(&cache), registry, &Handle::current()));
    block(&mut raw).await;
    // The first look-ups use all statements that may be in flight; the others are batched.
    let digests: Vec<_> = [&keys[8..], &keys[..8]].concat().into_iter().map(|key| key.digest).collect();
    let made = Arc::new(AtomicUsize::new(0));
    let mut pending = Vec::new();
    for digest in digests {
        let (lookups, made) = (Arc::clone(&lookups), Arc::clone(&made));
        pending.push(tokio::spawn(async move { counted(&made, lookups.find(digest)).await }));
        tokio::task::yield_now().await;
    }
    all_wait(&mut raw, &made, 20).await;
    raw.execute("COMMIT").await.unwrap();
    for (index, answer) in pending.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        assert_eq!(answer.is_ok_and(|found| found.entry.is_some()), index != 19, "{index}");
    }
    eventually("the keys that were read are in the cache", async || cache.len() == 19).await;
    assert!(store.queries() < 20 + 5, "{} statements", store.queries());
}
