//! Admin keys: what they manage, and what they must not learn.

use keyward::proto::{CreateRequest, ListRequest, RevokeRequest, UpdateWebhookRequest};
use tonic::Code::{InvalidArgument, NotFound, PermissionDenied};

use crate::support::{
    Server, Setup,
    grpc::{self, Client, Made, assert_refused, code, create, key, list, made, record, refused, revoke, texts, ttl},
    reply::short_lives,
    server::{ROOT, with},
};

/// Two keyspaces with admin scopes; the first does not require an organization.
const KEYSPACES: &str = r#"
[[keyspace]]
name = "product"
prefix = "pr_"
secret = { encoding = "alphanumeric", length = 32 }
scopes = ["read", "write", "admin"]
admin_scope = "admin"

[[keyspace]]
name = "other"
prefix = "ot_"
secret = { encoding = "alphanumeric", length = 32 }
scopes = ["read", "admin"]
admin_scope = "admin"
"#;

/// A well-formed id of no key.
const UNKNOWN: &str = "key_01h455vb4pex5vsknk084sn02q";

async fn start() -> (Server, Client) {
    let server = Setup::new().config(KEYSPACES).start();
    let client = server.client().await;
    (server, client)
}

fn request(organization: &str, instance: &str, environment: &str, scopes: &[&str]) -> CreateRequest {
    CreateRequest {
        keyspace: "product".into(),
        organization: organization.into(),
        instance: instance.into(),
        environment: environment.into(),
        scopes: texts(scopes),
        ..CreateRequest::default()
    }
}

async fn bound(client: &mut Client, organization: &str, instance: &str, environment: &str, scopes: &[&str]) -> Made {
    made(create(client, ROOT, request(organization, instance, environment, scopes)).await)
}

async fn ids(client: &mut Client, credential: &str, request: ListRequest) -> Vec<String> {
    let mut ids: Vec<_> = list(client, credential, request).await.into_iter().map(|key| key.id).collect();
    ids.reverse();
    ids
}

#[tokio::test]
async fn an_admin_manages_the_keys_of_its_own_keyspace_and_organization() {
    let (_server, mut client) = start().await;
    let admin = bound(&mut client, "acme", "", "", &["admin"]).await;
    let by = format!("key:{}", admin.id);
    // Keyspace and organization default to the admin's own; it may choose an instance, which it is not bound to.
    let own = CreateRequest { instance: "eu".into(), scopes: texts(&["read"]), ..CreateRequest::default() };
    let created = made(create(&mut client, &admin.secret, own).await);
    let binding = (created.key.keyspace.as_str(), created.key.organization.as_str(), created.key.instance.as_str());
    assert_eq!(binding, ("product", "acme", "eu"));
    assert_eq!(created.key.created_by, by);
    let older = bound(&mut client, "acme", "us", "production", &[]).await;
    let listed = ids(&mut client, &admin.secret, ListRequest::default()).await;
    assert_eq!(listed, [&admin.id, &created.id, &older.id].map(Clone::clone));
    let hook =
        UpdateWebhookRequest { id: older.id.clone(), webhook_url: "https://example.com/".into(), ..Default::default() };
    client.update_webhook(with(&admin.secret, hook)).await.unwrap();
    let end = RevokeRequest { id: older.id.clone(), reason: "left".into() };
    let revoked = client.revoke(with(&admin.secret, end)).await.unwrap().into_inner().key.unwrap();
    assert_eq!((revoked.revoked_by, revoked.revoke_reason), (by, "left".to_owned()));
    // An admin may revoke itself, too.
    let end = RevokeRequest { id: admin.id.clone(), reason: String::new() };
    client.revoke(with(&admin.secret, end)).await.unwrap();
    assert_refused(
        client.list(with(&admin.secret, ListRequest::default())).await,
        tonic::Code::Unauthenticated,
        "REVOKED",
    );
}

