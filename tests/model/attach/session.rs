//! A session: the client's end, and what its replica does for it.

use crate::{
    protocol::Protocol,
    rules::Rule,
    state::{Load, Message, Revoke, Session, State, Verify},
};

impl Session {
    /// The stream breaks. The client may use its memory until the deadline.
    pub fn break_stream(&mut self) {
        let Self { used, replica, deadline, cached, late_clear, late_fill, remote, .. } = *self;
        *self = Self { used, replica, deadline, cached, late_fill, late_clear, remote, ..Self::default() };
    }
}

impl Protocol {
    /// A client attaches to a replica.
    pub fn attach(&self, s: &mut State, at: usize, r: usize) -> Option<()> {
        let me = s.replicas[r];
        if s.sessions[at].used || !me.up || me.draining {
            return None;
        }
        let other = s.sessions[(at + 1) % s.sessions.len()];
        s.sessions[at] = Session {
            used: true,
            replica: u8::try_from(r).ok()?,
            open: true,
            registered: self.keeps(Rule::RegisterBeforeReading),
            cached: !self.keeps(Rule::SessionStartsEmpty) && s.carried,
            deadline: if self.keeps(Rule::SessionStartsWithoutDeadline) { 0 } else { other.deadline },
            ..Session::default()
        };
        Some(())
    }

    /// The replica registers a session. Only in a broken variant.
    #[expect(clippy::unused_self, reason = "called like the other steps")]
    pub fn register(&self, s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if !session.open || session.registered {
            return None;
        }
        session.registered = true;
        Some(())
    }

    /// The client requests a grant. One renewal at a time; one that takes too long is abandoned for a new one.
    pub fn request_grant(&self, s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if !session.open || session.renewal_age == Some(0) {
            return None;
        }
        if self.keeps(Rule::GrantMatchesRenewal) {
            for message in &mut session.queue {
                if matches!(message, Message::Grant(_)) {
                    *message = Message::OldGrant;
                }
            }
        }
        session.renewal_age = Some(0);
        session.renewal_pending = true;
        Some(())
    }

    /// The replica grants.
    pub fn grant(&self, s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        let me = &s.replicas[usize::from(session.replica)];
        if !session.open || !session.renewal_pending || me.draining {
            return None;
        }
        let lease = if !self.keeps(Rule::GrantWithinLease) {
            u8::MAX
        } else if !self.keeps(Rule::GrantWithinExtendedLease) {
            me.lease.max(me.pending)
        } else {
            me.lease
        };
        let length = self.setting.grant.min(lease);
        if length == 0 {
            return None;
        }
        session.renewal_pending = false;
        let margin = if self.keeps(Rule::WaitHasMargin) { self.setting.margin } else { 0 };
        if self.keeps(Rule::RecordWithGrant) {
            session.granted = session.granted.max(length + margin);
        } else {
            session.late_record = length + margin;
        }
        if !session.enqueue(Message::Grant(length)) {
            self.close(s, at);
        }
        Some(())
    }

    /// The replica records a grant late. Only in a broken variant.
    pub fn record(s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if session.late_record == 0 {
            return None;
        }
        session.granted = session.granted.max(session.late_record);
        session.late_record = 0;
        Some(())
    }

    /// The replica reads the key for a session: from its own memory, or from the database.
    #[expect(clippy::unused_self, reason = "called like the other steps")]
    pub fn load(&self, s: &mut State, at: usize) -> Option<()> {
        let revoked = s.revoked();
        let session = &mut s.sessions[at];
        let me = &s.replicas[usize::from(session.replica)];
        let from_memory = me.cached && me.lease > 0;
        if !session.open || session.load != Load::None || revoked && !from_memory {
            return None;
        }
        session.load = Load::Good;
        Some(())
    }

    /// The replica answers the look-up.
    pub fn answer(&self, s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if !session.open {
            return None;
        }
        let good = match session.load {
            Load::None => return None,
            Load::Good if !self.keeps(Rule::CheckWithEnqueue) => {
                session.load = Load::Checked;
                return Some(());
            }
            Load::Good => {
                s.replicas[usize::from(session.replica)].cached = true;
                true
            }
            Load::Checked => true,
            Load::Fenced => !self.keeps(Rule::AnswerChecksSeq),
        };
        let session = &mut s.sessions[at];
        session.load = Load::None;
        if good {
            if self.keeps(Rule::InterestWithFill) {
                session.interest = true;
            } else {
                session.late_interest = true;
            }
            if !session.enqueue(Message::Fill) {
                self.close(s, at);
            }
        }
        Some(())
    }

