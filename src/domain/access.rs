//! Who may do what. Nothing here tells a foreign id from one that does not exist.

use std::sync::Arc;

use super::{
    caller::{Caller, KeyCaller},
    error::{Error, Result},
    key::{Binding, KeyRecord},
    keyspace::{Keyspace, RESERVED, Reach, VERIFY_SCOPE},
};

/// Operators and services verify; nobody else does. Answers what a limited one may ask about.
pub fn may_verify(caller: &Caller) -> Result<Option<Arc<Reach>>> {
    match caller {
        Caller::Operator { .. } => Ok(None),
        Caller::Service { reach, .. } => Ok(reach.clone()),
        Caller::Key(_) | Caller::Nobody => {
            Err(Error { presented: caller.key_id(), ..Error::forbidden("Only operators and services may verify keys") })
        }
    }
}

/// Operators and admin keys manage keys. Any other key hears which scope it lacks, where there is one.
pub fn may_manage(caller: &Caller) -> Result<Manager<'_>> {
    match caller {
        Caller::Operator { .. } => Ok(Manager::Operator),
        Caller::Key(key) if key.admin => Ok(Manager::Admin(key)),
        Caller::Key(key) => Err(match &key.keyspace.admin_scope {
            Some(scope) => Error::insufficient_scope(scope),
            None => Error::forbidden("Keys of this keyspace cannot manage keys"),
        }),
        Caller::Service { .. } => Err(Error::forbidden("A service may only verify keys")),
        Caller::Nobody => Err(Error::missing_credential()),
    }
}

/// A caller that may manage keys, and which ones.
#[derive(Debug, Clone, Copy)]
pub enum Manager<'a> {
    /// Every key.
    Operator,
    /// Keys of its own keyspace, organization and (if bound) instance and environment.
    Admin(&'a KeyCaller),
}

impl Manager<'_> {
    /// Whether a key may be seen and changed; if not, it does not exist for this caller.
    pub fn sees(&self, key: &KeyRecord) -> bool {
        match self {
            Self::Operator => true,
            Self::Admin(admin) => {
                let own = &admin.binding;
                admin.keyspace.name == key.keyspace
                    && own.organization == key.binding.organization
                    && (own.instance.is_empty() || own.instance == key.binding.instance)
                    && (own.environment.is_empty() || own.environment == key.binding.environment)
            }
        }
    }

    /// Confines the binding of a Create to the caller's own, which it takes where the request names none.
    pub fn confine(&self, binding: &mut Binding) -> Result<()> {
        let Self::Admin(admin) = self else { return Ok(()) };
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
            Self::Admin(admin) if named.is_empty() || named == admin.keyspace.name => Ok(&admin.keyspace.name),
            Self::Admin(_) => Err(Error::forbidden("The keyspace is not this caller's own")),
        }
    }

    /// Confines a List to what the caller may see. `None` does not filter.
    pub fn confine_filter(&self, filter: &mut [Option<String>; 3]) -> Result<()> {
        let Self::Admin(admin) = self else { return Ok(()) };
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
            "Creation without a credential cannot choose scopes, an organization, an instance or an environment",
        ));
    }
    Ok(())
}

/// Only operators give a key a rate limit of its own: whoever else makes keys is who they are limited for.
pub fn may_set_rate_limit(caller: &Caller) -> Result<()> {
    match caller {
        Caller::Operator { .. } => Ok(()),
        Caller::Service { .. } | Caller::Key(_) | Caller::Nobody => {
            Err(Error::forbidden("Only operators may give a key a rate limit of its own"))
        }
    }
}

/// Whether a new key can be limited to keyspaces: only what verifies, and does nothing else, is.
pub fn can_be_limited(keyspace: &Keyspace, scopes: &[String]) -> bool {
    keyspace.name == RESERVED && scopes.iter().all(|scope| scope == VERIFY_SCOPE)
}

/// A key's own rights over itself, past reading its record.
pub fn may_change_itself(key: &KeyCaller) -> Result<()> {
    if key.keyspace.self_service {
        Ok(())
    } else {
        Err(Error::forbidden("Keys of this keyspace cannot change themselves"))
    }
}
