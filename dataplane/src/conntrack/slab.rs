//! Where connections live: a worker's slab of fixed slots, and the deadlines the control thread scans.
//!
//! The worker alone reads and writes connections. Beside them stands one atomic deadline per slot,
//! which the control thread scans: it is written when a connection begins and whenever its deadline
//! moves *nearer*, and left alone when it moves away, which is what nearly every packet does. So the
//! path does not touch it, the scan finds slots that *may* have expired, and the worker re-checks
//! them and brings the shared deadline up to date.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};

use super::region::{Region, populate, prefetch, prefetch_to_write};
use super::{Connection, Entry, Ticks};
use crate::packet::Address;
use crate::packet::transport::Ports;

/// The shared deadlines of one slab; clones share them.
#[derive(Debug, Clone)]
pub struct SlabView(Arc<Deadlines>);

#[derive(Debug)]
struct Deadlines {
    cells: Region<AtomicU32>,
    high_water: AtomicU32,
    /// What there is for each slot beside its cell, as a rule in arrays of the worker's own.
    parts: [Part; PARTS],
    /// Slots that are backed by memory; all of them while nobody backs them ahead of use.
    backed: AtomicU32,
    /// Who backs them.
    backer: OnceLock<Thread>,
}

/// Where an array begins that has a place for each slot, and how large a place is; 0 while there is none.
#[derive(Debug, Default)]
struct Part {
    base: AtomicUsize,
    size: AtomicUsize,
}

const PARTS: usize = 3;

/// Slots that are backed beyond those in use: as many again, within these bounds.
const AHEAD: (u32, u32) = (1 << 15, 1 << 18);
/// A slot that was never used is loaded while so many before it are taken.
const FRESH: u32 = 8;
/// Slots backed at a time.
const AT_ONCE: u32 = 1 << 14;
/// Whoever backs them is woken whenever so many more are in use.
const WAKE_EACH: u32 = 1 << 12;

impl SlabView {
    /// Deadlines for `capacity` slots.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub fn new(capacity: u32) -> io::Result<Self> {
        // SAFETY: zero is a valid AtomicU32.
        let cells = unsafe { Region::zeroed(capacity as usize)? };
        Ok(SlabView(Arc::new(Deadlines {
            cells,
            high_water: AtomicU32::new(0),
            parts: Default::default(),
            backed: AtomicU32::new(capacity),
            backer: OnceLock::new(),
        })))
    }

    /// Notes an array of the worker's that has a place for each slot, to be backed as well.
    pub(crate) fn has_part<T>(&self, number: usize, array: &Region<T>) {
        let p = &self.0.parts[number];
        p.size.store(size_of::<T>(), Ordering::Relaxed);
        p.base.store(array.as_ptr() as usize, Ordering::Relaxed);
    }

    /// From now on the calling thread backs slots ahead of use, and is [unparked](Thread::unpark) when more are in use;
    /// the worker uses none that is not backed.
    pub(crate) fn set_backer(&self) {
        if self.0.backer.set(thread::current()).is_ok() {
            // A slab begins with as many.
            self.0.backed.store(AHEAD.0.min(self.capacity()), Ordering::Relaxed);
        }
    }

    /// Backs some slots with memory before the worker comes to them, so that it need not pause for that. To be called by
    /// the thread that [does so](Self::set_backer). False when enough are backed.
    pub(crate) fn back_ahead(&self) -> bool {
        let d = &*self.0;
        let (used, from) = (self.high_water(), d.backed.load(Ordering::Relaxed));
        let want = used.saturating_add(used.clamp(AHEAD.0, AHEAD.1)).min(self.capacity());
        if from >= want {
            return false;
        }
        let to = want.min(from.saturating_add(AT_ONCE));
        self.back(from, to);
        d.backed.store(to, Ordering::Relaxed);
        true
    }

    /// Backs these slots.
    fn back(&self, from: u32, to: u32) {
        let d = &*self.0;
        let cells = (d.cells.as_slice().as_ptr() as usize, size_of::<AtomicU32>());
        let parts = d.parts.iter().map(|p| (p.base.load(Ordering::Relaxed), p.size.load(Ordering::Relaxed)));
        for (base, size) in parts.chain([cells]).filter(|(base, _)| *base != 0) {
            // The slab may go meanwhile, and its memory with it: then this backs nothing, or what something else
            // would have to back.
            populate(base + from as usize * size, (to - from) as usize * size);
        }
    }

    /// Number of slots that have ever been used; the ones to scan.
    pub fn high_water(&self) -> u32 {
        self.0.high_water.load(Ordering::Acquire)
    }

    /// Number of slots.
    pub fn capacity(&self) -> u32 {
        self.0.cells.as_slice().len() as u32
    }

    /// A moment not after the deadline of slot `i`; `Ticks(0)` when the slot is free.
    pub fn deadline(&self, i: u32) -> Ticks {
        Ticks(self.0.cells.as_slice()[i as usize].load(Ordering::Relaxed))
    }

    fn set(&self, i: u32, t: Ticks) {
        self.0.cells.as_slice()[i as usize].store(t.0, Ordering::Relaxed);
    }
}

