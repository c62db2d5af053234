//! A database of one's own on the Postgres that `tests/run` started.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, postgres::PgConnectOptions};

/// The server's URL, without a database.
pub fn server() -> String {
    std::env::var("KEYWARD_TEST_POSTGRES")
        .expect("KEYWARD_TEST_POSTGRES is not set: run the tests with tests/run, which starts a Postgres for them")
}

/// Makes an empty database and answers its URL. It goes when the server's folder goes.
pub async fn fresh_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("keyward_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let options: PgConnectOptions = format!("{}/postgres", server()).parse().expect("a URL");
    let mut conn = options.connect().await.expect("the test server answers");
    // A process before this one may have had its number.
    for statement in
        [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name} TEMPLATE template0")]
    {
        conn.execute(AssertSqlSafe(statement)).await.expect("the database is made");
    }
    conn.close().await.expect("the connection closes");
    format!("{}/{name}", server())
}
