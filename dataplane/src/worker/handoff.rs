//! Frames that a worker hands to the owner of their connection.
//!
//! Between each two workers there is a queue each way. What a burst has for another worker is published, and the
//! other woken, once. Frames are copied into the queue, or lent; the places of the queue that the other has done with
//! tell the lender which of its frames have come back.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::core::Core;
use super::directory::Owner;
use super::family::{self, Packet};
use super::place::{BODY, Kind, LONGEST, Place, SENDER, SHORT};
use super::reason::{DropReason, HandoffReason};
use super::ring::{Giver, Taker, ring};
use crate::io::{Frame, Port};
use crate::packet::{Ip, view};
use crate::policy::InterfaceId;

/// Places in the queue to one worker, about, and the bounds of that for each other worker.
const WAITING: u32 = 8192;
const LEAST: u32 = 256;
const MOST: u32 = 4096;

/// The end of a queue where frames are given.
#[derive(Debug)]
struct Giving {
    places: Giver<Place>,
    /// The numbers of places that hold lent frames, with their indices in the pool, in order.
    lent: VecDeque<(u32, u32)>,
}

/// One worker's ends of the queues, by the other worker's number.
#[derive(Debug)]
pub(super) struct Ends {
    to: Vec<Giving>,
    pub(super) from: Vec<Taker<Place>>,
    /// Frames that were handed over since the last [`Core::publish_handed`], by [`HandoffReason`].
    fresh: [u32; HandoffReason::COUNT],
}

impl Giving {
    /// Lends a frame. False, and nothing done, when there is no place.
    fn lend(&mut self, about: Place, index: u32) -> bool {
        let number = self.places.next();
        let put = self.places.put(|place| *place = about);
        if put {
            self.lent.push_back((number, index));
        }
        put
    }
}

impl Ends {
    /// Copies the beginning of a frame with a packet that is known to be right, into as many places as that takes. False,
    /// and nothing done, when there are not as many.
    #[inline(always)]
    fn copy<A: Ip, const N: usize>(&mut self, b: &[u8; N], p: &Packet<A>, owner: Owner, why: HandoffReason) -> bool {
        let to = &mut self.to[usize::from(owner.worker())].places;
        let parts = (N - SENDER) / BODY;
        if to.room() < parts as u32 {
            return false;
        }
        for part in 0..parts {
            to.put(|place| {
                if part == 0 {
                    (place.entry, place.interface, place.len) = (owner.entry(), p.interface, p.headers.end);
                } else {
                    place.len = 0;
                }
                place.body = *view(b, SENDER + part * BODY);
            });
        }
        self.fresh[why as usize] += 1;
        true
    }

    /// Frames that are lent at the moment.
    pub(super) fn lent(&self) -> usize {
        self.to.iter().map(|to| to.lent.len()).sum()
    }

    /// Whether nothing waits here: neither frames of others, nor places of own ones that have come back.
    pub(super) fn is_quiet(&self) -> bool {
        self.from.iter().all(Taker::is_empty) && !self.to.iter().any(|to| to.places.has_back())
    }
}

/// The ends of all queues, until the workers take theirs.
#[derive(Debug)]
pub(super) struct Queues(Mutex<Vec<Option<Ends>>>);

