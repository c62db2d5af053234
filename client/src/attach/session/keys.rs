//! The keys of a session: looked up, kept, watched for work that was admitted under them, and removed.

use std::sync::Arc;

use super::{
    super::{
        clock::boottime,
        memory::{Digest, Entry, VerifyRights},
        tag::Tag,
        watch::{AttachedWatcher, Confirmed, KeyName, Watch},
    },
    MAX_LOOK_UPS, Session, Wanted, length_of, micros,
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
    asked: i64,
    /// The key is watched.
    watch: bool,
}

impl Session {
    pub(super) fn look_up(&mut self, wanted: &Wanted) {
        if self.writer.get(wanted.tag).is_none() {
            let secret = String::clone(&wanted.secret);
            self.send_look_up(wanted.tag, AttachLookUp { secret, ..AttachLookUp::default() });
        }
    }

    fn send_look_up(&mut self, tag: Tag, mut message: AttachLookUp) {
        let Some(asked) = boottime() else { return };
        message.id = self.next_look_up;
        self.next_look_up += 1;
        self.look_ups.insert(message.id, LookUp { tag, asked, watch: message.watch });
        self.send(Up::LookUp(message));
    }

    /// Covers the watched keys for which that was requested, as far as there is room for look-ups.
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
        // Keys that are not watched any more must not pile up.
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

    /// Handles the answer to a look-up: keeps the key if the replica allows it, and ends or goes on with a watch.
    pub(super) fn keep(&mut self, AttachKey { id, digest, key, life, verdict, rights }: AttachKey) {
        let Some(LookUp { tag, asked, watch }) = self.look_ups.remove(&id) else { return };
        let rights = rights.map(|rights| {
            if rights.all_keyspaces { VerifyRights::All } else { VerifyRights::Keyspaces(rights.keyspaces) }
        });
        let standing = match (key, verdict) {
            (Some(key), _) => self.standing((tag, asked), digest, key, life).inspect(|standing| {
                if let Standing::Valid { facts, digest, expires } = standing {
                    let entry = Entry::new(Arc::clone(facts), *digest, *expires);
                    self.writer.insert(tag, entry.with_rights(rights));
                }
            }),
            (None, Some(verdict)) if watch => self.standing((tag, asked), digest, verdict, life),
            (None, _) => None,
        };
        match standing {
            _ if !watch => {}
            Some(Standing::Valid { facts, digest, expires }) => {
                self.confirm(tag, Confirmed { facts, digest, expires, at: asked });
            }
            Some(Standing::Refused(reason)) => self.shared.watches.refuse(tag, reason),
            None => self.undecided.push(tag),
        }
    }

    /// The verdict in an answer; none if it is not understood.
    fn standing(
        &self,
        (tag, asked): (Tag, i64),
        digest: Vec<u8>,
        response: VerifyResponse,
        life: Option<prost_types::Duration>,
    ) -> Option<Standing> {
        if let Some(reason) = Reason::of(response.code()).ok()? {
            return Some(Standing::Refused(reason));
        }
        let digest = Digest::try_from(digest).ok()?;
        let expires = match life {
            None => i64::MAX,
            Some(life) => asked.saturating_add(micros(length_of(life)?)),
        };
        let watcher = AttachedWatcher {
            watches: Arc::clone(&self.shared.watches),
            tag,
            name: KeyName::Digest(digest),
            expires: Some(expires),
        };
        let facts = KeyFacts::of(response).ok()?.watched_by(Some(Box::new(watcher)));
        Some(Standing::Valid { facts: Arc::new(facts), digest, expires })
    }
}

/// A replica's verdict on a key.
enum Standing {
    Valid { facts: Arc<KeyFacts>, digest: Digest, expires: i64 },
    Refused(Reason),
}
