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
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::region::{Region, populate, prefetch, prefetch_to_write};
use super::{Connection, Entry, Ticks};
use crate::packet::transport::Ports;
use crate::packet::{Address, Headers};

/// The shared deadlines of one slab; clones share them.
#[derive(Debug, Clone)]
pub struct SlabView(Arc<Deadlines>);

#[derive(Debug)]
struct Deadlines {
    cells: Region<AtomicU32>,
    high_water: AtomicU32,
    /// What there is for each slot beside its cell, as a rule in arrays of the worker's own.
    parts: [Part; PARTS],
    /// Slots that are backed by memory.
    backed: AtomicU32,
}

/// Where an array begins that has a place for each slot, and how large a place is; 0 while there is none.
#[derive(Debug, Default)]
struct Part {
    base: AtomicUsize,
    size: AtomicUsize,
}

const PARTS: usize = 3;

/// Slots that are backed beyond those in use: as many again, within these bounds.
const AHEAD: (u32, u32) = (1 << 14, 1 << 18);
/// A slot that was never used is loaded while so many before it are taken.
const FRESH: u32 = 8;
/// Slots backed at a time.
const AT_ONCE: u32 = 1 << 14;

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
            backed: AtomicU32::new(0),
        })))
    }

    /// Notes an array of the worker's that has a place for each slot, to be backed as well.
    pub(crate) fn has_part<T>(&self, number: usize, array: &Region<T>) {
        let p = &self.0.parts[number];
        p.size.store(size_of::<T>(), Ordering::Relaxed);
        p.base.store(array.as_ptr() as usize, Ordering::Relaxed);
    }

    /// Backs slots with memory before the worker comes to them, so that it need not pause for that; some at a time.
    /// To be called by one thread, every now and then. False when enough are backed.
    pub fn back_ahead(&self) -> bool {
        let d = &*self.0;
        let (used, backed) = (self.high_water(), d.backed.load(Ordering::Relaxed));
        let from = backed.max(used);
        let want = used.saturating_add(used.clamp(AHEAD.0, AHEAD.1)).min(self.capacity());
        if from >= want {
            return false;
        }
        let to = want.min(from.saturating_add(AT_ONCE));
        let cells = (d.cells.as_slice().as_ptr() as usize, size_of::<AtomicU32>());
        let parts = d.parts.iter().map(|p| (p.base.load(Ordering::Relaxed), p.size.load(Ordering::Relaxed)));
        for (base, size) in parts.chain([cells]).filter(|(base, _)| *base != 0) {
            // The slab may go meanwhile, and its memory with it: then this backs nothing, or what something else
            // would have to back.
            populate(base + from as usize * size, (to - from) as usize * size);
        }
        d.backed.store(to, Ordering::Relaxed);
        true
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
        let nearer = self.connection.deadline.0.wrapping_sub(t.0) as i32 > 0;
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
        Ok(Slab { slots, view, free: None, free_next, used: 0, live: 0, sure: 0 })
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
    /// [`Slab::withdraw`] nothing else may be asked of the slot. `None` when there is none.
    #[inline(always)]
    pub fn place(&mut self, c: Connection<A>) -> Option<u32> {
        let i = match self.free {
            Some(Free { next }) => {
                let after = self.free_next.as_slice()[next as usize];
                self.free = after.checked_sub(1).map(|next| Free { next });
                next
            }
            None if self.used < self.view.capacity() => {
                // Another core has zeroed them not long ago.
                self.prefetch_to_write(self.used + FRESH);
                self.used += 1;
                self.view.0.high_water.store(self.used, Ordering::Release);
                self.used - 1
            }
            None => return None,
        };
        self.slots.as_mut_slice()[i as usize].write(c);
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

    /// The connection at an entry that was live when the burst began, if it is that of a packet with these headers
    /// and ports and its time is not up. Misses everything once any slot has been freed since.
    #[inline(always)]
    pub fn hit(&mut self, e: Entry, h: &Headers<A>, ports: Ports, now: Ticks) -> Option<Live<'_, A>> {
        let i = e.slot();
        if i >= self.sure {
            return None;
        }
        // SAFETY: as in `get_mut`: no more are sure than are in use.
        let connection = unsafe { &mut *self.slots.as_mut_ptr().add(i as usize).cast::<Connection<A>>() };
        let fits = connection.has_parts(e.direction(), (h.src, h.dst), ports, h.proto);
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

    #[inline]
    fn prefetch_to_write(&self, i: u32) {
        let p = self.slots.as_ptr().wrapping_add(i as usize).cast::<u8>();
        for line in (0..size_of::<Connection<A>>()).step_by(64) {
            prefetch_to_write(p.wrapping_add(line));
        }
    }

    /// Loads the slot's cache lines ahead of use; for a connection without a state of its protocol, those that
    /// each packet needs.
    #[inline(always)]
    pub fn prefetch(&self, i: u32, stateful: bool) {
        let p = self.slots.as_ptr().wrapping_add(i as usize).cast::<u8>();
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
