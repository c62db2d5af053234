use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::error::ErrorKind;

const NOW: Micros = 2_000_000_000 * SECOND;

fn issuer(organizations: &str, role: Option<&str>) -> Issuer {
    Issuer {
        issuer: "https://login.example/pool".to_owned(),
        audiences: vec!["dashboard".to_owned(), "cli".to_owned()],
        algorithms: vec![Algorithm::Rs256],
        keyspaces: vec!["norrix".to_owned()].into(),
        organizations: organizations.to_owned(),
        role: role.map(str::to_owned),
        cookie: None,
        subject_prefix: String::new(),
        refresh: Duration::from_mins(15),
        allow_http: false,
        dashboard: None,
        cli: None,
        jwks_hosts: Vec::new(),
        max_token_life: Duration::from_hours(24),
    }
}

/// The claims of a valid token, with changes: a null value removes a claim.
fn claims(more: &Value) -> Map<String, Value> {
    let seconds = NOW / SECOND;
    let mut claims = json!({
        "iss": "https://login.example/pool", "aud": "dashboard", "sub": "olga", "exp": seconds + 600,
    });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let Value::Object(mut claims) = claims else { unreachable!() };
    claims.retain(|_, value| !value.is_null());
    claims
}

/// The organizations and roles in the claims, as `name=role`.
fn memberships(issuer: &Issuer, more: &Value) -> Vec<String> {
    let caller = issuer.caller(&claims(more), NOW).unwrap();
    caller.organizations.iter().map(|own| format!("{}={:?}", own.organization, own.role)).collect()
}

#[test]
fn issuer_and_audience_are_compared_exactly() {
    let issuer = issuer("org", None);
    for (more, good) in [
        (json!({}), true),
        (json!({"aud": "cli"}), true),
        (json!({"aud": ["cli"]}), true),
        (json!({"aud": ["other", "cli"], "azp": "cli"}), true),
        (json!({"aud": ["other", "cli"], "azp": "dashboard"}), true),
        (json!({"aud": ["other", "cli"]}), true),
        (json!({"aud": ["other", "cli"], "azp": "other"}), false),
        (json!({"aud": ["other", "cli"], "azp": ["cli"]}), false),
        (json!({"aud": ["dashboard", "cli"]}), true),
        (json!({"aud": "Dashboard"}), false),
        (json!({"aud": "dashboard "}), false),
        (json!({"aud": "dash"}), false),
        (json!({"aud": ["other"]}), false),
        (json!({"aud": []}), false),
        (json!({"aud": {"0": "dashboard"}}), false),
        (json!({"aud": null}), false),
        (json!({"iss": "https://login.example/pool/"}), false),
        (json!({"iss": "https://login.example/POOL"}), false),
        (json!({"iss": ["https://login.example/pool"]}), false),
        (json!({"iss": null}), false),
    ] {
        assert_eq!(issuer.matches(&claims(&more)), good, "{more}");
    }
}

/// A client that people sign in with here may get tokens that are for this service and for others.
#[test]
fn a_token_for_several_audiences_may_be_given_to_a_client_of_the_issuer() {
    let cli = CliClient { client_id: "terminal".to_owned(), scopes: Vec::new(), ports: Vec::new() };
    let own = Issuer { cli: Some(cli), ..issuer("org", None) };
    let more = json!({"aud": ["other", "dashboard"], "azp": "terminal"});
    assert!(own.matches(&claims(&more)) && !issuer("org", None).matches(&claims(&more)));
}

