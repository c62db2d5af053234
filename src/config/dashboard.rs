//! `[dashboard]`: the pages for people.

use std::time::Duration;

use url::Url;

use super::{
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::{clock::micros, dashboard::SessionLifetimes};

/// The table.
pub const TABLE: Table = Table {
    name: "dashboard",
    list: false,
    help: "The dashboard: see docs/dashboard.md.",
    settings: &[ENABLED, URL, IDLE_TIMEOUT, SESSION_LIFETIME],
    tables: &[],
};

const ENABLED: Setting =
    Setting::new("enabled", "true", "Whether `/dashboard` is there.").variable("KEYWARD_DASHBOARD_ENABLED");

const URL: Setting = Setting::unset(
    "url",
    "on this machine, the address that the browser uses",
    "\"https://keys.example.com\"",
    "The address of the dashboard as browsers see it. Issuers send people back to `/dashboard/sign-in/callback` there, so \
     signing in at an issuer needs it, unless the browser is on this machine.",
)
.variable("KEYWARD_DASHBOARD_URL");

const IDLE_TIMEOUT: Setting =
    Setting::new("idle_timeout", "\"8h\"", "When a session of the dashboard ends if it is not used, 1m to 30d.");

const SESSION_LIFETIME: Setting =
    Setting::new("session_lifetime", "\"7d\"", "When a session of the dashboard ends although it is used, 1m to 90d.");

/// `[dashboard]`
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Whether there is one.
    pub enabled: bool,
    /// Its address as browsers see it, without a path.
    pub url: Option<Url>,
    /// How long sessions last.
    pub lifetimes: SessionLifetimes,
}

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<Dashboard> {
    let enabled = section.parsed_boolean(&ENABLED, |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    });
    let url = section.parsed(&URL, origin);
    let day = Duration::from_hours(24);
    let minute = Duration::from_mins(1);
    let idle = section.duration_within(&IDLE_TIMEOUT, minute..=30 * day, "must be a length of time from 1m to 30d");
    let absolute =
        section.duration_within(&SESSION_LIFETIME, minute..=90 * day, "must be a length of time from 1m to 90d");
    let lifetimes = SessionLifetimes { idle: micros(idle?), absolute: micros(absolute?) };
    Some(Dashboard { enabled: enabled?, url, lifetimes })
}

fn origin(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare && anonymous
    });
    url.ok_or_else(|| "must be an http or https URL without a path, such as https://keys.example.com".to_owned())
}
