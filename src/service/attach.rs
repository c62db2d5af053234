//! Attach: sessions of clients that hold keys in their own memory. [`crate::replica::attach`] makes them as strict as
//! calls. This file decides who may have a session, and which keys it may hold.

use std::sync::Arc;

use tokio::{
    sync::{OnceCell, mpsc},
    time::Instant,
};

use super::{
    authenticate::Authenticator,
    verify::{
        Check, Verdict,
        evaluator::{Evaluator, digest_of},
    },
};
use crate::{
    domain::{
        access,
        clock::{Clock, Micros, micros},
        error::{Error, ErrorKind, Result},
        key::Digest,
        keyspace::{AllowedKeyspaces, Registry},
        secret::Secret,
        verdict::VerdictCode,
    },
    replica::{
        Replica,
        attach::{AnswerKey, Renewal, Session, SessionMessage, WatchedVerdict},
        cached_key::CachedKey,
        fault_injection,
    },
    store::{Store, StoreError},
};

/// Name of the watermark with the longest time, in microseconds, for which a client may answer after this process has
/// ended. Used only where one process owns the database; replicas have rows for this.
const MAX_GRANT: &str = "attach.longest_grant";
/// Uses in one report.
const MAX_USES: usize = 1_000;

/// The caller of a session.
#[derive(Debug, Clone)]
pub(crate) enum AttachCaller {
    /// The holder of this secret, which is verified at each renewal.
    Secret(Arc<Secret>),
    /// A caller that its connection identifies, with the keyspaces whose keys it may verify.
    Certificate(String, Option<Arc<AllowedKeyspaces>>),
}

/// A message to a client.
#[derive(Debug)]
pub(crate) enum ToClient {
    /// Time from before the renewal was sent, in microseconds; 0 grants nothing.
    Grant { number: u64, length: Micros },
    /// The answer to a look-up.
    Key {
        id: u64,
        digest: Digest,
        /// The key; none if the client must not keep it.
        key: Option<Verdict>,
        /// The verdict on a watched key that the client must not keep.
        watched_verdict: Option<Verdict>,
        /// Time until the key expires; none if it does not expire.
        life: Option<Micros>,
    },
    /// A key has changed.
    Invalidate { number: u64, digest: Digest },
    /// Any key may have changed.
    Clear { number: u64 },
    /// The session drains: the client is to attach elsewhere.
    Drain,
    /// The client's own credential is not valid any more.
    End { number: u64 },
}

/// The keyspaces whose keys a caller may verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VerifyRights {
    /// Every one.
    All,
    /// Those of these names.
    Keyspaces(Vec<String>),
}

/// The messages to one client, in the order in which they must reach it.
pub(crate) struct Messages {
    queue: mpsc::Receiver<SessionMessage>,
    clock: Arc<dyn Clock>,
}

impl Messages {
    /// The next message; none when the session is over.
    pub(crate) fn poll(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<ToClient>> {
        self.queue.poll_recv(cx).map(|message| message.map(|message| self.convert(message)))
    }

    fn convert(&self, message: SessionMessage) -> ToClient {
        match message {
            SessionMessage::Grant { number, length } => ToClient::Grant { number, length },
            SessionMessage::Key(AnswerKey { id, digest, key, watched_verdict, .. }) => {
                let verdict =
                    |code, key: Option<Arc<CachedKey>>| Verdict { code, key, rate: None, missing_scope: None };
                let cached =
                    key.as_ref().or(watched_verdict.as_ref().and_then(|watched_verdict| watched_verdict.key.as_ref()));
                let end = cached.and_then(|key| key.expire_time());
                let life = end.map(|end| end.saturating_sub(self.clock.wall()).max(0));
                let key = key.map(|key| verdict(VerdictCode::Valid, Some(key)));
                let watched_verdict =
                    watched_verdict.map(|watched_verdict| verdict(watched_verdict.code, watched_verdict.key));
                ToClient::Key { id, digest, key, watched_verdict, life }
            }
            SessionMessage::Invalidate { number, digest } => ToClient::Invalidate { number, digest },
            SessionMessage::Clear { number } => ToClient::Clear { number },
            SessionMessage::Drain => ToClient::Drain,
            SessionMessage::End { number } => ToClient::End { number },
        }
    }
}

/// How a look-up names its key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyName<'a> {
    /// By the secret that was presented.
    Secret(&'a str),
    /// By the digest that the answer to an earlier look-up contained.
    Digest(Digest),
}

/// Uses of one key that a client reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReportedUse {
    /// The key.
    pub(crate) digest: Digest,
    /// How many.
    pub(crate) count: u32,
    /// How long ago the last one was, in microseconds.
    pub(crate) age: Micros,
}