#[test]
fn a_token_is_valid_from_nbf_to_exp_with_a_minute_of_leeway() {
    let issuer = issuer("org", None);
    let seconds = NOW / SECOND;
    for (more, outcome) in [
        (json!({}), Ok(())),
        (json!({"exp": seconds - 59}), Ok(())),
        (json!({"exp": seconds - 60}), Err("EXPIRED")),
        (json!({"exp": seconds - 61}), Err("EXPIRED")),
        (json!({"exp": 0}), Err("EXPIRED")),
        (json!({"exp": -1}), Err("EXPIRED")),
        (json!({"exp": -1e300}), Err("EXPIRED")),
        (json!({"exp": 1e300}), Err("MALFORMED")),
        (json!({"exp": u64::MAX}), Err("MALFORMED")),
        // The longest life, with the leeway.
        (json!({"exp": seconds + 86_400 + 60}), Ok(())),
        (json!({"exp": seconds + 86_400 + 61}), Err("MALFORMED")),
        (json!({"exp": seconds + 600, "iat": seconds - 86_400}), Err("MALFORMED")),
        (json!({"exp": seconds + 600, "iat": seconds - 85_000}), Ok(())),
        // A time of issue that is yet to come makes no life shorter.
        (json!({"exp": seconds + 90_000, "iat": seconds + 80_000}), Err("MALFORMED")),
        (json!({"exp": i64::MIN}), Err("EXPIRED")),
        (json!({"exp": 2_000_000_000.5}), Ok(())),
        (json!({"exp": null}), Err("MALFORMED")),
        (json!({"exp": "4000000000"}), Err("MALFORMED")),
        (json!({"exp": [4_000_000_000_i64]}), Err("MALFORMED")),
        (json!({"nbf": seconds + 60}), Ok(())),
        (json!({"nbf": seconds + 61}), Err("MALFORMED")),
        (json!({"nbf": "now"}), Err("MALFORMED")),
    ] {
        let seen = issuer.caller(&claims(&more), NOW).map(drop).map_err(|error| {
            assert_eq!((error.kind, &*error.message), (ErrorKind::Unauthenticated, "Invalid or expired API key"));
            error.reason
        });
        assert_eq!(seen, outcome, "{more}");
    }
}

#[test]
fn the_subject_is_recorded_and_bounded() {
    let mut issuer = issuer("org", None);
    assert_eq!(issuer.caller(&claims(&json!({})), NOW).unwrap().actor, "user:olga");
    issuer.subject_prefix = "staff:".to_owned();
    assert_eq!(issuer.caller(&claims(&json!({})), NOW).unwrap().actor, "user:staff:olga");
    let actor = issuer.caller(&claims(&json!({"sub": "é".repeat(255)})), NOW).unwrap().actor;
    assert!(actor.chars().count() <= crate::domain::validation::MAX_ACTOR_LEN);
    for sub in [json!(null), json!(""), json!(7), json!("a\nb"), json!("x".repeat(256))] {
        assert_eq!(issuer.caller(&claims(&json!({"sub": sub})), NOW).unwrap_err().reason, "MALFORMED", "{sub}");
    }
}

#[test]
fn the_organizations_claim_is_a_name_a_list_or_a_map_to_roles() {
    let both = issuer("orgs", Some("role"));
    for (more, expected) in [
        (json!({"orgs": "acme", "role": "owner"}), vec!["acme=Owner"]),
        (json!({"orgs": ["acme", "globex"], "role": "admin"}), vec!["acme=Admin", "globex=Admin"]),
        (json!({"orgs": ["acme", "acme"], "role": "admin"}), vec!["acme=Admin"]),
        (json!({"orgs": ["a", "b"], "role": {"a": "owner", "b": "member"}}), vec!["a=Owner", "b=Member"]),
        (json!({"orgs": ["a", "b"], "role": {"b": "admin", "c": "owner"}}), vec!["a=Member", "b=Admin"]),
        (json!({"orgs": {"a": "owner", "b": "admin"}}), vec!["a=Owner", "b=Admin"]),
        (json!({"orgs": {"a": ["member", "admin"], "b": "?"}, "role": "owner"}), vec!["a=Admin", "b=Member"]),
        // Of several roles, such as groups, the strongest known one counts.
        (json!({"orgs": "a", "role": ["member", "testers", "owner", "admin"]}), vec!["a=Owner"]),
        (json!({"orgs": "a", "role": ["testers"]}), vec!["a=Member"]),
        // Anything that is not exactly a role grants nothing.
        (json!({"orgs": "a", "role": "Owner"}), vec!["a=Member"]),
        (json!({"orgs": "a", "role": "root"}), vec!["a=Member"]),
        (json!({"orgs": "a", "role": true}), vec!["a=Member"]),
        (json!({"orgs": "a"}), vec!["a=Member"]),
        (json!({"orgs": "a", "role": {"a": {"a": "owner"}}}), vec!["a=Member"]),
        // Names that no key can be bound to are skipped.
        (json!({"orgs": ["", "x".repeat(129), "a\u{7}", 7, null, "ok"], "role": "owner"}), vec!["ok=Owner"]),
        (json!({"orgs": "", "role": "owner"}), vec![]),
        (json!({"orgs": 7, "role": "owner"}), vec![]),
        (json!({"role": "owner"}), vec![]),
    ] {
        assert_eq!(memberships(&both, &more), expected, "{more}");
    }
    assert_eq!(memberships(&issuer("orgs", None), &json!({"orgs": "a", "role": "owner"})), ["a=Member"]);
}

