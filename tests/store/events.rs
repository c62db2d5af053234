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
    deliveries::spoil_events,
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

/// Each combination of filters finds the same events as a filter in memory over all of them.
pub async fn every_event_filter_shape(f: Fixture) {
    for n in 0..12 {
        let made = key_with(|key| {
            key.keyspace = format!("k{}", n % 2);
            ["acme", "Acme", ""][n % 3].clone_into(&mut key.binding.organization);
            key.binding.instance = format!("i{}", n % 2);
            ["live", "test"][n / 6].clone_into(&mut key.binding.environment);
            ["root", "user:ann"][n / 3 % 2].clone_into(&mut key.created_by);
        });
        write(&f.store, [made.clone()]).await;
        if n % 2 == 0 {
            f.store.set_webhook(made.id, webhook("https://b.example/", now())).await.unwrap();
        }
        if n % 3 == 0 {
            f.store.revoke_key(made.id, revocation("")).await.unwrap();
        }
    }
    let all = events(&f.store).await;
    assert_eq!(all.len(), 12 + 6 + 4);
    assert!(all.windows(2).all(|pair| pair[0].id > pair[1].id));
    let text = |value: &str| Some(value.to_owned());
    let some = &all[9];
    for bits in 0_u32..1 << 9 {
        let given = |index: u32| bits >> index & 1 == 1;
        let query = EventQuery {
            keyspace: text("k1").filter(|_| given(0)),
            organization: text("acme").filter(|_| given(1)),
            instance: text("i0").filter(|_| given(2)),
            environment: text("live").filter(|_| given(3)),
            key: Some(key_of(some).id).filter(|_| given(4)),
            kind: Some([EventType::KeyCreated, EventType::WebhookUpdated][bits as usize % 2]).filter(|_| given(5)),
            actor: text("user:ann").filter(|_| given(6)),
            from: Some(all[15].id).filter(|_| given(7)),
            before: Some(all[3].id).filter(|_| given(8)),
            limit: 1_000,
        };
        let fits = |event: &&Event| {
            let key = key_of(event);
            let text = |asked: &Option<String>, has: &String| asked.as_ref().is_none_or(|asked| asked == has);
            text(&query.keyspace, &key.keyspace)
                && text(&query.organization, &key.binding.organization)
                && text(&query.instance, &key.binding.instance)
                && text(&query.environment, &key.binding.environment)
                && text(&query.actor, &event.actor)
                && query.key.is_none_or(|id| id == key.id)
                && query.kind.is_none_or(|kind| kind == event.kind)
                && query.from.is_none_or(|from| event.id >= from)
                && query.before.is_none_or(|before| event.id < before)
        };
        let expected: Vec<EventId> = all.iter().filter(fits).map(|event| event.id).collect();
        let found = f.store.list_events(query.clone()).await.unwrap().rows;
        assert_eq!(found.iter().map(|event| event.id).collect::<Vec<_>>(), expected, "{query:?}");
        let first = f.store.list_events(EventQuery { limit: 1, ..query.clone() }).await.unwrap().rows;
        assert_eq!(first.first().map(|event| event.id), expected.first().copied(), "{query:?}");
    }
    let nobody = EventQuery { organization: text(""), limit: 1_000, ..EventQuery::default() };
    assert!(
        f.store
            .list_events(nobody)
            .await
            .unwrap()
            .rows
            .iter()
            .all(|event| key_of(event).binding.organization.is_empty())
    );
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

pub async fn a_page_passes_events_that_cannot_be_read(mut f: Fixture) {
    let bad = || key_with(|key| "bad".clone_into(&mut key.created_by));
    let good: Vec<_> = (0..3).map(|_| key()).collect();
    let [first, second, third] = [&good[0], &good[1], &good[2]].map(Clone::clone);
    write(&f.store, [first, bad(), bad(), second, bad(), third]).await;
    let newest: Vec<_> = good.iter().rev().map(|key| EventId(key.id.0)).collect();
    for change in [
        "UPDATE keyward_events SET record = 'none' WHERE actor = 'bad'",
        "UPDATE keyward_events SET type = 'key.renamed' WHERE actor = 'bad'",
    ] {
        spoil_events(&mut f, change).await;
        for (limit, before, expected) in
            [(10, None, &newest[..]), (2, None, &newest[..2]), (2, Some(newest[1]), &newest[2..])]
        {
            let page = f.store.list_events(EventQuery { limit, before, ..EventQuery::default() }).await.unwrap().rows;
            assert_eq!(page.iter().map(|event| event.id).collect::<Vec<_>>(), expected, "{change}");
        }
    }
    assert!(f.store.unreadable_rows() >= 6);
}

/// 33,333 creations of keys of the organization `big`, none of them by `nobody`.
pub async fn a_page_of_events_looks_at_a_bounded_number_of_rows(mut f: Fixture) {
    crate::fixture::fill(&mut f.raw).await;
    f.raw
        .execute(
            "INSERT INTO keyward_events (id, type, actor, key_id, keyspace, organization, instance, environment, once, record) \
             SELECT id, 'key.created', created_by, id, keyspace, organization, '', '', NULL, '{}' FROM keyward_keys",
        )
        .await
        .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let mut query = EventQuery { organization: text("big"), actor: text("nobody"), limit: 50, ..EventQuery::default() };
    let mut pages = 0;
    loop {
        let page = f.store.list_events(query.clone()).await.unwrap();
        assert_eq!(page.rows, []);
        pages += 1;
        let Some(end) = page.ended_at else { break };
        query.before = Some(EventId(end));
    }
    assert_eq!(pages, 4);
    for filter in [
        EventQuery { instance: text("nowhere"), limit: 50, ..EventQuery::default() },
        EventQuery { keyspace: text("nowhere"), limit: 50, ..EventQuery::default() },
        EventQuery {
            kind: Some(EventType::KeyCreated),
            environment: text("nowhere"),
            limit: 50,
            ..EventQuery::default()
        },
        EventQuery { actor: text("root"), environment: text("nowhere"), limit: 50, ..EventQuery::default() },
    ] {
        let page = f.store.list_events(filter.clone()).await.unwrap();
        assert!(page.rows.is_empty() && page.ended_at.is_some(), "{filter:?}");
        // What is older than asked for was not passed over.
        let recent = EventQuery { from: page.ended_at.map(EventId), ..filter };
        assert_eq!(f.store.list_events(recent).await.unwrap().ended_at, None);
    }
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
