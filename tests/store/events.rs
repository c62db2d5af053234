//! Cases on events: each change writes its event atomically with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::join_all;
use keyward::{
    domain::{
        clock::{Micros, SECOND},
        event::{Event, EventId, EventType, SYSTEM},
        key::{Binding, Digest, KeyId, KeyRecord},
    },
    store::{
        Store,
        events::{AuditRecord, Claim, EventQuery, ExpiryPosition, ExpiryQuery, NewEvent},
        keys::WebhookRemoval,
    },
};
use uuid::Uuid;

use crate::{
    change::{revocation, webhook},
    fixture::{Fixture, event_id, key, key_with, now, write},
};

/// Every event, newest first.
pub async fn events(store: &Arc<dyn Store>) -> Vec<Event> {
    store.list_events(EventQuery { limit: 10_000, ..EventQuery::default() }).await.unwrap().rows
}

/// The key that an event is about.
pub fn key_of(event: &Event) -> &KeyRecord {
    event.key.as_ref().expect("the event is about a key")
}

/// The part of a key that an event keeps.
fn public(key: KeyRecord) -> KeyRecord {
    KeyRecord { digest: Digest([0; 32]), revision: 0, webhook_version: 0, last_used_at: None, ..key }
}

pub async fn creating_a_key_writes_its_event(f: Fixture) {
    let mut f = f;
    let odd = key_with(|key| {
        "a \"quoted\" \\ name\u{1} 鍵".clone_into(&mut key.name);
        key.scopes = Vec::new();
        key.expires_at = None;
        (key.webhook_url, key.webhook_version) = (String::new(), 0);
        key.metadata = [("clé \"'\\".to_owned(), "ценность".to_owned())].into();
    });
    for made in [odd, key()] {
        f.store.create_key(made.clone()).await.unwrap();
        // Neither a retry nor a collision is a change.
        f.store.create_key(made.clone()).await.unwrap();
        f.store.create_key(key_with(|key| key.digest = made.digest)).await.unwrap_err();
        let event = Event {
            id: EventId(made.id.0),
            kind: EventType::KeyCreated,
            actor: made.created_by.clone(),
            once: None,
            key: Some(public(made)),
            details: BTreeMap::new(),
        };
        assert_eq!(events(&f.store).await[0], event);
        assert_eq!(f.store.find_event(event.id).await.unwrap(), Some(event));
    }
    assert_eq!(events(&f.store).await.len(), 2);
    assert_eq!(f.store.find_event(event_id()).await.unwrap(), None);
    let refused = f.raw.execute("UPDATE keyward_events SET actor = 'nobody'").await.unwrap_err();
    assert!(refused.to_string().contains("never changed"), "{refused}");
}

pub async fn the_first_root_key_writes_its_event(f: Fixture) {
    let (first, second) = (key(), key());
    assert!(f.store.first_root_key(first.clone()).await.unwrap());
    assert!(!f.store.first_root_key(second).await.unwrap());
    let found = events(&f.store).await;
    assert_eq!(
        found.iter().map(|event| (event.kind, key_of(event).id)).collect::<Vec<_>>(),
        [(EventType::KeyCreated, first.id)]
    );
}

pub async fn only_the_first_revocation_writes_an_event(f: Fixture) {
    let made = key();
    write(&f.store, [made.clone()]).await;
    let first = revocation("stolen");
    let revoked = f.store.revoke_key(made.id, first.clone()).await.unwrap().unwrap();
    f.store.revoke_key(made.id, revocation("again")).await.unwrap();
    f.store.revoke_key(key().id, revocation("unknown")).await.unwrap();
    let found = events(&f.store).await;
    let expected = Event {
        id: first.event,
        kind: EventType::KeyRevoked,
        actor: first.by,
        once: None,
        key: Some(public(revoked)),
        details: BTreeMap::new(),
    };
    assert_eq!((found.len(), &found[0]), (2, &expected));
    for _ in 0..10 {
        let id = write(&f.store, [key()]).await[0];
        let calls = ["a", "b", "c"].map(|reason| f.store.revoke_key(id, revocation(reason)));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        let query = EventQuery { key: Some(id), limit: 10, ..EventQuery::default() };
        let kinds: Vec<_> =
            f.store.list_events(query).await.unwrap().rows.into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventType::KeyRevoked, EventType::KeyCreated]);
    }
}

