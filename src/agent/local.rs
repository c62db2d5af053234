//! Answers from memory: VALID only. Every other answer is a replica's.

use keyward_client::{Client, LocalKey, LocalMemory, Principal};

use super::caller::Caller;
use crate::{
    domain::verdict::VerdictCode,
    proto::{Code, VerifyResponse},
    service::verify::Check,
};

/// A caller whose key is in memory, and the memory, which may answer now.
pub(super) struct LocalCaller<'a> {
    memory: LocalMemory<'a>,
    /// The caller's own key. None for the agent's credential: the session ends when that is revoked.
    key: Option<LocalKey>,
}

impl<'a> LocalCaller<'a> {
    /// None if memory may not answer now, or does not hold the caller's key with the right to verify. Reads the lease
    /// once, for the caller's key and the checked one.
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

    /// Returns the checked key if it is in memory, satisfies every assertion, and is one that the caller may verify.
    pub(super) fn verify(&self, check: &Check<'_>) -> Option<Principal> {
        // A replica's error names the invalid field.
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

/// The answer to a Verify of a valid key: each field is what a replica answers.
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
