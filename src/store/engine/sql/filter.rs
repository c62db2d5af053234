//! Optional filters.

/// A filter that is absent if its parameter is NULL. A CASE instead of `$1 IS NULL OR …`: a generic plan of Postgres assumes
/// that each such OR leaves one row in a hundred, and then reads and sorts all keys of an organization for each page.
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
