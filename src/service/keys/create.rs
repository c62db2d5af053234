//! Create a key.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use zeroize::Zeroizing;

use super::Keys;
use crate::{
    domain::{
        access,
        caller::Caller,
        clock::Micros,
        egress::Egress,
        error::{Error, ErrorKind, Result},
        key::{Binding, KeyRecord},
        keyspace::{Keyspace, Registry},
        rate_limit::RateLimit,
        secret::{self, DISPLAY_PREFIX_LEN, Secret},
        text,
        validation::Violations,
    },
    limiter::Subject,
    service::{context::CallContext, rate_limited::rate_limited},
};

/// When a new key stops being valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expiry {
    /// After the default lifetime of its keyspace.
    #[default]
    Default,
    /// At this time.
    At(Micros),
    /// This long after its creation.
    In(Micros),
}

/// A request to create a key.
#[derive(Debug, Clone, Default)]
pub struct CreateKey {
    /// Empty: the caller's own keyspace, or the only one.
    pub keyspace: String,
    /// The organization, instance and environment that the key is bound to.
    pub binding: Binding,
    /// A name for people.
    pub name: String,
    /// None: the keyspace's default scopes.
    pub scopes: Option<Vec<String>>,
    /// When the key stops being valid.
    pub expiry: Expiry,
    /// Empty: no webhook.
    pub webhook_url: String,
    /// Free-form pairs.
    pub metadata: BTreeMap<String, String>,
    /// The key's own rate limit, which only operators may choose; none: the keyspace's.
    pub rate_limit: Option<RateLimit>,
    /// The keyspaces whose keys a service key may verify; empty: all.
    pub keyspaces: Vec<String>,
}

/// A key that was created.
pub struct Created {
    /// The record.
    pub key: KeyRecord,
    /// The secret. It is stored nowhere, so this answer is the only one that has it.
    pub secret: Secret,
    /// The signing secret of the webhook, if the key has one.
    pub webhook_secret: Option<Zeroizing<String>>,
}

