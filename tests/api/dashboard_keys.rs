//! Keys in the dashboard: create, see once, list, search, revoke.

use serde_json::{Value, json};

use crate::support::{
    Server, Setup,
    dashboard::{Browser, KEYS, Page},
    reply::from_now,
    server::ROOT,
};

fn start() -> Server {
    Setup::new().ready("all").start()
}

async fn verdict(server: &Server, secret: &str) -> Value {
    let (status, answer) = server.call("POST", "/api/v1/verify", Some(ROOT), json!({"secret": secret})).await;
    assert_eq!(status, 200);
    answer
}

async fn record(server: &Server, id: &str) -> Value {
    server.call("GET", &format!("/api/api-keys/{id}"), Some(ROOT), Value::Null).await.1
}

fn id_of(page: &Page) -> String {
    page.between("data-leave=\"/dashboard/settings/api-keys/", "\"")
}

#[tokio::test]
async fn a_key_is_created_with_every_field_and_its_secret_is_shown_once() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let page = browser
        .create(&[
            ("keyspace", "norrix"),
            ("name", "GitHub Actions"),
            ("scope", "build"),
            ("scope", "update"),
            ("organization", "acme"),
            ("expiry", "days"),
            ("days", "30"),
            ("webhook", "https://hooks.example/x"),
            ("metadata", "team = payments\r\nowner = a=b"),
        ])
        .await
        .is(201)
        .has("It won’t be shown again")
        .has("NORRIX_API_KEY")
        .has("curl -H &#34;Authorization: Bearer $NORRIX_API_KEY&#34;")
        .has("whsec_");
    let (secret, id) = (page.secret(), id_of(&page));
    assert!(secret.starts_with("nrx_"), "{secret}");
    assert_eq!(verdict(&server, &secret).await["code"], "VALID");
    let record = record(&server, &id).await;
    assert_eq!(record["scopes"], json!(["build", "update"]));
    assert_eq!((&record["orgId"], &record["createdBy"]), (&json!("acme"), &json!("root")));
    assert_eq!(record["metadata"], json!({"owner": "a=b", "team": "payments"}));
    let expires = record["expiresAt"].as_str().unwrap();
    assert!(expires > from_now(std::time::Duration::from_hours(29 * 24)).as_str(), "{expires}");
    for path in [
        KEYS.to_owned(),
        format!("{KEYS}/{id}"),
        "/dashboard/activity".to_owned(),
        "/dashboard/activity.csv".to_owned(),
    ] {
        let page = browser.get(&path).await.is(200);
        assert!(!page.html.contains(&secret) && !page.html.contains("whsec_"), "{path}");
    }
    assert!(!server.log().contains(&secret));
}

/// The attack on oneself: the page with the secret is loaded again, and the browser sends its form again.
#[tokio::test]
async fn a_create_form_that_is_sent_again_creates_nothing() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let form = browser.get(&format!("{KEYS}/new?keyspace=noro")).await.is(200);
    let (token, once) = (form.value("token"), form.value("once"));
    let fields =
        [("token", token.as_str()), ("once", &once), ("keyspace", "noro"), ("name", "twice"), ("expiry", "default")];
    browser.post(KEYS, &fields).await.is(201);
    for _ in 0..2 {
        let page = browser.post(KEYS, &fields).await.is(409).has("shown once");
        assert!(!page.html.contains("noro_"), "{}", page.html);
    }
    for once in ["", "short", "UPPERCASEUPPERCA", "%%%%%%%%%%%%%%%%"] {
        let fields =
            [("token", token.as_str()), ("once", once), ("keyspace", "noro"), ("name", "twice"), ("expiry", "default")];
        browser.post(KEYS, &fields).await.is(409);
    }
    let listed = server.call("GET", "/api/api-keys?keyspace=noro", Some(ROOT), Value::Null).await.1;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_form_has_what_the_keyspace_wants_and_its_defaults() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let norrix = browser.get(&format!("{KEYS}/new?keyspace=norrix")).await.is(200);
    for (scope, checked) in [("build", " checked"), ("submit", " checked"), ("update", " checked"), ("admin", "")] {
        assert!(norrix.html.contains(&format!("name=\"scope\" value=\"{scope}\"{checked}>")), "{scope}");
    }
    browser.get(&format!("{KEYS}/new?keyspace=noro")).await.is(200).has("After 90 days");
    let nora = browser.get(&format!("{KEYS}/new?keyspace=nora")).await.is(200);
    let nora = nora.has("<option value=\"sandbox\"").has("<option value=\"production\"").has("name=\"instance\"");
    assert!(nora.html.contains("name=\"organization\""));
    browser.get(&format!("{KEYS}/new?keyspace=nowhere")).await.is(400);
    let fields = [
        ("keyspace", "nora"),
        ("name", "backend-2026-04"),
        ("organization", "acme"),
        ("instance", "main"),
        ("environment", "sandbox"),
    ];
    let page = browser.create(&fields).await.is(201).has("X-API-Key: $NORA_API_KEY");
    assert!(page.secret().starts_with("sk_test_"));
}

