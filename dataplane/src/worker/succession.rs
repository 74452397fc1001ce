//! A new policy: the worker brings its connections over, in slices between bursts. And the question that
//! comes before: what a policy would mean for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::core::Core;
use super::family::{Families, Family, Member, Removal};
use super::judge::{Judgement, judge};
use crate::conntrack::{Connection, Status};
use crate::io::Port;
use crate::nat::Endpoint;
use crate::policy::Policy;
use crate::snapshot::Snapshot;

/// How long a slice may take, unless a single connection takes longer.
const SLICE: Duration = Duration::from_micros(200);
/// Connections that are brought over without a look at the clock when they need not be judged.
const STRIDE: u32 = 64;

/// How many connections a policy would concern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judged {
    /// Connections looked at.
    pub connections: u64,
    /// Would not be let through any more.
    pub denied: u64,
    /// Would be translated in another way.
    pub translated: u64,
    /// Would not be tracked any more.
    pub untracked: u64,
}

/// What the walk is for.
#[derive(Debug)]
enum Aim {
    /// Bring connections over to the policy of the snapshot with this generation.
    Adopt(u32),
    /// Count what this policy would concern.
    Judge { policy: Arc<Policy>, reply: Sender<Judged>, counts: Judged },
}

/// A walk over all connections.
#[derive(Debug)]
pub(super) struct Walk {
    aim: Aim,
    v6: bool,
    at: u32,
}

impl Walk {
    pub(super) fn adopt(generation: u32) -> Self {
        Walk { aim: Aim::Adopt(generation), v6: false, at: 0 }
    }

    pub(super) fn judge(policy: Arc<Policy>, reply: Sender<Judged>) -> Self {
        Walk { aim: Aim::Judge { policy, reply, counts: Judged::default() }, v6: false, at: 0 }
    }

    /// Walks on for a short while. False when the walk is over.
    pub(super) fn turn<P: Port>(&mut self, w: &mut Core<P>, f: &mut Families) -> bool {
        let done = if self.v6 { self.slice(w, &mut f.v6) } else { self.slice(w, &mut f.v4) };
        if !done {
            return true;
        }
        self.at = 0;
        if !std::mem::replace(&mut self.v6, true) {
            return true;
        }
        match &self.aim {
            Aim::Adopt(generation) => {
                w.shared.workers[usize::from(w.id)].adopted.store(*generation, Ordering::Release);
            }
            // Nobody may be waiting for the numbers any more.
            Aim::Judge { reply, counts, .. } => drop(reply.try_send(*counts)),
        }
        false
    }

    /// True when the family's connections have all been seen.
    fn slice<P: Port, A: Member>(&mut self, w: &mut Core<P>, t: &mut Family<A>) -> bool {
        let began = Instant::now();
        let judged = match &self.aim {
            Aim::Adopt(_) => w.snapshot.clone(),
            Aim::Judge { policy, .. } => Snapshot { policy: policy.clone(), ..w.snapshot.clone() },
        };
        let stride = match &self.aim {
            Aim::Adopt(_) if !judged.policy.succession.revalidate => STRIDE,
            _ => 1,
        };
        while self.at < t.slab.high_water() {
            if self.at.is_multiple_of(stride) && began.elapsed() > SLICE {
                return false;
            }
            let slot = self.at;
            self.at += 1;
            if !t.slab.is_live(slot) || t.slab.get(slot).deadline.reached(w.now) {
                continue;
            }
            match &mut self.aim {
                Aim::Adopt(_) => adopt(w, t, &judged, slot),
                Aim::Judge { counts, .. } => count(counts, judge(&judged, A::mappings(&w.shared), t.slab.get(slot)).0),
            }
        }
        true
    }
}

fn count(n: &mut Judged, j: Judgement) {
    n.connections += 1;
    match j {
        Judgement::Stays => {}
        Judgement::Denied => n.denied += 1,
        Judgement::Translated => n.translated += 1,
        Judgement::Untracked => n.untracked += 1,
    }
}

/// Brings one connection over to the policy in `s`.
fn adopt<P: Port, A: Member>(w: &mut Core<P>, t: &mut Family<A>, s: &Snapshot, slot: u32) {
    let c = *t.slab.get(slot);
    if s.policy.is_own(c.timeouts) {
        return;
    }
    let binds = c.status.contains(Status::MAPPED) && binding(w, &c).is_some();
    if s.policy.succession.revalidate || binds {
        let (judgement, independent) = judge(s, A::mappings(&w.shared), &c);
        if s.policy.succession.revalidate && judgement != Judgement::Stays {
            t.remove(w, slot, Removal::Revalidated);
            return;
        }
        if binds {
            // The source keeps its endpoint only if the policy still gives it one for all remotes.
            A::mappings(&w.shared).renew(&source(&c), independent);
        }
    }
    t.translations.set(slot, t.translations.get(slot).and_then(|by| by.successor(&s.policy)));
    let (rule, timeouts) = s.policy.successors(c.rule);
    let c = t.slab.get_mut(slot);
    (c.rule, c.timeouts) = (rule, timeouts);
}

fn source<A: Member>(c: &Connection<A>) -> Endpoint<A> {
    Endpoint { address: c.original().src, port: c.original().sport, proto: c.proto }
}

/// The filtering of the mapping that binds the connection's source for all remotes.
fn binding<P: Port, A: Member>(w: &Core<P>, c: &Connection<A>) -> Option<crate::policy::Filtering> {
    A::mappings(&w.shared).of(&source(c)).and_then(|(_, independent)| independent)
}
