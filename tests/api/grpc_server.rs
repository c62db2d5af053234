//! The gRPC listener: reflection, health and deadlines.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use keyward::proto::{Code, CreateRequest, ListRequest, RevokeRequest, UpdateWebhookRequest};
use prost::Message as _;
use prost_types::FileDescriptorProto;
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio_stream::StreamExt as _;
use tonic::{Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{
    Server, Setup,
    grpc::{assert_refused, check, code, create, eventually, key},
    server::{ROOT, with},
};

const SERVICE: &str = "keyward.v1.KeyService";

/// Defines a client for one version of reflection. The versions differ only in their package.
macro_rules! reflection {
    ($name:ident, $version:ident) => {
        async fn $name(channel: Channel, ask: &str, symbol: bool) -> (Vec<String>, Vec<Vec<u8>>) {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let asked = if symbol {
                MessageRequest::FileContainingSymbol(ask.into())
            } else {
                MessageRequest::ListServices(String::new())
            };
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
            // Without a credential.
            let mut client = ServerReflectionClient::new(channel);
            let stream = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
            match stream.into_inner().next().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::ListServicesResponse(services) => {
                    (services.service.into_iter().map(|service| service.name).collect(), Vec::new())
                }
                MessageResponse::FileDescriptorResponse(files) => (Vec::new(), files.file_descriptor_proto),
                other => panic!("{other:?}"),
            }
        }
    };
}
reflection!(reflect_v1, v1);
reflection!(reflect_v1alpha, v1alpha);

#[tokio::test]
async fn reflection_of_both_versions_lists_and_describes_the_service_without_a_credential() {
    let server = Setup::new().start();
    let channel = server.channel().await;
    for (services, files) in [
        (reflect_v1(channel.clone(), "", false).await.0, reflect_v1(channel.clone(), SERVICE, true).await.1),
        (reflect_v1alpha(channel.clone(), "", false).await.0, reflect_v1alpha(channel.clone(), SERVICE, true).await.1),
    ] {
        assert!(services.iter().any(|name| name == SERVICE), "{services:?}");
        assert!(services.iter().any(|name| name == "grpc.health.v1.Health"), "{services:?}");
        let files: Vec<_> = files.iter().map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap()).collect();
        let file = files.iter().find(|file| file.package() == "keyward.v1").expect("the file of the service");
        let calls: Vec<_> = file.service[0].method.iter().map(prost_types::MethodDescriptorProto::name).collect();
        assert_eq!(calls, ["Create", "List", "Revoke", "Verify", "VerifyStream", "Attach", "UpdateWebhook"]);
        for imported in &file.dependency {
            let known = files.iter().any(|file| file.name() == imported);
            assert!(known || imported.starts_with("google/"), "{imported} is not served");
        }
    }
}

fn grpcurl(server: &Server, arguments: &[&str]) -> (bool, String) {
    let program = std::env::var("KEYWARD_TEST_GRPCURL")
        .expect("KEYWARD_TEST_GRPCURL is not set: run the tests with tests/run, which installs grpcurl");
    let mut command = Command::new(program);
    command.arg("-plaintext").arg("-H").arg(format!("authorization: Bearer {ROOT}"));
    let (flags, call): (Vec<&str>, Vec<&str>) = match arguments.iter().position(|argument| *argument == "--") {
        Some(end) => (arguments[..end].to_vec(), arguments[end + 1..].to_vec()),
        None => (Vec::new(), arguments.to_vec()),
    };
    let output = command.args(flags).arg(&server.grpc).args(call).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test]
