//! Who may call what: every kind of caller × every call × the key or organization that it names, over gRPC and REST.
//! A cell is `ok` or the exact refusal.

use std::collections::HashMap;

use keyward::proto::{
    CreateRequest, ListEventsRequest, ListRequest, RevokeRequest, UpdateWebhookRequest, VerifyStreamRequest,
    audit_service_client::AuditServiceClient,
};
use serde_json::{Value, json};
use tonic::Status;

use crate::support::{
    Server, Setup,
    grpc::{Client, Refusal, check, key, texts},
    oidc::Provider,
    reply,
    server::{ROOT, with},
};

/// The callers, one for each column. `olga`, `adam` and `mia` are owner, admin and member of Norrix's `acme`; `noa`
/// is an owner of nora's `acme`, which is another organization with the same name.
const CALLERS: [&str; 10] = ["root", "service", "admin", "plain", "noro", "olga", "adam", "mia", "noa", "nobody"];

/// The calls and what they name. Organizations: none, `acme`, `globex` of another customer, and `nowhere`, which does
/// not exist. Keys: `adams` and `roots` are of `acme` and made by these, `globex` of that organization, `namesake` of
/// nora's `acme`, and `unknown` does not exist.
const TABLE: &str = "
    call    names     root  service  admin   plain  noro    olga   adam    mia     noa     nobody
    create  none      need  service  ok      scope  cannot  ok     ok      member  space   401
    create  acme      ok    service  ok      scope  cannot  ok     ok      member  space   401
    create  globex    ok    service  org     scope  cannot  org    org     member  space   401
    create  nowhere   ok    service  org     scope  cannot  org    org     member  space   401
    grant   acme      ok    service  ok      scope  cannot  ok     grant   member  space   401
    list    none      ok    service  ok      scope  cannot  ok     ok      member  space   401
    list    acme      ok    service  ok      scope  cannot  ok     ok      member  space   401
    list    globex    ok    service  org     scope  cannot  org    org     member  org     401
    list    nowhere   ok    service  org     scope  cannot  org    org     member  org     401
    events  none      ok    service  ok      scope  cannot  ok     ok      member  space   401
    events  acme      ok    service  ok      scope  cannot  ok     ok      member  space   401
    events  globex    ok    service  org     scope  cannot  org    org     member  org     401
    events  nowhere   ok    service  org     scope  cannot  org    org     member  org     401
    get     adams     ok    service  ok      scope  cannot  ok     ok      member  404     401
    get     roots     ok    service  ok      scope  cannot  ok     ok      member  404     401
    get     globex    ok    service  404     scope  cannot  404    404     member  404     401
    get     namesake  ok    service  404     scope  cannot  404    404     member  ok      401
    get     unknown   404   service  404     scope  cannot  404    404     member  404     401
    hook    adams     ok    service  ok      scope  cannot  ok     ok      member  404     401
    hook    roots     ok    service  ok      scope  cannot  ok     made    member  404     401
    hook    globex    ok    service  404     scope  cannot  404    404     member  404     401
    hook    namesake  ok    service  404     scope  cannot  404    404     member  ok      401
    hook    unknown   404   service  404     scope  cannot  404    404     member  404     401
    revoke  adams     ok    service  ok      scope  cannot  ok     ok      member  404     401
    revoke  roots     ok    service  ok      scope  cannot  ok     made    member  404     401
    revoke  globex    ok    service  404     scope  cannot  404    404     member  404     401
    revoke  namesake  ok    service  404     scope  cannot  404    404     member  ok      401
    revoke  unknown   404   service  404     scope  cannot  404    404     member  404     401
    verify  rest      ok    ok       verify  verify verify  bad    bad     bad     bad     401
    verify  grpc      ok    ok       verify  verify verify  verify verify  verify  verify  401
    verify  stream    ok    ok       verify  verify verify  verify verify  verify  verify  401
    own     read      root  ok       ok      ok     ok      bad    bad     bad     bad     401
    own     hook      staff staff    self    self   ok      bad    bad     bad     bad     401
    own     revoke    staff staff    self    self   ok      bad    bad     bad     bad     401
";

/// The refusal that a cell's word stands for: HTTP status, code, and message.
fn refusal(word: &str) -> (u16, &'static str, &'static str) {
    match word {
        "401" => (401, "missing_credential", "No authentication provided"),
        // A route without sessions treats a token as a malformed secret.
        "bad" => (401, "malformed", "Invalid or expired API key"),
        "404" => (404, "not_found", "No such API key"),
        "need" => (400, "invalid_argument", "is required by the keyspace"),
        "scope" => (403, "insufficient_scope", "API key does not have 'admin' scope"),
        "service" => (403, "forbidden", "A service may only verify keys"),
        "cannot" => (403, "forbidden", "Keys of this keyspace cannot manage keys"),
        "member" => (403, "forbidden", "Members cannot manage API keys"),
        "org" => (403, "forbidden", "The organization is not this caller's own"),
        "space" => (403, "forbidden", "The keyspace is not this caller's own"),
        "grant" => (403, "forbidden", "Only an owner may grant the 'admin' scope"),
        "made" => (403, "forbidden", "An admin may change only the keys that it created"),
        "verify" => (403, "forbidden", "Only operators and services may verify keys"),
        "root" => (403, "forbidden", "This caller is no key and has no record"),
        "self" => (403, "forbidden", "Keys of this keyspace cannot change themselves"),
        "staff" => (403, "forbidden", "Keys of operators and services cannot change themselves"),
        _ => panic!("no such cell: {word}"),
    }
}

