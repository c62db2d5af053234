//! Cases on creating keys and finding them.

use std::sync::Arc;

use futures::future::join_all;
use keyward::{
    domain::key::{Digest, KeyFacts, KeyRecord},
    store::{InstallationRow, StoreError},
};

use crate::{
    change::revocation,
    fixture::{Fixture, everything, facts, ids, key, key_with, now},
};

pub async fn a_new_key_reads_back_whole(f: Fixture) {
    let full = key();
    // Only the required values, and text outside ASCII.
    let bare = key_with(|key| {
        key.prefix = String::new();
        key.binding = keyward::domain::key::Binding::default();
        key.name = String::from("Ключ für naïve 鍵 🔑 \u{1}");
        key.scopes = Vec::new();
        key.expires_at = None;
        key.webhook_url = String::new();
        key.webhook_version = 0;
        key.rate_limit = None;
        key.metadata = [("clé \"'\\".to_owned(), "ценность".to_owned())].into();
    });
    for key in [full, bare] {
        f.store.create_key(key.clone()).await.unwrap();
        assert_eq!(f.store.find_by_id(key.id).await.unwrap(), Some(key.clone()));
        assert_eq!(f.store.find_by_digests(vec![key.digest]).await.unwrap(), [facts(&key)]);
    }
    assert_eq!(f.store.find_by_id(key().id).await.unwrap(), None);
}

/// The limiter calculates with it on each check and relies on its bounds.
pub async fn a_rate_limit_out_of_bounds_is_an_error(mut f: Fixture) {
    let made = key();
    f.store.create_key(made.clone()).await.unwrap();
    for broken in [
        "UPDATE keyward_keys SET rate_window = 0",
        "UPDATE keyward_keys SET rate_window = NULL",
        "UPDATE keyward_keys SET rate_window = 60000000, rate_limit = 0",
        "UPDATE keyward_keys SET rate_limit = -1",
        "UPDATE keyward_keys SET rate_limit = 4294967296",
        "UPDATE keyward_keys SET rate_limit = NULL",
    ] {
        f.raw.execute(broken).await.unwrap();
        let read = f.store.find_by_digests(vec![made.digest]).await;
        assert!(matches!(read, Err(StoreError::Row(_))), "{broken}: {read:?}");
    }
    f.raw.execute("UPDATE keyward_keys SET rate_limit = 8").await.unwrap();
    let read = f.store.find_by_id(made.id).await.unwrap().unwrap().rate_limit.unwrap();
    assert_eq!((read.limit, read.window), (8, 60_000_000));
}

pub async fn create_is_idempotent_by_id(f: Fixture) {
    let first = key();
    // As when the reply to the first attempt was lost, and as when that attempt is still in flight.
    let attempts = (0..8).map(|_| f.store.create_key(first.clone()));
    assert!(join_all(attempts).await.iter().all(Result::is_ok));
    assert_eq!(ids(&f.store, everything()).await, [first.id]);
}

pub async fn digest_collision(f: Fixture) {
    let first = key();
    let second = key_with(|key| key.digest = first.digest);
    f.store.create_key(first.clone()).await.unwrap();
    let refused = f.store.create_key(second.clone()).await;
    assert!(matches!(refused, Err(StoreError::DigestCollision)), "{refused:?}");
    assert_eq!(f.store.find_by_id(second.id).await.unwrap(), None);
    assert_eq!(f.store.find_by_digests(vec![first.digest]).await.unwrap(), [facts(&first)]);
}

pub async fn an_id_is_never_used_for_another_key(f: Fixture) {
    let first = key();
    let second = key_with(|key| key.id = first.id);
    f.store.create_key(first.clone()).await.unwrap();
    assert!(matches!(f.store.create_key(second.clone()).await, Err(StoreError::Row(_))));
    assert_eq!(f.store.find_by_id(first.id).await.unwrap(), Some(first));
    assert_eq!(f.store.find_by_digests(vec![second.digest]).await.unwrap(), []);
}

pub async fn find_by_digest(f: Fixture) {
    let keys = [key(), key(), key()];
    for key in &keys {
        f.store.create_key(key.clone()).await.unwrap();
    }
    let unknown = Digest([7; 32]);
    let found = |mut found: Vec<KeyFacts>| {
        found.sort_by_key(|key| key.id);
        found
    };
    assert_eq!(f.store.find_by_digests(vec![]).await.unwrap(), []);
    assert_eq!(f.store.find_by_digests(vec![unknown]).await.unwrap(), []);
    assert_eq!(f.store.find_by_digests(vec![keys[1].digest]).await.unwrap(), [facts(&keys[1])]);
    let asked = vec![keys[2].digest, unknown, keys[0].digest, keys[2].digest];
    assert_eq!(found(f.store.find_by_digests(asked).await.unwrap()), [facts(&keys[0]), facts(&keys[2])]);
}

pub async fn one_installation_wins(f: Fixture) {
    let proposals = (0..16).map(|n| InstallationRow {
        fingerprint: format!("fingerprint {n}"),
        key: (n % 2 == 0).then(|| format!("key {n}")),
        earlier: Vec::new(),
    });
    let proposals: Vec<_> = proposals.collect();
    let answers = join_all(proposals.iter().map(|row| f.store.installation(row.clone()))).await;
    let winner = answers[0].as_ref().unwrap();
    assert!(proposals.contains(winner));
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == winner), "{answers:?}");
    let late = InstallationRow { fingerprint: "late".to_owned(), key: None, earlier: Vec::new() };
    assert_eq!(f.store.installation(late).await.unwrap(), *winner);
}

