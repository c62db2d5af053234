//! Which credential of a request counts, in an installation with three products.

#![expect(clippy::similar_names, reason = "two products' names are a letter apart")]

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, reply, reply::until, server::ROOT};

const OWN: &str = "/api/v1/keys";

/// A secret and the id of its key.
#[derive(Clone)]
struct Key {
    secret: String,
    id: String,
}

async fn key(server: &Server, keyspace: &str) -> Key {
    let body = match keyspace {
        "norrix" => json!({"name": "n", "keyspace": "norrix", "orgId": "o", "scopes": ["admin"]}),
        "nora" => json!({
            "name": "n", "keyspace": "nora", "orgId": "o", "instanceId": "i", "environment": "sandbox",
        }),
        _ => json!({"name": "n", "keyspace": keyspace}),
    };
    let made = server.create(body).await;
    Key { secret: made["key"].as_str().unwrap().to_owned(), id: made["id"].as_str().unwrap().to_owned() }
}

/// Requests the caller's own record.
fn ask(server: &Server, bearer: Option<&str>, x_api_key: Option<&str>) -> RequestBuilder {
    let mut request = server.rest("GET", OWN);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    if let Some(secret) = x_api_key {
        request = request.header("x-api-key", secret);
    }
    request
}

async fn id(request: RequestBuilder) -> Value {
    reply(request).await.good(200)["id"].clone()
}

#[tokio::test]
async fn a_secret_counts_only_in_the_header_that_its_keyspace_reads() {
    let server = Setup::new().ready("all").start();
    for (keyspace, bearer, x_api_key) in [("norrix", true, false), ("noro", true, false), ("nora", false, true)] {
        let key = key(&server, keyspace).await;
        for (counts, request) in
            [(bearer, ask(&server, Some(&key.secret), None)), (x_api_key, ask(&server, None, Some(&key.secret)))]
        {
            if counts {
                assert_eq!(id(request).await, key.id, "{keyspace}");
            } else {
                let message = reply(request).await.refused(401, "missing_credential");
                assert_eq!(message, "No authentication provided");
            }
        }
    }
}

#[tokio::test]
async fn a_keyspace_with_both_headers_reads_both() {
    let config = "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\ncredential = \"any\"\n\
                  secret = { encoding = \"alphanumeric\", length = 40 }\n";
    let server = Setup::new().config(config).start();
    let key = key(&server, "x").await;
    assert_eq!(id(ask(&server, Some(&key.secret), None)).await, key.id);
    assert_eq!(id(ask(&server, None, Some(&key.secret))).await, key.id);
}

#[tokio::test]
async fn if_two_products_secrets_are_sent_the_one_in_its_keyspaces_header_counts() {
    let server = Setup::new().ready("all").start();
    let (norrix, noro, nora) = (key(&server, "norrix").await, key(&server, "noro").await, key(&server, "nora").await);
    // Each pair in both headers: a secret counts if it is in a header that its keyspace reads.
    for (bearer, x_api_key, expected) in [
        (&norrix, &noro, Some(&norrix)),
        (&noro, &norrix, Some(&noro)),
        (&nora, &nora, Some(&nora)),
        (&nora, &norrix, None),
        (&nora, &noro, None),
    ] {
        let request = ask(&server, Some(&bearer.secret), Some(&x_api_key.secret));
        match expected {
            Some(key) => assert_eq!(id(request).await, key.id),
            None => drop(reply(request).await.refused(401, "missing_credential")),
        }
    }
}

/// Of two credentials, a proxy in front may have checked the other one.
#[tokio::test]
async fn two_secrets_that_both_count_are_400() {
    let server = Setup::new().ready("all").start();
    let (norrix, noro, nora) = (key(&server, "norrix").await, key(&server, "noro").await, key(&server, "nora").await);
    for request in [
        ask(&server, Some(&norrix.secret), Some(&nora.secret)),
        ask(&server, Some(&noro.secret), Some(&nora.secret)),
        ask(&server, Some(ROOT), Some(&nora.secret)),
        ask(&server, Some(&noro.secret), None).bearer_auth(&norrix.secret),
        ask(&server, Some(&noro.secret), None).bearer_auth(ROOT),
    ] {
        reply(request).await.bad(&["authorization"]);
    }
    let request = server.rest("DELETE", OWN).bearer_auth(&noro.secret).header("x-api-key", &nora.secret);
    reply(request).await.bad(&["authorization"]);
    assert_eq!(id(ask(&server, Some(&noro.secret), None)).await, noro.id, "nothing was revoked");
}