#[tokio::test]
async fn errors_stand_beside_their_fields_and_nothing_that_was_typed_is_lost() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let long = "n".repeat(201);
    for (fields, field, sentence) in [
        (vec![("name", "")], "name", "Give the key a name"),
        (vec![("name", long.as_str())], "name", "200 characters"),
        (vec![("name", "n"), ("expiry", "days"), ("days", "0")], "days", "1 to 3650"),
        (vec![("name", "n"), ("expiry", "date"), ("date", "1999-12-31")], "date", "in the future"),
        (vec![("name", "n"), ("webhook", "http://10.0.0.1/")], "webhook", "https"),
        (vec![("name", "n"), ("metadata", "no pair")], "metadata", "Line 1"),
        (vec![("name", "n"), ("organization", "")], "organization", "required"),
    ] {
        let kept = ("webhook", "https://kept.example/<b>");
        let mut all = vec![("keyspace", "norrix"), ("scope", "submit"), ("organization", "acme"), kept];
        all.retain(|(name, _)| !fields.iter().any(|(own, _)| own == name));
        all.extend(fields);
        let page = browser.create(&all).await.is(400).has("Nothing was created").has(sentence);
        assert!(page.html.contains(&format!("id=\"{field}-problem\"")), "{field}");
        assert!(page.html.contains("aria-invalid=\"true\""), "{field}");
        assert!(page.html.contains("name=\"scope\" value=\"submit\" checked>"), "the choice is kept");
        assert!(!page.html.contains("<b>"), "{field}");
        if field != "webhook" {
            assert_eq!(page.value("webhook"), kept.1);
        }
    }
    let page = browser.create(&[("keyspace", "norrix"), ("name", "n"), ("organization", "acme")]).await;
    page.is(400).has("Choose at least one scope");
    let listed = server.call("GET", "/api/api-keys?keyspace=norrix", Some(ROOT), Value::Null).await.1;
    assert_eq!(listed["keys"], json!([]));
}

#[tokio::test]
async fn what_a_person_typed_is_shown_as_text() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let long = "w".repeat(200);
    for name in
        ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "مفتاح 🔑 &amp; <b>", "{{ 7 * 7 }}", &long]
    {
        let page = browser.create(&[("name", name), ("keyspace", "noro"), ("expiry", "default")]).await.is(201);
        let id = id_of(&page);
        for path in
            [KEYS.to_owned(), format!("{KEYS}/{id}"), format!("{KEYS}/{id}/revoke"), "/dashboard/activity".to_owned()]
        {
            let page = browser.get(&path).await.is(200);
            for raw in ["<script>alert", "<img", "<b>"] {
                assert!(!page.html.contains(raw), "{raw} in {path}");
            }
            let escaped = name.replace('&', "&#38;").replace('<', "&#60;").replace('>', "&#62;").replace('"', "&#34;");
            assert!(page.html.contains(&escaped), "{escaped} in {path}");
        }
    }
    let query = "%3Cscript%3Ealert(1)%3C/script%3E";
    for path in [format!("{KEYS}?q={query}&status={query}"), format!("/dashboard/sign-in?return_to={query}")] {
        assert!(!browser.get(&path).await.html.contains("<script>alert"), "{path}");
    }
}

