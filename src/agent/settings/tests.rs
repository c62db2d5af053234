use std::{collections::HashMap, fs};

use super::{address::is_private, *};

fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(flags: &Flags, pairs: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    Settings::read(flags, &environment(pairs))
}

const VALID: [(&str, &str); 2] =
    [("KEYWARD_AGENT_UPSTREAM", "http://127.0.0.1:50051"), ("KEYWARD_AGENT_CREDENTIAL", "kw_a")];

#[test]
fn flags_go_before_variables_and_the_rest_has_defaults() {
    let settings = read(&Flags::default(), &VALID).unwrap();
    assert_eq!(settings.upstream, ["http://127.0.0.1:50051"]);
    assert_eq!(settings.listen, [Listen::Unix("/run/keyward.sock".into())]);
    assert_eq!((settings.socket_mode, settings.socket_auth), (0o600, SocketAuth::Credential));
    let flags = Flags {
        upstream: vec!["https://a".into(), "https://b".into()],
        listen: vec!["unix:/tmp/a".into(), "localhost:0".into(), "[::1]:7".into()],
        socket_mode: Some("0660".into()),
        socket_auth: Some("file-mode".into()),
        ..Flags::default()
    };
    let settings = read(&flags, &VALID).unwrap();
    assert_eq!(settings.upstream, ["https://a", "https://b"]);
    let loopback = |text: &str| Listen::Loopback(text.parse().unwrap());
    assert_eq!(settings.listen, [Listen::Unix("/tmp/a".into()), loopback("127.0.0.1:0"), loopback("[::1]:7")]);
    assert_eq!((settings.socket_mode, settings.socket_auth), (0o660, SocketAuth::FileMode));
    let of_command_line = [VALID[0], ("KEYWARD_API_KEY", "kw_b")];
    assert_eq!(read(&Flags::default(), &of_command_line).unwrap().credential.unwrap().expose(), "kw_b");
}

#[test]
fn every_problem_is_reported_with_its_names() {
    let flags = Flags {
        upstream: vec!["http://keyward.internal:50051".into()],
        listen: vec!["0.0.0.0:50052".into(), "unix:relative".into(), "somewhere".into()],
        socket_mode: Some("0999".into()),
        socket_auth: Some("none".into()),
        memory: Some("1KiB".into()),
        metrics_addr: Some("9464".into()),
        ..Flags::default()
    };
    let problems = read(&flags, &[]).err().unwrap();
    for part in [
        "--upstream or KEYWARD_AGENT_UPSTREAM: is plain text beyond this machine",
        "--listen or KEYWARD_AGENT_LISTEN: must be a loopback address",
        "unix: needs an absolute path",
        "must be unix:/path",
        "--socket-mode or KEYWARD_AGENT_SOCKET_MODE: ",
        "--socket-auth or KEYWARD_AGENT_SOCKET_AUTH: ",
        "--memory or KEYWARD_AGENT_MEMORY: ",
        "--metrics-addr or KEYWARD_AGENT_METRICS_ADDR: ",
        "KEYWARD_AGENT_CREDENTIAL: is required",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part} in {problems:?}");
    }
    assert_eq!(problems.len(), 9, "{problems:?}");
}

#[test]
fn plain_text_beyond_this_machine_has_to_be_asked_for() {
    for (url, private) in [
        ("http://127.0.0.1:1", true),
        ("http://[::1]:1", true),
        ("http://localhost:1", true),
        ("https://keyward.internal", true),
        ("unix:/run/keyward.sock", true),
        ("http://10.0.0.1:1", false),
        ("http://localhost.example:1", false),
        ("http://keyward:1", false),
    ] {
        assert_eq!(is_private(url), private, "{url}");
    }
    let flags = Flags { upstream: vec!["http://keyward:1".into()], insecure: true, ..Flags::default() };
    assert!(read(&flags, &VALID).is_ok());
}

#[test]
fn a_credential_is_one_line_and_is_never_printed() {
    let bad = [VALID[0], ("KEYWARD_AGENT_CREDENTIAL", "two words")];
    let problems = read(&Flags::default(), &bad).err().unwrap();
    assert!(problems[0].contains("one line") && !problems[0].contains("two words"), "{problems:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credential");
    fs::write(&file, "kw_of_the_file\n").unwrap();
    let flags = Flags { credential_file: Some(file), ..Flags::default() };
    assert_eq!(read(&flags, &VALID).unwrap().credential.unwrap().expose(), "kw_of_the_file");
    let flags = Flags { credential_file: Some(folder.path().join("none")), ..Flags::default() };
    assert!(read(&flags, &VALID).err().unwrap()[0].contains("--credential-file"));
}
