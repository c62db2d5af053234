//! The command line as a person or a pipeline runs it: with a home folder of its own and no other environment.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use reqwest::{Response, header};
use serde_json::{Value, json};

use super::{
    oidc::{Provider, client},
    server::Server,
};

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Checks that the command succeeded; its standard output.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.good();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Checks that the command failed with this exit code, and said nothing on standard output; its standard error.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        self.err
    }
}

/// A machine with a command line.
pub struct Machine {
    folder: tempfile::TempDir,
    program: PathBuf,
    name: String,
    environment: HashMap<String, String>,
}

impl Machine {
    /// `keyward` itself.
    pub fn new() -> Self {
        Self::named("keyward")
    }

    /// A link with the name of a product.
    pub fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        let program = bin.join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_keyward"), &program).unwrap();
        let mut environment = HashMap::from([("NO_PROXY".to_owned(), "*".to_owned())]);
        environment.insert("HOME".to_owned(), folder.path().join("home").display().to_string());
        if let Ok(path) = std::env::var("PATH") {
            environment.insert("PATH".to_owned(), path);
        }
        Self { folder, program, name: name.to_owned(), environment }
    }

    /// Sets a variable for the commands that follow.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.environment.remove(name);
        self
    }

    /// Sets the address and the key, as a pipeline does.
    pub fn pipeline(mut self, server: &Server, key: &str) -> Self {
        let prefix = self.name.to_uppercase();
        self.set(&format!("{prefix}_URL"), &format!("http://{}", server.http));
        self.set(&format!("{prefix}_API_KEY"), key);
        self
    }

    /// The folder with the link.
    pub fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// A folder for anything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `~/.keyward`, or the product's folder.
    pub fn kept(&self) -> PathBuf {
        self.folder.path().join("home").join(format!(".{}", self.name))
    }

    /// The command, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().envs(&self.environment).current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command with this standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command in a real terminal of 80 columns.
    pub fn in_terminal(&self, arguments: &[&str]) -> Terminal {
        self.in_terminal_of(80, arguments)
    }

    /// Runs a command in a real terminal of so many columns.
    pub fn in_terminal_of(&self, columns: usize, arguments: &[&str]) -> Terminal {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let words: Vec<_> = [self.program.to_str().unwrap()].iter().chain(arguments).map(|word| quoted(word)).collect();
        // stty: what the terminal is like after the command is what it was like before.
        let line = format!(
            "trap : INT; tty >tty; stty cols {columns} rows 24; stty -g >before; {}; code=$?; stty -g >after; exit $code",
            words.join(" ")
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env_clear().envs(&self.environment).env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        command.current_dir(self.folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let output = Arc::clone(&shown);
        let mut stream = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                output.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Terminal { child, shown, reader, folder: self.folder.path().to_owned() }
    }

    /// Keeps a session as a sign-in does, with a token that is not renewed.
    pub fn signed_in(&self, environment: &str, server: &Server, provider: &Provider, token: &str) {
        let url = format!("http://{}/", server.http);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let tokens = json!({
            "url": url, "issuer": provider.issuer, "client_id": "cli", "id_token": token, "refresh_token": null,
            "received_at": now, "lifetime": 600,
        });
        self.keep(environment, "tokens.json", &tokens.to_string());
        self.keep(environment, "settings.json", &json!({"url": url, "organization": null}).to_string());
    }

    /// Writes one of the files of an environment, as private as it has to be.
    pub fn keep(&self, environment: &str, file: &str, text: &str) {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let folder = self.kept().join(environment);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(folder.join(file)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Signs in by the whole authorization code flow, with an HTTP client instead of a browser. `login` is
    /// `<subject>/<organization>/<role>`.
    pub async fn sign_in(&self, arguments: &[&str], login: &str) -> Ran {
        let mut arguments = arguments.to_vec();
        arguments.push("--no-browser");
        let mut started = Started::new(self.command(&arguments));
        let url = started.address().await;
        browse(&url, login).await;
        started.end().await
    }
}

/// A command that runs while the test does something.
pub struct Started {
    child: Child,
    err: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Started {
    /// Starts a command.
    pub fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let err = Arc::new(Mutex::new(String::new()));
        let output = Arc::clone(&err);
        let stream = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in stream.lines().map_while(Result::ok) {
                let mut text = output.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        Self { child, err, reader }
    }

    /// Waits for the address that it asks the person to open.
    pub async fn address(&mut self) -> String {
        self.line("http").await
    }

    /// Waits for an indented line that begins with this.
    pub async fn line(&mut self, begin: &str) -> String {
        let start = Instant::now();
        loop {
            let err = self.err.lock().unwrap().clone();
            if let Some(line) = err.lines().find(|line| line.trim_start().starts_with(begin)) {
                return line.trim().to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < Duration::from_secs(30), "no {begin}: {err}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Waits for the end.
    pub async fn end(mut self) -> Ran {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_mins(1) {
                let _ = self.child.kill();
                panic!("it does not end: {}", self.err.lock().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        read_to_end(&self.reader);
        let err = self.err.lock().unwrap().clone();
        Ran { code: status.code(), out, err }
    }
}

/// Waits until the thread that reads the output of a process that ended has read all of it.
fn read_to_end(reader: &JoinHandle<()>) {
    let start = Instant::now();
    while !reader.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(30), "the output does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A command in a terminal.
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    folder: PathBuf,
}

impl Terminal {
    /// Everything on the screen so far, with control sequences.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until the screen has a text.
    pub fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.shown().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(30), "no {text:?} on the screen: {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the terminal does not show what is typed.
    pub fn wait_for_hidden_input(&self) {
        let start = Instant::now();
        let tty = std::fs::read_to_string(self.folder.join("tty")).unwrap();
        loop {
            let mode = Command::new("stty").args(["-F", tty.trim(), "-a"]).output().unwrap();
            let mode = String::from_utf8(mode.stdout).unwrap();
            if mode.split_whitespace().any(|flag| flag == "-echo") {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the terminal shows what is typed: {mode}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(text.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// Waits for the end, and checks that the terminal is as it was; the exit code and the screen.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_mins(1) {
                let _ = self.child.kill();
                panic!("it does not end: {:?}", self.shown());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        read_to_end(&self.reader);
        let mode = |name: &str| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        assert_eq!(mode("before"), mode("after"), "the mode of the terminal");
        let shown = self.shown();
        let (hidden, visible) = (shown.rfind("\x1b[?25l"), shown.rfind("\x1b[?25h"));
        assert!(hidden <= visible, "the cursor is hidden: {shown:?}");
        (status.code(), shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills in the forms of the provider, from an address to the callback; the page at the end.
pub async fn browse(url: &str, login: &str) -> (u16, String) {
    let http = client();
    let origin = url::Url::parse(url).unwrap().origin().ascii_serialization();
    let mut cookies: HashMap<String, String> = HashMap::new();
    let mut send = async |request: reqwest::RequestBuilder| -> Response {
        let sent: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let response = request.header(header::COOKIE, sent.join("; ")).send().await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            cookies.insert(name.to_owned(), value.to_owned());
        }
        response
    };
    let mut forms =
        [vec![("prompt", "login"), ("login", login), ("password", "any")], vec![("prompt", "consent")]].into_iter();
    let mut response = send(http.get(url)).await;
    loop {
        let Some(location) = response.headers().get(header::LOCATION) else {
            return (response.status().as_u16(), response.text().await.unwrap());
        };
        let location = location.to_str().unwrap();
        let next = if location.starts_with('/') { format!("{origin}{location}") } else { location.to_owned() };
        response = if next.contains("/interaction/") {
            send(http.post(&next).form(&forms.next().expect("a form to fill in"))).await
        } else {
            send(http.get(&next)).await
        };
    }
}
