//! Bad request bodies: each error names the fields.

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, reply, reply::from_now, server::ROOT};

const CREATE: [&str; 2] = ["/api/v1/keys", "/api/api-keys"];
const DAY: std::time::Duration = std::time::Duration::from_hours(24);

/// Posts as the operator; adds a name where one is required.
async fn post(server: &Server, path: &str, mut body: Value) -> Reply {
    if body.get("name").is_none() {
        body["name"] = "n".into();
    }
    reply(server.rest("POST", path).bearer_auth(ROOT).json(&body)).await
}

async fn raw(server: &Server, method: &str, path: &str, kind: Option<&str>, body: impl Into<reqwest::Body>) -> Reply {
    let mut request = server.rest(method, path).bearer_auth(ROOT).body(body);
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    reply(request).await
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_400_with_the_position_of_the_error() {
    let server = Setup::new().start();
    let deep = format!("{{\"metadata\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    for path in [CREATE[0], CREATE[1], "/api/v1/verify"] {
        for body in [
            "{",
            "nonsense",
            "{\"name\":}",
            "{\"name\":\"a\"} x",
            "\u{feff}\u{feff}{}",
            "{'name':'a'}",
            " ",
            deep.as_str(),
        ] {
            let message = raw(&server, "POST", path, Some("application/json"), body.to_owned()).await.bad(&["body"]);
            assert!(message.starts_with("body: is not JSON, at line "), "{message}");
        }
        for body in ["[]", "null", "\"name\"", "1", "true"] {
            let message = raw(&server, "POST", path, Some("application/json"), body).await.bad(&["body"]);
            assert_eq!(message, "body: must be a JSON object");
        }
        for body in [&b"{\"name\":\"\xff\"}"[..], b"{\"name\":\"\\ud800\"}", b"\xff\xfe", b"{\"na\xc3\":1}"] {
            raw(&server, "POST", path, Some("application/json"), body).await.bad(&["body"]);
        }
    }
}

#[tokio::test]
async fn a_body_of_another_content_type_is_415_and_an_empty_body_may_have_any() {
    let server = Setup::new().start();
    for path in CREATE {
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")] {
            let message = raw(&server, "POST", path, kind, "{\"name\":\"a\"}").await.refused(415, "invalid_argument");
            assert!(message.starts_with("body: "), "{message}");
        }
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"] {
            raw(&server, "POST", path, Some(kind), "{\"name\":\"a\"}").await.good(201);
        }
    }
    for kind in [None, Some("application/json"), Some("text/plain")] {
        raw(&server, "POST", "/api/v1/keys", kind, "").await.good(201);
    }
}

/// The response must arrive although the client is still sending: after a reset the client would not know why.
#[tokio::test]
async fn a_body_larger_than_one_mebibyte_is_413() {
    let server = Setup::new().start();
    let of = |bytes: usize| format!("{{\"name\":\"{}\"}}", "a".repeat(bytes - 11));
    for path in CREATE {
        let most = raw(&server, "POST", path, Some("application/json"), of(1 << 20)).await;
        most.bad(&["name"]);
        for bytes in [(1 << 20) + 1, 2 << 20, 8 << 20] {
            let refused = raw(&server, "POST", path, Some("application/json"), of(bytes)).await;
            assert_eq!(refused.refused(413, "invalid_argument"), "body: must be at most 1 MiB");
        }
    }
    // So must the response to a caller whose body is not read at all.
    let request = server.rest("POST", "/api/api-keys").header("content-type", "application/json").body(of(8 << 20));
    reply(request).await.refused(401, "missing_credential");
    reply(server.rest("POST", "/nothing").body(of(8 << 20))).await.refused(404, "no_such_path");
    // The log line of a 413 shows the failure.
    server.logged("INVALID_ARGUMENT").await;
}

#[tokio::test]
async fn an_unknown_field_is_named_in_the_error() {
    let server = Setup::new().start();
    for path in CREATE {
        // Among them are fields of the gRPC API and misspelled ones.
        for field in ["expires", "organization", "webhook_url", "ttl", "key", "Name", "expire_time", "id", "", "ключ"]
        {
            let message = post(&server, path, json!({ field: "x" })).await.bad(&[field]);
            assert_eq!(message, format!("{field}: unknown field"));
        }
    }
    let created = server.create(json!({"name": "n"})).await;
    let one = format!("/api/api-keys/{}", created["id"].as_str().unwrap());
    let request = server.rest("PATCH", &one).bearer_auth(ROOT).json(&json!({"webhook": "", "name": "new"}));
    reply(request).await.bad(&["name"]);
    let request = server.rest("POST", "/api/v1/verify").bearer_auth(ROOT).json(&json!({"secret": "x", "orgId": "o"}));
    reply(request).await.bad(&["orgId"]);
}