pub async fn a_webhook_change_writes_an_event(f: Fixture) {
    let made = key();
    write(&f.store, [made.clone()]).await;
    let updates = [webhook("https://new.example/x", now()), webhook("", now())];
    for (count, update) in (2..).zip(updates) {
        f.store.set_webhook(made.id, update.clone()).await.unwrap();
        let found = events(&f.store).await;
        let url = update.url.clone();
        let record = public(KeyRecord { webhook_url: url, ..made.clone() });
        let expected = Event {
            id: update.event,
            kind: EventType::WebhookUpdated,
            actor: update.by,
            once: None,
            key: Some(record),
            details: BTreeMap::new(),
        };
        assert_eq!((found.len(), &found[0]), (count, &expected));
    }
    f.store.revoke_key(made.id, revocation("")).await.unwrap();
    f.store.set_webhook(made.id, webhook("https://late.example/", now())).await.unwrap();
    f.store.set_webhook(key().id, webhook("https://unknown.example/", now())).await.unwrap();
    assert_eq!(events(&f.store).await.len(), 4, "no change, no event");
}

pub async fn only_the_webhook_that_refused_is_disabled(f: Fixture) {
    let removal = |url: &str| WebhookRemoval { url: url.to_owned(), at: now(), event: event_id() };
    let (active, revoked) = (key(), key());
    write(&f.store, [active.clone(), revoked.clone()]).await;
    f.store.revoke_key(revoked.id, revocation("")).await.unwrap();
    let url = active.webhook_url.clone();
    assert!(!f.store.disable_webhook(active.id, removal("https://older.example/")).await.unwrap());
    assert!(!f.store.disable_webhook(active.id, removal("")).await.unwrap());
    assert!(!f.store.disable_webhook(revoked.id, removal(&url)).await.unwrap());
    let right = removal(&url);
    assert!(f.store.disable_webhook(active.id, right.clone()).await.unwrap());
    assert!(!f.store.disable_webhook(active.id, removal(&url)).await.unwrap());
    let now_is = f.store.find_by_id(active.id).await.unwrap().unwrap();
    assert_eq!((now_is.webhook_url.as_str(), now_is.webhook_version), ("", 1));
    let found = events(&f.store).await;
    assert_eq!(found.len(), 4);
    assert_eq!(
        (found[0].id, found[0].kind, found[0].actor.as_str()),
        (right.event, EventType::WebhookDisabled, SYSTEM)
    );
    assert_eq!(found[0].key, Some(public(now_is)));
}

/// An event of this key that is written only once.
pub fn once(key: KeyId, once: i64) -> NewEvent {
    NewEvent { id: event_id(), key, once }
}

pub async fn an_event_that_happens_once_is_written_once(f: Fixture) {
    let ids = write(&f.store, (0..20).map(|_| key())).await;
    let revoked = ids[0];
    f.store.revoke_key(revoked, revocation("")).await.unwrap();
    let before: BTreeSet<EventId> = events(&f.store).await.iter().map(|event| event.id).collect();
    // As from eight replicas at once, each with its own ids and order, and one event twice in a batch.
    let batches = (0..8).map(|n| {
        let mut batch: Vec<_> = ids.iter().chain(&ids[3..4]).map(|id| once(*id, 60)).collect();
        batch.push(once(key().id, 60));
        if n % 2 == 0 {
            batch.reverse();
        }
        f.store.add_events(EventType::KeyExpiring, batch, now())
    });
    let written: Vec<u64> = join_all(batches).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(written.iter().sum::<u64>(), 19, "{written:?}");
    assert_eq!(f.store.add_events(EventType::KeyExpiring, vec![once(ids[1], 60)], now()).await.unwrap(), 0);
    // Another type, or another number, is another event.
    assert_eq!(f.store.add_events(EventType::KeyExpired, vec![once(ids[1], 60)], now()).await.unwrap(), 1);
    assert_eq!(f.store.add_events(EventType::KeyExpiring, vec![once(ids[1], 61)], now()).await.unwrap(), 1);
    assert_eq!(f.store.add_events(EventType::KeyExpired, vec![], now()).await.unwrap(), 0);
    let found: Vec<_> = events(&f.store).await.into_iter().filter(|event| !before.contains(&event.id)).collect();
    assert_eq!(found.len(), 21);
    assert!(found.iter().all(|event| event.actor == SYSTEM && event.once.is_some() && key_of(event).id != revoked));
    let unchanged = f.store.find_by_id(ids[1]).await.unwrap().unwrap();
    assert_eq!(unchanged.revision, 0, "a sweep must not touch keys");
}

