//! What a worker does between bursts: expiry, orders of the control thread, new snapshots, gauges.

use std::collections::VecDeque;

use super::core::Core;
use super::events::Before;
use super::explain::explain;
use super::family::{Families, Family, Member, Removal};
use super::host;
use super::listing::ConnectionInfo;
use super::overdue::Overdue;
use super::shared::{Command, Edit};
use super::succession;
use crate::io::Port;

/// Slots a walk looks at in a turn without traffic, and between two bursts.
const SLICE: [u32; 2] = [1024, 64];

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
    overdue: Overdue,
    /// Walks on account of a policy, the same way.
    policies: VecDeque<succession::Walk>,
}

impl Tasks {
    /// Whether something is left to do at once.
    pub(super) fn pending(&self) -> bool {
        !self.walks.is_empty() || !self.policies.is_empty() || self.overdue.pending()
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
        self.overdue.turn(w, f, busy);
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
