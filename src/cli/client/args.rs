//! Arguments of the commands for people and pipelines. `keyward` in a help text stands for the name of the product.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use super::{candidates, environment::Flags, output::Format};

/// Flags of every command.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// The environment: each has its own address, session and organization [env: KEYWARD_ENV] [default: prod]
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCandidates::new(candidates::environments))]
    pub env: Option<String>,
    /// The same as --env dev
    #[arg(long, global = true, conflicts_with = "env")]
    pub dev: bool,
    /// Where the service is [env: KEYWARD_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// The organization, for this command alone [env: KEYWARD_ORG]
    #[arg(long, global = true, value_name = "ORG", add = ArgValueCandidates::new(candidates::organizations))]
    pub org: Option<String>,
    /// The format of the result
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Says nothing but the result and what is wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// How long to keep trying, such as 30s or 5m [default: 60s; login: 5m]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Answers every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
}

impl Global {
    /// Whether any flag is given.
    pub fn is_given(&self) -> bool {
        self.env.is_some()
            || self.dev
            || self.url.is_some()
            || self.org.is_some()
            || self.output.is_some()
            || self.quiet
            || self.timeout.is_some()
            || self.yes
    }

    /// These flags, with those before the command for each that is not given here.
    pub fn or(self, outer: Self) -> Self {
        let own = self.env.is_some() || self.dev;
        Self {
            env: if own { self.env } else { outer.env },
            dev: if own { self.dev } else { outer.dev },
            url: self.url.or(outer.url),
            org: self.org.or(outer.org),
            output: self.output.or(outer.output),
            quiet: self.quiet || outer.quiet,
            timeout: self.timeout.or(outer.timeout),
            yes: self.yes || outer.yes,
        }
    }
}

impl From<Global> for Flags {
    fn from(global: Global) -> Self {
        let Global { env, dev, url, org: organization, output, quiet, timeout, yes } = global;
        let environment = env.or_else(|| dev.then(|| "dev".to_owned()));
        Self { environment, url, organization, output, quiet, timeout, yes }
    }
}

/// The commands for people and pipelines.
#[derive(Subcommand)]
pub enum Command {
    /// Signs in with a browser
    ///
    /// The address of the service is kept for the environment.
    #[command(
        visible_alias = "sign-in",
        after_help = "Examples:\n  keyward login https://keys.example.com\n  keyward login https://dev.example.com --dev\n  \
                      keyward login --device"
    )]
    Login(Login),
    /// Forgets the session of the environment
    #[command(visible_alias = "sign-out", after_help = "Examples:\n  keyward logout\n  keyward logout --dev")]
    Logout(NoArguments),
    /// Shows who you are, by session or by key
    #[command(after_help = "Examples:\n  keyward whoami\n  KEYWARD_API_KEY=… keyward whoami -o json")]
    Whoami(NoArguments),
    /// Your organizations
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Orgs(Orgs),
    /// API keys
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Keys(Keys),
    /// The audit log, and the deliveries of its events to webhooks
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Events(Events),
    /// Writes the completions of a shell, also of ids and organizations
    #[command(after_help = "Examples:\n  source <(keyward completions bash)\n  source <(keyward completions zsh)\n  \
                      keyward completions fish | source")]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: String,
    },
    /// Writes manual pages into a folder
    #[command(after_help = "Examples:\n  keyward man /usr/local/share/man/man1")]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

impl Command {
    /// The flags that are given with the command.
    pub fn global(&self) -> Global {
        match self {
            Self::Login(login) => login.global.clone(),
            Self::Logout(alone) | Self::Whoami(alone) => alone.global.clone(),
            Self::Orgs(orgs) => orgs.global.clone(),
            Self::Keys(keys) => keys.global.clone(),
            Self::Events(events) => events.global.clone(),
            Self::Completions { .. } | Self::Man { .. } => Global::default(),
        }
    }
}

/// A command without arguments of its own.
#[derive(Args)]
pub struct NoArguments {
    #[command(flatten)]
    pub global: Global,
}

#[derive(Args)]
pub struct Login {
    /// Where the service is, such as https://keys.example.com
    #[arg(value_name = "URL")]
    pub address: Option<String>,
    /// Prints the address to open instead of opening a browser on this machine
    #[arg(long)]
    pub no_browser: bool,
    /// Signs in with a code on any other device
    #[arg(long, conflicts_with = "no_browser")]
    pub device: bool,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Args)]
pub struct Orgs {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: OrgsCommand,
}

#[derive(Subcommand)]
pub enum OrgsCommand {
    /// Lists your organizations; the current one is marked
    #[command(after_help = "Examples:\n  keyward orgs list\n  keyward orgs list -o id")]
    List,
    /// Chooses the organization for the commands that follow
    #[command(after_help = "Examples:\n  keyward orgs select\n  keyward orgs select org_abc123")]
    Select {
        /// Asked for if left out
        #[arg(add = ArgValueCandidates::new(candidates::organizations))]
        organization: Option<String>,
    },
    /// Prints the current organization
    #[command(after_help = "Examples:\n  keyward orgs current")]
    Current,
}

