//! What an admin key may do, and what it can find out. Each test names the attack.

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, reply, server::ROOT};

const MANY: &str = "/api/api-keys";

/// Admin keys of organizations `a` and `b`, and one of `a` that is bound to an instance and an environment.
struct World {
    server: Server,
    a: Value,
    b: Value,
    bound: Value,
}

impl World {
    async fn new() -> Self {
        let server = Setup::new().ready("all").start();
        let admin = async |more: Value| {
            let mut body = json!({"name": "admin", "keyspace": "norrix", "scopes": ["admin"]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server.create(body).await
        };
        let (a, b) = (admin(json!({"orgId": "a"})).await, admin(json!({"orgId": "b"})).await);
        let bound = admin(json!({"orgId": "a", "instanceId": "i1", "environment": "prod"})).await;
        Self { server, a, b, bound }
    }

    async fn call(&self, caller: &Value, method: &str, path: &str, body: Value) -> Reply {
        let mut request = self.server.rest(method, path).bearer_auth(caller["key"].as_str().unwrap());
        if !body.is_null() {
            request = request.json(&body);
        }
        reply(request).await
    }

    async fn names(&self, caller: &Value, query: &str) -> Vec<String> {
        let page = self.call(caller, "GET", &format!("{MANY}?{query}"), Value::Null).await.good(200);
        page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn made(&self, more: Value) -> Value {
        let mut body = json!({"name": "n", "keyspace": "norrix"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.server.create(body).await
    }
}

fn path(key: &Value) -> String {
    format!("{MANY}/{}", key["id"].as_str().unwrap())
}

/// Attack: try ids of other organizations to find out which of them exist. Ids are not secret.
#[tokio::test]
async fn a_foreign_id_and_an_unknown_id_get_the_same_bytes() {
    let world = World::new().await;
    let foreign = world.made(json!({"orgId": "b"})).await;
    let other_keyspace = world.server.create(json!({"name": "n", "keyspace": "noro"})).await;
    let nowhere = format!("{MANY}/key_01h455vb4pex5vsknk084sn02q");
    for method in ["GET", "DELETE", "PATCH"] {
        let bodies = if method == "PATCH" {
            vec![json!({"webhook": "https://e.example"}), json!({"webhook": ""}), json!({"webhook": 1}), json!({})]
        } else {
            vec![Value::Null]
        };
        for body in bodies {
            let unknown = world.call(&world.a, method, &nowhere, body.clone()).await;
            assert!(matches!(unknown.status, 404 | 400), "{unknown:?}");
            for key in [&foreign, &other_keyspace] {
                let answer = world.call(&world.a, method, &path(key), body.clone()).await;
                assert_eq!((answer.status, &answer.text), (unknown.status, &unknown.text), "{method}");
                let headers = |reply: &Reply| {
                    let mut names: Vec<_> = reply.headers.keys().map(|name| name.as_str().to_owned()).collect();
                    names.sort();
                    names
                };
                assert_eq!(headers(&answer), headers(&unknown));
            }
        }
    }
    for key in [&foreign, &other_keyspace] {
        let item = reply(world.server.rest("GET", &path(key)).bearer_auth(ROOT)).await.good(200);
        assert_eq!((&item["status"], &item["webhook"]), (&json!("active"), &Value::Null));
    }
}

/// Attack: name organizations until one answers differently, to find out which customers exist.
#[tokio::test]
async fn another_organization_is_403_with_the_same_body_whether_it_exists_or_not() {
    let world = World::new().await;
    let own = world.made(json!({"orgId": "a"})).await;
    let mut bodies = Vec::new();
    for organization in ["b", "nobody", "A", "%00", &"x".repeat(500)] {
        for (method, path) in [("GET", MANY.to_owned()), ("POST", MANY.to_owned()), ("DELETE", path(&own))] {
            let path = format!("{path}?orgId={organization}");
            let answer = world.call(&world.a, method, &path, Value::Null).await;
            answer.refused(403, "forbidden");
            bodies.push(answer.text);
        }
    }
    for organization in ["b", "nobody", "A"] {
        for route in [MANY, "/api/v1/keys"] {
            let answer = world.call(&world.a, "POST", route, json!({"name": "n", "orgId": organization})).await;
            answer.refused(403, "forbidden");
            bodies.push(answer.text);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    world.call(&world.a, "GET", &format!("{}?orgId=a", path(&own)), Value::Null).await.good(200);
}

/// Attack: list keys and look for those of another organization.
#[tokio::test]
async fn a_list_shows_only_keys_of_the_callers_organization_and_keyspace() {
    let world = World::new().await;
    world.made(json!({"name": "own", "orgId": "a"})).await;
    world.made(json!({"name": "foreign", "orgId": "b"})).await;
    let nora = json!({
        "name": "nora", "keyspace": "nora", "orgId": "a", "instanceId": "i", "environment": "sandbox",
    });
    world.server.create(nora).await;
    world.server.create(json!({"name": "noro", "keyspace": "noro", "orgId": "a"})).await;
    for query in ["", "orgId=a", "keyspace=norrix", "orgId=a&keyspace=norrix&status=active"] {
        assert_eq!(world.names(&world.a, query).await, ["own", "admin", "admin"], "{query}");
    }
    assert_eq!(world.names(&world.b, "").await, ["foreign", "admin"]);
    for keyspace in ["noro", "keyward", "none-such"] {
        let path = format!("{MANY}?keyspace={keyspace}");
        world.call(&world.a, "GET", &path, Value::Null).await.refused(403, "forbidden");
    }
}

/// Attack: use a cursor that another organization got.
#[tokio::test]
async fn a_cursor_of_one_organization_is_refused_in_another() {
    let world = World::new().await;
    for _ in 0..2 {
        world.made(json!({"orgId": "b"})).await;
    }
    let page = world.call(&world.b, "GET", &format!("{MANY}?limit=1"), Value::Null).await.good(200);
    let query = format!("{MANY}?limit=1&cursor={}", page["nextCursor"].as_str().unwrap());
    world.call(&world.b, "GET", &query, Value::Null).await.good(200);
    world.call(&world.a, "GET", &query, Value::Null).await.bad(&["cursor"]);
}

/// Attack: create a key with more rights than the admin key itself has.
#[tokio::test]
async fn a_creation_stays_in_the_callers_keyspace_organization_and_scopes() {
    let world = World::new().await;
    let create = async |body: Value| world.call(&world.a, "POST", MANY, body).await;
    let made = create(json!({"name": "n"})).await.good(201);
    assert_eq!((&made["orgId"], made["key"].as_str().unwrap().starts_with("nrx_")), (&json!("a"), true));
    assert_eq!(made["scopes"], json!(["build", "submit", "update"]), "the admin scope is never a default");
    create(json!({"name": "n", "scopes": ["admin"]})).await.good(201);
    for scopes in [json!(["root"]), json!(["verify"]), json!(["build", "deploy"]), json!(["Build"])] {
        create(json!({"name": "n", "scopes": scopes})).await.bad(&["scopes"]);
    }
    for keyspace in ["keyward", "noro", "nora", "none-such"] {
        create(json!({"name": "n", "keyspace": keyspace})).await.refused(403, "forbidden");
    }
    let made = create(json!({"name": "n", "keyspace": "norrix", "instanceId": "any", "environment": "any"})).await;
    assert_eq!(made.good(201)["instanceId"], "any", "what the caller is not bound to, it may choose");
}

/// Attack: an admin key of one instance and environment manages keys of others.
#[tokio::test]
async fn a_key_bound_to_an_instance_and_an_environment_cannot_leave_them() {
    let world = World::new().await;
    let inside = world.made(json!({"name": "in", "orgId": "a", "instanceId": "i1", "environment": "prod"})).await;
    let outside = [
        world.made(json!({"name": "1", "orgId": "a"})).await,
        world.made(json!({"name": "2", "orgId": "a", "instanceId": "i2", "environment": "prod"})).await,
        world.made(json!({"name": "3", "orgId": "a", "instanceId": "i1", "environment": "dev"})).await,
        world.made(json!({"name": "4", "orgId": "a", "instanceId": "I1", "environment": "prod"})).await,
    ];
    assert_eq!(world.names(&world.bound, "").await, ["in", "admin"]);
    world.call(&world.bound, "GET", &path(&inside), Value::Null).await.good(200);
    for key in &outside {
        for method in ["GET", "DELETE"] {
            world.call(&world.bound, method, &path(key), Value::Null).await.refused(404, "not_found");
        }
    }
    let made = world.call(&world.bound, "POST", MANY, json!({"name": "n"})).await.good(201);
    assert_eq!((&made["instanceId"], &made["environment"]), (&json!("i1"), &json!("prod")));
    for body in [json!({"name": "n", "instanceId": "i2"}), json!({"name": "n", "environment": "dev"})] {
        world.call(&world.bound, "POST", MANY, body).await.refused(403, "forbidden");
    }
    // An admin key without these bindings sees all of them.
    assert_eq!(world.names(&world.a, "").await.len(), 8);
}

/// Attack: an admin key without an organization manages the whole keyspace.
#[tokio::test]
async fn an_admin_key_without_an_organization_manages_only_keys_without_one() {
    let config = "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = { encoding = \"base64url\", bytes = 32 }\n\
                  scopes = [\"use\", \"admin\"]\nadmin_scope = \"admin\"\n";
    let server = Setup::new().config(config).start();
    let admin = server.create(json!({"name": "admin", "scopes": ["admin"]})).await;
    let foreign = server.create(json!({"name": "foreign", "orgId": "o"})).await;
    let own = server.create(json!({"name": "own"})).await;
    let call = async |method: &str, path: &str| {
        reply(server.rest(method, path).bearer_auth(admin["key"].as_str().unwrap())).await
    };
    let page = call("GET", MANY).await.good(200);
    assert_eq!(page["keys"].as_array().unwrap().len(), 2, "{page}");
    call("GET", &path(&own)).await.good(200);
    call("DELETE", &path(&foreign)).await.refused(404, "not_found");
    call("GET", &format!("{MANY}?orgId=o")).await.refused(403, "forbidden");
}

/// Attack: go on with a revoked or expired admin key.
#[tokio::test]
async fn a_revoked_admin_key_manages_nothing() {
    let world = World::new().await;
    world.call(&world.a, "GET", MANY, Value::Null).await.good(200);
    assert_eq!(world.call(&world.a, "DELETE", &path(&world.a), Value::Null).await.good(200)["status"], "revoked");
    world.call(&world.a, "GET", MANY, Value::Null).await.refused(401, "revoked");
    world.call(&world.a, "POST", MANY, json!({"name": "n"})).await.refused(401, "revoked");
}

/// Attack: use a product's key to find out whose secret one has.
#[tokio::test]
async fn only_operators_and_services_verify() {
    let world = World::new().await;
    let body = json!({"secret": world.b["key"]});
    world.call(&world.a, "POST", "/api/v1/verify", body.clone()).await.refused(403, "forbidden");
    reply(world.server.rest("POST", "/api/v1/verify").json(&body)).await.refused(401, "missing_credential");
    let service = world.server.create(json!({"name": "s", "keyspace": "keyward"})).await;
    assert_eq!(world.call(&service, "POST", "/api/v1/verify", body).await.good(200)["code"], "VALID");
    world.call(&service, "GET", MANY, Value::Null).await.refused(403, "forbidden");
}
