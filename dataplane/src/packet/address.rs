//! The two address families behind one trait, so that tables and the path are written once.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::conntrack::HashKeys;

/// An IP address as the tables keep it: host byte order, totally ordered, no wider than its family.
pub trait Address: Copy + Eq + Ord + Hash + Default + fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// True for IPv6.
    const V6: bool;
    /// Length on the wire in bytes.
    const LEN: usize;
    /// Length in bits, the longest prefix.
    const BITS: u8;
    /// Reads an address in network byte order; panics when `b` is shorter than [`Self::LEN`].
    fn read(b: &[u8]) -> Self;
    /// Writes the address in network byte order; panics when `b` is shorter than [`Self::LEN`].
    fn write(self, b: &mut [u8]);
    /// The address masked to `prefix` bits.
    fn masked(self, prefix: u8) -> Self;
    /// `self + n`, wrapping within the family.
    fn offset(self, n: u64) -> Self;
    /// `self - from`, or `u64::MAX` when it does not fit.
    fn distance(self, from: Self) -> u64;
    /// `self - from` as a number, wrapping within 128 bits.
    fn distance_wide(self, from: Self) -> u128;
    /// `self + n`, wrapping within the family.
    fn offset_wide(self, n: u128) -> Self;
    /// Ones' complement sum of the address's 32-bit words, not folded.
    fn sum(self) -> u64;
    /// Whether both pairs are equal.
    fn equal(a: (Self, Self), b: (Self, Self)) -> bool;
    /// The hash of two addresses and a number.
    fn hash_with(self, other: Self, number: u64, keys: &HashKeys) -> u64;
    /// The address as the standard library's type.
    fn ip(self) -> IpAddr;
    /// The address of this family in `ip`, if it is of this family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// As a number.
    fn number(self) -> u128;
    /// The address that is this number, of which the lower bits count.
    fn from_number(n: u128) -> Self;
}

/// An IPv4 address in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct V4(pub u32);

/// An IPv6 address in host byte order: upper half, lower half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct V6(pub u64, pub u64);

impl V6 {
    /// The address as one number.
    pub fn bits(self) -> u128 {
        (u128::from(self.0) << 64) | u128::from(self.1)
    }

    /// The address with this value.
    pub fn from_bits(b: u128) -> Self {
        V6((b >> 64) as u64, b as u64)
    }
}

impl Address for V4 {
    const V6: bool = false;
    const LEN: usize = 4;
    const BITS: u8 = 32;

    #[inline]
    fn read(b: &[u8]) -> Self {
        V4(super::be32(b, 0))
    }

    #[inline]
    fn write(self, b: &mut [u8]) {
        *super::view_mut(b, 0) = self.0.to_be_bytes();
    }

    #[inline]
    fn masked(self, prefix: u8) -> Self {
        V4(self.0 & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
    }

    #[inline]
    fn offset(self, n: u64) -> Self {
        V4(self.0.wrapping_add(n as u32))
    }

    #[inline]
    fn distance(self, from: Self) -> u64 {
        u64::from(self.0.wrapping_sub(from.0))
    }

    fn distance_wide(self, from: Self) -> u128 {
        u128::from(self.distance(from))
    }

    fn offset_wide(self, n: u128) -> Self {
        self.offset(n as u64)
    }

    #[inline]
    fn sum(self) -> u64 {
        u64::from(self.0)
    }

    #[inline]
    fn equal(a: (V4, V4), b: (V4, V4)) -> bool {
        // Side by side in memory, they are compared at once.
        let both = |(a, b): (V4, V4)| u64::from(a.0) << 32 | u64::from(b.0);
        both(a) == both(b)
    }

    #[inline(always)]
    fn hash_with(self, other: V4, number: u64, keys: &HashKeys) -> u64 {
        keys.two(u64::from(self.0) << 32 | u64::from(other.0), number)
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.0))
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(a) => Some(V4(u32::from(a))),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn number(self) -> u128 {
        self.0.into()
    }

    #[inline]
    fn from_number(n: u128) -> Self {
        V4(n as u32)
    }
}

impl Address for V6 {
    const V6: bool = true;
    const LEN: usize = 16;
    const BITS: u8 = 128;

    #[inline]
    fn read(b: &[u8]) -> Self {
        V6::from_bits(u128::from_be_bytes(*super::view(b, 0)))
    }

    #[inline]
    fn write(self, b: &mut [u8]) {
        *super::view_mut(b, 0) = self.bits().to_be_bytes();
    }

    #[inline]
    fn masked(self, prefix: u8) -> Self {
        V6::from_bits(self.bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0))
    }

    #[inline]
    fn offset(self, n: u64) -> Self {
        V6::from_bits(self.bits().wrapping_add(u128::from(n)))
    }

    #[inline]
    fn distance(self, from: Self) -> u64 {
        u64::try_from(self.bits().wrapping_sub(from.bits())).unwrap_or(u64::MAX)
    }

    fn distance_wide(self, from: Self) -> u128 {
        self.bits().wrapping_sub(from.bits())
    }

    fn offset_wide(self, n: u128) -> Self {
        V6::from_bits(self.bits().wrapping_add(n))
    }

    #[inline]
    fn sum(self) -> u64 {
        let half = |x: u64| (x >> 32) + (x & 0xffff_ffff);
        half(self.0) + half(self.1)
    }

    #[inline]
    fn equal(a: (V6, V6), b: (V6, V6)) -> bool {
        (a.0 == b.0) & (a.1 == b.1)
    }

    #[inline(always)]
    fn hash_with(self, other: V6, number: u64, keys: &HashKeys) -> u64 {
        keys.five([self.0, self.1, other.0, other.1, number])
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.bits()))
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(a) => Some(V6::from_bits(u128::from(a))),
            IpAddr::V4(_) => None,
        }
    }

    #[inline]
    fn number(self) -> u128 {
        self.bits()
    }

    #[inline]
    fn from_number(n: u128) -> Self {
        V6::from_bits(n)
    }
}

macro_rules! show {
    ($t:ty) => {
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.ip().fmt(f)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.ip().fmt(f)
            }
        }
    };
}
show!(V4);
show!(V6);
