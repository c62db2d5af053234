//! Answers from memory. Only VALID is one; for everything else there is none here, and a replica is asked.

use keyward_client::{Client, LocalKey, LocalMemory, Principal};

use super::caller::Caller;
use crate::{
    domain::verdict::VerdictCode,
    proto::{Code, VerifyResponse},
    service::verify::Check,
};

/// A caller that memory knows, and the memory.
pub(super) struct LocalCaller<'a> {
    memory: LocalMemory<'a>,
    /// The caller's own key; none: the agent's credential, which its session stands for.
    key: Option<LocalKey>,
}

impl<'a> LocalCaller<'a> {
    /// The caller, if memory may answer now and knows it as one that may ask. Reads the lease once, for the caller's key and the checked one.
    pub(super) fn of(client: &'a Client, caller: Caller<'_>) -> Option<Self> {
        let memory = client.local_memory()?;
        let key = match caller {
            Caller::Own => None,
            Caller::Secret(secret) => Some(memory.key(secret).filter(LocalKey::is_of_verifier)?),
        };
        Some(Self { memory, key })
    }

    /// See [`LocalMemory::gateway_rules`].
    pub(super) fn gateway_rules(&self) -> &str {
        self.memory.gateway_rules()
    }

    /// The key that is checked, if it is in memory, is all that is asserted, and is one that the caller may ask about.
    pub(super) fn verify(&self, check: &Check<'_>) -> Option<Principal> {
        // A check that a replica would refuse is one for a replica.
        if check.validate().is_err() || check.asserted.forbidden {
            return None;
        }
        let key = self.memory.key(check.secret)?;
        let principal = key.principal();
        let asserted = &check.asserted;
        let bindings = [
            (check.keyspace, Some(principal.keyspace())),
            (asserted.environment, principal.environment()),
            (asserted.organization, principal.organization()),
            (asserted.instance, principal.instance()),
        ];
        let bound = bindings.iter().all(|(named, own)| named.is_empty() || Some(*named) == *own);
        if !bound || !asserted.scopes.iter().all(|scope| principal.has_scope(scope)) {
            return None;
        }
        if let Some(own) = &self.key {
            if !own.may_verify(principal.keyspace()) {
                return None;
            }
            own.used();
        }
        key.used();
        Some(principal)
    }
}

/// The answer to a Verify that found this key valid: the one of a replica, field by field.
pub(super) fn response(principal: &Principal) -> VerifyResponse {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    VerifyResponse {
        code: Code::Valid.into(),
        message: VerdictCode::Valid.message("").into_owned(),
        key_id: principal.key_id().to_owned(),
        keyspace: principal.keyspace().to_owned(),
        organization: text(principal.organization()),
        instance: text(principal.instance()),
        environment: text(principal.environment()),
        name: principal.name().to_owned(),
        scopes: principal.scopes().map(str::to_owned).collect(),
        create_time: Some(principal.created().into()),
        expire_time: principal.expires().map(Into::into),
        metadata: principal.metadata_pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        rate_limit: None,
    }
}
