//! A bounded queue from one thread to another, whose places the first one sees again when the second has done
//! with them.
//!
//! Both ends work in batches: what is [put](Giver::put) is seen by the other end only after [`Giver::publish`], and
//! what that has looked at is [done](Taker::done) all at once. So a batch costs two stores that the other side sees,
//! however long it is, and no atomic read-modify-write. Each end keeps what it knows of the other in fields of its own.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use crate::conntrack::region::{prefetch, prefetch_to_write};

/// What the two ends share. Numbers count values since the beginning and wrap; a value's place is its number, modulo
/// the size.
#[derive(Debug)]
struct Ring<T> {
    places: Box<[UnsafeCell<T>]>,
    /// Values before this number may be read by the taker. Written by the giver only.
    given: CachePadded<AtomicU32>,
    /// The taker has done with values before this number. Written by the taker only.
    done: CachePadded<AtomicU32>,
}

// SAFETY: a place is written by the giver alone, and only while it holds no value between `back` and `next`; the taker
// reads it only after it has seen, with acquire ordering, that a value in it was published. That the giver writes a
// place again after the taker's last look at it follows from `done`, which the giver has read with acquire ordering
// before `back` gets there. So no place is ever written while somebody else may look at it. Values are `Copy`: nobody
// drops them.
unsafe impl<T: Copy + Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    #[inline(always)]
    fn place(&self, number: u32, mask: Mask) -> *mut T {
        // SAFETY: the mask is one less than the number of places.
        unsafe { self.places.get_unchecked((number & mask.0) as usize).get() }
    }
}

/// The number of a ring's places, a power of two, less one.
#[derive(Debug, Clone, Copy)]
struct Mask(u32);

/// A place that is put into next is loaded while so many before it are written: the other end has read it last.
const AHEAD: u32 = 8;

/// The end where values are put.
#[derive(Debug)]
pub(super) struct Giver<T> {
    ring: Arc<Ring<T>>,
    mask: Mask,
    /// The number of the value that is put next.
    next: u32,
    /// Values before this number are published.
    published: u32,
    /// Values before this number have come back.
    back: u32,
}

/// The end where they are read.
#[derive(Debug)]
pub(super) struct Taker<T> {
    ring: Arc<Ring<T>>,
    mask: Mask,
    /// Values before this number are known to have been published.
    known: u32,
    /// The number of the first value that is not done with.
    first: u32,
}

/// The two ends of a queue of at least `places` places, which hold something before they are first put into.
pub(super) fn ring<T: Copy + Send>(places: u32, before: T) -> (Giver<T>, Taker<T>) {
    let places = places.clamp(1, 1 << 20).next_power_of_two();
    let ring = Arc::new(Ring {
        places: (0..places).map(|_| UnsafeCell::new(before)).collect(),
        given: CachePadded::default(),
        done: CachePadded::default(),
    });
    let mask = Mask(places - 1);
    (Giver { ring: ring.clone(), mask, next: 0, published: 0, back: 0 }, Taker { ring, mask, known: 0, first: 0 })
}

impl<T: Copy> Giver<T> {
    /// Values that have been put and have not come back.
    #[inline]
    pub(super) fn out(&self) -> u32 {
        self.next.wrapping_sub(self.back)
    }

    /// How many values there is a place for.
    #[inline]
    pub(super) fn room(&self) -> u32 {
        self.mask.0 + 1 - self.out()
    }

    /// The number that the next value gets.
    #[inline]
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Puts a value, which is written over what was in its place before. False, and nothing done, when there is no
    /// place left.
    #[inline(always)]
    pub(super) fn put(&mut self, write: impl FnOnce(&mut T)) -> bool {
        if self.room() == 0 {
            return false;
        }
        // SAFETY: the place holds no value that is out, so nobody else looks at it.
        write(unsafe { &mut *self.ring.place(self.next, self.mask) });
        self.next = self.next.wrapping_add(1);
        prefetch_to_write(self.ring.place(self.next.wrapping_add(AHEAD), self.mask));
        true
    }

    /// Lets the other end see what has been put. False when that is nothing new.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.next {
            return false;
        }
        self.published = self.next;
        self.ring.given.store(self.next, Ordering::Release);
        true
    }

    /// Whether [`Giver::take_back`] would find something.
    pub(super) fn has_back(&self) -> bool {
        self.back != self.ring.done.load(Ordering::Acquire)
    }

    /// Takes back the places of the values that the other end has done with: all before the number that is returned.
    #[inline]
    pub(super) fn take_back(&mut self) -> u32 {
        self.back = self.ring.done.load(Ordering::Acquire);
        self.back
    }
}

