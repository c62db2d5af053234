use std::time::Duration;

use super::{keyspace, problems, valid_config};
use crate::domain::oidc::{Algorithm, CliClient};

/// A keyspace `x` and an issuer of it with more settings.
fn session(more: &str) -> String {
    format!(
        "{}[[session.issuer]]\nissuer = \"https://login.example/pool\"\naudience = \"dashboard\"\n\
         keyspaces = [\"x\"]\n{more}\n",
        keyspace("")
    )
}

const CLAIMS: &str = "claims = { organizations = \"orgs\", role = \"role\" }\n";

#[test]
fn a_session_issuer_is_read_with_its_defaults() {
    let config = valid_config(&session(CLAIMS));
    let [issuer] = config.issuers.as_slice() else { panic!("one issuer") };
    assert_eq!(
        (issuer.issuer.as_str(), &issuer.audiences),
        ("https://login.example/pool", &vec!["dashboard".to_owned()])
    );
    assert_eq!((&issuer.algorithms, &*issuer.keyspaces), (&vec![Algorithm::Rs256], &["x".to_owned()][..]));
    assert_eq!((issuer.organizations.as_str(), issuer.role.as_deref()), ("orgs", Some("role")));
    assert_eq!((&issuer.cookie, issuer.subject_prefix.as_str(), issuer.allow_http), (&None, "", false));
    assert_eq!(issuer.refresh, Duration::from_mins(15));
    let all =
        "algorithms = [\"ES256\", \"EdDSA\"]\ncookie = \"__Host-x\"\nsubject_prefix = \"staff:\"\nrefresh = \"1m\"\n";
    let config = valid_config(&session(&format!("{CLAIMS}{all}")));
    let issuer = &config.issuers[0];
    assert_eq!(
        (&issuer.algorithms, issuer.refresh),
        (&vec![Algorithm::Es256, Algorithm::EdDsa], Duration::from_mins(1))
    );
    assert_eq!((issuer.cookie.as_deref(), issuer.subject_prefix.as_str()), (Some("__Host-x"), "staff:"));
    assert!(valid_config("").issuers.is_empty());
}

#[test]
fn the_client_of_command_lines_is_an_audience() {
    assert_eq!(valid_config(&session(CLAIMS)).issuers[0].cli, None);
    let config = valid_config(&session(&format!("{CLAIMS}cli = {{ client_id = \"cli\" }}")));
    let issuer = &config.issuers[0];
    let cli = CliClient { client_id: "cli".to_owned(), scopes: vec!["openid".to_owned()], ports: Vec::new() };
    assert_eq!((&issuer.audiences, issuer.cli.as_ref()), (&vec!["dashboard".to_owned(), "cli".to_owned()], Some(&cli)));
    let all = "cli = { client_id = \"dashboard\", scopes = [\"email\"], ports = [8976, 8977] }";
    let config = valid_config(&session(&format!("{CLAIMS}{all}")));
    let issuer = &config.issuers[0];
    let scopes = vec!["openid".to_owned(), "email".to_owned()];
    let cli = CliClient { client_id: "dashboard".to_owned(), scopes, ports: vec![8976, 8977] };
    assert_eq!((&issuer.audiences, issuer.cli.as_ref()), (&vec!["dashboard".to_owned()], Some(&cli)));
}

