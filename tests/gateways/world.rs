//! Keyward with the three products, and keys of theirs.

use serde_json::{Value, json};

use crate::{
    gateway::{Behind, Gateway, Kind},
    raw::{self, Response},
    support::{
        Server, Setup,
        grpc::{self, Client},
        oidc::Provider,
        server::ROOT,
    },
    upstream::Upstream,
};

/// Keyward and the issuer of its sessions.
pub struct World {
    pub server: Server,
    pub provider: Option<Provider>,
    /// A service key: the gateway's own credential.
    pub gateway: String,
}

impl World {
    /// Without sessions.
    pub async fn new() -> Self {
        Self::of(Setup::new().ready("all"), None).await
    }

    /// With sessions of people, for `norrix`.
    pub async fn with_sessions() -> Self {
        let provider = Provider::start();
        let table = provider.table("norrix", &["norrix"], "cookie = \"norrix_session\"");
        Self::of(Setup::new().ready("all").and(&table), Some(provider)).await
    }

    pub async fn of(setup: Setup, provider: Option<Provider>) -> Self {
        let server = setup.start();
        let mut client = server.client().await;
        let gateway = grpc::key(&mut client, "keyward", "", &["verify"]).await.secret;
        Self { server, provider, gateway }
    }

    pub async fn client(&self) -> Client {
        self.server.client().await
    }

    /// Creates a key by REST, as the operator.
    pub async fn key(&self, body: Value) -> Key {
        let made = self.server.create(body).await;
        Key { secret: made["key"].as_str().unwrap().to_owned(), id: made["id"].as_str().unwrap().to_owned() }
    }

    /// A key of Norrix, of the organization `acme`.
    pub async fn norrix(&self, scopes: &[&str]) -> Key {
        self.key(json!({"name": "CI of A", "keyspace": "norrix", "orgId": "acme", "scopes": scopes})).await
    }

    pub async fn noro(&self) -> Key {
        self.key(json!({"name": "n", "keyspace": "noro"})).await
    }

    pub async fn nora(&self, environment: &str) -> Key {
        let body = json!({
            "name": "n", "keyspace": "nora", "orgId": "acme", "instanceId": "eu-1", "environment": environment,
        });
        self.key(body).await
    }

    pub async fn revoke(&self, key: &Key) {
        let (status, _) =
            self.server.call("DELETE", &format!("/api/api-keys/{}", key.id), Some(ROOT), Value::Null).await;
        assert_eq!(status, 200);
    }

    /// A session's token.
    pub async fn token(&self, organizations: &Value) -> String {
        self.provider.as_ref().unwrap().token("norrix", "olga", organizations).await
    }

    /// Asks as a gateway of a kind, about a request with these headers.
    pub async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let own = [("X-Keyward-Gateway", self.gateway.as_str())];
        raw::send(&self.server.http, "GET", &format!("/forward-auth/{path}"), &[&own[..], headers].concat()).await
    }
}

impl Gateway {
    /// Starts one before the upstream, for the keys of `product`: a keyspace, or a keyspace and an environment.
    pub async fn start(kind: Kind, world: &World, upstream: &Upstream, product: &str) -> Self {
        let Server { http, grpc, .. } = &world.server;
        let behind = Behind { http, grpc, credential: &world.gateway, product, upstream: upstream.port };
        Self::launch(kind, &behind).await
    }
}

/// The identity headers of a key of [`World::norrix`] with the scope `build`, apart from its id.
pub const CI_IDENTITY: [(&str, &str); 8] = [
    ("x-keyward-keyspace", "norrix"),
    ("x-keyward-organization", "acme"),
    ("x-keyward-instance", ""),
    ("x-keyward-environment", ""),
    ("x-keyward-scopes", "build"),
    ("x-keyward-name", "CI%20of%20A"),
    ("x-keyward-subject", ""),
    ("x-keyward-role", ""),
];

/// A secret and the id of its key.
#[derive(Debug, Clone)]
pub struct Key {
    pub secret: String,
    pub id: String,
}

impl Key {
    /// `Authorization`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.secret)
    }
}
