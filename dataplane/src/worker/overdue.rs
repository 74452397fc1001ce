//! Frees connections that the control thread has found expired, a few between two bursts.
//!
//! A connection lies where nobody has looked for a while, and so do its two buckets. So what is freed in one turn was
//! looked at in the turn before, when its buckets were loaded, and loaded itself in the one before that: the packets
//! between them go on meanwhile.

use std::mem;

use arrayvec::ArrayVec;

use super::core::Core;
use super::family::{Families, Family, Member, Removal};
use super::shared::Slot;
use crate::io::Port;

/// Slots that take a step between two bursts.
const STEP: usize = 32;

/// What the control thread has found, on its way out.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    /// Not yet looked at.
    found: Vec<Slot>,
    v4: Stages,
    v6: Stages,
}

/// Slots of one family.
#[derive(Debug, Default)]
struct Stages {
    /// Their connections are being loaded.
    loaded: ArrayVec<u32, STEP>,
    /// Their time is up, their buckets are being loaded: with the hashes of their keys.
    hashed: ArrayVec<(u32, [u64; 2]), STEP>,
    /// The connections that the family had removed when the hashes were computed.
    removed: u64,
}

impl Stages {
    fn is_empty(&self) -> bool {
        self.loaded.is_empty() && self.hashed.is_empty()
    }

    /// Takes all slots a step further, in turns, and those that come in. Each is looked at again wherever it is, as
    /// packets may have come meanwhile.
    fn step<P: Port, A: Member>(&mut self, w: &mut Core<P>, t: &mut Family<A>, coming: &[u32]) {
        if self.is_empty() && coming.is_empty() {
            return;
        }
        let (hashed, loaded) = (mem::take(&mut self.hashed), mem::take(&mut self.loaded));
        // Unless somebody else has removed a connection, no other one can be in its slot.
        let valid = self.removed == t.removed;
        for i in 0..STEP {
            if let Some((slot, hashes)) = hashed.get(i).copied()
                && is_over(w, t, slot)
            {
                let hashes = if valid { hashes } else { t.hashes(w, slot) };
                t.remove_hashed(w, slot, hashes, Removal::Expired);
            }
            if let Some(slot) = loaded.get(i).copied()
                && is_over(w, t, slot)
            {
                let hashes = t.hashes(w, slot);
                for h in hashes {
                    t.table.prefetch(h);
                }
                self.hashed.push((slot, hashes));
            }
            if let Some(slot) = coming.get(i) {
                t.slab.prefetch(*slot, false);
                self.loaded.push(*slot);
            }
        }
        self.removed = t.removed;
    }
}

/// Whether there is a connection in a slot whose time is up. Where it is not, the control thread learns of it.
#[inline]
fn is_over<P, A: Member>(w: &Core<P>, t: &mut Family<A>, slot: u32) -> bool {
    if !t.slab.is_live(slot) {
        return false;
    }
    let over = t.slab.get(slot).deadline.reached(w.now);
    if !over {
        t.slab.publish_deadline(slot);
    }
    over
}

impl Overdue {
    /// Whether there is something left to do at once.
    pub(super) fn pending(&self) -> bool {
        !(self.found.is_empty() && self.v4.is_empty() && self.v6.is_empty())
    }

    /// One step, or in a turn without frames all of what the control thread has sent at a time.
    pub(super) fn turn<P: Port>(&mut self, w: &mut Core<P>, f: &mut Families, busy: bool) {
        if self.found.is_empty() {
            let own = &w.shared.workers[usize::from(w.id)];
            self.found = own.expired.pop().unwrap_or_default();
            // In their order: neighbours lie side by side.
            self.found.reverse();
        }
        while self.pending() {
            let (mut v4, mut v6) = (ArrayVec::<u32, STEP>::new(), ArrayVec::<u32, STEP>::new());
            let rest = self.found.len().saturating_sub(STEP);
            for slot in self.found.drain(rest..).rev() {
                match slot {
                    Slot::V4(i) => v4.push(i),
                    Slot::V6(i) => v6.push(i),
                }
            }
            self.v4.step(w, &mut f.v4, &v4);
            self.v6.step(w, &mut f.v6, &v6);
            if busy {
                break;
            }
        }
    }
}