#[derive(Args)]
pub struct Keys {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Makes a key and prints its secret, this once
    ///
    /// The secret alone goes to standard output, everything else to standard error.
    #[command(
        after_help = "Examples:\n  KEY=$(keyward keys create ci --scope build)\n  keyward keys create deploy --scope submit \
                      --scope update --expires 90d\n  keyward keys create --rotate key_01h455vb4pex5vsknk084sn02q"
    )]
    Create(Create),
    /// Lists keys, newest first
    #[command(after_help = "Examples:\n  keyward keys list\n  keyward keys list --status active --all -o jsonl\n  \
                      keyward keys list -o id --limit 10")]
    List(List),
    /// Shows a key
    #[command(after_help = "Examples:\n  keyward keys get key_01h455vb4pex5vsknk084sn02q")]
    Get {
        #[arg(value_name = "ID", add = ArgValueCandidates::new(candidates::keys))]
        id: String,
    },
    /// Revokes keys, on every replica, for good
    ///
    /// It returns once the keys are certain to be dead everywhere.
    #[command(after_help = "Examples:\n  keyward keys revoke key_01h455vb4pex5vsknk084sn02q\n  \
                      keyward keys revoke key_01h455vb4pex5vsknk084sn02q --reason leaked --yes")]
    Revoke(Revoke),
    /// Verifies a secret that it reads from standard input
    ///
    /// For operators and services. Exits with 3 if the verdict is not VALID.
    #[command(after_help = "Examples:\n  printf %s \"$SECRET\" | keyward keys verify --scope build")]
    Verify(Verify),
    /// Changes the webhook of a key; an empty URL removes it
    #[command(
        after_help = "Examples:\n  keyward keys webhook key_01h455vb4pex5vsknk084sn02q https://hooks.example.com/keys\n  \
                      keyward keys webhook key_01h455vb4pex5vsknk084sn02q \"\""
    )]
    Webhook {
        #[arg(value_name = "ID", add = ArgValueCandidates::new(candidates::keys))]
        id: String,
        #[arg(value_name = "URL")]
        webhook: String,
    },
}

#[derive(Args)]
pub struct Create {
    /// What the key is for, such as "GitHub Actions"
    #[arg(value_name = "NAME", required_unless_present = "rotate")]
    pub name: Option<String>,
    /// A scope; may be given several times, or several separated by commas
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', add = ArgValueCandidates::new(candidates::scopes))]
    pub scopes: Vec<String>,
    /// When it expires: 90d, 12h, or a date such as 2030-12-31
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// The product's instance that the key is for
    #[arg(long)]
    pub instance: Option<String>,
    /// The product's environment that the key is for, such as sandbox
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// The keyspace, if there are several
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(candidates::keyspaces))]
    pub keyspace: Option<String>,
    /// The URL that events of the key are sent to
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// A free-form pair; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub metadata: Vec<String>,
    /// Makes the successor of this key, with the same scopes and binding
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(candidates::keys))]
    pub rotate: Option<String>,
}

/// How much of a list.
#[derive(Args)]
pub struct Extent {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

#[derive(Args)]
pub struct List {
    /// active, revoked or expired
    #[arg(long, value_parser = ["active", "revoked", "expired"])]
    pub status: Option<String>,
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(candidates::keyspaces))]
    pub keyspace: Option<String>,
    #[arg(long)]
    pub instance: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// Who made them, such as user:olga
    #[arg(long, value_name = "CALLER")]
    pub created_by: Option<String>,
    #[command(flatten)]
    pub extent: Extent,
}

#[derive(Args)]
pub struct Revoke {
    #[arg(value_name = "ID", required = true, add = ArgValueCandidates::new(candidates::keys))]
    pub ids: Vec<String>,
    /// Why, for the record
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Args)]
pub struct Verify {
    /// A scope that the key must have; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    pub scopes: Vec<String>,
    #[arg(long)]
    pub instance: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub keyspace: Option<String>,
    /// What to spend of the key's rate limit
    #[arg(long)]
    pub cost: Option<u32>,
}

#[derive(Args)]
pub struct Events {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: EventsCommand,
}

#[derive(Subcommand)]
pub enum EventsCommand {
    /// Lists events, newest first
    #[command(
        after_help = "Examples:\n  keyward events list\n  keyward events list --type key.revoked --since 2026-01-01 --all"
    )]
    List(ListEvents),
    /// Shows the deliveries of an event to its webhook
    #[command(after_help = "Examples:\n  keyward events deliveries evt_01h455vb4pex5vsknk084sn02q")]
    Deliveries {
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Delivers an event to its webhook again
    #[command(after_help = "Examples:\n  keyward events redeliver evt_01h455vb4pex5vsknk084sn02q")]
    Redeliver {
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Args)]
pub struct ListEvents {
    /// Such as key.created or key.revoked
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Of this key
    #[arg(long, value_name = "ID", add = ArgValueCandidates::new(candidates::keys))]
    pub key: Option<String>,
    /// By this caller, such as user:olga
    #[arg(long, value_name = "CALLER")]
    pub actor: Option<String>,
    /// At this time or later: 2026-01-31, or a time in RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(candidates::keyspaces))]
    pub keyspace: Option<String>,
    #[command(flatten)]
    pub extent: Extent,
}
