//! Events: the entries of the audit log, which are also what webhooks receive.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use uuid::Uuid;

use super::{
    clock::{Micros, SECOND},
    key::KeyRecord,
    typeid,
};

const TYPE_PREFIX: &str = "evt_";

/// An event's id: a UUIDv7, shown as a TypeID (`evt_01h455vb4pex5vsknk084sn02q`). The event of a creation has the UUID of
/// its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub Uuid);

impl EventId {
    /// When the event happened: the time within the id, in whole milliseconds.
    pub fn at(self) -> Micros {
        let millis = i64::try_from(self.0.as_u128() >> 80).unwrap_or(i64::MAX);
        millis.saturating_mul(1_000)
    }

    /// The lowest id of events at or after `at`: the ids below it are those of events before `at`.
    pub fn lowest(at: Micros) -> Self {
        let millis = at.max(0).saturating_add(999) / 1_000;
        let millis = u128::try_from(millis).unwrap_or(0).min((1 << 48) - 1);
        Self(Uuid::from_u128(millis << 80))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&typeid::format(TYPE_PREFIX, self.0))
    }
}

/// The text is not an event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an event id such as evt_01h455vb4pex5vsknk084sn02q")]
pub struct NotAnEventId;

impl FromStr for EventId {
    type Err = NotAnEventId;

    fn from_str(text: &str) -> Result<Self, NotAnEventId> {
        typeid::parse(TYPE_PREFIX, text).map(Self).ok_or(NotAnEventId)
    }
}

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A key was created.
    KeyCreated,
    /// A key was revoked.
    KeyRevoked,
    /// A key is about to expire.
    KeyExpiring,
    /// A key has expired.
    KeyExpired,
    /// The rate limit of a key refused a check; at most once a window.
    KeyRateLimited,
    /// A key's webhook or its signing secret was set, changed or removed.
    WebhookUpdated,
    /// A key's webhook signs with a new secret, and its URL is unchanged.
    WebhookRotated,
    /// A key's webhook was removed because its receiver answered 410 Gone.
    WebhookDisabled,
    /// A caller requested that an event is delivered again.
    EventRedelivered,
    /// Calls of one caller were denied.
    CallDenied,
    /// Credentials from one address were refused.
    AuthenticationFailed,
    /// A caller signed in.
    SignedIn,
    /// A caller ended its sign-in.
    SignedOut,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::KeyCreated,
        Self::KeyRevoked,
        Self::KeyExpiring,
        Self::KeyExpired,
        Self::KeyRateLimited,
        Self::WebhookUpdated,
        Self::WebhookRotated,
        Self::WebhookDisabled,
        Self::EventRedelivered,
        Self::CallDenied,
        Self::AuthenticationFailed,
        Self::SignedIn,
        Self::SignedOut,
    ];

    /// The name on the wire and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyCreated => "key.created",
            Self::KeyRevoked => "key.revoked",
            Self::KeyExpiring => "key.expiring",
            Self::KeyExpired => "key.expired",
            Self::KeyRateLimited => "key.rate_limited",
            Self::WebhookUpdated => "webhook.updated",
            Self::WebhookRotated => "webhook.rotated",
            Self::WebhookDisabled => "webhook.disabled",
            Self::EventRedelivered => "event.redelivered",
            Self::CallDenied => "call.denied",
            Self::AuthenticationFailed => "authentication.failed",
            Self::SignedIn => "session.signed_in",
            Self::SignedOut => "session.signed_out",
        }
    }

    /// Whether it is sent to webhooks. The others are in the audit log only.
    pub const fn is_for_webhooks(self) -> bool {
        match self {
            Self::KeyCreated
            | Self::KeyRevoked
            | Self::KeyExpiring
            | Self::KeyExpired
            | Self::KeyRateLimited
            | Self::WebhookUpdated
            | Self::WebhookRotated => true,
            Self::WebhookDisabled
            | Self::EventRedelivered
            | Self::CallDenied
            | Self::AuthenticationFailed
            | Self::SignedIn
            | Self::SignedOut => false,
        }
    }

    /// The type that a webhook's receiver gets. A rotation is sent as `webhook.updated`, as it was before
    /// `webhook.rotated` existed.
    pub const fn webhook_type(self) -> &'static str {
        match self {
            Self::WebhookRotated => Self::WebhookUpdated.name(),
            other => other.name(),
        }
    }

    /// The type with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The actor of events that no call caused.
pub const SYSTEM: &str = "keyward";

/// When events of expiring keys are written, and how long events are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRules {
    /// How long before its expiry a key has a `key.expiring` event: whole seconds, ascending, without duplicates.
    pub expiring_before: Vec<Micros>,
    /// How long events are kept.
    pub retention: Micros,
    /// How often events that are summed up are written.
    pub summary_period: Duration,
}

impl Default for EventRules {
    fn default() -> Self {
        let day = 86_400 * SECOND;
        Self { expiring_before: vec![day, 7 * day], retention: 90 * day, summary_period: Duration::from_mins(1) }
    }
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The id, which also gives the event's time and its position in the order of events.
    pub id: EventId,
    /// The type.
    pub kind: EventType,
    /// Who caused it: `root`, `key:<id>`, `user:<subject>`, `san:<name>`, `system:<user>`, `public`, or [`SYSTEM`].
    pub actor: String,
    /// What identifies an event that is written only once: the seconds before the expiry (0 at the expiry itself), or the
    /// start of the rate limit's window in unix microseconds.
    pub once: Option<i64>,
    /// The key's public record right after the change; none for an event that is about no key. What is not public is blank:
    /// the digest is zeros, the revision and the version of the webhook secret are 0, and the last use is none.
    pub key: Option<KeyRecord>,
    /// Details, in addition to the key.
    pub details: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        clock::{Clock as _, SystemClock, SystemEntropy},
        key::KeyIdGenerator,
    };

    #[test]
    fn names_round_trip_and_differ() {
        for kind in EventType::ALL {
            assert_eq!(EventType::of_name(kind.name()), Some(kind));
        }
        assert_eq!(EventType::of_name("key.deleted"), None);
    }

    #[test]
    fn an_id_holds_its_time() {
        let before = SystemClock.wall();
        let id = EventId(KeyIdGenerator::default().next(&SystemClock, &SystemEntropy).0);
        assert!((before - 1_000..=SystemClock.wall()).contains(&id.at()), "{} {before}", id.at());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("evt_"));
        assert_eq!("key_01h455vb4pex5vsknk084sn02q".parse::<EventId>(), Err(NotAnEventId));
    }

    proptest! {
        #[test]
        fn the_lowest_id_of_a_time_separates_earlier_events_from_later_ones(
            millis in 0_i64..1 << 47, tail in 0_u128..1 << 80, at in 0_i64..1_000 << 47,
        ) {
            let id = EventId(Uuid::from_u128(u128::try_from(millis).unwrap() << 80 | tail));
            prop_assert_eq!(id.at(), millis * 1_000);
            prop_assert_eq!(id < EventId::lowest(at), id.at() < at);
        }
    }
}
