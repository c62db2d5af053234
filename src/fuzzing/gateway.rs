//! Decisions for gateways, over a store of its own with one live key and one that is revoked.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};

use crate::{
    config::{self, Flags},
    domain::{
        caller::{AuthMethod, Caller},
        clock::{Clock, Entropy, Micros, SystemClock, SystemEntropy},
        key::Binding,
        master_keys::{MasterKey, MasterKeys},
        route::GatewayKind,
    },
    replica::{PeerMode, Replica},
    service::{
        CallContext, ServiceDeps, Services,
        credential::Headers,
        gateway::{GatewayRequest, IDENTITY_HEADERS},
        keys::create::CreateKey,
    },
    store::{
        Store,
        sqlite::{Sqlite, SqliteOptions},
    },
};

/// The keyspace of the gateways' requests.
const CONFIG: &str = r#"
[[keyspace]]
name = "norrix"
prefix = "nrx_"
secret = { encoding = "base64url", bytes = 32 }
credential = "any"
scopes = ["build", "admin"]
gateway = { org_param = "orgId" }

[[keyspace.route]]
methods = ["GET", "POST"]
path = "/api/build/*"
scopes = ["build"]

[[keyspace.route]]
path = "/api/env/*"
scopes = ["admin"]
session = true
"#;

/// A request as a gateway describes it.
#[derive(Debug, Default)]
pub struct FuzzedRequest {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// The headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Headers for FuzzedRequest {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let given = self.headers.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name));
        given.map(|(_, value)| value.as_slice())
    }
}

/// A service with two keys.
pub struct Decisions {
    runtime: Runtime,
    services: Services,
    /// The gateway's own credential.
    gateway: String,
    /// The secret of a live key with the scope `build`, of the organization `acme`.
    pub live: String,
    /// The secret of a revoked key with every scope.
    pub revoked: String,
}

impl Decisions {
    /// Makes the keys, in a database in `folder`.
    ///
    /// # Errors
    ///
    /// Why that is not possible.
    pub fn new(folder: &Path) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|e| e.to_string())?;
        let (services, [gateway, live, revoked]) = runtime.block_on(start(folder))?;
        Ok(Self { runtime, services, gateway, live, revoked })
    }

    /// The identity behind a request that is allowed; none if it is refused. The cached decision and the full
    /// one must be the same.
    pub fn decide(&self, request: &FuzzedRequest) -> Option<BTreeMap<&'static str, String>> {
        let request = GatewayRequest {
            kind: GatewayKind::Envoy,
            keyspace: "norrix",
            environment: "",
            organization: "",
            instance: "",
            method: &request.method,
            target: &request.target,
            host: "api.example",
            headers: request,
            client: None,
            request_id: "",
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let gateways = &self.services.gateways;
        let decided = self.runtime.block_on(gateways.decide(&request, None, deadline)).ok();
        if let Some(cached) = gateways.try_decide_cached(&self.gateway, &request) {
            assert_eq!(cached.is_ok(), decided.is_some(), "the cached decision differs: {request:?}");
        }
        let allowed = decided?;
        let identity = IDENTITY_HEADERS.into_iter().zip(allowed.identity());
        Some(identity.map(|(name, value)| (name, value.into_owned())).collect())
    }
}

async fn start(folder: &Path) -> Result<(Services, [String; 3]), String> {
    let config =
        config::parse("", CONFIG, &Flags::default(), &HashMap::new()).map_err(|problems| problems.join("\n"))?;
    let handle = tokio::runtime::Handle::current();
    let url = format!("sqlite://{}", folder.join("keyward.db").display());
    let sqlite = Sqlite::open(SqliteOptions::new(url, handle.clone())).await.map_err(|error| error.to_string())?;
    sqlite.migrate().await.map_err(|error| error.to_string())?;
    let store: Arc<dyn Store> = sqlite;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let registry = config.registry;
    let replica = Replica::new(
        Arc::clone(&store),
        Arc::clone(&registry),
        Arc::clone(&clock),
        1 << 24,
        PeerMode::SingleProcess,
        &handle,
    );
    replica.lease.extend(Micros::MAX);
    let master_keys = Arc::new(MasterKeys::derive(&MasterKey::new([7; 32])));
    let deps =
        ServiceDeps { store, replica: Arc::new(replica), registry, master_keys, clock, entropy, runtime: handle };
    let services = Services::with_defaults(deps);
    let caller = Caller::Operator { method: AuthMethod::Root };
    let context =
        CallContext { deadline: Instant::now() + Duration::from_secs(60), host_environment: "", client: None };
    let key = async |keyspace: &str, scopes: &[&str]| {
        let request = CreateKey {
            keyspace: keyspace.to_owned(),
            binding: Binding { organization: "acme".to_owned(), ..Binding::default() },
            scopes: Some(scopes.iter().map(|&scope| scope.to_owned()).collect()),
            ..CreateKey::default()
        };
        services.keys.create(&caller, request, context).await.map_err(|error| error.to_string())
    };
    let gateway = key("keyward", &["verify"]).await?;
    let (live, revoked) = (key("norrix", &["build"]).await?, key("norrix", &["build", "admin"]).await?);
    let id = revoked.key.id.to_string();
    services.keys.revoke(&caller, &id, String::new(), context).await.map_err(|error| error.to_string())?;
    Ok((services, [gateway, live, revoked].map(|created| created.secret.expose().to_owned())))
}
