//! Service keys that are limited to keyspaces: to them, keys of other keyspaces do not exist.

use keyward::{
    domain::{
        clock::SystemEntropy,
        master_keys::{MasterKey, MasterKeys},
        secret::Encoding,
    },
    proto::{
        Code, CreateRequest, ListRequest, VerifyRequest, VerifyResponse, VerifyStreamRequest,
        verify_stream_response::Outcome,
    },
};
use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    grpc::{Client, Made, assert_invalid, create, key, made, texts},
    reply,
    server::{ROOT, with},
};

const MASTER: [u8; 32] = [7; 32];

fn start() -> Server {
    Setup::new().ready("all").env("KEYWARD_MASTER_KEY", &data_encoding::BASE64.encode(&MASTER)).start()
}

/// A secret with a valid checksum that was never created.
fn unknown(prefix: &str, encoding: Encoding) -> String {
    let master_keys = MasterKeys::derive(&MasterKey::new(MASTER));
    encoding.generate(prefix, &master_keys, &SystemEntropy).expose().to_owned()
}

fn noro() -> String {
    unknown("noro_", Encoding::Alphanumeric { length: 32 })
}

fn service(keyspaces: &[&str]) -> CreateRequest {
    CreateRequest { keyspace: "keyward".into(), keyspaces: texts(keyspaces), ..CreateRequest::default() }
}

async fn limited(client: &mut Client, keyspaces: &[&str]) -> Made {
    made(create(client, ROOT, service(keyspaces)).await)
}

fn asking(secret: &str, keyspace: &str) -> VerifyRequest {
    VerifyRequest { secret: secret.into(), keyspace: keyspace.into(), ..VerifyRequest::default() }
}

/// The verdict of unary, stream and REST, which must agree.
async fn verdict(server: &Server, client: &mut Client, service: &str, request: VerifyRequest) -> VerifyResponse {
    let answer = client.verify(with(service, request.clone())).await.unwrap().into_inner();
    let message = VerifyStreamRequest { id: 1, request: Some(request.clone()) };
    let stream = client.verify_stream(with(service, tokio_stream::once(message))).await;
    let streamed = stream.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(Outcome::Response(streamed)) = streamed.outcome else { panic!("{streamed:?}") };
    // Each of the three spends, if the key has a rate limit.
    let unspent = |answer: &VerifyResponse| VerifyResponse { rate_limit: None, ..answer.clone() };
    assert_eq!(unspent(&streamed), unspent(&answer));
    let body = json!({"secret": request.secret, "keyspace": request.keyspace});
    let (status, rest) = server.call("POST", "/api/v1/verify", Some(service), body).await;
    assert_eq!(status, 200);
    assert_eq!(format!("CODE_{}", rest["code"].as_str().unwrap()), answer.code().as_str_name());
    assert_eq!(rest["keyId"].as_str().unwrap_or_default(), answer.key_id);
    answer
}

#[tokio::test]
async fn a_key_of_another_keyspace_looks_like_one_that_does_not_exist() {
    let server = start();
    let client = &mut server.client().await;
    let only_norrix = limited(client, &["norrix", "norrix"]).await;
    assert_eq!(only_norrix.key.keyspaces, ["norrix"]);
    let norrix = key(client, "norrix", "acme", &["build"]).await;
    let foreign = key(client, "noro", "", &[]).await;
    let unknown = noro();

    // First with the key not in the cache, then with it there, after an operator's Verify.
    for _ in 0..2 {
        let good = verdict(&server, client, &only_norrix.secret, asking(&norrix.secret, "")).await;
        assert_eq!((good.code(), good.key_id), (Code::Valid, norrix.id.clone()));
        for keyspace in ["", "noro", "norrix", "no such keyspace"] {
            let of_foreign = verdict(&server, client, &only_norrix.secret, asking(&foreign.secret, keyspace)).await;
            let of_unknown = verdict(&server, client, &only_norrix.secret, asking(&unknown, keyspace)).await;
            assert_eq!(of_foreign, of_unknown, "{keyspace}");
            assert_eq!(of_foreign.code(), Code::NotFound);
            assert_eq!(of_foreign.key_id, "");
        }
        // The record of the key is hidden, too.
        let own = verdict(&server, client, &only_norrix.secret, asking(&only_norrix.secret, "")).await;
        assert_eq!(own.code(), Code::NotFound);
        let forged = verdict(&server, client, &only_norrix.secret, asking("noro_forged", "")).await;
        assert_eq!(forged.code(), Code::Malformed);
        let before = client.verify(with(ROOT, asking(&foreign.secret, ""))).await.unwrap().into_inner();
        assert_eq!(before.code(), Code::Valid);
    }
    // The refused checks spent nothing.
    let state = VerifyRequest { cost: Some(0), ..asking(&foreign.secret, "") };
    let state = client.verify(with(ROOT, state)).await.unwrap().into_inner().rate_limit.unwrap();
    assert_eq!(state.limit - state.remaining, 2);

    // A service that is not limited, and one that is limited to both keyspaces.
    for keyspaces in [&[][..], &["noro", "norrix"]] {
        let service = limited(client, keyspaces).await;
        for secret in [&norrix.secret, &foreign.secret] {
            assert_eq!(verdict(&server, client, &service.secret, asking(secret, "")).await.code(), Code::Valid);
        }
    }
}

