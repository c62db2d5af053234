//! Create.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use keyward::proto::{
    Code, CreateRequest, CreateResponse, Key, KeyStatus, ListRequest, VerifyRequest, VerifyResponse,
    create_request::Expiry,
};

use crate::support::{
    Setup,
    grpc::{self, check, code, create, key, list, made, micros, now, own_limit, record, texts, ttl, verify},
    reply::short_lives,
    server::{ROOT, with},
};

#[tokio::test]
async fn create_returns_the_whole_record_and_list_returns_the_same() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let before = now();
    let request = CreateRequest {
        keyspace: "default".into(),
        organization: "acme".into(),
        instance: "eu-1".into(),
        environment: "production".into(),
        name: "Ключ 🔑".into(),
        scopes: texts(&["b:1", "a.2", "b:1"]),
        expiry: ttl(Duration::from_hours(1)),
        webhook_url: "https://example.com/hook".into(),
        metadata: HashMap::from([("team".into(), "ops\nand more".into())]),
        keyspaces: Vec::new(),
        rate_limit: Some(own_limit(7, 90)),
    };
    let response = create(&mut client, ROOT, request).await;
    let key = response.key.clone().unwrap();
    let created = micros(key.create_time.unwrap());
    assert!((before..=now()).contains(&created));
    let expected = Key {
        id: key.id.clone(),
        keyspace: "default".into(),
        organization: "acme".into(),
        instance: "eu-1".into(),
        environment: "production".into(),
        name: "Ключ 🔑".into(),
        prefix: response.secret[..12].to_owned(),
        scopes: texts(&["b:1", "a.2"]),
        status: KeyStatus::Active.into(),
        create_time: key.create_time,
        expire_time: key.expire_time,
        revoke_time: None,
        revoke_reason: String::new(),
        last_used_time: None,
        created_by: "root".into(),
        revoked_by: String::new(),
        webhook_url: "https://example.com/hook".into(),
        metadata: HashMap::from([("team".into(), "ops\nand more".into())]),
        keyspaces: Vec::new(),
        rate_limit: Some(own_limit(7, 90)),
    };
    assert_eq!(key, expected);
    assert_eq!(micros(key.expire_time.unwrap()) - created, 3_600_000_000);
    assert!(response.webhook_secret.starts_with("whsec_"));
    assert_eq!(record(&mut client, &key.id).await, key);
}

#[tokio::test]
async fn an_empty_create_makes_a_key_with_only_id_secret_and_times() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let CreateResponse { key, secret, webhook_secret } = create(&mut client, ROOT, CreateRequest::default()).await;
    let key = key.unwrap();
    assert_eq!((key.keyspace.as_str(), key.name.as_str(), key.scopes.len()), ("default", "", 0));
    assert_eq!((key.expire_time, key.metadata.len(), webhook_secret.as_str()), (None, 0, ""));
    assert_eq!(key.rate_limit, None);
    assert_eq!(code(&mut client, &secret).await, Code::Valid);
}

#[tokio::test]
async fn secrets_have_their_keyspaces_format() {
    let server = Setup::new().ready("all").start();
    let mut client = server.client().await;
    let base62 = |c: char| c.is_ascii_alphanumeric();
    let base64url = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    for (keyspace, environment, prefix, length, alphabet) in [
        ("norrix", "", "nrx_", 48, base64url as fn(char) -> bool),
        ("noro", "", "noro_", 32, base62),
        ("nora", "sandbox", "sk_test_", 32, base62),
        ("nora", "production", "sk_live_", 32, base62),
        ("keyward", "", "kw_", 40, base62),
    ] {
        let request = CreateRequest {
            keyspace: keyspace.into(),
            organization: "acme".into(),
            instance: "main".into(),
            environment: environment.into(),
            ..CreateRequest::default()
        };
        let made = made(create(&mut client, ROOT, request).await);
        let body = made.secret.strip_prefix(prefix).expect(prefix);
        assert_eq!(body.len(), length, "{keyspace}");
        assert!(body.chars().all(alphabet), "{keyspace}");
        assert_eq!(made.key.prefix, made.secret[..12]);
        let verdict = verify(&mut client, VerifyRequest { keyspace: keyspace.into(), ..check(&made.secret) }).await;
        assert_eq!(verdict.code(), Code::Valid);
    }
    let alone = Setup::new().start();
    let mut client = alone.client().await;
    let secret = key(&mut client, "", "", &[]).await.secret;
    assert_eq!((&secret[..3], secret.len()), ("ak_", 3 + 32));
}

