//! Who may do what. Nothing here tells a foreign id from one that does not exist.

use std::sync::Arc;

use super::{
    caller::{Caller, KeyCaller},
    error::{Error, Result},
    key::{Binding, KeyRecord},
    keyspace::{AllowedKeyspaces, Keyspace, RESERVED_KEYSPACE, VERIFY_SCOPE},
    session::{self, SessionCaller},
};

/// Operators and services verify; nobody else does. Answers what a limited one may ask about.
pub fn may_verify(caller: &Caller) -> Result<Option<Arc<AllowedKeyspaces>>> {
    match caller {
        Caller::Operator { .. } => Ok(None),
        Caller::Service { allowed_keyspaces, .. } => Ok(allowed_keyspaces.clone()),
        Caller::Key(_) | Caller::Session(_) | Caller::Anonymous => {
            Err(Error { presented: caller.key_id(), ..Error::forbidden("Only operators and services may verify keys") })
        }
    }
}

/// Operators, admin keys, and sessions of owners and admins manage keys. Any other key hears which scope it lacks, where
/// there is one.
pub fn may_manage(caller: &Caller) -> Result<Manager<'_>> {
    match caller {
        Caller::Operator { .. } => Ok(Manager::Operator),
        Caller::Key(key) if key.admin => Ok(Manager::Admin(key)),
        Caller::Key(key) => Err(match &key.keyspace.admin_scope {
            Some(scope) => Error::insufficient_scope(scope),
            None => Error::forbidden("Keys of this keyspace cannot manage keys"),
        }),
        Caller::Session(session) if session.manages() => Ok(Manager::Session(session)),
        Caller::Session(_) => Err(session::members_may_not()),
        Caller::Service { .. } => Err(Error::forbidden("A service may only verify keys")),
        Caller::Anonymous => Err(Error::missing_credential()),
    }
}

/// The same caller in one organization alone; an empty name changes nothing.
///
/// # Errors
///
/// PERMISSION_DENIED for an organization that is not its own, existing or not.
pub fn narrowed(caller: Caller, organization: &str) -> Result<Caller> {
    if organization.is_empty() {
        return Ok(caller);
    }
    match caller {
        Caller::Session(session) => {
            let narrowed = Caller::Session(Arc::new(session.narrowed(organization)?));
            may_manage(&narrowed)?;
            Ok(narrowed)
        }
        caller => {
            may_manage(&caller)?.confine_filter(&mut [Some(organization.to_owned()), None, None])?;
            Ok(caller)
        }
    }
}

