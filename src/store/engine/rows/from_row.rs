//! Reads a row of either database into a struct.

/// Implements `FromRow` for the rows of both databases. Each field is read from the column of its name or, after `=`, of
/// another name; after `;`, one that is a row itself is read from the same columns. sqlx's derive is not used: it would
/// build both database drivers a second time for the compiler.
macro_rules! from_row {
    ($name:ident { $($fields:tt)+ }) => {
        from_row!(@for sqlx::postgres::PgRow, $name, $($fields)+);
        from_row!(@for sqlx::sqlite::SqliteRow, $name, $($fields)+);
    };
    (@for $row:ty, $name:ident, $($field:ident $(= $column:literal)?),+ $(; $nested:ident)?) => {
        impl sqlx::FromRow<'_, $row> for $name {
            fn from_row(row: &$row) -> sqlx::Result<Self> {
                use sqlx::Row as _;
                Ok(Self {
                    $($field: row.try_get(from_row!(@column $field $($column)?))?,)+
                    $($nested: sqlx::FromRow::from_row(row)?,)?
                })
            }
        }
    };
    (@column $field:ident) => { stringify!($field) };
    (@column $field:ident $column:literal) => { $column };
}
pub(super) use from_row;
