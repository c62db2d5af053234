//! The commands. Each file is one command or a few that belong together.

mod account;
mod events;
mod keys;
mod list;
mod login;
mod orgs;

use super::{
    args::{Command, EventsCommand, KeysCommand, OrgsCommand},
    environment::Environment,
    failure::Result,
};

/// Runs a command.
///
/// # Errors
///
/// Why it failed.
pub async fn run(environment: &Environment, command: Command) -> Result {
    match command {
        Command::Login(arguments) => login::login(environment, &arguments).await,
        Command::Logout(_) => account::logout(environment).await,
        Command::Whoami(_) => account::whoami(environment).await,
        Command::Orgs(orgs) => match orgs.command {
            OrgsCommand::List => orgs::list(environment).await,
            OrgsCommand::Select { organization } => orgs::select(environment, organization.as_deref()).await,
            OrgsCommand::Current => orgs::current(environment).await,
        },
        Command::Keys(keys) => match keys.command {
            KeysCommand::Create(arguments) => keys::create::create(environment, &arguments).await,
            KeysCommand::List(arguments) => keys::show::list(environment, &arguments).await,
            KeysCommand::Get { id } => keys::show::get(environment, &id).await,
            KeysCommand::Revoke(arguments) => keys::revoke::revoke(environment, &arguments).await,
            KeysCommand::Verify(arguments) => keys::verify::verify(environment, &arguments).await,
            KeysCommand::Webhook { id, webhook } => keys::webhook::webhook(environment, &id, &webhook).await,
        },
        Command::Events(events) => match events.command {
            EventsCommand::List(arguments) => events::list(environment, &arguments).await,
            EventsCommand::Deliveries { id } => events::deliveries(environment, &id).await,
            EventsCommand::Redeliver { id } => events::redeliver(environment, &id).await,
        },
        // These need no environment and are run before there is one.
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}
