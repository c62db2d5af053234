//! `GET /openapi.json`: the document agrees with the server.

use serde_json::{Map, Value, json};

use crate::support::{Server, Setup, reply, server::ROOT};

const METHODS: [&str; 7] = ["get", "post", "put", "delete", "patch", "options", "trace"];

async fn document(server: &Server) -> Value {
    reply(server.rest("GET", "/openapi.json")).await.good(200)
}

/// Every operation, as (path, method, operation).
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            assert!(METHODS.contains(&method.as_str()), "{path}: {method}");
            found.push((path.clone(), method.clone(), operation.clone()));
        }
    }
    found
}

/// What a `$ref` stands for.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(name) => document.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("no {name}")),
        None => value,
    }
}

/// The part of JSON Schema that the document uses.
fn check(document: &Value, schema: &Value, value: &Value, location: &str) {
    let schema = resolve(document, schema);
    if let Some(options) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        let kind = kind(value);
        let fits = |option: &&Value| {
            let option = resolve(document, option);
            option["type"] == kind
        };
        let option = options.iter().find(fits).unwrap_or_else(|| panic!("{location}: no option for {value}"));
        return check(document, option, value, location);
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    assert!(kinds.iter().any(|k| *k == kind(value)), "{location}: {value} is none of {kinds:?}");
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{location}: {value} is none of {allowed:?}");
    }
    let empty = Map::new();
    match value {
        Value::Object(fields) => {
            let properties = schema["properties"].as_object().unwrap_or(&empty);
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(name.as_str().unwrap()), "{location}: no {name} in {value}");
            }
            for (name, field) in fields {
                let location = format!("{location}.{name}");
                match (properties.get(name), &schema["additionalProperties"]) {
                    (Some(schema), _) | (None, schema @ Value::Object(_)) => check(document, schema, field, &location),
                    (None, Value::Bool(false)) => panic!("{location} is not in the document"),
                    (None, _) => {}
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| check(document, &schema["items"], item, location)),
        _ => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[tokio::test]
async fn every_operation_of_the_document_is_served_and_no_other() {
    let server = Setup::new().start();
    let document = document(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    let all = operations(&document);
    assert_eq!(all.len(), 19);
    for path in document["paths"].as_object().unwrap().keys() {
        let real = path.replace("{id}", "key_01h455vb4pex5vsknk084sn02q");
        for method in METHODS {
            let answer = reply(server.rest(&method.to_uppercase(), &real)).await;
            let described = all.iter().any(|(p, m, _)| p == path && m == method);
            assert_eq!(answer.status != 405, described, "{method} {path}");
            assert!(answer.status != 404, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_document_resolves_and_every_component_is_used() {
    fn walk(document: &Value, value: &Value, seen: &mut Vec<String>) {
        if let Some(name) = value["$ref"].as_str() {
            resolve(document, value);
            seen.push(name.to_owned());
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|field| walk(document, field, seen)),
            Value::Array(items) => items.iter().for_each(|item| walk(document, item, seen)),
            _ => {}
        }
    }
    let document = document(&Setup::new().start()).await;
    let mut seen = Vec::new();
    walk(&document, &document, &mut seen);
    for kind in ["schemas", "responses", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(seen.contains(&format!("#/components/{kind}/{name}")), "nothing uses {kind}/{name}");
        }
    }
}

/// One call for each status that can be caused here. Each response is checked against the document.
#[tokio::test]
async fn responses_match_the_document() {
    let server = Setup::new().ready("all").start();
    let document = document(&server).await;
    let made = server.create(json!({"name": "n", "keyspace": "norrix", "orgId": "o", "scopes": ["admin"]})).await;
    let noro = server.create(json!({"name": "n", "keyspace": "noro"})).await;
    let dead = server.create(json!({"name": "n", "keyspace": "noro"})).await;
    let (norrix, own) = (made["key"].as_str().unwrap(), noro["key"].as_str().unwrap());
    let [id, dead] = [&made, &dead].map(|key| format!("/api/api-keys/{}", key["id"].as_str().unwrap()));
    reply(server.rest("DELETE", &dead).bearer_auth(ROOT)).await.good(200);
    let full = json!({
        "name": "n", "keyspace": "norrix", "orgId": "o", "webhook": "https://e.example", "metadata": {"a": "b"},
        "expiresInDays": 3,
    });
    let limited = json!({"name": "n", "keyspace": "noro", "rateLimit": {"limit": 1, "windowMs": 1_000}});
    let (one, none) = ("/api/api-keys/{id}", Value::Null);
    let (deliveries, redeliver) = ("/api/events/{id}/deliveries", "/api/events/{id}/redeliver");
    let hooked = server.create(json!({"name": "n", "keyspace": "noro", "webhook": "https://e.invalid"})).await;
    let event = |key: &Value, what: &str| {
        format!("/api/events/{}/{what}", key["id"].as_str().unwrap().replacen("key_", "evt_", 1))
    };
    let (listed, again) = (event(&hooked, "deliveries"), event(&hooked, "redeliver"));
    // This key has no webhook.
    let never = format!("{}/redeliver", dead.replace("/api/api-keys/key_", "/api/events/evt_"));
    let calls = [
        ("POST", "/api/v1/keys", "", "", json!({"webhook": "https://e.example"}), 201),
        ("POST", "/api/v1/keys", "", "", json!({"x": 1}), 400),
        ("POST", "/api/v1/keys", "", "", json!({"orgId": "o"}), 403),
        ("GET", "/api/v1/keys", "", own, none.clone(), 200),
        ("GET", "/api/v1/keys", "", norrix, none.clone(), 200),
        ("GET", "/api/v1/keys", "", "", none.clone(), 401),
        ("GET", "/api/v1/keys", "", ROOT, none.clone(), 403),
        ("PATCH", "/api/v1/keys", "", own, json!({"webhook": "https://e.example"}), 200),
        ("PATCH", "/api/v1/keys", "", norrix, json!({"webhook": ""}), 403),
        ("DELETE", "/api/v1/keys", "", own, none.clone(), 200),
        ("POST", "/api/api-keys", "", norrix, full, 201),
        ("POST", "/api/api-keys", "", ROOT, limited.clone(), 201),
        ("POST", "/api/api-keys", "", norrix, limited, 403),
        ("POST", "/api/api-keys", "", ROOT, json!({}), 400),
        ("GET", "/api/api-keys", "?limit=1", ROOT, none.clone(), 200),
        ("GET", "/api/api-keys", "?limit=x", ROOT, none.clone(), 400),
        ("GET", one, &id, ROOT, none.clone(), 200),
        ("GET", one, "/api/api-keys/none", ROOT, none.clone(), 404),
        ("PATCH", one, &id, ROOT, json!({"webhook": "https://e.example"}), 200),
        ("PATCH", one, &dead, ROOT, json!({"webhook": ""}), 409),
        ("DELETE", one, &id, ROOT, none.clone(), 200),
        ("GET", "/api/events", "?limit=3", ROOT, none.clone(), 200),
        ("GET", "/api/events", "?limit=x", ROOT, none.clone(), 400),
        ("GET", "/api/events", "", "", none.clone(), 401),
        ("GET", deliveries, &listed, ROOT, none.clone(), 200),
        ("GET", deliveries, "/api/events/none/deliveries", ROOT, none.clone(), 404),
        ("POST", redeliver, &again, ROOT, none.clone(), 200),
        ("POST", redeliver, &never, ROOT, none.clone(), 409),
        ("POST", redeliver, "/api/events/none/redeliver", ROOT, none.clone(), 404),
        ("POST", "/api/v1/verify", "", ROOT, json!({"secret": own, "requiredScopes": []}), 200),
        ("POST", "/api/v1/verify", "", ROOT, json!({"secret": "x"}), 200),
        ("GET", "/api/v1/whoami", "", ROOT, none.clone(), 200),
        ("GET", "/api/v1/whoami", "", "", none.clone(), 401),
        ("GET", "/.well-known/keyward", "", "", none.clone(), 200),
        ("GET", "/healthz", "", "", none.clone(), 200),
        ("GET", "/readyz", "", "", none, 200),
    ];
    for (method, path, real, bearer, body, status) in calls {
        let target = if path.contains("{id}") { real.to_owned() } else { format!("{path}{real}") };
        let mut request = server.rest(method, &target);
        if !bearer.is_empty() {
            request = request.bearer_auth(bearer);
        }
        let operation = &document["paths"][path][method.to_lowercase()];
        if !body.is_null() {
            request = request.json(&body);
            if status < 400 {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                check(&document, schema, &body, &format!("{method} {path} request"));
            }
        }
        let answer = reply(request).await;
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        let described = resolve(&document, &operation["responses"][status.to_string()]);
        let location = format!("{method} {path} {status}");
        check(&document, &described["content"]["application/json"]["schema"], &answer.json(), &location);
        for name in answer.headers.keys().map(reqwest::header::HeaderName::as_str) {
            let plain = matches!(name, "content-type" | "content-length" | "date");
            assert!(plain || described["headers"].get(name).is_some(), "{location}: {name} is not in the document");
        }
    }
}

#[tokio::test]
async fn every_operation_lists_the_errors_that_it_can_answer() {
    let document = document(&Setup::new().start()).await;
    for (path, method, operation) in operations(&document) {
        let location = format!("{method} {path}");
        assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{location}");
        let has = |status: &str| operation["responses"].get(status).is_some();
        if path.starts_with("/api/") {
            assert!(["400", "401", "403", "429", "500", "503"].into_iter().all(has), "{location}");
            assert_eq!(has("404"), path.contains("{id}"), "{location}");
            let body = operation.get("requestBody").is_some();
            assert_eq!((has("413"), has("415")), (body, body), "{location}");
        } else {
            assert_eq!(operation["security"], json!([]), "{location}");
        }
    }
}
