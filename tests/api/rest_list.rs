//! `GET /api/api-keys`: filters, pages and cursors.

use serde_json::{Value, json};

use crate::support::{Reply, Server, Setup, reply, reply::until, server::ROOT};

async fn list(server: &Server, query: &str) -> Reply {
    reply(server.rest("GET", &format!("/api/api-keys?{query}")).bearer_auth(ROOT)).await
}

/// The names on a page, and its cursor.
async fn page(server: &Server, query: &str) -> (Vec<String>, Option<String>) {
    let page = list(server, query).await.good(200);
    let names = page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
    (names, page["nextCursor"].as_str().map(str::to_owned))
}

async fn names(server: &Server, query: &str) -> Vec<String> {
    page(server, query).await.0
}

async fn make(server: &Server, names: impl IntoIterator<Item = String>) {
    for name in names {
        server.create(json!({ "name": name })).await;
    }
}

#[tokio::test]
async fn each_filter_narrows_the_list_and_all_can_be_combined() {
    let server = Setup::new().ready("all").start();
    for (name, keyspace, organization, environment) in [
        ("a", "norrix", "acme", "prod"),
        ("b", "norrix", "Acme", "prod"),
        ("c", "norrix", "acme", "dev"),
        ("d", "nora", "acme", "sandbox"),
        ("e", "noro", "", ""),
    ] {
        let mut body = json!({"name": name, "keyspace": keyspace, "instanceId": "i"});
        if !organization.is_empty() {
            body["orgId"] = organization.into();
            body["environment"] = environment.into();
        }
        server.create(body).await;
    }
    for (query, expected) in [
        ("", &["e", "d", "c", "b", "a"][..]),
        ("keyspace=norrix", &["c", "b", "a"]),
        ("orgId=acme", &["d", "c", "a"]),
        ("orgId=Acme", &["b"]),
        ("orgId=ACME", &[]),
        ("orgId=acme&keyspace=norrix", &["c", "a"]),
        ("orgId=&keyspace=&status=&cursor=&limit=", &["e", "d", "c", "b", "a"]),
        ("keyspace=keyward", &[]),
        ("keyspace=none-such", &[]),
        ("orgId=%61cme&status=active", &["d", "c", "a"]),
        ("status=revoked", &[]),
    ] {
        assert_eq!(names(&server, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn a_status_selects_the_keys_that_have_it_now() {
    let server = Setup::new().start();
    server.create(json!({"name": "active"})).await;
    let revoked = server.create(json!({"name": "revoked"})).await;
    server.create_expiring("/api/api-keys", Some(ROOT), json!({"name": "expired"})).await;
    let both = server.create_expiring("/api/api-keys", Some(ROOT), json!({"name": "both"})).await;
    for key in [&revoked, &both] {
        let path = format!("/api/api-keys/{}", key["id"].as_str().unwrap());
        reply(server.rest("DELETE", &path).bearer_auth(ROOT)).await.good(200);
    }
    until("the key expires", async || (names(&server, "status=expired").await.len() == 1).then_some(())).await;
    assert_eq!(names(&server, "status=active").await, ["active"]);
    assert_eq!(names(&server, "status=expired").await, ["expired"]);
    assert_eq!(names(&server, "status=revoked").await, ["both", "revoked"]);
    let all = list(&server, "").await.good(200);
    let statuses: Vec<&Value> = all["keys"].as_array().unwrap().iter().map(|key| &key["status"]).collect();
    assert_eq!(statuses, ["revoked", "expired", "revoked", "active"]);
}

#[tokio::test]
async fn every_bad_parameter_is_named_in_a_400() {
    let server = Setup::new().start();
    for status in ["Active", "dead", "1", "active,revoked"] {
        list(&server, &format!("status={status}")).await.bad(&["status"]);
    }
    for limit in ["1001", "-1", "x", "1.5", "99999999999999999999", "%20", "0x10", "1e2"] {
        list(&server, &format!("limit={limit}")).await.bad(&["limit"]);
    }
    list(&server, "limit=1&limit=2").await.bad(&["limit"]);
    list(&server, "colour=red").await.bad(&["colour"]);
    list(&server, &format!("orgId={}", "a".repeat(129))).await.bad(&["orgId"]);
    list(&server, "orgId=%00").await.bad(&["orgId"]);
    list(&server, "status=x&limit=y").await.bad(&["status", "limit"]);
    for limit in [1, 1_000] {
        list(&server, &format!("limit={limit}")).await.good(200);
    }
}

#[tokio::test]
async fn a_page_has_fifty_keys_by_default() {
    let server = Setup::new().start();
    make(&server, (0..51).map(|n| n.to_string())).await;
    let (first, cursor) = page(&server, "").await;
    assert_eq!((first.len(), first[0].as_str()), (50, "50"));
    let (second, end) = page(&server, &format!("cursor={}", cursor.unwrap())).await;
    assert_eq!((second, end), (vec!["0".to_owned()], None));
}

#[tokio::test]
async fn pages_show_every_key_once_even_while_keys_are_added() {
    let server = Setup::new().start();
    make(&server, (0..7).map(|n| format!("old{n}"))).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (names, next) = page(&server, &format!("limit=2&cursor={cursor}")).await;
        assert!(names.len() <= 2);
        seen.extend(names);
        make(&server, [format!("new{}", seen.len())]).await;
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(seen, ["old6", "old5", "old4", "old3", "old2", "old1", "old0"]);
}

#[tokio::test]
async fn a_full_last_page_has_no_cursor() {
    let server = Setup::new().start();
    make(&server, ["a", "b"].map(str::to_owned)).await;
    assert_eq!(page(&server, "limit=2").await.1, None);
    assert!(page(&server, "limit=1").await.1.is_some());
    let (names, cursor) = page(&server, "orgId=nobody").await;
    assert!(names.is_empty() && cursor.is_none());
}

#[tokio::test]
async fn the_page_size_may_change_between_pages() {
    let server = Setup::new().start();
    make(&server, ["a", "b", "c", "d"].map(str::to_owned)).await;
    let cursor = page(&server, "limit=1").await.1.unwrap();
    assert_eq!(names(&server, &format!("limit=3&cursor={cursor}")).await, ["c", "b", "a"]);
}

/// A forged cursor could point into keys of another organization.
#[tokio::test]
async fn a_forged_cursor_and_one_of_another_query_are_400() {
    let server = Setup::new().start();
    for name in ["a", "b", "c"] {
        server.create(json!({"name": name, "orgId": "o"})).await;
    }
    let cursor = page(&server, "limit=1&orgId=o").await.1.unwrap();
    list(&server, &format!("cursor={cursor}&orgId=o")).await.good(200);
    for query in ["", "orgId=p", "orgId=o&status=active", "orgId=o&keyspace=default", "orgId=o&instanceId=i"] {
        list(&server, &format!("cursor={cursor}&{query}")).await.bad(&["cursor"]);
    }
    let (start, last) = cursor.split_at(cursor.len() - 1);
    let changed = format!("{start}{}", if last == "A" { "E" } else { "A" });
    let id = &page_id(&server).await;
    for forged in ["x", "%00", "....", id, &changed, &cursor[1..], &format!("{cursor}A"), &"A".repeat(5_000)] {
        list(&server, &format!("orgId=o&cursor={forged}")).await.bad(&["cursor"]);
    }
    // A cursor of another installation is refused, too.
    let other = Setup::new().start();
    list(&other, &format!("cursor={cursor}&orgId=o")).await.bad(&["cursor"]);
}

async fn page_id(server: &Server) -> String {
    list(server, "").await.good(200)["keys"][0]["id"].as_str().unwrap().to_owned()
}
