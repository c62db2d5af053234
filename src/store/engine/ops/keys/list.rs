//! Reading many keys: pages, searches and counts.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    domain::{
        clock::{Micros, SECOND},
        event::EventId,
        key::{KeyRecord, KeyStatus},
    },
    store::{
        engine::{
            classify::AttemptResult,
            connection::{Executor, Value},
            rows::{
                keys::KeyRow,
                readable::{NextRows, PageReader, Readable, RowResult, ScannedRows, Unreadable},
            },
            sql::{events::REVOCATIONS, filter::Listing, keys as sql},
        },
        keys::{CountQuery, KeyCounts, KeySearch, ListQuery, SearchQuery},
        page::MAX_SCANNED_ROWS,
    },
};

pub(super) async fn list_keys(db: &mut impl Executor, query: &ListQuery) -> AttemptResult<ScannedRows<KeyRecord>> {
    let listing = sql::list_for(query);
    let before = query.before.map_or(Uuid::max(), |id| id.0);
    let end = scan_end(db, &listing, before).await?;
    let mut page = PageReader::new(query.limit);
    while let Some(NextRows { after, limit }) = page.next() {
        let values = list_values(query, after.unwrap_or(before), limit, end);
        page.add::<KeyRow>(db.fetch(listing.rows, &values).await?)?;
    }
    Ok(page.finish_at(end))
}

/// The last id that a page below `before` reads; none if it may read all remaining rows. It is determined before the
/// rows are read. Rows that are added meanwhile are newer, so no row is skipped.
pub(crate) async fn scan_end(
    db: &mut impl Executor,
    listing: &Listing<'_>,
    before: Uuid,
) -> AttemptResult<Option<Uuid>> {
    if listing.is_exact {
        return Ok(None);
    }
    let values = [Some(Value::Id(before)), listing.lead, Some(Value::Int(i64::from(MAX_SCANNED_ROWS) - 1))];
    let values: Vec<Value<'_>> = values.into_iter().flatten().collect();
    let mut rows: Vec<(Uuid,)> = db.fetch(listing.end, &values).await?;
    Ok(rows.pop().map(|(id,)| id))
}

fn list_values(query: &ListQuery, before: Uuid, limit: u32, end: Option<Uuid>) -> Vec<Value<'_>> {
    let ListQuery { keyspace, organization, instance, environment, created_by, status, now, .. } = query;
    let filters = filter_values([keyspace, organization, instance, environment, created_by], *status, *now);
    let bounds = [Value::Int(i64::from(limit)), Value::Id(end.unwrap_or(Uuid::nil()))];
    [&[Value::Id(before)], &filters[..], &bounds].concat()
}

/// The filters that lists and searches share, in the order of their statements' parameters.
fn filter_values(texts: [&Option<String>; 5], status: Option<KeyStatus>, now: Micros) -> [Value<'_>; 7] {
    let [keyspace, organization, instance, environment, created_by] =
        texts.map(|text| Value::MaybeText(text.as_deref()));
    let status = Value::MaybeInt(status.map(sql::status_number));
    [keyspace, organization, instance, environment, created_by, status, Value::Int(now)]
}

/// The keys that a search finds, and whether every row of its range was read.
pub(super) async fn search_keys(
    db: &mut impl Executor,
    query: &SearchQuery,
) -> AttemptResult<(Readable<KeyRecord>, bool)> {
    let SearchQuery { keyspace, organization, instance, environment, created_by, status, now, .. } = query;
    let shared = filter_values([keyspace, organization, instance, environment, created_by], *status, *now);
    let filters = [&shared[..], &[Value::Int(i64::from(query.limit))]].concat();
    let names = match &query.search {
        KeySearch::Name(start) => name_range(start),
        KeySearch::Prefix(_) | KeySearch::ExpiresBefore(_) => (String::new(), String::new()),
    };
    let search = SearchStatements::of(query, &names);
    let bounded = search.bounded.filter(|_| query.has_filters());
    let Some(Bounded { statement, count, count_range }) = bounded else {
        let rows = db.fetch(search.plain, &[&filters[..], &search.range].concat()).await?;
        return Ok((readable(rows)?, true));
    };
    let bound = Value::Int(i64::from(MAX_SCANNED_ROWS));
    let rows: Vec<RowResult<KeyRow>> = db.fetch(statement, &[&filters[..], &search.range, &[bound]].concat()).await?;
    let mut is_whole = true;
    if rows.len() < query.limit as usize {
        let values = [&count_range[..], &[Value::Int(i64::from(MAX_SCANNED_ROWS) + 1)]].concat();
        let found: Vec<(i64,)> = db.fetch(count, &values).await?;
        is_whole = found.iter().all(|(found,)| *found <= i64::from(MAX_SCANNED_ROWS));
    }
    Ok((readable(rows)?, is_whole))
}