#[tokio::test]
async fn only_service_keys_can_be_limited_and_only_to_configured_keyspaces() {
    let server = start();
    let client = &mut server.client().await;
    let product = |keyspace: &str| CreateRequest {
        keyspace: keyspace.into(),
        organization: "acme".into(),
        ..service(&["norrix"])
    };
    let root = CreateRequest { scopes: texts(&["root"]), ..service(&["norrix"]) };
    let both = CreateRequest { scopes: texts(&["verify", "root"]), ..service(&["norrix"]) };
    let admin = key(client, "norrix", "acme", &["admin"]).await.secret;
    for (credential, request, case) in [
        (ROOT, service(&["no such"]), "unknown"),
        (ROOT, service(&["norrix", "keyward"]), "reserved"),
        (ROOT, service(&[""]), "empty"),
        (ROOT, root, "root"),
        (ROOT, both, "root and verify"),
        (ROOT, product("norrix"), "a product's key"),
        (&admin, product("norrix"), "an admin key's"),
    ] {
        assert_invalid(client.create(with(credential, request)).await, &["keyspaces"], case);
    }
    let post = async |body: Value| reply(server.rest("POST", "/api/api-keys").bearer_auth(ROOT).json(&body)).await;
    post(json!({"name": "n", "keyspace": "keyward", "keyspaces": []})).await.bad(&["keyspaces"]);
    post(json!({"name": "n", "keyspace": "keyward", "keyspaces": "norrix"})).await.bad(&["keyspaces"]);
    post(json!({"name": "n", "keyspace": "noro", "keyspaces": ["noro"]})).await.bad(&["keyspaces"]);
    reply(server.rest("POST", "/api/v1/keys").json(&json!({"keyspaces": ["noro"]}))).await.bad(&["keyspaces"]);
}

#[tokio::test]
async fn the_limit_is_shown_in_the_record_of_its_own_key_only() {
    let server = start();
    let client = &mut server.client().await;
    let body = json!({"name": "gateway", "keyspace": "keyward", "scopes": ["verify"], "keyspaces": ["nora", "noro"]});
    let created = server.create(body).await;
    assert_eq!(created["keyspaces"], json!(["nora", "noro"]));
    server.create(json!({"name": "other", "keyspace": "keyward"})).await;
    let request = ListRequest { keyspace: "keyward".into(), ..ListRequest::default() };
    let keys = client.list(with(ROOT, request)).await.unwrap().into_inner().keys;
    assert_eq!(keys[0].keyspaces, texts(&[]));
    assert_eq!(keys[1].keyspaces, texts(&["nora", "noro"]));
    let listed = reply(server.rest("GET", "/api/api-keys?keyspace=keyward").bearer_auth(ROOT)).await.good(200);
    assert_eq!(listed["keys"][0].get("keyspaces"), None);
    assert_eq!(listed["keys"][1]["keyspaces"], created["keyspaces"]);
}

/// A limit whose keyspaces are all gone is not the same as no limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_keyspaces_are_no_longer_configured_sees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Setup::new().ready("all").folder(folder.path()).start();
    let client = &mut server.client().await;
    let service = limited(client, &["norrix"]).await;
    let foreign = key(client, "noro", "", &[]).await;
    server.stop();
    let server = Setup::new().ready("noro").folder(folder.path()).start();
    let client = &mut server.client().await;
    let verdict = client.verify(with(&service.secret, asking(&foreign.secret, ""))).await.unwrap().into_inner();
    assert_eq!(verdict.code(), Code::NotFound);
    let verdict = client.verify(with(ROOT, asking(&foreign.secret, ""))).await.unwrap().into_inner();
    assert_eq!(verdict.code(), Code::Valid);
}
