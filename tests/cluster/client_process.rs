//! An attached client in a process of its own, which can be stopped, killed and cut off.
//!
//! The process is this test binary, started again for its ignored test [`process`]. It checks the keys that the test names
//! all the time, and writes what it finds into a file, so that what it found before it was killed counts, too. Times are
//! those of `CLOCK_MONOTONIC`, which all processes of a machine share. With an agent, it asks that one by calls: then the
//! agent is the process which is stopped and killed.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use futures::poll;
use keyward_client::{AttachOptions, Client};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

/// The settings of the process: the file of its findings, its credential, whom it asks and the addresses, a line each.
const SETTINGS: &str = "KEYWARD_CLIENT_PROCESS";
/// How long a check may wait for an answer to a call.
const CALL_TIMEOUT: Duration = Duration::from_millis(700);
/// How it asks: from its own memory, or an agent.
const ATTACHED: &str = "attached";
const BY_CALLS: &str = "by calls";
/// The pause after a VALID answer of a call, for the two of them. Checks of an agent take both processes' time.
const AFTER_CALL: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(60)];
/// Keys that are checked at once. The oldest ones make room.
const MAX_WATCHED: usize = 1_024;
/// A key that was refused is checked for so long: longer than any lease in these tests.
const WATCH_REFUSED: Duration = Duration::from_secs(6);
/// The pause between two rounds over all keys.
const ROUND: Duration = Duration::from_millis(1);

/// Nanoseconds on the clock that all processes share.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("a time since the start of the machine")
}

/// What a client found about one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finding {
    /// When the last check that was answered VALID started; 0 if none was.
    pub valid_started: u64,
    /// VALID answers from memory.
    pub from_memory: u64,
    /// VALID answers of calls.
    pub by_call: u64,
    /// Other verdicts.
    pub refused: u64,
    /// Checks without a verdict.
    pub undecided: u64,
}

impl Finding {
    const BYTES: usize = 40;

    fn bytes(self) -> [u8; Self::BYTES] {
        let words = [self.valid_started, self.from_memory, self.by_call, self.refused, self.undecided];
        let mut bytes = [0; Self::BYTES];
        for (target, word) in bytes.chunks_exact_mut(8).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn of(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
        let mut next = || words.next().unwrap_or(0);
        Self { valid_started: next(), from_memory: next(), by_call: next(), refused: next(), undecided: next() }
    }
}

/// Reads what a client found about every key.
pub fn findings(file: &Path) -> Vec<Finding> {
    std::fs::read(file).unwrap_or_default().chunks_exact(Finding::BYTES).map(Finding::of).collect()
}

/// A running client; it is killed when this is dropped.
pub struct ClientProcess {
    child: Child,
    /// The agent that it asks, if it does.
    agent: Option<Child>,
    /// Ends with this: the process then stops in good order. A thread writes, since a stopped process reads nothing.
    lines: Option<mpsc::Sender<String>>,
    findings: PathBuf,
}

impl ClientProcess {
    /// Starts a client that is attached to one of these addresses, and writes into a new file.
    pub fn start(findings: &Path, credential: &str, addresses: &[String]) -> Self {
        Self::launch(findings, credential, ATTACHED, addresses, None)
    }

