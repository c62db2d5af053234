//! Checks by the client, on a real server.

use std::time::Duration;

use keyward::proto::CreateRequest;
use keyward_client::{Client, ErrorKind, Reason, Tls, Verdict};

use crate::{
    builder, client, service_key,
    support::{
        Server, Setup,
        grpc::{self, forged, own_limit, pairs, texts, ttl},
        server::ROOT,
        tls::{self, Authority},
    },
};

/// Two keyspaces, so that a key of the other one can be refused.
const KEYSPACES: &str = r#"
[[keyspace]]
name = "default"
prefix = "ak_"
secret = { encoding = "alphanumeric", length = 32 }

[[keyspace]]
name = "other"
prefix = "ok_"
secret = { encoding = "alphanumeric", length = 32 }
"#;

async fn created(server: &Server, request: CreateRequest) -> grpc::Made {
    let request = CreateRequest { keyspace: "default".into(), ..request };
    grpc::made(grpc::create(&mut server.client().await, ROOT, request).await)
}

fn reason(verdict: Verdict) -> Option<Reason> {
    verdict.into_result().err().map(|refusal| refusal.reason())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_key_is_a_principal_with_all_its_facts() {
    let server = Setup::new().config(KEYSPACES).start();
    let made = created(
        &server,
        CreateRequest {
            organization: "acme".into(),
            instance: "i-1".into(),
            environment: "production".into(),
            name: "deploy".into(),
            scopes: texts(&["build", "submit"]),
            metadata: pairs(&[("tier", "gold")]).into_iter().collect(),
            expiry: ttl(Duration::from_secs(3_600)),
            ..Default::default()
        },
    )
    .await;
    let client = client(&server);
    let check = client.verify(&made.secret).keyspace("default").organization("acme").instance("i-1");
    let verdict = check.environment("production").scope("build").scope("submit").await.unwrap();
    let principal = verdict.into_result().unwrap();
    assert_eq!((principal.key_id(), principal.keyspace(), principal.name()), (&*made.id, "default", "deploy"));
    assert_eq!(principal.organization(), Some("acme"));
    assert_eq!((principal.instance(), principal.environment()), (Some("i-1"), Some("production")));
    assert_eq!(principal.scopes().collect::<Vec<_>>(), ["build", "submit"]);
    assert_eq!(principal.metadata("tier"), Some("gold"));
    let life = principal.expires().unwrap().duration_since(principal.created()).unwrap();
    assert!(life.abs_diff(Duration::from_secs(3_600)) < Duration::from_secs(60), "{life:?}");
    assert_eq!(principal.rate_limit(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_typed() {
    let server = Setup::new().config(KEYSPACES).start();
    let request = CreateRequest { organization: "acme".into(), scopes: texts(&["build"]), ..Default::default() };
    let key = created(&server, request).await;
    let revoked = created(&server, CreateRequest::default()).await;
    grpc::revoke(&mut server.client().await, &revoked.id).await;
    let limited = CreateRequest { rate_limit: Some(own_limit(3, 3_600)), ..Default::default() };
    let limited = created(&server, limited).await;
    let client = client(&server);
    let secret = &key.secret;
    for (check, expected) in [
        (client.verify(secret).organization("acme").scope("build"), None),
        (client.verify(&forged(secret)), Some(Reason::Malformed)),
        (client.verify(secret).keyspace("other"), Some(Reason::NotFound)),
        (client.verify(&revoked.secret), Some(Reason::Revoked)),
        (client.verify(secret).environment("sandbox"), Some(Reason::WrongEnvironment)),
        (client.verify(secret).organization("other"), Some(Reason::WrongOrganization)),
        (client.verify(secret).instance("other"), Some(Reason::WrongInstance)),
        (client.verify(secret).scopes(["build", "submit"]), Some(Reason::InsufficientScope)),
        (client.verify(&limited.secret).cost(0), None),
        (client.verify(&limited.secret).cost(3), None),
        (client.verify(&limited.secret), Some(Reason::RateLimited)),
    ] {
        let text = format!("{check:?}");
        assert_eq!(reason(check.await.unwrap()), expected, "{text}");
    }
    let Verdict::Refused(refusal) = client.verify(&limited.secret).await.unwrap() else { panic!("the limit is spent") };
    let state = refusal.rate_limit().unwrap();
    assert_eq!((state.limit, state.remaining, refusal.key_id()), (3, 0, Some(&*limited.id)));
    assert!(state.retry_after.is_some_and(|wait| wait > Duration::from_secs(3_000)), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_refused() {
    let server = Setup::new().config(KEYSPACES).start();
    let soon = CreateRequest { expiry: ttl(Duration::from_secs(2)), ..Default::default() };
    let key = created(&server, soon).await;
    grpc::until_expired(&mut server.client().await, &key.secret).await;
    assert_eq!(reason(client(&server).verify(&key.secret).await.unwrap()), Some(Reason::Expired));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_own_credential_is_needed_and_its_revocation_ends_the_shared_stream() {
    let server = Setup::new().config(KEYSPACES).start();
    let key = created(&server, CreateRequest::default()).await;
    let kind = async |client: &Client| client.verify(&key.secret).await.err().map(|error| error.kind());
    assert_eq!(kind(&builder(&server).build().unwrap()).await, Some(ErrorKind::Unauthenticated));
    let not_a_service = builder(&server).credential(&*key.secret).build().unwrap();
    assert_eq!(kind(&not_a_service).await, Some(ErrorKind::PermissionDenied));
    let (secret, id) = service_key(&server).await;
    let client = builder(&server).credential(secret).build().unwrap();
    assert_eq!(kind(&client).await, None);
    grpc::revoke(&mut server.client().await, &id).await;
    assert_eq!(kind(&client).await, Some(ErrorKind::Unauthenticated));
    assert_eq!(kind(&client).await, Some(ErrorKind::Unauthenticated), "also on a new stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_no_key_can_match_names_the_field() {
    let server = Setup::new().config(KEYSPACES).start();
    let key = created(&server, CreateRequest::default()).await;
    let error = client(&server).verify(&key.secret).scope("two words").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.fields().map(|(field, _)| field).collect::<Vec<_>>(), ["required_scopes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn management_is_called_with_the_same_credential() {
    let server = Setup::new().config(KEYSPACES).start();
    let client = client(&server);
    let request = keyward_client::proto::CreateRequest { keyspace: "default".into(), ..Default::default() };
    let created = client.key_service().create(request).await.unwrap().into_inner();
    assert!(!format!("{created:?}").contains(&created.secret), "a response with a secret does not print it");
    assert!(client.verify(&created.secret).await.unwrap().is_valid());
    let request = keyward_client::proto::RevokeRequest { id: created.key.unwrap().id, reason: String::new() };
    client.key_service().revoke(request).await.unwrap();
    assert_eq!(reason(client.verify(&created.secret).await.unwrap()), Some(Reason::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_unavailable_is_an_error_and_its_return_needs_no_new_client() {
    // The database outlives the server that is stopped.
    let folder = tempfile::tempdir().unwrap();
    let setup = || Setup::new().config(KEYSPACES).folder(folder.path());
    let mut server = setup().start();
    let key = created(&server, CreateRequest::default()).await;
    let client = builder(&server).credential(ROOT).timeout(Duration::from_secs(1)).build().unwrap();
    assert!(client.verify(&key.secret).await.unwrap().is_valid());
    let address = server.grpc.clone();
    assert_eq!(tokio::task::block_in_place(|| server.stop()), Some(0));
    let error = client.verify(&key.secret).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let _server = setup().env("KEYWARD_GRPC_ADDR", &address).start();
    grpc::eventually(Duration::from_secs(20), "the client is back", async || {
        client.verify(&key.secret).await.is_ok_and(|verdict| verdict.is_valid())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_named_authority_only_and_a_certificate_identifies_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let (identity, caller) = (authority.server("server"), authority.client("caller", &["checker.internal"]));
    let mapped = "[[tls.client]]\nsan = \"checker.internal\"\nrole = \"verify\"\n";
    let table = tls::table(&identity, Some(&authority.cert));
    let server = tls::start(&format!("{table}\n{mapped}{KEYSPACES}"));
    let url = format!("https://{}", server.grpc);
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let trusted = || Tls::authority(read(&authority.cert));

    let client = Client::builder(&url).credential(ROOT).tls(trusted()).build().unwrap();
    let request = keyward_client::proto::CreateRequest { keyspace: "default".into(), ..Default::default() };
    let key = client.key_service().create(request).await.unwrap().into_inner();
    assert!(client.verify(&key.secret).await.unwrap().is_valid());

    let certified =
        Client::builder(&url).tls(trusted().identity(read(&caller.cert), read(&caller.key))).build().unwrap();
    assert!(certified.verify(&key.secret).await.unwrap().is_valid());

    let stranger = Authority::new(folder.path(), "stranger");
    let short = Duration::from_millis(800);
    for distrusting in
        [Tls::authority(read(&stranger.cert)), Tls::native_roots(), trusted().server_name("other.internal")]
    {
        let client = Client::builder(&url).credential(ROOT).tls(distrusting).timeout(short).build().unwrap();
        assert_eq!(client.verify(&key.secret).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
