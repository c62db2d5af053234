use proptest::prelude::*;

use super::*;

fn route(methods: &[&str], path: &str) -> Route {
    Route {
        methods: (!methods.is_empty()).then(|| methods.iter().map(|&method| method.to_owned()).collect()),
        path: PathPattern::parse(path).unwrap(),
        scopes: vec![path.to_owned()],
        session: false,
        roles: Vec::new(),
    }
}

fn rules(routes: Vec<Route>) -> GatewayRules {
    GatewayRules { unmatched: Unmatched::Deny, routes, ..GatewayRules::default() }
}

/// The path of the route that fits; `no_route`, `ambiguous` or `any_key` without one.
fn found(rules: &GatewayRules, method: &str, target: &str) -> String {
    match rules.route(method, target) {
        RouteMatch::Route(route) => route.path.to_string(),
        RouteMatch::AnyKey => "any_key".to_owned(),
        RouteMatch::NoRoute => "no_route".to_owned(),
        RouteMatch::Ambiguous => "ambiguous".to_owned(),
    }
}

#[test]
fn a_route_fits_by_method_and_path() {
    let rules = rules(vec![
        route(&["GET", "POST"], "/api/build/*"),
        route(&["POST"], "/api/update"),
        route(&["GET"], "/api/update/*"),
        route(&[], "/api/{thing}/log"),
        route(&[], "/"),
    ]);
    for (method, target, expected) in [
        ("GET", "/api/build", "/api/build/*"),
        ("POST", "/api/build", "/api/build/*"),
        ("GET", "/api/build/", "/api/build/*"),
        ("GET", "/api/build/1/artifacts", "/api/build/*"),
        ("GET", "/api/build?x=/../admin", "/api/build/*"),
        ("DELETE", "/api/build", "no_route"),
        ("get", "/api/build", "no_route"),
        ("GET ", "/api/build", "no_route"),
        ("", "/api/build", "no_route"),
        ("HEAD", "/api/build", "no_route"),
        ("GET", "/api/builds", "no_route"),
        ("GET", "/api", "no_route"),
        ("POST", "/api/update", "/api/update"),
        ("POST", "/api/update/", "no_route"),
        ("POST", "/api/update/1", "no_route"),
        ("GET", "/api/update", "/api/update/*"),
        ("FOO", "/api/x/log", "/api/{thing}/log"),
        ("GET", "/api/x/y/log", "no_route"),
        ("GET", "/", "/"),
        ("GET", "/?x", "/"),
        ("GET", "", "ambiguous"),
        ("GET", "*", "ambiguous"),
        ("GET", "http://host/api/build", "ambiguous"),
    ] {
        assert_eq!(found(&rules, method, target), expected, "{method} {target}");
    }
}

#[test]
fn no_spelling_of_a_path_passes_a_route() {
    // A key with `build` alone must not reach `/api/env` by any of these.
    let rules = rules(vec![route(&[], "/api/build/*"), route(&[], "/api/env/*"), route(&[], "/files/{name}")]);
    for target in [
        // Dot segments.
        "/api/build/../env",
        "/api/build/..",
        "/api/build/./x",
        "/api/build/.",
        "/../api/build",
        "/./api/build",
        "/api/build/..;/env",
        "/api/build/..;x=1/env",
        "/api/build/.;/env",
        "/api/build/..%3b/env",
        "/api/build/..%3Bx=1/env",
        // Their escapes, also mixed and encoded twice.
        "/api/build/%2e%2e/env",
        "/api/build/%2E%2e/env",
        "/api/build/.%2e/env",
        "/api/build/%2e./env",
        "/api/build/x%2ejson",
        "/api/build/%252e%252e/env",
        "/api/build/%25252e%25252e/env",
        // Empty segments.
        "//api/build",
        "/api//build",
        "/api/build//",
        "/api/build//env",
        "//",
        // Slashes in other spellings.
        "/api/build/..%2fenv",
        "/api/build/..%2Fenv",
        "/api/build%2fx",
        "/api/build/x%2f..%2f..%2fenv",
        "/api/build/%252f",
        "/api/build\\..\\env",
        "/api/build/\\",
        "/api/build/..%5cenv",
        "/api/build/..%5Cenv",
        "/api/build/%255c",
        // NUL, fragments, and what no URI may hold.
        "/api/build/x%00",
        "/api/build/%2500",
        "/api/build/\0",
        "/api/build#/../env",
        "/api/build/a b",
        "/api/build/\t",
        "/api/build/\u{7f}",
        "/api/build/é",
        "/api/build/．．/env",
        // Escapes that are none, and overlong ones.
        "/api/build/%",
        "/api/build/%2",
        "/api/build/%zz",
        "/api/build/%u002e",
        "/api/build/%+2e",
        "/api/build/% 2e",
        "/api/build/%c0%ae%c0%ae/env",
        "/api/build/%c0%af",
        "/api/build/%e0%80%ae",
        "/api/build/%ff",
        "/api/build/%ed%a0%80",
        "/%2e%2e/api/env",
        "/files/..",
    ] {
        assert_eq!(found(&rules, "GET", target), "ambiguous", "{target}");
    }
    for (target, expected) in [
        // Letters that are encoded for no reason are the letters.
        ("/api/%62uild", "/api/build/*"),
        ("/%61%70%69/%65%6e%76", "/api/env/*"),
        ("/api/%65nv/x", "/api/env/*"),
        ("/api/build/%41%7a", "/api/build/*"),
        ("/api/build/%e4%b8%ad", "/api/build/*"),
        ("/api/build/100%25", "/api/build/*"),
        ("/api/build/a%20b", "/api/build/*"),
        ("/api/build/%3fx", "/api/build/*"),
        ("/api%3f/build", "no_route"),
        // Mixed case and parameters make another path.
        ("/API/env", "no_route"),
        ("/api/Env", "no_route"),
        ("/api/%45nv", "no_route"),
        ("/api/env;x=1", "no_route"),
        ("/api;x/env", "no_route"),
        ("/api/build;/x", "no_route"),
        ("/api/build/x;y=1", "/api/build/*"),
        ("/api/build/...", "/api/build/*"),
        ("/api/build/..x", "/api/build/*"),
        ("/api/build/x.json", "/api/build/*"),
        ("/files/", "no_route"),
        ("/files/x", "/files/{name}"),
        ("/files/{name}", "/files/{name}"),
        ("/files/x/", "no_route"),
    ] {
        assert_eq!(found(&rules, "GET", target), expected, "{target}");
    }
}

