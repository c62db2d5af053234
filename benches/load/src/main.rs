//! Seeds databases, writes request bodies and drives servers. A command prints one line of JSON or nothing.

mod bodies;
mod measure;
mod seed;
mod stream;
mod unary;
mod wire;

use std::error::Error;

use clap::{Parser, Subcommand};

/// Any error. The harness prints it and stops.
type BoxError = Box<dyn Error>;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes keys straight into a database, and a VerifyRequest for each into a file.
    Seed(seed::Seed),
    /// Writes VerifyRequests with secrets whose checksum is wrong and that are well-formed otherwise.
    Forge(bodies::Forge),
    /// Writes CreateRequests.
    Creates(bodies::Creates),
    /// Writes a RevokeRequest for each line of a file of key ids.
    Revokes(bodies::Revokes),
    /// Makes unary calls.
    Unary(unary::Unary),
    /// Makes checks over one VerifyStream.
    Stream(stream::Stream),
}

fn main() -> Result<(), BoxError> {
    let command = Arguments::parse().command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        match command {
            Command::Seed(seed) => seed.run().await,
            Command::Forge(forge) => forge.run(),
            Command::Creates(creates) => creates.run(),
            Command::Revokes(revokes) => revokes.run(),
            Command::Unary(unary) => unary.run().await,
            Command::Stream(stream) => stream.run().await,
        }
    }))
}
