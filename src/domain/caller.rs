//! Who makes a call. There is no default: code that needs a caller does not compile without one.

use std::sync::Arc;

use super::{
    key::{Binding, KeyId},
    keyspace::{AllowedKeyspaces, Keyspace},
    session::SessionCaller,
};

/// Who makes a call to Keyward.
#[derive(Debug, Clone)]
pub enum Caller {
    /// May do everything.
    Operator {
        /// How it has proved that.
        method: AuthMethod,
    },
    /// May verify.
    Service {
        /// How it has proved that.
        method: AuthMethod,
        /// What it may ask about; none: everything.
        allowed_keyspaces: Option<Arc<AllowedKeyspaces>>,
    },
    /// A product's key: an admin of its organization where it holds the admin scope, and always itself.
    Key(Arc<KeyCaller>),
    /// A person who has logged in at a trusted issuer.
    Session(Arc<SessionCaller>),
    /// No credential; over REST only.
    Anonymous,
}

/// How an operator or a service has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    /// By the root credential of the environment.
    Root,
    /// By a key of the reserved keyspace.
    Key(KeyId),
    /// By a client certificate with this subject alternative name.
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
    /// Its id.
    pub id: KeyId,
    /// Its keyspace.
    pub keyspace: Arc<Keyspace>,
    /// What it is bound to.
    pub binding: Binding,
    /// Whether it holds its keyspace's admin scope.
    pub admin: bool,
}

impl Caller {
    /// The caller as `created_by` and `revoked_by` record it.
    pub fn actor(&self) -> String {
        match self {
            Self::Operator { method } | Self::Service { method, .. } => method.actor(),
            Self::Key(key) => format!("key:{}", key.id),
            Self::Session(session) => session.actor.clone(),
            Self::Anonymous => "public".to_owned(),
        }
    }

    /// The caller's own key; none for the environment's root credential, for a certificate, for a session and for nobody.
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