    /// Starts an agent of these addresses, and a process that asks it.
    pub fn start_agent(findings: &Path, credential: &str, addresses: &[String]) -> Self {
        let log = File::create(findings.with_extension("agent.log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.arg("agent").env_clear().env("KEYWARD_AGENT_CREDENTIAL", credential);
        for address in addresses {
            command.args(["--upstream", &format!("http://{address}")]);
        }
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(log);
        let mut agent = command.spawn().expect("the agent starts");
        let mut lines = BufReader::new(agent.stdout.take().expect("its output")).lines();
        let address = lines.find_map(|line| line.ok()?.strip_prefix("grpc listening on ").map(str::to_owned));
        let address = address.expect("the agent listens");
        Self::launch(findings, credential, BY_CALLS, &[address], Some(agent))
    }

    fn launch(findings: &Path, credential: &str, how: &str, addresses: &[String], agent: Option<Child>) -> Self {
        let settings = format!("{}\n{credential}\n{how}\n{}", findings.display(), addresses.join(" "));
        let log = File::create(findings.with_extension("log")).expect("a log");
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "client_process::process", "--ignored", "--nocapture"])
            .env(SETTINGS, settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the client starts");
        let mut input = child.stdin.take().expect("its input");
        let (lines, queue) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            while let Ok(line) = queue.recv()
                && input.write_all(line.as_bytes()).is_ok()
            {}
        });
        Self { child, agent, lines: Some(lines), findings: findings.to_owned() }
    }

    /// Names a key, which it checks from now on.
    pub fn watch(&self, index: usize, secret: &str) {
        // A process that was killed reads nothing.
        let _ = self.lines.as_ref().map(|lines| lines.send(format!("{index} {secret}\n")));
    }

    /// What it found about a key so far.
    pub fn finding(&self, index: usize) -> Finding {
        let mut bytes = [0; Finding::BYTES];
        let read = File::open(&self.findings).and_then(|file| file.read_exact_at(&mut bytes, offset(index)));
        read.map(|()| Finding::of(&bytes)).unwrap_or_default()
    }

    /// Sends a signal to it, or to the agent that it asks.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.agent.as_ref().unwrap_or(&self.child)), signal).expect("it runs");
    }

    /// Lets it stop in good order, and waits for that. Returns whether it did.
    pub fn stop(mut self) -> bool {
        drop(self.lines.take());
        let stopped = ends_well(&mut self.child);
        let Some(agent) = &mut self.agent else { return stopped };
        kill_process(Pid::from_child(agent), Signal::TERM).expect("the agent runs");
        ends_well(agent) && stopped
    }
}

