//! The command line: the server's commands, and those for people and pipelines. Under the name of a product, which is that
//! of a link to the binary, there are only the latter.

mod client;
mod server;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::client::{args, product::Product};

/// Makes, lists, revokes and verifies API keys over gRPC and REST
#[derive(Parser)]
#[command(
    name = "keyward",
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("KEYWARD_COMMIT"), ")"),
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Own {
    #[command(flatten)]
    global: args::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Client(args::Command),
    #[command(flatten)]
    Server(server::Command),
}

/// Manages Keyward's API keys
#[derive(Parser)]
#[command(
    name = "keyward",
    version = concat!(env!("CARGO_PKG_VERSION"), " (keyward ", env!("KEYWARD_COMMIT"), ")"),
    arg_required_else_help = true,
    max_term_width = 100
)]
struct OfProduct {
    #[command(flatten)]
    global: args::Global,
    #[command(subcommand)]
    command: args::Command,
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let product = Product::of(std::env::args_os().next().as_deref());
    let whole = || command_line(&product);
    if client::complete(&product, whole) {
        return ExitCode::SUCCESS;
    }
    let matches = whole().get_matches();
    let parsed = if product.is_own() {
        Own::from_arg_matches(&matches).map(|own| (own.global, own.command))
    } else {
        OfProduct::from_arg_matches(&matches).map(|own| (own.global, Command::Client(own.command)))
    };
    match parsed {
        Ok((global, Command::Client(command))) => {
            let whole = whole();
            client::run(product, command, global, whole)
        }
        Ok((global, Command::Server(_))) if global.is_given() => {
            whole().error(clap::error::ErrorKind::ArgumentConflict, "a command of the server takes no such flag").exit()
        }
        Ok((_, Command::Server(command))) => server::run(command),
        Err(error) => error.format(&mut whole()).exit(),
    }
}

/// The command line of a product.
fn command_line(product: &Product) -> clap::Command {
    let command = if product.is_own() { Own::command() } else { named(OfProduct::command(), product) };
    // These flags are also accepted before a command, where the help hides them: each command's own help lists them.
    ["env", "dev", "url", "org", "output", "quiet", "timeout", "yes"]
        .iter()
        .fold(command, |command, id| command.mut_arg(id, |arg| arg.global(false).hide(true)))
}

/// Puts the product's name into every text.
fn named(command: clap::Command, product: &Product) -> clap::Command {
    let rename = |text: String| {
        text.replace("KEYWARD_", &product.variable(""))
            .replace("Keyward", &product.title())
            .replace("keyward", &product.name)
    };
    let styled = |text: Option<&clap::builder::StyledStr>| text.map(|text| rename(text.to_string()));
    let (about, long, after) =
        (styled(command.get_about()), styled(command.get_long_about()), styled(command.get_after_help()));
    let mut command = command;
    if command.get_name() == "keyward" {
        // Leaked once in a process, because the parser needs a `'static` name.
        let name: &'static str = product.name.clone().leak();
        command = command.name(name).bin_name(name);
    }
    if let Some(about) = about {
        command = command.about(about);
    }
    if let Some(long) = long {
        command = command.long_about(long);
    }
    if let Some(after) = after {
        command = command.after_help(after);
    }
    command
        .mut_args(|arg| {
            let help = arg.get_help().map(|help| rename(help.to_string()));
            let long = arg.get_long_help().map(|help| rename(help.to_string()));
            let arg = if let Some(help) = help { arg.help(help) } else { arg };
            if let Some(long) = long { arg.long_help(long) } else { arg }
        })
        .mut_subcommands(|command| named(command, product))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn every(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
        visit(command);
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            every(inner, visit);
        }
    }

    #[test]
    fn the_command_lines_are_consistent() {
        for name in ["keyward", "norrix"] {
            let mut command = command_line(&Product::of(Some(OsStr::new(name))));
            command.clone().debug_assert();
            command.build();
            every(&command, &mut |command| {
                let help = command.clone().render_long_help().to_string();
                let is_leaf = command.get_subcommands().next().is_none();
                assert!(!is_leaf || help.contains("Examples:"), "{} has no example", command.get_name());
                assert!(name == "keyward" || !help.to_lowercase().contains("keyward"), "{help}");
            });
        }
    }
}