#[tokio::test]
async fn a_secret_of_an_unknown_prefix_counts_if_nothing_else_does() {
    let server = Setup::new().ready("all").start();
    let (noro, nora) = (key(&server, "noro").await, key(&server, "nora").await);
    let jwt = "eyJhbGciOiJub25lIn0.e30.";
    for request in [ask(&server, Some(jwt), None), ask(&server, None, Some(jwt)), ask(&server, Some(jwt), Some(jwt))] {
        assert_eq!(reply(request).await.refused(401, "malformed"), "Invalid or expired API key");
    }
    assert_eq!(id(ask(&server, Some(jwt), Some(&nora.secret))).await, nora.id);
    assert_eq!(id(ask(&server, Some(&noro.secret), Some(jwt))).await, noro.id);
    // Nora's secret does not count as bearer, so the unknown one counts.
    reply(ask(&server, Some(&nora.secret), Some(jwt))).await.refused(401, "malformed");
    // If no keyspace reads X-API-Key, a secret there is ignored.
    let server = Setup::new().ready("noro").start();
    reply(ask(&server, None, Some(jwt))).await.refused(401, "missing_credential");
}

#[tokio::test]
async fn other_schemes_and_empty_values_are_no_credential() {
    let server = Setup::new().ready("all").start();
    let noro = key(&server, "noro").await;
    for value in ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Token abc", &noro.secret, "Bearer\t"] {
        let request = server.rest("GET", OWN).header("authorization", value);
        reply(request).await.refused(401, "missing_credential");
    }
    reply(server.rest("GET", OWN).header("x-api-key", "")).await.refused(401, "missing_credential");
    for value in [format!("BEARER {}", noro.secret), format!("bearer   {}", noro.secret)] {
        assert_eq!(id(server.rest("GET", OWN).header("authorization", value)).await, noro.id);
    }
}

#[tokio::test]
async fn operators_and_services_use_bearer_only() {
    let server = Setup::new().ready("all").start();
    let operator = server.create(json!({"name": "op", "keyspace": "keyward", "scopes": ["root"]})).await;
    let operator = operator["key"].as_str().unwrap();
    assert!(operator.starts_with("kw_") && operator.len() == 43, "{operator}");
    for secret in [ROOT, operator] {
        reply(server.rest("GET", "/api/api-keys").bearer_auth(secret)).await.good(200);
        let answer = reply(server.rest("GET", "/api/api-keys").header("x-api-key", secret)).await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
}

#[tokio::test]
async fn each_reason_for_a_401_has_its_own_code_and_message() {
    let server = Setup::new().ready("all").start();
    let noro = key(&server, "noro").await;
    let refused = async |secret: &str, code: &str| {
        let answer = reply(ask(&server, Some(secret), None)).await;
        assert_eq!(answer.refused(401, code), "Invalid or expired API key");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{answer:?}");
    };
    // One character is changed: the checksum fails, and there is no look-up.
    let (start, last) = noro.secret.split_at(noro.secret.len() - 1);
    let changed = format!("{start}{}", if last == "0" { '1' } else { '0' });
    refused(&changed, "malformed").await;
    refused(&noro.secret[..20], "malformed").await;
    refused(&format!("{}x", noro.secret), "malformed").await;
    refused("noro_", "malformed").await;
    refused(&"noro_a".repeat(1_000), "malformed").await;

    let soon = json!({"name": "n", "keyspace": "noro"});
    let short = server.create_expiring("/api/api-keys", Some(ROOT), soon).await["key"].as_str().unwrap().to_owned();
    until("the key expires", async || (reply(ask(&server, Some(&short), None)).await.status == 401).then_some(()))
        .await;
    refused(&short, "expired").await;

    reply(server.rest("DELETE", OWN).bearer_auth(&noro.secret)).await.good(200);
    refused(&noro.secret, "revoked").await;
}

/// A valid secret without a row, as after an older backup was restored.
#[tokio::test]
async fn a_valid_secret_without_a_row_is_not_found() {
    let master = data_encoding::BASE64.encode(&[7; 32]);
    let setup = || Setup::new().ready("noro").env("KEYWARD_MASTER_KEY", &master);
    let lost = key(&setup().start(), "noro").await;
    let server = setup().start();
    assert_eq!(
        reply(ask(&server, Some(&lost.secret), None)).await.refused(401, "not_found"),
        "Invalid or expired API key"
    );
}

#[tokio::test]
async fn an_invalid_credential_is_refused_even_if_none_is_required() {
    let server = Setup::new().ready("noro").start();
    let made: Reply = reply(server.rest("POST", OWN).bearer_auth("noro_nonsense")).await;
    made.refused(401, "malformed");
    reply(server.rest("POST", OWN)).await.good(201);
}