pub async fn keys_by_their_expiry(f: Fixture) {
    let start = now() + 60 * SECOND;
    let at = |n: i64| start + n * SECOND;
    let with = |expires: Option<Micros>| key_with(|key| key.expires_at = expires);
    // Two with the same expiry, one that never expires, one that is revoked.
    let keys =
        [with(Some(at(3))), with(Some(at(1))), with(None), with(Some(at(2))), with(Some(at(2))), with(Some(at(1)))];
    write(&f.store, keys.clone()).await;
    f.store.revoke_key(keys[5].id, revocation("")).await.unwrap();
    f.store.add_events(EventType::KeyExpired, vec![once(keys[3].id, 0)], now()).await.unwrap();
    f.store.add_events(EventType::KeyExpiring, vec![once(keys[1].id, 0)], now()).await.unwrap();
    f.store.add_events(EventType::KeyExpired, vec![once(keys[1].id, 7)], now()).await.unwrap();
    let position = |index: usize| ExpiryPosition { at: keys[index].expires_at.unwrap(), key: keys[index].id };
    let expected = [(position(1), false), (position(3), true), (position(4), false), (position(0), false)];
    let everything = ExpiryQuery {
        after: ExpiryPosition { at: 0, key: KeyId(Uuid::nil()) },
        until: at(3),
        kind: EventType::KeyExpired,
        once: 0,
        limit: 100,
    };
    let found = async |query| {
        let found = f.store.expiring_keys(query).await.unwrap();
        found.into_iter().map(|key| (key.position, key.written)).collect::<Vec<_>>()
    };
    assert_eq!(found(everything).await, expected);
    assert_eq!(found(ExpiryQuery { until: at(3) - 1, ..everything }).await, expected[..3]);
    assert_eq!(found(ExpiryQuery { after: position(3), limit: 1, ..everything }).await, expected[2..3]);
}

pub async fn a_pending_delivery_keeps_its_event(f: Fixture) {
    let quiet = |key: &mut KeyRecord| key.webhook_url = String::new();
    let keys = [key_with(quiet), key(), key_with(quiet), key_with(quiet)];
    write(&f.store, keys.clone()).await;
    let below = EventId(keys[3].id.0);
    assert_eq!(f.store.delete_events(below, 1).await.unwrap(), 1);
    assert_eq!(f.store.delete_events(below, 100).await.unwrap(), 1);
    assert_eq!(f.store.delete_events(below, 100).await.unwrap(), 0);
    let left: Vec<_> = events(&f.store).await.iter().map(|event| key_of(event).id).collect();
    assert_eq!(left, [keys[3].id, keys[1].id]);
    let claim = Claim { now: now(), until: now() + SECOND, limit: 10, busy_hosts: Vec::new() };
    let claimed = f.store.claim_deliveries(claim).await.unwrap().pop().unwrap();
    f.store.settle_delivery(crate::deliveries::delivered(&claimed)).await.unwrap();
    assert_eq!(f.store.delete_events(below, 100).await.unwrap(), 1);
    assert_eq!(f.store.find_delivery(claimed.event.id).await.unwrap(), None, "it is deleted with its event");
}

