//! Rows that are read one by one, so that one that cannot be read does not fail the others.

use sqlx::{FromRow, Row as _, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

use crate::store::{
    engine::classify::describe,
    error::{Result, StoreError},
};

/// A row that may not decode into its type. Its id is decoded separately, so that the row can be reported and skipped.
pub struct RowResult<T> {
    id: Option<Uuid>,
    row: sqlx::Result<T>,
}

macro_rules! from_any_row {
    ($row:ty) => {
        impl<T: for<'r> FromRow<'r, $row>> FromRow<'_, $row> for RowResult<T> {
            fn from_row(row: &$row) -> sqlx::Result<Self> {
                let id = row.try_get("id").or_else(|_| row.try_get("event_id"));
                Ok(Self { id: id.ok(), row: T::from_row(row) })
            }
        }
    };
}

from_any_row!(PgRow);
from_any_row!(SqliteRow);

impl<T> RowResult<T> {
    /// The row's id.
    pub fn id(&self) -> Result<Uuid> {
        self.id.ok_or_else(|| StoreError::Row("the id of a row cannot be read".to_owned()))
    }

    /// The row, or why it cannot be read.
    pub fn read(self) -> Result<T> {
        self.row.map_err(|error| StoreError::Row(describe(&error)))
    }
}

/// What could be read, and which rows could not.
pub struct Readable<T> {
    pub rows: Vec<T>,
    pub unreadable: Vec<Unreadable>,
}

/// A row that could not be read.
pub struct Unreadable {
    pub id: Uuid,
    /// Names the column, and never its content.
    pub why: StoreError,
}

impl<T> Default for Readable<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), unreadable: Vec::new() }
    }
}

/// What could be read of a page, and where it ended.
pub struct ScannedRows<T> {
    pub read: Readable<T>,
    /// [`RowPage::ended_at`](crate::store::page::RowPage::ended_at)
    pub ended_at: Option<Uuid>,
}

/// Minimum number of rows of a statement that fills a page: with one row each, a page after many unreadable rows would
/// take as many statements.
const MIN_REFILL: u32 = 32;

/// Reads a page of rows, and skips those that cannot be read. Callers treat a page that is shorter than its limit as
/// the last one, so statements follow until the page is full or no row is left.
pub struct PageReader<T> {
    page: Readable<T>,
    limit: u32,
    /// What the next statement reads; `None` if the page is complete.
    next: Option<NextRows>,
}

/// What the next statement of a page reads.
#[derive(Clone, Copy)]
pub struct NextRows {
    /// Only rows after this id, in the order of the page.
    pub after: Option<Uuid>,
    /// Maximum number of rows.
    pub limit: u32,
}

impl<T> PageReader<T> {
    /// Starts a page with at most `limit` rows.
    pub fn new(limit: u32) -> Self {
        Self { page: Readable::default(), limit, next: Some(NextRows { after: None, limit }) }
    }

    /// What the next statement reads; `None` if the page is complete.
    pub fn next(&self) -> Option<NextRows> {
        self.next
    }

    /// Adds the rows of a statement.
    pub fn add<R>(&mut self, rows: Vec<RowResult<R>>) -> Result<()>
    where
        T: TryFrom<R, Error = StoreError>,
    {
        let requested = self.next.take().map_or(0, |next| next.limit);
        let is_last = rows.len() < requested as usize;
        let after = rows.last().map(RowResult::id).transpose()?;
        for row in rows {
            let id = row.id()?;
            match row.read().and_then(T::try_from) {
                Ok(read) => self.page.rows.push(read),
                Err(why) => self.page.unreadable.push(Unreadable { id, why }),
            }
        }
        self.page.rows.truncate(self.limit as usize);
        let missing = self.limit.saturating_sub(u32::try_from(self.page.rows.len()).unwrap_or(u32::MAX));
        if !is_last && missing > 0 {
            self.next = Some(NextRows { after, limit: missing.max(MIN_REFILL) });
        }
        Ok(())
    }

    /// The page.
    pub fn finish(self) -> Readable<T> {
        self.page
    }

    /// The page of statements that read no row beyond `end`.
    pub fn finish_at(self, end: Option<Uuid>) -> ScannedRows<T> {
        let is_full = self.page.rows.len() >= self.limit as usize;
        ScannedRows { read: self.page, ended_at: end.filter(|_| !is_full) }
    }
}
