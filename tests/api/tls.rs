//! TLS on both listeners: handshakes, certificate files that change, and the maximum age of connections.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use keyward::proto::{ListRequest, VerifyStreamRequest, key_service_client::KeyServiceClient};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};
use tonic::transport::{Channel, Endpoint};

use crate::support::{
    Server, Setup,
    reply::until,
    server::{ROOT, with},
    tls::{As, Authority, Identity, start, table},
};

fn root(ca: &Path) -> As<'_> {
    As { ca, identity: None, bearer: Some(ROOT) }
}

#[test]
fn curl_and_grpcurl_connect_with_tls_and_plain_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let server = start(&table(&ca.server("server"), None));
    let client = root(&ca.cert);
    for (version, flag) in [("2", "--http2"), ("1.1", "--http1.1")] {
        let answer = client.curl(&server, "/api/api-keys", None, &[flag]);
        assert_eq!((answer.status, answer.version.as_str()), (200, version), "{answer:?}");
    }
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let flags: Vec<&str> = version.split('=').collect();
        assert_eq!(client.curl(&server, "/healthz", None, &flags).status, 200, "{version}");
    }
    let made = client.call(&server, "Create", &json!({"name": "first"}));
    let verdict = client.call(&server, "Verify", &json!({"secret": made["secret"]}));
    assert_eq!(verdict["code"], "CODE_VALID");
    // The commands that the server prints at its start use TLS, too.
    assert!(server.output().contains("https://") && !server.output().contains("-plaintext"), "{}", server.output());

    let stranger = Authority::new(folder.path(), "stranger");
    assert_eq!(root(&stranger.cert).curl(&server, "/healthz", None, &[]).status, 0);
    assert!(!root(&stranger.cert).grpcurl(&server, "List", &json!({})).0);
    let plain = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{}/healthz", server.http)])
        .output()
        .unwrap();
    assert_eq!(plain.stdout, b"000");
    // The gRPC listener does not accept HTTP/1.1.
    let mut output = std::process::Command::new("curl");
    output.args(["-s", "--http1.1", "-w", "%{http_code}", "--cacert"]).arg(&ca.cert);
    assert_eq!(output.arg(format!("https://{}/", server.grpc)).output().unwrap().stdout, b"000");
}

fn check(setup: &Setup, folder: &Path, arguments: &[&str]) -> Output {
    setup.command(folder, arguments).output().unwrap()
}

#[track_caller]
fn problems(text: &str, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = check(&Setup::new().config(text), folder.path(), &["config", "check"]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{log}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{line}\nlacks {expected}");
    }
}

#[test]
fn config_check_reports_every_problem_of_the_tls_settings_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let (one, other) = (ca.server("one"), ca.server("other"));
    let text = "[tls]\nkey = \"k\"\nrequire_client = true\n\
                [[tls.client]]\nsan = \"not a name\"\nrole = \"verify\"\n\
                [[tls.client]]\nsan = \"a.example\"\nrole = \"admin\"\nkeyspaces = []\n\
                [[tls.client]]\nsan = \"b.example\"\nrole = \"root\"\nkeyspaces = [\"nowhere\"]\n\
                [[tls.client]]\nrole = \"root\"\n";
    problems(
        text,
        &[
            "tls: cert is missing",
            "tls.require_client: needs client_ca",
            "tls.client: needs client_ca",
            "tls.client[0].san: must be a URI",
            "tls.client[1].role: must be \"verify\" or \"root\"",
            "tls.client[1].keyspaces: must not be empty",
            "tls.client[2].keyspaces: cannot go with the role",
            "tls.client[2].keyspaces: there is no keyspace \"nowhere\"",
            "tls.client[3]: san is missing",
        ],
    );
    let mixed = Identity { cert: one.cert.clone(), key: other.key.clone() };
    problems(&table(&mixed, None), &["tls.cert: "]);
    problems(&table(&mixed, None), &["is not of the private key in tls.key"]);
    let swapped = Identity { cert: one.key.clone(), key: one.cert.clone() };
    let nowhere = Path::new("/nowhere/ca.pem");
    problems(
        &table(&swapped, Some(nowhere)),
        &["holds no certificate in PEM", "holds no private key in PEM", "tls.client_ca: /nowhere/ca.pem: No such file"],
    );
    // `serve` reports the same before it opens a listener.
    let Err(log) = Setup::new().config(&table(&mixed, None)).try_start() else { panic!("it started") };
    assert!(log.contains("is not of the private key"), "{log}");
}

