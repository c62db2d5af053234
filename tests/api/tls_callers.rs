//! Mutual TLS: callers that are identified by a name in their certificate.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    server::ROOT,
    tls::{As, Authority, Identity, table},
};

const GATEWAY: &str = "spiffe://example.org/gateway";
const LIMITED: &str = "spiffe://example.org/norrix";

const CLIENTS: &str = r#"
[[tls.client]]
san = "spiffe://example.org/gateway"
role = "verify"

[[tls.client]]
san = "spiffe://example.org/norrix"
role = "verify"
keyspaces = ["norrix"]

[[tls.client]]
san = "ops.example.org"
role = "root"
"#;

struct World {
    _folder: tempfile::TempDir,
    ca: Authority,
    server: Server,
}

fn world(more: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let table = table(&ca.server("server"), Some(&ca.cert));
    let server = Setup::new().ready("all").and(&table).and(more).and(CLIENTS).start();
    World { _folder: folder, ca, server }
}

fn known<'a>(ca: &'a Path, identity: &'a Identity) -> As<'a> {
    As { ca, identity: Some(identity), bearer: None }
}

fn check(secret: &Value) -> Value {
    json!({"secret": secret})
}

#[tokio::test]
async fn a_configured_name_in_a_certificate_identifies_a_caller_on_both_listeners() {
    let World { ca, server, .. } = &world("");
    // DNS names are case-insensitive, and a certificate may have other names, too.
    let ops = ca.client("ops", &["other.example.org", "OPS.example.org"]);
    let operator = known(&ca.cert, &ops);
    let made = operator.call(server, "Create", &json!({"keyspace": "norrix", "organization": "acme"}));
    assert_eq!(made["key"]["createdBy"], "san:ops.example.org");
    let body = json!({"name": "n", "keyspace": "noro"});
    let rest = operator.curl(server, "/api/api-keys", Some(&body), &[]);
    assert_eq!((rest.status, &rest.json()["createdBy"]), (201, &json!("san:ops.example.org")));
    let listed = operator.curl(server, "/api/api-keys?createdBy=san:ops.example.org", None, &[]).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    server.logged("caller=\"operator\" actor=\"san:ops.example.org\"").await;

    let gateway = ca.client("gateway", &[GATEWAY]);
    let service = known(&ca.cert, &gateway);
    for secret in [&made["secret"], &rest.json()["key"]] {
        assert_eq!(service.call(server, "Verify", &check(secret))["code"], "CODE_VALID");
        let verdict = service.curl(server, "/api/v1/verify", Some(&check(secret)), &[]);
        assert_eq!((verdict.status, &verdict.json()["code"]), (200, &json!("VALID")));
        let streamed = service.call(server, "VerifyStream", &json!({"id": 1, "request": check(secret)}));
        assert_eq!(streamed["response"]["code"], "CODE_VALID");
    }
    let (good, refusal) = service.grpcurl(server, "List", &json!({}));
    assert!(!good && refusal.contains("PermissionDenied"), "{refusal}");
    assert_eq!(service.curl(server, "/api/api-keys", None, &[]).status, 403);
    server.logged("caller=\"service\" actor=\"san:spiffe://example.org/gateway\"").await;

    // A caller that is limited to one keyspace.
    let norrix = ca.client("norrix", &[LIMITED]);
    let limited = known(&ca.cert, &norrix);
    assert_eq!(limited.call(server, "Verify", &check(&made["secret"]))["code"], "CODE_VALID");
    let foreign = &rest.json()["key"];
    assert_eq!(limited.call(server, "Verify", &check(foreign))["code"], "CODE_NOT_FOUND");
    assert_eq!(limited.curl(server, "/api/v1/verify", Some(&check(foreign)), &[]).json()["code"], "NOT_FOUND");
    let streamed = limited.call(server, "VerifyStream", &json!({"id": 1, "request": check(foreign)}));
    assert_eq!(streamed["response"]["code"], "CODE_NOT_FOUND");
}

#[test]
fn a_secret_takes_precedence_over_the_certificate() {
    let World { ca, server, .. } = &world("");
    let (gateway, ops) = (ca.client("gateway", &[GATEWAY]), ca.client("ops", &["ops.example.org"]));
    let root = As { bearer: Some(ROOT), ..known(&ca.cert, &gateway) };
    assert_eq!(root.call(server, "Create", &json!({"keyspace": "noro"}))["key"]["createdBy"], "root");
    assert_eq!(root.curl(server, "/api/api-keys", None, &[]).status, 200);
    // An invalid secret is rejected: the certificate does not replace it.
    let forged = As { bearer: Some("kw_forged"), ..known(&ca.cert, &ops) };
    for call in ["List", "Verify"] {
        let (good, refusal) = forged.grpcurl(server, call, &json!({}));
        assert!(!good && refusal.contains("Unauthenticated"), "{refusal}");
    }
    assert_eq!(forged.curl(server, "/api/api-keys", None, &[]).status, 401);
}