impl Queues {
    /// Queues between `workers` workers with so many frames each.
    pub(super) fn new(workers: usize, frames: u32) -> Self {
        // A worker that others wait for in vain must not get all of their frames.
        let number = (WAITING / (workers as u32).max(1)).clamp(LEAST, MOST).min(frames / 2);
        let end = || Ends { to: Vec::new(), from: Vec::new(), fresh: [0; HandoffReason::COUNT] };
        let mut ends: Vec<Ends> = (0..workers).map(|_| end()).collect();
        for giver in 0..workers {
            for taker in 0..workers {
                let (places, from) = ring(number, Place::EMPTY);
                let lent = VecDeque::with_capacity(places.room() as usize);
                ends[giver].to.push(Giving { places, lent });
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
    /// Hands a packet to another worker.
    #[inline(always)]
    pub(super) fn hand_off<A: Ip>(&mut self, p: &Packet<A>, owner: Owner, why: HandoffReason) {
        if p.kind != family::Kind::Plain || usize::from(p.headers.end) > SHORT {
            return self.hand_off_other(p, owner, why);
        }
        // What follows the packet in its frame may come along; it goes no further.
        let Some(b) = self.pool.start::<SHORT>(p.frame) else { return self.hand_off_other(p, owner, why) };
        if self.ends.copy(b, p, owner, why) {
            self.pool.give(p.frame);
        } else {
            self.discard(p.frame, DropReason::HandoffFull);
        }
    }

    /// Hands a packet that does not fit into one place to another worker, or one of which too little is known.
    // Cold as the compiler sees it: others need the registers.
    #[cold]
    fn hand_off_other<A: Ip>(&mut self, p: &Packet<A>, owner: Owner, why: HandoffReason) {
        if p.kind != family::Kind::Plain {
            return self.lend(p.interface, p.frame, owner.worker(), why);
        }
        let fits = usize::from(p.headers.end) <= LONGEST;
        match self.pool.start::<LONGEST>(p.frame).filter(|_| fits) {
            Some(b) if self.ends.copy(b, p, owner, why) => self.pool.give(p.frame),
            Some(_) => self.discard(p.frame, DropReason::HandoffFull),
            None => self.lend_known(p, owner, why),
        }
    }

    /// Lends the frame of a packet that is known to be right.
    fn lend_known<A: Ip>(&mut self, p: &Packet<A>, owner: Owner, why: HandoffReason) {
        let sender = *view(self.pool.bytes(p.frame), SENDER);
        let place = Place::lent(p.interface, p.headers.end, Kind::lent::<A>(), self.pool.address(p.frame));
        self.give(p.frame, place.known(owner.entry(), sender, p.headers.proto), owner.worker(), why);
    }

    /// Lends a frame to another worker, who finds out itself what it is.
    #[cold]
    pub(super) fn lend(&mut self, interface: InterfaceId, f: Frame, owner: u16, why: HandoffReason) {
        let kind = match why {
            HandoffReason::Fragment => Kind::LENT_TO_COLLECT,
            HandoffReason::Connection | HandoffReason::IcmpError => Kind::LENT,
        };
        self.give(f, Place::lent(interface, f.len, kind, self.pool.address(f)), owner, why);
    }

    fn give(&mut self, f: Frame, place: Place, owner: u16, why: HandoffReason) {
        let index = self.pool.index(f);
        if self.ends.to[usize::from(owner)].lend(place, index) {
            self.ends.fresh[why as usize] += 1;
        } else {
            self.discard(f, DropReason::HandoffFull);
        }
    }

    /// Lets the other workers see what has been handed to them, and wakes those that sleep.
    pub(super) fn publish_handed(&mut self) {
        let fresh = std::mem::take(&mut self.ends.fresh);
        if fresh != [0; HandoffReason::COUNT] {
            for (n, c) in fresh.iter().zip(&self.counters().handed_off) {
                c.add(u64::from(*n));
            }
            for (owner, to) in self.ends.to.iter_mut().enumerate() {
                if to.places.publish() {
                    self.shared.wake(owner);
                }
            }
        }
    }

    /// Takes back the places, and lent frames, that other workers have done with.
    pub(super) fn take_back(&mut self) {
        for Giving { places, lent } in self.ends.to.iter_mut().filter(|to| to.places.out() > 0) {
            let first = places.take_back();
            while let Some((number, index)) = lent.front()
                && (number.wrapping_sub(first) as i32) < 0
            {
                self.pool.give_index(*index);
                lent.pop_front();
            }
        }
    }
}
