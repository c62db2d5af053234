//! Times checks inside an attached client, and Revokes that wait for many of them. A command prints lines of JSON.

mod checks;
mod revokes;

use std::{error::Error, time::Duration};

use clap::{Parser, Subcommand};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Any error. The harness prints it and stops.
type BoxError = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Times checks by calls and from memory, one after the other and by several threads at once.
    Checks(checks::Checks),
    /// Attaches many clients, and times Revokes of keys that all of them hold.
    Revokes(revokes::Revokes),
}

fn main() -> Result<(), BoxError> {
    let command = Arguments::parse().command;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Checks(checks) => checks.run().await,
            Command::Revokes(revokes) => revokes.run().await,
        }
    })
}

/// Percentiles of samples, in nanoseconds.
fn summary(samples: &mut [Duration]) -> serde_json::Value {
    samples.sort_unstable();
    let at = |thousandths: usize| {
        let place = samples.len() * thousandths / 1_000;
        samples
            .get(place.min(samples.len().saturating_sub(1)))
            .map(|sample| u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX))
    };
    json!({ "samples": samples.len(), "p50": at(500), "p99": at(990), "p999": at(999), "max": at(1_000) })
}
