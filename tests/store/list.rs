//! Cases on pages of keys.

use keyward::{
    domain::key::{KeyId, KeyRecord, KeyStatus},
    store::{ListQuery, page::MAX_SCANNED_ROWS},
};

use crate::{
    change::revocation,
    fixture::{Fixture, everything, ids, key, key_with, now, write},
};

/// The filter in plain Rust, to compare the SQL with.
fn passes(filter: Option<&str>, text: &str) -> bool {
    filter.is_none_or(|filter| filter == text)
}

/// Every combination of filters, against keys with every combination of texts and states.
pub async fn every_filter_shape(f: Fixture) {
    let at = now();
    let mut keys: Vec<KeyRecord> = Vec::new();
    for texts in 0..32_u32 {
        let text = |bit: u32| if texts >> bit & 1 == 1 { "a".to_owned() } else { String::new() };
        for expires_at in [None, Some(at), Some(at + 1)] {
            keys.push(key_with(|key| {
                (key.keyspace, key.created_by) = (text(0), text(1));
                (key.binding.organization, key.binding.instance, key.binding.environment) = (text(2), text(3), text(4));
                key.expires_at = expires_at;
            }));
        }
    }
    write(&f.store, keys.clone()).await;
    for key in keys.iter_mut().step_by(4) {
        *key = f.store.revoke_key(key.id, revocation("")).await.unwrap().unwrap();
    }
    keys.reverse();

    let filters = [None, Some(""), Some("a")];
    let statuses = [None, Some(KeyStatus::Active), Some(KeyStatus::Revoked), Some(KeyStatus::Expired)];
    for shape in 0..3_usize.pow(5) {
        let filter = |index: u32| filters[shape / 3_usize.pow(index) % 3].map(str::to_owned);
        // All statuses with each shape would be 972 queries; each shape still meets each status of its neighbours.
        let status = statuses[shape % 4];
        let query = ListQuery {
            keyspace: filter(0),
            created_by: filter(1),
            organization: filter(2),
            instance: filter(3),
            environment: filter(4),
            status,
            now: at,
            ..everything()
        };
        let expected: Vec<_> = keys
            .iter()
            .filter(|key| {
                passes(query.keyspace.as_deref(), &key.keyspace)
                    && passes(query.created_by.as_deref(), &key.created_by)
                    && passes(query.organization.as_deref(), &key.binding.organization)
                    && passes(query.instance.as_deref(), &key.binding.instance)
                    && passes(query.environment.as_deref(), &key.binding.environment)
                    && status.is_none_or(|status| key.status(at) == status)
            })
            .cloned()
            .collect();
        assert_eq!(f.store.list_keys(query.clone()).await.unwrap().rows, expected, "{query:?}");
    }
}

pub async fn a_status_is_evaluated_at_the_time_of_the_query(f: Fixture) {
    let id = write(&f.store, [key_with(|key| key.expires_at = Some(1_000))]).await[0];
    let found = async |status, now| ids(&f.store, ListQuery { status: Some(status), now, ..everything() }).await;
    assert_eq!(found(KeyStatus::Active, 999).await, [id]);
    assert_eq!(found(KeyStatus::Expired, 999).await, []);
    // A key is expired from its expiry on, the expiry included.
    assert_eq!(found(KeyStatus::Active, 1_000).await, []);
    assert_eq!(found(KeyStatus::Expired, 1_000).await, [id]);
    f.store.revoke_key(id, revocation("")).await.unwrap();
    // A key that is revoked and expired counts as revoked.
    assert_eq!(found(KeyStatus::Expired, 1_000).await, []);
    assert_eq!(found(KeyStatus::Revoked, 1_000).await, [id]);
}

pub async fn pages_stay_stable(f: Fixture) {
    let filters: [fn(&mut ListQuery); 4] = [
        |_| (),
        |query| query.organization = Some("acme".to_owned()),
        |query| query.created_by = Some("root".to_owned()),
        |query| query.keyspace = Some("norrix".to_owned()),
    ];
    let mut written = write(&f.store, (0..30).map(|_| key())).await;
    for filter in filters {
        let mut query = ListQuery { limit: 7, ..everything() };
        filter(&mut query);
        let mut seen = Vec::new();
        loop {
            let page = ids(&f.store, query.clone()).await;
            let Some(last) = page.last() else { break };
            query.before = Some(*last);
            seen.extend(page);
            // Keys are added and changed while the pages are read.
            written.insert(0, write(&f.store, [key()]).await[0]);
            f.store.revoke_key(seen[0], revocation("")).await.unwrap();
        }
        let before_the_first_page = written.iter().position(|id| *id == seen[0]).unwrap();
        assert_eq!(
            seen,
            written[before_the_first_page..],
            "each key once, newest first, and none that was added later"
        );
    }
}

/// Sets one field of a key, and the filter that looks for it.
type SetField = fn(&mut KeyRecord, String);
type SetFilter = fn(&mut ListQuery, String);

