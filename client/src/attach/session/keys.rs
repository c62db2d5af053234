//! The keys of a session: looked up, kept, watched for work that was admitted under them, and removed.

use std::sync::Arc;

use super::{
    super::{
        clock::boottime,
        memory::{Digest, Entry, VerifyRights},
        tag::Tag,
        watch::{AttachedWatcher, Confirmed, KeyName, Watch},
    },
    LookUpRequest, MAX_LOOK_UPS, Session, length_of, micros,
};
use crate::{
    key_facts::KeyFacts,
    proto::{AttachInvalidate, AttachKey, AttachLookUp, VerifyResponse, attach_request::Message as Up},
    reason::Reason,
};

/// A look-up that was sent.
pub(super) struct LookUp {
    tag: Tag,
    /// When it was sent.
    sent_at: i64,
    /// The key is watched.
    watch: bool,
}

impl Session {
    pub(super) fn look_up(&mut self, request: &LookUpRequest) {
        if self.writer.get(request.tag).is_none() {
            let secret = String::clone(&request.secret);
            self.send_look_up(request.tag, AttachLookUp { secret, ..AttachLookUp::default() });
        }
    }

    fn send_look_up(&mut self, tag: Tag, mut message: AttachLookUp) {
        let Some(sent_at) = boottime() else { return };
        message.id = self.next_look_up;
        self.next_look_up += 1;
        self.look_ups.insert(message.id, LookUp { tag, sent_at, watch: message.watch });
        self.send(Up::LookUp(message));
    }

    /// Covers watched keys that request it, up to [`MAX_LOOK_UPS`] look-ups in flight.
    pub(super) fn cover(&mut self) {
        let room = MAX_LOOK_UPS.saturating_sub(self.look_ups.len());
        for watch in self.shared.watches.take_requests(room) {
            self.cover_one(&watch);
        }
    }

    fn cover_one(&mut self, watch: &Watch) {
        if let (Some(entry), Some(at)) = (self.writer.get(watch.tag), boottime()) {
            // It was looked up on this session, and has not changed since.
            let (facts, digest, expires) = (Arc::clone(&entry.facts), entry.digest, entry.expires);
            return self.confirm(watch.tag, Confirmed { facts, digest, expires, at });
        }
        let named = match watch.name() {
            KeyName::Secret(secret) => AttachLookUp { secret: String::clone(&secret), ..AttachLookUp::default() },
            KeyName::Digest(digest) => AttachLookUp { digest: digest.to_vec(), ..AttachLookUp::default() },
        };
        self.send_look_up(watch.tag, AttachLookUp { watch: true, ..named });
    }

    /// Notes the current facts of a watched key. The replica sends its next change on this session.
    fn confirm(&mut self, tag: Tag, confirmed: Confirmed) {
        let watches = &self.shared.watches;
        self.watched.insert(confirmed.digest, tag);
        // Drop keys that are no longer watched: otherwise the map grows with each watch.
        if self.watched.len() > 2 * watches.keys() + 64 {
            self.watched.retain(|_, tag| watches.has(*tag));
        }
        watches.confirm(tag, confirmed, &self.writer.memory);
    }

    /// Removes a key, then acknowledges, and looks it up again if it is watched.
    pub(super) fn invalidate(&mut self, AttachInvalidate { number, digest }: AttachInvalidate) {
        let Ok(digest) = Digest::try_from(digest) else {
            self.clear();
            self.acknowledge(number);
            return self.cover();
        };
        let removed = self.writer.remove(&digest);
        let watched = self.watched.remove(&digest).or(removed);
        self.acknowledge(number);
        if let (Some(tag), Some(now)) = (watched, boottime()) {
            self.shared.watches.uncover(tag, now);
            self.cover();
        }
    }

    /// Removes every key. Those that are watched are looked up again.
    pub(super) fn clear(&mut self) {
        self.writer.clear();
        self.watched.clear();
        if let Some(now) = boottime() {
            self.shared.watches.uncover_all(now);
        }
    }

    /// Handles the answer to a look-up: keeps the key if the replica allows it, and ends or continues the watch.
    pub(super) fn keep(&mut self, AttachKey { id, digest, key, life, verdict, rights }: AttachKey) {
        let Some(LookUp { tag, sent_at, watch }) = self.look_ups.remove(&id) else { return };
        let rights = rights.map(|rights| {
            if rights.all_keyspaces { VerifyRights::All } else { VerifyRights::Keyspaces(rights.keyspaces) }
        });
        let look_up_verdict = match (key, verdict) {
            (Some(key), _) => self.look_up_verdict((tag, sent_at), digest, key, life).inspect(|look_up_verdict| {
                if let LookUpVerdict::Valid { facts, digest, expires } = look_up_verdict {
                    let entry = Entry::new(Arc::clone(facts), *digest, *expires);
                    self.writer.insert(tag, entry.with_rights(rights));
                }
            }),
            (None, Some(verdict)) if watch => self.look_up_verdict((tag, sent_at), digest, verdict, life),
            (None, _) => None,
        };
        match look_up_verdict {
            _ if !watch => {}
            Some(LookUpVerdict::Valid { facts, digest, expires }) => {
                self.confirm(tag, Confirmed { facts, digest, expires, at: sent_at });
            }
            Some(LookUpVerdict::Refused(reason)) => self.shared.watches.refuse(tag, reason),
            None => self.undecided.push(tag),
        }
    }

    /// The verdict in an answer; none if it cannot be parsed.
    fn look_up_verdict(
        &self,
        (tag, sent_at): (Tag, i64),
        digest: Vec<u8>,
        response: VerifyResponse,
        life: Option<prost_types::Duration>,
    ) -> Option<LookUpVerdict> {
        if let Some(reason) = Reason::of(response.code()).ok()? {
            return Some(LookUpVerdict::Refused(reason));
        }
        let digest = Digest::try_from(digest).ok()?;
        let expires = match life {
            None => i64::MAX,
            Some(life) => sent_at.saturating_add(micros(length_of(life)?)),
        };
        let watcher = AttachedWatcher {
            watches: Arc::clone(&self.shared.watches),
            tag,
            name: KeyName::Digest(digest),
            expires: Some(expires),
        };
        let facts = KeyFacts::of(response).ok()?.watched_by(Some(Box::new(watcher)));
        Some(LookUpVerdict::Valid { facts: Arc::new(facts), digest, expires })
    }
}

/// A replica's verdict on a key.
enum LookUpVerdict {
    Valid { facts: Arc<KeyFacts>, digest: Digest, expires: i64 },
    Refused(Reason),
}
