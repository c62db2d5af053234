//! List: filters, statuses, pages and page tokens.

use std::time::Duration;

use keyward::proto::{Code, CreateRequest, KeyStatus, ListRequest};

use crate::support::{
    Server, Setup,
    grpc::{Client, Made, assert_invalid, code, create, key, list, made, revoke, texts, ttl, until_expired},
    server::{ROOT, with},
};

async fn start() -> (Server, Client) {
    let server = Setup::new().ready("all").start();
    let client = server.client().await;
    (server, client)
}

async fn nora(client: &mut Client, organization: &str, instance: &str, environment: &str) -> Made {
    let request = CreateRequest {
        keyspace: "nora".into(),
        organization: organization.into(),
        instance: instance.into(),
        environment: environment.into(),
        ..CreateRequest::default()
    };
    made(create(client, ROOT, request).await)
}

async fn ids(client: &mut Client, request: ListRequest) -> Vec<String> {
    list(client, ROOT, request).await.into_iter().map(|key| key.id).collect()
}

#[tokio::test]
async fn each_filter_matches_and_filters_combine() {
    let (_server, mut client) = start().await;
    let a = nora(&mut client, "acme", "eu", "sandbox").await.id;
    let b = nora(&mut client, "acme", "us", "production").await.id;
    let c = nora(&mut client, "Acme", "eu", "production").await.id;
    let d = key(&mut client, "norrix", "acme", &[]).await.id;
    let filter = |change: &dyn Fn(&mut ListRequest)| {
        let mut request = ListRequest::default();
        change(&mut request);
        request
    };
    for (request, expected) in [
        (filter(&|_| {}), vec![&d, &c, &b, &a]),
        (filter(&|r| r.keyspace = "nora".into()), vec![&c, &b, &a]),
        (filter(&|r| r.organization = "acme".into()), vec![&d, &b, &a]),
        (filter(&|r| r.organization = "Acme".into()), vec![&c]),
        (filter(&|r| r.instance = "eu".into()), vec![&c, &a]),
        (filter(&|r| r.environment = "production".into()), vec![&c, &b]),
        (filter(&|r| r.created_by = "root".into()), vec![&d, &c, &b, &a]),
        (filter(&|r| r.created_by = "key:nobody".into()), vec![]),
        (filter(&|r| r.keyspace = "no-such".into()), vec![]),
        (filter(&|r| r.organization = "acm".into()), vec![]),
        (filter(&|r| r.organization = "acme%".into()), vec![]),
        (filter(&|r| r.organization = "' OR '1'='1".into()), vec![]),
        (
            filter(&|r| {
                r.organization = "acme".into();
                r.instance = "us".into();
                r.environment = "production".into();
                r.keyspace = "nora".into();
            }),
            vec![&b],
        ),
    ] {
        let case = format!("{request:?}");
        assert_eq!(ids(&mut client, request).await.iter().collect::<Vec<_>>(), expected, "{case}");
    }
}

#[tokio::test]
async fn revoked_and_expired_keys_stay_listed_under_their_status() {
    let (_server, mut client) = start().await;
    let short = || CreateRequest {
        keyspace: "norrix".into(),
        organization: "acme".into(),
        expiry: ttl(Duration::from_millis(400)),
        ..CreateRequest::default()
    };
    let active = key(&mut client, "norrix", "acme", &[]).await;
    let revoked = key(&mut client, "norrix", "acme", &[]).await;
    let expired = made(create(&mut client, ROOT, short()).await);
    let both = made(create(&mut client, ROOT, short()).await);
    revoke(&mut client, &revoked.id).await;
    until_expired(&mut client, &expired.secret).await;
    until_expired(&mut client, &both.secret).await;
    revoke(&mut client, &both.id).await;
    let all = list(&mut client, ROOT, ListRequest::default()).await;
    let statuses: Vec<_> = all.iter().map(|key| (key.id.clone(), key.status())).collect();
    let expected = [
        (both.id.clone(), KeyStatus::Revoked),
        (expired.id.clone(), KeyStatus::Expired),
        (revoked.id.clone(), KeyStatus::Revoked),
        (active.id.clone(), KeyStatus::Active),
    ];
    assert_eq!(statuses, expected);
    for (status, expected) in [
        (KeyStatus::Active, vec![&active.id]),
        (KeyStatus::Revoked, vec![&both.id, &revoked.id]),
        (KeyStatus::Expired, vec![&expired.id]),
    ] {
        let found = ids(&mut client, ListRequest { status: status.into(), ..ListRequest::default() }).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{status:?}");
    }
}

