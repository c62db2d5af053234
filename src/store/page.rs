//! Pages of rows, newest first.

use uuid::Uuid;

/// Maximum number of rows that a page reads if no index covers its filters. Callers may combine any filters, and one
/// that matches nothing would otherwise read every row.
pub const MAX_SCANNED_ROWS: u32 = 10_000;

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPage<T> {
    /// The rows, newest first. If there are fewer than requested, and `ended_at` is none, there are no others.
    pub rows: Vec<T>,
    /// Set where the page ended early, after [`MAX_SCANNED_ROWS`]: the last id that was read. The next page continues
    /// below it. The page may be empty.
    pub ended_at: Option<Uuid>,
}