/// The range of names in lower case that begin like this, by bytes.
fn name_range(start: &str) -> (String, String) {
    let start = start.to_ascii_lowercase();
    let end = format!("{start}{}", char::MAX);
    (start, end)
}

/// How a search is read.
struct SearchStatements<'a> {
    /// The statement without filters: every row of the range is one of the result.
    plain: &'static str,
    /// The range of the index that is read.
    range: Vec<Value<'a>>,
    /// With filters; none where a range is always short.
    bounded: Option<Bounded<'a>>,
}

struct Bounded<'a> {
    statement: &'static str,
    /// Counts the rows of the range.
    count: &'static str,
    count_range: Vec<Value<'a>>,
}

impl<'a> SearchStatements<'a> {
    fn of(query: &'a SearchQuery, (start, end): &'a (String, String)) -> Self {
        match &query.search {
            KeySearch::Name(_) => {
                let range = vec![Value::Text(start), Value::Text(end)];
                let (statement, count) = (sql::SEARCH_BY_NAME_FILTERED, sql::COUNT_BY_NAME);
                let bounded = Some(Bounded { statement, count, count_range: range.clone() });
                Self { plain: sql::SEARCH_BY_NAME, range, bounded }
            }
            // A prefix has eight random characters, so its range is always short.
            KeySearch::Prefix(prefix) => {
                Self { plain: sql::SEARCH_BY_PREFIX, range: vec![Value::Text(prefix)], bounded: None }
            }
            KeySearch::ExpiresBefore(end) => {
                let (now, end) = (Value::Int(query.now), Value::Int(*end));
                let bounded = match (query.organization.as_deref().filter(|own| !own.is_empty()), &query.keyspace) {
                    // There is an index of the keys of one organization and keyspace.
                    (Some(organization), Some(keyspace)) => Bounded {
                        statement: sql::SEARCH_BY_EXPIRY_OF_ORGANIZATION,
                        count: sql::COUNT_BY_EXPIRY_OF_ORGANIZATION,
                        count_range: vec![Value::Text(organization), Value::Text(keyspace), now, end],
                    },
                    _ => Bounded {
                        statement: sql::SEARCH_BY_EXPIRY_FILTERED,
                        count: sql::COUNT_BY_EXPIRY,
                        count_range: vec![now, end],
                    },
                };
                Self { plain: sql::SEARCH_BY_EXPIRY, range: vec![end], bounded: Some(bounded) }
            }
        }
    }
}

fn readable(rows: Vec<RowResult<KeyRow>>) -> AttemptResult<Readable<KeyRecord>> {
    let mut found = Readable::default();
    for row in rows {
        let id = row.id()?;
        match row.read().and_then(KeyRecord::try_from) {
            Ok(key) => found.rows.push(key),
            Err(why) => found.unreadable.push(Unreadable { id, why }),
        }
    }
    Ok(found)
}

pub(super) async fn count_keys(db: &mut impl Executor, query: &CountQuery) -> AttemptResult<KeyCounts> {
    let filters = [Value::MaybeText(query.keyspace.as_deref()), Value::MaybeText(query.organization.as_deref())];
    let limit = Value::Int(i64::from(query.limit));
    let statement = if query.organization.is_some() { sql::COUNT_BY_ORGANIZATION } else { sql::COUNT_ALL };
    let binding = [Value::MaybeText(query.instance.as_deref()), Value::MaybeText(query.environment.as_deref())];
    let bounds = [Value::Int(query.now), Value::Int(query.since), limit, Value::Id(Uuid::max())];
    let rows: Vec<(i64, i64, i64)> = db.fetch(statement, &[&filters[..], &bounds, &binding].concat()).await?;
    let mut counts = KeyCounts::default();
    let mut created = BTreeMap::<i64, u64>::new();
    for (status, day, count) in rows {
        let count = u64::try_from(count).unwrap_or_default();
        if let Some(sum) = usize::try_from(status).ok().and_then(|status| counts.by_status.get_mut(status)) {
            *sum += count;
        }
        if day >= 0 {
            *created.entry(day).or_default() += count;
        }
    }
    let since = EventId::lowest(query.since);
    let values = [&filters[..], &[Value::Id(since.0), limit], &binding].concat();
    let rows: Vec<(Uuid,)> = db.fetch(REVOCATIONS, &values).await?;
    let mut revoked = BTreeMap::<i64, u64>::new();
    for (id,) in rows {
        *revoked.entry(EventId(id).at() / (86_400 * SECOND)).or_default() += 1;
    }
    (counts.created, counts.revoked) = (created.into_iter().collect(), revoked.into_iter().collect());
    Ok(counts)
}