#[tokio::test]
async fn a_key_is_revoked_by_typing_its_name_and_the_page_says_where_it_is_dead() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let page = browser.create(&[("name", "Jenkins"), ("keyspace", "noro"), ("expiry", "default")]).await.is(201);
    let (secret, id) = (page.secret(), id_of(&page));
    let path = format!("{KEYS}/{id}/revoke");
    browser.get(&path).await.is(200).has("Type <strong><bdi>Jenkins</bdi></strong> to confirm");
    for wrong in ["", "jenkins", "Jenkins!", &id] {
        let page = browser.act(&path, &[("confirmation", wrong), ("reason", "kept & safe")]).await.is(400);
        assert_eq!(page.value("reason"), "kept & safe");
        assert_eq!(verdict(&server, &secret).await["code"], "VALID");
    }
    browser
        .act(&path, &[("confirmation", "Jenkins"), ("reason", &"r".repeat(201))])
        .await
        .is(400)
        .has("200 characters");
    let page = browser.act(&path, &[("confirmation", "Jenkins"), ("reason", "leaked")]).await.is(200);
    page.has("Dead on 1 of 1 replica after").has("leaked");
    assert_eq!(verdict(&server, &secret).await["code"], "REVOKED");
    assert_eq!(record(&server, &id).await["status"], "revoked");
    // Sent again, it is as certain as before.
    browser.act(&path, &[("confirmation", "Jenkins"), ("reason", "again")]).await.is(200).has("Dead on 1 of 1 replica");
    assert_eq!(browser.get(&path).await.location(), format!("{KEYS}/{id}/revocation"));
    browser.get(&format!("{KEYS}/{id}/revocation")).await.is(200).has("Dead on 1 of 1 replica").has("leaked");
    browser.get(&format!("{KEYS}/{id}")).await.is(200).has("chip revoked").has("leaked");
    // A key without a name is confirmed by its id.
    let made = server.call("POST", "/api/v1/keys", Some(ROOT), json!({"keyspace": "noro"})).await.1;
    let id = made["id"].as_str().unwrap();
    let page = browser.act(&format!("{KEYS}/{id}/revoke"), &[("confirmation", id), ("reason", "")]).await;
    page.is(200).has("Dead on 1 of 1 replica");
}

#[tokio::test]
async fn several_keys_are_previewed_and_then_revoked_with_a_result_for_each() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let mut keys = Vec::new();
    for name in ["one", "two", "three"] {
        let page = browser.create(&[("name", name), ("keyspace", "noro"), ("expiry", "default")]).await.is(201);
        keys.push((id_of(&page), page.secret()));
    }
    let selected = format!("{KEYS}/selected");
    let ids: Vec<(&str, &str)> = keys[..2].iter().map(|(id, _)| ("id", id.as_str())).collect();
    let preview = browser.act(&selected, &ids).await.is(200).has("Revoke 2 keys?").has("never used");
    assert!(!preview.html.contains("three"));
    for (_, secret) in &keys {
        assert_eq!(verdict(&server, secret).await["code"], "VALID", "a preview changes nothing");
    }
    browser.act(&format!("{selected}/revoke"), &ids).await.is(400).has("sure");
    let unknown = "key_01h455vb4pex5vsknk084sn02q";
    let confirmed = [&ids[..], &[("id", unknown), ("sure", "yes"), ("reason", "cleaning up")]].concat();
    let result = browser.act(&format!("{selected}/revoke"), &confirmed).await.is(200);
    assert_eq!(result.html.matches("dead on 1 of 1 replica").count(), 2, "{}", result.html);
    result.has("No such API key");
    assert_eq!(verdict(&server, &keys[0].1).await["code"], "REVOKED");
    assert_eq!(verdict(&server, &keys[2].1).await["code"], "VALID");
    browser.act(&selected, &[]).await.is(400).has("select at least one key");
    let many: Vec<String> = (0..51).map(|n| format!("key_{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|id| ("id", id.as_str())).collect();
    browser.act(&selected, &many).await.is(400).has("at most 50");
}

#[tokio::test]
async fn the_list_is_filtered_searched_and_paged() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    for n in 0..55 {
        server.create(json!({"name": format!("Bulk {n}"), "keyspace": "norrix", "orgId": "acme"})).await;
    }
    let nora =
        json!({"name": "Nora", "keyspace": "nora", "orgId": "globex", "instanceId": "i-1", "environment": "sandbox"});
    let nora = server.create(nora).await;
    let rows = |page: &Page| page.html.matches("<td role=\"cell\" class=\"name\">").count();
    let first = browser.get(KEYS).await.is(200);
    assert_eq!(rows(&first), 50);
    let next = first.between("<a class=\"button\" href=\"", "\" rel=\"next\"");
    assert_eq!(rows(&browser.get(&next).await.is(200)), 6);
    for (query, count) in [
        ("?keyspace=nora", 1),
        ("?organization=globex", 1),
        ("?instance=i-1", 1),
        ("?environment=sandbox", 1),
        ("?created_by=root&keyspace=nora", 1),
        ("?created_by=user:nobody", 0),
        ("?status=revoked", 0),
        ("?status=active&keyspace=nora", 1),
        ("?q=nor", 1),
        ("?q=BULK%205", 6),
        ("?q=ulk", 0),
        ("?q=bulk&organization=globex", 0),
        ("?q=%25", 0),
        ("?only=unused", 0),
        ("?only=expiring", 0),
    ] {
        assert_eq!(rows(&browser.get(&format!("{KEYS}{query}")).await.is(200)), count, "{query}");
    }
    let prefix = nora["prefix"].as_str().unwrap();
    assert_eq!(rows(&browser.get(&format!("{KEYS}?q={prefix}")).await.is(200)), 1);
    let id = nora["id"].as_str().unwrap();
    assert_eq!(rows(&browser.get(&format!("{KEYS}?q={id}")).await.is(200)), 1);
    browser.get(&format!("{KEYS}?q=bulk")).await.is(200).has("Only the first 50 are shown");
    browser.get(&format!("{KEYS}?cursor=forged")).await.is(400);
    // A secret that is pasted does not stay in the address.
    let secret = nora["key"].as_str().unwrap();
    assert_eq!(browser.get(&format!("{KEYS}?q={secret}")).await.location(), format!("{KEYS}?q={prefix}"));
    let signed_out = Browser::new(&server).get(&format!("{KEYS}?status=active&q={secret}")).await;
    assert_eq!(signed_out.location(), "/dashboard/sign-in?return_to=%2Fdashboard%2Fsettings%2Fapi-keys");
    assert!(!server.log().contains(secret));
    let soon = json!({"name": "soon", "keyspace": "noro", "expiresInDays": 3});
    server.create(soon).await;
    assert_eq!(rows(&browser.get(&format!("{KEYS}?only=expiring")).await.is(200)), 1);
}

