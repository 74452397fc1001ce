//! What a worker does between bursts: expiry, orders of the control thread, new snapshots, gauges.

use std::collections::VecDeque;

use super::core::Core;
use super::family::{Families, Family, Member, Removal};
use super::shared::{Command, ConnectionInfo, Filter, FlowInfo, Slot};
use super::succession;
use crate::conntrack::{Connection, Direction, Private};
use crate::io::Port;
use crate::packet::Address;

/// Slots a listing or deletion looks at between two bursts.
const SLICE: u32 = 1024;

/// A listing or deletion under way.
#[derive(Debug)]
struct Walk {
    command: Command,
    /// The family being walked, and the next slot.
    v6: bool,
    at: u32,
    deleted: u64,
}

/// Orders that take more than one turn.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    walks: VecDeque<Walk>,
    /// Walks on account of a policy, the same way.
    policies: VecDeque<succession::Walk>,
}

impl Tasks {
    /// Whether something is left to do at once.
    pub(super) fn pending(&self) -> bool {
        !self.walks.is_empty() || !self.policies.is_empty()
    }

    /// A new policy is in force as of this generation.
    pub(super) fn adopt(&mut self, generation: u32) {
        self.policies.push_back(succession::Walk::adopt(generation));
    }

    /// Does a bounded amount of work.
    pub(super) fn turn<P: Port>(&mut self, w: &mut Core<P>, f: &mut Families) {
        let shared = w.shared.clone();
        let own = &shared.workers[usize::from(w.id)];
        while let Some(index) = own.returns.pop() {
            w.pool.give_index(index);
            w.lent -= 1;
        }
        if let Some(slots) = own.expired.pop() {
            for s in slots {
                match s {
                    Slot::V4(i) => expire(w, &mut f.v4, i),
                    Slot::V6(i) => expire(w, &mut f.v6, i),
                }
            }
        }
        match own.commands.pop() {
            Some(Command::Judge { policy, reply }) => self.policies.push_back(succession::Walk::judge(policy, reply)),
            Some(command) => self.walks.push_back(Walk { command, v6: false, at: 0, deleted: 0 }),
            None => {}
        }
        if let Some(mut walk) = self.policies.pop_front()
            && walk.turn(w, f)
        {
            self.policies.push_back(walk);
        }
        if let Some(mut walk) = self.walks.pop_front() {
            let goes_on = if walk.v6 { slice(w, &mut f.v6, &mut walk) } else { slice(w, &mut f.v4, &mut walk) };
            if goes_on {
                self.walks.push_back(walk);
            } else if let Command::Delete { reply, .. } = walk.command {
                // Who asked may count next.
                gauges(w, f);
                // Nobody may be waiting for the number any more.
                let _ = reply.try_send(walk.deleted);
            }
        }
    }
}

/// Re-checks a slot that the control thread found expired, and frees it.
fn expire<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, slot: u32) {
    if !t.slab.is_live(slot) {
        return;
    }
    if t.slab.get(slot).deadline.reached(w.now) {
        t.remove(w, slot, Removal::Expired);
    } else {
        t.slab.publish_deadline(slot);
    }
}

/// Walks one slice. False when the walk is over.
fn slice<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, walk: &mut Walk) -> bool {
    let end = (walk.at + SLICE).min(t.slab.high_water());
    match &walk.command {
        Command::List { filter, reply } => {
            if reply.is_full() {
                return true;
            }
            let chunk: Vec<ConnectionInfo> = (walk.at..end)
                .filter(|i| t.slab.is_live(*i))
                .map(|i| t.slab.get(i))
                .filter(|c| !c.deadline.reached(w.now))
                .map(|c| info(w, c))
                .filter(|c| filter.matches(c))
                .collect();
            if !chunk.is_empty() && reply.try_send(chunk).is_err() {
                return false;
            }
        }
        Command::Delete { filter, .. } => {
            for i in walk.at..end {
                if t.slab.is_live(i) && filter.matches(&info(w, t.slab.get(i))) {
                    t.remove(w, i, Removal::Deleted);
                    walk.deleted += 1;
                }
            }
        }
        // Walked by `succession`.
        Command::Judge { .. } => return false,
    }
    walk.at = end;
    if end < t.slab.high_water() {
        return true;
    }
    walk.at = 0;
    !std::mem::replace(&mut walk.v6, true)
}

fn info<P: Port, A: Address>(w: &Core<P>, c: &Connection<A>) -> ConnectionInfo {
    let flow = |d: Direction| {
        let t = c.tuple(d);
        FlowInfo {
            source: t.src.ip(),
            destination: t.dst.ip(),
            source_port: t.sport,
            destination_port: t.dport,
            packets: c.packets[d as usize],
            bytes: c.bytes[d as usize],
        }
    };
    ConnectionInfo {
        worker: w.id,
        proto: c.proto,
        original: flow(Direction::Original),
        reply: flow(Direction::Reply),
        remaining_ms: c.deadline.remaining_ms(w.now),
        state: match &c.private {
            Private::Tcp(t) => Some(t.state().label()),
            Private::Sctp(t) => Some(t.state().label()),
            _ => None,
        },
        status: c.status,
        mark: c.mark,
    }
}

impl Filter {
    /// Whether every condition holds.
    pub fn matches(&self, c: &ConnectionInfo) -> bool {
        self.v6.is_none_or(|v6| v6 == c.original.source.is_ipv6())
            && self.proto.is_none_or(|p| p == c.proto)
            && self.source.is_none_or(|a| a == c.original.source)
            && self.destination.is_none_or(|a| a == c.original.destination)
            && self.source_port.is_none_or(|p| p == c.original.source_port)
            && self.destination_port.is_none_or(|p| p == c.original.destination_port)
            && self.reply_destination.is_none_or(|a| a == c.reply.destination)
            && c.status.contains(self.status)
            && self.mark.is_none_or(|m| m == c.mark)
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
    c.frames_lent.set(u64::from(w.lent));
    let neighbours = f.v4.neighbours.waiting() + f.v6.neighbours.waiting();
    c.frames_waiting.set(neighbours as u64 + u64::from(f.v4.fragments.waiting() + f.v6.fragments.waiting()));
    for (port, i) in w.ports.iter().zip(&c.interfaces) {
        let held = port.held();
        i.frames_receive.set(u64::from(held.receive));
        i.frames_transmit.set(u64::from(held.transmit));
    }
}

fn family_gauge<A: Member>(own: &super::shared::WorkerShared, t: &Family<A>) {
    A::gauge(own).set(u64::from(t.slab.len()));
}
