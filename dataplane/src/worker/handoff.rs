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
use super::place::{self, BODY, Kind, LONGEST, Place, SHORT};
use super::reason::{DropReason, HandoffReason};
use super::ring::{Giver, Taker, ring};
use crate::io::{Frame, Port};
use crate::packet::{ETHERNET, Ip, view};
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
    fn lend(&mut self, about: Place, data: *const u8, index: u32) -> bool {
        let number = self.places.next();
        let put = self.places.put(|place| {
            *place = about;
            place.set_address(data);
        });
        if put {
            self.lent.push_back((number, index));
        }
        put
    }
}

impl Ends {
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
        if p.kind != family::Kind::Plain {
            return self.lend(p.interface, p.frame, owner.worker(), why);
        }
        if usize::from(p.frame.len) > SHORT || self.pool.room(p.frame) < SHORT {
            return self.hand_off_longer(p, owner, why);
        }
        if !self.copy::<A, 1>(p, owner, why) {
            self.discard(p.frame, DropReason::HandoffFull);
        }
    }

    /// Hands a packet that is known to be right, but does not fit into one place, to another worker.
    #[inline(never)]
    fn hand_off_longer<A: Ip>(&mut self, p: &Packet<A>, owner: Owner, why: HandoffReason) {
        if usize::from(p.frame.len) > LONGEST || self.pool.room(p.frame) < LONGEST {
            self.lend_known(p, owner, why);
        } else if !self.copy::<A, { place::MOST }>(p, owner, why) {
            self.discard(p.frame, DropReason::HandoffFull);
        }
    }

    /// Copies a packet into so many places, and gives its frame back. False, and nothing done, when there are not as
    /// many.
    #[inline(always)]
    fn copy<A: Ip, const N: usize>(&mut self, p: &Packet<A>, owner: Owner, why: HandoffReason) -> bool {
        // What follows the packet in its frame may come along; it goes no further.
        let b = self.pool.bytes(Frame { len: (ETHERNET + N * BODY) as u16, ..p.frame });
        let to = &mut self.ends.to[usize::from(owner.worker())].places;
        if to.room() < N as u32 {
            return false;
        }
        for part in 0..N {
            to.put(|place| {
                place.entry = owner.entry();
                place.interface = p.interface;
                place.len = p.frame.len;
                place.sender = *view(b, 6);
                place.kind = Kind::known::<A>(N);
                place.proto = p.headers.proto;
                place.body = *view(b, ETHERNET + part * BODY);
            });
        }
        self.ends.fresh[why as usize] += 1;
        self.pool.give(p.frame);
        true
    }

    /// Lends the frame of a packet that is known to be right.
    fn lend_known<A: Ip>(&mut self, p: &Packet<A>, owner: Owner, why: HandoffReason) {
        let place = Place {
            entry: owner.entry(),
            interface: p.interface,
            len: p.frame.len,
            sender: *view(self.pool.bytes(p.frame), 6),
            kind: Kind::known::<A>(place::LENT),
            proto: p.headers.proto,
            ..Place::EMPTY
        };
        self.give(p.frame, place, owner.worker(), why);
    }

    /// Lends a frame to another worker, who finds out itself what it is.
    #[cold]
    pub(super) fn lend(&mut self, interface: InterfaceId, f: Frame, owner: u16, why: HandoffReason) {
        let kind = match why {
            HandoffReason::Fragment => Kind::LentToCollect,
            HandoffReason::Connection | HandoffReason::IcmpError => Kind::Lent,
        };
        let place = Place { interface, len: f.len, kind, ..Place::EMPTY };
        self.give(f, place, owner, why);
    }

    fn give(&mut self, f: Frame, place: Place, owner: u16, why: HandoffReason) {
        let (data, index) = (self.pool.address(f), self.pool.index(f));
        if self.ends.to[usize::from(owner)].lend(place, data, index) {
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