#[tokio::test]
async fn pages_hold_every_key_once_even_while_keys_are_added() {
    let (_server, mut client) = start().await;
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.push(key(&mut client, "norrix", "acme", &[]).await.id);
    }
    expected.reverse();
    let mut request = ListRequest { page_size: 2, organization: "acme".into(), ..ListRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = client.list(with(ROOT, request.clone())).await.unwrap().into_inner();
        assert!(page.keys.len() <= 2);
        seen.extend(page.keys.into_iter().map(|key| key.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        key(&mut client, "norrix", "acme", &[]).await;
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_page_size_of_zero_is_fifty_and_a_last_page_has_no_token() {
    let (_server, mut client) = start().await;
    for _ in 0..51 {
        key(&mut client, "norrix", "acme", &[]).await;
    }
    for (page_size, keys, more) in [(0, 50, true), (50, 50, true), (51, 51, false), (1_000, 51, false), (1, 1, true)] {
        let request = ListRequest { page_size, ..ListRequest::default() };
        let page = client.list(with(ROOT, request)).await.unwrap().into_inner();
        assert_eq!((page.keys.len(), !page.next_page_token.is_empty()), (keys, more), "{page_size}");
    }
}

/// A page token is a position in one query. With other filters, it would give an attacker a page that his own query does
/// not contain.
#[tokio::test]
async fn a_page_token_is_refused_for_another_query() {
    let (_server, mut client) = start().await;
    for _ in 0..3 {
        key(&mut client, "norrix", "acme", &[]).await;
    }
    let own = ListRequest { organization: "acme".into(), page_size: 1, ..ListRequest::default() };
    let token = client.list(with(ROOT, own.clone())).await.unwrap().into_inner().next_page_token;
    let own = ListRequest { page_token: token.clone(), ..own };
    client.list(with(ROOT, own.clone())).await.unwrap();
    // The page size is not a filter and may change.
    client.list(with(ROOT, ListRequest { page_size: 2, ..own.clone() })).await.unwrap();
    for request in [
        ListRequest { organization: "Acme".into(), ..own.clone() },
        ListRequest { organization: String::new(), ..own.clone() },
        ListRequest { organization: String::new(), instance: "acme".into(), ..own.clone() },
        ListRequest { keyspace: "norrix".into(), ..own.clone() },
        ListRequest { environment: "production".into(), ..own.clone() },
        ListRequest { status: KeyStatus::Active.into(), ..own.clone() },
        ListRequest { created_by: "root".into(), ..own.clone() },
    ] {
        let case = format!("{request:?}");
        assert_invalid(client.list(with(ROOT, request)).await, &["page_token"], &case);
    }
}

/// A token that this installation did not make, or that was changed, is not a position.
#[tokio::test]
async fn a_forged_page_token_is_refused() {
    let (_server, mut client) = start().await;
    let (_other, mut elsewhere) = start().await;
    for client in [&mut client, &mut elsewhere] {
        for _ in 0..2 {
            key(client, "norrix", "acme", &[]).await;
        }
    }
    let one = ListRequest { page_size: 1, ..ListRequest::default() };
    let token = client.list(with(ROOT, one.clone())).await.unwrap().into_inner().next_page_token;
    let foreign = elsewhere.list(with(ROOT, one.clone())).await.unwrap().into_inner().next_page_token;
    let mut forged =
        vec![foreign, token[1..].to_owned(), format!("{token}A"), format!("{token}="), token.to_lowercase()];
    for index in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(changed).unwrap());
    }
    for page_token in forged {
        let case = page_token.clone();
        assert_invalid(
            client.list(with(ROOT, ListRequest { page_token, ..one.clone() })).await,
            &["page_token"],
            &case,
        );
    }
    client.list(with(ROOT, ListRequest { page_token: token, ..one })).await.unwrap();
}

/// The token of an admin must not be accepted with the filters of an operator, nor the other way round.
#[tokio::test]
async fn a_page_token_of_one_organization_is_refused_for_another() {
    let (_server, mut client) = start().await;
    let mut admins = Vec::new();
    for organization in ["acme", "globex"] {
        let request = CreateRequest {
            keyspace: "norrix".into(),
            organization: organization.into(),
            scopes: texts(&["admin"]),
            ..CreateRequest::default()
        };
        admins.push(made(create(&mut client, ROOT, request).await));
        key(&mut client, "norrix", organization, &[]).await;
    }
    let one = ListRequest { page_size: 1, ..ListRequest::default() };
    let token = client.list(with(&admins[0].secret, one.clone())).await.unwrap().into_inner().next_page_token;
    let with_token = ListRequest { page_token: token, ..one };
    client.list(with(&admins[0].secret, with_token.clone())).await.unwrap();
    for credential in [admins[1].secret.as_str(), ROOT] {
        assert_invalid(client.list(with(credential, with_token.clone())).await, &["page_token"], "another caller's");
    }
}

#[tokio::test]
async fn a_page_of_a_thousand_large_keys_fits_into_a_clients_default_limit() {
    let (_server, mut client) = start().await;
    let request = CreateRequest {
        keyspace: "nora".into(),
        organization: "é".repeat(128),
        instance: "é".repeat(128),
        environment: "sandbox".into(),
        name: "é".repeat(200),
        scopes: (0..64).map(|n| format!("{n:02}:{}", "A".repeat(61))).collect(),
        webhook_url: format!("https://example.com/{}", "a".repeat(2_028)),
        metadata: [("k".to_owned(), "v".repeat(4_095))].into(),
        ..CreateRequest::default()
    };
    let count = 450;
    let mut last = None;
    for _ in 0..count {
        last = Some(made(create(&mut client, ROOT, request.clone()).await));
    }
    // By default, clients accept messages of up to 4 MiB.
    let keys = list(&mut client, ROOT, ListRequest { page_size: 1_000, ..ListRequest::default() }).await;
    assert_eq!(keys.len(), count);
    assert_eq!(code(&mut client, &last.unwrap().secret).await, Code::Valid);
}
