//! Activity and overview.

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    dashboard::{Browser, KEYS},
    server::ROOT,
};

async fn world() -> (Server, Browser, Vec<Value>) {
    let server = Setup::new().ready("all").start();
    let mut keys = Vec::new();
    for (name, keyspace, organization) in
        [("=cmd", "norrix", "acme"), ("two", "norrix", "globex"), ("three", "noro", "")]
    {
        let mut body = json!({"name": name, "keyspace": keyspace});
        if !organization.is_empty() {
            body["orgId"] = organization.into();
        }
        keys.push(server.create(body).await);
    }
    let path = format!("/api/api-keys/{}", keys[1]["id"].as_str().unwrap());
    let (status, _) = server.call("DELETE", &path, Some(ROOT), json!({"reason": "said \"no\", twice"})).await;
    assert_eq!(status, 200);
    let browser = Browser::operator(&server).await;
    (server, browser, keys)
}

#[tokio::test]
async fn the_activity_is_filtered_by_type_key_actor_and_time() {
    let (_server, mut browser, keys) = world().await;
    let one = keys[0]["id"].as_str().unwrap();
    for (query, rows) in [
        ("", 4),
        ("?type=key.created", 3),
        ("?type=key.revoked", 1),
        (&format!("?key={one}"), 1),
        ("?actor=root", 4),
        ("?actor=nobody", 0),
        ("?organization=globex", 2),
        ("?keyspace=noro", 1),
        ("?since=2000-01-01&until=2999-12-31", 4),
        ("?until=2000-01-01", 0),
        ("?since=2999-01-01", 0),
    ] {
        let page = browser.get(&format!("/dashboard/activity{query}")).await.is(200);
        assert_eq!(page.html.matches("data-label=\"When\"").count(), rows, "{query}");
    }
    for bad in
        ["?type=key.made", "?key=nonsense", "?since=yesterday", "?since=2020-02-01&until=2020-01-01", "?cursor=x"]
    {
        browser.get(&format!("/dashboard/activity{bad}")).await.is(400);
    }
    browser.get(&format!("{KEYS}/{one}")).await.is(200).has("Created").has("All activity of this key");
}

#[tokio::test]
async fn the_activity_is_exported_as_csv_that_no_spreadsheet_runs() {
    let (_server, mut browser, keys) = world().await;
    let file = browser.get("/dashboard/activity.csv").await.is(200);
    assert_eq!(file.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(file.header("content-disposition"), "attachment; filename=\"activity.csv\"");
    let lines: Vec<&str> = file.html.trim_end().split("\r\n").collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].starts_with("time,type,actor,key,name,prefix"));
    assert!(
        lines[1].contains("key.revoked,root,") && lines[1].ends_with(",\"reason: said \"\"no\"\", twice\""),
        "{}",
        lines[1]
    );
    assert!(lines[4].contains(",'=cmd,"), "{}", lines[4]);
    for key in &keys {
        assert!(!file.html.contains(key["key"].as_str().unwrap()));
    }
    let one = browser.get("/dashboard/activity.csv?type=key.revoked").await.is(200);
    assert_eq!(one.html.trim_end().lines().count(), 2);
}

#[tokio::test]
async fn the_overview_counts_keys_and_shows_operators_the_installation() {
    let (server, mut browser, keys) = world().await;
    for secret in [keys[0]["key"].as_str().unwrap(), keys[1]["key"].as_str().unwrap()] {
        server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": secret})).await;
    }
    let page = browser.get("/dashboard/overview").await.is(200);
    for (status, number) in [("active", 2), ("revoked", 1), ("expired", 0)] {
        let tile = format!("<span class=\"number\">{number}</span><span class=\"chip {status}\">{status}</span>");
        assert!(page.html.contains(&tile), "{tile}\n{}", page.html);
    }
    let page = page.has("3 keys created in the last 30 days").has("1 key revoked in the last 30 days");
    page.has("<dt>VALID</dt>").has("<dt>REVOKED</dt>").has("Nothing is overdue").has("One process owns the database");
}
