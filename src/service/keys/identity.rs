//! The identity of a caller, for the caller itself.

use std::sync::Arc;

use super::Keys;
use crate::{
    domain::{
        caller::{AuthMethod, Caller, KeyCaller},
        clock::Micros,
        error::{Error, Result},
        key::KeyId,
        keyspace::{KeyspaceIndex, ROOT_SCOPE, VERIFY_SCOPE},
        session::{Role, SessionCaller},
    },
    service::context::CallContext,
};

/// Who a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `operator`, `service`, `key` or `session`.
    pub caller: &'static str,
    /// A person's subject, or the subject alternative name of a certificate.
    pub subject: Option<String>,
    /// The id of the caller's key.
    pub key: Option<KeyId>,
    /// The key's name, or what the person's token calls the person.
    pub name: Option<String>,
    /// The keyspaces in which the caller may do something.
    pub keyspaces: Vec<String>,
    /// The organizations; a key has no role in its own.
    pub organizations: Vec<(String, Option<Role>)>,
    /// The scopes of a key, or of the key that an operator or a service would hold.
    pub scopes: Vec<String>,
    /// When the key or the token expires.
    pub expires_at: Option<Micros>,
}

impl Keys {
    /// Who the caller is.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED for an anonymous caller; NOT_FOUND for a key that was deleted meanwhile; UNAVAILABLE;
    /// DEADLINE_EXCEEDED.
    pub async fn identity(&self, caller: &Caller, context: CallContext<'_>) -> Result<Identity> {
        match caller {
            Caller::Anonymous => Err(Error::missing_credential()),
            Caller::Session(session) => Ok(of_session(session)),
            Caller::Key(key) => self.of_key(key, context).await,
            Caller::Operator { method } => {
                self.of_method("operator", method, self.keyspaces(|_| true), ROOT_SCOPE, context).await
            }
            Caller::Service { method, allowed_keyspaces } => {
                let allowed = |index| allowed_keyspaces.as_ref().is_none_or(|allowed| allowed.contains(index));
                self.of_method("service", method, self.keyspaces(allowed), VERIFY_SCOPE, context).await
            }
        }
    }

    async fn of_key(&self, key: &Arc<KeyCaller>, context: CallContext<'_>) -> Result<Identity> {
        let record = self.own_record(key.id, context).await?;
        let organization = Some(record.binding.organization).filter(|organization| !organization.is_empty());
        Ok(Identity {
            caller: "key",
            subject: None,
            key: Some(key.id),
            name: Some(record.name).filter(|name| !name.is_empty()),
            keyspaces: vec![key.keyspace.name.clone()],
            organizations: organization.map(|organization| (organization, None)).into_iter().collect(),
            scopes: record.scopes,
            expires_at: record.expires_at,
        })
    }

    /// An operator or a service.
    async fn of_method(
        &self,
        caller: &'static str,
        method: &AuthMethod,
        keyspaces: Vec<String>,
        scope: &str,
        context: CallContext<'_>,
    ) -> Result<Identity> {
        let without_key = Identity {
            caller,
            subject: None,
            key: None,
            name: None,
            keyspaces,
            organizations: Vec::new(),
            scopes: vec![scope.to_owned()],
            expires_at: None,
        };
        match method {
            AuthMethod::Root => Ok(without_key),
            AuthMethod::Certificate(san) => Ok(Identity { subject: Some(san.to_string()), ..without_key }),
            AuthMethod::Key(id) => {
                let record = self.own_record(*id, context).await?;
                Ok(Identity {
                    key: Some(*id),
                    name: Some(record.name).filter(|name| !name.is_empty()),
                    scopes: record.scopes,
                    expires_at: record.expires_at,
                    ..without_key
                })
            }
        }
    }

    fn keyspaces(&self, allowed: impl Fn(KeyspaceIndex) -> bool) -> Vec<String> {
        let names = self.registry.all().iter().map(|keyspace| &keyspace.name);
        names.filter(|name| self.registry.index(name).is_some_and(&allowed)).cloned().collect()
    }
}

fn of_session(session: &SessionCaller) -> Identity {
    let actor = session.actor.as_str();
    Identity {
        caller: "session",
        subject: Some(actor.strip_prefix("user:").unwrap_or(actor).to_owned()),
        key: None,
        name: session.name.clone(),
        keyspaces: session.keyspaces.to_vec(),
        organizations: session.organizations.iter().map(|own| (own.organization.clone(), Some(own.role))).collect(),
        scopes: Vec::new(),
        expires_at: session.expires_at,
    }
}
