//! Authorization: which caller may do what. No refusal reveals whether a foreign id or organization exists.

use std::sync::Arc;

use super::{
    caller::{Caller, KeyCaller},
    error::{Error, Result},
    key::{Binding, KeyRecord},
    keyspace::{AllowedKeyspaces, Keyspace, RESERVED_KEYSPACE, VERIFY_SCOPE},
    session::{self, SessionCaller},
    text::same,
};

/// Allows operators and services to verify keys. Returns the keyspaces that a limited service may verify.
pub(crate) fn may_verify(caller: &Caller) -> Result<Option<Arc<AllowedKeyspaces>>> {
    match caller {
        Caller::Operator { .. } => Ok(None),
        Caller::Service { allowed_keyspaces, .. } => Ok(allowed_keyspaces.clone()),
        Caller::Key(_) | Caller::Session(_) | Caller::Anonymous => {
            Err(Error { presented: caller.key_id(), ..Error::forbidden("Only operators and services may verify keys") })
        }
    }
}

/// Allows operators, admin keys, and sessions of owners and admins to manage keys. The refusal of any other key names the
/// scope that it lacks, if its keyspace has an admin scope.
pub(crate) fn may_manage(caller: &Caller) -> Result<Manager<'_>> {
    match caller {
        Caller::Operator { .. } => Ok(Manager::Operator),
        Caller::Key(key) if key.admin => Ok(Manager::Admin(key)),
        Caller::Key(key) => Err(match &key.keyspace.admin_scope {
            Some(scope) => Error::insufficient_scope(scope),
            None => Error::forbidden("Keys of this keyspace cannot manage keys"),
        }),
        Caller::Session(session) if session.manages() => Ok(Manager::Session(session)),
        Caller::Session(_) => Err(session::members_cannot_manage()),
        Caller::Service { .. } => Err(Error::forbidden("A service may only verify keys")),
        Caller::Anonymous => Err(Error::missing_credential()),
    }
}

/// Restricts a caller to one organization. An empty name changes nothing.
///
/// # Errors
///
/// PERMISSION_DENIED for an organization that is not the caller's, whether it exists or not.
pub(crate) fn restrict_to_organization(caller: Caller, organization: &str) -> Result<Caller> {
    if organization.is_empty() {
        return Ok(caller);
    }
    match caller {
        Caller::Session(session) => {
            let narrowed = Caller::Session(Arc::new(session.restrict_to(organization)?));
            may_manage(&narrowed)?;
            Ok(narrowed)
        }
        caller => {
            may_manage(&caller)?.restrict_filter(&mut [Some(organization.to_owned()), None, None])?;
            Ok(caller)
        }
    }
}

