//! What others on the machine, or between the machines, can read of a server.

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{Setup, tls::Authority};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_database_that_others_may_read_is_restricted_with_a_warning() {
    let mut server = Setup::new().start();
    let folder = server.folder().to_owned();
    let files = ["keyward.db", "keyward.db-wal", "keyward.db-shm"].map(|name| folder.join(name));
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(&folder.join("keyward.db.lock")), 0o600);
    // Killed, so that the -wal and -shm files stay.
    server.signal("KILL");
    server.wait();
    for file in &files {
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    }
    let again = Setup::new().folder(&folder).start();
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    assert!(again.log().contains("other users could read the database"), "{}", again.log());
}

/// A group alone was meant: it may make backups.
#[test]
fn a_database_that_a_group_may_read_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyward.db");
    fs::write(&file, b"").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let server = Setup::new().folder(folder.path()).start();
    assert_eq!(mode(&file), 0o640);
    assert!(!server.log().contains("read the database"), "{}", server.log());
}

#[test]
fn a_private_key_that_everybody_may_read_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let server = Authority::new(folder.path(), "ca").server("server");
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let setup = Setup::new().env("KEYWARD_TLS_CERT", &path(&server.cert)).env("KEYWARD_TLS_KEY", &path(&server.key));
    let key = server.key;
    for (mode, warned) in [(0o644, true), (0o604, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let output = setup.command(folder.path(), &["config", "check"]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        assert_eq!(text.contains("warning: tls.key: every user"), warned, "{mode:o}: {text}");
    }
}

/// A process whose memory others may not read belongs to root in `/proc`, whoever runs it.
#[test]
fn a_process_is_not_dumpable_unless_that_is_allowed() {
    const NOBODY: u32 = 65_534;
    // The server inherits this: where the limit is 0 already, nothing would show that the server sets it.
    let limit = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: limit.maximum, ..limit }).unwrap();
    for (allowed, protected) in [("false", true), ("true", false)] {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let mut command = Setup::new().env("KEYWARD_DUMPABLE", allowed).command(folder.path(), &["serve"]);
        if rustix::process::geteuid().is_root() {
            // The program itself must be readable by that user: a copy is.
            let copy = folder.path().join("keyward");
            fs::copy(env!("CARGO_BIN_EXE_keyward"), &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let variables: Vec<_> =
                command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
            command = std::process::Command::new(copy);
            command.args(arguments).env_clear().envs(variables).current_dir(folder.path()).uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let owner = fs::metadata(format!("/proc/{}/environ", child.id())).map(|file| file.uid());
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(line.contains("listening"), "{line}");
        assert_eq!(owner.unwrap() == 0, protected, "KEYWARD_DUMPABLE={allowed}");
        let none = core.split_whitespace().nth(4) == Some("0");
        assert_eq!(none, protected || limit.maximum == Some(0), "KEYWARD_DUMPABLE={allowed}: {core}");
    }
}

/// A server that says it has no TLS is given no password, and the start does not go on asking it.
#[test]
fn a_database_without_tls_ends_the_start_at_once_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(b"N").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        (request, rest)
    });
    let start = Instant::now();
    let url = format!("postgres://u:hunter2@{address}/keyward?sslmode=require");
    let log = Setup::new().database(&url).try_start().err().expect("the start ends");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(
        log.contains("the server has no TLS") && log.contains("sslmode=disable") && !log.contains("hunter2"),
        "{log}"
    );
    let (request, rest) = asked.join().unwrap();
    // SSLRequest, and then nothing.
    assert_eq!((&request[4..], rest.as_slice()), (&80_877_103_u32.to_be_bytes()[..], &[][..]));
}
