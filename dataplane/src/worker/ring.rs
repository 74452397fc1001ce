//! A bounded queue from one thread to another, whose places the first one sees again when the second has done
//! with them.
//!
//! Both ends work in batches: what is [put](Giver::put) is seen by the other end only after [`Giver::publish`], and
//! what that has looked at is [done](Taker::done) all at once. So a batch costs two stores that the other side sees,
//! however long it is, and no atomic read-modify-write. Each end keeps what it knows of the other in fields of its own.

use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use crate::conntrack::region::{prefetch, prefetch_to_write};

/// A value's place.
#[derive(Debug)]
#[repr(transparent)]
struct Place<T>(UnsafeCell<T>);

// SAFETY: a place is written by the giver alone, and only for a value's number that lies before `limit`; the taker
// reads it only after it has seen, with acquire ordering, that a value in it was published. That the giver writes a
// place again after the taker's last look at it follows from `done`, which the giver has read with acquire ordering
// before `limit` gets there. So no place is ever written while somebody else may look at it. Values are `Copy`: nobody
// drops them.
unsafe impl<T: Copy + Send> Sync for Place<T> {}

/// What the two ends tell each other. Numbers count values since the beginning and wrap; a value's place is its number,
/// modulo the size, which is a power of two.
#[derive(Debug, Default)]
struct Progress {
    /// Values before this number may be read by the taker. Written by the giver only.
    given: CachePadded<AtomicU32>,
    /// The taker has done with values before this number. Written by the taker only.
    done: CachePadded<AtomicU32>,
}

/// Where the value of this number is.
#[inline(always)]
fn place<T>(places: &[Place<T>], number: u32) -> *mut T {
    let i = number as usize & (places.len() - 1);
    // SAFETY: there is at least one place, and an index masked by one less than a power of two is less than that.
    unsafe { places.get_unchecked(i).0.get() }
}

/// A place that is put into next is loaded while so many before it are written: the other end has read it last.
const AHEAD: u32 = 8;

/// The end where values are put.
#[derive(Debug)]
pub(super) struct Giver<T> {
    places: Arc<[Place<T>]>,
    progress: Arc<Progress>,
    /// The number of the value that is put next.
    next: u32,
    /// There are places for the values before this number.
    limit: u32,
    /// Values before this number are published.
    published: u32,
}

/// The end where they are read.
#[derive(Debug)]
pub(super) struct Taker<T> {
    places: Arc<[Place<T>]>,
    progress: Arc<Progress>,
    /// Values before this number are known to have been published.
    known: u32,
    /// The number of the first value that is not done with.
    first: u32,
    /// Values before this number are loaded.
    loaded: Cell<u32>,
}

/// The two ends of a queue of at least `places` places, which hold something before they are first put into.
pub(super) fn ring<T: Copy + Send>(places: u32, before: T) -> (Giver<T>, Taker<T>) {
    let size = places.clamp(1, 1 << 20).next_power_of_two();
    let places: Arc<[Place<T>]> = (0..size).map(|_| Place(UnsafeCell::new(before))).collect();
    let progress: Arc<Progress> = Arc::default();
    (
        Giver { places: places.clone(), progress: progress.clone(), next: 0, limit: size, published: 0 },
        Taker { places, progress, known: 0, first: 0, loaded: Cell::new(0) },
    )
}

impl<T: Copy> Giver<T> {
    /// Values that have been put and have not come back.
    #[inline]
    pub(super) fn out(&self) -> u32 {
        self.places.len() as u32 - self.room()
    }

    /// How many values there is a place for.
    #[inline(always)]
    pub(super) fn room(&self) -> u32 {
        self.limit.wrapping_sub(self.next)
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
        let next = self.next;
        self.next = next.wrapping_add(1);
        prefetch_to_write(place(&self.places, next.wrapping_add(1 + AHEAD)));
        // SAFETY: the place holds no value that is out, so nobody else looks at it.
        write(unsafe { &mut *place(&self.places, next) });
        true
    }

    /// Lets the other end see what has been put. False when that is nothing new.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.next {
            return false;
        }
        self.published = self.next;
        self.progress.given.store(self.next, Ordering::Release);
        true
    }

    /// Values before this number have come back.
    fn back(&self) -> u32 {
        self.limit.wrapping_sub(self.places.len() as u32)
    }

    /// Whether [`Giver::take_back`] would find something.
    pub(super) fn has_back(&self) -> bool {
        self.back() != self.progress.done.load(Ordering::Acquire)
    }

    /// Takes back the places of the values that the other end has done with: all before the number that is returned.
    #[inline]
    pub(super) fn take_back(&mut self) -> u32 {
        let back = self.progress.done.load(Ordering::Acquire);
        self.limit = back.wrapping_add(self.places.len() as u32);
        back
    }
}

