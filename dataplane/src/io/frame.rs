//! Frames: fixed-size buffers of one contiguous region (a UMEM, or plain memory), owned by one worker.

use std::any::Any;
use std::ptr::NonNull;

/// One frame's packet: where its bytes begin in the pool's region, how many there are.
///
/// A `Frame` is the right to use that buffer; whoever holds it must pass it on to a port's
/// [`send`](super::Port::send) or back to the pool, or the frame is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where the first packet byte (the Ethernet header) lies in the pool's region: which frame it is, and
    /// the place in that.
    pub at: u32,
    /// Length of the packet in bytes, Ethernet header included, FCS not.
    pub len: u16,
}

/// The region all frames of a worker lie in, and the frames nobody uses at the moment.
pub struct FramePool {
    base: NonNull<u8>,
    /// Length of the region in bytes, below 4 GB.
    size: usize,
    /// A frame's size is `1 << shift`.
    shift: u32,
    /// A frame's size less one.
    mask: u32,
    /// Where a packet written into an empty frame begins, leaving headroom.
    headroom: u16,
    /// Indices of free frames: the first `available` of these.
    free: Box<[u32]>,
    available: usize,
    /// Keeps the region mapped for as long as the pool lives.
    _region: Box<dyn Any + Send>,
}

// SAFETY: the pool is the only owner of its region (`from_raw`'s contract) and is moved as a whole.
unsafe impl Send for FramePool {}

impl FramePool {
    /// A pool over a region that `region` keeps alive.
    ///
    /// # Safety
    /// `base` must point to `frames * frame_size` readable and writable bytes that stay valid until
    /// `region` is dropped, and no other Rust reference to them may exist while a frame is held here.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        frame_size: u32,
        frames: u32,
        headroom: u16,
        region: Box<dyn Any + Send>,
    ) -> Self {
        assert!(u32::from(headroom) < frame_size && frame_size <= 1 << 16 && frame_size.is_power_of_two());
        FramePool {
            base,
            size: frames.checked_mul(frame_size).expect("a region of less than 4 GB") as usize,
            shift: frame_size.trailing_zeros(),
            mask: frame_size - 1,
            headroom,
            free: (0..frames).rev().collect(),
            available: frames as usize,
            _region: region,
        }
    }

    /// A pool in ordinary memory, for benches, tests and the pcap port.
    pub fn in_memory(frames: u32, frame_size: u32, headroom: u16) -> Self {
        let mut region = vec![0u8; frames as usize * frame_size as usize].into_boxed_slice();
        let base = NonNull::new(region.as_mut_ptr()).expect("a Vec's pointer is never null");
        // SAFETY: the boxed slice has exactly that size, does not move when the box moves, and is
        // reachable only through the pool from here on.
        unsafe { Self::from_raw(base, frame_size, frames, headroom, Box::new(region)) }
    }

    /// Number of frames in all.
    pub fn frames(&self) -> u32 {
        (self.size >> self.shift) as u32
    }

    /// Number of frames nobody uses.
    pub fn available(&self) -> usize {
        self.available
    }

    /// Size of a frame in bytes.
    pub fn frame_size(&self) -> u32 {
        self.mask + 1
    }

    /// The largest packet an empty frame can take, in bytes.
    pub fn capacity(&self) -> usize {
        self.frame_size() as usize - usize::from(self.headroom)
    }

    /// The number of a packet's frame.
    #[inline]
    pub fn index(&self, f: Frame) -> u32 {
        f.at >> self.shift
    }

    /// Where in its frame a packet begins.
    #[inline]
    pub fn offset(&self, f: Frame) -> u16 {
        (f.at & self.mask) as u16
    }

    /// How long a packet that begins where this one does can be.
    #[inline]
    pub fn room(&self, f: Frame) -> usize {
        self.frame_size() as usize - usize::from(self.offset(f))
    }

    /// Takes an empty frame; `len` is 0.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.available = self.available.checked_sub(1)?;
        Some(Frame { at: (self.free[self.available] << self.shift) + u32::from(self.headroom), len: 0 })
    }

    /// Gives a frame back.
    #[inline(always)]
    pub fn give(&mut self, f: Frame) {
        self.give_index(f.at >> self.shift);
    }

    /// Gives a frame back by its index. Panics when more are given back than were taken.
    #[inline(always)]
    pub fn give_index(&mut self, index: u32) {
        debug_assert!(index < self.frames());
        self.free[self.available] = index;
        self.available += 1;
    }

    /// Takes up to `n` frames' indices from the free list into `out`, as a fill ring wants them.
    pub fn take_many(&mut self, n: usize, out: &mut Vec<u32>) {
        let left = self.available - n.min(self.available);
        out.extend(&self.free[left..self.available]);
        self.available = left;
    }

    #[inline]
    fn range(&self, f: Frame) -> usize {
        assert!(f.at as usize + usize::from(f.len) <= self.size, "frame out of its pool");
        f.at as usize
    }

    /// The packet's bytes.
    #[inline]
    pub fn bytes(&self, f: Frame) -> &[u8] {
        let at = self.range(f);
        // SAFETY: `range` checked that the bytes lie within the region, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at), usize::from(f.len)) }
    }

    /// The first `N` bytes from where the packet begins, however long it is. `None` when its frame ends before that.
    #[inline(always)]
    pub fn start<const N: usize>(&self, f: Frame) -> Option<&[u8; N]> {
        const { assert!(N > 0) };
        let last = f.at | self.mask;
        if last as usize >= self.size || ((last - f.at) as usize) < N - 1 {
            return None;
        }
        // SAFETY: the bytes lie within one frame, and that within the region, which lives as long as `self`.
        Some(unsafe { &*self.base.as_ptr().add(f.at as usize).cast() })
    }

    /// The packet's bytes, to write.
    #[inline]
    pub fn bytes_mut(&mut self, f: Frame) -> &mut [u8] {
        let at = self.range(f);
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference into the region.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), usize::from(f.len)) }
    }

    /// Address of the packet's first byte, for prefetching and for lending the frame to another worker.
    #[inline]
    pub fn address(&self, f: Frame) -> *const u8 {
        self.base.as_ptr().wrapping_add(f.at as usize)
    }
}

impl std::fmt::Debug for FramePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FramePool")
            .field("frames", &self.frames())
            .field("available", &self.available)
            .finish_non_exhaustive()
    }
}