#[tokio::test]
async fn an_admin_may_create_another_admin_with_its_own_binding() {
    let (_server, mut client) = start().await;
    let first = bound(&mut client, "acme", "eu", "", &["admin"]).await;
    let second = CreateRequest { scopes: texts(&["admin", "write"]), ..CreateRequest::default() };
    let second = made(create(&mut client, &first.secret, second).await);
    assert_eq!((second.key.organization.as_str(), second.key.instance.as_str()), ("acme", "eu"));
    let listed = ids(&mut client, &second.secret, ListRequest::default()).await;
    assert_eq!(listed, [first.id, second.id]);
}

/// An admin of one organization must not plant a key in another one, or in another keyspace, instance or environment
/// than its own.
#[tokio::test]
async fn an_admin_creates_nothing_outside_its_binding() {
    let (_server, mut client) = start().await;
    bound(&mut client, "globex", "", "", &[]).await;
    let admin = bound(&mut client, "acme", "eu", "sandbox", &["admin"]).await;
    let outside = [
        CreateRequest { keyspace: "other".into(), ..CreateRequest::default() },
        CreateRequest { keyspace: "keyward".into(), scopes: texts(&["root"]), ..CreateRequest::default() },
        CreateRequest { keyspace: "no-such".into(), ..CreateRequest::default() },
        request("globex", "", "", &[]),
        request("no-such", "", "", &[]),
        request("Acme", "", "", &[]),
        request("acme", "us", "", &[]),
        request("acme", "eu", "production", &[]),
    ];
    for request in outside {
        let case = format!("{request:?}");
        let refusal = refused(client.create(with(&admin.secret, request)).await);
        assert_eq!((refusal.code, refusal.reason.as_str()), (PermissionDenied, "FORBIDDEN"), "{case}");
    }
    assert_eq!(list(&mut client, ROOT, ListRequest::default()).await.len(), 2, "nothing was made");
}