#[tokio::test]
async fn every_field_refuses_values_of_another_json_type() {
    let server = Setup::new().start();
    for path in CREATE {
        for field in ["webhook", "name", "keyspace", "orgId", "instanceId", "environment"] {
            for value in [json!(1), json!(true), json!([]), json!({}), json!(["a"])] {
                post(&server, path, json!({ field: value })).await.bad(&[field]);
            }
        }
        for value in [json!("build"), json!([1]), json!({"build": true}), json!([["build"]]), json!([null]), json!(1)] {
            post(&server, path, json!({ "scopes": value })).await.bad(&["scopes"]);
        }
        for value in [json!("a"), json!([]), json!({"a": 1}), json!({"a": null}), json!({"a": {"b": "c"}})] {
            post(&server, path, json!({ "metadata": value })).await.bad(&["metadata"]);
        }
    }
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let server = Setup::new().start();
    let body = json!({"name": 1, "orgId": [], "scopes": [], "metadata": "m", "colour": "red"});
    reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&body))
        .await
        .bad(&["orgId", "name", "scopes", "metadata", "colour"]);
}

#[tokio::test]
async fn null_means_the_same_as_an_absent_field() {
    let server = Setup::new().start();
    let body = json!({
        "name": "n", "webhook": null, "scopes": null, "expiresInDays": null, "expiresAt": null, "keyspace": null,
        "orgId": null, "instanceId": null, "environment": null, "metadata": null,
    });
    for path in CREATE {
        post(&server, path, body.clone()).await.good(201);
    }
}

#[tokio::test]
async fn a_name_is_required_on_the_management_route_only() {
    let server = Setup::new().start();
    for body in [json!({}), json!({"name": ""}), json!({"name": null})] {
        let request = server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&body);
        assert_eq!(reply(request).await.bad(&["name"]), "name: is required");
        let request = server.rest("POST", "/api/v1/keys").bearer_auth(ROOT).json(&body);
        reply(request).await.good(201);
    }
    reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT)).await.bad(&["name"]);
}

#[tokio::test]
async fn a_duplicate_name_is_refused_at_any_depth() {
    let server = Setup::new().start();
    for body in [
        r#"{"name": "a", "name": "b"}"#,
        r#"{"name": "a", "scopes": ["x"], "scopes": ["x", "y"]}"#,
        r#"{"name": "a", "metadata": {"k": "1", "k": "2"}}"#,
        r#"{"name": "a", "n\u0061me": "b"}"#,
    ] {
        for path in CREATE {
            let message = raw(&server, "POST", path, Some("application/json"), body).await.bad(&["body"]);
            assert!(message.contains("twice"), "{message}");
        }
    }
    // The same name in two objects is no duplicate.
    let body = r#"{"name": "a", "metadata": {"name": "b"}}"#;
    raw(&server, "POST", CREATE[1], Some("application/json"), body).await.good(201);
}

