//! Wire formats: parsing with one bounds check per header, checksums, rewriting.

mod address;
pub mod checksum;
pub mod crc32c;
pub mod icmp;
mod ip;
mod ipv4;
mod ipv6;
pub mod mss;
pub mod protocol;
pub mod transport;
pub mod vlan;

pub use address::{Address, V4, V6};
pub use ip::{FragmentInfo, Headers, Ip, Plain};

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The `N` bytes at `at`, all checked at once; panics when `b` is too short.
#[inline]
pub fn view<const N: usize>(b: &[u8], at: usize) -> &[u8; N] {
    b[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

/// The `N` bytes at `at`, to write; panics when `b` is too short.
#[inline]
pub fn view_mut<const N: usize>(b: &mut [u8], at: usize) -> &mut [u8; N] {
    (&mut b[at..at + N]).try_into().expect("a slice of N bytes is an array of N bytes")
}

/// Reads a big-endian u16; panics when `b` is too short.
#[inline]
pub fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(*view(b, at))
}

/// Reads a big-endian u32; panics when `b` is too short.
#[inline]
pub fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*view(b, at))
}

/// Writes a big-endian u16; panics when `b` is too short.
#[inline]
pub fn put16(b: &mut [u8], at: usize, v: u16) {
    *view_mut(b, at) = v.to_be_bytes();
}