fn ends_well(child: &mut Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait().expect("it is a child") {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        for child in self.agent.iter_mut().chain([&mut self.child]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn offset(index: usize) -> u64 {
    (index * Finding::BYTES) as u64
}

/// The file that a process writes.
struct Findings {
    file: File,
    all: Mutex<Vec<Finding>>,
}

impl Findings {
    fn note(&self, index: usize, change: impl FnOnce(&mut Finding)) {
        let mut all = self.all.lock().expect("no panic");
        if all.len() <= index {
            all.resize(index + 1, Finding::default());
        }
        change(&mut all[index]);
        // A write for each answer: whatever is killed next, this answer counts.
        self.file.write_all_at(&all[index].bytes(), offset(index)).expect("the finding is written");
    }
}

/// A key that is checked.
struct Watched {
    index: usize,
    secret: Arc<str>,
    state: Arc<Mutex<Turn>>,
}

/// When a key is checked next.
struct Turn {
    /// A call for it is on its way.
    waits: bool,
    next: Instant,
    delay: Duration,
    /// When it was refused first.
    refused: Option<Instant>,
}

impl Watched {
    fn new(index: usize, secret: &str) -> Self {
        let turn = Turn { waits: false, next: Instant::now(), delay: Duration::from_millis(20), refused: None };
        Self { index, secret: secret.into(), state: Arc::new(Mutex::new(turn)) }
    }

    fn is_over(&self, now: Instant) -> bool {
        let turn = self.state.lock().expect("no panic");
        turn.refused.is_some_and(|since| now - since > WATCH_REFUSED)
    }

    /// Whether it is its turn; a call is then expected.
    fn take_turn(&self, now: Instant) -> bool {
        let mut turn = self.state.lock().expect("no panic");
        let is = !turn.waits && turn.next <= now;
        turn.waits |= is;
        is
    }
}

/// How a check ended.
enum Answer {
    Memory,
    Call,
    Refused,
    Undecided,
}

impl Answer {
    fn note(self, findings: &Findings, index: usize, started: u64, state: &Mutex<Turn>, after_call: Duration) {
        findings.note(index, |finding| {
            match self {
                Self::Memory => finding.from_memory += 1,
                Self::Call => finding.by_call += 1,
                Self::Refused => finding.refused += 1,
                Self::Undecided => finding.undecided += 1,
            }
            if matches!(self, Self::Memory | Self::Call) {
                finding.valid_started = finding.valid_started.max(started);
            }
        });
        let mut turn = state.lock().expect("no panic");
        turn.waits = false;
        let now = Instant::now();
        turn.next = now
            + match self {
                Self::Memory => Duration::ZERO,
                Self::Call => after_call,
                Self::Refused | Self::Undecided => turn.delay,
            };
        if matches!(self, Self::Refused) {
            turn.refused = turn.refused.or(Some(now));
            turn.delay = (turn.delay * 2).min(Duration::from_secs(1));
        }
    }
}

/// The process. Without its settings, it has nothing to do.
#[test]
#[ignore = "a process of other tests, which start it"]
fn process() {
    let Ok(settings) = std::env::var(SETTINGS) else { return };
    let mut settings = settings.lines();
    let mut setting = || settings.next().expect("a setting");
    let file = File::options().create_new(true).write(true).open(setting()).expect("a new file");
    let findings = Arc::new(Findings { file, all: Mutex::default() });
    let credential = setting().to_owned();
    let attached = setting() == ATTACHED;
    let mut urls = setting().split(' ').map(|address| format!("http://{address}"));
    let builder = Client::builder(urls.next().expect("an address")).credential(credential);
    let builder = urls.fold(builder, keyward_client::ClientBuilder::endpoint).timeout(CALL_TIMEOUT);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = builder.build().expect("a client");
        if attached {
            client.attach(AttachOptions::default()).expect("it attaches");
        }
        check_all(client, findings, AFTER_CALL[usize::from(!attached)]).await;
        // The session's task says that it has stopped.
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
}

/// Checks every key that standard input names, until that ends.
async fn check_all(client: Client, findings: Arc<Findings>, after_call: Duration) {
    let (keys, named) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("a line");
            let (index, secret) = line.split_once(' ').expect("a key");
            let key = Watched::new(index.parse().expect("a number"), secret);
            if keys.send(key).is_err() {
                return;
            }
        }
    });
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        loop {
            match named.try_recv() {
                Ok(key) => watched.push(key),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let now = Instant::now();
        watched.retain(|key| !key.is_over(now));
        let surplus = watched.len().saturating_sub(MAX_WATCHED);
        watched.drain(..surplus);
        for key in watched.iter().filter(|key| key.take_turn(now)) {
            check(&client, &findings, key, after_call).await;
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Checks one key. Does not wait for a call.
async fn check(client: &Client, findings: &Arc<Findings>, key: &Watched, after_call: Duration) {
    let (client, secret) = (client.clone(), Arc::clone(&key.secret));
    let started = monotonic();
    let mut check = Box::pin(async move { client.verify(&secret).await });
    // Only memory answers at once.
    if let std::task::Poll::Ready(verdict) = poll!(check.as_mut()) {
        let valid = verdict.is_ok_and(|verdict| verdict.is_valid());
        let answer = if valid { Answer::Memory } else { Answer::Undecided };
        answer.note(findings, key.index, started, &key.state, after_call);
        return;
    }
    let (findings, index, state) = (Arc::clone(findings), key.index, Arc::clone(&key.state));
    tokio::spawn(async move {
        let answer = match check.await {
            Ok(verdict) if verdict.is_valid() => Answer::Call,
            Ok(_) => Answer::Refused,
            Err(_) => Answer::Undecided,
        };
        answer.note(&findings, index, started, &state, after_call);
    });
}