#[test]
fn a_claim_is_found_by_its_name_or_by_a_path() {
    let cognito = issuer("cognito:groups", Some("custom:role"));
    let more = json!({"cognito:groups": ["acme", "globex"], "custom:role": "admin"});
    assert_eq!(memberships(&cognito, &more), ["acme=Admin", "globex=Admin"]);
    let deep = json!({"app": {"norrix": {"orgs": {"acme": "owner"}}}});
    assert_eq!(memberships(&issuer("app.norrix.orgs", None), &deep), ["acme=Owner"]);
    // Names that contain dots, such as URLs.
    let url = json!({"https://norrix.net/orgs": {"acme": "owner"}, "https://norrix": {"net/orgs": "evil"}});
    assert_eq!(memberships(&issuer("https://norrix.net/orgs", None), &url), ["acme=Owner"]);
    let inside = json!({"https://norrix.net": {"the.orgs": {"acme": "owner"}}});
    assert_eq!(memberships(&issuer("https://norrix.net.the.orgs", None), &inside), ["acme=Owner"]);
    for path in ["app.norrix", "app.norrix.orgs.acme.x", "app..orgs", ".", "", "orgs"] {
        let found = memberships(&issuer(path, None), &deep);
        assert!(!found.iter().any(|own| own.ends_with("Owner") || own.ends_with("Admin")), "{path}: {found:?}");
    }
}

#[test]
fn public_keys_are_fetched_with_tls_or_from_this_machine() {
    let mut issuer = issuer("org", None);
    let may = |issuer: &Issuer, url: &str| issuer.may_fetch(&Url::parse(url).unwrap());
    for url in
        ["https://a.example/x", "http://127.0.0.1:1/x", "http://127.9.9.9/", "http://localhost/", "http://[::1]:1/"]
    {
        assert!(may(&issuer, url), "{url}");
    }
    let elsewhere = ["http://a.example/", "http://10.0.0.1/", "http://localhost.evil.example/", "http://0.0.0.0/"];
    for url in elsewhere.into_iter().chain(["file:///etc/passwd", "ftp://127.0.0.1/"]) {
        assert!(!may(&issuer, url), "{url}");
    }
    issuer.allow_http = true;
    assert!(may(&issuer, "http://a.example/") && !may(&issuer, "file:///etc/passwd"));
}

proptest! {
    #[test]
    fn arbitrary_paths_and_claims_never_panic(path in "[a-c.:é]{0,12}", name in "[a-c.]{0,4}", text: String) {
        let more = json!({ name.clone(): { name: [text.clone(), text.clone()] }, "b": text });
        let _ = issuer(&path, Some(&path)).caller(&claims(&more), NOW);
    }
}

#[test]
fn keys_are_at_the_issuers_host_or_at_one_that_is_named() {
    let own = issuer("org", None);
    let named = Issuer { jwks_hosts: vec!["Keys.example".to_owned()], ..issuer("org", None) };
    for (url, by_default, with_names) in [
        ("https://login.example/keys", true, true),
        ("https://login.example:8443/keys", true, true),
        ("https://LOGIN.example/keys", true, true),
        ("https://keys.example/keys", false, true),
        ("https://evil.example/keys", false, false),
        ("https://login.example.evil.example/keys", false, false),
        ("https://login.example@evil.example/keys", false, false),
    ] {
        let url = Url::parse(url).unwrap();
        assert_eq!((own.may_have_keys_at(&url), named.may_have_keys_at(&url)), (by_default, with_names), "{url}");
    }
}
