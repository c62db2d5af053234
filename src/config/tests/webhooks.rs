use std::time::Duration;

use super::{environment, problems, valid_config};
use crate::{
    config::{Flags, parse},
    domain::{clock::SECOND, egress::Egress, event::EventRules, webhook::DEFAULT_RETRIES},
};

#[test]
fn by_default_webhooks_go_to_public_addresses_over_https() {
    let webhooks = valid_config("").webhooks;
    assert_eq!(webhooks.egress, Egress::default());
    assert!(webhooks.deliver && !webhooks.egress.allow_http && webhooks.egress.allow_cidrs.is_empty());
    assert!(webhooks.egress.deny_ports.contains(&5_432));
    assert_eq!((webhooks.timeout, webhooks.retries.as_slice()), (Duration::from_secs(15), &DEFAULT_RETRIES[..]));
    let webhooks = valid_config(
        "[webhooks]\nallow_http = true\nallow_cidrs = [\"127.0.0.0/8\", \"::1\"]\ndeny_ports = [25, 22]\ntimeout = \"2s\"\n\
         retries = [\"5s\", \"1m\"]\nconcurrency = 8\nper_host = 2",
    )
    .webhooks;
    let allowed = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert_eq!((webhooks.egress.allow_cidrs.as_slice(), webhooks.egress.deny_ports), (&allowed[..], vec![22, 25]));
    assert_eq!((webhooks.timeout, webhooks.retries), (Duration::from_secs(2), vec![5 * SECOND, 60 * SECOND]));
    assert_eq!((webhooks.egress.allow_http, webhooks.concurrency, webhooks.per_host), (true, 8, 2));
    let variable = environment(&[("KEYWARD_WEBHOOKS_DELIVER", "false")]);
    let text = "[webhooks]\ndeliver = true";
    assert!(!parse("f", text, &Flags::default(), &variable).unwrap().webhooks.deliver);
}

#[test]
fn each_setting_of_webhooks_is_checked() {
    let text = "[webhooks]\nallow_http = 1\nallow_cidrs = [\"all\"]\ndeny_ports = [0]\ntimeout = \"2m\"\nretries = [\"8d\"]\n\
                concurrency = 0\nper_host = 0\nproxy = \"x\"";
    assert_eq!(
        problems(text),
        [
            "2: webhooks.allow_http: must be true or false, not an integer",
            "3: webhooks.allow_cidrs: \"all\" is not a network such as 10.0.0.0/8",
            "4: webhooks.deny_ports: each must be 1 to 65535",
            "5: webhooks.timeout: must be a length of time from 100ms to 60s",
            "6: webhooks.retries: each must be a length of time up to 7d, such as \"5s\" or \"2h\"",
            "7: webhooks.concurrency: must be 1 to 4096",
            "8: webhooks.per_host: must be 1 to 1024",
            "9: webhooks.proxy: unknown setting",
        ]
    );
}

#[test]
fn the_settings_of_events_are_read_and_checked() {
    const DAY: i64 = 86_400 * SECOND;
    assert_eq!(valid_config("").events, EventRules::default());
    assert_eq!(
        valid_config("").events,
        EventRules { expiring_before: vec![DAY, 7 * DAY], retention: 90 * DAY, summary_period: Duration::from_mins(1) }
    );
    let events = valid_config(
        "[events]\nexpiring_before = [\"30d\", \"1m\", \"30d\"]\nretention = \"1d\"\nsummary_period = \"5s\"",
    )
    .events;
    assert_eq!(
        events,
        EventRules {
            expiring_before: vec![60 * SECOND, 30 * DAY],
            retention: DAY,
            summary_period: Duration::from_secs(5),
        }
    );
    assert!(valid_config("[events]\nexpiring_before = []").events.expiring_before.is_empty());
    assert_eq!(
        problems("[events]\nexpiring_before = [\"7d\", \"59s\"]\nretention = \"1h\"\nkeep = 1"),
        [
            "2: events.expiring_before: each must be whole seconds, from 1m to 365d, such as \"7d\"",
            "3: events.retention: must be a length of time from 1d to 3650d",
            "4: events.keep: unknown setting",
        ]
    );
}
