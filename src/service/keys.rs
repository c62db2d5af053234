//! Create, get and re-hook keys.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::timeout_at;
use zeroize::Zeroizing;

use super::{Context, Service, authenticate::rate_limited};
use crate::{
    domain::{
        access::{self, Manager},
        caller::{Caller, KeyCaller},
        clock::Micros,
        egress::Egress,
        error::{Error, ErrorKind, Result},
        key::{Binding, KeyId, KeyRecord, KeyStatus},
        keyspace::{Keyspace, RESERVED_KEYSPACE, Registry},
        rate_limit::RateLimit,
        secret::{self, DISPLAY_PREFIX_LEN, Secret},
        validation::Violations,
        webhook::SECRET_OVERLAP,
    },
    limiter::Subject,
    store::{
        StoreError,
        events::{SecretChange, WebhookUpdate},
    },
};

/// When a new key stops being valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expiry {
    /// As its keyspace says.
    #[default]
    Default,
    /// At a time.
    At(Micros),
    /// So long from now.
    In(Micros),
}

/// A key to make.
#[derive(Debug, Clone, Default)]
pub struct CreateKey {
    /// Empty: the caller's own, or the only one.
    pub keyspace: String,
    /// What to bind it to.
    pub binding: Binding,
    /// A name for people.
    pub name: String,
    /// None: the keyspace's defaults.
    pub scopes: Option<Vec<String>>,
    /// When it stops being valid.
    pub expiry: Expiry,
    /// Empty: none.
    pub webhook_url: String,
    /// Free-form pairs.
    pub metadata: BTreeMap<String, String>,
    /// How often it may be used; none: as its keyspace says. For operators to choose.
    pub rate_limit: Option<RateLimit>,
    /// The keyspaces that a service is limited to; empty: all.
    pub keyspaces: Vec<String>,
}

/// A key that was made.
pub struct Created {
    /// The key.
    pub key: KeyRecord,
    /// Its secret, this once.
    pub secret: Secret,
    /// The signing secret of its webhook, if it has one.
    pub webhook_secret: Option<Zeroizing<String>>,
}

/// A webhook to set.
#[derive(Debug, Clone, Default)]
pub struct Hook {
    /// Where it is; empty removes it.
    pub url: String,
    /// Whether its deliveries are to be signed by a new secret.
    pub rotate_secret: bool,
}

/// A webhook that was changed.
pub struct Rehooked {
    /// The key.
    pub key: KeyRecord,
    /// The signing secret, if a URL was set for the first time or the secret was rotated.
    pub webhook_secret: Option<Zeroizing<String>>,
}

impl Service {
    /// Makes a key. It is VALID on every replica once this returns: nobody remembers that it was not there.
    pub async fn create(&self, caller: &Caller, mut request: CreateKey, context: Context<'_>) -> Result<Created> {
        // Where there is no client to count it against, as in gRPC, nobody creates without the right to.
        let public = context.client.filter(|_| is_public(caller));
        let keyspace = self.place(caller, &mut request, context.host_environment, public.is_some())?;
        if request.rate_limit.is_some() {
            access::may_set_rate_limit(caller)?;
        }
        let now = self.now();
        let expires_at = validate(caller, &self.registry, &keyspace, &request, &self.egress, now)?;
        if let Some(client) = public {
            // After every check: a refused request creates nothing, and counts for nothing.
            self.count_public_creation(client).await?;
        }
        let prefix = keyspace.prefixes.of(&request.binding.environment).unwrap_or_default();
        let id = self.ids.next(&*self.clock, &*self.entropy);
        let hooked = !request.webhook_url.is_empty();
        let webhook_version = if hooked { self.master_keys.next_webhook_version(0) } else { 0 };
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
        bounded(context, self.store.create_key(key.clone())).await?;
        self.told(&key);
        let webhook_secret = hooked.then(|| self.master_keys.webhook_secret(id, webhook_version)).flatten();
        Ok(Created { key, secret, webhook_secret })
    }

