//! `[webhooks]`: where webhook deliveries may go, and how they are attempted.

use std::{collections::BTreeSet, time::Duration};

use super::{
    section::Section,
    setting::{Setting, Table},
};
use crate::domain::{clock::Micros, egress::Egress};

/// The table.
pub const TABLE: Table = Table {
    name: "webhooks",
    list: false,
    help: "Where webhook deliveries may go, and how they are attempted.",
    settings: &[DELIVER, ALLOW_HTTP, ALLOW_CIDRS, DENY_PORTS, TIMEOUT, RETRIES, CONCURRENCY, PER_HOST],
    tables: &[],
};

const DELIVER: Setting =
    Setting::new("deliver", "true", "Whether this replica delivers webhooks; at least one replica must.")
        .variable("KEYWARD_WEBHOOKS_DELIVER");

const ALLOW_HTTP: Setting = Setting::new("allow_http", "false", "Allows webhooks at `http://` URLs.");

const ALLOW_CIDRS: Setting = Setting::new(
    "allow_cidrs",
    "[]",
    "Networks that webhooks may reach although they are not public, such as `[\"10.1.0.0/16\"]`.",
);

const DENY_PORTS: Setting = Setting::new(
    "deny_ports",
    "[1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, \
     109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 445, 465, 512, 513, 514, \
     515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1433, 1521, 1719, 1720, \
     1723, 2049, 2375, 2379, 3306, 3389, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, \
     6668, 6669, 6697, 9042, 10080, 11211, 27017]",
    "Ports that webhooks may not use: by default those of mail, remote shells, databases and the like.",
);

const TIMEOUT: Setting = Setting::new("timeout", "\"15s\"", "Timeout of one attempt as a whole, 100ms to 60s.");

const RETRIES: Setting = Setting::new(
    "retries",
    "[\"5s\", \"5m\", \"30m\", \"2h\", \"5h\", \"10h\", \"14h\", \"20h\", \"24h\"]",
    "Delays after each failed attempt, up to a tenth more or less; at most 30, each up to 7d. When all are used up, the \
     delivery has failed.",
);

const CONCURRENCY: Setting =
    Setting::new("concurrency", "64", "Maximum number of attempts that a replica has in flight, 1 to 4096.");

const PER_HOST: Setting =
    Setting::new("per_host", "4", "Maximum number of attempts that a replica has in flight to one host, 1 to 1024.");

/// `[webhooks]`
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Whether this replica delivers.
    pub deliver: bool,
    /// Where deliveries may go.
    pub egress: Egress,
    /// Timeout of one attempt as a whole.
    pub timeout: Duration,
    /// The delays after the first failed attempt and each further one. The attempt after the last delay is the last.
    pub retries: Vec<Micros>,
    /// Maximum number of attempts in flight on this replica.
    pub concurrency: usize,
    /// Maximum number of attempts in flight on this replica to one host.
    pub per_host: usize,
}

const MAX_RETRIES: usize = 30;
const MAX_RETRY_DELAY: Duration = Duration::from_hours(7 * 24);

/// Reads the table.
pub fn read(section: &Section<'_>) -> Option<Webhooks> {
    let deliver =
        section.parsed_boolean(&DELIVER, |text| text.parse::<bool>().map_err(|_| "must be true or false".to_owned()));
    let allow_http = section.boolean(&ALLOW_HTTP);
    let allow_cidrs = section.networks(&ALLOW_CIDRS);
    let deny_ports = deny_ports(section);
    let bounds = Duration::from_millis(100)..=Duration::from_mins(1);
    let timeout = section.duration_within(&TIMEOUT, bounds, "must be a length of time from 100ms to 60s");
    let retries = retries(section);
    let concurrency = section.number(&CONCURRENCY, 1..=4_096);
    let per_host = section.number(&PER_HOST, 1..=1_024);
    Some(Webhooks {
        deliver: deliver?,
        egress: Egress { allow_http: allow_http?, allow_cidrs: allow_cidrs?, deny_ports: deny_ports? },
        timeout: timeout?,
        retries: retries?,
        concurrency: concurrency?,
        per_host: per_host?,
    })
}

fn deny_ports(section: &Section<'_>) -> Option<Vec<u16>> {
    let numbers = section.numbers(&DENY_PORTS, 1..=65_535)?;
    let ports: BTreeSet<u16> = numbers.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
    Some(ports.into_iter().collect())
}

fn retries(section: &Section<'_>) -> Option<Vec<Micros>> {
    let texts = section.texts(&RETRIES)?;
    if texts.len() > MAX_RETRIES {
        section.problem(RETRIES.name, format_args!("must be at most {MAX_RETRIES} lengths of time"));
        return None;
    }
    let read = |text: &String| {
        let delay = humantime::parse_duration(text).ok().filter(|delay| *delay <= MAX_RETRY_DELAY)?;
        Micros::try_from(delay.as_micros()).ok()
    };
    let delays: Option<Vec<Micros>> = texts.iter().map(read).collect();
    if delays.is_none() {
        section.problem(RETRIES.name, "each must be a length of time up to 7d, such as \"5s\" or \"2h\"");
    }
    delays
}