pub async fn one_installation_move_wins(f: Fixture) {
    let row = |fingerprint: &str, earlier: &[&str]| InstallationRow {
        fingerprint: fingerprint.to_owned(),
        key: None,
        earlier: earlier.iter().map(|name| (*name).to_owned()).collect(),
    };
    let kept = InstallationRow { key: Some("kept".to_owned()), ..row("first", &[]) };
    assert_eq!(f.store.installation(kept.clone()).await.unwrap(), kept);
    let nexts: Vec<_> = (0..16).map(|n| row(&format!("next {n}"), &["first"])).collect();
    let answers = join_all(nexts.iter().map(|next| f.store.move_installation(kept.clone(), next.clone()))).await;
    let winner = answers[0].as_ref().unwrap();
    assert!(nexts.contains(winner), "{winner:?}");
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == winner), "{answers:?}");
    // A move from an outdated row changes nothing.
    assert_eq!(f.store.move_installation(kept.clone(), row("late", &["first"])).await.unwrap(), *winner);
    let last = row("last", &["first", "next"]);
    assert_eq!(f.store.move_installation(winner.clone(), last.clone()).await.unwrap(), last);
    assert_eq!(f.store.installation(kept).await.unwrap(), last);
}

pub async fn one_first_root_key(f: Fixture) {
    let proposals: Vec<_> = (0..16).map(|_| key()).collect();
    let store = Arc::clone(&f.store);
    let answers = join_all(proposals.iter().map(|key| store.first_root_key(key.clone()))).await;
    let written: Vec<_> = answers
        .into_iter()
        .zip(&proposals)
        .filter(|(answer, _)| *answer.as_ref().unwrap())
        .map(|(_, key)| key.id)
        .collect();
    assert_eq!(written.len(), 1);
    assert_eq!(ids(&f.store, everything()).await, written);
    assert!(!f.store.first_root_key(key()).await.unwrap());
}

pub async fn no_first_root_key_beside_a_key(f: Fixture) {
    let first = key();
    f.store.create_key(first.clone()).await.unwrap();
    assert!(!f.store.first_root_key(key()).await.unwrap());
    assert_eq!(ids(&f.store, everything()).await, [first.id]);
}

pub async fn first_root_key_is_idempotent_by_id(f: Fixture) {
    let first = key();
    assert!(f.store.first_root_key(first.clone()).await.unwrap());
    assert!(f.store.first_root_key(first.clone()).await.unwrap(), "the reply to the first attempt may have been lost");
    assert_eq!(f.store.find_by_id(first.id).await.unwrap(), Some(first));
}

/// Keys that are revoked, expired, of another keyspace or of another organization take no room.
pub async fn an_organization_has_no_more_keys_than_its_bound(f: Fixture) {
    let max = 7;
    let of = |organization: &str, keyspace: &str| {
        key_with(|key| {
            organization.clone_into(&mut key.binding.organization);
            keyspace.clone_into(&mut key.keyspace);
        })
    };
    // Without an expiry, and with one: both are counted.
    let lasting = || KeyRecord { expires_at: None, ..of("acme", "norrix") };
    let creations = (0..30).flat_map(|_| [of("acme", "norrix"), lasting(), of("other", "norrix"), of("acme", "noro")]);
    let creations: Vec<KeyRecord> = creations.collect();
    let written = join_all(creations.iter().map(|key| f.store.create_key_within(key.clone(), max))).await;
    let written: Vec<&KeyRecord> =
        creations.iter().zip(&written).filter(|(_, written)| *written.as_ref().unwrap()).map(|(key, _)| key).collect();
    let count = |organization: &str, keyspace: &str| {
        written.iter().filter(|key| key.binding.organization == organization && key.keyspace == keyspace).count()
    };
    assert_eq!((count("acme", "norrix"), count("other", "norrix"), count("acme", "noro")), (7, 7, 7));
    assert_eq!(f.store.list_keys(everything()).await.unwrap().rows.len(), 21);

    assert!(!f.store.create_key_within(lasting(), max).await.unwrap());
    f.store.revoke_key(written[0].id, revocation("")).await.unwrap();
    let expired = KeyRecord { expires_at: Some(now() - 1), ..lasting() };
    assert!(f.store.create_key_within(expired, max).await.unwrap());
    assert!(f.store.create_key_within(lasting(), max).await.unwrap(), "one was revoked, and one has expired");
    assert!(!f.store.create_key_within(lasting(), max).await.unwrap());
}

pub async fn a_bounded_creation_is_idempotent_by_id(f: Fixture) {
    let made = key();
    for _ in 0..3 {
        assert!(f.store.create_key_within(made.clone(), 1).await.unwrap());
    }
    assert_eq!(f.store.find_by_id(made.id).await.unwrap(), Some(made.clone()));
    let same_id = KeyRecord { id: made.id, ..key() };
    assert!(f.store.create_key_within(same_id, 9).await.is_err());
    let same_digest = KeyRecord { digest: made.digest, ..key() };
    assert!(matches!(f.store.create_key_within(same_digest, 9).await, Err(StoreError::DigestCollision)));
    // The transaction that failed has left a connection that others can use.
    assert!(f.store.create_key_within(key(), 9).await.unwrap());
}
