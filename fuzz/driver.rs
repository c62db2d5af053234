//! Runs a target on its corpus, and then on mutations of it until its time is over.
//!
//! There is no coverage feedback: that needs a compiler of its own, and this has to run on any stable one within a
//! minute. The corpus and the words of each target stand in for it, and the targets check more than the absence of panics.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, TryRng as _, rngs::StdRng, rngs::SysRng};

/// How long each target runs unless `KEYWARD_FUZZ_SECONDS` says otherwise.
const DEFAULT_SECONDS: f64 = 0.3;
/// No input grows beyond this, in bytes.
const MAX_INPUT_LEN: usize = 16 << 10;
/// Changes to one input, at most.
const MAX_MUTATIONS: usize = 6;
/// Inputs between two looks at the clock.
const CLOCK_INTERVAL: usize = 32;

/// What inputs are made of.
pub struct Fuzz<'a> {
    /// The folder below `corpus/` whose files are inputs.
    pub corpus: &'a str,
    /// Inputs that are made when the target runs: a good secret in a file would look like one that leaked.
    pub seeds: &'a [String],
    /// Words that the target's parser knows, for mutations.
    pub words: &'a [&'a str],
}

impl Fuzz<'_> {
    /// Runs `target` on every input, and then on mutations of them.
    ///
    /// An input that makes it panic is kept in the build folder, and its path is in the message. Put such a file into
    /// the corpus together with the fix: it is run first from then on.
    pub fn run(&self, target: impl Fn(&[u8])) {
        let name = self.corpus;
        let mut inputs = corpus(name);
        inputs.extend(self.seeds.iter().map(|seed| seed.as_bytes().to_vec()));
        assert!(!inputs.is_empty(), "corpus/{name} has no files");
        for input in &inputs {
            run(name, &target, input);
        }
        let seed = seed();
        let mut rng = StdRng::seed_from_u64(seed);
        let (start, length) = (Instant::now(), length());
        let mut count = 0_usize;
        while start.elapsed() < length {
            for _ in 0..CLOCK_INTERVAL {
                run(name, &target, &mutated(&mut rng, &inputs, self.words));
            }
            count += CLOCK_INTERVAL;
        }
        println!("{name}: {} inputs and {count} mutations in {:.1?}, seed {seed}", inputs.len(), start.elapsed());
    }
}

/// `KEYWARD_FUZZ_SEED`, or another one each time.
fn seed() -> u64 {
    match env::var("KEYWARD_FUZZ_SEED") {
        Ok(text) => text.parse().expect("KEYWARD_FUZZ_SEED is a whole number"),
        Err(_) => SysRng.try_next_u64().expect("the system's source of random numbers"),
    }
}

fn length() -> Duration {
    let seconds = env::var("KEYWARD_FUZZ_SECONDS")
        .map_or(DEFAULT_SECONDS, |text| text.parse().expect("KEYWARD_FUZZ_SECONDS is a number of seconds"));
    Duration::from_secs_f64(seconds)
}

/// The files of a target, sorted by name: a seed means the same on every machine.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the corpus").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file of the corpus")).collect()
}

fn run(name: &str, target: impl Fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let path = keep(name, input);
        eprintln!("{name} failed on {}: {:?}", path.display(), String::from_utf8_lossy(input));
        resume_unwind(panic);
    }
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{hash:016x}"));
    fs::write(&path, input).expect("a file in the build folder");
    path
}

/// One file of the corpus, changed in a few places; now and then bytes without any meaning.
fn mutated(rng: &mut StdRng, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    if rng.random_ratio(1, 50) {
        return (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
    }
    let mut input = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=MAX_MUTATIONS) {
        mutate(rng, &mut input, corpus, words);
    }
    input.truncate(MAX_INPUT_LEN);
    input
}

fn mutate(rng: &mut StdRng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let at = rng.random_range(0..=input.len());
    let end = rng.random_range(at..=input.len().min(at + 64));
    match rng.random_range(0..9) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => input.insert(at, rng.random()),
        3 => drop(input.drain(at..end)),
        4 => input.truncate(at),
        // A part twice, which parsers of lists and of nesting do not expect.
        5 => {
            let part = input[at..end].repeat(rng.random_range(1..=20));
            input.splice(at..at, part);
        }
        6 => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            let from = rng.random_range(0..=other.len());
            input.splice(at..end, other[from..].iter().copied());
        }
        _ if words.is_empty() => {}
        _ => {
            let word = words[rng.random_range(0..words.len())];
            input.splice(at..if rng.random() { at } else { end }, word.bytes());
        }
    }
}
