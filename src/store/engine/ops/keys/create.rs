//! Creating keys, also within the number that an organization may have.

use std::collections::{BTreeSet, HashMap, HashSet, hash_map::Entry};

use uuid::Uuid;

use super::{dialect::KeyDialect, find::keys_of_ids};
use crate::{
    domain::key::{KeyId, KeyRecord},
    store::{
        engine::{
            classify::{AttemptError, AttemptResult},
            connection::Value,
            insert::NewKey,
            sql::keys as sql,
        },
        error::{Result, StoreError},
    },
};

/// Maximum number of creations in one statement.
pub(super) const MAX_CREATIONS: usize = 256;
/// Maximum number of creations in one transaction that counts the keys of their organizations first.
pub(super) const MAX_BOUNDED_CREATIONS: usize = 64;

/// Writes keys and returns the result of each.
pub(super) async fn create_keys(db: &mut impl KeyDialect, keys: &[KeyRecord]) -> AttemptResult<Vec<Result<()>>> {
    let new = keys.iter().map(NewKey::of).collect::<Result<Vec<_>>>()?;
    let written: HashSet<Uuid> = db.create_keys(&new).await?.into_iter().collect();
    let mut occurrences = HashMap::<KeyId, usize>::new();
    for key in keys {
        *occurrences.entry(key.id).or_default() += 1;
    }
    // If two keys have one id, `written` does not show which one was written.
    let in_doubt = |key: &KeyRecord| !written.contains(&key.id.0) || occurrences[&key.id] > 1;
    let ids: Vec<Uuid> = keys.iter().filter(|key| in_doubt(key)).map(|key| key.id.0).collect();
    let existing = keys_of_ids(db, &ids).await?;
    Ok(keys
        .iter()
        .map(|key| if in_doubt(key) { creation_result(key, existing.get(&key.id.0)) } else { Ok(()) })
        .collect())
}

/// Creates those keys that do not exceed the limit of their organization. Returns for each whether it was written.
pub(super) async fn create_bounded_keys(
    db: &mut impl KeyDialect,
    creations: &[(KeyRecord, u32)],
) -> AttemptResult<Vec<Result<bool>>> {
    let names: BTreeSet<String> = creations.iter().map(|(key, _)| key.binding.organization.clone()).collect();
    let names: Vec<String> = names.into_iter().collect();
    db.begin_counting(&names).await.map_err(AttemptError::Unreachable)?;
    let created = count_and_create(db, creations).await;
    db.end_counting(created.is_ok()).await.map_err(AttemptError::Unreachable)?;
    created
}

async fn count_and_create(
    db: &mut impl KeyDialect,
    creations: &[(KeyRecord, u32)],
) -> AttemptResult<Vec<Result<bool>>> {
    let ids: Vec<Uuid> = creations.iter().map(|(key, _)| key.id.0).collect();
    // These were created by an earlier attempt whose reply was lost, and are counted already.
    let existing_keys = keys_of_ids(db, &ids).await?;
    let mut room = HashMap::<(&str, &str), i64>::new();
    let mut admitted = HashSet::new();
    for (key, max) in creations.iter().filter(|(key, _)| !existing_keys.contains_key(&key.id.0)) {
        let scope = (key.binding.organization.as_str(), key.keyspace.as_str());
        let left = match room.entry(scope) {
            Entry::Occupied(left) => left.into_mut(),
            Entry::Vacant(entry) => {
                let max = i64::from(*max);
                let values = [Value::Text(scope.0), Value::Text(scope.1), Value::Int(key.created_at), Value::Int(max)];
                let counts: Vec<(i64,)> = db.fetch(sql::COUNT_LIVE, &values).await?;
                entry.insert(max - counts.first().map_or(max, |(count,)| *count))
            }
        };
        if *left > 0 && admitted.insert(key.id) {
            *left -= 1;
        }
    }
    let chosen: Vec<&KeyRecord> =
        creations.iter().map(|(key, _)| key).filter(|key| admitted.contains(&key.id)).collect();
    let new = chosen.iter().map(|key| NewKey::of(key)).collect::<Result<Vec<_>>>()?;
    let written: HashSet<Uuid> =
        if new.is_empty() { HashSet::new() } else { db.create_counted_keys(&new).await?.into_iter().collect() };
    Ok(creations
        .iter()
        .map(|(key, _)| match existing_keys.get(&key.id.0) {
            Some(existing) => creation_result(key, Some(existing)).map(|()| true),
            None if written.contains(&key.id.0) => Ok(true),
            None if admitted.contains(&key.id) => Err(StoreError::DigestCollision),
            None => Ok(false),
        })
        .collect())
}

/// Returns the result of a creation, given the key that has its id now.
fn creation_result(key: &KeyRecord, existing: Option<&Result<KeyRecord>>) -> Result<()> {
    match existing {
        // Also a retry: the reply to the attempt that wrote it was lost.
        Some(Ok(existing)) if existing.digest == key.digest => Ok(()),
        Some(Ok(_)) => Err(StoreError::Row(format!("the id {} is another key's", key.id))),
        Some(Err(error)) => Err(error.clone()),
        None => Err(StoreError::DigestCollision),
    }
}
