//! Zeroed, lazily backed memory for tables that may become large.

use std::io;
use std::ptr::NonNull;

/// Size of a huge page in bytes. Regions of so many and more are backed by them.
const HUGE_PAGE: usize = 2 << 20;

/// A private anonymous mapping. Pages cost memory only once touched, and may be huge.
#[derive(Debug)]
pub(crate) struct Region<T> {
    base: NonNull<T>,
    len: usize,
    /// Length of the mapping.
    bytes: usize,
}

// SAFETY: the region is owned memory, as a Vec is.
unsafe impl<T: Send> Send for Region<T> {}
// SAFETY: shared access gives only `&T`, as a Vec does.
unsafe impl<T: Sync> Sync for Region<T> {}

impl<T> Region<T> {
    /// Room for `len` values of a type for which all zero bytes are a valid value.
    ///
    /// # Safety
    /// Zero bytes must be a valid `T`, and `T` must not need dropping.
    pub(crate) unsafe fn zeroed(len: usize) -> io::Result<Self> {
        assert!(size_of::<T>() > 0 && !std::mem::needs_drop::<T>() && align_of::<T>() <= 4096);
        let bytes = len.max(1) * size_of::<T>();
        // The kernel lets a mapping of whole huge pages begin where one does.
        let bytes = if bytes < HUGE_PAGE { bytes } else { bytes.next_multiple_of(HUGE_PAGE) };
        // SAFETY: a new anonymous mapping overlaps nothing.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if bytes >= HUGE_PAGE {
            // SAFETY: advice about our own mapping; where it is refused, ordinary pages serve.
            unsafe { libc::madvise(p, bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Region { base: NonNull::new(p.cast()).expect("mmap does not return null"), len, bytes })
    }

    /// Has all of it backed by memory now, for what is used in no order: each page that is touched for the first
    /// time takes a pause, a huge one up to half a millisecond.
    pub(crate) fn populate(&self) {
        populate(self.base.as_ptr() as usize, self.len * size_of::<T>());
    }

    /// The first of the values, for those who know how many there are.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *const T {
        self.base.as_ptr()
    }

    /// The first of the values, to write.
    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.base.as_ptr()
    }

    /// All values.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: `len` values were mapped and zeroed, which is valid for `T` (`zeroed`'s contract).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// All values, to write.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `zeroed` mapped; nothing borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Has the pages of an address range backed by memory, without a change to what they hold. Does nothing where nothing
/// is mapped, and on kernels before 5.14.
pub(crate) fn populate(from: usize, bytes: usize) {
    let first = from & !4095;
    // SAFETY: backs pages that are mapped and writable, as touching them would; it changes no contents.
    unsafe { libc::madvise(first as *mut libc::c_void, from + bytes - first, libc::MADV_POPULATE_WRITE) };
}

/// Asks the processor to load the cache line at `p` to write it; harmless for any address.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and never faults; processors that do not know this one take it for a no-op. The
    // compiler makes one for reading of the intrinsic, unless it is told what processor there will be.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Asks the processor to load the cache line at `p`; harmless for any address.
#[inline]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