#[tokio::test]
async fn a_key_without_scopes_gets_the_defaults_of_its_keyspace() {
    let server = Setup::new().ready("norrix").start();
    let mut client = server.client().await;
    assert_eq!(key(&mut client, "", "acme", &[]).await.key.scopes, ["build", "submit", "update"]);
    assert_eq!(key(&mut client, "", "acme", &["admin", "build"]).await.key.scopes, ["admin", "build"]);
    // The default of the reserved keyspace is the lesser of its two scopes: `root` must be requested.
    assert_eq!(key(&mut client, "keyward", "", &[]).await.key.scopes, ["verify"]);
}

#[tokio::test]
async fn ids_are_strictly_increasing_typeids() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(key(&mut client, "", "", &[]).await.id);
    }
    for id in &ids {
        let body = id.strip_prefix("key_").expect("a TypeID");
        assert_eq!(body.len(), 26);
        assert!(body.bytes().all(|c| b"0123456789abcdefghjkmnpqrstvwxyz".contains(&c)), "{id}");
        // A UUIDv7: 130 bits less 2 of padding; the version is in bits 48 to 51.
        let number = body.bytes().fold(0_u128, |number, c| {
            number << 5 | b"0123456789abcdefghjkmnpqrstvwxyz".iter().position(|d| *d == c).unwrap() as u128
        });
        assert_eq!((number >> 76 & 0xf, number >> 62 & 0b11), (7, 0b10), "{id}");
        let created = i64::try_from(number >> 80).unwrap() * 1_000;
        assert!((created - now()).abs() < 60_000_000);
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

#[tokio::test]
async fn keys_created_concurrently_are_distinct_and_valid() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let calls = (0..40).map(|_| {
        let mut client = client.clone();
        async move { made(create(&mut client, ROOT, CreateRequest::default()).await) }
    });
    let made = join_all(calls).await;
    for key in &made {
        assert_eq!(code(&mut client, &key.secret).await, Code::Valid);
    }
    let mut ids: Vec<_> = made.iter().map(|key| key.id.clone()).collect();
    let mut secrets: Vec<_> = made.iter().map(|key| key.secret.clone()).collect();
    for all in [&mut ids, &mut secrets] {
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 40);
    }
    let listed = list(&mut client, ROOT, ListRequest::default()).await;
    ids.reverse();
    assert_eq!(listed.into_iter().map(|key| key.id).collect::<Vec<_>>(), ids, "newest first");
}

#[tokio::test]
async fn a_key_expires_at_its_expire_time_or_after_its_ttl() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let absolute = |life: Duration| {
        let at = now() + i64::try_from(life.as_micros()).unwrap();
        let (seconds, nanos) = (at / 1_000_000, i32::try_from(at % 1_000_000).unwrap() * 1_000);
        Some(Expiry::ExpireTime(prost_types::Timestamp { seconds, nanos }))
    };
    for expiry in [absolute, ttl] {
        let mut lives = short_lives();
        // On a busy machine the expiry may pass before the key is created or verified.
        let made = loop {
            let expiry = expiry(lives.next().expect("a key lives long enough for one check"));
            let request = CreateRequest { expiry, ..CreateRequest::default() };
            let Ok(response) = client.create(with(ROOT, request)).await else { continue };
            let made = made(response.into_inner());
            match code(&mut client, &made.secret).await {
                Code::Expired => {}
                code => break (assert_eq!(code, Code::Valid), made).1,
            }
        };
        let expires = micros(made.key.expire_time.unwrap());
        grpc::until_expired(&mut client, &made.secret).await;
        assert!(now() >= expires, "not a moment too early");
        let record = record(&mut client, &made.id).await;
        assert_eq!((record.status(), record.expire_time), (KeyStatus::Expired, made.key.expire_time));
    }
}

#[tokio::test]
async fn the_longest_expiry_is_ten_years() {
    let server = Setup::new().start();
    let mut client = server.client().await;
    let day = Duration::from_hours(24);
    let request = |days| CreateRequest { expiry: ttl(day * days), ..CreateRequest::default() };
    create(&mut client, ROOT, request(3_650)).await;
    grpc::assert_invalid(client.create(with(ROOT, request(3_654))).await, &["ttl"], "ten years and a day");
}

