//! A bounded queue from one thread to another, whose places the first one sees again when the second has done
//! with them.
//!
//! Both ends work in batches: what is [put](Giver::put) is seen by the other end only after [`Giver::publish`], and
//! what that has looked at is [done](Taker::done) all at once. So a batch costs two stores that the other side sees,
//! however long it is, and no atomic read-modify-write. Each end keeps what it knows of the other in fields of its own.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

/// What the two ends share. Numbers count values since the beginning and wrap; a value's place is its number, modulo
/// the size.
#[derive(Debug)]
struct Ring<T> {
    places: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Values before this number may be read by the taker. Written by the giver only.
    given: CachePadded<AtomicU32>,
    /// The taker has done with values before this number. Written by the taker only.
    done: CachePadded<AtomicU32>,
}

// SAFETY: a place is written by the giver alone, and only while it holds no value between `back` and `next`; the taker
// reads it only after it has seen, with acquire ordering, that a value in it was published. That the giver writes a
// place again after the taker's last look at it follows from `done`, which the giver has read with acquire ordering
// before `back` gets there. So no place is ever written while somebody else may look at it. Values are `Copy`: they
// are read by both and dropped by neither.
unsafe impl<T: Copy + Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn place(&self, number: u32) -> *mut MaybeUninit<T> {
        self.places[number as usize & (self.places.len() - 1)].get()
    }
}

/// The end where values are put.
#[derive(Debug)]
pub(super) struct Giver<T> {
    ring: Arc<Ring<T>>,
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
    /// Values before this number are known to have been published.
    known: u32,
    /// The number of the first value that is not done with.
    first: u32,
}

/// The two ends of a queue of at least `places` places.
pub(super) fn ring<T: Copy + Send>(places: u32) -> (Giver<T>, Taker<T>) {
    let places = places.clamp(1, 1 << 20).next_power_of_two();
    let ring = Arc::new(Ring {
        places: (0..places).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        given: CachePadded::default(),
        done: CachePadded::default(),
    });
    (Giver { ring: ring.clone(), next: 0, published: 0, back: 0 }, Taker { ring, known: 0, first: 0 })
}

impl<T: Copy> Giver<T> {
    /// Values that have been put and have not come back.
    #[inline]
    pub(super) fn out(&self) -> u32 {
        self.next.wrapping_sub(self.back)
    }

    /// Puts a value. False, and nothing done, when there is no place left.
    #[inline]
    pub(super) fn put(&mut self, value: T) -> bool {
        if self.out() as usize == self.ring.places.len() {
            return false;
        }
        // SAFETY: the place holds no value that is out, so nobody else looks at it.
        unsafe { (*self.ring.place(self.next)).write(value) };
        self.next = self.next.wrapping_add(1);
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

    /// The values that the other end has done with since the last call.
    #[inline]
    pub(super) fn take_back(&mut self) -> impl Iterator<Item = T> {
        let done = self.ring.done.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            if self.back == done {
                return None;
            }
            // SAFETY: it was written by this end, and is not written again before `back` has passed it.
            let value = unsafe { (*self.ring.place(self.back)).assume_init() };
            self.back = self.back.wrapping_add(1);
            Some(value)
        })
    }
}

impl<T: Copy> Taker<T> {
    /// Whether there is something to read.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first == self.ring.given.load(Ordering::Acquire)
    }

    /// Up to `max` values that can be read, in two parts where they lie at the end and at the beginning.
    #[inline]
    pub(super) fn ready(&mut self, max: u32) -> [&[T]; 2] {
        self.known = self.ring.given.load(Ordering::Acquire);
        let n = self.known.wrapping_sub(self.first).min(max) as usize;
        let size = self.ring.places.len();
        let until_end = n.min(size - (self.first as usize & (size - 1)));
        let part = |from: u32, n: usize| {
            // SAFETY: `n` places lie one behind the other from there on; their values have been published, and are not
            // written again before this end has done with them, which takes `&mut self`.
            unsafe { std::slice::from_raw_parts(self.ring.place(from).cast::<T>(), n) }
        };
        [part(self.first, until_end), part(self.first.wrapping_add(until_end as u32), n - until_end)]
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
            let (mut giver, mut taker) = ring(places);
            // So that the numbers wrap.
            giver.begin_at(&mut taker, u32::MAX - 30);
            let size = places.next_power_of_two() as usize;
            let [mut hidden, mut seen, mut done] = [const { VecDeque::<u32>::new() }; 3];
            let mut n = 0;
            for s in steps {
                match s {
                    Step::Put(k) => for _ in 0..k {
                        let room = hidden.len() + seen.len() + done.len() < size;
                        prop_assert_eq!(giver.put(n), room);
                        if room {
                            hidden.push_back(n);
                        }
                        n += 1;
                    },
                    Step::Publish => {
                        prop_assert_eq!(giver.publish(), !hidden.is_empty());
                        seen.append(&mut hidden);
                    }
                    Step::Read(max) => {
                        prop_assert_eq!(taker.is_empty(), seen.is_empty());
                        let read = taker.ready(max.into()).concat();
                        let due: Vec<_> = seen.drain(..seen.len().min(max.into())).collect();
                        prop_assert_eq!(&read, &due);
                        taker.done(read.len() as u32);
                        done.extend(due);
                    }
                    Step::TakeBack => {
                        prop_assert_eq!(giver.has_back(), !done.is_empty());
                        prop_assert_eq!(giver.take_back().collect::<Vec<_>>(), done.drain(..).collect::<Vec<_>>());
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
        let (mut giver, mut taker) = ring::<Wide>(64);
        std::thread::scope(|s| {
            s.spawn(move || {
                let (mut next, mut back) = (0, 0);
                while back < VALUES {
                    // Batches of all sizes.
                    for _ in 0..=next % 37 {
                        next += u64::from(next < VALUES && giver.put([next; 5]));
                    }
                    if !giver.publish() {
                        std::thread::yield_now();
                    }
                    for v in giver.take_back() {
                        assert_eq!(v, [back; 5]);
                        back += 1;
                    }
                }
                assert_eq!(giver.out(), 0);
            });
            let mut expected = 0;
            while expected < VALUES {
                let parts = taker.ready(1 + expected as u32 % 29);
                let n = (parts[0].len() + parts[1].len()) as u32;
                for v in parts.into_iter().flatten() {
                    assert_eq!(*v, [expected; 5]);
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
    fn what_is_not_published_cannot_be_read_or_given_back() {
        let (mut giver, mut taker) = ring(4);
        assert!(giver.put(1));
        assert_eq!(taker.ready(4), [&[], &[]]);
        taker.done(1);
    }
}
