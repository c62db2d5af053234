//! Starting, stopping and operating the service.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Server, Setup, reply, reply::until, server::ROOT};

fn run(setup: &Setup, folder: &Path, arguments: &[&str]) -> Output {
    setup.command(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The root key that a start printed.
fn root_key(server: &Server) -> Option<String> {
    server.output().lines().find_map(|line| line.strip_prefix("root key, shown this once: ").map(str::to_owned))
}

#[tokio::test]
async fn only_the_first_start_creates_and_prints_a_root_key() {
    let folder = tempfile::tempdir().unwrap();
    let setup = || Setup::new().without_root().folder(folder.path());
    let mut server = setup().start();
    let key = root_key(&server).expect("a root key");
    let body = key.strip_prefix("kw_").unwrap();
    assert!(body.len() == 40 && body.bytes().all(|c| c.is_ascii_alphanumeric()), "{key}");
    reply(server.rest("GET", "/api/api-keys").bearer_auth(&key)).await.good(200);
    assert_eq!(server.stop(), Some(0));
    let server = setup().start();
    assert_eq!(root_key(&server), None);
    reply(server.rest("GET", "/api/api-keys").bearer_auth(&key)).await.good(200);
}

#[tokio::test]
async fn with_a_root_credential_no_root_key_is_created() {
    let server = Setup::new().start();
    assert_eq!(root_key(&server), None);
    assert!(!server.output().contains(ROOT));
    let listed = reply(server.rest("GET", "/api/api-keys").bearer_auth(ROOT)).await.good(200);
    assert_eq!(listed["keys"], json!([]));
}

/// A newcomer pastes the printed lines one after another.
#[test]
fn the_printed_lines_create_and_verify_a_key_when_pasted() {
    for name in ["", "norrix", "noro", "nora", "all"] {
        for given in [false, true] {
            let mut setup = Setup::new();
            if !name.is_empty() {
                setup = setup.ready(name);
            }
            if !given {
                setup = setup.without_root();
            }
            let server = setup.start();
            let output = server.output();
            let lines: Vec<&str> = output.lines().filter(|line| line.contains("curl")).collect();
            let [create, verify, list] = lines.as_slice() else { panic!("three lines in {output}") };
            assert!(list.starts_with("grpcurl -plaintext "), "{list}");
            let mut bash = Command::new("bash");
            bash.arg("-c").arg(format!("set -euo pipefail\n{create}\n{verify}")).env("no_proxy", "*");
            let ran = bash.env("KEYWARD_ROOT_KEY", ROOT).output().unwrap();
            let (out, err) = (text(&ran.stdout), text(&ran.stderr));
            assert!(ran.status.success() && err.is_empty(), "{name}: {out} {err}");
            assert!(out.contains("\"code\":\"VALID\""), "{name}: {out}");
        }
    }
}

#[tokio::test]
async fn the_command_root_key_creates_another_root_key() {
    let folder = tempfile::tempdir().unwrap();
    let setup = || Setup::new().without_root().folder(folder.path());
    let made = run(&setup(), folder.path(), &["root-key"]);
    assert!(made.status.success(), "{made:?}");
    let key = text(&made.stdout).trim().to_owned();
    assert!(key.starts_with("kw_") && key.len() == 43, "standard output is the key alone: {key}");
    let server = setup().start();
    assert_eq!(root_key(&server), None, "there is one already");
    reply(server.rest("GET", "/api/api-keys").bearer_auth(&key)).await.good(200);
}

#[test]
fn migrate_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let ran = run(&Setup::new(), folder.path(), &["migrate"]);
        assert!(ran.status.success(), "{ran:?}");
    }
    assert!(folder.path().join("keyward.db").exists());
    Setup::new().folder(folder.path()).start();
}

#[test]
fn the_version_names_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(&Setup::new(), folder.path(), &["--version"]);
    let out = text(&ran.stdout);
    assert!(ran.status.success() && out.starts_with(concat!("keyward ", env!("CARGO_PKG_VERSION"), " (")), "{out}");
}