#[test]
fn a_path_of_8_kib_is_read() {
    let rules = rules(vec![route(&[], "/api/build/*")]);
    for long in ["x".repeat(8_192), "x/".repeat(4_096), "%41".repeat(2_730)] {
        assert_eq!(found(&rules, "GET", &format!("/api/build/{long}")), "/api/build/*");
        assert_eq!(found(&rules, "GET", &format!("/api/build/{long}/../env")), "ambiguous");
        assert_eq!(found(&rules, "GET", &format!("/api/{long}")), "no_route");
    }
    assert_eq!(found(&rules, "GET", &format!("/api/build{}", "/".repeat(8_192))), "ambiguous");
    assert_eq!(found(&rules, "GET", &format!("/api/build/{}", "%25".repeat(2_730))), "/api/build/*");
}

#[test]
fn without_routes_no_path_is_looked_at() {
    let rules = GatewayRules::default();
    assert_eq!(found(&rules, "GET", "/a/../b%2f//"), "any_key");
    assert_eq!(found(&rules, "", ""), "any_key");
    let rules = GatewayRules { unmatched: Unmatched::Deny, ..rules };
    assert_eq!(found(&rules, "GET", "/"), "no_route");
}

#[test]
fn where_unmatched_requests_are_allowed_an_ambiguous_path_is_not() {
    let rules = GatewayRules { unmatched: Unmatched::Allow, ..rules(vec![route(&[], "/api/env/*")]) };
    assert_eq!(found(&rules, "GET", "/other"), "any_key");
    assert_eq!(found(&rules, "GET", "/api/x/../env"), "ambiguous");
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    for (text, expected) in [
        ("", "must begin"),
        ("api", "must begin"),
        ("*", "must begin"),
        ("/api*", "only as its last segment"),
        ("/*/x", "only as the last one"),
        ("/a*/x", "only as the last one"),
        ("/{}", "without a name"),
        ("/{a", "as a whole segment"),
        ("/a{b}", "as a whole segment"),
        ("/{a}{b}", "as a whole segment"),
    ] {
        assert!(PathPattern::parse(text).unwrap_err().contains(expected), "{text}");
    }
    for good in ["/", "/*", "/a", "/a/", "/a/*", "/{a}/b/{c}/*", "/a.json", "/a-b_c~d"] {
        assert_eq!(PathPattern::parse(good).unwrap().never_matches(), None, "{good}");
    }
    for never in ["/a?b", "/%61", "/a/../b", "/a/./b", "//a", "/a//*", "/a\\b", "/a#b"] {
        assert!(PathPattern::parse(never).unwrap().never_matches().is_some(), "{never}");
    }
}

