//! Optional filters, and the bound of the rows that they are applied to.

use crate::store::engine::connection::Value;

/// A filter that is absent if its parameter is NULL. A CASE instead of `$1 IS NULL OR …`: a generic plan of Postgres
/// assumes that each such OR leaves one row in a hundred, and then reads and sorts all keys of an organization for each
/// page.
macro_rules! optional_filter {
    ($column:literal, $parameter:literal) => {
        concat!(
            " AND CASE WHEN CAST(",
            $parameter,
            " AS TEXT) IS NULL THEN TRUE ELSE ",
            $column,
            " = ",
            $parameter,
            " END"
        )
    };
}
pub(super) use optional_filter;

/// The id of a list's row number `OFFSET` + 1, by the index that leads the list. A page reads no row beyond it.
/// Parameters: before, the leading value, OFFSET; without a leading column, before and OFFSET.
macro_rules! scan_end {
    ($table:literal) => {
        concat!("SELECT id FROM ", $table, " WHERE id < $1 ORDER BY id DESC LIMIT 1 OFFSET $2")
    };
    ($table:literal, $column:literal) => {
        scan_end!($table, $column, "")
    };
    ($table:literal, $column:literal, $partial:literal) => {
        concat!(
            "SELECT id FROM ",
            $table,
            " WHERE (",
            $column,
            ", id) < ($2, $1) AND ",
            $column,
            " >= $2",
            $partial,
            " ORDER BY ",
            $column,
            " DESC, id DESC LIMIT 1 OFFSET $3"
        )
    };
}
pub(super) use scan_end;

/// How a list is read.
pub struct Listing<'a> {
    /// The statement of a page.
    pub rows: &'static str,
    /// The statement of the page's end; see [`scan_end`].
    pub end: &'static str,
    /// The value that leads both, if one does.
    pub lead: Option<Value<'a>>,
    /// Whether the leading index alone serves every filter, so that each row that is read belongs to the page.
    pub is_exact: bool,
}
