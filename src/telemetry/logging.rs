//! The log subscriber.

use std::collections::HashMap;

use tracing_subscriber::EnvFilter;

/// The log settings of `KEYWARD_LOG` and `KEYWARD_LOG_FORMAT`.
pub struct Logging {
    filter: EnvFilter,
    json: bool,
}

impl Logging {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    ///
    /// A message for each invalid setting.
    pub fn read(environment: &HashMap<String, String>) -> Result<Self, Vec<String>> {
        let filter = environment.get("KEYWARD_LOG").map_or("info,sqlx=warn", String::as_str);
        let filter = EnvFilter::try_new(filter).map_err(|error| format!("KEYWARD_LOG: {error}"));
        let json = match environment.get("KEYWARD_LOG_FORMAT").map(String::as_str) {
            Some("json") => Ok(true),
            Some("text") | None => Ok(false),
            Some(_) => Err("KEYWARD_LOG_FORMAT: must be \"text\" or \"json\"".to_owned()),
        };
        match (filter, json) {
            (Ok(filter), Ok(json)) => Ok(Self { filter, json }),
            (filter, json) => Err(filter.err().into_iter().chain(json.err()).collect()),
        }
    }

    /// Installs the subscriber, which logs to standard error.
    pub fn start(self) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(std::io::stderr);
        if self.json {
            builder.json().flatten_event(true).init();
        } else {
            builder.with_ansi(false).init();
        }
    }
}