pub async fn a_watermark_only_advances(f: Fixture) {
    assert_eq!(f.store.watermark("watermark".to_owned()).await.unwrap(), None);
    for (to, holds) in [(9, 9), (10, 10), (7, 10), (-3, 10), (100, 100)] {
        assert_eq!(f.store.advance_watermark("watermark".to_owned(), to).await.unwrap(), holds);
        assert_eq!(f.store.watermark("watermark".to_owned()).await.unwrap(), Some(holds));
    }
}

pub async fn a_job_lease_has_one_holder(f: Fixture) {
    let take = async |now: Micros| {
        let all = join_all((0..8).map(|_| f.store.try_acquire_job_lease("job", now, now + 100))).await;
        all.into_iter().filter(|taken| *taken.as_ref().unwrap()).count()
    };
    assert_eq!(take(1_000).await, 1);
    assert_eq!(take(1_050).await, 0);
    assert_eq!(take(1_100).await, 1);
    // A lease acquired by a clock that was far ahead must not block the job until then.
    assert!(f.store.try_acquire_job_lease("job", 1_000_000, 1_000_100).await.unwrap());
    assert_eq!(take(1_101).await, 1);
}

/// An event about no key, of the keyspace and the organization of [`key`].
fn denial() -> AuditRecord {
    AuditRecord {
        id: event_id(),
        kind: EventType::CallDenied,
        actor: "user:ann".to_owned(),
        keyspace: "norrix".to_owned(),
        binding: key().binding,
        details: [("call".to_owned(), "list".to_owned()), ("count".to_owned(), "7".to_owned())].into(),
    }
}

pub async fn events_without_a_key_are_written_once(f: Fixture) {
    let made = key();
    f.store.create_key(made.clone()).await.unwrap();
    let other = AuditRecord { keyspace: String::new(), binding: Binding::default(), ..denial() };
    let records = [denial(), other];
    for _ in 0..2 {
        f.store.record_events(records.to_vec()).await.unwrap();
    }
    f.store.record_events(Vec::new()).await.unwrap();
    let found = events(&f.store).await;
    assert_eq!(found.len(), 3, "{found:?}");
    let expected = |record: &AuditRecord| Event {
        id: record.id,
        kind: record.kind,
        actor: record.actor.clone(),
        once: None,
        key: None,
        details: record.details.clone(),
    };
    // Ids of the same millisecond are in no order.
    let mut written = records.each_ref().map(expected).to_vec();
    written.sort_by_key(|event| std::cmp::Reverse(event.id));
    let denials: Vec<_> = found.iter().filter(|event| event.kind == EventType::CallDenied).cloned().collect();
    assert_eq!(denials, written);
    assert_eq!(f.store.find_event(records[0].id).await.unwrap(), Some(expected(&records[0])));
    assert_eq!(f.store.find_delivery(records[0].id).await.unwrap(), None);
    // They are found by every filter that they have a value for.
    let query = EventQuery { limit: 10, ..EventQuery::default() };
    let text = |text: &str| Some(text.to_owned());
    for (query, count) in [
        (EventQuery { organization: text("acme"), ..query.clone() }, 2),
        (EventQuery { organization: text("acme"), keyspace: text("norrix"), ..query.clone() }, 2),
        (EventQuery { organization: text("other"), ..query.clone() }, 0),
        (EventQuery { actor: text("user:ann"), ..query.clone() }, 2),
        (EventQuery { kind: Some(EventType::CallDenied), organization: text(""), ..query.clone() }, 1),
        (EventQuery { key: Some(made.id), ..query.clone() }, 1),
    ] {
        assert_eq!(f.store.list_events(query.clone()).await.unwrap().rows.len(), count, "{query:?}");
    }
    // They are deleted like all others.
    assert_eq!(f.store.delete_events(EventId(Uuid::max()), 10).await.unwrap(), 2, "one has a delivery that is pending");
}
