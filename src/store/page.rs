//! Pages of rows, newest first.

use uuid::Uuid;

/// How many rows a page looks at, if its filters are not those of one index. A caller may name any filter, and one that fits
/// nothing would otherwise read every row.
pub const MAX_SCANNED_ROWS: u32 = 10_000;

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPage<T> {
    /// The rows, newest first. If there are fewer than asked for, and `ended_at` is none, there are no others.
    pub rows: Vec<T>,
    /// Set where the page ended early, after [`MAX_SCANNED_ROWS`]: the last id that was looked at. The next page goes on
    /// below it. The page may be empty.
    pub ended_at: Option<Uuid>,
}