#[tokio::test]
async fn an_operator_may_choose_a_longer_ttl_than_the_keyspaces_default() {
    let server = Setup::new().ready("noro").start();
    let mut client = server.client().await;
    let request = CreateRequest { expiry: ttl(Duration::from_hours(365 * 24)), ..CreateRequest::default() };
    let VerifyResponse { expire_time, create_time, .. } = {
        let made = made(create(&mut client, ROOT, request).await);
        verify(&mut client, check(&made.secret)).await
    };
    assert_eq!(micros(expire_time.unwrap()) - micros(create_time.unwrap()), 365 * 86_400 * 1_000_000);
}

#[tokio::test]
async fn the_keyspace_must_exist_and_must_be_named_if_there_are_several() {
    let server = Setup::new().ready("all").start();
    let mut client = server.client().await;
    for (keyspace, case) in [("", "none named"), ("default", "not configured"), ("Norrix", "another case")] {
        let request = CreateRequest { keyspace: keyspace.into(), ..CreateRequest::default() };
        grpc::assert_invalid(client.create(with(ROOT, request)).await, &["keyspace"], case);
    }
}

#[tokio::test]
async fn the_parts_of_the_binding_that_a_keyspace_requires_are_required() {
    let server = Setup::new().ready("all").start();
    let mut client = server.client().await;
    let nora = |organization: &str, instance: &str, environment: &str| CreateRequest {
        keyspace: "nora".into(),
        organization: organization.into(),
        instance: instance.into(),
        environment: environment.into(),
        ..CreateRequest::default()
    };
    for (request, fields) in [
        (nora("", "main", "sandbox"), &["organization"][..]),
        (nora("acme", "", "sandbox"), &["instance"]),
        (nora("acme", "main", ""), &["environment"]),
        (nora("", "", ""), &["organization", "instance", "environment"]),
        // Not an environment of the keyspace.
        (nora("acme", "main", "staging"), &["environment"]),
        (nora("acme", "main", "Sandbox"), &["environment"]),
        (CreateRequest { keyspace: "norrix".into(), ..CreateRequest::default() }, &["organization"]),
    ] {
        let case = format!("{request:?}");
        grpc::assert_invalid(client.create(with(ROOT, request)).await, fields, &case);
    }
}

#[tokio::test]
async fn an_operator_cannot_grant_a_scope_that_the_keyspace_does_not_define() {
    let server = Setup::new().ready("all").start();
    let mut client = server.client().await;
    for (keyspace, scopes) in [("norrix", &["build", "delete"][..]), ("norrix", &["Build"]), ("keyward", &["admin"])] {
        let request = CreateRequest {
            keyspace: keyspace.into(),
            organization: "acme".into(),
            scopes: texts(scopes),
            ..CreateRequest::default()
        };
        grpc::assert_invalid(client.create(with(ROOT, request)).await, &["scopes"], keyspace);
    }
    assert_eq!(list(&mut client, ROOT, ListRequest::default()).await, [], "a refused request creates nothing");
}

#[tokio::test]
async fn a_secret_is_never_stored_or_logged() {
    let server = Setup::new().env("KEYWARD_LOG", "trace").start();
    let mut client = server.client().await;
    let request = CreateRequest { webhook_url: "https://example.com/h".into(), ..CreateRequest::default() };
    let response = create(&mut client, ROOT, request).await;
    let service = key(&mut client, "keyward", "", &[]).await;
    client.verify(with(&service.secret, check(&response.secret))).await.unwrap();
    let key = response.key.unwrap();
    server.logged(&key.id).await;
    let mut stored = String::new();
    for file in std::fs::read_dir(server.folder()).unwrap() {
        stored += &String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap());
    }
    assert!(stored.contains(&response.secret[..12]), "the shown prefix is stored");
    let webhook = response.webhook_secret.strip_prefix("whsec_").unwrap();
    for secret in [&response.secret[13..], &service.secret[13..], webhook, ROOT] {
        for (place, text) in [("log", server.log()), ("output", server.output()), ("database", stored.clone())] {
            assert!(!text.contains(secret), "a secret is in the {place}");
        }
    }
}

#[test]
fn debug_output_of_messages_hides_their_secrets() {
    let verify = VerifyRequest { secret: "ak_hidden".into(), ..VerifyRequest::default() };
    let stream = keyward::proto::VerifyStreamRequest { id: 1, request: Some(verify.clone()) };
    let created = CreateResponse { secret: "ak_hidden".into(), webhook_secret: "whsec_hidden".into(), key: None };
    let hooked = keyward::proto::UpdateWebhookResponse { webhook_secret: "whsec_hidden".into(), key: None };
    for text in [format!("{verify:?}"), format!("{stream:?}"), format!("{created:?}"), format!("{hooked:?}")] {
        assert!(!text.contains("hidden"), "{text}");
    }
}
