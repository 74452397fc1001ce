//! Frames that a worker lends to the owner of their connection, who copies them.
//!
//! Between each two workers there is a queue each way. What a burst has for another worker is published, and the
//! other woken, once; the places of the queue that the other has done with tell the lender which of its frames have
//! come back.

use std::sync::Mutex;

use arrayvec::ArrayVec;

use super::burst;
use super::core::Core;
use super::family::{Families, Packet};
use super::reason::{DropReason, HandoffReason};
use super::ring::{Giver, Taker, ring};
use super::shared::Handed;
use crate::conntrack::region::prefetch;
use crate::io::{BURST, Frame, Port};
use crate::policy::InterfaceId;

/// Frames that may be on their way to one worker, about, and the bounds of that for each other worker.
const WAITING: u32 = 8192;
const LEAST: u32 = 256;
const MOST: u32 = 4096;
/// A lent frame is loaded while as many others before it are copied: it comes from another core's cache.
const AHEAD: usize = 12;
/// Bursts of one other worker's frames that are taken over in a turn. They have cost work already, so they go before
/// what waits at the ports, a burst of each: the queues stay short, and what is too much is lost at the ports.
const BURSTS: usize = 4;

/// A frame lent to the owner of its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lent {
    /// Its first byte.
    data: *const u8,
    /// The hash of its flow, when its headers and checksums are known to be right; else 0.
    pub(super) hash: u64,
    /// Its index in the lender's pool.
    index: u32,
    /// Its length in bytes.
    len: u16,
    /// The interface it came in on.
    pub(super) interface: InterfaceId,
    /// What it was handed over for.
    pub(super) handed: Handed,
}

// SAFETY: the pointer is only read, and the lender does not touch the frame until it comes back.
unsafe impl Send for Lent {}

const _: () = assert!(size_of::<Lent>() == 32);

/// One worker's ends of the queues, by the other worker's number.
#[derive(Debug)]
pub(super) struct Ends {
    to: Vec<Giver<Lent>>,
    from: Vec<Taker<Lent>>,
    /// Frames that were lent since the last [`Core::publish_handed`], by [`HandoffReason`].
    fresh: [u32; HandoffReason::COUNT],
}

impl Ends {
    /// Frames that are lent at the moment.
    pub(super) fn lent(&self) -> u32 {
        self.to.iter().map(Giver::out).sum()
    }

    /// Whether nothing waits here: neither frames of others, nor own ones that have come back.
    pub(super) fn is_quiet(&self) -> bool {
        self.from.iter().all(Taker::is_empty) && !self.to.iter().any(Giver::has_back)
    }
}

/// The ends of all queues, until the workers take theirs.
#[derive(Debug)]
pub(super) struct Queues(Mutex<Vec<Option<Ends>>>);

impl Queues {
    /// Queues between `workers` workers with so many frames each.
    pub(super) fn new(workers: usize, frames: u32) -> Self {
        // A worker that others wait for in vain must not get all of their frames.
        let places = (WAITING / (workers as u32).max(1)).clamp(LEAST, MOST).min(frames / 2);
        let end = || Ends { to: Vec::new(), from: Vec::new(), fresh: [0; HandoffReason::COUNT] };
        let mut ends: Vec<Ends> = (0..workers).map(|_| end()).collect();
        for giver in 0..workers {
            for taker in 0..workers {
                let (to, from) = ring(places);
                ends[giver].to.push(to);
                ends[taker].from.push(from);
            }
        }
        Queues(Mutex::new(ends.into_iter().map(Some).collect()))
    }

    /// A worker's ends. Panics when they have been taken before: there is one worker of each number.
    pub(super) fn take(&self, worker: usize) -> Ends {
        let mut all = self.0.lock().expect("nothing panics while it is locked");
        all[worker].take().expect("one worker of each number")
    }
}

impl<P: Port> Core<P> {
    /// Lends a packet's frame to another worker.
    #[inline(always)]
    pub(super) fn hand_off<A>(&mut self, p: &Packet<A>, owner: u16, why: HandoffReason) {
        self.lend(p.interface, p.frame, p.hash, owner, why);
    }

    /// Lends a frame to another worker; `hash` is 0 unless that of a flow, whose headers and checksums are right.
    #[inline(always)]
    pub(super) fn lend(&mut self, interface: InterfaceId, f: Frame, hash: u64, owner: u16, why: HandoffReason) {
        let handed = match why {
            HandoffReason::Fragment => Handed::ToCollect,
            HandoffReason::Connection | HandoffReason::IcmpError => Handed::ToOwner,
        };
        let index = self.pool.index(f);
        let lent = Lent { data: self.pool.address(f), hash, index, len: f.len, interface, handed };
        if self.ends.to[usize::from(owner)].put(lent) {
            self.ends.fresh[why as usize] += 1;
        } else {
            self.discard(f, DropReason::HandoffFull);
        }
    }

    /// Lets the other workers see what has been lent to them, and wakes those that sleep.
    pub(super) fn publish_handed(&mut self) {
        let fresh = std::mem::take(&mut self.ends.fresh);
        if fresh != [0; HandoffReason::COUNT] {
            for (n, c) in fresh.iter().zip(&self.counters().handed_off) {
                c.add(u64::from(*n));
            }
            for (owner, to) in self.ends.to.iter_mut().enumerate() {
                if to.publish() {
                    self.shared.wake(owner);
                }
            }
        }
    }

    /// Takes back the frames that other workers have done with.
    pub(super) fn take_back(&mut self) {
        for to in self.ends.to.iter_mut().filter(|to| to.out() > 0) {
            to.take_back().for_each(|lent| self.pool.give_index(lent.index));
        }
    }

    /// A copy of a lent frame in one of its own.
    #[inline]
    fn copy(&mut self, bytes: &[u8]) -> Option<Frame> {
        let empty = self.pool.take()?;
        if bytes.len() > self.pool.capacity() {
            self.pool.give(empty);
            return None;
        }
        let f = Frame { len: bytes.len() as u16, ..empty };
        self.pool.bytes_mut(f).copy_from_slice(bytes);
        Some(f)
    }
}

/// Takes frames that other workers have handed over all the way. Returns how many they were.
pub(super) fn take_over<P: Port>(w: &mut Core<P>, families: &mut Families) -> usize {
    let mut all = 0;
    for from in 0..w.ends.from.len() {
        for _ in 0..BURSTS {
            if w.ends.from[from].is_empty() {
                break;
            }
            all += burst_of(w, families, from);
        }
    }
    all
}

fn burst_of<P: Port>(w: &mut Core<P>, families: &mut Families, from: usize) -> usize {
    let mut all = ArrayVec::<Lent, BURST>::new();
    for part in w.ends.from[from].ready(BURST as u32) {
        all.extend(part.iter().copied());
    }
    for lent in all.iter().take(AHEAD) {
        prefetch(lent.data);
    }
    let mut copied = 0;
    for (i, lent) in all.iter().enumerate() {
        if let Some(later) = all.get(i + AHEAD) {
            prefetch(later.data);
        }
        // SAFETY: the lender keeps the frame untouched and mapped until the queue's place comes back to it, which
        // is after this loop, and `len` bytes of it are a packet in its pool.
        let bytes = unsafe { std::slice::from_raw_parts(lent.data, usize::from(lent.len)) };
        match w.copy(bytes) {
            Some(f) => {
                copied += 1;
                burst::lent(w, families, f, bytes, lent);
            }
            None => w.counters().drop(DropReason::NoFrame),
        }
    }
    w.ends.from[from].done(all.len() as u32);
    w.counters().taken_over.add(copied);
    burst::forward(w, families);
    all.len()
}