#[test]
fn a_route_covers_those_that_it_leaves_nothing_of() {
    for (one, other, covers) in [
        (route(&[], "/a/*"), route(&[], "/a"), true),
        (route(&[], "/a/*"), route(&["GET"], "/a/b/*"), true),
        (route(&[], "/*"), route(&[], "/"), true),
        (route(&["GET", "POST"], "/a"), route(&["POST"], "/a"), true),
        (route(&[], "/{x}"), route(&[], "/a"), true),
        (route(&["GET"], "/a"), route(&[], "/a"), false),
        (route(&["GET"], "/a"), route(&["POST"], "/a"), false),
        (route(&[], "/a"), route(&[], "/a/*"), false),
        (route(&[], "/a"), route(&[], "/{x}"), false),
        (route(&[], "/{x}"), route(&[], "/"), false),
        (route(&[], "/a/b/*"), route(&[], "/a/*"), false),
    ] {
        assert_eq!(one.covers(&other), covers, "{} {}", one.path, other.path);
    }
}

#[test]
fn an_organization_is_named_once() {
    let rules = GatewayRules { org_param: Some("orgId".to_owned()), ..GatewayRules::default() };
    let one = |organization: &str| NamedOrganization::One(organization.to_owned());
    for (target, expected) in [
        ("/x", NamedOrganization::None),
        ("/x?", NamedOrganization::None),
        ("/x?orgId", NamedOrganization::None),
        ("/x?orgId=", NamedOrganization::None),
        ("/x?orgid=a", NamedOrganization::None),
        ("/x?a=1&orgId=acme&b=2", one("acme")),
        ("/x?org%49d=ac%6de", one("acme")),
        ("/x?orgId=a+b", one("a b")),
        ("/x?orgId=a?b", one("a?b")),
        ("/x?orgId=a&orgId=a", NamedOrganization::Repeated),
        ("/x?orgId=a&org%49d=b", NamedOrganization::Repeated),
        ("/x?orgId=&orgId=b", NamedOrganization::Repeated),
        // A list, as many frameworks read it.
        ("/x?orgId[]=a", one("a")),
        ("/x?orgId%5B%5D=a", one("a")),
        ("/x?orgId[0]=a", one("a")),
        ("/x?orgId=a&orgId[]=b", NamedOrganization::Repeated),
        ("/x?orgId[]=a&orgId[]=a", NamedOrganization::Repeated),
        ("/x?orgIds=b&xorgId=b", NamedOrganization::None),
    ] {
        assert_eq!(rules.named_organization(target), expected, "{target}");
    }
    assert_eq!(GatewayRules::default().named_organization("/x?orgId=a&orgId=b"), NamedOrganization::None);
}

/// A matcher with none of the care of the real one: it decodes the whole path and compares texts.
fn naive(route: &Route, method: &str, target: &str) -> bool {
    let path = percent_encoding::percent_decode_str(path_of(target)).decode_utf8_lossy().into_owned();
    let pattern = route.path.to_string();
    let path = match pattern.strip_suffix("/*") {
        None => path,
        // As many segments as the pattern has: the rest is below it.
        Some(above) => path.split('/').take(above.split('/').count()).collect::<Vec<_>>().join("/"),
    };
    let pattern = pattern.strip_suffix("/*").unwrap_or(&pattern);
    route.methods.as_ref().is_none_or(|methods| methods.iter().any(|own| own == method))
        && path.split('/').count() == pattern.split('/').count()
        && path.split('/').zip(pattern.split('/')).all(|(part, own)| own.starts_with('{') || own == part)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn whatever_a_route_fits_a_naive_matcher_finds_too(
        method in prop::sample::select(vec!["GET", "POST", "DELETE", "get", "FOO", ""]),
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "/", "/api", "/build", "/env", "/%62uild", "/..", "/.", "/%2e", "%2f", "/x", ";a", "?q=/", "//", "\\",
                "%", "%25", "2f", "%00", ";", "/..;", "%3b", "%5c", "%c0%ae", "/API", "/%65nv", "#", "é", "/{name}", "*",
            ]),
            0..8,
        ),
        noise in "[ -~]{0,12}",
    ) {
        let rules = rules(vec![
            route(&["GET", "POST"], "/api/build/*"),
            route(&[], "/api/env/*"),
            route(&["GET"], "/api/{name}"),
            route(&[], "/"),
        ]);
        for target in [parts.concat(), parts.concat() + &noise, format!("/api/build/{noise}"), noise.clone()] {
            if let RouteMatch::Route(found) = rules.route(method, &target) {
                prop_assert!(naive(found, method, &target), "{} {}", method, target);
                let path = percent_encoding::percent_decode_str(path_of(&target)).decode_utf8_lossy().into_owned();
                // Nor does a reader that cuts parameters off find anything to resolve.
                let mut names = path.split('/').map(|part| part.split(';').next().unwrap());
                prop_assert!(!names.any(|name| name == ".." || name == "."), "{}", target);
                prop_assert!(!path.contains("//") && !path.contains('\\'), "{}", target);
            }
        }
    }
}
