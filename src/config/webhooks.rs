//! `[webhooks]`: where deliveries may go, and how they are made.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;

use super::{Source, reader::Section};
use crate::domain::{
    clock::Micros,
    egress::{DENIED_PORTS, Egress},
    webhook::DEFAULT_RETRIES,
};

/// `[webhooks]`
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Whether this replica delivers.
    pub deliver: bool,
    /// Where deliveries may go.
    pub egress: Egress,
    /// How long an attempt may take in all.
    pub timeout: Duration,
    /// The waits after the first attempt and each further one; after the last of them comes the last attempt.
    pub retries: Vec<Micros>,
    /// Attempts of this replica at the same time.
    pub concurrency: usize,
    /// Attempts of this replica at the same time, to one host.
    pub per_host: usize,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            deliver: true,
            egress: Egress::default(),
            timeout: Duration::from_secs(15),
            retries: DEFAULT_RETRIES.to_vec(),
            concurrency: 64,
            per_host: 4,
        }
    }
}

/// Retries of a delivery, and the longest wait for one.
const MOST_RETRIES: usize = 30;
const LONGEST_WAIT: Duration = Duration::from_hours(7 * 24);

/// Reads the section.
pub fn read(section: &Section<'_>, source: &Source<'_>) -> Webhooks {
    let default = Webhooks::default();
    let count = |name, bounds| section.number(name, bounds).and_then(|count| usize::try_from(count).ok());
    let in_file = section.flag("deliver");
    let variable = source.variable("KEYWARD_WEBHOOKS_DELIVER", |text| {
        text.parse::<bool>().map_err(|_| "must be true or false".to_owned())
    });
    Webhooks {
        deliver: variable.or(in_file).unwrap_or(default.deliver),
        egress: Egress {
            allow_http: section.flag("allow_http").unwrap_or(false),
            allow_cidrs: networks(section, "allow_cidrs"),
            deny_ports: ports(section),
        },
        timeout: timeout(section).unwrap_or(default.timeout),
        retries: retries(section).unwrap_or(default.retries),
        concurrency: count("concurrency", 1..=4_096).unwrap_or(default.concurrency),
        per_host: count("per_host", 1..=1_024).unwrap_or(default.per_host),
    }
}

/// Networks, or single addresses.
pub fn networks(section: &Section<'_>, name: &'static str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in section.texts(name).unwrap_or_default() {
        match text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network),
            Err(_) => section.problem(name, format_args!("\"{text}\" is not a network such as 10.0.0.0/8")),
        }
    }
    networks
}

fn ports(section: &Section<'_>) -> Vec<u16> {
    let Some(numbers) = section.numbers("deny_ports", 1..=65_535) else { return DENIED_PORTS.to_vec() };
    let ports: BTreeSet<u16> = numbers.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
    ports.into_iter().collect()
}

fn timeout(section: &Section<'_>) -> Option<Duration> {
    let found = section.duration("timeout")?;
    if (Duration::from_millis(100)..=Duration::from_mins(1)).contains(&found.value) {
        return Some(found.value);
    }
    section.problem("timeout", "must be a length of time from 100ms to 60s");
    None
}

fn retries(section: &Section<'_>) -> Option<Vec<Micros>> {
    let texts = section.texts("retries")?;
    if texts.len() > MOST_RETRIES {
        section.problem("retries", format_args!("must be at most {MOST_RETRIES} lengths of time"));
        return None;
    }
    let read = |text: &String| {
        let wait = humantime::parse_duration(text).ok().filter(|wait| *wait <= LONGEST_WAIT)?;
        Micros::try_from(wait.as_micros()).ok()
    };
    let waits: Option<Vec<Micros>> = texts.iter().map(read).collect();
    if waits.is_none() {
        section.problem("retries", "each must be a length of time up to 7d, such as \"5s\" or \"2h\"");
    }
    waits
}