impl Keys {
    /// Creates a key. It is VALID on every replica once this returns: no replica caches that a key does not exist.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every bad field; PERMISSION_DENIED; RESOURCE_EXHAUSTED for a creation past the limit of
    /// its caller, or, without a credential, of its client address; FAILED_PRECONDITION for an organization that has as
    /// many keys as its keyspace allows; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn create(&self, caller: &Caller, mut request: CreateKey, context: CallContext<'_>) -> Result<Created> {
        normalize(&mut request)?;
        let public = context.client.filter(|_| is_public(caller));
        let _call = if public.is_some() { None } else { Some(self.calls.begin(caller)?.1) };
        let keyspace = self.resolve_keyspace(caller, &mut request, context.host_environment, public.is_some())?;
        if request.rate_limit.is_some() {
            access::may_set_rate_limit(caller)?;
        }
        // Parts that come from the caller's own key may be older than the rules of texts.
        normalize_binding(&mut request.binding);
        // One reading of the clock for both, so that the key and its event have the same time.
        let (id, now) = self.ids.key_id();
        let expires_at = validate(caller, &self.registry, &keyspace, &request, &self.egress, now)?;
        if let Some(client) = public {
            // After every check: a refused request creates nothing and does not count.
            self.spend_public_creation(client).await?;
        } else if let Some(limit) = keyspace.create_limit.filter(|_| !matches!(caller, Caller::Operator { .. })) {
            self.spend(Subject::creator(&keyspace.name, &caller.actor()), limit).await?;
        }
        let prefix = keyspace.prefixes.for_environment(&request.binding.environment).unwrap_or_default();
        let has_webhook = !request.webhook_url.is_empty();
        let webhook_version = if has_webhook { self.master_keys.next_webhook_version(0) } else { 0 };
        let scopes = request.scopes.unwrap_or_else(|| keyspace.default_scopes.clone());
        let secret = keyspace.encoding.generate(prefix, &self.master_keys, &*self.entropy);
        let key = KeyRecord {
            id,
            keyspace: keyspace.name.clone(),
            digest: secret::digest(secret.expose()),
            prefix: secret.expose().chars().take(DISPLAY_PREFIX_LEN).collect(),
            binding: request.binding,
            name: request.name,
            scopes: deduplicated(scopes),
            created_at: now,
            expires_at,
            revoked_at: None,
            revoke_reason: String::new(),
            created_by: caller.actor(),
            revoked_by: String::new(),
            webhook_url: request.webhook_url,
            webhook_version,
            metadata: request.metadata,
            rate_limit: request.rate_limit,
            keyspaces: deduplicated(request.keyspaces),
            revision: 0,
            last_used_at: None,
        };
        match keyspace.max_keys.filter(|_| !key.binding.organization.is_empty()) {
            None => context.bounded(self.store.create_key(key.clone())).await?,
            Some(max) if context.bounded(self.store.create_key_within(key.clone(), max)).await? => {}
            Some(_) => return Err(too_many_keys()),
        }
        self.deliveries.notify_deliveries(&key);
        let webhook_secret = has_webhook.then(|| self.master_keys.webhook_secret(id, webhook_version)).flatten();
        Ok(Created { key, secret, webhook_secret })
    }

    /// Finds the keyspace of a new key, and confines its binding to what the caller may choose.
    fn resolve_keyspace(
        &self,
        caller: &Caller,
        request: &mut CreateKey,
        host: &str,
        public: bool,
    ) -> Result<Arc<Keyspace>> {
        if public {
            // A key without the right to create may still create like a caller without a credential.
            let keyspace = self.only_or_named(&request.keyspace).filter(|keyspace| keyspace.public_create);
            let Some(keyspace) = keyspace else {
                access::may_manage(caller)?;
                return Err(Error::missing_credential());
            };
            access::may_create_publicly(&keyspace, request.scopes.is_some(), &request.binding)?;
            return Ok(keyspace);
        }
        let manager = access::may_manage(caller)?;
        let name = manager.keyspace(&request.keyspace)?;
        let Some(keyspace) = self.only_or_named(name) else {
            return Err(Error::invalid("keyspace", if name.is_empty() { "must be named" } else { "no such keyspace" }));
        };
        // Check the host's environment first. Otherwise an admin key of another environment would be refused for its
        // binding, and the caller would not learn that it called the wrong host.
        if keyspace.require.environment {
            apply_host_environment(caller, &mut request.binding, host)?;
        }
        manager.restrict_binding(&mut request.binding)?;
        let scopes = request.scopes.as_ref().unwrap_or(&keyspace.default_scopes);
        manager.may_grant(&keyspace, &request.binding.organization, scopes)?;
        Ok(keyspace)
    }

    async fn spend_public_creation(&self, client: IpAddr) -> Result<()> {
        self.spend(Subject::address(client), self.public_create_limit).await
    }

    async fn spend(&self, subject: Subject, limit: RateLimit) -> Result<()> {
        let spent = self.limiter.spend(subject, limit, 1).await;
        if spent.admitted { Ok(()) } else { Err(rate_limited(Some(spent.state))) }
    }

    fn only_or_named(&self, name: &str) -> Option<Arc<Keyspace>> {
        match self.registry.configured() {
            [only] if name.is_empty() => Some(Arc::clone(only)),
            _ => self.registry.by_name(name).cloned(),
        }
    }
}

/// Brings the texts of a new key into the form in which they are stored and compared.
fn normalize(request: &mut CreateKey) -> Result<()> {
    text::normalize(&mut request.name);
    normalize_binding(&mut request.binding);
    if request.metadata.keys().all(|key| key.is_ascii()) {
        return Ok(());
    }
    let pairs = std::mem::take(&mut request.metadata);
    let count = pairs.len();
    request.metadata = pairs.into_iter().map(|(key, value)| (text::normalized(&key).into_owned(), value)).collect();
    if request.metadata.len() == count { Ok(()) } else { Err(Error::invalid("metadata", "two keys are the same text")) }
}

fn normalize_binding(binding: &mut Binding) {
    let Binding { organization, instance, environment } = binding;
    for text in [organization, instance, environment] {
        text::normalize(text);
    }
}