/// The refusal must not reveal whether an organization exists.
#[tokio::test]
async fn a_foreign_organization_gets_the_same_refusal_whether_it_exists_or_not() {
    let (_server, mut client) = start().await;
    bound(&mut client, "globex", "eu", "production", &[]).await;
    let admin = bound(&mut client, "acme", "", "", &["admin"]).await;
    for filter in ["organization", "keyspace"] {
        let mut seen = Vec::new();
        for name in if filter == "organization" { ["globex", "no-such"] } else { ["other", "no-such"] } {
            let mut request = ListRequest::default();
            match filter {
                "organization" => request.organization = name.into(),
                _ => request.keyspace = name.into(),
            }
            seen.push(refused(client.list(with(&admin.secret, request)).await));
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!((seen[0].code, seen[0].reason.as_str()), (PermissionDenied, "FORBIDDEN"), "{filter}");
        assert!(!seen[0].message.contains("globex") && !seen[0].message.contains("acme"), "{}", seen[0].message);
    }
    let create = |organization: &str| request(organization, "", "", &[]);
    let (taken, free) = (
        refused(client.create(with(&admin.secret, create("globex"))).await),
        refused(client.create(with(&admin.secret, create("no-such"))).await),
    );
    assert_eq!(taken, free);
}

/// Ids can be guessed or overheard: to a foreign admin, the id of an existing key in any state must look exactly like an
/// unknown id, including the error details.
#[tokio::test]
async fn a_foreign_id_gets_exactly_the_refusal_of_an_unknown_id() {
    let (_server, mut client) = start().await;
    let foreign_revoked = bound(&mut client, "globex", "", "", &[]).await;
    revoke(&mut client, &foreign_revoked.id).await;
    let foreign = [
        bound(&mut client, "globex", "", "", &[]).await.id,
        bound(&mut client, "Acme", "", "", &[]).await.id,
        bound(&mut client, "", "", "", &[]).await.id,
        bound(&mut client, "acme", "us", "sandbox", &[]).await.id,
        bound(&mut client, "acme", "eu", "production", &[]).await.id,
        bound(&mut client, "acme", "", "", &[]).await.id,
        key(&mut client, "other", "acme", &[]).await.id,
        key(&mut client, "keyward", "", &[]).await.id,
        foreign_revoked.id,
    ];
    let admin = bound(&mut client, "acme", "eu", "sandbox", &["admin"]).await;
    let end = |id: &str| RevokeRequest { id: id.into(), reason: "mine now".into() };
    let hook =
        |id: &str, url: &str| UpdateWebhookRequest { id: id.into(), webhook_url: url.into(), ..Default::default() };
    let unknown = refused(client.revoke(with(&admin.secret, end(UNKNOWN))).await);
    assert_eq!((unknown.code, unknown.reason.as_str()), (NotFound, "NOT_FOUND"));
    assert_refused(client.revoke(with(ROOT, end(UNKNOWN))).await, NotFound, "NOT_FOUND");
    for id in &foreign {
        assert_eq!(refused(client.revoke(with(&admin.secret, end(id))).await), unknown);
        for url in ["https://example.com/", ""] {
            assert_eq!(refused(client.update_webhook(with(&admin.secret, hook(id, url))).await), unknown);
        }
        let raw = client.revoke(with(&admin.secret, end(id))).await.unwrap_err();
        let raw_unknown = client.revoke(with(&admin.secret, end(UNKNOWN))).await.unwrap_err();
        assert_eq!((raw.details(), raw.message()), (raw_unknown.details(), raw_unknown.message()));
        // Invalid fields get the same refusal, too.
        let bad = refused(client.update_webhook(with(&admin.secret, hook(id, "x"))).await);
        assert_eq!(bad, refused(client.update_webhook(with(&admin.secret, hook(UNKNOWN, "x"))).await));
    }
    assert_eq!(ids(&mut client, &admin.secret, ListRequest::default()).await, [admin.id], "nor is it listed");
    for id in foreign {
        assert_ne!(record(&mut client, &id).await.revoke_reason, "mine now");
    }
}

/// A filter must not show an admin more than its binding, and an empty filter must not match all organizations.
#[tokio::test]
async fn an_admin_lists_only_keys_of_its_binding_and_a_foreign_filter_is_refused() {
    let (_server, mut client) = start().await;
    let admin = bound(&mut client, "acme", "eu", "sandbox", &["admin"]).await;
    let own = bound(&mut client, "acme", "eu", "sandbox", &[]).await;
    bound(&mut client, "acme", "us", "sandbox", &[]).await;
    bound(&mut client, "globex", "eu", "sandbox", &[]).await;
    for request in [
        ListRequest::default(),
        ListRequest { keyspace: "product".into(), ..ListRequest::default() },
        ListRequest { organization: "acme".into(), instance: "eu".into(), ..ListRequest::default() },
        ListRequest { environment: "sandbox".into(), created_by: "root".into(), ..ListRequest::default() },
    ] {
        assert_eq!(ids(&mut client, &admin.secret, request).await, [admin.id.clone(), own.id.clone()]);
    }
    for request in [
        ListRequest { organization: "globex".into(), ..ListRequest::default() },
        ListRequest { instance: "us".into(), ..ListRequest::default() },
        ListRequest { environment: "production".into(), ..ListRequest::default() },
        ListRequest { keyspace: "other".into(), ..ListRequest::default() },
        ListRequest { keyspace: "keyward".into(), ..ListRequest::default() },
    ] {
        assert_refused(client.list(with(&admin.secret, request)).await, PermissionDenied, "FORBIDDEN");
    }
}

#[tokio::test]
async fn an_admin_without_an_instance_may_filter_by_any_instance() {
    let (_server, mut client) = start().await;
    let admin = bound(&mut client, "acme", "", "", &["admin"]).await;
    let eu = bound(&mut client, "acme", "eu", "sandbox", &[]).await;
    let us = bound(&mut client, "acme", "us", "production", &[]).await;
    for (request, expected) in [
        (ListRequest { instance: "eu".into(), ..ListRequest::default() }, vec![eu.id.clone()]),
        (ListRequest { environment: "production".into(), ..ListRequest::default() }, vec![us.id.clone()]),
        (ListRequest { instance: "none".into(), ..ListRequest::default() }, vec![]),
        (ListRequest::default(), vec![admin.id.clone(), eu.id.clone(), us.id.clone()]),
    ] {
        assert_eq!(ids(&mut client, &admin.secret, request).await, expected);
    }
}

/// An admin key without an organization must not manage the keys of all organizations.
#[tokio::test]
async fn an_admin_without_an_organization_manages_only_keys_without_one() {
    let (_server, mut client) = start().await;
    let admin = bound(&mut client, "", "", "", &["admin"]).await;
    let own = bound(&mut client, "", "eu", "", &[]).await;
    let foreign = bound(&mut client, "acme", "", "", &[]).await;
    assert_eq!(ids(&mut client, &admin.secret, ListRequest::default()).await, [admin.id.clone(), own.id.clone()]);
    let filter = ListRequest { organization: "acme".into(), ..ListRequest::default() };
    assert_refused(client.list(with(&admin.secret, filter)).await, PermissionDenied, "FORBIDDEN");
    let create = request("acme", "", "", &[]);
    assert_refused(client.create(with(&admin.secret, create)).await, PermissionDenied, "FORBIDDEN");
    let end = |id: &str| RevokeRequest { id: id.into(), reason: String::new() };
    assert_refused(client.revoke(with(&admin.secret, end(&foreign.id))).await, NotFound, "NOT_FOUND");
    client.revoke(with(&admin.secret, end(&own.id))).await.unwrap();
    let made = made(crate::support::grpc::create(&mut client, &admin.secret, CreateRequest::default()).await);
    assert_eq!(made.key.organization, "");
}

/// An admin must not grant scopes that its product does not define.
#[tokio::test]
async fn an_admin_cannot_grant_a_scope_that_the_keyspace_does_not_define() {
    let (_server, mut client) = start().await;
    let admin = bound(&mut client, "acme", "", "", &["admin"]).await;
    for scopes in [&["root"][..], &["verify"], &["read", "delete"], &["Admin"]] {
        let request = CreateRequest { scopes: texts(scopes), ..CreateRequest::default() };
        let refusal = refused(client.create(with(&admin.secret, request)).await);
        assert_eq!((refusal.code, refusal.fields), (InvalidArgument, texts(&["scopes"])), "{scopes:?}");
    }
}

#[tokio::test]
async fn a_required_organization_defaults_to_the_admins_own() {
    let server = Setup::new().ready("norrix").start();
    let mut client = server.client().await;
    let admin = key(&mut client, "", "acme", &["admin"]).await;
    let made = made(create(&mut client, &admin.secret, CreateRequest::default()).await);
    assert_eq!((made.key.organization.as_str(), made.key.keyspace.as_str()), ("acme", "norrix"));
    assert_eq!(made.key.scopes, ["build", "submit", "update"], "the defaults do not hold the admin scope");
    assert_eq!(code(&mut client, &made.secret).await, keyward::proto::Code::Valid);
}

/// The caller's key is verified for each call: a stolen admin key is useless as soon as it is revoked.
#[tokio::test]
async fn a_revoked_or_expired_admin_manages_nothing() {
    let (_server, mut client) = start().await;
    let revoked = bound(&mut client, "acme", "", "", &["admin"]).await;
    client.list(with(&revoked.secret, ListRequest::default())).await.unwrap();
    let mut lives = short_lives();
    let expired = loop {
        let expiry = ttl(lives.next().expect("an admin's key lives long enough for one call"));
        let short = CreateRequest { expiry, ..request("acme", "", "", &["admin"]) };
        let admin = made(create(&mut client, ROOT, short).await);
        if client.list(with(&admin.secret, ListRequest::default())).await.is_ok() {
            break admin;
        }
    };
    revoke(&mut client, &revoked.id).await;
    grpc::until_expired(&mut client, &expired.secret).await;
    for (admin, reason) in [(&revoked, "REVOKED"), (&expired, "EXPIRED")] {
        let answer = client.create(with(&admin.secret, CreateRequest::default())).await;
        assert_refused(answer, tonic::Code::Unauthenticated, reason);
    }
}
