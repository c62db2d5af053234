//! Settings that a database or a role brings along (`ALTER DATABASE … SET`) change nothing.

use std::time::Duration;

use keyward::store::{
    EventStore as _, KeyStore as _, OpenError, Store as _,
    change_feed::ChangeFeed as _,
    events::EventQuery,
    postgres::{Postgres, PostgresOptions},
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    change::{revocation, webhook},
    fixture::{everything, key, key_with, now, postgres_options, raw_postgres},
    support,
};

/// The value of each timeout in milliseconds, and how long statements and pauses take that must not end because of it.
const SHORT: i64 = 150;
const LONG: Duration = Duration::from_millis(400);

/// A setting as `pg_settings` describes it: name, type, values of an enumeration, minimum, maximum.
type Setting = (String, String, Option<Vec<String>>, Option<String>, Option<String>);

/// Settings that an operator makes on purpose, and which Keyward follows.
const FOLLOWED: [&str; 2] = ["search_path", "default_transaction_read_only"];

/// Values of text settings that differ from their default as much as they can.
fn text_values(name: &str) -> &'static [&'static str] {
    match name {
        "application_name" => &["another"],
        "client_encoding" => &["LATIN1", "SQL_ASCII"],
        "DateStyle" => &["German, DMY"],
        "TimeZone" => &["Asia/Kathmandu"],
        "timezone_abbreviations" => &["India"],
        "default_text_search_config" => &["pg_catalog.german"],
        "lc_monetary" | "lc_numeric" | "lc_time" => &["POSIX"],
        "local_preload_libraries" => &["no_such_library"],
        "plpgsql.extra_errors" | "plpgsql.extra_warnings" => &["all"],
        "restrict_nonsystem_relation_kind" => &["view, foreign-table"],
        // Where and how tables are stored is the operator's choice, and only one way is at hand here.
        "default_table_access_method"
        | "default_tablespace"
        | "temp_tablespaces"
        | "createrole_self_grant"
        | "search_path" => &[],
        _ => panic!("a new text setting: decide which value of {name} is tried"),
    }
}

fn values((name, kind, choices, min, max): &Setting) -> Vec<String> {
    match kind.as_str() {
        _ if name.ends_with("_timeout") => vec![SHORT.to_string()],
        "bool" => vec!["on".to_owned(), "off".to_owned()],
        "enum" => choices.clone().unwrap_or_default(),
        "string" => text_values(name).iter().map(|value| (*value).to_owned()).collect(),
        _ => [min, max].into_iter().flatten().cloned().collect(),
    }
}

/// Migrates an empty database and calls what reads, writes, compares and is timed.
async fn work(options: PostgresOptions, pause: Duration, raw: &mut PgConnection) {
    raw.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    let store = Postgres::open(options).await.unwrap();
    store.migrate().await.unwrap();
    let slow = format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep({}); RETURN NEW; END $$; \
         CREATE TRIGGER slow BEFORE INSERT ON keyward_keys FOR EACH ROW EXECUTE FUNCTION slow()",
        pause.as_secs_f64()
    );
    raw.execute(AssertSqlSafe(slow)).await.unwrap();
    let mut feed = store.change_feed(Duration::from_secs(10));
    feed.connect().await.unwrap();
    sleep(pause).await;
    let id = uuid::Uuid::from_u128(1);
    let seen = feed.join(id, 1_000).await.unwrap();
    let made = key_with(|key| {
        "it's 50% \\ \u{1F511}".clone_into(&mut key.name);
        (key.scopes, key.rate_limit) = (vec!["a\\b".to_owned(), "NULL".to_owned()], None);
    });
    store.create_key(made.clone()).await.unwrap();
    assert_eq!(store.list_keys(everything()).await.unwrap().rows, std::slice::from_ref(&made));
    assert_eq!(store.find_by_digests(vec![made.digest, key().digest]).await.unwrap(), [(&made).into()]);
    store.set_webhook(made.id, webhook("https://a.example/", now())).await.unwrap();
    store.revoke_key(made.id, revocation("it's \\ over")).await.unwrap();
    let revoked = store.find_by_id(made.id).await.unwrap().unwrap();
    assert_eq!((revoked.revision, revoked.revoke_reason.as_str()), (2, "it's \\ over"));
    assert!(feed.renew(id, 0, 1).await.unwrap());
    let batch = feed.read(seen).await.unwrap();
    assert_eq!((batch.head, batch.changes), (2, vec![(2, made.digest)]));
    feed.report(id, 2).await.unwrap();
    store.ping().await.unwrap();
    assert_eq!(store.list_events(EventQuery { limit: 10, ..EventQuery::default() }).await.unwrap().rows.len(), 3);
    store.close().await;
}

