//! The commands of the server: arguments → configuration → `app` → exit code.

use std::{collections::HashMap, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use keyward::{
    agent, app,
    config::{self, Config, Flags},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The commands of the server.
#[derive(Subcommand)]
pub enum Command {
    /// Runs the service; applies migrations first
    #[command(after_help = "Examples:\n  keyward serve\n  keyward serve --config /etc/keyward.toml")]
    Serve(Settings),
    /// Answers Verify and gateways' checks on this host, from memory, as strictly as a replica
    #[command(after_help = "The agent's own credential is in KEYWARD_AGENT_CREDENTIAL, or else KEYWARD_API_KEY.\n\n\
        Examples:\n  keyward agent --upstream https://keyward.internal:50051 --listen unix:/run/keyward.sock\n  \
        keyward agent --upstream https://a:50051 --upstream https://b:50051 --listen 127.0.0.1:50052")]
    Agent(agent::Flags),
    /// Applies migrations and exits
    #[command(after_help = "Examples:\n  keyward migrate --database-url postgres://keyward@db/keyward")]
    Migrate(Settings),
    /// Looks at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes a root key in the database itself and prints it: the remedy for a lost one
    #[command(after_help = "Examples:\n  keyward root-key --config /etc/keyward.toml")]
    RootKey(Settings),
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Loads the configuration and prints every problem; exits 1 if there is any
    #[command(after_help = "Examples:\n  keyward config check --config keyward.toml")]
    Check(Settings),
    /// Prints every setting that counts and where it comes from; secrets are hidden
    #[command(after_help = "Examples:\n  keyward config show --config keyward.toml")]
    Show(Settings),
}

#[derive(Args)]
pub struct Settings {
    /// The TOML file [env: KEYWARD_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// sqlite://FILE or postgres://… [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Where gRPC listens [env: KEYWARD_GRPC_ADDR]
    #[arg(long, value_name = "ADDRESS")]
    grpc_addr: Option<String>,
    /// Where REST listens [env: KEYWARD_HTTP_ADDR]
    #[arg(long, value_name = "ADDRESS")]
    http_addr: Option<String>,
    /// Speaks plain text also beyond this machine [env: KEYWARD_INSECURE]
    #[arg(long)]
    insecure: bool,
}

/// Problems, one line each.
type Problems = Vec<String>;

/// Runs a command of the server.
pub fn run(command: Command) -> ExitCode {
    match dispatch(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            telemetry::print_problems(problems);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Problems> {
    match command {
        Command::Serve(settings) => {
            let (config, _log) = start(settings)?;
            block_on(async { Box::pin(app::run(config, stop_on_signals()?)).await.map_err(|error| error.to_string()) })
        }
        Command::Agent(flags) => {
            let environment = environment();
            let log = telemetry::Logging::read(&environment)?.start();
            let _log = log.map_err(|error| vec![format!("the log did not start: {error}")])?;
            let settings = agent::Settings::read(&flags, &environment)?;
            app::protect_memory_unless(environment.get("KEYWARD_DUMPABLE").is_some_and(|text| text == "true"));
            block_on(async { Box::pin(agent::run(settings, stop_on_signals()?)).await })
        }
        Command::Migrate(settings) => {
            let (config, _log) = start(settings)?;
            block_on(async { app::migrate(&config).await.map_err(|error| error.to_string()) })?;
            println!("migrations are applied");
            Ok(())
        }
        Command::Config(ConfigCommand::Check(settings)) => {
            let environment = environment();
            let logging = telemetry::Logging::read(&environment).map(drop);
            let checked = load(settings, &environment).and_then(|config| {
                for warning in warnings(&config, &environment) {
                    eprintln!("warning: {warning}");
                }
                app::check(&config)
            });
            match (checked, logging) {
                (Ok(()), Ok(())) => {
                    println!("the configuration is good");
                    Ok(())
                }
                (checked, logging) => Err([checked, logging].into_iter().filter_map(Result::err).flatten().collect()),
            }
        }
        Command::Config(ConfigCommand::Show(settings)) => {
            let shown = config::show(&settings.into(), &environment())?;
            // A closed pipe is no error.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), shown.as_bytes());
            Ok(())
        }
        Command::RootKey(settings) => {
            let (config, _log) = start(settings)?;
            let secret = block_on(async { app::root_key(&config).await.map_err(|error| error.to_string()) })?;
            println!("{}", secret.expose());
            Ok(())
        }
    }
}

/// Starts the log, which runs until what is returned is dropped, and loads the configuration.
fn start(settings: Settings) -> Result<(Config, telemetry::LogGuard), Problems> {
    let environment = environment();
    let log = telemetry::Logging::read(&environment)?.start();
    let log = log.map_err(|error| vec![format!("the log did not start: {error}")])?;
    let config = load(settings, &environment)?;
    for warning in warnings(&config, &environment) {
        tracing::warn!("{warning}");
    }
    Ok((config, log))
}

/// Warnings about settings that are valid but rarely intended.
fn warnings(config: &Config, environment: &HashMap<String, String>) -> Vec<String> {
    [config.warnings.clone(), config::warnings(config, environment), app::file_warnings(config)].concat()
}

/// The environment. Variables that are set to the empty string count as unset: Compose and systemd pass them so.
fn environment() -> HashMap<String, String> {
    // A value that is not UTF-8 is kept in a lossy form and refused when it is read. Leaving it out would silently mean
    // the default.
    let readable =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned()));
    std::env::vars_os().filter_map(readable).filter(|(_, value)| !value.is_empty()).collect()
}

fn load(settings: Settings, environment: &HashMap<String, String>) -> Result<Config, Problems> {
    config::load(&settings.into(), environment)
}

impl From<Settings> for Flags {
    fn from(settings: Settings) -> Self {
        let Settings { config, database_url, grpc_addr, http_addr, insecure } = settings;
        Self { config, database_url, grpc_addr, http_addr, insecure }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, Problems> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| vec![format!("the runtime did not start: {error}")])?;
    let done = runtime.block_on(work).map_err(|problem| vec![problem]);
    // Tasks that still run wait for a peer that does not answer, such as a resolver. The process does not wait for
    // them.
    runtime.shutdown_background();
    done
}

/// A token that the first SIGTERM or SIGINT cancels; a second one ends the process at once. SIGHUP does not end the
/// process: with TLS, it reloads the certificate files.
fn stop_on_signals() -> Result<CancellationToken, String> {
    let stop = CancellationToken::new();
    // A signal that was handled once no longer ends the process, even after its handler is dropped.
    drop(signal(SignalKind::hangup()).map_err(|error| format!("signals cannot be handled: {error}"))?);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|error| format!("signals cannot be handled: {error}"))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
            signals.recv().await;
            std::process::exit(1);
        });
    }
    Ok(stop)
}
