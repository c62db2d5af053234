//! Cases on changing keys, and on the order of changes.

use std::{collections::HashMap, sync::Arc};

use futures::future::join_all;
use keyward::{
    domain::{
        clock::Micros,
        event::EventType,
        key::{KeyId, KeyRecord, KeyStatus},
        webhook::FormerSecrets,
    },
    store::{
        Revocation, Store, Usage,
        events::Claim,
        keys::{SecretChange, WebhookUpdate},
    },
};
use sqlx::Row as _;

use crate::fixture::{Fixture, Raw, event_id, eventually, facts, key, key_with, now, write};

pub fn revocation(reason: &str) -> Revocation {
    Revocation { at: now(), reason: reason.to_owned(), by: "user:ann".to_owned(), event: event_id() }
}

pub fn webhook(url: &str, at: Micros) -> WebhookUpdate {
    WebhookUpdate {
        url: url.to_owned(),
        secret: first(1),
        at,
        by: "user:ann".to_owned(),
        event: event_id(),
        kind: EventType::WebhookUpdated,
    }
}

pub async fn a_revoked_key_has_time_reason_and_actor(f: Fixture) {
    let made = key();
    f.store.create_key(made.clone()).await.unwrap();
    let why = revocation("gone, ушёл");
    let revoked = f.store.revoke_key(made.id, why.clone()).await.unwrap().unwrap();
    let expected = KeyRecord {
        revoked_at: Some(why.at),
        revoke_reason: why.reason,
        revoked_by: why.by,
        revision: 1,
        ..made.clone()
    };
    assert_eq!(revoked, expected);
    assert_eq!(f.store.find_by_id(made.id).await.unwrap(), Some(expected.clone()));
    assert_eq!(f.store.find_by_digests(vec![made.digest]).await.unwrap(), [facts(&expected)]);
    assert_eq!(f.store.revoke_key(key().id, revocation("")).await.unwrap(), None);
}

pub async fn second_revoke_changes_nothing(f: Fixture) {
    let id = write(&f.store, [key()]).await[0];
    let first = f.store.revoke_key(id, revocation("first")).await.unwrap();
    let second = f.store.revoke_key(id, Revocation { by: "root".to_owned(), ..revocation("second") }).await.unwrap();
    assert_eq!(first, second);
}

pub async fn two_revokes_at_once(f: Fixture) {
    for _ in 0..20 {
        let id = write(&f.store, [key()]).await[0];
        let before = revision(&f.store, id).await;
        let calls = ["a", "b", "c"].map(|reason| f.store.revoke_key(id, revocation(reason)));
        let answers: Vec<_> = join_all(calls).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0] && answer.revision > before), "{answers:?}");
    }
}

pub async fn the_first_webhook_ever_makes_the_first_version(f: Fixture) {
    const FIRST: i64 = 3 << 32 | 1;
    let bare = key_with(|key| (key.webhook_url, key.webhook_version) = (String::new(), 0));
    f.store.create_key(bare.clone()).await.unwrap();
    let steps = [("", 0), ("https://a.example/", FIRST), ("", FIRST), ("https://b.example/", FIRST)];
    for (revision, (url, version)) in (1..).zip(steps) {
        let to = if version == 0 { FIRST } else { FIRST + revision - 2 };
        let update = WebhookUpdate { secret: first(to), ..webhook(url, now()) };
        let change = f.store.set_webhook(bare.id, update).await.unwrap().unwrap();
        assert!(change.applied);
        let expected = KeyRecord { webhook_url: url.to_owned(), webhook_version: version, revision, ..bare.clone() };
        assert_eq!(change.key, expected);
        assert_eq!(f.store.find_by_id(bare.id).await.unwrap(), Some(expected));
    }
    assert_eq!(f.store.set_webhook(key().id, webhook("", now())).await.unwrap(), None);
}

/// The change to a first secret with this version.
fn first(to: i64) -> SecretChange {
    SecretChange { from: 0, to, former_until: 0 }
}