#[test]
fn an_invalid_command_line_prints_the_usage() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["no-such"][..], &["serve", "--no-such"], &["config"], &[]] {
        let ran = run(&Setup::new(), folder.path(), arguments);
        assert!(!ran.status.success() && text(&ran.stderr).contains("Usage: keyward"), "{ran:?}");
    }
}

/// The body of a request is still being sent when the signal arrives.
#[test]
fn both_signals_stop_the_service_with_status_0_after_requests_in_flight() {
    for signal in ["TERM", "INT"] {
        let mut server = Setup::new().start();
        let mut stream = std::net::TcpStream::connect(&server.http).unwrap();
        let head = format!(
            "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ROOT}\r\n\
             content-type: application/json\r\ncontent-length: 12\r\n\r\n{{\"name\""
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Once a later request is answered, the server has read the head of this one.
        let mut other = std::net::TcpStream::connect(&server.http).unwrap();
        other.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        other.read_to_string(&mut String::new()).unwrap();
        server.signal(signal);
        let start = Instant::now();
        while std::net::TcpStream::connect(&server.http).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5), "the port is still open");
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(b":\"n\"}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{signal}: {answer:?}");
        assert_eq!(server.wait(), Some(0), "{signal}");
        assert!(server.log().contains("stopped"));
    }
}

/// SIGHUP arrives when a terminal is closed, or from a tool that wants the settings to be read again.
#[tokio::test]
async fn sighup_does_not_stop_the_service() {
    let server = Setup::new().start();
    for _ in 0..3 {
        server.signal("HUP");
        assert_eq!(reply(server.rest("GET", "/healthz")).await.status, 200);
    }
}

/// Each of two processes on one file would answer from a cache that the other one makes stale.
#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let first = Setup::new().start();
    let second = run(&Setup::new(), first.folder(), &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let error = text(&second.stderr);
    assert!(error.contains("keyward.db") && error.contains("in use by another keyward process"), "{error}");
    reply(first.rest("GET", "/readyz")).await.good(200);
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["KEYWARD_GRPC_ADDR", "KEYWARD_HTTP_ADDR", "KEYWARD_METRICS_ADDR"] {
        let folder = tempfile::tempdir().unwrap();
        let ran = run(&Setup::new().env(name, &address), folder.path(), &["serve"]);
        assert_eq!(ran.status.code(), Some(1));
        let error = text(&ran.stderr);
        assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
    }
}

#[tokio::test]
async fn the_bound_addresses_are_printed_one_per_line() {
    let server = Setup::new().env("KEYWARD_METRICS_ADDR", "127.0.0.1:0").start();
    let output = server.output();
    for name in ["grpc", "http", "metrics"] {
        let prefix = format!("{name} listening on 127.0.0.1:");
        let port = output.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
        assert_ne!(port.parse::<u16>().unwrap(), 0);
    }
    assert!(!server.log().contains("listening on"), "logs go to standard error");
}

#[tokio::test]
async fn a_separate_metrics_address_serves_the_metrics_and_the_probes_alone() {
    let server = Setup::new().env("KEYWARD_METRICS_ADDR", "127.0.0.1:0").start();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let apart = |path: &str| client.get(format!("http://{}{path}", server.metrics.as_ref().unwrap()));
    for path in ["/metrics", "/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(reply(apart(path)).await.status, 200, "{path}");
    }
    reply(apart("/api/api-keys").bearer_auth(ROOT)).await.refused(404, "no_such_path");
    reply(server.rest("GET", "/metrics")).await.refused(404, "no_such_path");
    assert_eq!(reply(server.rest("GET", "/readyz")).await.status, 200, "the probes stay on the HTTP address, too");
}