/// A caller that may manage keys, and which keys.
#[derive(Debug, Clone, Copy)]
pub enum Manager<'a> {
    /// Every key.
    Operator,
    /// Keys of the admin key's own keyspace and organization, and of its instance and environment if it is bound to them.
    Admin(&'a KeyCaller),
    /// Keys of the person's organizations in the issuer's keyspaces, as the role in each organization allows.
    Session(&'a SessionCaller),
}

impl Manager<'_> {
    /// Whether this caller may see that a key exists. If not, the key is reported as not found.
    pub fn sees(&self, key: &KeyRecord) -> bool {
        match self {
            Self::Operator => true,
            Self::Session(session) => session.sees(key),
            Self::Admin(admin) => {
                let own = &admin.binding;
                admin.keyspace.name == key.keyspace
                    && same(&own.organization, &key.binding.organization)
                    && (own.instance.is_empty() || same(&own.instance, &key.binding.instance))
                    && (own.environment.is_empty() || same(&own.environment, &key.binding.environment))
            }
        }
    }

    /// Refuses to show the record of a key that [`Self::sees`] allows, if the role does not.
    pub(crate) fn may_read(&self, key: &KeyRecord) -> Result<()> {
        match self {
            Self::Operator | Self::Admin(_) => Ok(()),
            Self::Session(session) => session.may_read(key),
        }
    }

    /// Refuses to change a key that [`Self::sees`] allows, if the role does not.
    pub(crate) fn may_change(&self, key: &KeyRecord) -> Result<()> {
        match self {
            Self::Operator | Self::Admin(_) => Ok(()),
            Self::Session(session) => session.may_change(key),
        }
    }

    /// Refuses scopes that this caller may not grant to a new key of an organization.
    pub(crate) fn may_grant(&self, keyspace: &Keyspace, organization: &str, scopes: &[String]) -> Result<()> {
        match self {
            Self::Operator | Self::Admin(_) => Ok(()),
            Self::Session(session) => session.may_grant(keyspace, organization, scopes),
        }
    }

    /// Restricts the binding of a new key to the caller's own. Empty parts are set to the caller's.
    pub(crate) fn restrict_binding(&self, binding: &mut Binding) -> Result<()> {
        let admin = match self {
            Self::Operator => return Ok(()),
            Self::Session(session) => {
                let chosen = session.organization(&binding.organization)?;
                binding.organization.clone_from(&chosen.organization);
                return Ok(());
            }
            Self::Admin(admin) => admin,
        };
        let own = &admin.binding;
        restrict_part(&mut binding.organization, &own.organization, "organization")?;
        // An admin key without an organization manages only keys without one. Without an instance or an environment, it
        // may choose any.
        if !own.instance.is_empty() {
            restrict_part(&mut binding.instance, &own.instance, "instance")?;
        }
        if !own.environment.is_empty() {
            restrict_part(&mut binding.environment, &own.environment, "environment")?;
        }
        Ok(())
    }

    /// Resolves a keyspace's name, and refuses one that is not the caller's own. An empty name means the caller's own.
    pub fn keyspace<'b>(&'b self, named: &'b str) -> Result<&'b str> {
        match self {
            Self::Operator => Ok(named),
            Self::Session(session) => session.keyspace(named),
            Self::Admin(admin) if named.is_empty() || named == admin.keyspace.name => Ok(&admin.keyspace.name),
            Self::Admin(_) => Err(Error::forbidden("The keyspace is not this caller's own")),
        }
    }

    /// Restricts a List to keys that the caller may see. `None` does not filter.
    pub(crate) fn restrict_filter(&self, filter: &mut [Option<String>; 3]) -> Result<()> {
        let admin = match self {
            Self::Operator => return Ok(()),
            Self::Session(session) => {
                let [organization, ..] = filter;
                let chosen = session.organization(organization.as_deref().unwrap_or_default())?;
                *organization = Some(chosen.organization.clone());
                return Ok(());
            }
            Self::Admin(admin) => admin,
        };
        let own = &admin.binding;
        let parts = [
            (&own.organization, "organization", true),
            (&own.instance, "instance", !own.instance.is_empty()),
            (&own.environment, "environment", !own.environment.is_empty()),
        ];
        for (named, (own, field, bound)) in filter.iter_mut().zip(parts) {
            if bound {
                let mut part = named.take().unwrap_or_default();
                restrict_part(&mut part, own, field)?;
                *named = Some(part);
            }
        }
        Ok(())
    }
}

/// Sets an empty part to the caller's own value, and refuses any other value.
fn restrict_part(named: &mut String, own: &str, field: &str) -> Result<()> {
    if named.is_empty() {
        own.clone_into(named);
    } else if !same(named, own) {
        // The same message whether the named one exists or not.
        return Err(Error::forbidden(format!("The {field} is not this caller's own")));
    }
    Ok(())
}

/// Refuses a Create without a credential unless the keyspace allows it, and one that names scopes or a binding.
pub(crate) fn may_create_publicly(keyspace: &Keyspace, names_scopes: bool, binding: &Binding) -> Result<()> {
    if !keyspace.public_create {
        return Err(Error::missing_credential());
    }
    if names_scopes || *binding != Binding::default() {
        return Err(Error::forbidden(
            "Creation that is open to everybody cannot choose scopes, an organization, an instance or an environment",
        ));
    }
    Ok(())
}

/// Allows only operators to give a key its own rate limit. Rate limits apply to all other callers that create keys, so
/// these must not be able to raise them.
pub(crate) fn may_set_rate_limit(caller: &Caller) -> Result<()> {
    match caller {
        Caller::Operator { .. } => Ok(()),
        Caller::Service { .. } | Caller::Key(_) | Caller::Session(_) | Caller::Anonymous => {
            Err(Error::forbidden("Only operators may give a key a rate limit of its own"))
        }
    }
}

/// Whether a new key can be limited to some keyspaces: only a key that holds no scope but `verify` can.
pub(crate) fn can_be_limited(keyspace: &Keyspace, scopes: &[String]) -> bool {
    keyspace.name == RESERVED_KEYSPACE && scopes.iter().all(|scope| scope == VERIFY_SCOPE)
}

/// Allows a key to change itself if its keyspace has self-service.
pub(crate) fn may_change_itself(key: &KeyCaller) -> Result<()> {
    if key.keyspace.self_service {
        Ok(())
    } else {
        Err(Error::forbidden("Keys of this keyspace cannot change themselves"))
    }
}
