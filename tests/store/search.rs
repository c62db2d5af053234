//! Cases on searches and counts of keys.

use keyward::{
    domain::{
        clock::{Micros, SECOND},
        key::{KeyId, KeyRecord, KeyStatus},
    },
    store::{
        keys::{CountQuery, FoundKeys, KeySearch, SearchQuery},
        page::MAX_SCANNED_ROWS,
    },
};

use crate::{
    change::revocation,
    fixture::{Fixture, Raw, key_with, now, write},
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
    f.store.search_keys(query).await.unwrap().keys.into_iter().map(|key| key.name).collect()
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

/// 10,000 keys of "others" and 50 of "small", all with one name, which expire one microsecond after the other.
async fn fill(raw: &mut Raw) {
    macro_rules! fill {
        ($numbers:literal, $id:literal, $digest:literal) => {
            concat!(
                "INSERT INTO keyward_keys (id, keyspace, digest, organization, name, created_by, created_at, expires_at)
                ", $numbers, "
                SELECT ", $id, ", 'k1', ", $digest, ", CASE WHEN n <= 10000 THEN 'others' ELSE 'small' END, 'same', 'root', n,
                    4000000000000000 + n FROM numbers"
            )
        };
    }
    let text = match raw {
        Raw::Postgres(_) => fill!(
            "WITH numbers AS (SELECT n FROM generate_series(1, 10050) AS n)",
            "CAST(lpad(to_hex(n), 32, '0') AS UUID)",
            "sha256(CAST(n::text AS BYTEA))"
        ),
        Raw::Sqlite(_) => fill!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10050)",
            "unhex(printf('%032x', n))",
            "unhex(printf('%064x', n * 7919))"
        ),
    };
    raw.execute(text).await.unwrap();
}

/// The attack: an admin of a small organization searches for what begins every name. The keys of all others would be read.
pub async fn a_search_reads_a_bounded_number_of_rows(mut f: Fixture) {
    assert_eq!(MAX_SCANNED_ROWS, 10_000);
    fill(&mut f.raw).await;
    let text = |text: &str| Some(text.to_owned());
    let found = async |query: SearchQuery| {
        let FoundKeys { keys, is_whole } = f.store.search_keys(query).await.unwrap();
        (keys.len(), is_whole)
    };
    let far = 4_100_000_000_000_000;
    for search in [KeySearch::Name("Same".to_owned()), KeySearch::ExpiresBefore(far)] {
        let all = query(search);
        for none in [
            SearchQuery { organization: text("nowhere"), ..all.clone() },
            SearchQuery { organization: text("small"), ..all.clone() },
            SearchQuery { created_by: text("nobody"), ..all.clone() },
            SearchQuery { organization: text("others"), status: Some(KeyStatus::Revoked), ..all.clone() },
        ] {
            assert_eq!(found(none.clone()).await, (0, false), "{none:?}");
        }
        // What is among the first ones is found, and a result that is full says nothing of others.
        let others = SearchQuery { organization: text("others"), limit: 5, ..all.clone() };
        assert_eq!(found(others).await, (5, true));
        assert_eq!(found(SearchQuery { limit: 5, ..all.clone() }).await, (5, true));
    }
    // An index has the keys of an organization and keyspace that expire: those of others are not looked at.
    let own = SearchQuery {
        organization: text("small"),
        keyspace: text("k1"),
        limit: 100,
        ..query(KeySearch::ExpiresBefore(far))
    };
    assert_eq!(found(own.clone()).await, (50, true));
    assert_eq!(found(SearchQuery { created_by: text("nobody"), ..own }).await, (0, true));
    // Up to the bound, every one was looked at.
    for (end, is_whole) in [(4_000_000_000_010_001, true), (4_000_000_000_010_002, false)] {
        let none = SearchQuery { organization: text("nowhere"), ..query(KeySearch::ExpiresBefore(end)) };
        assert_eq!(found(none).await, (0, is_whole), "{end}");
    }
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