/// A slot: free (with the next free slot's index + 1) or used.
#[derive(Debug, Clone, Copy)]
struct Free {
    next: u32,
}

/// A live connection in its slot.
#[derive(Debug)]
pub struct Live<'a, A: Address> {
    connection: &'a mut Connection<A>,
    view: &'a SlabView,
    slot: u32,
}

impl<A: Address> Live<'_, A> {
    /// The slot it is in.
    #[inline]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The same, lent on.
    #[inline]
    pub fn lend(&mut self) -> Live<'_, A> {
        Live { connection: self.connection, view: self.view, slot: self.slot }
    }

    /// Moves its deadline.
    #[inline]
    pub fn refresh(&mut self, t: Ticks) {
        let nearer = (t.0.wrapping_sub(self.connection.deadline.0) as i32) < 0;
        self.connection.deadline = t;
        if nearer {
            self.view.set(self.slot, t);
        }
    }
}

impl<A: Address> Deref for Live<'_, A> {
    type Target = Connection<A>;

    #[inline]
    fn deref(&self) -> &Connection<A> {
        self.connection
    }
}

impl<A: Address> DerefMut for Live<'_, A> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Connection<A> {
        self.connection
    }
}

/// A worker's connections of one family.
#[derive(Debug)]
pub struct Slab<A: Address> {
    slots: Region<MaybeUninit<Connection<A>>>,
    /// Liveness by slot: 0 never used or free.
    view: SlabView,
    free: Option<Free>,
    free_next: Region<u32>,
    used: u32,
    /// Slots known to be backed.
    backed: u32,
    live: u32,
    /// Slots that [`Slab::hit`] may be asked about: all that were in use when the burst began, or none once one
    /// has been freed.
    sure: u32,
}

impl<A: Address> Drop for Slab<A> {
    fn drop(&mut self) {
        for p in &self.view.0.parts {
            p.base.store(0, Ordering::Relaxed);
        }
    }
}

impl<A: Address> Slab<A> {
    /// A slab whose deadlines `view` shows.
    ///
    /// # Errors
    /// When the address space cannot be had.
    pub fn new(view: SlabView) -> io::Result<Self> {
        let n = view.capacity() as usize;
        // SAFETY: any bytes are a valid MaybeUninit.
        let slots: Region<MaybeUninit<Connection<A>>> = unsafe { Region::zeroed(n)? };
        // SAFETY: zero is a valid u32.
        let free_next: Region<u32> = unsafe { Region::zeroed(n)? };
        view.has_part(0, &slots);
        view.has_part(1, &free_next);
        view.back(0, AHEAD.0.min(view.capacity()));
        Ok(Slab { slots, view, free: None, free_next, used: 0, backed: 0, live: 0, sure: 0 })
    }

    /// Number of connections.
    pub fn len(&self) -> u32 {
        self.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.free.is_none() && self.used == self.view.capacity()
    }

    /// Slots below this may be in use.
    pub fn high_water(&self) -> u32 {
        self.used
    }

    /// Puts a connection, whose deadline must be set, into a free slot. `None` when there is none.
    pub fn insert(&mut self, c: Connection<A>) -> Option<u32> {
        let deadline = c.deadline;
        let i = self.place(c)?;
        self.begin(i, deadline);
        Some(i)
    }