async fn grpcurl_works_without_proto_files() {
    let server = Setup::new().start();
    let (good, services) = grpcurl(&server, &["list"]);
    assert!(good && services.contains(SERVICE) && services.contains("grpc.health.v1.Health"), "{services}");
    for what in [SERVICE, "keyward.v1.VerifyResponse", "keyward.v1.VerifyStreamResponse", "keyward.v1.CreateRequest"] {
        let (good, text) = grpcurl(&server, &["describe", what]);
        assert!(good && text.contains("//"), "its comments are shown: {text}");
    }
    let (good, made) =
        grpcurl(&server, &["-d", r#"{"name": "first", "ttl": "3600s"}"#, "--", "keyward.v1.KeyService/Create"]);
    assert!(good, "{made}");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let check = serde_json::json!({"secret": made["secret"]}).to_string();
    let (good, verdict) = grpcurl(&server, &["-d", &check, "--", "keyward.v1.KeyService/Verify"]);
    let verdict: serde_json::Value = serde_json::from_str(&verdict).unwrap();
    assert!(good);
    assert_eq!((&verdict["code"], &verdict["keyId"]), (&"CODE_VALID".into(), &made["key"]["id"]));
    let stream = format!(r#"{{"id": 1, "request": {check}}}"#);
    let (good, answer) = grpcurl(&server, &["-d", &stream, "--", "keyward.v1.KeyService/VerifyStream"]);
    assert!(good && answer.contains("CODE_VALID"), "{answer}");
    let (good, refusal) = grpcurl(&server, &["-d", r#"{"pageSize": -1}"#, "--", "keyward.v1.KeyService/List"]);
    assert!(!good && refusal.contains("InvalidArgument") && refusal.contains("page_size"), "{refusal}");
    assert!(
        refusal.contains("ErrorInfo") && refusal.contains("INVALID_ARGUMENT"),
        "its details are readable: {refusal}"
    );
    let (good, health) = grpcurl(&server, &["grpc.health.v1.Health/Check"]);
    assert!(good && health.contains("SERVING"), "{health}");
}

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_is_serving_for_the_server_and_its_service_without_a_credential() {
    let server = Setup::new().start();
    let channel = server.channel().await;
    for service in ["", SERVICE] {
        eventually(Duration::from_secs(5), service, async || health(&channel, service).await == ServingStatus::Serving)
            .await;
    }
    let request = HealthCheckRequest { service: "no.such.Service".into() };
    let unknown = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

/// Opens a transaction on the embedded database that blocks all other writers.
async fn block(server: &Server) -> SqliteConnection {
    let mut conn = server.sqlite().await;
    conn.execute("BEGIN IMMEDIATE").await.unwrap();
    conn
}

#[tokio::test]
async fn health_follows_a_database_that_blocks_writes_and_recovers() {
    let server = Setup::new().config("[server]\nready_requires_writes = true\n").start();
    let channel = server.channel().await;
    let mut watch = HealthClient::new(channel.clone());
    let watched = watch.watch(HealthCheckRequest { service: SERVICE.into() }).await.unwrap();
    let mut watched = watched.into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(Duration::from_secs(15), watched.next()).await.expect("a change");
        next.unwrap().unwrap().status()
    };
    while next().await != ServingStatus::Serving {}
    let blocked = block(&server).await;
    assert_eq!(next().await, ServingStatus::NotServing);
    let (ready, _) = server.call("GET", "/readyz", None, serde_json::Value::Null).await;
    assert_eq!(ready, 503);
    blocked.close().await.unwrap();
    assert_eq!(next().await, ServingStatus::Serving);
    let (ready, _) = server.call("GET", "/readyz", None, serde_json::Value::Null).await;
    assert_eq!(ready, 200);
}

fn with_timeout<T>(length: Duration, message: T) -> Request<T> {
    let mut request = with(ROOT, message);
    request.set_timeout(length);
    request
}

/// The server must answer before the caller's deadline, so that the caller learns the reason.
#[tokio::test]
async fn the_server_answers_deadline_exceeded_before_the_callers_timeout() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let blocked = block(&server).await;
    for length in [Duration::from_secs(1), Duration::from_secs(2)] {
        let (start, mut other) = (Instant::now(), client.clone());
        let hook = UpdateWebhookRequest {
            id: made.id.clone(),
            webhook_url: "https://example.com/".into(),
            ..Default::default()
        };
        let (hooked, created) = futures::future::join(
            client.update_webhook(with_timeout(length, hook)),
            other.create(with_timeout(length, CreateRequest::default())),
        )
        .await;
        assert_refused(hooked, tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        assert_refused(created, tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        assert!(start.elapsed() < length, "{:?}", start.elapsed());
    }
    // Memory and read connections still answer: they need no writer.
    assert_eq!(code(&mut client, &made.secret).await, Code::Valid);
    client.list(with_timeout(Duration::from_secs(2), ListRequest::default())).await.unwrap();
    blocked.close().await.unwrap();
    create(&mut client, ROOT, CreateRequest::default()).await;
}

#[tokio::test]
async fn a_revoke_whose_caller_is_gone_completes_and_can_be_repeated() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let made = key(&mut client, "", "", &[]).await;
    let blocked = block(&server).await;
    let end = RevokeRequest { id: made.id.clone(), reason: "late".into() };
    let refusal = client.revoke(with_timeout(Duration::from_secs(1), end.clone())).await;
    assert_refused(refusal, tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    blocked.close().await.unwrap();
    eventually(Duration::from_secs(5), "the revocation lands", async || {
        code(&mut client, &made.secret).await == Code::Revoked
    })
    .await;
    let again = client.revoke(with(ROOT, end)).await.unwrap().into_inner().key.unwrap();
    assert_eq!(again.revoke_reason, "late");
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_a_damaged_message_is_invalid() {
    let server = Setup::new().start();
    let channel = server.channel().await;
    let mut raw = tonic::client::Grpc::new(channel);
    let codes: BTreeSet<_> = {
        let mut codes = BTreeSet::new();
        for (path, bytes) in
            [("/keyward.v1.KeyService/Nothing", &b""[..]), ("/keyward.v1.KeyService/Verify", b"\xff\xff")]
        {
            raw.ready().await.unwrap();
            let request = with(ROOT, prost::bytes::Bytes::copy_from_slice(bytes));
            let answer: Result<tonic::Response<prost::bytes::Bytes>, _> =
                raw.unary(request, path.parse().unwrap(), bytes_codec::Raw).await;
            let status = answer.unwrap_err();
            assert!(!status.message().contains("panic"), "{status:?}");
            codes.insert(i32::from(status.code()));
        }
        codes
    };
    assert!(codes.contains(&i32::from(tonic::Code::Unimplemented)), "{codes:?}");
    let mut client = server.client().await;
    assert_eq!(client.verify(with(ROOT, check("x"))).await.unwrap().into_inner().code(), Code::Malformed);
}

/// A codec that passes the bytes of messages through.
mod bytes_codec {
    use prost::bytes::{Buf as _, BufMut as _, Bytes};
    use tonic::{
        Status,
        codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    };

    #[derive(Default)]
    pub struct Raw;

    impl Codec for Raw {
        type Encode = Bytes;
        type Decode = Bytes;
        type Encoder = Self;
        type Decoder = Self;
        fn encoder(&mut self) -> Self {
            Self
        }
        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for Raw {
        type Item = Bytes;
        type Error = Status;
        fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
            into.put(item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = Bytes;
        type Error = Status;
        fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
            let length = from.remaining();
            Ok(Some(from.copy_to_bytes(length)))
        }
    }
}
