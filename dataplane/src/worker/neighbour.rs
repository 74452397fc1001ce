//! Next hops: where a connection's packets go on the link, and frames that wait for an address.

use std::collections::HashMap;

use ahash::RandomState;

use super::core::Core;
use super::exit::NO_HOP;
use super::reason::DropReason;
use super::shared::NeighbourRequest;
use crate::conntrack::Ticks;
use crate::io::{Frame, Port};
use crate::packet::{ETHERNET, Ip};
use crate::policy::InterfaceId;
use crate::route::{Fib, Mac};

/// Frames that wait for one next hop's address (the kernel's `unres_qlen`, in packets).
const WAITING: usize = 32;
/// How long frames wait, and how long a silent next hop is then held to be unreachable.
const PATIENCE_MS: u32 = 3000;
/// A next hop in use is asked to be confirmed this often, so that a changed address is noticed.
const CONFIRM_MS: u32 = 20_000;
/// How often an unanswered request is repeated.
const RETRY_MS: u32 = 1000;
/// Next hops remembered before those not in use are forgotten.
const REMEMBERED: usize = 32_768;

/// A next hop on an interface.
#[derive(Debug)]
pub(super) struct Neighbour<A> {
    pub(super) interface: InterfaceId,
    pub(super) address: A,
    /// Its Ethernet address, once known.
    pub(super) mac: Option<Mac>,
    /// The Ethernet addresses of frames to it: its own, zeros before it is known, and the interface's.
    pub(super) link: [u8; 12],
    /// The interface's MTU.
    pub(super) mtu: u16,
    /// The interface can send.
    pub(super) up: bool,
    /// The longest frame that can simply be sent now: 0 while the interface cannot send, the address is not known, or
    /// it is time to have it confirmed.
    pub(super) limit: u16,
    /// When the kernel was last asked about it.
    asked: Ticks,
    /// Since when frames have been waiting in vain.
    silent_since: Option<Ticks>,
    waiting: Vec<Waiting>,
}

/// A frame, complete but for its destination address, with what it takes to tell its sender that it will
/// not arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) frame: Frame,
    /// Where it came in, and from whom.
    pub(super) interface: InterfaceId,
    pub(super) sender: Mac,
}

/// The next hops a worker has used, by index.
#[derive(Debug)]
pub(super) struct Neighbours<A> {
    list: Vec<Neighbour<A>>,
    index: HashMap<(InterfaceId, A), u16, RandomState>,
    /// The index that was asked for last.
    latest: u16,
    /// Those without an address.
    unresolved: Vec<u16>,
}

impl<A> Default for Neighbours<A> {
    fn default() -> Self {
        Neighbours { list: Vec::new(), index: HashMap::default(), latest: 0, unresolved: Vec::new() }
    }
}

impl<A: Ip> Neighbours<A> {
    #[inline]
    pub(super) fn get(&self, hop: u16) -> &Neighbour<A> {
        &self.list[usize::from(hop)]
    }

    /// Whether there is such a next hop: there is none of number [`NO_HOP`].
    #[inline]
    pub(super) fn has(&self, hop: u16) -> bool {
        usize::from(hop) < self.list.len()
    }

    /// The next hop of this number, if there is one.
    #[inline]
    pub(super) fn known(&self, hop: u16) -> Option<&Neighbour<A>> {
        self.list.get(usize::from(hop))
    }

    #[inline]
    pub(super) fn get_mut(&mut self, hop: u16) -> &mut Neighbour<A> {
        &mut self.list[usize::from(hop)]
    }

    /// Frames that wait.
    pub(super) fn waiting(&self) -> usize {
        self.unresolved.iter().map(|h| self.get(*h).waiting.len()).sum()
    }

    /// The index of a next hop. `None` when there are too many.
    #[inline]
    pub(super) fn hop(&mut self, fib: &Fib, interface: InterfaceId, address: A) -> Option<u16> {
        let latest = self.list.get(usize::from(self.latest));
        if latest.is_some_and(|n| n.interface == interface && n.address == address) {
            return Some(self.latest);
        }
        self.find(fib, interface, address)
    }

    #[inline(never)]
    fn find(&mut self, fib: &Fib, interface: InterfaceId, address: A) -> Option<u16> {
        if let Some(i) = self.index.get(&(interface, address)) {
            self.latest = *i;
            return Some(*i);
        }
        let i = u16::try_from(self.list.len()).ok().filter(|i| *i < NO_HOP)?;
        let mut n = Neighbour {
            interface,
            address,
            mac: None,
            link: [0; 12],
            mtu: 0,
            up: false,
            limit: 0,
            asked: Ticks(0),
            silent_since: None,
            waiting: Vec::new(),
        };
        n.refresh(fib);
        if n.mac.is_none() {
            self.unresolved.push(i);
        }
        self.list.push(n);
        self.index.insert((interface, address), i);
        Some(i)
    }

    /// Takes over a new snapshot: addresses that changed, frames that can now go.
    pub(super) fn refresh<P: Port>(&mut self, w: &mut Core<P>) {
        if self.list.len() > REMEMBERED {
            self.list.retain(|n| !n.waiting.is_empty());
            self.index = self.list.iter().enumerate().map(|(i, n)| ((n.interface, n.address), i as u16)).collect();
        }
        for n in &mut self.list {
            n.refresh(&w.snapshot.fib);
            if let (Some(mac), true) = (n.mac, n.up) {
                n.silent_since = None;
                for x in n.waiting.drain(..) {
                    w.pool.bytes_mut(x.frame)[..6].copy_from_slice(&mac.0);
                    w.transmit(n.interface, x.frame);
                }
            }
        }
        self.unresolved = (0..self.list.len() as u16).filter(|i| self.list[usize::from(*i)].mac.is_none()).collect();
    }