#[test]
fn plain_text_on_a_public_address_requires_the_insecure_setting() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let open = "[server]\ngrpc_addr = \"0.0.0.0:0\"\nhttp_addr = \"[::]:0\"\n";
    // The test environment sets the addresses, which would override those of the file.
    let run = |text: &str, environment: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Setup::new().config(text).command(folder.path(), arguments);
        command.env_remove("KEYWARD_GRPC_ADDR").env_remove("KEYWARD_HTTP_ADDR");
        let output = command.envs(environment.iter().copied()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let check = ["config", "check"];
    let (good, log) = run(open, &[], &check);
    assert!(!good);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, place) in lines.iter().zip(["keyward.toml:2: server.grpc_addr: ", "keyward.toml:3: server.http_addr: "])
    {
        assert!(line.contains(place) && line.contains("--insecure") && line.contains("tls.cert"), "{line}");
    }
    let (good, log) = run("", &[("KEYWARD_HTTP_ADDR", "192.0.2.1:80")], &check);
    assert!(!good && log.contains("KEYWARD_HTTP_ADDR: 192.0.2.1:80"), "{log}");
    assert!(!run("", &[], &["config", "check", "--grpc-addr", "0.0.0.0:1"]).0);
    // `serve` reports the same.
    assert!(run(open, &[], &["serve"]).1.contains("--insecure"));

    assert!(run(&format!("{open}insecure = true"), &[], &check).0);
    assert!(run(open, &[("KEYWARD_INSECURE", "true")], &check).0);
    assert!(run(open, &[], &["config", "check", "--insecure"]).0);
    assert!(!run(&format!("{open}insecure = true"), &[("KEYWARD_INSECURE", "false")], &check).0);
    assert!(run(&format!("{open}{}", table(&ca.server("server"), None)), &[], &check).0);
    for loopback in ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        assert!(run("", &[("KEYWARD_HTTP_ADDR", loopback)], &check).0, "{loopback}");
    }
    // The metrics listener needs no credential, so it may be plain text.
    assert!(run("", &[("KEYWARD_METRICS_ADDR", "0.0.0.0:0")], &check).0);
}

/// Opens a TLS connection.
async fn connect(address: &str, ca: &Path, protocol: &[u8]) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&std::fs::read(ca).unwrap()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A gRPC client that reconnects when its connection has ended.
async fn client(server: &Server, ca: &Authority) -> KeyServiceClient<Channel> {
    let (address, ca) = (server.grpc.clone(), ca.cert.clone());
    let connector = tower::service_fn(move |_| {
        let (address, ca) = (address.clone(), ca.clone());
        async move { connect(&address, &ca, b"h2").await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    KeyServiceClient::new(channel)
}

/// Which of these authorities has issued the certificate that a listener presents.
async fn presented(address: &str, protocol: &[u8], cas: [&Authority; 2]) -> [bool; 2] {
    let [one, other] = cas;
    [connect(address, &one.cert, protocol).await.is_ok(), connect(address, &other.cert, protocol).await.is_ok()]
}

fn copy_pair(from: &Identity, to: &Identity) {
    std::fs::copy(&from.cert, &to.cert).unwrap();
    std::fs::copy(&from.key, &to.key).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pair_of_certificate_and_key_is_loaded_and_a_mismatched_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(folder.path(), "old"), Authority::new(folder.path(), "new"));
    let (first, second) = (old.server("first"), new.server("second"));
    let used = old.server("used");
    copy_pair(&first, &used);
    let server = start(&table(&used, None));
    let cas = [&old, &new];
    assert_eq!(presented(&server.http, b"http/1.1", cas).await, [true, false]);
    let mut kept = client(&server, &old).await;
    kept.list(with(ROOT, ListRequest::default())).await.unwrap();

    // Only the certificate is new: the last valid pair stays in use, and the log has the reason. SIGHUP reloads at once.
    std::fs::copy(&second.cert, &used.cert).unwrap();
    server.signal("HUP");
    server.logged("TLS files are invalid").await;
    assert!(server.log().contains("is not of the private key"), "{}", server.log());
    for (address, protocol) in [(&server.http, &b"http/1.1"[..]), (&server.grpc, b"h2")] {
        assert_eq!(presented(address, protocol, cas).await, [true, false]);
    }
    // The key is new, too: the change is found without a signal.
    std::fs::copy(&second.key, &used.key).unwrap();
    let start = Instant::now();
    until("the new pair", async || (presented(&server.http, b"http/1.1", cas).await == [false, true]).then_some(()))
        .await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(presented(&server.grpc, b"h2", cas).await, [false, true]);
    // An established connection continues.
    kept.list(with(ROOT, ListRequest::default())).await.unwrap();
    // Replacing the files by links is a change, too: orchestrators do this.
    std::fs::remove_file(&used.cert).unwrap();
    std::fs::remove_file(&used.key).unwrap();
    std::os::unix::fs::symlink(&first.cert, &used.cert).unwrap();
    std::os::unix::fs::symlink(&first.key, &used.key).unwrap();
    until("the old pair", async || (presented(&server.grpc, b"h2", cas).await == [true, false]).then_some(())).await;
}

// On one thread: with several, this client may give a call to a connection that is closing, and does not retry it.
#[tokio::test]
async fn a_connection_closes_at_its_maximum_age_without_a_failed_call() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let text = format!("{}[server]\nmax_connection_age = \"1s\"\n", table(&ca.server("server"), None));
    for (tls, text) in [(true, text.as_str()), (false, "[server]\nmax_connection_age = \"1s\"\n")] {
        let server = start(text);
        let mut calls = if tls { client(&server, &ca).await } else { server.client().await };
        let start = Instant::now();
        // Longer than the maximum age of two connections.
        while start.elapsed() < Duration::from_millis(2_500) {
            match calls.list(with(ROOT, ListRequest::default())).await {
                Ok(_) => {}
                // The client had given the call to a connection that closed at this moment, and sent nothing of it.
                Err(status) => assert_eq!(status.code(), tonic::Code::Cancelled, "{status:?}"),
            }
        }
        calls.list(with(ROOT, ListRequest::default())).await.unwrap();
        // An idle HTTP/1.1 connection is closed, too.
        let mut rest: Box<dyn Conversation> = if tls {
            Box::new(connect(&server.http, &ca.cert, b"http/1.1").await.unwrap())
        } else {
            Box::new(tokio::net::TcpStream::connect(&server.http).await.unwrap())
        };
        rest.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let start = Instant::now();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(5), rest.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            (Duration::from_millis(800)..Duration::from_secs(3)).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    }
}

trait Conversation: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Conversation for I {}

/// An open stream does not keep its connection open; it ends with a status.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_with_a_status_at_the_maximum_age_of_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let server = start(&format!("{}[server]\nmax_connection_age = \"1s\"\n", table(&ca.server("server"), None)));
    let mut client = client(&server, &ca).await;
    for _ in 0..2 {
        let mut unsent_once = false;
        let (messages, mut answers) = loop {
            let (messages, sent) = tokio::sync::mpsc::channel::<VerifyStreamRequest>(1);
            let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
            match client.verify_stream(with(ROOT, sent)).await {
                Ok(answers) => break (messages, answers.into_inner()),
                // The client chose a connection that had just closed, and sent nothing: try again on a new one.
                Err(unsent) if !unsent_once && unsent.code() == tonic::Code::Cancelled => unsent_once = true,
                Err(refusal) => panic!("{refusal}"),
            }
        };
        messages.send(VerifyStreamRequest { id: 1, request: None }).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
        let ended = tokio::time::timeout(Duration::from_secs(15), answers.message()).await.expect("it ends");
        assert_eq!(ended.unwrap_err().code(), tonic::Code::Unavailable);
    }
}

