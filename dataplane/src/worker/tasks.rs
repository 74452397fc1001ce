//! What a worker does between bursts: expiry, orders of the control thread, new snapshots, gauges.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use super::core::Core;
use super::events::Before;
use super::explain::explain;
use super::family::{Families, Family, Member, Removal};
use super::host;
use super::listing::ConnectionInfo;
use super::shared::{Command, Edit, Slot};
use super::succession;
use crate::io::Port;

/// Slots a walk looks at in a turn without traffic, and between two bursts.
const SLICE: [u32; 2] = [1024, 64];
/// Expired connections that are freed between two bursts.
const EXPIRE_BUSY: usize = 32;

/// A walk over all connections under way.
#[derive(Debug)]
struct Walk {
    command: Command,
    /// The family being walked, and the next slot.
    v6: bool,
    at: u32,
    edited: u64,
}

/// Orders that take more than one turn.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    walks: VecDeque<Walk>,
    /// Slots that the control thread has found expired.
    expired: Vec<Slot>,
    /// Walks on account of a policy, the same way.
    policies: VecDeque<succession::Walk>,
}

impl Tasks {
    /// Whether something is left to do at once.
    pub(super) fn pending(&self) -> bool {
        !self.walks.is_empty() || !self.policies.is_empty() || !self.expired.is_empty()
    }

    /// A new policy is in force as of this generation.
    pub(super) fn adopt(&mut self, generation: u32) {
        self.policies.push_back(succession::Walk::adopt(generation));
    }

    /// Does a bounded amount of work, less in a turn in which frames came (`busy`).
    pub(super) fn turn<P: Port>(&mut self, w: &mut Core<P>, f: &mut Families, busy: bool) {
        let shared = w.shared.clone();
        let own = &shared.workers[usize::from(w.id)];
        while let Some(s) = own.sights.pop() {
            host::follow_answer(w, f, &s);
        }
        w.flush_ended();
        if self.expired.is_empty() {
            self.expired = own.expired.pop().unwrap_or_default();
        }
        if !self.expired.is_empty() {
            // As traffic goes on, so do its packets: their rate suffers little.
            let n = if busy { EXPIRE_BUSY } else { self.expired.len() };
            let rest = self.expired.len().saturating_sub(n);
            for some in self.expired[rest..].chunks(EXPIRE_BUSY) {
                expire(w, &mut f.v4, some, |s| if let Slot::V4(i) = s { Some(*i) } else { None });
                expire(w, &mut f.v6, some, |s| if let Slot::V6(i) = s { Some(*i) } else { None });
            }
            self.expired.truncate(rest);
        }
        w.listeners.retain(|s| !s.is_closed());
        w.tracers.retain(|t| !t.is_closed());
        match own.commands.pop() {
            Some(Command::Judge { policy, reply }) => self.policies.push_back(succession::Walk::judge(policy, reply)),
            Some(Command::Subscribe(listener)) => w.listeners.push(listener),
            Some(Command::Trace(tracer)) => {
                tracer.adopt();
                w.tracers.push(tracer);
            }
            Some(Command::Explain { frame, interface, handed, fit, reply }) => {
                // Nobody may be waiting for it any more.
                let _ = reply.try_send(explain(w, f, &frame, interface, handed, fit));
            }
            Some(command) => self.walks.push_back(Walk { command, v6: false, at: 0, edited: 0 }),
            None => {}
        }
        if let Some(mut walk) = self.policies.pop_front()
            && walk.turn(w, f)
        {
            self.policies.push_back(walk);
        }
        if let Some(mut walk) = self.walks.pop_front() {
            let size = SLICE[usize::from(busy)];
            let goes_on =
                if walk.v6 { slice(w, &mut f.v6, &mut walk, size) } else { slice(w, &mut f.v4, &mut walk, size) };
            if goes_on {
                self.walks.push_back(walk);
            } else if let Command::Edit { reply, .. } = walk.command {
                // Who asked may count next.
                gauges(w, f);
                // Nobody may be waiting for the number any more.
                let _ = reply.try_send(walk.edited);
            }
        }
    }
}

