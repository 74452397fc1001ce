//! What the path needs of an IP header, for both families.

use super::Address;
use super::checksum::{Change, Delta};
use super::transport::Ports;
use crate::conntrack::{HashKeys, Key, Tuple};
use crate::route::FibFamily;
use crate::worker::DropReason;

/// Where a packet's headers lie, and what the IP header says. Offsets count from the frame's first byte.
// In the order in which the fields take the fewest steps from a header to here: addresses as in a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Headers<A> {
    /// Destination address.
    pub dst: A,
    /// Source address.
    pub src: A,
    /// Start of the IP header.
    pub l3: u16,
    /// Start of the transport header.
    pub l4: u16,
    /// End of the IP packet; what follows is Ethernet padding.
    pub end: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Transport protocol; for IPv6 the last next-header value.
    pub proto: u8,
    /// Set for a fragment of a larger datagram.
    pub fragment: Option<FragmentInfo>,
}

/// A plain packet: no options or extension headers, not a fragment, nothing wrong with its header.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    /// End of the IP packet, at most 65,535.
    pub end: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Transport protocol.
    pub proto: u8,
}

impl Plain {
    /// The packet's headers, where `frame` holds them and the IP header begins at `l3`.
    #[inline(always)]
    pub fn headers<A: Ip>(self, frame: &[u8], l3: usize) -> Headers<A> {
        let (src, dst) = A::addresses_of(frame, l3);
        let Plain { end, ttl, proto } = self;
        Headers { dst, src, l3: l3 as u16, l4: (l3 + A::HEADER) as u16, end: end as u16, ttl, proto, fragment: None }
    }
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
        usize::from(self.end) - usize::from(self.l3)
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

    /// The hash of that key.
    #[inline(always)]
    pub fn hash(&self, ports: Ports, keys: &HashKeys) -> u64
    where
        A: Address,
    {
        Tuple::<A>::hash((self.src, self.dst), ports, self.proto, keys)
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
    /// Length of a header without options or extensions.
    const HEADER: usize;

    /// Parses and checks the headers of an IP packet that begins at `l3` in `frame`. Never panics.
    ///
    /// # Errors
    /// The reason to drop it.
    fn parse(frame: &[u8], l3: usize) -> Result<Headers<Self>, DropReason>;

    /// The headers of a packet as nearly all are. What [`Ip::parse`] says of it as well, only sooner. Never panics.
    fn parse_plain(frame: &[u8], l3: usize) -> Option<Plain>;

    /// What [`Ip::parse_plain`] has said of a packet before. `packet` is as much of it, from the IP header on, as holds
    /// that; `l3` is where that lies in a frame.
    fn accepted(packet: &[u8], l3: usize) -> Plain;

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

    /// Writes new addresses, which change checksums by `change`, into a header at `l3`, and takes one from its TTL.
    fn rewrite_and_forward(frame: &mut [u8], l3: usize, src: Self, dst: Self, change: Change);

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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::transport::{self, ChecksumState, Transport};
    use crate::packet::{ETHERNET, V4, V6, checksum, put16};

    /// What is found soon must be what is found at length.
    fn agree<A: Ip>(frame: &[u8]) {
        let parsed = A::parse(frame, ETHERNET);
        let plain = A::parse_plain(frame, ETHERNET);
        if let Some(plain) = plain {
            assert_eq!(Ok(plain.headers(frame, ETHERNET)), parsed);
        }
        if let Ok(h) = parsed
            && h.fragment.is_none()
        {
            let transport = transport::classify(frame, &h);
            let read = transport::read(frame, h);
            assert_eq!(read.0, transport);
            if let Transport::Flow(_) = transport {
                assert_eq!(read.1, transport::verify(frame, h));
            }
            let soon = plain.and_then(|plain| transport::read_plain::<A>(frame, ETHERNET, plain));
            if let Some(ports) = soon {
                assert_eq!(read, (Transport::Flow(ports), ChecksumState::Good));
            }
        }
    }

    proptest! {
        #[test]
        fn plain_packets_are_as_others(
            v6: bool, tcp: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            changes in proptest::collection::vec((ETHERNET..80usize, any::<u8>()), 0..3),
            mend: bool, cut in 0usize..90,
        ) {
            let b = PacketBuilder::ethernet2([0; 6], [0; 6]);
            let b = if v6 { b.ipv6([1; 16], [2; 16], 64) } else { b.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
            let mut frame = Vec::new();
            if tcp {
                b.tcp(1, 2, 3, 1000).ack(1).write(&mut frame, &payload).unwrap();
            } else {
                b.udp(1, 2).write(&mut frame, &payload).unwrap();
            }
            for (at, byte) in changes {
                if let Some(b) = frame.get_mut(at) {
                    *b = byte;
                }
            }
            let header = usize::from(frame[ETHERNET] & 15) * 4;
            if mend && !v6 && header >= 20 && frame.len() >= ETHERNET + header {
                put16(&mut frame, ETHERNET + 10, 0);
                let c = checksum::checksum(&frame[ETHERNET..ETHERNET + header]);
                put16(&mut frame, ETHERNET + 10, c);
            }
            frame.truncate(if cut > 60 { frame.len() } else { ETHERNET + cut });
            agree::<V4>(&frame);
            agree::<V6>(&frame);
        }
    }
}