    /// Puts a connection into a free slot, where it is not live before [`Slab::begin`]; until that or
    /// [`Slab::withdraw`] nothing else may be asked of the slot. `None` when there is none: because it [is
    /// full](Slab::is_full), or because the next one is not backed by memory yet.
    #[inline(always)]
    pub fn place(&mut self, c: Connection<A>) -> Option<u32> {
        let i = match self.free {
            Some(Free { next }) => {
                let after = self.free_next.as_slice()[next as usize];
                self.free = after.checked_sub(1).map(|next| Free { next });
                next
            }
            None => self.fresh()?,
        };
        self.slots.as_mut_slice()[i as usize].write(c);
        Some(i)
    }

    /// A slot that was never used.
    #[inline]
    fn fresh(&mut self) -> Option<u32> {
        let i = self.used;
        let d = &self.view.0;
        let wake = i.is_multiple_of(WAKE_EACH);
        if wake || i >= self.backed {
            self.backed = d.backed.load(Ordering::Relaxed);
        }
        if wake && let Some(backer) = d.backer.get() {
            backer.unpark();
        }
        if i >= self.backed {
            return None;
        }
        // Another core has zeroed them not long ago.
        self.prefetch_to_write(i + FRESH);
        self.used = i + 1;
        self.view.0.high_water.store(self.used, Ordering::Release);
        Some(i)
    }

    /// The connection in a slot that is not live yet.
    #[inline]
    pub fn placed(&mut self, i: u32) -> &mut Connection<A> {
        assert!(i < self.used);
        // SAFETY: as in `slot`, and `&mut self` makes it the only reference.
        unsafe { &mut *self.slots.as_mut_ptr().add(i as usize).cast() }
    }

    /// Makes a placed connection live.
    #[inline]
    pub fn begin(&mut self, i: u32, deadline: Ticks) {
        self.placed(i).deadline = deadline;
        self.view.set(i, deadline);
        self.live += 1;
    }

    /// Frees the slot of a placed connection that does not become live.
    pub fn withdraw(&mut self, i: u32) {
        debug_assert!(self.view.deadline(i) == Ticks(0));
        self.give_back(i);
    }

    fn give_back(&mut self, i: u32) {
        self.sure = 0;
        self.free_next.as_mut_slice()[i as usize] = self.free.map_or(0, |f| f.next + 1);
        self.free = Some(Free { next: i });
    }

    /// Frees a slot. Panics when it is free.
    pub fn remove(&mut self, i: u32) {
        assert!(self.is_live(i), "slot {i} is free");
        self.view.set(i, Ticks(0));
        self.give_back(i);
        self.live -= 1;
    }

    /// Whether the slot holds a connection.
    #[inline]
    pub fn is_live(&self, i: u32) -> bool {
        i < self.used && self.view.deadline(i) != Ticks(0)
    }

    /// The connection in a live slot.
    #[inline]
    pub fn get(&self, i: u32) -> &Connection<A> {
        debug_assert!(self.is_live(i));
        self.slot(i)
    }

    /// The connection in a live slot, to write.
    #[inline]
    pub fn get_mut(&mut self, i: u32) -> &mut Connection<A> {
        debug_assert!(self.is_live(i));
        assert!(i < self.used);
        // SAFETY: as in `slot`, and `&mut self` makes it the only reference.
        unsafe { &mut *self.slots.as_mut_ptr().add(i as usize).cast() }
    }

    #[inline]
    fn slot(&self, i: u32) -> &Connection<A> {
        assert!(i < self.used);
        // SAFETY: `used` is at most the number of slots, and those below it have been written; a freed one
        // still holds plain values, for which a stale read is harmless.
        unsafe { &*self.slots.as_ptr().add(i as usize).cast() }
    }

    /// From here on [`Slab::hit`] may be asked about slots that are live now.
    pub fn begin_burst(&mut self) {
        self.sure = self.used;
    }