    /// Takes out the frames that have waited too long, repeats requests for the others, and sees who is to be confirmed.
    pub(super) fn tick<P: Port>(&mut self, w: &mut Core<P>) -> Vec<Waiting> {
        for n in self.list.iter_mut().filter(|n| n.is_due(w.now)) {
            n.limit = 0;
        }
        let mut late = Vec::new();
        for i in &self.unresolved {
            let n = &mut self.list[usize::from(*i)];
            if n.waiting.is_empty() {
                continue;
            }
            if n.is_silent(w.now) || !n.up {
                late.append(&mut n.waiting);
            } else if n.asked.after_ms(RETRY_MS).reached(w.now) {
                n.ask(w);
            }
        }
        late
    }

    /// Lets a complete frame, but for its destination address, wait for that.
    pub(super) fn wait<P: Port>(&mut self, w: &mut Core<P>, hop: u16, x: Waiting) {
        let n = &mut self.list[usize::from(hop)];
        if n.waiting.len() >= WAITING {
            w.discard(x.frame, DropReason::NeighbourQueueFull);
            return;
        }
        n.waiting.push(x);
        match n.silent_since {
            None => n.silent_since = Some(w.now),
            // The pause after a failure is over: another try.
            Some(t) if t.after_ms(2 * PATIENCE_MS).reached(w.now) => n.silent_since = Some(w.now),
            Some(_) => {}
        }
        if n.asked == Ticks(0) || n.asked.after_ms(RETRY_MS).reached(w.now) {
            n.ask(w);
        }
    }
}

impl<A: Ip> Neighbour<A> {
    fn refresh(&mut self, fib: &Fib) {
        self.mac = A::neighbours(fib).get(&(self.interface, self.address)).copied();
        if let Some(i) = fib.interfaces.get(usize::from(self.interface)) {
            (self.mtu, self.up) = (i.mtu, i.up);
            self.link[6..].copy_from_slice(&i.mac.0);
        }
        self.link[..6].copy_from_slice(&self.mac.unwrap_or_default().0);
        self.limit = self.sendable();
    }

    /// The longest frame that can be sent.
    fn sendable(&self) -> u16 {
        if self.up && self.mac.is_some() { self.mtu.saturating_add(ETHERNET as u16) } else { 0 }
    }

    /// Whether an IP packet of this length can simply be sent now.
    #[inline]
    pub(super) fn takes(&self, length: u16) -> bool {
        usize::from(length) + ETHERNET <= usize::from(self.limit)
    }

    /// Has the kernel confirm a next hop in use every now and then.
    #[inline]
    pub(super) fn used<P: Port>(&mut self, w: &Core<P>) {
        if self.is_due(w.now) {
            self.ask(w);
        }
    }

    /// Whether it is time to have it confirmed.
    #[inline]
    fn is_due(&self, now: Ticks) -> bool {
        now.0.wrapping_sub(self.asked.0) > CONFIRM_MS
    }

    #[cold]
    fn ask<P: Port>(&mut self, w: &Core<P>) {
        self.asked = w.now;
        self.limit = self.sendable();
        w.ask_neighbour(NeighbourRequest { interface: self.interface, address: self.address.ip() });
    }

    /// Frames waited in vain a short while ago: packets are answered with host unreachable.
    pub(super) fn is_silent(&self, now: Ticks) -> bool {
        self.silent_since
            .is_some_and(|t| t.after_ms(PATIENCE_MS).reached(now) && !t.after_ms(2 * PATIENCE_MS).reached(now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::Shared;
    use super::*;
    use crate::io::FramePool;
    use crate::io::memory::MemoryPort;
    use crate::packet::{Address, V4};
    use crate::route::Interface;

    #[test]
    fn who_is_in_use_is_confirmed_every_now_and_then() {
        let shared = Shared::new(1, 1, 16, 16).unwrap();
        let pool = FramePool::in_memory(8, 2048, 64);
        let mut w = Core::new(0, shared.clone(), pool, vec![MemoryPort::new()]);
        let interface =
            Interface { ifindex: 1, device: 1, mac: Mac([2; 6]), mtu: 1500, up: true, v4: vec![], v6: vec![] };
        let mut fib = Fib { interfaces: vec![interface], ..Fib::default() };
        fib.neighbours4.insert((0, V4(1)), Mac([4; 6]));
        let mut all = Neighbours::default();
        let hop = all.hop(&fib, 0, V4(1)).unwrap();
        all.get_mut(hop).asked = w.now;
        for _ in 0..2 {
            w.now = w.now.after_ms(CONFIRM_MS);
            all.tick(&mut w);
            all.get_mut(hop).used(&w);
            assert_eq!((all.get(hop).limit, shared.neighbour_requests.len()), (1514, 0), "not yet");
            w.now = w.now.after_ms(1);
            all.tick(&mut w);
            assert_eq!(all.get(hop).limit, 0, "its next packet goes the whole path");
            all.get_mut(hop).used(&w);
            assert_eq!(all.get(hop).limit, 1514);
            assert_eq!(shared.neighbour_requests.pop().map(|r| r.address), Some(V4(1).ip()));
        }
    }
}
