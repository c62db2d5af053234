//! Validation of inputs: the bounds of every field.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    clock::{Micros, SECOND},
    egress::Egress,
    error::{Error, FieldViolation, Result},
    key::Binding,
    rate_limit::RateLimit,
    text,
};

/// Maximum number of characters in a name or a revocation reason.
pub const MAX_NAME_LEN: usize = 200;
/// Maximum number of characters in an organization, instance or environment.
pub const MAX_BINDING_LEN: usize = 128;
/// Maximum number of characters in an actor: `user:`, an issuer's subject prefix, and a subject.
pub const MAX_ACTOR_LEN: usize = 5 + 64 + 255;
/// Maximum number of scopes of a key, and of one check.
pub const MAX_SCOPES: usize = 64;
/// Maximum number of characters in a scope.
pub const MAX_SCOPE_LEN: usize = 64;
/// Maximum number of metadata pairs.
pub const MAX_METADATA_PAIRS: usize = 32;
/// Maximum number of metadata bytes, keys and values together.
pub const MAX_METADATA_BYTES: usize = 4 * 1024;
/// Maximum lifetime of a key: ten calendar years, with up to three leap days.
pub const MAX_LIFETIME: Micros = 3_653 * 86_400 * SECOND;
/// Maximum number of items on a page.
pub const MAX_PAGE_SIZE: u32 = 1_000;
/// Number of items on a page when the request names none, or 0.
pub const DEFAULT_PAGE_SIZE: u32 = 50;

/// Collects invalid fields, so that one response reports all of them.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Adds an invalid field.
    pub fn add(&mut self, field: impl Into<Cow<'static, str>>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    /// Whether a field has been added already.
    pub fn contains(&self, field: &str) -> bool {
        self.0.iter().any(|bad| bad.field == field)
    }

    /// Adds an invalid field unless `valid`.
    pub fn check(&mut self, valid: bool, field: &'static str, description: &str) {
        if !valid {
            self.add(field, description);
        }
    }

    /// The error with all invalid fields, if there are any.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.0)) }
    }

    /// Checks text for people: a name or a reason.
    pub fn display_text(&mut self, field: &'static str, text: &str) {
        self.check(within(text, MAX_NAME_LEN), field, "must be at most 200 characters");
        self.visible(field, text);
    }

    /// Checks organization, instance and environment of a new key. Empty parts are valid.
    pub fn new_binding(&mut self, binding: &Binding) {
        let Binding { organization, instance, environment } = binding;
        for (field, text) in [("organization", organization), ("instance", instance), ("environment", environment)] {
            self.check(within(text, MAX_BINDING_LEN), field, "must be 1 to 128 characters");
            self.visible(field, text);
        }
    }

    /// Checks organization, instance and environment of a filter. Empty parts are valid. [`text::problem`] is not
    /// checked here, because keys that were created before that check existed must be found.
    pub fn binding(&mut self, binding: &Binding) {
        let Binding { organization, instance, environment } = binding;
        self.identifier("organization", organization);
        self.identifier("instance", instance);
        self.identifier("environment", environment);
    }

    /// Checks one part of a filter's binding, or another identifier.
    pub fn identifier(&mut self, field: &'static str, text: &str) {
        self.check(within(text, MAX_BINDING_LEN), field, "must be 1 to 128 characters");
        self.printable(field, text);
    }

    /// Checks an actor, in the form that `created_by` stores.
    pub fn actor(&mut self, field: &'static str, text: &str) {
        self.check(within(text, MAX_ACTOR_LEN), field, "must be at most 324 characters");
        self.printable(field, text);
    }

    fn visible(&mut self, field: &'static str, text: &str) {
        if let Some(problem) = text::problem(text) {
            self.add(field, problem);
        }
    }

    fn printable(&mut self, field: &'static str, text: &str) {
        self.check(!text.contains(char::is_control), field, "must not hold control characters");
    }

    /// Checks a list of scopes.
    pub fn scopes(&mut self, field: &'static str, scopes: &[String]) {
        self.check(scopes.len() <= MAX_SCOPES, field, "must be at most 64 scopes");
        let valid = scopes.iter().all(|scope| {
            (1..=MAX_SCOPE_LEN).contains(&scope.len())
                && scope.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'-'))
        });
        self.check(valid, field, "each scope must be 1 to 64 characters of [A-Za-z0-9._:-]");
    }

    /// Checks metadata pairs.
    pub fn metadata(&mut self, metadata: &BTreeMap<String, String>) {
        self.check(metadata.len() <= MAX_METADATA_PAIRS, "metadata", "must be at most 32 pairs");
        let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.check(bytes <= MAX_METADATA_BYTES, "metadata", "must be at most 4 KiB in all");
        self.check(metadata.keys().all(|key| !key.is_empty()), "metadata", "keys must not be empty");
        let nul = metadata.iter().any(|(key, value)| key.contains('\0') || value.contains('\0'));
        self.check(!nul, "metadata", "must not hold NUL characters");
        if let Some(problem) = metadata.keys().find_map(|key| text::problem(key)).filter(|_| !nul) {
            self.add("metadata", format!("a key {problem}"));
        }
    }

    /// Checks a webhook URL. Empty is valid.
    pub fn webhook(&mut self, text: &str, egress: &Egress) {
        if text.is_empty() {
            return;
        }
        if let Err(why) = egress.target(text) {
            self.add("webhook_url", why);
        }
    }

    /// Checks a key's own rate limit.
    pub fn rate_limit(&mut self, rate_limit: &RateLimit) {
        self.check(rate_limit.has_valid_limit(), "rate_limit.limit", "must be 1 to 1,000,000,000");
        let window = "must be 1 second to 366 days, in whole milliseconds";
        self.check(rate_limit.has_valid_window(), "rate_limit.window", window);
    }

    /// Checks an expiry time.
    pub fn expiry(&mut self, field: &'static str, at: Micros, now: Micros) {
        self.check(at > now, field, "must be in the future");
        self.check(at <= now.saturating_add(MAX_LIFETIME), field, "must be at most 10 years away");
    }
}

fn within(text: &str, max: usize) -> bool {
    // A text never has more characters than bytes, so characters are counted in long texts only.
    text.len() <= max || text.chars().count() <= max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_in_characters() {
        let mut violations = Violations::default();
        violations.display_text("name", &"é".repeat(200));
        violations.identifier("organization", &"é".repeat(128));
        assert!(violations.finish().is_ok());
        let mut violations = Violations::default();
        violations.display_text("name", &"é".repeat(201));
        violations.identifier("organization", &"é".repeat(129));
        let error = violations.finish().unwrap_err();
        assert_eq!(error.fields.iter().map(|f| &*f.field).collect::<Vec<_>>(), ["name", "organization"]);
    }
}
