//! Facts of a key: its owner, and what it may do.

use std::{sync::Arc, time::SystemTime};

use crate::{ended::Ended, error::Error, proto, reason::Reason, timestamp::system_time};

/// What a verdict contains about a key, apart from its rate limit.
pub(crate) struct KeyFacts {
    pub(crate) id: String,
    pub(crate) keyspace: String,
    pub(crate) organization: String,
    pub(crate) instance: String,
    pub(crate) environment: String,
    pub(crate) name: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) created: SystemTime,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) metadata: Vec<(String, String)>,
    /// None if the key cannot be watched: the client was not attached.
    pub(crate) watcher: Option<Box<dyn KeyWatcher>>,
}

/// Watches the key that facts were read from.
pub(crate) trait KeyWatcher: Send + Sync {
    /// Completes when the key is refused, or no longer has these facts.
    fn watch(&self, facts: &Arc<KeyFacts>) -> Ended;
}

impl KeyFacts {
    /// The facts in a response.
    ///
    /// # Errors
    ///
    /// A time that is out of range.
    pub(crate) fn of(response: proto::VerifyResponse) -> Result<Self, Error> {
        let mut metadata: Vec<_> = response.metadata.into_iter().collect();
        metadata.sort();
        Ok(Self {
            id: response.key_id,
            keyspace: response.keyspace,
            organization: response.organization,
            instance: response.instance,
            environment: response.environment,
            name: response.name,
            scopes: response.scopes,
            created: response.create_time.map(system_time).transpose()?.unwrap_or(SystemTime::UNIX_EPOCH),
            expires: response.expire_time.map(system_time).transpose()?,
            metadata,
            watcher: None,
        })
    }

    /// The same facts, of a key that `watcher` can watch.
    pub(crate) fn watched_by(self, watcher: Option<Box<dyn KeyWatcher>>) -> Self {
        Self { watcher, ..self }
    }

    /// Compares the facts with the key's `current` ones. Returns the reason for which a check that asserts all of these
    /// facts would be refused now; none if it would be VALID. A lost scope counts whether or not the check named it,
    /// since the caller may have relied on it.
    pub(crate) fn lost(&self, current: &Self) -> Option<Reason> {
        let parts = [
            (&self.keyspace, &current.keyspace, Reason::NotFound),
            (&self.environment, &current.environment, Reason::WrongEnvironment),
            (&self.organization, &current.organization, Reason::WrongOrganization),
            (&self.instance, &current.instance, Reason::WrongInstance),
        ];
        let part = parts.iter().find(|(own, now, _)| own != now).map(|(_, _, reason)| *reason);
        let keeps = |scope| current.scopes.contains(scope);
        part.or_else(|| (!self.scopes.iter().all(keeps)).then_some(Reason::InsufficientScope))
    }

    /// Bytes that they take, about.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.keyspace, &self.organization, &self.instance, &self.environment, &self.name];
        let scopes = self.scopes.iter().map(|scope| scope.len() + size_of::<String>());
        let metadata = self.metadata.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>());
        size_of::<Self>() + texts.iter().map(|text| text.len()).chain(scopes).chain(metadata).sum::<usize>()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn response(key_id: &str) -> proto::VerifyResponse {
        proto::VerifyResponse { code: proto::Code::Valid.into(), key_id: key_id.into(), ..Default::default() }
    }

    /// The facts of a key with this id.
    pub(crate) fn facts(id: &str) -> Arc<KeyFacts> {
        Arc::new(KeyFacts::of(response(id)).unwrap())
    }

    #[test]
    fn facts_are_lost_in_the_order_of_verdicts() {
        type Change = fn(&mut proto::VerifyResponse);
        let facts = |change: Change| {
            let mut response = proto::VerifyResponse {
                keyspace: "norrix".into(),
                scopes: vec!["build".into(), "submit".into()],
                ..response("key_1")
            };
            change(&mut response);
            KeyFacts::of(response).unwrap()
        };
        let before = facts(|_| {});
        let cases: [(Change, Option<Reason>); 8] = [
            (|_| {}, None),
            (|key| key.name = "other".into(), None),
            (|key| key.scopes.push("update".into()), None),
            (|key| key.scopes.clear(), Some(Reason::InsufficientScope)),
            (|key| (key.instance, key.scopes) = ("other".into(), Vec::new()), Some(Reason::WrongInstance)),
            (|key| (key.organization, key.instance) = ("b".into(), "b".into()), Some(Reason::WrongOrganization)),
            (|key| (key.environment, key.organization) = ("b".into(), "b".into()), Some(Reason::WrongEnvironment)),
            (|key| (key.keyspace, key.environment) = ("b".into(), "b".into()), Some(Reason::NotFound)),
        ];
        for (change, lost) in cases {
            assert_eq!(before.lost(&facts(change)), lost);
        }
    }
}