    /// The replica notes an interest late. Only in a broken variant.
    pub fn note_interest(s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if !std::mem::take(&mut session.late_interest) {
            return None;
        }
        session.interest = true;
        Some(())
    }

    /// The client takes a message: the first one, or in broken variants a later one.
    pub fn deliver(&self, s: &mut State, at: usize, position: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if session.queue[position] == Message::None {
            return None;
        }
        let is_grant = matches!(session.queue[position], Message::Grant(_));
        let behind_fills = session.queue[..position].iter().all(|message| *message == Message::Fill);
        let overtakes = is_grant && !self.keeps(Rule::GrantsInOrder) || behind_fills && !self.keeps(Rule::FillsInOrder);
        if position > 0 && !overtakes {
            return None;
        }
        match session.take(position) {
            Message::Grant(length) => {
                let age = session.renewal_age.take().unwrap_or(0);
                let age = if self.keeps(Rule::CountBeforeAsking) { age } else { 0 };
                session.deadline = session.deadline.max(length.saturating_sub(age));
            }
            Message::Fill if std::mem::take(&mut session.joined) => s.broken = true,
            Message::Fill if !self.keeps(Rule::ReaderInserts) => session.late_fill = true,
            Message::Fill => session.cached = true,
            Message::Invalidate => {
                if self.keeps(Rule::ClearBeforeAcknowledge) {
                    session.cached = false;
                } else {
                    session.late_clear = true;
                }
                session.acking += 1;
            }
            Message::Drain => return self.stop_client(s, at),
            Message::OldGrant | Message::None => {}
        }
        Some(())
    }

    /// The client performs a postponed step. Only in broken variants.
    pub fn catch_up(s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if std::mem::take(&mut session.late_clear) {
            session.cached = false;
        } else if std::mem::take(&mut session.late_fill) || std::mem::take(&mut session.remote) {
            session.cached = true;
        } else {
            return None;
        }
        Some(())
    }

    /// An acknowledgement arrives.
    pub fn acknowledge(s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if !session.open {
            return None;
        }
        session.acking = session.acking.checked_sub(1)?;
        session.unacked = session.unacked.saturating_sub(1);
        session.needs = session.needs.saturating_sub(1);
        Some(())
    }

    /// The client stops: it ends deadline and cache, and then notifies the replica.
    pub fn stop_client(&self, s: &mut State, at: usize) -> Option<()> {
        let session = &mut s.sessions[at];
        if !session.open {
            return None;
        }
        let kept = *session;
        *session = Session::default();
        if !self.keeps(Rule::EndBeforeStopped) {
            *session =
                Session { used: true, replica: kept.replica, deadline: kept.deadline, cached: kept.cached, ..*session };
        }
        Some(())
    }

    /// A call to any server answers that the key is valid. It has an effect only in a broken variant.
    pub fn call(&self, s: &mut State, at: usize) -> Option<()> {
        if self.keeps(Rule::OwnStreamFills) || s.revoked() || !s.sessions[at].used {
            return None;
        }
        s.sessions[at].remote = true;
        Some(())
    }

    /// A Verify begins: it checks the deadline, or in a broken variant reads the entry.
    pub fn verify_begins(&self, s: &mut State, at: usize) -> Option<()> {
        let session = s.sessions[at];
        let proceeds = if self.keeps(Rule::DeadlineBeforeEntry) { session.deadline > 0 } else { session.cached };
        if s.revoke != Revoke::Returned || s.verify.is_some() || !session.used || !proceeds {
            return None;
        }
        s.verify = Some(Verify(u8::try_from(at).ok()?));
        Some(())
    }

    /// Its second step.
    pub fn verify_ends(&self, s: &mut State) -> Option<()> {
        let Verify(at) = s.verify.take()?;
        let session = s.sessions[usize::from(at)];
        s.broken |= if self.keeps(Rule::DeadlineBeforeEntry) { session.cached } else { session.deadline > 0 };
        Some(())
    }

    /// A Verify that finds nothing waits for a look-up that is under way.
    pub fn verify_joins(&self, s: &mut State, at: usize) -> Option<()> {
        let returned = s.revoke == Revoke::Returned;
        let session = &mut s.sessions[at];
        let under_way = session.load != Load::None || session.queue.contains(&Message::Fill);
        let live = session.deadline > 0 || !self.keeps(Rule::JoinNeedsDeadline);
        if !returned || !under_way || !live || session.joined {
            return None;
        }
        session.joined = true;
        Some(())
    }
}
