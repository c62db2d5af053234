//! `/forward-auth`: the verdict on the client's credential.

use serde_json::json;

use crate::{
    forward_auth::{invalid, passes},
    support::{Setup, grpc, server::ROOT},
    world::World,
};

#[tokio::test]
async fn the_order_of_reasons_is_that_of_verify() {
    let world = World::new().await;
    let (build, submit) = (world.norrix(&["build"]).await, world.norrix(&["submit"]).await);
    let revoked = world.norrix(&["submit"]).await;
    world.revoke(&revoked).await;
    let forged = grpc::forged(&build.secret);
    let ask = async |secret: &str, target: &str| {
        let bearer = format!("Bearer {secret}");
        let about = [("Authorization", bearer.as_str()), ("X-Forwarded-Uri", target), ("X-Forwarded-Method", "GET")];
        let response = world.ask("caddy/norrix", &about).await;
        (response.status, response.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    for (secret, target, status, code) in [
        // Whoever has no good key learns nothing of routes, paths and organizations.
        (forged.as_str(), "/api/build", 401, "malformed"),
        (&forged, "/nowhere", 401, "malformed"),
        (&forged, "/a/../b", 401, "malformed"),
        (&revoked.secret, "/api/build?orgId=x", 401, "revoked"),
        (&revoked.secret, "/nowhere", 401, "revoked"),
        (&submit.secret, "/api/build?orgId=x", 403, "forbidden"),
        (&submit.secret, "/api/build", 403, "insufficient_scope"),
        (&build.secret, "/nowhere", 403, "no_route"),
        (&build.secret, "/nowhere?orgId=x", 403, "forbidden"),
        (&build.secret, "/api/build/../x", 400, "ambiguous_path"),
        (&build.secret, "/api/build?orgId=acme&orgId=acme", 400, "invalid_argument"),
        (&build.secret, &format!("/api/build?orgId={}", "x".repeat(200)), 403, "forbidden"),
    ] {
        assert_eq!(ask(secret, target).await, (status, code.to_owned()), "{target}");
    }
    let body = world
        .ask(
            "nginx/norrix",
            &[("Authorization", &build.bearer()), ("X-Original-URI", "/x//y"), ("X-Original-Method", "GET")],
        )
        .await;
    body.refused(400, "Bad Request", "path: could be read in different ways; send it normalized", "ambiguous_path");
}

#[tokio::test]
async fn a_refused_request_spends_nothing_and_is_no_use_and_an_allowed_one_spends_one() {
    let setup = Setup::new().ready("all").and(
        "[[keyspace]]\nname = \"limited\"\nprefix = \"lim_\"\nsecret = { encoding = \"alphanumeric\", length = 32 }\n\
         rate_limit = { limit = 3, window = \"1h\" }\nscopes = [\"a\", \"b\"]\ngateway = { org_param = \"org\" }\n\
         [[keyspace.route]]\npath = \"/a\"\nscopes = [\"a\"]\n[[keyspace.route]]\npath = \"/b\"\nscopes = [\"b\", \"a\"]\n",
    );
    let world = World::of(setup, None).await;
    let key = world.key(json!({"name": "n", "keyspace": "limited", "scopes": ["a"], "orgId": "acme"})).await;
    let bearer = key.bearer();
    let ask = async |target: &str| {
        let about = [("Authorization", bearer.as_str()), ("X-Forwarded-Uri", target), ("X-Forwarded-Method", "GET")];
        world.ask("traefik/limited", &about).await
    };
    for (target, code) in [
        ("/b", "insufficient_scope"),
        ("/c", "no_route"),
        ("/a/..", "ambiguous_path"),
        ("/a?org=x", "forbidden"),
        ("/a?org=x&org=acme", "invalid_argument"),
    ] {
        for _ in 0..4 {
            let response = ask(target).await;
            assert_eq!(response.json()["code"], code, "{target}");
            if response.status == 403 {
                assert_eq!(response.header("x-ratelimit-remaining"), Some("3"), "{target}: {response:?}");
            }
        }
    }
    let mut client = world.client().await;
    assert_eq!(grpc::record(&mut client, &key.id).await.last_used_time, None);
    for left in ["2", "1", "0"] {
        let response = ask("/a?org=acme").await;
        passes(&response);
        assert_eq!(response.header("x-ratelimit-remaining"), Some(left));
    }
    let refused = ask("/a").await;
    refused.refused(429, "Too Many Requests", "Rate limit exceeded", "rate_limited");
    assert_eq!(refused.header("x-ratelimit-limit"), Some("3"));
    crate::support::reply::until("the use is written", async || {
        grpc::record(&mut client, &key.id).await.last_used_time
    })
    .await;
}

#[tokio::test]
async fn the_environment_of_the_path_and_of_the_host_both_count() {
    let about = [("X-Forwarded-Uri", "/"), ("X-Forwarded-Method", "GET")];
    let world = World::new().await;
    let (sandbox, production) = (world.nora("sandbox").await, world.nora("production").await);
    for (path, key, code) in [
        ("caddy/nora", &sandbox, None),
        ("caddy/nora", &production, None),
        ("caddy/nora/sandbox", &sandbox, None),
        ("caddy/nora/%73andbox", &sandbox, None),
        ("caddy/nora/sandbox", &production, Some("wrong_environment")),
        ("caddy/nora/production", &sandbox, Some("wrong_environment")),
        ("caddy/nora/nosuch", &sandbox, Some("wrong_environment")),
    ] {
        let response = world.ask(path, &[&about[..], &[("X-API-Key", &key.secret)]].concat()).await;
        match code {
            None => assert_eq!(passes(&response)[4], if key.id == sandbox.id { "sandbox" } else { "production" }),
            Some(code) => response.unauthorized(code),
        }
    }
    let long = format!("caddy/nora/{}", "x".repeat(129));
    invalid(&world.ask(&long, &[&about[..], &[("X-API-Key", &sandbox.secret)]].concat()).await, "environment");

    let world = World::of(Setup::new().ready("all").env("KEYWARD_HTTP_ENVIRONMENT", "production"), None).await;
    let (sandbox, production) = (world.nora("sandbox").await, world.nora("production").await);
    let ask = async |path: &str, secret: &str| world.ask(path, &[&about[..], &[("X-API-Key", secret)]].concat()).await;
    ask("caddy/nora", &sandbox.secret).await.unauthorized("wrong_environment");
    passes(&ask("caddy/nora", &production.secret).await);
    passes(&ask("caddy/nora/production", &production.secret).await);
    invalid(&ask("caddy/nora/sandbox", &sandbox.secret).await, "environment");
}

#[tokio::test]
async fn a_secret_counts_in_the_header_of_the_requested_keyspace() {
    let world = World::new().await;
    let norrix = world.norrix(&["build"]).await;
    let (noro, nora) = (world.noro().await, world.nora("sandbox").await);
    let ask = async |path: &str, credentials: &[(&str, &str)]| {
        let about = [("X-Forwarded-Uri", "/api/build"), ("X-Forwarded-Method", "GET")];
        world.ask(path, &[&about[..], credentials].concat()).await
    };
    let (of_norrix, of_noro) = (norrix.bearer(), noro.bearer());
    let as_bearer = format!("Bearer {}", nora.secret);
    let merged = format!("{of_norrix},{of_norrix}");
    for (path, credentials, code) in [
        ("caddy/norrix", &[("Authorization", of_norrix.as_str())][..], None),
        ("caddy/norrix", &[("authorization", &of_norrix.replacen("Bearer ", "bearer  ", 1))], None),
        ("caddy/norrix", &[("Authorization", &of_norrix), ("X-API-Key", &nora.secret)], None),
        ("caddy/norrix", &[("Authorization", &of_norrix), ("X-API-Key", "garbage")], None),
        ("caddy/norrix", &[("X-API-Key", &norrix.secret)], Some("missing_credential")),
        ("caddy/norrix", &[("X-API-Key", &nora.secret)], Some("missing_credential")),
        ("caddy/norrix", &[("Authorization", &as_bearer)], Some("missing_credential")),
        ("caddy/norrix", &[("Authorization", &of_noro)], Some("not_found")),
        ("caddy/norrix", &[("Authorization", "Basic eDp5")], Some("missing_credential")),
        ("caddy/norrix", &[("Authorization", "Bearer garbage")], Some("malformed")),
        ("caddy/norrix", &[("Authorization", &merged)], Some("malformed")),
        ("caddy/norrix", &[("Authorization", &format!("Bearer {ROOT}"))], Some("malformed")),
        ("caddy/norrix", &[("Authorization", &format!("Bearer {}", world.gateway))], Some("not_found")),
        ("caddy/nora", &[("X-API-Key", &nora.secret)], None),
        ("caddy/nora", &[("X-API-Key", &nora.secret), ("Authorization", &of_norrix)], None),
        ("caddy/nora", &[("Authorization", &of_norrix)], Some("missing_credential")),
        ("caddy/nora", &[("Authorization", "Bearer garbage")], Some("missing_credential")),
        ("caddy/nora", &[("X-API-Key", "garbage")], Some("malformed")),
        ("caddy/nora", &[("X-API-Key", &norrix.secret)], Some("missing_credential")),
    ] {
        let response = ask(path, credentials).await;
        match code {
            None => drop(passes(&response)),
            Some(code) => response.unauthorized(code),
        }
    }
    let two = ask("caddy/norrix", &[("Authorization", &of_norrix), ("Authorization", &of_norrix)]).await;
    invalid(&two, "authorization");
}

#[tokio::test]
async fn sessions_pass_where_a_route_allows_them_with_the_role_that_it_requires() {
    let provider = crate::support::oidc::Provider::start();
    let table = provider.table("norrix", &["norrix", "keyed"], "cookie = \"norrix_session\"");
    let setup = Setup::new().ready("norrix").and(&table).and(
        "[[keyspace]]\nname = \"keyed\"\nprefix = \"kd_\"\nsecret = { encoding = \"alphanumeric\", length = 32 }\n\
         credential = \"x-api-key\"\ngateway = { org_param = \"org\" }\n\
         [[keyspace.route]]\npath = \"/managers\"\nsession = true\nroles = [\"owner\", \"admin\"]\n\
         [[keyspace.route]]\npath = \"/all\"\nsession = true\n[[keyspace.route]]\npath = \"/keys\"\n\
         [[keyspace]]\nname = \"strange\"\nprefix = \"st_\"\nsecret = { encoding = \"alphanumeric\", length = 32 }\n\
         [[keyspace.route]]\npath = \"/all\"\nsession = true\n",
    );
    let world = World::of(setup, Some(provider)).await;
    let one = world.token(&json!({"acme": "admin"})).await;
    let member = world.token(&json!({"acme": "member"})).await;
    let several = world.token(&json!({"acme": "owner", "beta": "member"})).await;
    let key = world.key(json!({"name": "n", "keyspace": "keyed", "orgId": "acme"})).await;
    let ask = async |keyspace: &str, target: &str, credentials: &[(&str, &str)]| {
        let about = [("X-Forwarded-Uri", target), ("X-Forwarded-Method", "GET")];
        world.ask(&format!("caddy/{keyspace}"), &[&about[..], credentials].concat()).await
    };
    let long = format!("/all?org={}", "x".repeat(129));
    for (token, target, expected) in [
        (&one, "/managers", Ok(["acme", "admin"])),
        (&one, "/managers?org=acme", Ok(["acme", "admin"])),
        (&one, "/managers?org=beta", Err((403, "forbidden"))),
        (&member, "/managers", Err((403, "forbidden"))),
        (&member, "/all", Ok(["acme", "member"])),
        (&several, "/managers", Err((403, "forbidden"))),
        (&several, "/managers?org=acme", Ok(["acme", "owner"])),
        (&several, "/managers?org=beta", Err((403, "forbidden"))),
        (&several, "/all", Ok(["", ""])),
        (&several, "/all?org=beta", Ok(["beta", "member"])),
        (&several, "/all?org=beta&org=acme", Err((400, "invalid_argument"))),
        (&several, "/all?org=beta&org[]=acme", Err((400, "invalid_argument"))),
        (&several, "/all?org[]=other", Err((403, "forbidden"))),
        (&several, &long, Err((403, "forbidden"))),
        // Where the keyspace reads another header, bearer is read for sessions only.
        (&one, "/keys", Err((401, "missing_credential"))),
        (&one, "/nowhere", Err((401, "missing_credential"))),
    ] {
        for (name, value) in
            [("Authorization", format!("Bearer {token}")), ("Cookie", format!("norrix_session={token}"))]
        {
            let response = ask("keyed", target, &[(name, &value)]).await;
            match expected {
                Ok([organization, role]) => {
                    assert_eq!(
                        passes(&response),
                        ["", "keyed", organization, "", "", "", "", "olga", role],
                        "{target}"
                    );
                }
                Err((status, code)) => {
                    assert_eq!((response.status, &response.json()["code"]), (status, &json!(code)), "{target}");
                }
            }
        }
    }
    // Beside a key in the keyspace's own header, a session decides nothing.
    let bearer = format!("Bearer {one}");
    let both = ask("keyed", "/all", &[("Authorization", &bearer), ("X-API-Key", &key.secret)]).await;
    assert_eq!(passes(&both)[0], key.id);
    let foreign = ask("strange", "/all", &[("Authorization", &bearer)]).await;
    foreign.refused(403, "Forbidden", "The keyspace is not this caller's own", "forbidden");
}
