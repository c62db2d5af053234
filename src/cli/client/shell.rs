//! Completions and manual pages.

use std::{ffi::OsString, path::Path};

use clap_complete::{CompleteEnv, env::Shells};

use super::{
    failure::{Failure, Result},
    product::Product,
};

/// The variable that a shell sets to request completions.
const VARIABLE: &str = "COMPLETE";

/// Answers a shell that requests completions. Returns whether it did.
pub fn complete(product: &Product, command: impl Fn() -> clap::Command) -> bool {
    let completed = CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .bin(product.name.clone())
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref());
    completed.unwrap_or_else(|error| error.exit())
}

/// Writes the script that a shell has to load. The shell then calls this program for candidates, so that ids and
/// organizations are completed, too.
pub fn completions(product: &Product, shell: &str) -> Result {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(shell) else {
        let known = shells.names().collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format_args!("\"{}\" is not one of {known}", super::text::escape(shell))));
    };
    let program: OsString = std::env::args_os().next().unwrap_or_else(|| product.name.clone().into());
    let program = program.to_string_lossy();
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, &product.name, &product.name, &program, &mut script);
    written.map_err(|error| Failure::new(error.to_string()))?;
    std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(|error| Failure::output(&error))
}

/// Writes a manual page for each command.
pub fn man(command: clap::Command, folder: &Path) -> Result {
    let failed = |error: std::io::Error| Failure::new(format_args!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    // The version of a page names the program's own version alone, also under the name of a product.
    clap_mangen::generate_to(command.version(env!("CARGO_PKG_VERSION")), folder).map_err(failed)
}
