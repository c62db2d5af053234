use super::{keyspace, problems, valid_config};
use crate::domain::{
    route::{GatewayRules, Unmatched},
    session::Role,
};

fn rules(more: &str) -> GatewayRules {
    valid_config(&keyspace(more)).registry.configured()[0].gateway.clone()
}

#[test]
fn where_there_are_routes_other_requests_are_denied_unless_the_keyspace_says_otherwise() {
    const ROUTE: &str = "[[keyspace.route]]\npath = \"/a/*\"\n";
    for (more, expected) in [
        (String::new(), Unmatched::Allow),
        (ROUTE.to_owned(), Unmatched::Deny),
        ("gateway = { unmatched = \"deny\" }".to_owned(), Unmatched::Deny),
        (format!("gateway = {{ unmatched = \"allow\" }}\n{ROUTE}"), Unmatched::Allow),
        (format!("gateway = {{ org_param = \"orgId\" }}\n{ROUTE}"), Unmatched::Deny),
    ] {
        assert_eq!(rules(&more).unmatched, expected, "{more}");
    }
    assert_eq!(rules(""), GatewayRules::default());
    let all = rules(
        "scopes = [\"a\"]\ngateway = { strip_credential = true, org_param = \"orgId\" }\n[[keyspace.route]]\n\
         methods = [\"GET\"]\npath = \"/a/{b}/*\"\nscopes = [\"a\"]\nsession = true\nroles = [\"owner\", \"admin\"]\n",
    );
    assert!(all.strip_credential && all.org_param.as_deref() == Some("orgId"));
    let [route] = &all.routes[..] else { panic!("one route") };
    assert_eq!(
        (route.methods.as_deref(), route.path.to_string()),
        (Some(&["GET".to_owned()][..]), "/a/{b}/*".to_owned())
    );
    assert_eq!((&route.scopes[..], route.session), (&["a".to_owned()][..], true));
    assert_eq!(route.roles, [Role::Owner, Role::Admin]);
}

#[test]
fn each_setting_of_a_route_is_checked() {
    for (more, expected) in [
        ("", "6: keyspace[0].route[0]: path is missing"),
        ("path = \"a\"", "7: keyspace[0].route[0].path: must begin"),
        ("path = \"/a*\"", "7: keyspace[0].route[0].path: may have"),
        ("path = \"/a\"\nscopes = [\"z\"]", "8: keyspace[0].route[0].scopes: \"z\" is not in the keyspace's scopes"),
        ("path = \"/a\"\nmethods = []", "8: keyspace[0].route[0].methods: must name at least one"),
        ("path = \"/a\"\nmethods = [\"G T\"]", "8: keyspace[0].route[0].methods: each must be"),
        ("path = \"/a\"\nsession = true\nroles = [\"boss\"]", "9: keyspace[0].route[0].roles: may hold"),
        ("path = \"/a\"\nsession = true\nroles = []", "9: keyspace[0].route[0].roles: must name"),
        ("path = \"/a\"\nscope = [\"a\"]", "8: keyspace[0].route[0].scope: unknown setting"),
    ] {
        let found = problems(&keyspace(&format!("scopes = [\"a\"]\n[[keyspace.route]]\n{more}")));
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{more}: {found:?}");
    }
    for (more, expected) in [
        ("gateway = { unmatched = \"maybe\" }", "5: keyspace[0].gateway.unmatched: must be"),
        ("gateway = { org_param = \"\" }", "5: keyspace[0].gateway.org_param: must be 1 to 64"),
        ("gateway = { strip = true }", "5: keyspace[0].gateway.strip: unknown setting"),
    ] {
        let found = problems(&keyspace(more));
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{more}: {found:?}");
    }
}

#[test]
fn a_route_that_never_counts_and_a_method_that_no_client_sends_are_warned_of() {
    let warnings = |routes: &str| {
        let config = valid_config(&keyspace(routes));
        config.warnings.into_iter().map(|text| text.strip_prefix("f:").unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (routes, expected) in [
        (
            "[[keyspace.route]]\npath = \"/a/*\"\n[[keyspace.route]]\npath = \"/a/b\"",
            "8: keyspace[0].route[1].path: the route never counts: route[0]",
        ),
        ("[[keyspace.route]]\npath = \"/a/../b\"", "6: keyspace[0].route[0].path: never fits a request"),
        ("[[keyspace.route]]\npath = \"/a?b\"", "6: keyspace[0].route[0].path: never fits a request"),
        (
            "[[keyspace.route]]\npath = \"/a\"\nmethods = [\"get\"]",
            "7: keyspace[0].route[0].methods: no client sends \"get\"",
        ),
        (
            "[[keyspace.route]]\npath = \"/a\"\nroles = [\"owner\"]",
            "7: keyspace[0].route[0].roles: no session passes this route",
        ),
    ] {
        let found = warnings(routes);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{routes}: {found:?}");
    }
    let apart = "[[keyspace.route]]\nmethods = [\"GET\"]\npath = \"/a/*\"\n[[keyspace.route]]\npath = \"/a/b\"";
    assert_eq!(warnings(apart), [""; 0]);
    for name in ["norrix", "all", "cognito"] {
        let path = format!("{}/config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(super::valid_config(&std::fs::read_to_string(path).unwrap()).warnings, [""; 0], "{name}");
    }
}
