//! Where addresses are, as the routes said when a first packet last asked.
//!
//! To find the longest matching prefix takes several probes, and a first packet asks about three addresses: its
//! source, its destination and the one it is translated to. Few of these are new. Each address has one place here,
//! and answers hold until the next snapshot.

use crate::packet::Ip;
use crate::route::{Fib, NextHop, Target};

/// Places, a power of two.
const PLACES: usize = 512;

/// What is said of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way<A> {
    /// It is the gateway host's own.
    Local,
    /// There is one way to it.
    Via(NextHop<A>),
    /// Anything else: the routes tell.
    Else,
}

#[derive(Debug, Clone, Copy)]
struct Answer<A> {
    address: A,
    /// The route epoch in which it was given; 0 for none.
    epoch: u32,
    way: Way<A>,
}

/// The latest answers of one family.
#[derive(Debug)]
pub(super) struct Ways<A>(Box<[Answer<A>]>);

impl<A: Ip> Default for Ways<A> {
    fn default() -> Self {
        Ways(vec![Answer { address: A::default(), epoch: 0, way: Way::Else }; PLACES].into())
    }
}

impl<A: Ip> Ways<A> {
    /// Where `a` is in this route epoch.
    #[inline]
    pub(super) fn find(&mut self, fib: &Fib, epoch: u32, a: A) -> Way<A> {
        // Neighbouring addresses lie in different places.
        let sum = a.sum();
        let known = &mut self.0[(sum ^ sum >> 16) as usize % PLACES];
        if known.address != a || known.epoch != epoch {
            *known = Answer { address: a, epoch, way: ask(fib, a) };
        }
        known.way
    }
}

#[inline(never)]
fn ask<A: Ip>(fib: &Fib, a: A) -> Way<A> {
    match fib.lookup(a) {
        Some(Target::Local) => Way::Local,
        Some(Target::Via(hops)) if hops.len() == 1 => Way::Via(hops[0]),
        _ => Way::Else,
    }
}