#[tokio::test]
async fn metrics_count_verdicts_calls_and_connections() {
    let server = Setup::new().ready("all").start();
    let key = server.create(json!({"name": "n", "keyspace": "noro"})).await;
    let verify = async |body: Value| server.call("POST", "/api/v1/verify", Some(ROOT), body).await;
    for body in [
        json!({"secret": key["key"]}),
        json!({"secret": key["key"]}),
        json!({"secret": key["key"], "requiredScopes": ["x"]}),
        json!({"secret": "nonsense"}),
    ] {
        verify(body).await;
    }
    let metrics = reply(server.rest("GET", "/metrics")).await.text;
    let value = |name: &str| -> f64 {
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}\n{metrics}"));
        line.trim().parse().unwrap()
    };
    let verdicts = |keyspace: &str, code: &str| {
        value(&format!("keyward_verify_verdicts_total{{keyspace=\"{keyspace}\",code=\"{code}\"}}"))
    };
    assert!((verdicts("noro", "VALID") - 2.0).abs() < 0.1);
    assert!((verdicts("noro", "INSUFFICIENT_SCOPE") - 1.0).abs() < 0.1);
    assert!((verdicts("", "MALFORMED") - 1.0).abs() < 0.1);
    assert!(verdicts("norrix", "VALID").abs() < 0.1);
    assert!((value("keyward_verify_seconds_count") - 4.0).abs() < 0.1);
    assert!(metrics.contains("keyward_verify_seconds_bucket{le="), "{metrics}");
    assert!(value("keyward_database_connections{state=\"open\"}") >= 1.0);
    assert!(value("keyward_database_connections{state=\"idle\"}") >= 0.0);
    assert!((value("keyward_calls_total{call=\"verify\",outcome=\"OK\"}") - 4.0).abs() < 0.1);
    assert!((value("keyward_calls_total{call=\"create\",outcome=\"OK\"}") - 1.0).abs() < 0.1);
    assert!(!metrics.contains(key["id"].as_str().unwrap()), "no metric per key: their number is unbounded");
}

#[tokio::test]
async fn json_logs_have_one_object_per_line_and_one_line_per_call() {
    let server = Setup::new().env("KEYWARD_LOG_FORMAT", "json").start();
    let made = server.create(json!({"name": "n"})).await;
    reply(server.rest("GET", "/api/api-keys/none").bearer_auth(ROOT).header("x-request-id", "mine")).await;
    reply(server.rest("GET", "/api/api-keys").header("x-request-id", "nobodys")).await;
    for _ in 0..3 {
        reply(server.rest("GET", "/healthz")).await;
    }
    let lines = until("the log has the calls", async || {
        let log = server.log();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let calls: Vec<Value> = lines.into_iter().filter(|line| line.get("call").is_some()).collect();
        (calls.len() >= 3).then_some(calls)
    })
    .await;
    assert_eq!(lines.len(), 3, "one for each call, none for probes: {lines:?}");
    let [create, get, list] = lines.as_slice() else { unreachable!() };
    assert_eq!((&create["call"], &create["outcome"], &create["key"]), (&json!("create"), &json!("OK"), &made["id"]));
    assert_eq!((&create["caller"], &create["actor"]), (&json!("operator"), &json!("root")));
    assert_eq!((&get["call"], &get["outcome"], &get["request"]), (&json!("get"), &json!("NOT_FOUND"), &json!("mine")));
    assert_eq!((&list["outcome"], &list["request"]), (&json!("MISSING_CREDENTIAL"), &json!("nobodys")));
    assert!(lines.iter().all(|line| line["duration_us"].is_u64() && line["level"].is_string()), "{lines:?}");
}

#[tokio::test]
async fn the_log_settings_select_level_and_format() {
    let quiet = Setup::new().env("KEYWARD_LOG", "off").start();
    quiet.create(json!({"name": "n"})).await;
    assert_eq!(quiet.log(), "");
    for (name, value) in [("KEYWARD_LOG", "=="), ("KEYWARD_LOG_FORMAT", "xml")] {
        let folder = tempfile::tempdir().unwrap();
        for command in [&["serve"][..], &["config", "check"]] {
            let ran = run(&Setup::new().env(name, value), folder.path(), command);
            assert_eq!(ran.status.code(), Some(1));
            assert!(text(&ran.stderr).contains(name), "{ran:?}");
        }
    }
}
