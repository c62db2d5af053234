//! The bound of every input, each refusal naming its field.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    clock::{Micros, SECOND},
    egress::Egress,
    error::{Error, FieldViolation, Result},
    key::Binding,
    rate_limit::RateLimit,
};

/// Characters in a name or a revocation reason.
pub const MAX_NAME_LEN: usize = 200;
/// Characters in an organization, instance or environment.
pub const MAX_BINDING_LEN: usize = 128;
/// Characters in a caller as records name it: `user:`, an issuer's prefix and a subject.
pub const MAX_ACTOR_LEN: usize = 5 + 64 + 255;
/// Scopes of a key, and of one check.
pub const MAX_SCOPES: usize = 64;
/// Characters in a scope.
pub const MAX_SCOPE_LEN: usize = 64;
/// Pairs of metadata.
pub const MAX_METADATA_PAIRS: usize = 32;
/// Bytes of metadata, keys and values together.
pub const MAX_METADATA_BYTES: usize = 4 * 1024;
/// The longest a key may live: ten calendar years, however many of them are leap years.
pub const MAX_LIFETIME: Micros = 3_653 * 86_400 * SECOND;
/// Keys on a page, at most; 0 asks for [`DEFAULT_PAGE_SIZE`].
pub const MAX_PAGE_SIZE: u32 = 1_000;
/// Keys on a page, when none is asked for.
pub const DEFAULT_PAGE_SIZE: u32 = 50;

/// Gathers every bad field, so that a caller hears of all at once.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes a bad field.
    pub fn add(&mut self, field: impl Into<Cow<'static, str>>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    /// Whether a field is noted already.
    pub fn has(&self, field: &str) -> bool {
        self.0.iter().any(|bad| bad.field == field)
    }

    /// Notes a bad field unless `good`.
    pub fn check(&mut self, good: bool, field: &'static str, description: &str) {
        if !good {
            self.add(field, description);
        }
    }

    /// An error with every bad field, if there is one.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.0)) }
    }

    /// A line of text for people: a name or a reason.
    pub fn line(&mut self, field: &'static str, text: &str) {
        self.check(within(text, MAX_NAME_LEN), field, "must be at most 200 characters");
        self.printable(field, text);
    }

    /// Organization, instance and environment; empty is none.
    pub fn binding(&mut self, binding: &Binding) {
        let Binding { organization, instance, environment } = binding;
        self.bound("organization", organization);
        self.bound("instance", instance);
        self.bound("environment", environment);
    }

    /// One part of a binding, or another short name.
    pub fn bound(&mut self, field: &'static str, text: &str) {
        self.check(within(text, MAX_BINDING_LEN), field, "must be 1 to 128 characters");
        self.printable(field, text);
    }

    /// A caller as records name it.
    pub fn actor(&mut self, field: &'static str, text: &str) {
        self.check(within(text, MAX_ACTOR_LEN), field, "must be at most 324 characters");
        self.printable(field, text);
    }

    fn printable(&mut self, field: &'static str, text: &str) {
        self.check(!text.contains(char::is_control), field, "must not hold control characters");
    }

    /// A list of scopes.
    pub fn scopes(&mut self, field: &'static str, scopes: &[String]) {
        self.check(scopes.len() <= MAX_SCOPES, field, "must be at most 64 scopes");
        let good = scopes.iter().all(|scope| {
            (1..=MAX_SCOPE_LEN).contains(&scope.len())
                && scope.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'-'))
        });
        self.check(good, field, "each scope must be 1 to 64 characters of [A-Za-z0-9._:-]");
    }

    /// Free-form pairs.
    pub fn metadata(&mut self, metadata: &BTreeMap<String, String>) {
        self.check(metadata.len() <= MAX_METADATA_PAIRS, "metadata", "must be at most 32 pairs");
        let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.check(bytes <= MAX_METADATA_BYTES, "metadata", "must be at most 4 KiB in all");
        self.check(metadata.keys().all(|key| !key.is_empty()), "metadata", "keys must not be empty");
        let nul = metadata.iter().any(|(key, value)| key.contains('\0') || value.contains('\0'));
        self.check(!nul, "metadata", "must not hold NUL characters");
    }

    /// A webhook URL; empty is none.
    pub fn webhook(&mut self, text: &str, egress: &Egress) {
        if text.is_empty() {
            return;
        }
        if let Err(why) = egress.target(text) {
            self.add("webhook_url", why);
        }
    }

    /// A key's own rate limit.
    pub fn rate_limit(&mut self, rate_limit: &RateLimit) {
        self.check(rate_limit.limit_is_sound(), "rate_limit.limit", "must be 1 to 1,000,000,000");
        let window = "must be 1 second to 366 days, in whole milliseconds";
        self.check(rate_limit.window_is_sound(), "rate_limit.window", window);
    }

    /// An absolute expiry.
    pub fn expiry(&mut self, field: &'static str, at: Micros, now: Micros) {
        self.check(at > now, field, "must be in the future");
        self.check(at <= now.saturating_add(MAX_LIFETIME), field, "must be at most 10 years away");
    }
}

fn within(text: &str, most: usize) -> bool {
    // No character is longer than its bytes are many: counting is for the long ones.
    text.len() <= most || text.chars().count() <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_in_characters() {
        let mut violations = Violations::default();
        violations.line("name", &"é".repeat(200));
        violations.bound("organization", &"é".repeat(128));
        assert!(violations.finish().is_ok());
        let mut violations = Violations::default();
        violations.line("name", &"é".repeat(201));
        violations.bound("organization", &"é".repeat(129));
        let error = violations.finish().unwrap_err();
        assert_eq!(error.fields.iter().map(|f| &*f.field).collect::<Vec<_>>(), ["name", "organization"]);
    }
}