/// Opens sessions.
pub struct AttachService {
    pub(super) evaluator: Arc<Evaluator>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) replica: Arc<Replica>,
    pub(super) registry: Arc<Registry>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    /// Set once the longest grant is stored.
    pub(super) written: OnceCell<()>,
}

impl AttachService {
    /// Counts grants of the previous process, which may still run. Call this before the first Revoke.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn load_earlier_grants(&self) -> std::result::Result<(), StoreError> {
        if !self.replica.has_peers()
            && !fault_injection::disabled("attach_recall")
            && let Some(max_grant) = self.store.watermark(MAX_GRANT.to_owned()).await?
        {
            self.replica.attachments.count_earlier_grants(max_grant);
        }
        Ok(())
    }

    /// Opens a session.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED and PERMISSION_DENIED as for a Verify; RESOURCE_EXHAUSTED if there are too many; UNAVAILABLE.
    pub(crate) async fn open(
        self: &Arc<Self>,
        caller: AttachCaller,
        deadline: Instant,
    ) -> Result<(Attached, Messages)> {
        self.rights(&caller, deadline).await?;
        if !self.replica.has_peers() {
            // Store this before the first grant: the next process has to wait for it.
            let max_grant = self.replica.attachments.max_grant();
            let write = || async { self.store.advance_watermark(MAX_GRANT.to_owned(), max_grant).await.map(drop) };
            self.written.get_or_try_init(write).await?;
        }
        let (name, credential) = match &caller {
            AttachCaller::Secret(secret) => {
                let digest = digest_of(secret.expose());
                (data_encoding::HEXLOWER.encode(&digest.unwrap_or(Digest([0; 32])).0), digest)
            }
            AttachCaller::Certificate(name, _) => (name.clone(), None),
        };
        let (session, queue) = self.replica.attachments.register(&name, credential)?;
        let attached = Attached { service: Arc::clone(self), session, caller };
        // Check again, because a revocation of the caller before the registration did not reach the session.
        self.rights(&attached.caller, deadline).await?;
        Ok((attached, Messages { queue, clock: Arc::clone(&self.clock) }))
    }

    /// The keyspaces whose keys the holder of a valid key may verify; none if it may not call Verify.
    pub(crate) fn rights_of(&self, verdict: &Verdict) -> Option<VerifyRights> {
        let key = verdict.key.as_ref().filter(|_| verdict.code == VerdictCode::Valid)?;
        let allowed = access::may_verify(&self.auth.caller(key)).ok()?;
        Some(match allowed {
            None => VerifyRights::All,
            Some(allowed) => {
                let names = self.registry.all().iter().map(|keyspace| &keyspace.name);
                let may = |name: &&String| self.registry.index(name).is_some_and(|index| allowed.contains(index));
                VerifyRights::Keyspaces(names.filter(may).cloned().collect())
            }
        })
    }

    /// The keyspaces whose keys a caller may verify, and the remaining time of its credential.
    async fn rights(
        &self,
        caller: &AttachCaller,
        deadline: Instant,
    ) -> Result<(Option<Arc<AllowedKeyspaces>>, Micros)> {
        match caller {
            AttachCaller::Certificate(_, allowed) => Ok((allowed.clone(), Micros::MAX)),
            AttachCaller::Secret(secret) => {
                let (allowed, expires) = self.auth.authorize_attach(secret.expose(), deadline).await?;
                let left = expires.map_or(Micros::MAX, |end| end.saturating_sub(self.clock.wall()));
                Ok((allowed, left))
            }
        }
    }
}

fn is_undecided(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}

/// An open session. It ends when this is dropped.
pub(crate) struct Attached {
    service: Arc<AttachService>,
    session: Arc<Session>,
    caller: AttachCaller,
}

impl Attached {
    /// Grants time, if the caller's credential is still valid.
    ///
    /// # Errors
    ///
    /// Those of [`AttachService::open`].
    pub(crate) async fn renew(&self, number: u64, deadline: Instant) -> Result<()> {
        let left = match self.service.rights(&self.caller, deadline).await {
            Ok((_, left)) => left,
            // The caller's credential could not be checked: grant nothing, and keep the session.
            Err(error) if is_undecided(&error) => 0,
            Err(error) => return Err(error),
        };
        self.service.replica.attachments.grant(&self.session, Renewal(number), left);
        Ok(())
    }