/// Re-checks slots that the control thread found expired, and frees them; those of one family among a few.
fn expire<P: Port, A: Member>(
    w: &mut Core<P>,
    t: &mut Family<A>,
    slots: &[Slot],
    own: impl Fn(&Slot) -> Option<u32> + Copy,
) {
    // All are loaded before the first is looked at, and all their buckets before the first is removed.
    for s in slots.iter().filter_map(own) {
        t.slab.prefetch(s, true);
    }
    let mut over: ArrayVec<(u32, [u64; 2]), EXPIRE_BUSY> = ArrayVec::new();
    for s in slots.iter().filter_map(own) {
        if !t.slab.is_live(s) {
            continue;
        }
        if t.slab.get(s).deadline.reached(w.now) {
            let hashes = t.hashes(w, s);
            for h in hashes {
                t.table.prefetch(h);
            }
            over.push((s, hashes));
        } else {
            t.slab.publish_deadline(s);
        }
    }
    for (s, hashes) in over {
        t.remove_hashed(w, s, hashes, Removal::Expired);
    }
}

/// Walks one slice. False when the walk is over.
fn slice<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, walk: &mut Walk, size: u32) -> bool {
    let end = (walk.at + size).min(t.slab.high_water());
    match &walk.command {
        Command::List { filter, reply } => {
            if reply.is_full() {
                return true;
            }
            let chunk: Vec<ConnectionInfo> = (walk.at..end)
                .filter(|i| t.slab.is_live(*i))
                .map(|i| t.slab.get(i))
                .filter(|c| !c.deadline.reached(w.now))
                .map(|c| ConnectionInfo::new(w.id, w.now, c))
                .filter(|c| filter.matches(c))
                .collect();
            if !chunk.is_empty() && reply.try_send(chunk).is_err() {
                return false;
            }
        }
        Command::Edit { filter, edit, .. } => {
            for i in (walk.at..end).filter(|i| t.slab.is_live(*i)).collect::<Vec<_>>() {
                let c = t.slab.get(i);
                if !c.deadline.reached(w.now) && filter.matches(&ConnectionInfo::new(w.id, w.now, c)) {
                    apply(w, t, i, *edit);
                    walk.edited += 1;
                }
            }
        }
        // Walked by `succession`, and no walk at all.
        _ => return false,
    }
    walk.at = end;
    if end < t.slab.high_water() {
        return true;
    }
    walk.at = 0;
    !std::mem::replace(&mut walk.v6, true)
}

fn apply<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, slot: u32, edit: Edit) {
    match edit {
        Edit::Count => {}
        Edit::Delete => t.remove(w, slot, Removal::Deleted),
        Edit::Update { mark, timeout } => {
            let c = t.slab.get_mut(slot);
            let before = Before::new(c);
            if let Some((value, mask)) = mark {
                c.mark = c.mark & !mask | value & mask;
            }
            if let Some(seconds) = timeout {
                t.slab.refresh(slot, w.now.after(seconds));
            }
            if !w.listeners.is_empty() {
                w.tell_change(&before, t.slab.get(slot));
            }
        }
    }
}

/// Publishes what the control thread reads as gauges.
pub(super) fn gauges<P: Port>(w: &Core<P>, f: &Families) {
    let own = &w.shared.workers[usize::from(w.id)];
    let c = &own.counters;
    family_gauge(own, &f.v4);
    family_gauge(own, &f.v6);
    c.frames_total.set(u64::from(w.pool.frames()));
    c.frames_free.set(w.pool.available() as u64);
    c.frames_lent.set(w.ends.lent() as u64);
    let neighbours = f.v4.neighbours.waiting() + f.v6.neighbours.waiting();
    c.frames_waiting.set(neighbours as u64 + u64::from(f.v4.fragments.waiting() + f.v6.fragments.waiting()));
    for (n, port) in w.ports.iter().enumerate() {
        let Some(i) = w.inlets.get(n).map(|inlet| c.interface(inlet.first)) else { continue };
        let held = port.held();
        i.frames_receive.set(u64::from(held.receive));
        i.frames_transmit.set(u64::from(held.transmit));
    }
}

fn family_gauge<A: Member>(own: &super::shared::WorkerShared, t: &Family<A>) {
    A::gauge(own).set(u64::from(t.slab.len()));
}
