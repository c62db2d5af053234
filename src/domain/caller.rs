//! The caller of an operation. `Caller` has no default, so code that needs one does not compile without it.

use std::sync::Arc;

use super::{
    key::{Binding, KeyId},
    keyspace::{AllowedKeyspaces, Keyspace},
    session::SessionCaller,
};

/// The caller of an operation.
#[derive(Debug, Clone)]
pub enum Caller {
    /// May do everything.
    Operator {
        /// How it authenticated.
        method: AuthMethod,
    },
    /// May verify keys.
    Service {
        /// How it authenticated.
        method: AuthMethod,
        /// The keyspaces it may verify; `None` for all.
        allowed_keyspaces: Option<Arc<AllowedKeyspaces>>,
    },
    /// A product's key. It may manage itself, and with the admin scope also the keys of its organization.
    Key(Arc<KeyCaller>),
    /// A person who logged in at a trusted issuer.
    Session(Arc<SessionCaller>),
    /// A REST request without a credential.
    Anonymous,
}

/// How an operator or a service authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    /// With the root credential from the process environment.
    Root,
    /// With a key of the reserved keyspace.
    Key(KeyId),
    /// With a client certificate that has this subject alternative name.
    Certificate(Arc<str>),
}

impl AuthMethod {
    fn actor(&self) -> String {
        match self {
            Self::Root => "root".to_owned(),
            Self::Key(key) => format!("key:{key}"),
            Self::Certificate(san) => format!("san:{san}"),
        }
    }
}

/// A product's key as a caller.
#[derive(Debug, Clone)]
pub struct KeyCaller {
    /// The key's id.
    pub id: KeyId,
    /// The key's keyspace.
    pub keyspace: Arc<Keyspace>,
    /// The key's organization, instance and environment.
    pub binding: Binding,
    /// Whether the key holds its keyspace's admin scope.
    pub admin: bool,
}

impl Caller {
    /// The caller in the form that `created_by` and `revoked_by` store.
    pub fn actor(&self) -> String {
        match self {
            Self::Operator { method } | Self::Service { method, .. } => method.actor(),
            Self::Key(key) => format!("key:{}", key.id),
            Self::Session(session) => session.actor.clone(),
            Self::Anonymous => "public".to_owned(),
        }
    }

    /// The id of the caller's key; `None` if it did not authenticate with a key that has an id.
    pub fn key_id(&self) -> Option<KeyId> {
        match self {
            Self::Operator { method: AuthMethod::Key(key) } | Self::Service { method: AuthMethod::Key(key), .. } => {
                Some(*key)
            }
            Self::Key(key) => Some(key.id),
            Self::Operator { .. } | Self::Service { .. } | Self::Session(_) | Self::Anonymous => None,
        }
    }

    /// The caller's kind, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Operator { .. } => "operator",
            Self::Service { .. } => "service",
            Self::Key(key) if key.admin => "admin_key",
            Self::Key(_) => "key",
            Self::Session(_) => "session",
            Self::Anonymous => "nobody",
        }
    }
}
