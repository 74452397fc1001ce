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
pub use ip::{FragmentInfo, Headers, Ip};

/// Length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Reads a big-endian u16; panics when `b` is too short.
#[inline]
pub fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Reads a big-endian u32; panics when `b` is too short.
#[inline]
pub fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Writes a big-endian u16; panics when `b` is too short.
#[inline]
pub fn put16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_be_bytes());
}
