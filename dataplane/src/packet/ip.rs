//! What the path needs of an IP header, for both families.

use super::Address;
use super::checksum::Delta;
use super::transport::Ports;
use crate::conntrack::{Key, Tuple};
use crate::route::FibFamily;
use crate::worker::DropReason;

/// Where a packet's headers lie, and what the IP header says. Offsets count from the frame's first byte.
#[derive(Debug, Clone, Copy)]
pub struct Headers<A> {
    /// Start of the IP header.
    pub l3: u16,
    /// Start of the transport header.
    pub l4: u16,
    /// End of the IP packet; what follows is Ethernet padding.
    pub end: u16,
    /// Transport protocol; for IPv6 the last next-header value.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Set for a fragment of a larger datagram.
    pub fragment: Option<FragmentInfo>,
}

/// A fragment's place in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Identification.
    pub id: u32,
    /// Offset of its payload in the datagram's, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

impl<A> Headers<A> {
    /// Length of the IP packet in bytes.
    #[inline]
    pub fn length(&self) -> usize {
        usize::from(self.end - self.l3)
    }

    /// The key of a packet whose transport header has these ports.
    #[inline]
    pub fn key(&self, ports: Ports) -> Key<A>
    where
        A: Copy,
    {
        let (sport, dport) = (ports.source(), ports.destination());
        Key { tuple: Tuple { src: self.src, dst: self.dst, sport, dport }, proto: self.proto }
    }

    /// Length of the transport header and what follows it.
    #[inline]
    pub fn transport_length(&self) -> usize {
        usize::from(self.end - self.l4)
    }
}

/// An address family as the path sees it.
pub trait Ip: Address + FibFamily {
    /// EtherType of the family.
    const ETHERTYPE: u16;
    /// The family's ICMP.
    const ICMP: u8;

    /// Parses and checks the headers of an IP packet that begins at `l3` in `frame`. Never panics.
    ///
    /// # Errors
    /// The reason to drop it.
    fn parse(frame: &[u8], l3: usize) -> Result<Headers<Self>, DropReason>;

    /// The headers of a packet as nearly all are: no options or extension headers, not a fragment, nothing wrong
    /// with it. What [`Ip::parse`] says of it as well, only sooner. Never panics.
    fn parse_plain(frame: &[u8], l3: usize) -> Option<Headers<Self>>;

    /// Where in the IP header of a packet that was refused for its options the one begins whose length does
    /// not add up: what an ICMP parameter problem points at.
    fn faulty_option(frame: &[u8], h: &Headers<Self>) -> Option<u8>;

    /// Parses a packet quoted in an ICMP error: lengths may exceed what is quoted and checksums are
    /// not verified (RFC 5508 REQ-3c). `end` is the end of the quote. Never panics.
    fn parse_quote(frame: &[u8], l3: usize, end: usize) -> Option<Headers<Self>>;

    /// Source and destination as they stand in a header at `l3` that was parsed before.
    fn addresses_of(frame: &[u8], l3: usize) -> (Self, Self);

    /// Writes new addresses into a header that was as `was` says, and updates its checksum where there is one.
    /// Returns the change for transport checksums, which cover the addresses in their pseudo header.
    fn rewrite(frame: &mut [u8], was: &Headers<Self>, src: Self, dst: Self) -> Delta;

    /// Makes the header of a datagram's first fragment that of the whole, `length` bytes long with its header,
    /// where that takes no more than other values in its fields. False, and nothing done, where it takes more.
    fn make_whole(frame: &mut [u8], l3: usize, length: u16) -> bool;

    /// Takes one from the TTL, which is not 0, and updates the header checksum.
    fn decrement_ttl(frame: &mut [u8], l3: usize);

    /// Adds one to the TTL, which is not 255, and updates the header checksum.
    fn increment_ttl(frame: &mut [u8], l3: usize);

    /// A source that no forwarded packet may have.
    fn is_martian_source(self) -> bool;

    /// A destination that is never forwarded.
    fn is_martian_destination(self) -> bool;
}
