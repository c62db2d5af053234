use std::{
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
};

use sqlx::{ConnectOptions as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::runtime::Handle;

use super::*;
use crate::{
    domain::{
        caller::AuthMethod,
        clock::{SystemClock, SystemEntropy},
        event::Event,
        session::{OrgMembership, Role, SessionCaller},
    },
    store::{
        events::{EventQuery, EventStore as _},
        sqlite::{Sqlite, SqliteOptions},
    },
};

fn subject(n: usize) -> SumKey {
    SumKey { actor: n.to_string(), keyspace: String::new(), binding: Binding::default(), details: BTreeMap::new() }
}

#[test]
fn a_frequent_actor_keeps_its_own_sum_among_many_rare_ones() {
    let mut sums = Sums::default();
    for n in 0..10 * MAX_SUMS {
        sums.add(subject(n), 1);
    }
    for n in 0..10 * MAX_SUMS {
        sums.add(subject(usize::MAX), 2);
        sums.add(subject(n), 2);
    }
    let often = sums.by_subject[&subject(usize::MAX)];
    assert_eq!(often.count, 10 * MAX_SUMS as u64);
    assert_eq!(sums.by_subject.len(), MAX_SUMS);
    let all = sums.by_subject.values().copied().chain(sums.others).reduce(Sum::merge).unwrap();
    assert_eq!((all.count, all.first, all.last), (30 * MAX_SUMS as u64, 1, 2), "nothing is lost");
}

/// Each reading of the wall clock is later than the last one, so that sums are in the order in which they began.
struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn wall(&self) -> Micros {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn boottime(&self) -> Micros {
        SystemClock.boottime()
    }
}

/// A trail with a database of its own.
async fn trail(folder: &Path) -> (AuditTrail, Arc<Sqlite>) {
    let url = format!("sqlite://{}", folder.join("keyward.db").display());
    let store = Sqlite::open(SqliteOptions::new(url, Handle::current())).await.unwrap();
    store.migrate().await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(TickingClock(AtomicI64::new(SystemClock.wall())));
    let ids = Arc::new(IdGenerator::new(Arc::clone(&clock), Arc::new(SystemEntropy)));
    (AuditTrail::new(Arc::clone(&store) as Arc<dyn Store>, ids, clock), store)
}

async fn written(store: &Sqlite, query: EventQuery) -> Vec<Event> {
    store.list_events(EventQuery { limit: 1_000, ..query }).await.unwrap().rows
}

static OPERATOR: Caller = Caller::Operator { method: AuthMethod::Root };

#[tokio::test]
async fn events_wait_for_the_database_within_a_bound_and_the_oldest_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (trail, store) = trail(folder.path()).await;
    let options = SqliteConnectOptions::new().filename(folder.path().join("keyward.db"));
    let mut database: SqliteConnection = options.connect().await.unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON keyward_events BEGIN SELECT RAISE(ABORT, 'refused'); END";
    database.execute(refuse).await.unwrap();
    let record = |n: usize| trail.record(EventType::CallDenied, &OPERATOR, [("call", n.to_string())]);
    for period in 0..10 {
        (0..60).for_each(|n| record(60 * period + n));
        trail.flush().await;
    }
    assert_eq!(trail.unwritten.lock().len(), MAX_UNWRITTEN);
    database.execute("DROP TRIGGER refuse").await.unwrap();
    trail.flush().await;
    assert_eq!(*trail.unwritten.lock(), []);
    let events = written(&store, EventQuery::default()).await;
    let calls: Vec<usize> = events.iter().map(|event| event.details["call"].parse().unwrap()).collect();
    assert_eq!(calls, (600 - MAX_UNWRITTEN..600).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_largest_sums_of_a_period_are_named_and_no_detail_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (trail, store) = trail(folder.path()).await;
    for n in 0..MAX_CALLER_EVENTS {
        trail.record(EventType::CallDenied, &OPERATOR, [("call", n.to_string()), ("address", String::new())]);
    }
    for _ in 0..2 {
        trail.record(EventType::CallDenied, &OPERATOR, [("call", "often".to_owned())]);
    }
    trail.flush().await;
    let events = written(&store, EventQuery::default()).await;
    assert_eq!(events.len(), MAX_CALLER_EVENTS);
    let of = |name: &str, text: &str| {
        let found: Vec<_> =
            events.iter().filter(|event| event.details.get(name).is_some_and(|own| own == text)).collect();
        let [only] = found[..] else { panic!("{name} {text}: {found:?}") };
        only.details["count"].clone()
    };
    assert_eq!((of("call", "often").as_str(), of("others", "true").as_str()), ("2", "2"));
    assert!(events.iter().all(|event| !event.details.contains_key("address")));
}

/// One organization must not see of which other organizations a person is a member.
#[tokio::test]
async fn events_of_a_person_are_of_their_organization_if_they_have_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let (trail, store) = trail(folder.path()).await;
    let person = |actor: &str, keyspaces: &[&str], organizations: &[&str]| {
        let membership = |name: &&str| OrgMembership { organization: (*name).to_owned(), role: Role::Owner };
        Caller::Session(Arc::new(SessionCaller {
            actor: actor.to_owned(),
            keyspaces: keyspaces.iter().map(|name| (*name).to_owned()).collect(),
            organizations: organizations.iter().map(membership).collect(),
            name: None,
            expires_at: None,
        }))
    };
    for (actor, keyspaces, organizations) in [
        ("user:one", &["norrix"][..], &["acme"][..]),
        ("user:two_organizations", &["norrix"], &["acme", "globex"]),
        ("user:two_keyspaces", &["norrix", "noro"], &["acme"]),
        ("user:none", &["norrix"], &[]),
    ] {
        trail.record_sign_out(&person(actor, keyspaces, organizations));
    }
    trail.flush().await;
    let text = |text: &str| Some(text.to_owned());
    let actors = |events: Vec<Event>| events.into_iter().map(|event| event.actor).collect::<Vec<_>>();
    for query in [
        EventQuery { keyspace: text("norrix"), ..EventQuery::default() },
        EventQuery { organization: text("acme"), ..EventQuery::default() },
    ] {
        assert_eq!(actors(written(&store, query).await), ["user:one"]);
    }
    assert_eq!(written(&store, EventQuery::default()).await.len(), 4);
}

#[tokio::test]
async fn denied_calls_are_events_and_refused_checks_and_other_errors_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (trail, store) = trail(folder.path()).await;
    for call in ["verify", "verify_stream", "attach", "check", "forward_auth", "get"] {
        trail.record_denial(&OPERATOR, call, &Error::forbidden("no"));
    }
    trail.record_denial(&OPERATOR, "list", &Error::no_such_key());
    trail.flush().await;
    let events = written(&store, EventQuery::default()).await;
    assert_eq!(events.iter().map(|event| event.details["call"].as_str()).collect::<Vec<_>>(), ["get"]);
}
