//! Cases on searches and counts of keys.

use keyward::{
    domain::{
        clock::{Micros, SECOND},
        key::{KeyId, KeyRecord, KeyStatus},
    },
    store::keys::{CountQuery, KeySearch, SearchQuery},
};

use crate::{
    change::revocation,
    fixture::{Fixture, key_with, now, write},
};

const DAY: Micros = 86_400 * SECOND;

fn named(name: &str) -> KeyRecord {
    key_with(|key| name.clone_into(&mut key.name))
}

fn query(search: KeySearch) -> SearchQuery {
    SearchQuery {
        search,
        keyspace: None,
        organization: None,
        instance: None,
        environment: None,
        status: None,
        created_by: None,
        now: now(),
        limit: 50,
    }
}

async fn found(f: &Fixture, query: SearchQuery) -> Vec<String> {
    f.store.search_keys(query).await.unwrap().into_iter().map(|key| key.name).collect()
}

pub async fn a_search_finds_names_by_their_beginning(f: Fixture) {
    let names = ["Build", "build 2", "BUILDER", "a build", "Büro", "büro", "100%", "100_", "\u{10ffff}", "日本"];
    write(&f.store, names.map(named)).await;
    for (start, expected) in [
        ("build", vec!["Build", "build 2", "BUILDER"]),
        ("BUILD ", vec!["build 2"]),
        ("uild", vec![]),
        ("bü", vec!["Büro", "büro"]),
        ("100", vec!["100%", "100_"]),
        ("100%", vec!["100%"]),
        ("%", vec![]),
        ("_", vec![]),
        ("日", vec!["日本"]),
        ("\u{10ffff}", vec!["\u{10ffff}"]),
    ] {
        assert_eq!(found(&f, query(KeySearch::Name(start.to_owned()))).await, expected, "{start}");
    }
    let limited = SearchQuery { limit: 2, ..query(KeySearch::Name("build".to_owned())) };
    assert_eq!(found(&f, limited).await.len(), 2);
}

pub async fn a_search_has_the_filters_of_a_list(f: Fixture) {
    let one = named("same 1");
    let two = key_with(|key| {
        (key.name, key.keyspace, key.created_by) = ("same 2".to_owned(), "noro".to_owned(), "user:a".to_owned());
        "globex".clone_into(&mut key.binding.organization);
        (key.binding.instance, key.binding.environment) = (String::new(), "sandbox".to_owned());
    });
    let revoked = named("same 3");
    write(&f.store, [one, two, revoked.clone()]).await;
    f.store.revoke_key(revoked.id, revocation("")).await.unwrap();
    let all = query(KeySearch::Name("same".to_owned()));
    let text = |text: &str| Some(text.to_owned());
    for (query, expected) in [
        (SearchQuery { organization: text("globex"), ..all.clone() }, vec!["same 2"]),
        (SearchQuery { organization: text("Globex"), ..all.clone() }, vec![]),
        (SearchQuery { keyspace: text("norrix"), ..all.clone() }, vec!["same 1", "same 3"]),
        (SearchQuery { instance: text(""), ..all.clone() }, vec!["same 2"]),
        (SearchQuery { environment: text("sandbox"), ..all.clone() }, vec!["same 2"]),
        (SearchQuery { created_by: text("root"), ..all.clone() }, vec!["same 1", "same 3"]),
        (SearchQuery { status: Some(KeyStatus::Revoked), ..all.clone() }, vec!["same 3"]),
        (SearchQuery { status: Some(KeyStatus::Active), ..all.clone() }, vec!["same 1", "same 2"]),
        (SearchQuery { status: Some(KeyStatus::Expired), now: now() + DAY, ..all.clone() }, vec!["same 1", "same 2"]),
    ] {
        assert_eq!(found(&f, query.clone()).await, expected, "{query:?}");
    }
}

pub async fn a_search_finds_prefixes_and_expiries(f: Fixture) {
    let at = now();
    let with = |name: &str, prefix: &str, expires: Option<Micros>| {
        key_with(|key| {
            (key.name, key.prefix, key.expires_at) = (name.to_owned(), prefix.to_owned(), expires);
        })
    };
    let revoked = with("revoked", "nrx_00000003", Some(at + DAY));
    let keys = [
        with("late", "nrx_00000001", Some(at + 9 * DAY)),
        with("second", "nrx_00000001", Some(at + 2 * DAY)),
        with("first", "nrx_00000002", Some(at + DAY)),
        with("never", "nrx_00000002", None),
        with("over", "nrx_00000002", Some(at - DAY)),
        revoked.clone(),
    ];
    write(&f.store, keys).await;
    f.store.revoke_key(revoked.id, revocation("")).await.unwrap();
    let soon = SearchQuery { now: at, ..query(KeySearch::ExpiresBefore(at + 7 * DAY)) };
    assert_eq!(found(&f, soon).await, ["first", "second"]);
    assert_eq!(found(&f, query(KeySearch::Prefix("nrx_00000001".to_owned()))).await, ["second", "late"]);
    assert_eq!(found(&f, query(KeySearch::Prefix("nrx_0000000".to_owned()))).await, [""; 0]);
}

pub async fn keys_are_counted_by_status_and_day(f: Fixture) {
    let at = now();
    let today = at / DAY;
    let old = key_with(|key| (key.created_at, key.expires_at) = (at - 3 * DAY, Some(at - DAY)));
    let before = key_with(|key| (key.created_at, key.expires_at) = (at - 90 * DAY, None));
    let foreign = key_with(|key| "globex".clone_into(&mut key.binding.organization));
    let revoked = named("revoked");
    let ids: Vec<KeyId> = write(&f.store, [old, before, foreign, revoked.clone(), named("n")]).await;
    assert_eq!(ids.len(), 5);
    f.store.revoke_key(revoked.id, revocation("")).await.unwrap();
    let all = CountQuery {
        keyspace: None,
        organization: None,
        instance: None,
        environment: None,
        now: at,
        since: (today - 29) * DAY,
        limit: 1_000,
    };
    let counts = f.store.count_keys(all.clone()).await.unwrap();
    assert_eq!(counts.by_status, [3, 1, 1]);
    assert_eq!(counts.created, [(today - 3, 1), (today, 3)]);
    assert_eq!(counts.revoked.iter().map(|(_, number)| number).sum::<u64>(), 1);
    let acme = CountQuery { organization: Some("acme".to_owned()), ..all.clone() };
    assert_eq!(f.store.count_keys(acme).await.unwrap().by_status, [2, 1, 1]);
    let bound = CountQuery { instance: Some("eu-1".to_owned()), environment: Some("x".to_owned()), ..all.clone() };
    assert_eq!(f.store.count_keys(bound).await.unwrap().by_status, [0, 0, 0]);
    let none = CountQuery { keyspace: Some("noro".to_owned()), ..all.clone() };
    let none = f.store.count_keys(none).await.unwrap();
    assert_eq!((none.by_status, none.revoked), ([0, 0, 0], Vec::new()));
    let newest = CountQuery { limit: 2, ..all };
    assert_eq!(f.store.count_keys(newest).await.unwrap().by_status.iter().sum::<u64>(), 2);
}
