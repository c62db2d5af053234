//! The command line for people and pipelines, over REST. It uses no module of the server, so it starts in milliseconds,
//! and opens no database.

mod api;
pub mod args;
mod candidates;
mod commands;
mod environment;
mod failure;
mod files;
mod http;
mod output;
pub mod product;
mod runtime;
mod screen;
mod session;
mod shell;
mod sign_in;
mod table;
mod terminal;
mod text;
mod tokens;
mod uninterrupted;

use std::process::ExitCode;

pub use self::shell::complete;
use self::{
    args::{Command, Global},
    environment::Environment,
    failure::{Exit, Failure, Result},
    product::Product,
    screen::Screen,
    terminal::TerminalMode,
};

/// Runs a command; `outer` are the flags before it, and `whole` is the command line with all commands.
pub fn run(product: Product, command: Command, outer: Global, whole: clap::Command) -> ExitCode {
    let quiet = outer.quiet;
    let name = product.name.clone();
    let done = match command {
        Command::Completions { shell } => shell::completions(&product, &shell),
        Command::Man { folder } => shell::man(whole, &folder),
        command => {
            let global = command.global().or(outer);
            Environment::new(product, global.into()).and_then(|environment| {
                let mode = TerminalMode::save();
                let done = runtime::block_on(until_interrupted(commands::run(&environment, command)));
                if done.as_ref().is_err_and(|failure| failure.exit == Exit::Usage) {
                    mode.restore();
                }
                done
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                Screen::new(&name, quiet).failed(&failure.message);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Ctrl-C ends a command with the exit code of a cancellation. Files are replaced as a whole, so none is half-written;
/// a step that must not be interrupted is finished first, unless Ctrl-C is pressed again.
async fn until_interrupted(work: impl Future<Output = Result>) -> Result {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        _ = tokio::signal::ctrl_c() => {}
    }
    tokio::select! {
        () = uninterrupted::finish(work) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    // The terminal shows ^C, or a spinner, on the line of the cursor.
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!();
    }
    Err(Failure::cancelled())
}