#[test]
fn every_problem_of_a_session_issuer_is_reported() {
    for (more, problem) in [
        ("", "6: session.issuer[0]: claims is missing"),
        ("claims = {}", "session.issuer[0].claims: organizations is missing"),
        ("claims = { organizations = \"o\", owner = \"x\" }", "session.issuer[0].claims.owner: unknown setting"),
        (&format!("{CLAIMS}algorithms = [\"HS256\"]"), "session.issuer[0].algorithms: \"HS256\" is not one of RS256"),
        (&format!("{CLAIMS}algorithms = [\"none\"]"), "session.issuer[0].algorithms: \"none\" is not one of"),
        (&format!("{CLAIMS}algorithms = []"), "session.issuer[0].algorithms: must name at least one"),
        (&format!("{CLAIMS}cookie = \"a=b\""), "session.issuer[0].cookie: must be 1 to 128"),
        (&format!("{CLAIMS}subject_prefix = \"a b\""), "session.issuer[0].subject_prefix: must be at most 64"),
        (&format!("{CLAIMS}refresh = \"0s\""), "session.issuer[0].refresh: must be a length of time from 1s"),
        (&format!("{CLAIMS}cli = {{}}"), "session.issuer[0].cli: client_id is missing"),
        (&format!("{CLAIMS}cli = {{ client_id = \"\" }}"), "session.issuer[0].cli.client_id: must be 1 to 255"),
        (&format!("{CLAIMS}cli = {{ client_id = \"c\", x = 1 }}"), "session.issuer[0].cli.x: unknown setting"),
        (
            &format!("{CLAIMS}cli = {{ client_id = \"c\", scopes = [\"a b\"] }}"),
            "session.issuer[0].cli.scopes: must be at most 32",
        ),
        (
            &format!("{CLAIMS}cli = {{ client_id = \"c\", ports = [0] }}"),
            "session.issuer[0].cli.ports: each must be 1 to 65535",
        ),
        (&format!("{CLAIMS}audience_of = 1"), "session.issuer[0].audience_of: unknown setting"),
    ] {
        let found = problems(&session(more));
        assert!(found.len() == 1 && found[0].contains(problem), "{more}: {found:?}");
    }
    for (from, to, problem) in [
        ("[\"x\"]", "[\"y\"]", "session.issuer[0].keyspaces: there is no keyspace \"y\""),
        ("[\"x\"]", "[\"keyward\"]", "session.issuer[0].keyspaces: \"keyward\" is not for sessions"),
        ("[\"x\"]", "[]", "session.issuer[0].keyspaces: must name at least one"),
        ("keyspaces = [\"x\"]", "", "session.issuer[0]: keyspaces is missing"),
        ("\"dashboard\"", "[]", "session.issuer[0].audience: must name at least one"),
        ("\"dashboard\"", "[\"a\", \"\"]", "session.issuer[0].audience: must name at least one"),
        ("audience = \"dashboard\"", "", "session.issuer[0]: audience is missing"),
        ("\"https://login.example/pool\"", "\"login.example\"", "session.issuer[0].issuer: must be an https URL"),
        ("\"https://login.example/pool\"", "\"\"", "session.issuer[0].issuer: must be an https URL"),
        ("example/pool", "example/pool?x=1", "session.issuer[0].issuer: must be an https URL"),
        ("https://login", "http://login", "session.issuer[0].issuer: must be https, unless it is on this machine"),
    ] {
        let text = session(CLAIMS);
        let (head, tail) = text.split_once("[[session").unwrap();
        let found = problems(&format!("{head}[[session{}", tail.replacen(from, to, 1)));
        assert!(found.len() == 1 && found[0].contains(problem), "{to}: {found:?}");
    }
    valid_config(&session(CLAIMS).replace("https://login.example/pool", "http://127.0.0.1:9/"));
    valid_config(&session(&format!("{CLAIMS}allow_http = true")).replace("https://login", "http://login"));
}

/// Otherwise a person who can choose a subject at one issuer could pass for a person of another issuer, and change that
/// person's keys.
#[test]
fn two_issuers_of_one_keyspace_need_distinct_subject_prefixes() {
    let second = |issuer: &str, audience: &str, more: &str| {
        format!(
            "[[session.issuer]]\nissuer = \"{issuer}\"\naudience = [{audience}]\nkeyspaces = [\"x\"]\n{CLAIMS}{more}\n"
        )
    };
    let two = |own: &str, issuer: &str, audience: &str, more: &str| {
        problems(&format!("{}{}", session(&format!("{CLAIMS}{own}")), second(issuer, audience, more)))
    };
    let prefix = |prefix: &str| format!("subject_prefix = \"{prefix}\"");
    for (own, other, is_valid) in
        [("", "", false), ("a:", "", false), ("a:", "a:", false), ("a:", "a:b:", false), ("a:", "b:", true)]
    {
        let found = two(&prefix(own), "https://other.example", "\"dashboard\"", &prefix(other));
        assert_eq!(found.is_empty(), is_valid, "{own} {other}: {found:?}");
        assert!(
            is_valid || found[0].contains("session.issuer[1].keyspaces: \"x\" is session.issuer[0]'s too"),
            "{found:?}"
        );
    }
    // Two tables of one issuer may share subjects, but each token must belong to one table.
    assert!(two("", "https://login.example/pool", "\"cli\"", "").is_empty());
    let found = two("", "https://login.example/pool", "\"cli\", \"dashboard\"", "");
    assert!(
        found.len() == 1 && found[0].contains("audience: \"dashboard\" of this issuer is session.issuer[0]'s"),
        "{found:?}"
    );
}
