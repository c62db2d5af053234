//! Symmetry reduction: states that differ only in the numbers of steps, or in the indexes of rows, replicas or keys, are
//! equivalent. Renaming them to one representative loses nothing, and makes the large instances small enough to be checked
//! completely. (In a trace, replica 0 may therefore become replica 1.)

use std::cmp::Reverse;

use crate::state::{ROWS, Replica, Revoke, State, Stray};

impl State {
    /// An id that nothing refers to. Reusing it is equivalent to a new id, so that any number of joins is a finite
    /// number of states. Without `new`, an id that merely has no row.
    pub fn unused_id(&self, rows: u8, new: bool) -> Option<u8> {
        (0..rows).find(|&id| {
            let index = usize::from(id);
            let in_stray = self.stray.is_some_and(|stray| stray.id() == id);
            let in_watch = self.watch.is_some_and(|watch| watch.id == id);
            let in_standby = self.standby.is_some_and(|db| db.rows[index].is_some());
            let referenced = in_stray || in_watch || in_standby;
            self.db.rows[index].is_none() && !self.is_owned(index) && !(new && referenced)
        })
    }

    /// Visits each stored step of a row.
    fn each_step(&mut self, id: u8, visit: &mut impl FnMut(&mut u8)) {
        let index = usize::from(id);
        for row in [self.db.rows[index].as_mut(), self.standby.as_mut().and_then(|db| db.rows[index].as_mut())]
            .into_iter()
            .flatten()
        {
            visit(&mut row.step);
        }
        for replica in &mut self.replicas {
            if replica.id == Some(id) {
                visit(&mut replica.step);
            }
        }
        if let Some(watch) = &mut self.watch
            && watch.id == id
        {
            visit(&mut watch.step);
        }
        if let Some(Stray::Renew { id: row, from, to }) = &mut self.stray
            && *row == id
        {
            visit(from);
            visit(to);
        }
    }

    /// The set of the stored steps of a row, one bit each.
    pub fn steps(&mut self, id: u8) -> u32 {
        let mut steps = 0;
        self.each_step(id, &mut |step| steps |= 1 << *step);
        steps
    }

    /// Renumbers the stored steps of each row with the smallest numbers in the same order. Steps are only compared, and
    /// a new step is larger than all stored ones, so this changes no behavior, and any number of renewals is a finite
    /// number of states.
    pub fn renumber_steps(&mut self) {
        for id in 0..ROWS {
            let id = u8::try_from(id).unwrap_or(u8::MAX);
            let steps = self.steps(id);
            if steps & steps.wrapping_add(1) != 0 {
                self.each_step(id, &mut |step| {
                    let smaller = steps & ((1 << *step) - 1);
                    *step = u8::try_from(smaller.count_ones()).unwrap_or(u8::MAX);
                });
            }
        }
    }

    /// Renames rows, replicas and keys, so that equivalent states become equal.
    pub fn rename(&mut self, replicas: usize, keys: usize) {
        if replicas == 2 && self.replica(0) > self.replica(1) {
            self.replicas.swap(0, 1);
            if let Some(verify) = &mut self.verify {
                verify.replica = 1 - verify.replica;
            }
        }
        for r in 0..replicas {
            if let Some(id) = self.replicas[r].id {
                self.swap_rows(r, usize::from(id));
            }
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let key = |id: usize| {
                let standby = self.standby.and_then(|db| db.rows[id]);
                (Reverse(self.db.rows[id]), Reverse(standby))
            };
            if !self.is_owned(a) && !self.is_owned(b) && key(a) > key(b) {
                self.swap_rows(a, b);
            }
        }
        if keys == 2 && self.key(0) > self.key(1) {
            self.swap_keys();
        }
    }

    /// Everything in a state about a replica, except for the index of its row.
    fn replica(&self, r: usize) -> impl Ord + use<> {
        let verifies = self.verify.is_some_and(|verify| usize::from(verify.replica) == r);
        let replica = Replica { id: self.replicas[r].id.map(|_| 0), ..self.replicas[r] };
        (replica, self.row_of(r), verifies)
    }

    fn is_owned(&self, id: usize) -> bool {
        let owns = |replica: &Replica| replica.id.is_some_and(|own| usize::from(own) == id);
        self.replicas.iter().any(owns)
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.db.rows.swap(a, b);
        if let Some(db) = &mut self.standby {
            db.rows.swap(a, b);
        }
        let rename = |id: &mut u8| {
            if usize::from(*id) == a || usize::from(*id) == b {
                *id = u8::try_from(a + b).unwrap_or(u8::MAX) - *id;
            }
        };
        let owned = self.replicas.iter_mut().filter_map(|me| me.id.as_mut());
        let watched = self.watch.iter_mut().map(|watch| &mut watch.id);
        owned.chain(watched).for_each(rename);
        if let Some(stray) = &mut self.stray {
            let (Stray::Insert { id } | Stray::Renew { id, .. } | Stray::Report { id, .. }) = stray;
            rename(id);
        }
        for revoke in &mut self.revokes {
            if let Revoke::Waiting { rows, .. } | Revoke::Early { rows, .. } = revoke {
                let differ = (*rows >> a ^ *rows >> b) & 1;
                *rows ^= differ << a | differ << b;
            }
        }
    }

    /// Everything in a state about a key.
    fn key(&self, key: usize) -> impl Ord + use<> {
        let verified = self.verify.is_some_and(|verify| usize::from(verify.key) == key);
        let held = self.replicas.map(|replica| {
            let changed = replica.follower.changed & 1 << key != 0;
            (replica.cached[key], replica.loads[key], changed)
        });
        let standby = self.standby.map(|db| db.revoked[key]);
        let revoked = self.db.revoked[key];
        let age = self.ages[key];
        (self.revokes[key], revoked, age, standby, held, verified)
    }

    fn swap_keys(&mut self) {
        self.revokes.swap(0, 1);
        self.ages.swap(0, 1);
        self.db.revoked.swap(0, 1);
        if let Some(db) = &mut self.standby {
            db.revoked.swap(0, 1);
        }
        for replica in &mut self.replicas {
            replica.cached.swap(0, 1);
            replica.loads.swap(0, 1);
            let changed = replica.follower.changed;
            replica.follower.changed = changed << 1 & 0b10 | changed >> 1;
        }
        if let Some(verify) = &mut self.verify {
            verify.key = 1 - verify.key;
        }
    }
}
