//! A session as the caller: a person in one or more organizations, with a role in each.

use std::sync::Arc;

pub use super::role::Role;
use super::{
    clock::Micros,
    error::{Error, Result},
    key::KeyRecord,
    keyspace::Keyspace,
    text::same,
};

/// A person's membership of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgMembership {
    /// The organization's name; never empty.
    pub organization: String,
    /// The role in the organization.
    pub role: Role,
}

/// A session as the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCaller {
    /// The person in the form that `created_by` stores: `user:<subject>`.
    pub actor: String,
    /// Names of the keyspaces that its issuer is trusted for. Organizations are meaningful in these only.
    pub keyspaces: Arc<[String]>,
    /// The person's organizations, each once.
    pub organizations: Vec<OrgMembership>,
    /// A display name of the person, if the token has one.
    pub name: Option<String>,
    /// When the token expires; `None` for a session of the dashboard, which is stored here.
    pub expires_at: Option<Micros>,
}

impl SessionCaller {
    /// Whether the person may manage the keys of any organization.
    pub(crate) fn manages(&self) -> bool {
        self.organizations.iter().any(|own| own.role > Role::Member)
    }

    /// Restricts the session to one organization.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED for an organization that the person is not in, whether it exists or not.
    pub(crate) fn restrict_to(&self, organization: &str) -> Result<Self> {
        let own = self.membership(organization).ok_or_else(foreign_organization)?;
        Ok(Self { organizations: vec![own.clone()], ..self.clone() })
    }

    /// Resolves the organization that a request names and whose keys the person may manage. An empty name means the only
    /// one.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if there are several and none is named; PERMISSION_DENIED for an organization that the person is
    /// not in, whether it exists or not, and for a mere member.
    pub fn organization(&self, named: &str) -> Result<&OrgMembership> {
        let own = match (named, self.organizations.as_slice()) {
            ("", [only]) => only,
            ("", [_, _, ..]) => {
                return Err(Error::invalid("organization", "must be named: the caller is in several"));
            }
            _ => self.membership(named).ok_or_else(foreign_organization)?,
        };
        if own.role == Role::Member { Err(members_cannot_manage()) } else { Ok(own) }
    }

    /// Resolves the keyspace that a request names. An empty name means the only one.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if there are several and none is named; PERMISSION_DENIED for a keyspace that the issuer is not
    /// trusted for.
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

    /// Refuses to show the record of a key to mere members of its organization.
    pub(crate) fn may_read(&self, key: &KeyRecord) -> Result<()> {
        self.organization(&key.binding.organization).map(drop)
    }

    /// Refuses a change of a key that the person's role does not allow.
    pub(crate) fn may_change(&self, key: &KeyRecord) -> Result<()> {
        match self.organization(&key.binding.organization)?.role {
            Role::Owner => Ok(()),
            // The subject is unambiguous: the configuration ensures that no two issuers of one keyspace share a subject
            // prefix.
            Role::Admin if key.created_by == self.actor => Ok(()),
            Role::Admin | Role::Member => Err(Error::forbidden("An admin may change only the keys that it created")),
        }
    }

    /// Refuses scopes that the person's role may not grant. An admin could use a key with the admin scope to change keys
    /// that the admin did not create.
    pub(crate) fn may_grant(&self, keyspace: &Keyspace, organization: &str, scopes: &[String]) -> Result<()> {
        let role = self.organization(organization)?.role;
        match &keyspace.admin_scope {
            Some(admin) if role != Role::Owner && scopes.contains(admin) => {
                Err(Error::forbidden(format!("Only an owner may grant the '{admin}' scope")))
            }
            _ => Ok(()),
        }
    }

    /// Admits the session to a route of a gateway, in the organization that the request names. An empty name means the
    /// only one. If there are several and none is named, the upstream may choose any of them: all of them must have one
    /// of the `roles`, and none is returned. Without `roles`, every role is sufficient.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED for a keyspace that the issuer is not trusted for, for an organization that the person is not in,
    /// whether it exists or not, and for another role.
    pub fn at_route(&self, keyspace: &str, named: &str, roles: &[Role]) -> Result<Option<&OrgMembership>> {
        self.keyspace(keyspace)?;
        let own = match (named, self.organizations.as_slice()) {
            ("", [only]) => Some(only),
            ("", _) => None,
            _ => Some(self.membership(named).ok_or_else(foreign_organization)?),
        };
        let concerned = own.map_or(self.organizations.as_slice(), std::slice::from_ref);
        let good = roles.is_empty() || (!concerned.is_empty() && concerned.iter().all(|own| roles.contains(&own.role)));
        if good { Ok(own) } else { Err(Error::forbidden("This role may not do this")) }
    }

    /// The person without the kind that [`Self::actor`] begins with: the issuer's prefix and its subject.
    pub fn subject(&self) -> &str {
        self.actor.strip_prefix("user:").unwrap_or(&self.actor)
    }

    fn membership(&self, organization: &str) -> Option<&OrgMembership> {
        self.organizations.iter().find(|own| same(&own.organization, organization))
    }
}

/// The error for a foreign organization: the same whether it exists or not.
pub(crate) fn foreign_organization() -> Error {
    Error::forbidden("The organization is not this caller's own")
}

/// The error for a mere member.
pub(super) fn members_cannot_manage() -> Error {
    Error::forbidden("Members cannot manage API keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(organizations: &[(&str, Role)]) -> SessionCaller {
        let own = |(organization, role): &(&str, Role)| OrgMembership {
            organization: (*organization).to_owned(),
            role: *role,
        };
        SessionCaller {
            actor: "user:olga".to_owned(),
            keyspaces: Arc::new(["norrix".to_owned()]),
            organizations: organizations.iter().map(own).collect(),
            name: None,
            expires_at: None,
        }
    }

    #[test]
    fn a_session_passes_a_route_in_the_organization_that_is_named() {
        const MANAGERS: &[Role] = &[Role::Owner, Role::Admin];
        let none = session(&[]);
        let one = session(&[("acme", Role::Admin)]);
        let member = session(&[("acme", Role::Member)]);
        let several = session(&[("acme", Role::Owner), ("beta", Role::Member)]);
        let both = session(&[("acme", Role::Owner), ("beta", Role::Admin)]);
        for (case, session, named, roles, expected) in [
            (1, &one, "", &[][..], Some("acme")),
            (2, &one, "acme", MANAGERS, Some("acme")),
            (3, &one, "", &[Role::Owner], None),
            (4, &one, "beta", &[], None),
            (5, &member, "", &[], Some("acme")),
            (6, &member, "", MANAGERS, None),
            (7, &several, "acme", MANAGERS, Some("acme")),
            (8, &several, "beta", MANAGERS, None),
            (9, &several, "", &[], Some("")),
            (10, &several, "", MANAGERS, None),
            (11, &both, "", MANAGERS, Some("")),
            (12, &none, "", &[], Some("")),
            (13, &none, "", MANAGERS, None),
        ] {
            let passed = session.at_route("norrix", named, roles);
            let passed = passed.ok().map(|own| own.map_or("", |own| own.organization.as_str()));
            assert_eq!(passed, expected, "case {case}");
        }
        assert!(one.at_route("noro", "", &[]).is_err(), "its issuer is not trusted for this keyspace");
    }
}