pub async fn two_rotations_from_one_version_rotate_once(f: Fixture) {
    let hooked = key();
    let from = hooked.webhook_version;
    write(&f.store, [hooked.clone()]).await;
    let rotate = |from, to, former_until| {
        let secret = SecretChange { from, to, former_until };
        f.store.set_webhook(hooked.id, WebhookUpdate { secret, ..webhook("https://a.example/", now()) })
    };
    let versions = async || {
        let claim = Claim { now: i64::MAX, until: i64::MAX, limit: 100, busy_hosts: Vec::new() };
        let one = f.store.claim_deliveries(claim).await.unwrap().pop().unwrap();
        (one.webhook_version, one.former)
    };
    assert_eq!(versions().await, (from, None));
    let until = now() + 60_000_000;
    for (step, shown, former) in [
        ((from, from + 1, until), from + 1, Some(FormerSecrets { version: from, until })),
        // A retry, as after a lost reply, and another rotation from the same version.
        ((from, from + 1, until + 5), from + 1, Some(FormerSecrets { version: from, until })),
        ((from, from + 7, until + 5), from + 1, Some(FormerSecrets { version: from, until })),
        // The former version still signs, so both go on signing.
        ((from + 1, from + 2, 1), from + 2, Some(FormerSecrets { version: from, until: 1 })),
        // They do not sign any more.
        ((from + 2, from + 3, until), from + 3, Some(FormerSecrets { version: from + 2, until })),
        // The version of another master key.
        (
            (from + 3, from + 4 + (1 << 32), until),
            from + 4 + (1 << 32),
            Some(FormerSecrets { version: from + 2, until }),
        ),
    ] {
        let change = rotate(step.0, step.1, step.2).await.unwrap().unwrap();
        assert!(change.applied);
        assert_eq!(change.key.webhook_version, shown);
        assert_eq!(versions().await, (shown, former));
    }
    let last = from + 4 + (1 << 32);
    // A removed webhook keeps its secret for the next one.
    let secret = SecretChange { from: last, to: last + 1, former_until: 0 };
    let removed = WebhookUpdate { secret, ..webhook("", now()) };
    assert_eq!(f.store.set_webhook(hooked.id, removed).await.unwrap().unwrap().key.webhook_version, last);
    // Up to eight secrets go on signing; from the ninth on only the last one.
    for step in 0..7 {
        rotate(last + step, last + step + 1, until).await.unwrap().unwrap();
        let oldest = if step < 6 { from + 2 } else { last + step };
        assert_eq!(versions().await, (last + step + 1, Some(FormerSecrets { version: oldest, until })), "{step}");
    }
}

pub async fn webhook_of_dead_key(f: Fixture) {
    let now = now();
    let revoked = key();
    let expired = key_with(|key| key.expires_at = Some(now));
    let last_moment = key_with(|key| key.expires_at = Some(now + 1));
    write(&f.store, [revoked.clone(), expired.clone(), last_moment.clone()]).await;
    f.store.revoke_key(revoked.id, revocation("")).await.unwrap();
    for (id, applied) in [(revoked.id, false), (expired.id, false), (last_moment.id, true)] {
        let before = f.store.find_by_id(id).await.unwrap().unwrap();
        let change = f.store.set_webhook(id, webhook("https://new.example/", now)).await.unwrap().unwrap();
        assert_eq!(change.applied, applied);
        assert_eq!(change.key == before, !applied);
    }
    assert_eq!(expired.status(now), KeyStatus::Expired);
}

pub async fn usage_keeps_the_latest(f: Fixture) {
    let mut f = f;
    let ids = write(&f.store, [key(), key(), key()]).await;
    let used = |id: KeyId, last_used_at: i64, count: i64| Usage { id, last_used_at, count };
    // A key that does not exist, and one that is twice in a batch.
    let batch = vec![used(ids[0], 50, 2), used(key().id, 60, 1), used(ids[1], 10, 1), used(ids[0], 40, 3)];
    f.store.record_usage(batch).await.unwrap();
    f.store.record_usage(vec![used(ids[0], 45, 1), used(ids[1], 20, 1)]).await.unwrap();
    f.store.record_usage(vec![]).await.unwrap();
    let mut last = Vec::new();
    for id in &ids {
        last.push(f.store.find_by_id(*id).await.unwrap().unwrap().last_used_at);
    }
    assert_eq!(last, [Some(50), Some(20), None]);
    let listed = f.store.list_keys(crate::fixture::everything()).await.unwrap().rows;
    assert_eq!(listed.iter().map(|key| key.last_used_at).collect::<Vec<_>>(), last);
    assert_eq!(f.raw.number("SELECT CAST(sum(count) AS BIGINT) FROM keyward_usage").await, 8);
    assert_eq!(f.raw.number("SELECT count(*) FROM keyward_usage").await, 2);
}