    /// Finds the keyspace of a new key, and confines its binding to what the caller may choose.
    fn place(&self, caller: &Caller, request: &mut CreateKey, host: &str, public: bool) -> Result<Arc<Keyspace>> {
        if public {
            // Whoever holds a key may do what anybody may.
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
        // First the host's environment: at it an admin key is never of another one, so that alone would be left to say.
        if keyspace.require.environment {
            host_environment(caller, &mut request.binding, host)?;
        }
        manager.confine(&mut request.binding)?;
        let scopes = request.scopes.as_ref().unwrap_or(&keyspace.default_scopes);
        manager.may_grant(&keyspace, &request.binding.organization, scopes)?;
        Ok(keyspace)
    }

    async fn count_public_creation(&self, client: Subject) -> Result<()> {
        let spent = self.limiter.spend(client, self.public_create_limit, 1).await;
        if spent.admitted { Ok(()) } else { Err(rate_limited(Some(spent.state))) }
    }

    fn only_or_named(&self, name: &str) -> Option<Arc<Keyspace>> {
        match self.registry.configured() {
            [only] if name.is_empty() => Some(Arc::clone(only)),
            _ => self.registry.by_name(name).cloned(),
        }
    }

    /// One key, if the caller may see it.
    pub async fn get(&self, caller: &Caller, id: &str, context: Context<'_>) -> Result<KeyRecord> {
        let manager = access::may_manage(caller)?;
        let id = id.parse().map_err(|why| Error::invalid("id", format!("{why}")))?;
        self.visible(manager, id, context).await
    }

    /// A key that the manager may see; for any other one, exactly the answer to an id that does not exist.
    pub(super) async fn visible(&self, manager: Manager<'_>, id: KeyId, context: Context<'_>) -> Result<KeyRecord> {
        let key = bounded(context, self.store.find_by_id(id)).await?;
        let configured = |key: &KeyRecord| self.registry.by_name(&key.keyspace).is_some();
        let key = key.filter(|key| configured(key) && manager.sees(key)).ok_or_else(Error::no_such_key)?;
        manager.may_read(&key)?;
        Ok(self.with_last_use(key))
    }

    /// The record of the key that makes the call.
    pub async fn own_record(&self, id: KeyId, context: Context<'_>) -> Result<KeyRecord> {
        let key = bounded(context, self.store.find_by_id(id)).await?.ok_or_else(Error::no_such_key)?;
        Ok(self.with_last_use(key))
    }

    /// Sets or (empty) removes a key's webhook.
    pub async fn update_webhook(
        &self,
        caller: &Caller,
        id: &str,
        hook: Hook,
        context: Context<'_>,
    ) -> Result<Rehooked> {
        let manager = access::may_manage(caller)?;
        let mut violations = Violations::default();
        let id = id.parse::<KeyId>().map_err(|why| violations.add("id", why.to_string()));
        self.check_hook(&hook, &mut violations);
        violations.finish()?;
        let Ok(id) = id else { return Err(Error::no_such_key()) };
        let before = self.visible(manager, id, context).await?;
        manager.may_change(&before)?;
        self.rehook(before, hook, caller.actor(), context).await
    }

    /// The same for the key that makes the call.
    pub async fn update_own_webhook(&self, key: &KeyCaller, hook: Hook, context: Context<'_>) -> Result<Rehooked> {
        access::may_change_itself(key)?;
        let mut violations = Violations::default();
        self.check_hook(&hook, &mut violations);
        violations.finish()?;
        let before = self.own_record(key.id, context).await?;
        self.rehook(before, hook, format!("key:{}", key.id), context).await
    }

    fn check_hook(&self, hook: &Hook, violations: &mut Violations) {
        violations.webhook(&hook.url, &self.egress);
        violations.check(!hook.rotate_secret || !hook.url.is_empty(), "rotate_secret", "needs a webhook");
    }

    async fn rehook(&self, before: KeyRecord, hook: Hook, by: String, context: Context<'_>) -> Result<Rehooked> {
        let at = self.now();
        if hook.url == before.webhook_url && !hook.rotate_secret && before.status(at) == KeyStatus::Active {
            // Nothing changes, so there is nothing to tell.
            return Ok(Rehooked { key: before, webhook_secret: None });
        }
        let from = if hook.rotate_secret { before.webhook_version } else { 0 };
        let to = self.master_keys.next_webhook_version(from);
        let secret = SecretChange { from, to, former_until: at.saturating_add(SECRET_OVERLAP) };
        let update = WebhookUpdate { url: hook.url, secret, at, by, event: self.event_id() };
        let change = bounded(context, self.store.set_webhook(before.id, update)).await?;
        let change = change.ok_or_else(Error::no_such_key)?;
        if !change.applied {
            let state = if change.key.status(self.now()) == KeyStatus::Revoked { "revoked" } else { "expired" };
            let message = format!("The key is {state}; its webhook cannot be changed");
            return Err(Error::new(ErrorKind::FailedPrecondition, "CONFLICT", message));
        }
        self.told(&change.key);
        let (id, version) = (change.key.id, change.key.webhook_version);
        let new = hook.rotate_secret || before.webhook_version == 0 && version > 0;
        let webhook_secret = new.then(|| self.master_keys.webhook_secret(id, version)).flatten();
        Ok(Rehooked { key: self.with_last_use(change.key), webhook_secret })
    }
}

/// Checks every field of a new key and answers its expiry.
fn validate(
    caller: &Caller,
    registry: &Registry,
    keyspace: &Keyspace,
    request: &CreateKey,
    egress: &Egress,
    now: Micros,
) -> Result<Option<Micros>> {
    let mut violations = Violations::default();
    violations.binding(&request.binding);
    violations.line("name", &request.name);
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
    limited_to(&mut violations, registry, keyspace, request);
    for field in keyspace.require.missing(&request.binding) {
        violations.add(field, "is required by the keyspace");
    }
    let environment = &request.binding.environment;
    // An empty one is named above, where the keyspace requires it.
    if keyspace.prefixes.of(environment).is_none() && !(environment.is_empty() && keyspace.require.environment) {
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

/// Checks the keyspaces that a new key is limited to.
fn limited_to(violations: &mut Violations, registry: &Registry, keyspace: &Keyspace, request: &CreateKey) {
    if request.keyspaces.is_empty() {
        return;
    }
    let scopes = request.scopes.as_deref().unwrap_or(&keyspace.default_scopes);
    let what = "only a key of the keyspace \"keyward\" with the scope \"verify\" alone is limited to keyspaces";
    violations.check(access::can_be_limited(keyspace, scopes), "keyspaces", what);
    let configured = |name: &String| registry.configured().iter().any(|keyspace| keyspace.name == *name);
    violations.check(request.keyspaces.iter().all(configured), "keyspaces", "each must be a configured keyspace");
}

/// The environment of the host that a product's key is created on.
fn host_environment(caller: &Caller, binding: &mut Binding, host: &str) -> Result<()> {
    if host.is_empty() {
        return Ok(());
    }
    if binding.environment.is_empty() {
        host.clone_into(&mut binding.environment);
    } else if binding.environment != host && !matches!(caller, Caller::Operator { .. } | Caller::Session(_)) {
        return Err(Error::invalid("environment", "is not the environment of this host"));
    }
    Ok(())
}

/// Whether the caller has no more rights to create than anybody.
fn is_public(caller: &Caller) -> bool {
    match caller {
        Caller::Anonymous => true,
        Caller::Key(key) => !key.admin,
        Caller::Operator { .. } | Caller::Service { .. } | Caller::Session(_) => false,
    }
}

fn deduplicated(mut scopes: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    scopes.retain(|scope| seen.insert(scope.clone()));
    scopes
}

/// A store call that its caller stops waiting for at the deadline; the call itself runs to its end.
pub(super) async fn bounded<T>(
    context: Context<'_>,
    call: impl Future<Output = std::result::Result<T, StoreError>>,
) -> Result<T> {
    match timeout_at(context.deadline, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::deadline_exceeded()),
    }
}

/// How long a call may take when its caller names no deadline.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The reserved keyspace's record for a root key, made outside of any call.
pub(super) fn root_key(service_key: &Secret, id: KeyId, now: Micros) -> KeyRecord {
    KeyRecord {
        id,
        keyspace: RESERVED_KEYSPACE.to_owned(),
        digest: secret::digest(service_key.expose()),
        prefix: service_key.expose().chars().take(DISPLAY_PREFIX_LEN).collect(),
        binding: Binding::default(),
        name: "root".to_owned(),
        scopes: vec![crate::domain::keyspace::ROOT_SCOPE.to_owned()],
        created_at: now,
        expires_at: None,
        revoked_at: None,
        revoke_reason: String::new(),
        created_by: "root".to_owned(),
        revoked_by: String::new(),
        webhook_url: String::new(),
        webhook_version: 0,
        metadata: BTreeMap::new(),
        rate_limit: None,
        keyspaces: Vec::new(),
        revision: 0,
        last_used_at: None,
    }
}