pub async fn case_pairs(f: Fixture) {
    // Pairs that some collations consider equal.
    let pairs =
        [("Alice", "alice"), ("Zoë", "zoë"), ("Straße", "Strasse"), ("a", "a "), ("Ⅷ", "VIII"), ("é", "e\u{301}")];
    let fields: [(SetField, SetFilter); 5] = [
        (|key, text| key.keyspace = text, |query, text| query.keyspace = Some(text)),
        (|key, text| key.created_by = text, |query, text| query.created_by = Some(text)),
        (|key, text| key.binding.organization = text, |query, text| query.organization = Some(text)),
        (|key, text| key.binding.instance = text, |query, text| query.instance = Some(text)),
        (|key, text| key.binding.environment = text, |query, text| query.environment = Some(text)),
    ];
    for (give, ask) in fields {
        for (one, other) in pairs {
            let made = [one, other].map(|text| key_with(|key| give(key, text.to_owned())));
            write(&f.store, made.clone()).await;
            for (key, text) in made.iter().zip([one, other]) {
                let mut query = everything();
                ask(&mut query, text.to_owned());
                assert_eq!(f.store.list_keys(query).await.unwrap().rows, std::slice::from_ref(key), "{text:?}");
            }
        }
    }
}

pub async fn a_page_has_a_limit(f: Fixture) {
    let written = write(&f.store, (0..5).map(|_| key())).await;
    for limit in [0, 1, 4, 5, 6] {
        let page = ids(&f.store, ListQuery { limit, ..everything() }).await;
        assert_eq!(page, written[..written.len().min(limit as usize)]);
    }
}

/// A page that is shorter than its limit is the last one, so one that leaves keys out must be filled.
pub async fn a_page_passes_keys_that_cannot_be_read(mut f: Fixture) {
    let bad = || key_with(|key| "bad".clone_into(&mut key.name));
    let good: Vec<_> = (0..4).map(|_| key()).collect();
    let [first, second, third, fourth] = [&good[0], &good[1], &good[2], &good[3]].map(Clone::clone);
    let all = [first, bad(), second, bad(), bad(), third, bad(), fourth];
    write(&f.store, all).await;
    f.raw.execute("UPDATE keyward_keys SET metadata = '[' WHERE name = 'bad'").await.unwrap();
    let newest: Vec<_> = good.iter().rev().map(|key| key.id).collect();
    assert_eq!(ids(&f.store, everything()).await, newest);
    assert_eq!(ids(&f.store, ListQuery { limit: 2, ..everything() }).await, newest[..2]);
    let rest = ListQuery { limit: 2, before: Some(newest[1]), ..everything() };
    assert_eq!(ids(&f.store, rest).await, newest[2..]);
    assert!(f.store.unreadable_rows() >= 4);
}

/// Of 100,000 keys, 33,333 are of the organization `big`, and none of those was created by `root`.
pub async fn a_page_reads_a_bounded_number_of_rows(mut f: Fixture) {
    crate::fixture::fill(&mut f.raw).await;
    let text = |text: &str| Some(text.to_owned());
    let of_big = ListQuery { organization: text("big"), created_by: text("root"), ..everything() };
    let at = |n: i64| uuid::Uuid::from_u128(u128::try_from(n).unwrap());
    let (mut query, mut ends) = (of_big.clone(), Vec::new());
    loop {
        let page = f.store.list_keys(query.clone()).await.unwrap();
        assert_eq!(page.rows, []);
        let Some(end) = page.ended_at else { break };
        ends.push(end);
        query.before = Some(KeyId(end));
    }
    // Every third key, from the newest.
    let rows = i64::from(MAX_SCANNED_ROWS);
    assert_eq!(ends, [1, 2, 3].map(|pages| at(99_999 - 3 * (pages * rows - 1))));

    // A key beyond the first page's rows is found by the page that reaches it, and once.
    f.raw
        .execute("UPDATE keyward_keys SET created_by = 'root' WHERE organization = 'big' AND created_at = 45000")
        .await
        .unwrap();
    let (mut query, mut found) = (of_big, Vec::new());
    loop {
        let page = f.store.list_keys(query.clone()).await.unwrap();
        found.extend(page.rows.iter().map(|key| key.id.0));
        let Some(end) = page.ended_at else { break };
        query.before = Some(KeyId(end));
    }
    assert_eq!(found, [at(45_000)]);
    // A page that is full ends where its rows end, and one whose filter has an index ends at no bound.
    let full = ListQuery { environment: text(""), organization: text("big"), limit: 5, ..everything() };
    let full = f.store.list_keys(full).await.unwrap();
    assert_eq!((full.rows.len(), full.ended_at), (5, None));
    let nobody = ListQuery { created_by: text("nobody"), ..everything() };
    let nobody = f.store.list_keys(nobody).await.unwrap();
    assert_eq!((nobody.rows.len(), nobody.ended_at), (0, None));
    // The filters without an index of their own are bounded, too.
    for filter in [
        ListQuery { instance: text("nowhere"), ..everything() },
        ListQuery { environment: text("nowhere"), ..everything() },
        ListQuery { status: Some(KeyStatus::Revoked), ..everything() },
        ListQuery { status: Some(KeyStatus::Revoked), organization: text("big"), ..everything() },
        ListQuery { instance: text("nowhere"), created_by: text("root"), ..everything() },
    ] {
        let page = f.store.list_keys(filter.clone()).await.unwrap();
        assert!(page.rows.is_empty() && page.ended_at.is_some(), "{filter:?}");
    }
}
