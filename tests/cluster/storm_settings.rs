//! How a storm runs: its length, its seed, and the guards that its replicas go without.

use crate::cluster::Start;

/// The settings of a storm.
pub struct StormSettings {
    /// How long faults are injected.
    pub seconds: u64,
    /// The seed of everything that is drawn.
    pub seed: u64,
    /// One for each replica.
    pub starts: Vec<Start>,
}

impl StormSettings {
    /// Reads them from the environment, and prints how to repeat the storm. `KEYWARD_CLUSTER_WITHOUT` names the guards to
    /// disable, to see that the storm detects it.
    pub fn read(default_seconds: u64, replicas: usize) -> Self {
        let seconds = number("KEYWARD_CLUSTER_SECONDS").unwrap_or(default_seconds);
        let seed = number("KEYWARD_CLUSTER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        println!("{seconds} s with KEYWARD_CLUSTER_SEED={seed}");
        let guards = std::env::var("KEYWARD_CLUSTER_WITHOUT").unwrap_or_default();
        // One replica's wall clock steps all the time. The promise does not depend on it.
        let faults = |replica| if replica == 1 { format!("{guards},steady_wall") } else { guards.clone() };
        let starts = (0..replicas).map(|replica| Start::without(&faults(replica))).collect();
        Self { seconds, seed, starts }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}