    /// The connection at an entry that was live when the burst began, if it is that of a packet with these parts of a
    /// key and its time is not up. Misses everything once any slot has been freed since.
    #[inline(always)]
    pub fn hit(&mut self, e: Entry, (addresses, ports, proto): ((A, A), Ports, u8), now: Ticks) -> Option<Live<'_, A>> {
        let i = e.slot();
        if i >= self.sure {
            return None;
        }
        // SAFETY: as in `get_mut`: no more are sure than are in use.
        let connection = unsafe { &mut *self.slots.as_mut_ptr().add(i as usize).cast::<Connection<A>>() };
        let fits = connection.has_parts(e.direction(), addresses, ports, proto);
        if !fits || connection.deadline.reached(now) {
            return None;
        }
        Some(Live { connection, view: &self.view, slot: i })
    }

    /// A live connection for one of its packets.
    #[inline]
    pub fn open(&mut self, i: u32) -> Live<'_, A> {
        debug_assert!(self.is_live(i));
        assert!(i < self.used);
        // SAFETY: as in `get_mut`: the slots are borrowed for as long as the whole slab.
        let connection = unsafe { &mut *self.slots.as_mut_ptr().add(i as usize).cast() };
        Live { connection, view: &self.view, slot: i }
    }

    /// Moves a connection's deadline.
    #[inline]
    pub fn refresh(&mut self, i: u32, t: Ticks) {
        self.open(i).refresh(t);
    }

    /// Brings the shared deadline up to date after a scan reported the slot too early.
    pub fn publish_deadline(&mut self, i: u32) {
        let t = self.get(i).deadline;
        self.view.set(i, t);
    }

    /// Where its slots are, to be loaded ahead of use.
    #[inline]
    pub fn ahead(&self) -> Ahead<A> {
        Ahead(self.slots.as_ptr().cast())
    }

    /// [`Ahead::load`].
    #[inline(always)]
    pub fn prefetch(&self, i: u32, stateful: bool) {
        self.ahead().load(i, stateful);
    }

    #[inline]
    fn prefetch_to_write(&self, i: u32) {
        let p = self.slots.as_ptr().wrapping_add(i as usize).cast::<u8>();
        for line in (0..size_of::<Connection<A>>()).step_by(64) {
            prefetch_to_write(p.wrapping_add(line));
        }
    }
}

/// Where slots are: who loads many of them has it at hand.
pub struct Ahead<A>(*const Connection<A>);

impl<A: Address> Ahead<A> {
    /// Loads the slot's cache lines ahead of use; for a connection without a state of its protocol, those that
    /// each packet needs.
    #[inline(always)]
    pub fn load(&self, i: u32, stateful: bool) {
        let p = self.0.wrapping_add(i as usize).cast::<u8>();
        let each = offset_of!(Connection<A>, private).next_multiple_of(64);
        for line in (0..each).step_by(64) {
            prefetch(p.wrapping_add(line));
        }
        if stateful {
            for line in (each..size_of::<Connection<A>>()).step_by(64) {
                prefetch(p.wrapping_add(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Key, Private};
    use crate::packet::V4;

    #[test]
    fn slots_are_used_once_they_are_backed() {
        let capacity = AHEAD.0 + 2 * AT_ONCE;
        let view = SlabView::new(capacity).unwrap();
        let mut slab: Slab<V4> = Slab::new(view.clone()).unwrap();
        let mut fill = || {
            let c =
                Connection { deadline: Ticks(7), ..Connection::new(Key::default(), Key::default(), Private::Plain) };
            let mut n = 0;
            while slab.insert(c).is_some() {
                n += 1;
            }
            (n, slab.is_full())
        };
        view.set_backer();
        assert_eq!(fill(), (AHEAD.0, false));
        assert!(view.back_ahead());
        assert_eq!(fill(), (AT_ONCE, false));
        while view.back_ahead() {}
        assert_eq!(fill(), (AT_ONCE, true));
        assert!(!view.back_ahead());
    }

    #[test]
    fn all_slots_can_be_used_while_nobody_backs_them() {
        let mut slab: Slab<V4> = Slab::new(SlabView::new(3).unwrap()).unwrap();
        for i in 0..4 {
            let c =
                Connection { deadline: Ticks(7), ..Connection::new(Key::default(), Key::default(), Private::Plain) };
            assert_eq!(slab.insert(c), (i < 3).then_some(i));
        }
    }
}
