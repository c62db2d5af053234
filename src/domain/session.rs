//! A session as a caller: a person of one or more organizations, with a role in each.

use std::sync::Arc;

use super::{
    error::{Error, Result},
    key::KeyRecord,
    keyspace::Keyspace,
};

/// What a person may do in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing with keys.
    Member,
    /// Lists all keys, makes keys, and changes those that it made.
    Admin,
    /// Manages every key.
    Owner,
}

impl Role {
    /// The role of this name; none if there is no such role.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "owner" => Some(Self::Owner),
            "admin" => Some(Self::Admin),
            "member" => Some(Self::Member),
            _ => None,
        }
    }
}

/// A person's place in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgMembership {
    /// The organization; never empty.
    pub organization: String,
    /// The role in it.
    pub role: Role,
}

/// A session as a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCaller {
    /// Who it is, as `created_by` records it: `user:<subject>`.
    pub actor: String,
    /// Names of the keyspaces that its issuer speaks for: organizations mean something in these alone.
    pub keyspaces: Arc<[String]>,
    /// Its organizations, each once.
    pub organizations: Vec<OrgMembership>,
}

impl SessionCaller {
    /// Whether there is any organization whose keys it may manage.
    pub fn manages(&self) -> bool {
        self.organizations.iter().any(|own| own.role > Role::Member)
    }

    /// The same person in one organization alone.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED for an organization that is not its own, existing or not.
    pub fn narrowed(&self, organization: &str) -> Result<Self> {
        let own = self.membership(organization).ok_or_else(foreign_organization)?;
        Ok(Self { organizations: vec![own.clone()], ..self.clone() })
    }

    /// The organization that a request means, whose keys it may manage. An empty name means the only one.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if there are several and none is named; PERMISSION_DENIED for one that is not its own, existing
    /// or not, and for one in which its role may nothing.
    pub fn choose(&self, named: &str) -> Result<&OrgMembership> {
        let own = match (named, self.organizations.as_slice()) {
            ("", [only]) => only,
            ("", [_, _, ..]) => {
                return Err(Error::invalid("organization", "must be named: the caller is in several"));
            }
            _ => self.membership(named).ok_or_else(foreign_organization)?,
        };
        if own.role == Role::Member { Err(members_may_not()) } else { Ok(own) }
    }

    /// The keyspace that a request means. An empty name means the only one.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if there are several and none is named; PERMISSION_DENIED for one that is not its issuer's.
    pub fn keyspace<'a>(&'a self, named: &'a str) -> Result<&'a str> {
        match (named, &*self.keyspaces) {
            ("", [only]) => Ok(only),
            ("", _) => Err(Error::invalid("keyspace", "must be named: the session is for several")),
            _ if self.keyspaces.iter().any(|own| own == named) => Ok(named),
            _ => Err(Error::forbidden("The keyspace is not this caller's own")),
        }
    }

    /// Whether a key is of an organization and a keyspace of this caller; if not, it does not exist for it.
    pub fn sees(&self, key: &KeyRecord) -> bool {
        self.keyspaces.contains(&key.keyspace) && self.membership(&key.binding.organization).is_some()
    }

    /// Refuses the record of a key of an organization in which its role may nothing.
    pub fn may_read(&self, key: &KeyRecord) -> Result<()> {
        self.choose(&key.binding.organization).map(drop)
    }

    /// Refuses a change of a key that its role may not change.
    pub fn may_change(&self, key: &KeyRecord) -> Result<()> {
        match self.choose(&key.binding.organization)?.role {
            Role::Owner => Ok(()),
            // The subject is unambiguous: no two issuers of one keyspace can give the same one (see the configuration).
            Role::Admin if key.created_by == self.actor => Ok(()),
            Role::Admin | Role::Member => Err(Error::forbidden("An admin may change only the keys that it created")),
        }
    }

    /// Refuses scopes that its role may not grant: a key that manages keys would undo the role's limit.
    pub fn may_grant(&self, keyspace: &Keyspace, organization: &str, scopes: &[String]) -> Result<()> {
        let role = self.choose(organization)?.role;
        match &keyspace.admin_scope {
            Some(admin) if role != Role::Owner && scopes.contains(admin) => {
                Err(Error::forbidden(format!("Only an owner may grant the '{admin}' scope")))
            }
            _ => Ok(()),
        }
    }

    fn membership(&self, organization: &str) -> Option<&OrgMembership> {
        self.organizations.iter().find(|own| own.organization == organization)
    }
}

/// The same words whether the named one exists or not.
pub(super) fn foreign_organization() -> Error {
    Error::forbidden("The organization is not this caller's own")
}

/// What a caller hears whose role may nothing.
pub(super) fn members_may_not() -> Error {
    Error::forbidden("Members cannot manage API keys")
}
