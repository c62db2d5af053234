//! A database of one's own on the Postgres that `tests/run` started.

#![allow(dead_code, reason = "each test target uses a part of this")]

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

/// Makes a role with the rights that the operator's guide grants to the service, on a migrated database. Returns the
/// database's URL with that role.
pub async fn role_of_the_service(url: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let role = format!("keyward_app_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let guide = include_str!("../../docs/operating.md");
    let grants = guide.split("```sql\n").map(|block| block.split("```").next().unwrap_or_default());
    let grants = grants.filter(|block| block.contains("GRANT")).collect::<String>().replace("keyward_app", &role);
    assert!(grants.lines().count() > 3, "the guide has the grants: {grants}");
    let options: PgConnectOptions = url.parse().expect("a URL");
    let mut conn = options.connect().await.expect("the test server answers");
    // A process before this one may have had its number. Other roles of the cluster hold nothing of it.
    let remade = format!(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN DROP OWNED BY {role}; END IF; END $$; \
         DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; {grants}"
    );
    conn.execute(AssertSqlSafe(remade)).await.expect("the role is made");
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (_, address) = rest.rsplit_once('@').expect("a user");
    format!("{scheme}://{role}@{address}")
}