struct World {
    server: Server,
    client: Client,
    credentials: HashMap<&'static str, String>,
    _provider: Provider,
}

impl World {
    async fn new() -> Self {
        let provider = Provider::start();
        let tables = provider.table("norrix", &["norrix"], "") + &provider.table("nora", &["nora"], "");
        let server = Setup::new().ready("all").and(&tables).start();
        let mut client = server.client().await;
        let mut credentials = HashMap::from([("root", ROOT.to_owned())]);
        credentials.insert("service", key(&mut client, "keyward", "", &["verify"]).await.secret);
        credentials.insert("admin", key(&mut client, "norrix", "acme", &["admin"]).await.secret);
        credentials.insert("plain", key(&mut client, "norrix", "acme", &["build"]).await.secret);
        credentials.insert("noro", key(&mut client, "noro", "", &[]).await.secret);
        for (name, audience, role) in [
            ("olga", "norrix", "owner"),
            ("adam", "norrix", "admin"),
            ("mia", "norrix", "member"),
            ("noa", "nora", "owner"),
        ] {
            credentials.insert(name, provider.token(audience, name, &json!({ "acme": role })).await);
        }
        Self { server, client, credentials, _provider: provider }
    }

    /// Creates the key that a row names, and returns its id.
    async fn target(&self, name: &str) -> String {
        let (maker, body) = match name {
            "adams" => ("adam", json!({"name": "n"})),
            "roots" => ("root", json!({"name": "n", "keyspace": "norrix", "orgId": "acme"})),
            "globex" => ("root", json!({"name": "n", "keyspace": "norrix", "orgId": "globex"})),
            "namesake" => (
                "root",
                json!({"name": "n", "keyspace": "nora", "orgId": "acme", "instanceId": "i", "environment": "sandbox"}),
            ),
            _ => return "key_01h455vb4pex5vsknk084sn02q".to_owned(),
        };
        let request = self.server.rest("POST", "/api/api-keys").bearer_auth(&self.credentials[maker]).json(&body);
        reply(request).await.good(201)["id"].as_str().unwrap().to_owned()
    }