/// Otherwise a client that waits for `100 Continue` would send the whole body in vain.
#[tokio::test]
async fn a_body_that_is_declared_too_large_is_refused_before_it_is_sent() {
    let server = Setup::new().start();
    let mut stream = std::net::TcpStream::connect(&server.http).unwrap();
    let head = format!(
        "POST /api/api-keys HTTP/1.1\r\nhost: k\r\nauthorization: Bearer {ROOT}\r\ncontent-type: application/json\r\n\
         content-length: 2000000\r\nexpect: 100-continue\r\n\r\n"
    );
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn an_empty_list_of_scopes_is_refused() {
    let server = Setup::new().start();
    for path in CREATE {
        post(&server, path, json!({"scopes": []})).await.bad(&["scopes"]);
        post(&server, path, json!({"scopes": ["read"]})).await.good(201);
    }
}

#[tokio::test]
async fn expires_in_days_is_a_whole_number_from_1_to_3650() {
    let server = Setup::new().start();
    for path in CREATE {
        for days in [json!(0), json!(3_651), json!(1.5), json!("x"), json!("30"), json!(-1), json!(true), json!(1e30)] {
            post(&server, path, json!({ "expiresInDays": days })).await.bad(&["expiresInDays"]);
        }
        for days in [json!(1), json!(3_650), json!(30.0), json!(3e2)] {
            post(&server, path, json!({ "expiresInDays": days })).await.good(201);
        }
    }
}

#[tokio::test]
async fn expires_at_is_a_time_in_rfc_3339_within_ten_years() {
    let server = Setup::new().start();
    let (past, far, near) = ("2020-01-01T00:00:00Z".to_owned(), from_now(DAY * 3_660), from_now(DAY * 3_650));
    for path in CREATE {
        for bad in
            [&past, &far, "2030-01-01", "tomorrow", "", "2030-13-01T00:00:00Z", "2030-01-01 00:00", "1714000000000"]
        {
            post(&server, path, json!({ "expiresAt": bad })).await.bad(&["expiresAt"]);
        }
        for bad in [json!(true), json!([]), json!({})] {
            post(&server, path, json!({ "expiresAt": bad })).await.bad(&["expiresAt"]);
        }
        post(&server, path, json!({ "expiresAt": near })).await.good(201);
        post(&server, path, json!({"expiresAt": near, "expiresInDays": 3})).await.bad(&["expiresAt"]);
    }
    let offset = near.replace('Z', "+02:00");
    let made = post(&server, CREATE[1], json!({ "expiresAt": offset })).await.good(201);
    assert!(made["expiresAt"].as_str().unwrap().ends_with('Z'), "{made}");
}

#[tokio::test]
async fn bounds_are_those_of_grpc_and_errors_use_rests_field_names() {
    let server = Setup::new().start();
    let text = |length: usize| "é".repeat(length);
    let scopes = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>();
    let pairs = |count: usize| (0..count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    let url = |length: usize| format!("https://e.example/{}", "a".repeat(length - 18));
    for path in CREATE {
        for (field, good, bad) in [
            ("name", json!(text(200)), json!(text(201))),
            ("orgId", json!(text(128)), json!(text(129))),
            ("instanceId", json!(text(128)), json!(text(129))),
            ("environment", json!(text(128)), json!(text(129))),
            ("scopes", json!(scopes(64)), json!(scopes(65))),
            ("scopes", json!(["A-z_0.9:x"]), json!(["a b"])),
            ("scopes", json!(["s".repeat(64)]), json!(["s".repeat(65)])),
            ("scopes", json!(["a"]), json!([""])),
            ("metadata", json!(pairs(32)), json!(pairs(33))),
            ("metadata", json!({"k": "v".repeat(4_095)}), json!({"k": "v".repeat(4_096)})),
            ("webhook", json!(url(2_048)), json!(url(2_049))),
            ("webhook", json!("https://example.com"), json!("http://example.com")),
            ("webhook", json!("https://8.8.8.8/x"), json!("https://user:pw@example.com/")),
            ("webhook", json!("https://h.example"), json!("/relative")),
            ("keyspace", json!("default"), json!("none-such")),
        ] {
            post(&server, path, json!({ field: good })).await.good(201);
            post(&server, path, json!({ field: bad })).await.bad(&[field]);
        }
    }
}

#[tokio::test]
async fn a_patch_must_have_a_webhook_and_no_other_settings() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n"})).await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    for body in [json!({}), json!({"webhook": null}), json!({"webhook": 1}), json!({"webhook": "http://e.example"})] {
        reply(server.rest("PATCH", &path).bearer_auth(ROOT).json(&body)).await.bad(&["webhook"]);
    }
    reply(server.rest("PATCH", &path).bearer_auth(ROOT)).await.bad(&["webhook"]);
    raw(&server, "PATCH", &path, None, "{}").await.refused(415, "invalid_argument");
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_whole_numbers_may_have_any_form() {
    let server = Setup::new().start();
    let json = Some("application/json");
    raw(&server, "POST", CREATE[1], json, "\u{feff}{\"name\":\"a\"}").await.good(201);
    for (limit, window) in [("100.0", "60000.0"), ("1e2", "6e4"), ("100", "60000")] {
        let body = format!("{{\"name\":\"a\",\"rateLimit\":{{\"limit\":{limit},\"windowMs\":{window}}}}}");
        raw(&server, "POST", CREATE[1], json, body).await.good(201);
    }
    raw(&server, "POST", CREATE[1], json, "{\"name\":\"a\",\"expiresInDays\":7.0}").await.good(201);
    let body = "{\"name\":\"a\",\"rateLimit\":{\"limit\":1.5,\"windowMs\":60000}}";
    raw(&server, "POST", CREATE[1], json, body).await.bad(&["rateLimit.limit"]);
}
