//! Rules of the services as a whole: a caller can find out nothing about an id that is not its own, not even by the
//! number of statements; and the times of a key and of its events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use super::{
    CallContext, ServiceDeps, Services,
    audit::DeliverySubject,
    bootstrap,
    keys::{create::CreateKey, webhook::WebhookPatch},
};
use crate::{
    domain::{
        caller::{AuthMethod, Caller, KeyCaller},
        clock::{Clock, Micros, SystemClock, SystemEntropy},
        error::{Error, Result},
        event::{EventId, EventType},
        key::{Binding, KeyId},
        keyspace::{Keyspace, Registry},
    },
    replica::{PeerMode, Replica},
    store::{
        Store,
        events::{EventQuery, EventStore as _},
        sqlite::{Sqlite, SqliteOptions},
    },
};

async fn services(folder: &std::path::Path, clock: Arc<dyn Clock>) -> (Services, Arc<Sqlite>) {
    let runtime = Handle::current();
    let url = format!("sqlite://{}", folder.join("keyward.db").display());
    let sqlite = Sqlite::open(SqliteOptions::new(url, runtime.clone())).await.unwrap();
    sqlite.migrate().await.unwrap();
    let store = Arc::clone(&sqlite) as Arc<dyn Store>;
    let master_keys = Arc::new(bootstrap::load_master_keys(&*store, &SystemEntropy, &[]).await.unwrap());
    let keyspace = Keyspace { admin_scope: Some("admin".to_owned()), ..Keyspace::default_keyspace() };
    let registry = Arc::new(Registry::new(vec![keyspace]));
    let replica = Arc::new(Replica::new(
        Arc::clone(&store),
        Arc::clone(&registry),
        Arc::clone(&clock),
        1 << 24,
        PeerMode::SingleProcess,
        &runtime,
    ));
    replica.lease.extend(Micros::MAX);
    let entropy = Arc::new(SystemEntropy);
    let deps = ServiceDeps { store, replica, registry, master_keys, clock, entropy, runtime };
    (Services::with_defaults(deps), sqlite)
}

fn context() -> CallContext<'static> {
    CallContext { deadline: Instant::now() + Duration::from_secs(30), host_environment: "", client: None }
}

/// Makes one call about an id.
async fn call(services: &Services, admin: &Caller, call: &str, id: KeyId) -> Result<()> {
    let (key, event) = (id.to_string(), EventId(id.0).to_string());
    let Services { keys, audit, .. } = services;
    match call {
        "get" => keys.get(admin, &key, context()).await.map(drop),
        "revoke" => keys.revoke(admin, &key, String::new(), context()).await.map(drop),
        "update_webhook" => keys.update_webhook(admin, &key, WebhookPatch::default(), context()).await.map(drop),
        "deliveries_of_key" => {
            audit.list_deliveries(admin, &DeliverySubject::Key(key), 0, "", context()).await.map(drop)
        }
        "deliveries_of_event" => {
            audit.list_deliveries(admin, &DeliverySubject::Event(event), 0, "", context()).await.map(drop)
        }
        _ => audit.redeliver(admin, &event, context()).await.map(drop),
    }
}

#[tokio::test]
async fn foreign_and_missing_ids_take_the_same_statements_and_have_the_same_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (services, store) = services(folder.path(), Arc::new(SystemClock)).await;
    let root = Caller::Operator { method: AuthMethod::Root };
    let binding = |organization: &str| Binding { organization: organization.to_owned(), ..Binding::default() };
    let create = async |organization: &str| {
        let request = CreateKey { binding: binding(organization), ..CreateKey::default() };
        services.keys.create(&root, request, context()).await.unwrap().key.id
    };
    let (own, foreign, missing) = (create("acme").await, create("other").await, services.ids.key_id().0);
    let admin = Caller::Key(Arc::new(KeyCaller {
        id: own,
        keyspace: Arc::clone(&services.registry.configured()[0]),
        binding: binding("acme"),
        admin: true,
    }));
    let visible = |error: &Error| (error.kind, error.reason, error.message.clone(), error.fields.clone());
    for name in ["get", "update_webhook", "deliveries_of_key", "deliveries_of_event", "redeliver", "revoke"] {
        let mut seen = Vec::new();
        for id in [foreign, missing] {
            let before = store.statements();
            let error = call(&services, &admin, name, id).await.unwrap_err();
            seen.push((visible(&error), store.statements() - before));
        }
        assert_eq!(seen[0], seen[1], "{name}");
        assert_eq!(seen[0].1, 1, "{name} runs one statement");
    }
    // The calls succeed for its own key, so the errors above are not due to the calls themselves.
    for name in ["get", "deliveries_of_key", "deliveries_of_event", "revoke"] {
        call(&services, &admin, name, own).await.unwrap();
    }
}

/// Each reading of the wall clock is a millisecond after the last one.
struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn wall(&self) -> Micros {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }

    fn boottime(&self) -> Micros {
        SystemClock.boottime()
    }
}

#[tokio::test]
async fn a_key_has_the_times_of_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let clock = TickingClock(AtomicI64::new(SystemClock.wall()));
    let (services, store) = services(folder.path(), Arc::new(clock)).await;
    let root = Caller::Operator { method: AuthMethod::Root };
    services.keys.create_first_root_key().await.unwrap();
    let made = services.keys.create(&root, CreateKey::default(), context()).await.unwrap().key;
    let revoked = services.keys.revoke(&root, &made.id.to_string(), String::new(), context()).await.unwrap();
    let events = store.list_events(EventQuery { limit: 10, ..EventQuery::default() }).await.unwrap().rows;
    let of_event = |at: Micros| at.div_euclid(1_000) * 1_000;
    let times: Vec<_> = events.iter().map(|event| (event.kind, event.id.at())).collect();
    let root_key = events[2].key.as_ref().unwrap();
    assert_eq!(
        times,
        [
            (EventType::KeyRevoked, of_event(revoked.key.revoked_at.unwrap())),
            (EventType::KeyCreated, of_event(made.created_at)),
            (EventType::KeyCreated, of_event(root_key.created_at)),
        ]
    );
}