    /// Makes a call over REST.
    async fn rest(&self, caller: &str, call: &str, names: &str) -> reply::Reply {
        const MANY: &str = "/api/api-keys";
        let organization = Some(names).filter(|name| *name != "none");
        let create =
            |scopes: &[&str]| json!({"name": "n", "keyspace": "norrix", "orgId": organization, "scopes": scopes});
        let webhook = json!({"webhook": "https://hooks.example/"});
        let (method, path, body) = match (call, names) {
            ("create", _) => ("POST", MANY.to_owned(), create(&["build"])),
            ("grant", _) => ("POST", MANY.to_owned(), create(&["build", "admin"])),
            ("list" | "events", _) => {
                let filter = organization.map(|name| format!("&orgId={name}")).unwrap_or_default();
                let path = if call == "list" { MANY } else { "/api/events" };
                ("GET", format!("{path}?keyspace=norrix{filter}"), Value::Null)
            }
            ("get", _) => ("GET", format!("{MANY}/{}", self.target(names).await), Value::Null),
            ("hook", _) => ("PATCH", format!("{MANY}/{}", self.target(names).await), webhook),
            ("revoke", _) => ("DELETE", format!("{MANY}/{}", self.target(names).await), Value::Null),
            ("verify", _) => ("POST", "/api/v1/verify".to_owned(), json!({"secret": "x"})),
            ("own", "read") => ("GET", "/api/v1/keys".to_owned(), Value::Null),
            ("own", "hook") => ("PATCH", "/api/v1/keys".to_owned(), webhook),
            ("own", "revoke") => ("DELETE", "/api/v1/keys".to_owned(), Value::Null),
            _ => panic!("no such row: {call} {names}"),
        };
        let mut request = self.server.rest(method, &path);
        if let Some(credential) = self.credentials.get(caller) {
            request = request.bearer_auth(credential);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        reply(request).await
    }

    /// Makes the same call over gRPC; none if gRPC has no such call.
    async fn grpc(&self, caller: &str, call: &str, names: &str) -> Option<Result<(), Status>> {
        fn dressed<T>(credential: Option<&String>, message: T) -> tonic::Request<T> {
            match credential {
                Some(credential) => with(credential, message),
                None => tonic::Request::new(message),
            }
        }
        let own = self.credentials.get(caller);
        let mut client = self.client.clone();
        let organization = if names == "none" { String::new() } else { names.to_owned() };
        let create = |scopes: &[&str]| CreateRequest {
            keyspace: "norrix".into(),
            organization: organization.clone(),
            scopes: texts(scopes),
            ..CreateRequest::default()
        };
        Some(match (call, names) {
            ("create", _) => client.create(dressed(own, create(&["build"]))).await.map(drop),
            ("grant", _) => client.create(dressed(own, create(&["build", "admin"]))).await.map(drop),
            ("list", _) => {
                let request = ListRequest { keyspace: "norrix".into(), organization, ..ListRequest::default() };
                client.list(dressed(own, request)).await.map(drop)
            }
            ("events", _) => {
                let request =
                    ListEventsRequest { keyspace: "norrix".into(), organization, ..ListEventsRequest::default() };
                let mut audit = AuditServiceClient::new(self.server.channel().await);
                audit.list_events(dressed(own, request)).await.map(drop)
            }
            ("hook", _) => {
                let webhook_url = "https://hooks.example/".to_owned();
                let request = UpdateWebhookRequest {
                    id: self.target(names).await,
                    webhook_url,
                    ..UpdateWebhookRequest::default()
                };
                client.update_webhook(dressed(own, request)).await.map(drop)
            }
            ("revoke", _) => {
                let request = RevokeRequest { id: self.target(names).await, reason: String::new() };
                client.revoke(dressed(own, request)).await.map(drop)
            }
            ("verify", "grpc") => client.verify(dressed(own, check("x"))).await.map(drop),
            ("verify", "stream") => {
                let messages = tokio_stream::iter([VerifyStreamRequest { id: 1, request: Some(check("x")) }]);
                client.verify_stream(dressed(own, messages)).await.map(drop)
            }
            _ => return None,
        })
    }
}

/// The complete access policy: a caller who gets access without permission does so through one of these cells.
#[tokio::test]
async fn every_call_is_allowed_or_refused_as_the_table_states() {
    let world = World::new().await;
    let mut rows =
        TABLE.lines().map(str::split_whitespace).map(Iterator::collect::<Vec<_>>).filter(|row| !row.is_empty());
    assert_eq!(rows.next().unwrap()[2..], CALLERS);
    let mut wrong = Vec::new();
    let mut bodies: HashMap<(String, &str), String> = HashMap::new();
    for row in rows {
        let [call, names, cells @ ..] = row.as_slice() else { panic!("{row:?}") };
        assert_eq!(cells.len(), CALLERS.len(), "{row:?}");
        // The callers of a row act concurrently: one after another they take more than a minute on a busy machine.
        let answers = CALLERS.map(|caller| {
            let (world, over_rest) = (&world, !matches!(*names, "grpc" | "stream"));
            async move {
                let rest = if over_rest { Some(world.rest(caller, call, names).await) } else { None };
                (rest, world.grpc(caller, call, names).await)
            }
        });
        let answers = futures::future::join_all(answers).await;
        for ((caller, cell), (rest, grpc)) in CALLERS.into_iter().zip(cells).zip(answers) {
            let case = format!("{call} {names} by {caller}: {cell}");
            if let Some(answer) = rest {
                let seen = if answer.status < 300 {
                    (*cell == "ok").then_some(())
                } else {
                    // The responses for two foreign organizations or ids are equal byte for byte, so they reveal nothing.
                    let alike = bodies.entry((format!("{call} {caller}"), cell)).or_insert_with(|| answer.text.clone());
                    let body = answer.json();
                    (*cell != "ok" && *alike == answer.text)
                        .then(|| refusal(cell))
                        .filter(|(status, code, _)| *status == answer.status && body["code"] == *code)
                        .filter(|(.., sentence)| body["message"].as_str().unwrap().ends_with(sentence))
                        .map(drop)
                };
                if seen.is_none() {
                    wrong.push(format!("REST {case}, but {} {}", answer.status, answer.text));
                }
            }
            let Some(answer) = grpc else { continue };
            let seen = match &answer {
                Ok(()) => *cell == "ok",
                Err(status) => *cell != "ok" && is(&Refusal::of(status), refusal(cell)),
            };
            if !seen {
                wrong.push(format!("gRPC {case}, but {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

fn is(seen: &Refusal, (status, reason, sentence): (u16, &str, &str)) -> bool {
    let code = match status {
        400 => tonic::Code::InvalidArgument,
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::NotFound,
        _ => return false,
    };
    seen.code == code
        && seen.domain == "keyward"
        && seen.reason == reason.to_uppercase()
        && seen.message.ends_with(sentence)
}
