//! Reading keys by digest and id.

use std::collections::HashMap;

use uuid::Uuid;

use super::dialect::KeyDialect;
use crate::{
    domain::key::{Digest, KeyFacts, KeyId, KeyRecord},
    store::{
        engine::{
            classify::AttemptResult,
            connection::{Executor, Value},
            rows::keys::{KeyRow, read_facts},
            sql::keys as sql,
        },
        error::Result,
    },
};

/// Reads keys by their ids. A key that cannot be read does not fail the others.
pub(super) async fn keys_of_ids(
    db: &mut impl KeyDialect,
    ids: &[Uuid],
) -> AttemptResult<HashMap<Uuid, Result<KeyRecord>>> {
    let rows = if ids.is_empty() { Vec::new() } else { db.keys_of_ids(ids).await? };
    Ok(rows.into_iter().map(|row| (row.id, row.try_into())).collect())
}

pub(super) async fn find_by_digests(db: &mut impl KeyDialect, digests: &[Digest]) -> AttemptResult<Vec<KeyFacts>> {
    let rows = match digests {
        [digest] => db.fetch(sql::FIND_BY_DIGEST, &[Value::Bytes(&digest.0)]).await?,
        _ => db.facts_of_digests(digests).await?,
    };
    Ok(rows.into_iter().map(read_facts).collect::<Result<_>>()?)
}

pub(super) async fn find_by_id(db: &mut impl Executor, id: KeyId) -> AttemptResult<Option<KeyRecord>> {
    Ok(records(db.fetch(sql::FIND_BY_ID, &[Value::Id(id.0)]).await?)?.pop())
}

fn records(rows: Vec<KeyRow>) -> AttemptResult<Vec<KeyRecord>> {
    Ok(rows.into_iter().map(KeyRecord::try_from).collect::<Result<_>>()?)
}