#[tokio::test]
async fn a_certificate_without_a_configured_name_identifies_nobody_and_an_untrusted_one_is_refused() {
    let World { ca, server, .. } = &world("");
    let stranger = Authority::new(&ca.cert.with_file_name(""), "stranger");
    // A certificate of the right authority without a configured name is treated like none.
    for sans in [&[][..], &["spiffe://example.org/gateway2"], &["SPIFFE://EXAMPLE.ORG/GATEWAY"], &["*.example.org"]] {
        let identity = ca.client("nobody", sans);
        let nobody = known(&ca.cert, &identity);
        let answer = nobody.curl(server, "/api/api-keys", None, &[]);
        assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("missing_credential")), "{sans:?}");
        let (good, refusal) = nobody.grpcurl(server, "Verify", &check(&json!("x")));
        assert!(!good && refusal.contains("Unauthenticated"), "{refusal}");
        let anybody = As { identity: None, ..nobody };
        assert_eq!(anybody.curl(server, "/api/api-keys", None, &[]).json()["code"], "missing_credential");
    }
    for identity in [
        stranger.client("forged", &["ops.example.org"]),
        ca.expired_client("expired", &["ops.example.org"]),
        // A server certificate is not valid for a client.
        ca.server("server"),
    ] {
        let refused = known(&ca.cert, &identity);
        assert_eq!(refused.curl(server, "/healthz", None, &[]).status, 0, "{identity:?}");
        assert!(!refused.grpcurl(server, "List", &json!({})).0);
    }
    // The log has the reason.
    server.logged("TLS handshake failed client=127.0.0.1 port=Grpc error=invalid peer certificate").await;
}

#[test]
fn client_certificates_can_be_required() {
    let World { ca, server, .. } = &world("require_client = true");
    let bearer = As { ca: &ca.cert, identity: None, bearer: Some(ROOT) };
    assert_eq!(bearer.curl(server, "/healthz", None, &[]).status, 0);
    assert!(!bearer.grpcurl(server, "List", &json!({})).0);
    let identity = ca.client("nobody", &[]);
    let bearer = As { identity: Some(&identity), ..bearer };
    assert_eq!(bearer.curl(server, "/healthz", None, &[]).status, 200);
    assert!(bearer.grpcurl(server, "List", &json!({})).0);
}

/// A browser presents its certificate for the requests of any page.
#[test]
fn a_web_page_cannot_use_the_browsers_certificate() {
    let World { ca, server, .. } = &world("");
    let identity = ca.client("ops", &["ops.example.org"]);
    let operator = known(&ca.cert, &identity);
    for header in ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"] {
        let answer = operator.curl(server, "/api/v1/keys", Some(&json!({})), &["-H", header]);
        assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("forbidden")), "{header}");
    }
    let header = ["-H", "origin: https://evil.example"];
    let (good, refusal) = operator.grpcurl_with(server, "List", &json!({}), &header);
    assert!(!good && refusal.contains("PermissionDenied"), "{refusal}");
    let root = As { bearer: Some(ROOT), ..operator };
    assert_eq!(root.curl(server, "/api/api-keys", None, &["-H", "Origin: https://x.example"]).status, 200);
    assert!(root.grpcurl_with(server, "List", &json!({}), &header).0);
}

/// An invalid credential must be rejected, not replaced by the certificate.
#[test]
fn a_secret_that_is_not_accepted_is_not_replaced_by_the_certificate() {
    let World { ca, server, .. } = &world("");
    let identity = ca.client("ops", &["ops.example.org"]);
    let operator = known(&ca.cert, &identity);
    for header in ["Authorization: Basic b3BzOm9wcw==", "Authorization;", "X-API-Key: kw_forged", "X-API-Key;"] {
        let answer = operator.curl(server, "/api/api-keys", None, &["-H", header]);
        assert_eq!(answer.status, 401, "{header}");
    }
    assert_eq!(operator.curl(server, "/api/api-keys", None, &["-H", "Cookie: a=b"]).status, 200);
}

/// An authority that checks DNS names may let clients choose their URIs.
#[tokio::test]
async fn a_uri_that_looks_like_a_dns_name_is_not_taken_for_one() {
    let World { ca, server, .. } = &world("");
    let named = ca.client("named", &["ops.example.org"]);
    let operator = known(&ca.cert, &named);
    operator.call(server, "List", &json!({}));
    for (name, uri) in [("plain", "ops.example.org"), ("upper", "OPS.EXAMPLE.ORG")] {
        let forged = ca.client_of_uri(name, uri);
        let (done, output) = known(&ca.cert, &forged).grpcurl(server, "List", &json!({}));
        assert!(!done && output.contains("Unauthenticated"), "{uri}: {output}");
    }
}
