//! Environments: each has its own address, tokens and chosen organization. Order of precedence: a flag, an environment
//! variable, the environment's file, the default.

use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{
    failure::{Failure, Result},
    files::PrivateFolder,
    output::Format,
    product::Product,
    screen::Screen,
};

const SETTINGS_FILE: &str = "settings.json";
/// The environment where none is named.
const DEFAULT_ENVIRONMENT: &str = "prod";
/// How long a command keeps trying.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

/// What an environment's file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Where the service is.
    pub url: Option<String>,
    /// The chosen organization.
    pub organization: Option<String>,
}

/// The flags of every command.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--env`, or `dev` for `--dev`
    pub environment: Option<String>,
    pub url: Option<String>,
    pub organization: Option<String>,
    pub output: Option<Format>,
    pub quiet: bool,
    pub timeout: Option<Duration>,
    pub yes: bool,
}

/// What a command runs with: its product, environment, flags and screen.
pub struct Environment {
    pub product: Product,
    pub screen: Screen,
    /// The environment's name.
    pub name: String,
    /// How long a command keeps trying; none if no flag was given.
    pub timeout: Option<Duration>,
    /// Whether questions are answered with yes.
    pub yes: bool,
    output: Option<Format>,
    url: Option<String>,
    organization: Option<String>,
    folder: Option<PrivateFolder>,
}

impl Environment {
    /// Reads flags and variables.
    ///
    /// # Errors
    ///
    /// The name of the environment is invalid.
    pub fn new(product: Product, flags: Flags) -> Result<Self> {
        let screen = Screen::new(&product.name, flags.quiet);
        let named = flags.environment.or_else(|| product.setting("ENV"));
        let name = match named.as_deref() {
            None | Some("production") => DEFAULT_ENVIRONMENT,
            Some(name) => name,
        };
        let valid = (1..=64).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
        if !valid {
            return Err(Failure::usage(format_args!(
                "\"{}\" is no name of an environment: 1 to 64 characters of [A-Za-z0-9._-]",
                super::text::escape(name)
            )));
        }
        let folder = product.folder().map(|folder| PrivateFolder::new(folder.join(name)));
        Ok(Self {
            url: flags.url.or_else(|| product.setting("URL")),
            organization: flags.organization.or_else(|| product.setting("ORG")),
            name: name.to_owned(),
            timeout: flags.timeout,
            yes: flags.yes,
            output: flags.output,
            product,
            screen,
            folder,
        })
    }

    /// The format of results.
    pub fn format(&self) -> Format {
        self.output.unwrap_or(Format::Table)
    }

    /// The format, if a flag names one.
    pub fn requested_format(&self) -> Option<Format> {
        self.output
    }

    /// How long the command keeps trying.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    /// The folder of the environment.
    ///
    /// # Errors
    ///
    /// The person has no home folder.
    pub fn folder(&self) -> Result<&PrivateFolder> {
        self.folder.as_ref().ok_or_else(|| Failure::new("there is no home folder: set HOME"))
    }

    /// The environment's file; empty if there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be trusted.
    pub fn settings(&self) -> Result<Settings> {
        let Some(folder) = &self.folder else { return Ok(Settings::default()) };
        let Some(read) = folder.read(SETTINGS_FILE)? else { return Ok(Settings::default()) };
        if let Some(warning) = read.warning {
            self.screen.warn(warning);
        }
        serde_json::from_str(&read.text).or_else(|_| {
            let file = folder.path().join(SETTINGS_FILE);
            self.screen.warn(format!("{} is damaged and is ignored", file.display()));
            Ok(Settings::default())
        })
    }

    /// Replaces the environment's file.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be written.
    pub fn write_settings(&self, settings: &Settings) -> Result {
        let text = serde_json::to_string_pretty(settings).unwrap_or_default();
        self.folder()?.write(SETTINGS_FILE, &(text + "\n"))
    }

    /// The URL of the service; none if it is not configured.
    ///
    /// # Errors
    ///
    /// The address is none.
    pub fn configured_url(&self) -> Result<Option<Url>> {
        let kept = match &self.url {
            Some(url) => Some(url.clone()),
            None => match self.settings()?.url {
                Some(url) => Some(url),
                None => self.product.ready_url(&self.name).map_err(Failure::new)?,
            },
        };
        kept.map(|url| parse_url(&url)).transpose()
    }

    /// Where the service is.
    ///
    /// # Errors
    ///
    /// No source names an address.
    pub fn url(&self) -> Result<Url> {
        self.configured_url()?.ok_or_else(|| {
            let name = &self.product.name;
            Failure::not_signed_in(format_args!("not signed in (environment {})", self.name))
                .hint(format_args!("Sign in with: {name} login URL{}", self.flag()))
                .hint(format_args!("Or set {} and {}.", self.product.variable("URL"), self.product.variable("API_KEY")))
        })
    }

    /// The key from the environment, which takes precedence over a session.
    pub fn api_key(&self) -> Option<String> {
        self.product.setting("API_KEY")
    }

    /// The chosen organization. The stored choice belongs to the session; it does not apply to a key, which has its own
    /// organization.
    ///
    /// # Errors
    ///
    /// The environment's file cannot be trusted.
    pub fn organization(&self) -> Result<Option<String>> {
        match &self.organization {
            Some(named) => Ok(Some(named.clone())),
            None if self.api_key().is_some() => Ok(None),
            None => Ok(self.settings()?.organization),
        }
    }

    /// The flag that names this environment, for commands to paste; empty for the default.
    pub fn flag(&self) -> String {
        if self.name == DEFAULT_ENVIRONMENT { String::new() } else { format!(" --env {}", self.name) }
    }
}

/// An address of a service.
///
/// # Errors
///
/// It is none.
pub fn parse_url(text: &str) -> Result<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&text).ok().filter(|url| {
        let plain = url.query().is_none() && url.fragment().is_none();
        plain && url.username().is_empty() && url.password().is_none() && matches!(url.scheme(), "http" | "https")
    });
    let mut url = url.filter(Url::has_host).ok_or_else(|| {
        Failure::usage(format_args!(
            "\"{}\" is no address such as https://keys.example.com",
            super::text::escape(&text)
        ))
    })?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}
