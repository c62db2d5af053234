//! Files that are damaged or not one's own, full disks, and other things that go wrong.

use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

use serde_json::json;

use crate::support::{Server, Setup, cli::Machine, oidc::Provider, server::ROOT, tls};

async fn session(provider: &Provider) -> (Server, Machine) {
    let cli = "cli = { client_id = \"cli\" }";
    let server = Setup::new().ready("norrix").and(&provider.table("dashboard", &["norrix"], cli)).start();
    let machine = Machine::new();
    let token = provider.token("cli", "olga", &json!({"acme": "owner", "globex": "owner"})).await;
    machine.signed_in("prod", &server, provider, &token);
    (server, machine)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn files_that_others_can_read_are_warned_about_and_repaired() {
    let provider = Provider::start();
    let (_server, machine) = session(&provider).await;
    for (path, open, private) in [
        ("prod/tokens.json", 0o644, 0o600),
        ("prod/settings.json", 0o640, 0o600),
        ("prod", 0o755, 0o700),
        ("", 0o711, 0o700),
    ] {
        let path = machine.kept().join(path);
        set_mode(&path, open);
        let ran = machine.run(&["whoami"]);
        assert!(ran.err.contains("warning:") && ran.err.contains("readable by other users"), "{path:?}: {ran:?}");
        ran.good();
        assert_eq!(mode(&path), private, "{path:?}");
        assert_eq!(machine.run(&["whoami"]).err, "");
    }
}

#[tokio::test]
async fn files_that_others_could_have_written_are_refused() {
    let provider = Provider::start();
    let (_server, machine) = session(&provider).await;
    for path in ["prod/tokens.json", "prod/settings.json", "prod", ""] {
        let path = machine.kept().join(path);
        let before = mode(&path);
        set_mode(&path, before | 0o022);
        let err = machine.run(&["whoami"]).failed(1);
        assert!(err.contains("could have been written by other users"), "{path:?}: {err}");
        set_mode(&path, before);
    }
    machine.run(&["whoami"]).good();
}

/// Only root can give a file away, so this runs where tests run as root.
#[tokio::test]
async fn files_of_another_user_are_refused() {
    let provider = Provider::start();
    let (_server, machine) = session(&provider).await;
    let file = machine.kept().join("prod/tokens.json");
    if chown(&file, Some(65_534), None).is_err() {
        return;
    }
    let err = machine.run(&["whoami"]).failed(1);
    assert!(err.contains("belongs to another user"), "{err}");
}

#[tokio::test]
async fn damaged_files_are_reported_and_repaired_by_signing_in() {
    let provider = Provider::start();
    let (server, machine) = session(&provider).await;
    for damaged in ["", "{", "[]", "\u{0}\u{1}", &"x".repeat(2 << 20)] {
        machine.keep("prod", "tokens.json", damaged);
        let err = machine.run(&["whoami"]).failed(4);
        assert!(err.contains("tokens.json is damaged") && err.contains("keyward login"), "{err}");
    }
    std::fs::write(machine.kept().join("prod/tokens.json"), [0xff, 0xfe]).unwrap();
    machine.run(&["whoami"]).failed(4);
    machine.keep("prod", "settings.json", "{");
    let url = format!("http://{}", server.http);
    let ran = machine.sign_in(&["login", &url], "olga/acme/owner").await;
    assert!(ran.err.contains("settings.json is damaged and is ignored"), "{ran:?}");
    ran.good();
    assert_eq!(machine.run(&["whoami"]).err, "");
    machine.keep("prod", "tokens.json", "{");
    machine.run(&["logout"]).good();
    assert!(!machine.kept().join("prod/tokens.json").exists());
}

/// A limit of the file size acts like a full disk: a write fails after the file was opened.
#[tokio::test]
async fn a_full_disk_leaves_the_old_file() {
    let provider = Provider::start();
    let (_server, machine) = session(&provider).await;
    machine.run(&["orgs", "select", "acme"]).good();
    let before = std::fs::read_to_string(machine.kept().join("prod/settings.json")).unwrap();
    let program = machine.command(&[]).get_program().to_owned();
    let mut full = Command::new("bash");
    full.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" orgs select globex"]).arg(program);
    full.env_clear().envs(machine.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = full.output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("settings.json"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(machine.kept().join("prod/settings.json")).unwrap(), before);
    let left = std::fs::read_dir(machine.kept().join("prod")).unwrap();
    assert!(left.map(|entry| entry.unwrap().file_name()).all(|name| !name.to_str().unwrap().contains(".tmp")));
    assert_eq!(machine.run(&["orgs", "current"]).good(), "acme\n");
}

#[tokio::test]
async fn organizations_with_deceptive_names_are_shown_escaped() {
    let provider = Provider::start();
    let (server, machine) = session(&provider).await;
    let token = provider.token("cli", "olga", &json!({"ac\u{202e}me": "owner"})).await;
    machine.signed_in("prod", &server, &provider, &token);
    for arguments in [&["orgs", "list"][..], &["whoami"], &["orgs", "current"]] {
        let shown = machine.run(arguments).good();
        assert!(shown.contains("ac\\u{202e}me") && !shown.contains('\u{202e}'), "{shown}");
    }
}

#[test]
fn a_certificate_of_nobody_is_refused_and_one_of_a_trusted_authority_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = tls::Authority::new(folder.path(), "company");
    let other = tls::Authority::new(folder.path(), "other");
    let server = tls::start(&tls::table(&authority.server("keys"), None));
    let mut machine = Machine::new();
    machine.set("KEYWARD_URL", &format!("https://{}", server.http)).set("KEYWARD_API_KEY", ROOT);
    machine.set("SSL_CERT_FILE", other.cert.to_str().unwrap());
    let err = machine.run(&["whoami"]).failed(1);
    assert!(err.contains("certificate"), "{err}");
    machine.set("SSL_CERT_FILE", authority.cert.to_str().unwrap());
    machine.run(&["whoami"]).good();
    // Plain text where the service speaks TLS.
    machine.set("KEYWARD_URL", &format!("http://{}", server.http));
    machine.run(&["whoami"]).failed(1);
}

#[test]
fn without_a_home_there_is_no_session_but_a_key_works() {
    let server = Setup::new().start();
    let mut machine = Machine::new().pipeline(&server, ROOT);
    machine.set("HOME", "");
    machine.run(&["whoami"]).good();
    machine.unset("KEYWARD_API_KEY");
    machine.run(&["whoami"]);
}
