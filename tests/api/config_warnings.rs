//! What `keyward config check` warns of and a start logs, and settings that are refused for what they allow.

use std::{path::Path, process::Output};

use crate::support::{Setup, tls::Authority};

fn run(setup: &Setup, folder: &Path, arguments: &[&str]) -> Output {
    setup.command(folder, arguments).output().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_allowed_and_seldom_meant_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let keyspace = "[[keyspace]]\nname = \"x\"\nsecret = { encoding = \"base64url\", bytes = 32 }\nprefix = ";
    let zeros = data_encoding::BASE64.encode(&[0; 32]);
    let plain = || Setup::new();
    for (setup, expected) in [
        (plain().database("postgres://u:hunter2@db.example/k?sslmode=disable"), "database.url: sslmode=disable"),
        (
            plain().env("DATABASE_MIGRATE_URL", "postgres://u:hunter2@db.example/k?sslmode=disable"),
            "database.migrate_url: sslmode=disable",
        ),
        (
            plain()
                .env("KEYWARD_RATE_LIMIT_STORE", "redis://:hunter2@cache.example")
                .env("KEYWARD_RATE_LIMIT_INSECURE", "true"),
            "rate_limit.store: is on another machine",
        ),
        (plain().env("KEYWARD_RATE_LIMIT_STORE", "redis://cache"), "rate_limit.store: is on another machine"),
        (plain().config("[http]\ntrusted_proxies = [\"0.0.0.0/0\"]"), "http.trusted_proxies: 0.0.0.0/0"),
        (plain().config("[http]\ntrusted_proxies = [\"128.0.0.0/1\"]"), "http.trusted_proxies: 128.0.0.0/1"),
        (plain().config("[webhooks]\nallow_cidrs = [\"::/0\"]"), "webhooks.allow_cidrs: ::/0"),
        (plain().config("[webhooks]\nallow_cidrs = [\"2000::/3\"]"), "webhooks.allow_cidrs: 2000::/3"),
        (plain().config("[webhooks]\nallow_cidrs = [\"::ffff:0:0/96\"]"), "webhooks.allow_cidrs: ::ffff:0.0.0.0/96"),
        (plain().env("KEYWARD_METRICS_ADDR", "0.0.0.0:9090"), "server.metrics_addr: 0.0.0.0:9090"),
        (
            plain().env("KEYWARD_HTTP_ADDR", "[::]:8080").env("KEYWARD_INSECURE", "true"),
            "server.http_addr: [::]:8080 serves metrics in plain text",
        ),
        (plain().env("KEYWARD_MASTER_KEY", &zeros), "KEYWARD_MASTER_KEY: a key is all zeros"),
        (plain().config(&format!("{keyspace}\"eyJ_\"")), "keyspace \"x\": the prefix \"eyJ_\""),
        (plain().config(&format!("{keyspace}\"ey\"")), "keyspace \"x\": the prefix \"ey\""),
        (plain().env("KEYWARD_GRPC_ADDRESS", "127.0.0.1:1"), "KEYWARD_GRPC_ADDRESS: is not a setting"),
    ] {
        let output = run(&setup, folder.path(), &["config", "check"]);
        let text = error(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with(&format!("warning: {expected}")), "{text}");
        assert!(!text.contains("hunter2") && !text.contains(&zeros), "{text}");
    }
    // What is usual is not: nor are variables that Kubernetes sets for a service of this name.
    for setup in [
        plain().database("postgres://u:p@127.0.0.1/k?sslmode=disable"),
        plain().database("postgres://u:p@db.example/k?sslmode=verify-full"),
        plain().env("KEYWARD_RATE_LIMIT_STORE", "rediss://:p@cache.example"),
        plain().config("[http]\ntrusted_proxies = [\"10.0.0.0/8\"]"),
        plain().config("[webhooks]\nallow_cidrs = [\"fd00::/16\", \"::ffff:10.0.0.0/104\"]"),
        plain().env("KEYWARD_METRICS_ADDR", "127.0.0.1:9090"),
        plain()
            .env("KEYWARD_HTTP_ADDR", "0.0.0.0:8080")
            .env("KEYWARD_INSECURE", "true")
            .env("KEYWARD_METRICS_ADDR", "127.0.0.1:9090"),
        plain().env("KEYWARD_SERVICE_HOST", "10.0.0.1").env("KEYWARD_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        // Of a service of the name keyward-blue.
        plain().env("KEYWARD_BLUE_SERVICE_HOST", "10.0.0.1").env("KEYWARD_BLUE_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        plain().env("KEYWARD_AGENT_ADDR", "127.0.0.1:1"),
        plain().env("KEYWARD_API_KEY", "ak_1").env("KEYWARD_URL", "https://keys.example"),
    ] {
        let output = run(&setup, folder.path(), &["config", "check"]);
        assert_eq!((output.status.code(), error(&output).as_str()), (Some(0), ""), "{output:?}");
    }
}

/// With TLS, the metrics on the address of REST are not in plain text.
#[test]
fn metrics_behind_tls_are_not_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let server = Authority::new(folder.path(), "ca").server("server");
    let setup = Setup::new()
        .env("KEYWARD_HTTP_ADDR", "0.0.0.0:8080")
        .env("KEYWARD_TLS_CERT", server.cert.to_str().unwrap())
        .env("KEYWARD_TLS_KEY", server.key.to_str().unwrap());
    let output = run(&setup, folder.path(), &["config", "check"]);
    assert!(output.status.success() && !error(&output).contains("plain text"), "{output:?}");
}

/// The start logs them, too.
#[tokio::test]
async fn a_start_logs_the_warnings_of_the_check() {
    let server = Setup::new().env("KEYWARD_GRPC_ADDRESS", "127.0.0.1:1").start();
    server.logged("KEYWARD_GRPC_ADDRESS: is not a setting of keyward").await;
}

#[test]
fn an_admin_scope_among_the_defaults_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new().config(
        "[[keyspace]]\nname = \"x\"\nprefix = \"x_\"\nsecret = { encoding = \"base64url\", bytes = 32 }\n\
         scopes = [\"use\", \"admin\"]\nadmin_scope = \"admin\"\ndefault_scopes = [\"use\", \"admin\"]\n",
    );
    let output = run(&setup, folder.path(), &["config", "check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("keyspace[0].default_scopes: must not hold the admin_scope"), "{}", error(&output));
    assert!(setup.try_start().is_err());
}

#[test]
fn a_redis_elsewhere_without_tls_has_to_be_allowed() {
    let folder = tempfile::tempdir().unwrap();
    for (store, allowed, code) in [
        ("redis://:hunter2@cache.example", None, 1),
        ("valkey://u:hunter2@10.0.0.7:6379", None, 1),
        ("redis://:hunter2@cache.example", Some("false"), 1),
        ("redis://:hunter2@cache.example", Some("true"), 0),
        ("rediss://:hunter2@cache.example", None, 0),
        ("redis://:hunter2@localhost", None, 0),
        ("redis://:hunter2@[::1]", None, 0),
        // Warned of, but nothing secret is sent.
        ("redis://cache.example", None, 0),
    ] {
        let mut setup = Setup::new().env("KEYWARD_RATE_LIMIT_STORE", store);
        if let Some(allowed) = allowed {
            setup = setup.env("KEYWARD_RATE_LIMIT_INSECURE", allowed);
        }
        let output = run(&setup, folder.path(), &["config", "check"]);
        let text = error(&output);
        assert_eq!(output.status.code(), Some(code), "{store} {allowed:?}: {text}");
        assert!(!text.contains("hunter2") && (code == 0 || text.contains("rediss://")), "{text}");
    }
}