/// A caller that may manage keys, and which ones.
#[derive(Debug, Clone, Copy)]
pub enum Manager<'a> {
    /// Every key.
    Operator,
    /// Keys of its own keyspace, organization and (if bound) instance and environment.
    Admin(&'a KeyCaller),
    /// Keys of its organizations in its issuer's keyspaces, as its role in each allows.
    Session(&'a SessionCaller),
}

impl Manager<'_> {
    /// Whether a key is there for this caller; if not, it does not exist.
    pub fn sees(&self, key: &KeyRecord) -> bool {
        match self {
            Self::Operator => true,
            Self::Session(session) => session.sees(key),
            Self::Admin(admin) => {
                let own = &admin.binding;
                admin.keyspace.name == key.keyspace
                    && own.organization == key.binding.organization
                    && (own.instance.is_empty() || own.instance == key.binding.instance)
                    && (own.environment.is_empty() || own.environment == key.binding.environment)
            }
        }
    }

    /// Refuses the record of a key that is there.
    pub fn may_read(&self, key: &KeyRecord) -> Result<()> {
        match self {
            Self::Operator | Self::Admin(_) => Ok(()),
            Self::Session(session) => session.may_read(key),
        }
    }

    /// Refuses a change of a key that is there.
    pub fn may_change(&self, key: &KeyRecord) -> Result<()> {
        match self {
            Self::Operator | Self::Admin(_) => Ok(()),
            Self::Session(session) => session.may_change(key),
        }
    }

    /// Refuses to give a new key of an organization scopes that this caller may not give.
    pub fn may_grant(&self, keyspace: &Keyspace, organization: &str, scopes: &[String]) -> Result<()> {
        match self {
            Self::Operator | Self::Admin(_) => Ok(()),
            Self::Session(session) => session.may_grant(keyspace, organization, scopes),
        }
    }

    /// Confines the binding of a Create to the caller's own, which it takes where the request names none.
    pub fn confine(&self, binding: &mut Binding) -> Result<()> {
        let admin = match self {
            Self::Operator => return Ok(()),
            Self::Session(session) => {
                let chosen = session.choose(&binding.organization)?;
                binding.organization.clone_from(&chosen.organization);
                return Ok(());
            }
            Self::Admin(admin) => admin,
        };
        let own = &admin.binding;
        own_part(&mut binding.organization, &own.organization, "organization")?;
        // An admin key that is bound to no organization manages only keys of none; an unbound instance or environment
        // leaves the choice open.
        if !own.instance.is_empty() {
            own_part(&mut binding.instance, &own.instance, "instance")?;
        }
        if !own.environment.is_empty() {
            own_part(&mut binding.environment, &own.environment, "environment")?;
        }
        Ok(())
    }

    /// Refuses a keyspace that is not the caller's own. An empty name is the caller's own.
    pub fn keyspace<'b>(&'b self, named: &'b str) -> Result<&'b str> {
        match self {
            Self::Operator => Ok(named),
            Self::Session(session) => session.keyspace(named),
            Self::Admin(admin) if named.is_empty() || named == admin.keyspace.name => Ok(&admin.keyspace.name),
            Self::Admin(_) => Err(Error::forbidden("The keyspace is not this caller's own")),
        }
    }

    /// Confines a List to what the caller may see. `None` does not filter.
    pub fn confine_filter(&self, filter: &mut [Option<String>; 3]) -> Result<()> {
        let admin = match self {
            Self::Operator => return Ok(()),
            Self::Session(session) => {
                let [organization, ..] = filter;
                let chosen = session.choose(organization.as_deref().unwrap_or_default())?;
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
                own_part(&mut part, own, field)?;
                *named = Some(part);
            }
        }
        Ok(())
    }
}

fn own_part(named: &mut String, own: &str, field: &str) -> Result<()> {
    if named.is_empty() {
        own.clone_into(named);
    } else if named != own {
        // The same words whether the named one exists or not.
        return Err(Error::forbidden(format!("The {field} is not this caller's own")));
    }
    Ok(())
}

/// What nobody may put in a Create: a choice of scopes or of a binding.
pub fn may_create_publicly(keyspace: &Keyspace, names_scopes: bool, binding: &Binding) -> Result<()> {
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

/// Only operators give a key a rate limit of its own: whoever else makes keys is who they are limited for.
pub fn may_set_rate_limit(caller: &Caller) -> Result<()> {
    match caller {
        Caller::Operator { .. } => Ok(()),
        Caller::Service { .. } | Caller::Key(_) | Caller::Session(_) | Caller::Anonymous => {
            Err(Error::forbidden("Only operators may give a key a rate limit of its own"))
        }
    }
}

/// Whether a new key can be limited to keyspaces: only what verifies, and does nothing else, is.
pub fn can_be_limited(keyspace: &Keyspace, scopes: &[String]) -> bool {
    keyspace.name == RESERVED_KEYSPACE && scopes.iter().all(|scope| scope == VERIFY_SCOPE)
}

/// A key's own rights over itself, past reading its record.
pub fn may_change_itself(key: &KeyCaller) -> Result<()> {
    if key.keyspace.self_service {
        Ok(())
    } else {
        Err(Error::forbidden("Keys of this keyspace cannot change themselves"))
    }
}