/// The settings are tried in parts, each in a test of its own.
const PARTS: usize = 4;

async fn try_settings(pooler: bool, part: usize) {
    let mut options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    if pooler {
        options = PostgresOptions { pooler, migrate_url: Some(options.url.clone()), ..options };
    }
    // So that its settings are shown, too.
    raw.execute("DO $$ BEGIN END $$").await.unwrap();
    let settings =
        "SELECT name, vartype, enumvals, min_val, max_val FROM pg_settings WHERE context = 'user' ORDER BY 1";
    let settings: Vec<Setting> = sqlx::query_as(settings).fetch_all(&mut raw).await.unwrap();
    let database: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut raw).await.unwrap();
    let mut tried = 0;
    for setting in settings.iter().skip(part).step_by(PARTS) {
        let name = setting.0.as_str();
        // These only make the server's log long.
        let only_logs = name.starts_with("debug_print") || name.starts_with("trace_");
        // With these the pooler's own connections end or never begin, and the store cannot set them for those.
        let poolers_own = pooler && ["idle_session_timeout", "local_preload_libraries"].contains(&name);
        if only_logs || poolers_own || FOLLOWED.contains(&name) {
            continue;
        }
        for value in values(setting) {
            let set = format!("ALTER DATABASE {database} SET {name} = '{value}'");
            // A few cannot be set for a database, or not to every value.
            if raw.execute(AssertSqlSafe(set)).await.is_err() {
                continue;
            }
            tried += 1;
            let pause = if name.ends_with("_timeout") { LONG } else { Duration::ZERO };
            println!("{name} = {value}");
            work(options.clone(), pause, &mut raw).await;
            raw.execute(AssertSqlSafe(format!("ALTER DATABASE {database} RESET ALL"))).await.unwrap();
        }
    }
    assert!(tried > 150 / PARTS, "{tried} values were tried");
}

macro_rules! try_each_part {
    ($($test:ident: $part:literal),+) => {
        mod nothing_that_a_user_may_set_for_a_database_changes_what_the_store_does {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::try_settings(false, $part).await;
            })+
        }

        mod nothing_that_a_user_may_set_for_a_database_changes_what_the_store_does_behind_a_pooler {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::try_settings(true, $part).await;
            })+
        }
    };
}

try_each_part!(first_part: 0, second_part: 1, third_part: 2, fourth_part: 3);

/// Without triggers a revocation would get no revision.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_triggers_are_off_is_refused() {
    let options = postgres_options().await;
    let mut raw = raw_postgres(&options.url).await;
    raw.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$",
    )
    .await
    .unwrap();
    let refused = Postgres::open(options).await.err().unwrap();
    assert!(matches!(refused, OpenError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("session_replication_role"), "{refused}");
}

/// Names are Unicode, and these encodings cannot hold every one, or hold anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_utf8_is_refused() {
    let server = support::server();
    let mut raw = raw_postgres(&format!("{server}/postgres")).await;
    for encoding in ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"] {
        let name = format!("keyward_{}_{}", encoding.to_lowercase(), std::process::id());
        let create =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        raw.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}"))).await.unwrap();
        raw.execute(AssertSqlSafe(create)).await.unwrap();
        for pooler in [false, true] {
            let options =
                PostgresOptions { pooler, ..PostgresOptions::new(format!("{server}/{name}"), Handle::current()) };
            let refused = Postgres::open(options).await.err().unwrap();
            assert!(matches!(refused, OpenError::Refused(_)), "{refused}");
            assert!(refused.to_string().contains(encoding), "{refused}");
        }
    }
}