impl<T: Copy> Taker<T> {
    /// Whether there is something to read.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first == self.progress.given.load(Ordering::Acquire)
    }

    /// Looks for values that can be read. False when there are none.
    #[inline]
    pub(super) fn look(&mut self) -> bool {
        self.known = self.progress.given.load(Ordering::Acquire);
        self.known != self.first
    }

    /// Values that can be read, from the first one on: at most `most`, and no more than lie side by side. There is one
    /// at least if there are any.
    #[inline]
    pub(super) fn values(&self, most: u32) -> &[T] {
        let first = self.first as usize & (self.places.len() - 1);
        let n = (self.known.wrapping_sub(self.first).min(most) as usize).min(self.places.len() - first);
        let places = &self.places[first..first + n];
        // SAFETY: a place is laid out as its value is. The values have been published, and none of them is written
        // again before this end has done with it, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(places.as_ptr().cast(), n) }
    }

    /// Value number `i` of those that can be read; panics when there are not as many.
    #[inline]
    pub(super) fn get(&self, i: u32) -> &T {
        assert!(i < self.known.wrapping_sub(self.first));
        // SAFETY: the value has been published, and is not written again before this end has done with it, which
        // takes `&mut self`.
        unsafe { &*place(&self.places, self.first.wrapping_add(i)) }
    }

    /// Loads the first `n` values, so far as they can be read: one that is yet to be written is left to who writes it.
    #[inline(always)]
    pub(super) fn load(&self, n: u32) {
        let end = self.first.wrapping_add(n.min(self.known.wrapping_sub(self.first)));
        let mut next = self.loaded.get();
        while (end.wrapping_sub(next) as i32) > 0 {
            prefetch(place(&self.places, next));
            next = next.wrapping_add(1);
        }
        self.loaded.set(next);
    }

    /// Gives the first `n` values back; panics when there are not as many.
    #[inline]
    pub(super) fn done(&mut self, n: u32) {
        assert!(n <= self.known.wrapping_sub(self.first));
        self.first = self.first.wrapping_add(n);
        self.progress.done.store(self.first, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    impl<T: Copy> Giver<T> {
        fn begin_at(&mut self, other: &mut Taker<T>, number: u32) {
            self.limit = number.wrapping_add(self.room());
            (self.next, self.published) = (number, number);
            (other.known, other.first, other.loaded) = (number, number, Cell::new(number));
            self.progress.given.store(number, Ordering::Relaxed);
            self.progress.done.store(number, Ordering::Relaxed);
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
                        prop_assert_eq!(taker.look(), !seen.is_empty());
                        let due: Vec<_> = seen.drain(..seen.len().min(max.into())).collect();
                        let read: Vec<u32> = (0..due.len() as u32).map(|i| *taker.get(i)).collect();
                        prop_assert_eq!(&read, &due);
                        // The same again, in as many parts as they lie in.
                        let mut rest = &due[..];
                        while !rest.is_empty() {
                            taker.load(rest.len() as u32);
                            let part = taker.values(rest.len() as u32);
                            let n = part.len();
                            prop_assert!(n > 0);
                            prop_assert_eq!(part, &rest[..n]);
                            rest = &rest[n..];
                            taker.done(n as u32);
                        }
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
                if !taker.look() {
                    std::thread::yield_now();
                }
                let values = taker.values(1 + expected as u32 % 29);
                for v in values {
                    taker.load(expected as u32 % 13);
                    assert_eq!(*v, [expected; 5]);
                    expected += 1;
                }
                let n = values.len() as u32;
                taker.done(n);
            }
        });
    }

    #[test]
    #[should_panic = "assertion failed"]
    fn what_is_not_published_cannot_be_read() {
        let (mut giver, mut taker) = ring(4, 0);
        assert!(giver.put(|v| *v = 1));
        assert!(!taker.look());
        assert_eq!(taker.values(4), []);
        taker.get(0);
    }

    #[test]
    #[should_panic = "assertion failed"]
    fn what_is_not_published_cannot_be_given_back() {
        let (mut giver, mut taker) = ring(4, 0);
        assert!(giver.put(|v| *v = 1));
        assert!(!taker.look());
        taker.done(1);
    }
}
