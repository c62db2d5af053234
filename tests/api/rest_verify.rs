//! `POST /api/v1/verify`: verdicts in JSON.

use serde_json::{Value, json};

use crate::support::{
    Reply, Server, Setup, reply,
    reply::{names, until},
    server::ROOT,
};

const FIELDS: [&str; 13] = [
    "code",
    "message",
    "keyId",
    "keyspace",
    "organization",
    "instance",
    "environment",
    "name",
    "scopes",
    "createTime",
    "expireTime",
    "metadata",
    "rateLimit",
];

async fn ask(server: &Server, body: Value) -> Reply {
    reply(server.rest("POST", "/api/v1/verify").bearer_auth(ROOT).json(&body)).await
}

/// Returns the code of the verdict, and checks that the response has every field.
async fn code(server: &Server, body: Value) -> String {
    let verdict = ask(server, body).await.good(200);
    assert_eq!(names(&verdict), FIELDS);
    let message = match verdict["code"].as_str().unwrap() {
        "VALID" => "The key is valid",
        "INSUFFICIENT_SCOPE" => "API key does not have 'submit' scope",
        "RATE_LIMITED" => "Rate limit exceeded",
        _ => "Invalid or expired API key",
    };
    assert_eq!(verdict["message"], message, "{verdict}");
    verdict["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_valid_key_is_answered_with_all_of_its_fields() {
    let server = Setup::new().ready("all").start();
    let body = json!({
        "name": "n", "keyspace": "norrix", "orgId": "Acme", "instanceId": "i", "environment": "e", "scopes": ["build"],
        "expiresAt": "2030-01-31T12:00:00Z", "metadata": {"k": "v"},
    });
    let key = server.create(body).await;
    let verdict = ask(&server, json!({"secret": key["key"]})).await.good(200);
    let expected = json!({
        "code": "VALID", "message": verdict["message"], "keyId": key["id"], "keyspace": "norrix",
        "organization": "Acme", "instance": "i", "environment": "e", "name": "n", "scopes": ["build"],
        "createTime": key["createdAt"], "expireTime": "2030-01-31T12:00:00.000Z", "metadata": {"k": "v"},
        "rateLimit": null,
    });
    assert_eq!(verdict, expected);
}

#[tokio::test]
async fn fields_that_a_key_does_not_have_are_null() {
    let server = Setup::new().start();
    let key = server.create(json!({"name": "n"})).await;
    let verdict = ask(&server, json!({"secret": key["key"]})).await.good(200);
    for name in ["organization", "instance", "environment", "expireTime", "rateLimit"] {
        assert_eq!(verdict[name], Value::Null, "{name}");
    }
    assert_eq!((&verdict["scopes"], &verdict["metadata"]), (&json!([]), &json!({})));
    let verdict = ask(&server, json!({"secret": "nonsense"})).await.good(200);
    for name in ["keyId", "keyspace", "name", "createTime"] {
        assert_eq!(verdict[name], Value::Null, "{name}");
    }
}

#[tokio::test]
async fn every_verdict_is_200() {
    let server = Setup::new().ready("all").start();
    let body = |more: Value| {
        let mut body = json!({
            "name": "n", "keyspace": "norrix", "orgId": "o", "instanceId": "i", "environment": "e",
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let key = server.create(body(json!({"scopes": ["build"]}))).await;
    let secret = &key["key"];
    let foreign = Setup::new().ready("all").start();
    let elsewhere = foreign.create(json!({"name": "n", "keyspace": "noro"})).await;
    for (body, expected) in [
        (json!({"secret": secret}), "VALID"),
        (
            json!({"secret": secret, "keyspace": "norrix", "organization": "o", "instance": "i", "environment": "e",
                "requiredScopes": ["build"]}),
            "VALID",
        ),
        (json!({"secret": secret, "keyspace": "", "organization": "", "requiredScopes": []}), "VALID"),
        (json!({"secret": secret, "keyspace": null, "cost": null}), "VALID"),
        (json!({"secret": "nrx_x"}), "MALFORMED"),
        (json!({"secret": elsewhere["key"]}), "MALFORMED"),
        (json!({"secret": "x".repeat(100_000)}), "MALFORMED"),
        (json!({"secret": ROOT}), "MALFORMED"),
        (json!({"secret": secret, "keyspace": "noro"}), "NOT_FOUND"),
        (json!({"secret": secret, "keyspace": "none-such"}), "NOT_FOUND"),
        (json!({"secret": secret, "environment": "E"}), "WRONG_ENVIRONMENT"),
        (json!({"secret": secret, "organization": "O"}), "WRONG_ORGANIZATION"),
        (json!({"secret": secret, "instance": "x"}), "WRONG_INSTANCE"),
        (json!({"secret": secret, "requiredScopes": ["build", "submit"]}), "INSUFFICIENT_SCOPE"),
        (json!({"secret": secret, "required_scopes": ["submit"]}), "INSUFFICIENT_SCOPE"),
        // Of several reasons, the first one in order is the verdict.
        (
            json!({"secret": secret, "environment": "x", "organization": "x", "requiredScopes": ["x"]}),
            "WRONG_ENVIRONMENT",
        ),
        (json!({"secret": secret, "organization": "x", "instance": "x"}), "WRONG_ORGANIZATION"),
        (json!({"secret": secret, "instance": "x", "requiredScopes": ["x"]}), "WRONG_INSTANCE"),
    ] {
        assert_eq!(code(&server, body.clone()).await, expected, "{body}");
    }
    let short = server.create_expiring("/api/api-keys", Some(ROOT), body(json!({}))).await;
    let expired = json!({"secret": short["key"], "environment": "x"});
    until("the key expires", async || (code(&server, expired.clone()).await == "EXPIRED").then_some(())).await;
    let path = format!("/api/api-keys/{}", short["id"].as_str().unwrap());
    reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(code(&server, expired).await, "REVOKED");
}

#[tokio::test]
async fn a_verdict_on_an_invalid_key_still_identifies_it() {
    let server = Setup::new().start();
    let key = server.create(json!({"name": "n", "orgId": "o"})).await;
    for body in [json!({"secret": key["key"], "organization": "x"}), json!({"secret": key["key"], "instance": "x"})] {
        let verdict = ask(&server, body).await.good(200);
        assert_eq!((&verdict["keyId"], &verdict["organization"]), (&key["id"], &json!("o")));
    }
}

#[tokio::test]
async fn the_verdict_shows_the_rate_limit_and_cost_is_spent() {
    let server = Setup::new().ready("noro").start();
    let key = server.create(json!({"name": "n"})).await;
    let rate = async |cost: Value| ask(&server, json!({"secret": key["key"], "cost": cost})).await.good(200);
    assert_eq!(rate(Value::Null).await["rateLimit"]["remaining"], 99);
    assert_eq!(rate(json!(0)).await["rateLimit"]["remaining"], 99);
    let spent = rate(json!(98)).await;
    assert_eq!(names(&spent["rateLimit"]), ["limit", "remaining", "resetTime", "retryAfter"]);
    assert_eq!((&spent["rateLimit"]["remaining"], &spent["rateLimit"]["retryAfter"]), (&json!(1), &Value::Null));
    assert!(spent["rateLimit"]["resetTime"].as_str().unwrap().ends_with('Z'));
    let refused = rate(json!(2)).await;
    assert_eq!((&refused["code"], &refused["rateLimit"]["remaining"]), (&json!("RATE_LIMITED"), &json!(1)));
    let wait = refused["rateLimit"]["retryAfter"].as_str().unwrap().strip_suffix('s').unwrap();
    assert!((0.0..=66.0).contains(&wait.parse::<f64>().unwrap()), "{wait}");
    assert_eq!(rate(json!(u32::MAX)).await["code"], "RATE_LIMITED");
    assert_eq!(rate(json!(1)).await["code"], "VALID");
}

#[tokio::test]
async fn a_bad_request_is_400_and_names_the_field() {
    let server = Setup::new().start();
    for (body, field) in [
        (json!({}), "secret"),
        (json!({"secret": 1}), "secret"),
        (json!({"secret": "x", "cost": -1}), "cost"),
        (json!({"secret": "x", "cost": 1.5}), "cost"),
        (json!({"secret": "x", "cost": 4_294_967_296_u64}), "cost"),
        (json!({"secret": "x", "cost": "1"}), "cost"),
        (json!({"secret": "x", "requiredScopes": "build"}), "requiredScopes"),
        (json!({"secret": "x", "requiredScopes": ["a b"]}), "requiredScopes"),
        (json!({"secret": "x", "requiredScopes": vec!["a"; 65]}), "requiredScopes"),
        (json!({"secret": "x", "organization": 1}), "organization"),
        (json!({"secret": "x", "organization": "o".repeat(129)}), "organization"),
        (json!({"secret": "x", "instance": "o".repeat(129)}), "instance"),
        (json!({"secret": "x", "environment": "o".repeat(129)}), "environment"),
        (json!({"secret": "x", "keyspace": []}), "keyspace"),
        (json!({"secret": "x", "orgId": "o"}), "orgId"),
    ] {
        let message = ask(&server, body).await.bad(&[field]);
        assert!(!message.contains("\"x\""), "{message}");
    }
}

/// Keys of a product that was removed from the configuration must not stay valid.
#[tokio::test]
async fn a_key_whose_keyspace_is_no_longer_configured_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let config = format!(
            "[[keyspace]]\nname = \"{name}\"\nprefix = \"x_\"\nsecret = {{ encoding = \"base64url\", bytes = 32 }}\n"
        );
        Setup::new().config(&config).folder(folder.path()).start()
    };
    let mut server = start("before");
    let key = server.create(json!({"name": "n"})).await;
    assert_eq!(server.stop(), Some(0));
    let server = start("after");
    for _ in 0..2 {
        assert_eq!(code(&server, json!({"secret": key["key"]})).await, "NOT_FOUND");
    }
    let own = server.rest("GET", "/api/v1/keys").bearer_auth(key["key"].as_str().unwrap());
    reply(own).await.refused(401, "not_found");
    let path = format!("/api/api-keys/{}", key["id"].as_str().unwrap());
    for method in ["GET", "DELETE"] {
        reply(server.rest(method, &path).bearer_auth(ROOT)).await.refused(404, "not_found");
    }
}