impl<T: Copy> Taker<T> {
    /// Whether there is something to read.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first == self.ring.given.load(Ordering::Acquire)
    }

    /// How many values can be read.
    #[inline]
    pub(super) fn ready(&mut self) -> u32 {
        self.known = self.ring.given.load(Ordering::Acquire);
        self.known.wrapping_sub(self.first)
    }

    /// Value number `i` of those that can be read; panics when there are not as many.
    #[inline(always)]
    pub(super) fn get(&self, i: u32) -> &T {
        assert!(i < self.known.wrapping_sub(self.first));
        // SAFETY: the value has been published, and is not written again before this end has done with it, which
        // takes `&mut self`.
        unsafe { &*self.ring.place(self.first.wrapping_add(i), self.mask) }
    }

    /// Loads value number `i`, if it can be read: one that is yet to be written is left to who writes it.
    #[inline(always)]
    pub(super) fn load(&self, i: u32) {
        if i < self.known.wrapping_sub(self.first) {
            prefetch(self.ring.place(self.first.wrapping_add(i), self.mask));
        }
    }

    /// Gives the first `n` values back; panics when there are not as many.
    #[inline]
    pub(super) fn done(&mut self, n: u32) {
        assert!(n <= self.known.wrapping_sub(self.first));
        self.first = self.first.wrapping_add(n);
        self.ring.done.store(self.first, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    impl<T> Giver<T> {
        fn begin_at(&mut self, other: &mut Taker<T>, number: u32) {
            (self.next, self.published, self.back) = (number, number, number);
            (other.known, other.first) = (number, number);
            self.ring.given.store(number, Ordering::Relaxed);
            self.ring.done.store(number, Ordering::Relaxed);
        }
    }

    /// So that the numbers wrap.
    const FIRST: u32 = u32::MAX - 30;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Put(u8),
        Publish,
        Read(u8),
        TakeBack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..12).prop_map(Step::Put),
            Just(Step::Publish),
            (0u8..12).prop_map(Step::Read),
            Just(Step::TakeBack),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn agrees_with_queues(places in 1u32..20, steps in steps()) {
            let (mut giver, mut taker) = ring(places, 0);
            giver.begin_at(&mut taker, FIRST);
            let size = places.next_power_of_two() as usize;
            let [mut hidden, mut seen, mut done] = [const { VecDeque::<u32>::new() }; 3];
            let mut n = 0;
            for s in steps {
                match s {
                    Step::Put(k) => for _ in 0..k {
                        prop_assert_eq!(giver.room() as usize, size - hidden.len() - seen.len() - done.len());
                        prop_assert_eq!(giver.next(), FIRST.wrapping_add(n));
                        let room = giver.room() > 0;
                        prop_assert_eq!(giver.put(|v| *v = n), room);
                        if room {
                            hidden.push_back(n);
                            n += 1;
                        }
                    },
                    Step::Publish => {
                        prop_assert_eq!(giver.publish(), !hidden.is_empty());
                        seen.append(&mut hidden);
                    }
                    Step::Read(max) => {
                        prop_assert_eq!(taker.is_empty(), seen.is_empty());
                        prop_assert_eq!(taker.ready() as usize, seen.len());
                        let due: Vec<_> = seen.drain(..seen.len().min(max.into())).collect();
                        let read: Vec<u32> = (0..due.len() as u32).map(|i| *taker.get(i)).collect();
                        prop_assert_eq!(&read, &due);
                        taker.done(read.len() as u32);
                        done.extend(due);
                    }
                    Step::TakeBack => {
                        prop_assert_eq!(giver.has_back(), !done.is_empty());
                        done.clear();
                        let out = (hidden.len() + seen.len()) as u32;
                        prop_assert_eq!(giver.take_back(), FIRST.wrapping_add(n - out));
                    }
                }
                prop_assert_eq!(giver.out() as usize, hidden.len() + seen.len() + done.len());
            }
        }
    }

    /// Values as long as two cache lines' halves, all of whose words must be of one time.
    type Wide = [u64; 5];

    #[test]
    fn nothing_is_torn_lost_or_out_of_order_between_two_threads() {
        const VALUES: u64 = 300_000;
        let (mut giver, mut taker) = ring::<Wide>(64, [0; 5]);
        std::thread::scope(|s| {
            s.spawn(move || {
                let (mut next, mut back) = (0, 0);
                while back < VALUES {
                    // Batches of all sizes.
                    for _ in 0..=next % 37 {
                        next += u64::from(next < VALUES && giver.put(|v| *v = [next; 5]));
                    }
                    if !giver.publish() {
                        std::thread::yield_now();
                    }
                    back = u64::from(giver.take_back());
                }
                assert_eq!(giver.out(), 0);
            });
            let mut expected = 0;
            while expected < VALUES {
                let n = taker.ready().min(1 + expected as u32 % 29);
                for i in 0..n {
                    taker.load(i + 8);
                    assert_eq!(*taker.get(i), [expected; 5]);
                    expected += 1;
                }
                if n == 0 {
                    std::thread::yield_now();
                }
                taker.done(n);
            }
        });
    }

    #[test]
    #[should_panic = "assertion failed"]
    fn what_is_not_published_cannot_be_read() {
        let (mut giver, mut taker) = ring(4, 0);
        assert!(giver.put(|v| *v = 1));
        assert_eq!(taker.ready(), 0);
        taker.get(0);
    }

    #[test]
    #[should_panic = "assertion failed"]
    fn what_is_not_published_cannot_be_given_back() {
        let (mut giver, mut taker) = ring(4, 0);
        assert!(giver.put(|v| *v = 1));
        assert_eq!(taker.ready(), 0);
        taker.done(1);
    }
}