/// Checks every field of a new key; returns its expiry.
fn validate(
    caller: &Caller,
    registry: &Registry,
    keyspace: &Keyspace,
    request: &CreateKey,
    egress: &Egress,
    now: Micros,
) -> Result<Option<Micros>> {
    let mut violations = Violations::default();
    violations.new_binding(&request.binding);
    violations.display_text("name", &request.name);
    violations.metadata(&request.metadata);
    violations.webhook(&request.webhook_url, egress);
    if let Some(rate_limit) = &request.rate_limit {
        violations.rate_limit(rate_limit);
    }
    if let Some(scopes) = &request.scopes {
        violations.scopes("scopes", scopes);
        let listed = |scope| keyspace.scopes.as_ref().is_none_or(|list| list.contains(scope));
        violations.check(scopes.iter().all(listed), "scopes", "each scope must be one of the keyspace's");
    }
    validate_keyspaces(&mut violations, registry, keyspace, request);
    for field in keyspace.require.missing(&request.binding) {
        violations.add(field, "is required by the keyspace");
    }
    let environment = &request.binding.environment;
    // A missing environment is reported above, where the keyspace requires one.
    if keyspace.prefixes.for_environment(environment).is_none()
        && !(environment.is_empty() && keyspace.require.environment)
    {
        violations.add("environment", "must be one of the keyspace's");
    }
    let default = keyspace.default_ttl.and_then(|ttl| Micros::try_from(ttl.as_micros()).ok());
    let (expires_at, field) = match request.expiry {
        Expiry::Default => (default.map(|ttl| now.saturating_add(ttl)), "ttl"),
        Expiry::At(at) => (Some(at), "expire_time"),
        Expiry::In(ttl) => (Some(now.saturating_add(ttl)), "ttl"),
    };
    if let Some(at) = expires_at {
        violations.expiry(field, at, now);
    }
    let past_default = expires_at.zip(default).is_some_and(|(at, ttl)| at > now.saturating_add(ttl));
    if is_public(caller) && past_default {
        violations.add(field, "must not be past the keyspace's default");
    }
    violations.finish()?;
    Ok(expires_at)
}

/// Checks the keyspaces that a new service key is limited to.
fn validate_keyspaces(violations: &mut Violations, registry: &Registry, keyspace: &Keyspace, request: &CreateKey) {
    if request.keyspaces.is_empty() {
        return;
    }
    let scopes = request.scopes.as_deref().unwrap_or(&keyspace.default_scopes);
    let what = "only a key of the keyspace \"keyward\" with the scope \"verify\" alone is limited to keyspaces";
    violations.check(access::can_be_limited(keyspace, scopes), "keyspaces", what);
    let configured = |name: &String| registry.configured().iter().any(|keyspace| keyspace.name == *name);
    violations.check(request.keyspaces.iter().all(configured), "keyspaces", "each must be a configured keyspace");
}

/// Gives a new key the environment of the host that it is created on, if it names none itself.
fn apply_host_environment(caller: &Caller, binding: &mut Binding, host: &str) -> Result<()> {
    if host.is_empty() {
        return Ok(());
    }
    if binding.environment.is_empty() {
        host.clone_into(&mut binding.environment);
    } else if !text::same(&binding.environment, host) && !matches!(caller, Caller::Operator { .. } | Caller::Session(_))
    {
        return Err(Error::invalid("environment", "is not the environment of this host"));
    }
    Ok(())
}

/// Whether the caller may create keys only as a caller without a credential may.
fn is_public(caller: &Caller) -> bool {
    match caller {
        Caller::Anonymous => true,
        Caller::Key(key) => !key.admin,
        Caller::Operator { .. } | Caller::Service { .. } | Caller::Session(_) => false,
    }
}

fn too_many_keys() -> Error {
    let message = "The organization has as many keys as it may have; revoke one first";
    Error::new(ErrorKind::FailedPrecondition, "KEY_LIMIT_REACHED", message)
}

fn deduplicated(mut texts: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}