pub async fn usage_of_many_writers_adds_up(f: Fixture) {
    let mut f = f;
    let ids = Arc::new(write(&f.store, (0..50).map(|_| key())).await);
    let batch = |backwards: bool, at: i64| {
        let mut batch: Vec<_> = ids.iter().map(|id| Usage { id: *id, last_used_at: at, count: 1 }).collect();
        if backwards {
            batch.reverse();
        }
        f.store.record_usage(batch)
    };
    let written = join_all((0..20).map(|n| batch(n % 2 == 0, n))).await;
    assert!(written.iter().all(Result::is_ok), "batches in opposite orders must not deadlock: {written:?}");
    assert_eq!(f.raw.number("SELECT CAST(sum(count) AS BIGINT) FROM keyward_usage").await, 20 * 50);
    assert_eq!(f.raw.number("SELECT min(last_used_at) FROM keyward_usage").await, 19);
}

pub async fn usage_leaves_revisions_alone(f: Fixture) {
    let mut f = f;
    let id = write(&f.store, [key()]).await[0];
    f.store.revoke_key(id, revocation("")).await.unwrap();
    f.store.record_usage(vec![Usage { id, last_used_at: 1, count: 1 }]).await.unwrap();
    assert_eq!(revision(&f.store, id).await, 1);
    assert_eq!(f.raw.number("SELECT value FROM keyward_revision").await, 1);
}

/// Writers change keys while a reader follows them as a replica does. A revision that became visible after a later one
/// would be missed for ever, because the reader has moved past it.
pub async fn revision_order(f: Fixture) {
    const KEYS: usize = 200;
    let mut f = f;
    let ids = write(&f.store, (0..KEYS).map(|_| key())).await;
    let writers: Vec<_> = ids
        .chunks(KEYS / 8)
        .map(|ids| {
            let (store, ids) = (Arc::clone(&f.store), ids.to_vec());
            tokio::spawn(async move {
                for id in ids {
                    store.revoke_key(id, revocation("")).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen = 0;
    let mut found = HashMap::new();
    eventually("every change is seen", async || {
        for (id, revision) in changes_since(&mut f.raw, seen).await {
            assert_eq!(revision, seen + 1, "a change was missed");
            seen = revision;
            found.insert(id, revision);
        }
        found.len() == KEYS
    })
    .await;
    for writer in writers {
        writer.await.unwrap();
    }
    for (id, revision_seen) in found {
        assert_eq!(revision(&f.store, KeyId(id)).await, revision_seen);
    }
}

/// Reads changes as a replica does: ids and revisions after `seen`.
async fn changes_since(raw: &mut Raw, seen: i64) -> Vec<(uuid::Uuid, i64)> {
    macro_rules! read {
        ($conn:expr) => {{
            let changes = "SELECT id, revision FROM keyward_keys WHERE revision > $1 ORDER BY revision";
            let rows = sqlx::query(changes).bind(seen).fetch_all($conn).await.unwrap();
            rows.iter().map(|row| (row.get("id"), row.get("revision"))).collect()
        }};
    }
    match raw {
        Raw::Postgres(conn) => read!(conn),
        Raw::Sqlite(conn) => read!(conn),
    }
}

pub async fn keys_are_never_deleted(f: Fixture) {
    let mut f = f;
    let id = write(&f.store, [key()]).await[0];
    let refused = f.raw.execute("DELETE FROM keyward_keys").await.unwrap_err();
    assert!(refused.to_string().contains("revoke the key instead"), "{refused}");
    if let Raw::Postgres(_) = f.raw {
        let refused = f.raw.execute("TRUNCATE keyward_keys").await.unwrap_err();
        assert!(refused.to_string().contains("revoke the key instead"), "{refused}");
    }
    assert!(f.store.find_by_id(id).await.unwrap().is_some());
}

async fn revision(store: &Arc<dyn Store>, id: KeyId) -> i64 {
    store.find_by_id(id).await.unwrap().unwrap().revision
}