    /// Answers a look-up. The client must not keep a key that is invalid, that the caller may not verify, or that has a
    /// rate limit. A client that will `watch` such a key gets the verdict all the same.
    ///
    /// # Errors
    ///
    /// Those of [`AttachService::open`].
    pub(crate) async fn look_up(&self, id: u64, name: KeyName<'_>, watch: bool, deadline: Instant) -> Result<()> {
        let AttachService { replica, registry, .. } = &*self.service;
        let digest = match name {
            KeyName::Secret(secret) => digest_of(secret),
            KeyName::Digest(digest) => Some(digest),
        };
        let rights = match self.service.rights(&self.caller, deadline).await {
            Ok((allowed, _)) => Some(allowed),
            Err(error) if is_undecided(&error) => None,
            Err(error) => return Err(error),
        };
        loop {
            // Take the position before anything is read, so that a later change is detected.
            let seq = replica.cache.current_seq();
            let found = match &rights {
                None => None,
                Some(allowed) => match self.verdict(name, allowed.as_deref(), deadline).await {
                    Ok(verdict) => Some(verdict),
                    // The client falls back to calls, which return the error.
                    Err(error) if is_undecided(&error) => None,
                    Err(error) => return Err(error),
                },
            };
            let valid = found.as_ref().filter(|verdict| verdict.code == VerdictCode::Valid);
            let key = valid.and_then(|verdict| verdict.key.clone()).filter(|key| {
                let keyspace = key.keyspace.and_then(|index| registry.get(index));
                keyspace.is_some_and(|keyspace| key.rate_limit().or(keyspace.rate_limit).is_none())
            });
            let watched_verdict = found.filter(|_| watch && key.is_none());
            let watched_verdict =
                watched_verdict.map(|verdict| WatchedVerdict { code: verdict.code, key: verdict.key });
            let answer = AnswerKey { id, digest: digest.unwrap_or(Digest([0; 32])), key, watched_verdict, seq };
            if replica.attachments.answer(&self.session, answer) {
                return Ok(());
            }
        }
    }

    async fn verdict(
        &self,
        name: KeyName<'_>,
        allowed: Option<&AllowedKeyspaces>,
        deadline: Instant,
    ) -> Result<Verdict> {
        match name {
            KeyName::Secret(secret) => {
                let check = Check { secret, cost: None, ..Check::default() };
                self.service.evaluator.decide(&check, allowed, deadline).await
            }
            KeyName::Digest(digest) => self.service.evaluator.verdict_without_limit(digest, allowed, deadline).await,
        }
    }

    /// Records that the client has handled a message.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a message that was never sent.
    pub(crate) fn acknowledge(&self, number: u64) -> Result<()> {
        self.service.replica.attachments.acknowledge(&self.session, number)
    }

    /// Records uses. Keys that are not in memory are looked up. Uses of keys that the caller may not verify, or that do
    /// not exist, are ignored.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for too many; those of [`AttachService::open`].
    pub(crate) async fn uses(&self, uses: &[ReportedUse], deadline: Instant) -> Result<()> {
        if uses.len() > MAX_USES {
            return Err(Error::invalid("uses", "must be at most 1,000"));
        }
        let allowed = match self.service.rights(&self.caller, deadline).await {
            Ok((allowed, _)) => allowed,
            Err(error) if is_undecided(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let replica = &self.service.replica;
        for reported in uses {
            let cached = replica.cache.get(&reported.digest);
            let entry = match cached {
                Some(entry) => Some(entry),
                // The uses of a key that cannot be read are lost.
                None => replica.look_up(reported.digest, deadline).await.ok().flatten().map(|found| found.entry),
            };
            let may = |index| allowed.as_ref().is_none_or(|allowed| allowed.contains(index));
            if let Some(entry) = entry.filter(|entry| entry.keyspace.is_some_and(may)) {
                // A use is never in the future, and never older than the longest grant.
                let age = reported.age.clamp(0, micros(std::time::Duration::from_mins(1)));
                replica.usage.record_many(&entry, self.service.clock.wall() - age, reported.count);
            }
        }
        Ok(())
    }

    /// Asks the client to attach elsewhere, and grants no more time.
    pub(crate) fn drain(&self) {
        self.session.drain();
    }

    /// Ends the session of a client that no longer answers from its memory.
    pub(crate) fn stopped(&self) {
        self.service.replica.attachments.end(&self.session, true);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.service.replica.attachments.end(&self.session, false);
    }
}