/// Clients that connect and send nothing are disconnected after a timeout, and do not delay other clients.
#[test]
fn silent_clients_are_disconnected_and_delay_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let server = start(&table(&ca.server("server"), None));
    let connect = |address: &str| (0..100).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
    let start = Instant::now();
    let silent = [connect(&server.http), connect(&server.grpc)];
    let client = root(&ca.cert);
    assert_eq!(client.curl(&server, "/healthz", None, &[]).status, 200);
    assert!(client.grpcurl(&server, "List", &json!({})).0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for mut stream in silent.into_iter().flatten() {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed");
    }
    assert!((9..15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

/// The first message of a handshake.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// Clients of other addresses that say nothing, or begin a handshake and say nothing more: as many as connect in seven
/// seconds at 200 a second.
#[test]
fn handshakes_that_are_not_completed_delay_no_others() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new(folder.path(), "ca");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for sent in [Vec::new(), client_hello()] {
        let server = start(&table(&ca.server("server"), None));
        let client = root(&ca.cert);
        let hold = async |port: &str, from: u8| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
            let mut stream = socket.connect(port.parse().unwrap()).await.unwrap();
            stream.write_all(&sent).await.unwrap();
            stream
        };
        let start = Instant::now();
        let held: Vec<_> = runtime.block_on(async {
            let mut held = Vec::new();
            for _ in 0..700 {
                for (port, from) in [(&server.http, 2), (&server.http, 3), (&server.grpc, 2), (&server.grpc, 3)] {
                    held.push(hold(port, from).await);
                }
            }
            held
        });
        let connected = start.elapsed();
        assert_eq!(client.curl(&server, "/healthz", None, &[]).status, 200);
        assert!(client.grpcurl(&server, "List", &json!({})).0);
        let took = start.elapsed().saturating_sub(connected);
        // The silent ones are given up after 10 s.
        assert!(took < Duration::from_secs(8), "{took:?} after {} bytes of each", sent.len());
        drop(held);
    }
}