#[tokio::test]
async fn a_webhook_is_set_rotated_and_removed() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let page = browser.create(&[("name", "hooked"), ("keyspace", "noro"), ("expiry", "default")]).await.is(201);
    let id = id_of(&page);
    let path = format!("{KEYS}/{id}/webhook");
    let mut change = async |action: &str, url: &str| {
        let once = browser.get(&format!("{KEYS}/{id}")).await.is(200).value("once");
        browser.act(&path, &[("action", action), ("url", url), ("once", &once)]).await
    };
    change("set", "http://no").await.is(400).has("id=\"url-problem\"");
    change("set", "").await.is(400);
    let first =
        change("set", "https://hooks.example/a").await.is(200).between("aria-labelledby=\"webhook-label\">", "<");
    assert!(first.starts_with("whsec_"), "{first}");
    change("set", "https://hooks.example/b").await.is(303);
    let second = change("rotate", "").await.is(200).between("aria-labelledby=\"webhook-label\">", "<");
    assert!(second.starts_with("whsec_") && second != first);
    assert_eq!(record(&server, &id).await["webhook"], "https://hooks.example/b");
    change("remove", "").await.is(303);
    assert_eq!(record(&server, &id).await["webhook"], Value::Null);
    change("explode", "").await.is(400);
    // A form that shows a secret is good once.
    let once = browser.get(&format!("{KEYS}/{id}")).await.is(200).value("once");
    let fields = [("action", "set"), ("url", "https://hooks.example/c"), ("once", once.as_str())];
    browser.act(&path, &fields).await.is(303);
    browser.act(&path, &fields).await.is(409);
}

#[tokio::test]
async fn the_env_file_holds_a_secret_of_this_installation_alone() {
    let server = start();
    let mut browser = Browser::operator(&server).await;
    let page =
        browser.create(&[("name", "n"), ("keyspace", "norrix"), ("scope", "build"), ("organization", "acme")]).await;
    let secret = page.secret();
    let path = format!("{KEYS}/env");
    let file = browser.act(&path, &[("variable", "NORRIX_API_KEY"), ("secret", &secret)]).await.is(200);
    assert_eq!(file.html, format!("NORRIX_API_KEY={secret}\n"));
    assert_eq!(file.header("content-disposition"), "attachment; filename=\".env\"");
    assert_eq!(file.header("cache-control"), "no-store");
    for (variable, secret) in [("NORRIX_API_KEY", "rm -rf"), ("PATH", secret.as_str()), ("NORRIX_API_KEY\nX", &secret)]
    {
        browser.act(&path, &[("variable", variable), ("secret", secret)]).await.is(400);
    }
}
