//! Cases on pages of events: filters, bounds, and rows that cannot be read.

use keyward::{
    domain::event::{Event, EventId, EventType},
    store::events::EventQuery,
};

use crate::{
    change::{revocation, webhook},
    deliveries::spoil_events,
    events::{events, key_of},
    fixture::{Fixture, key, key_with, now, write},
};

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
pub async fn a_page_of_events_reads_a_bounded_number_of_rows(mut f: Fixture) {
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
