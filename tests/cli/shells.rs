//! Completions, manual pages and help.

use std::process::Command;

use serde_json::json;

use crate::{
    retries::{Scripted, answer},
    support::{Setup, cli::Machine, server::ROOT},
};

#[test]
fn every_command_has_help_with_an_example() {
    let machine = Machine::new();
    for command in [
        "login",
        "logout",
        "whoami",
        "orgs list",
        "orgs select",
        "orgs current",
        "keys create",
        "keys list",
        "keys get",
        "keys revoke",
        "keys verify",
        "keys webhook",
        "events list",
        "events deliveries",
        "events redeliver",
        "completions",
        "man",
        "serve",
        "migrate",
        "config check",
        "config show",
        "root-key",
    ] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        let help = machine.run(&arguments).good();
        assert!(help.contains(&format!("keyward {command}")) && help.contains("Examples:"), "{command}: {help}");
    }
    let version = machine.run(&["--version"]).good();
    assert!(version.starts_with(&format!("keyward {}", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let machine = Machine::new();
    let folder = machine.folder().join("man");
    machine.run(&["man", folder.to_str().unwrap()]).good();
    for page in ["keyward.1", "keyward-keys-create.1", "keyward-login.1", "keyward-orgs-select.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME"), "{page}");
    }
    machine.run(&["man", "/proc/nowhere"]).failed(1);
}

#[tokio::test]
async fn shells_complete_commands_ids_organizations_and_scopes() {
    let server = Setup::new().ready("norrix").start();
    let machine = Machine::new().pipeline(&server, ROOT);
    let key = server.create(json!({"name": "ci", "keyspace": "norrix", "orgId": "acme"})).await;
    let id = key["id"].as_str().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = machine.run(&["completions", shell]).good();
        assert!(script.contains("COMPLETE") && script.contains("keyward"), "{shell}: {script}");
    }
    assert!(machine.run(&["completions", "cmd"]).failed(2).contains("bash"));
    // A real bash loads it and asks.
    let ask = |words: &str| {
        let script = format!(
            "source <(keyward completions bash); COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             COMP_TYPE=9; COMP_LINE='{words} '; COMP_POINT=${{#COMP_LINE}}; _clap_complete_keyward; printf '%s\\n' \
             \"${{COMPREPLY[@]}}\""
        );
        let of_machine = machine.command(&[]);
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script]).env_clear();
        bash.envs(of_machine.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = format!("{}:{}", machine.bin().display(), std::env::var("PATH").unwrap());
        let output = bash.env("PATH", path).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    assert!(ask("keyward").contains("login") && ask("keyward keys").contains("revoke"), "{}", ask("keyward"));
    assert!(ask("keyward keys revoke").contains(id), "{}", ask("keyward keys revoke"));
    assert!(ask("keyward keys create n --scope").contains("submit"));
    // Nobody answers: no candidates, and no error in the middle of a command line.
    let mut away = Machine::new();
    away.set("KEYWARD_URL", "http://127.0.0.1:9").set("KEYWARD_API_KEY", "x").set("COMPLETE", "fish");
    let ran = away.run(&["--", "keyward", "keys", "get", ""]);
    assert!(ran.err.is_empty() && ran.code == Some(0), "{ran:?}");
}

/// The attack: somebody who may name an organization, or who answers instead of the service, has a command run by the
/// shell of a person who presses Tab and Enter.
#[test]
fn a_shell_is_offered_nothing_that_it_would_run() {
    let names =
        ["acme", "$(touch x)", "`id`", "a b", "a;b", "-rf", "a\nb", "x|y", "~root", "*", "'q'", "münchen-2", ""];
    let organizations: Vec<_> = names.iter().map(|id| json!({"id": id, "role": "$(touch y)"})).collect();
    let body = json!({"caller": "session", "organizations": organizations}).to_string();
    let scripted = Scripted::new(&[&answer("200 OK", "", &body)]);
    let mut machine = scripted.machine();
    machine.set("COMPLETE", "fish");
    let offered = machine.run(&["--", "keyward", "keys", "list", "--org", ""]).good();
    let words: Vec<&str> = offered.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(words, ["acme", "münchen-2"], "{offered}");
}
