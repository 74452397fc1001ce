//! Frames as they lie in the queues between workers.
//!
//! A short one is copied into one or two places: its giver has it at hand, and keeps its frame. A longer one is lent,
//! and copied by its taker. What the giver has found out about it goes along.

use super::shared::Handed;
use crate::conntrack::Entry;
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ip, protocol, view, view_mut};
use crate::policy::InterfaceId;

/// Where in a frame begins what is copied of it: what is before that is the receiver's own Ethernet address.
pub(super) const SENDER: usize = 6;
/// Bytes of a frame in each place.
pub(super) const BODY: usize = 56;
/// Places that a copied frame takes at most.
pub(super) const MOST: usize = 2;
/// A frame that is copied into one place is at most so long.
pub(super) const SHORT: usize = SENDER + BODY;
/// A copied frame is at most so long.
pub(super) const LONGEST: usize = SENDER + MOST * BODY;
/// Where in a place the IP header of a packet begins, if it is copied.
const PACKET: usize = 8;
/// Where the address of a lent frame is in its place, and behind that the packet's protocol.
const LENT: usize = 8;

/// What a place holds: a copied frame's Ethernet type, or that the frame is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u16);

impl Kind {
    /// A copied frame whose IP packet is known to be right, or the first part of one.
    pub(super) const V4: Kind = Kind(ETHERTYPE_IPV4.to_be());
    pub(super) const V6: Kind = Kind(ETHERTYPE_IPV6.to_be());
    /// Where a lent frame is, whose IP packet is known to be as a copied one's would be.
    pub(super) const LENT_V4: Kind = Kind(1);
    pub(super) const LENT_V6: Kind = Kind(2);
    /// The same of one that nothing is known about.
    pub(super) const LENT: Kind = Kind(3);
    /// The same of one that is to be put together with others of its datagram.
    pub(super) const LENT_TO_COLLECT: Kind = Kind(4);

    /// Copied packets of a family.
    #[inline(always)]
    pub(super) fn of<A: Ip>() -> Self {
        if A::V6 { Kind::V6 } else { Kind::V4 }
    }

    /// Lent packets of a family that are known.
    pub(super) fn lent<A: Ip>() -> Self {
        if A::V6 { Kind::LENT_V6 } else { Kind::LENT_V4 }
    }

    /// What a frame was handed over for.
    #[inline(always)]
    pub(super) fn handed(self) -> Handed {
        if self == Kind::LENT_TO_COLLECT { Handed::ToCollect } else { Handed::ToOwner }
    }
}

/// A cache line of the queue.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Place {
    /// Where its connection may be at the taker.
    pub(super) entry: Entry,
    /// The interface it came in on.
    pub(super) interface: InterfaceId,
    /// Length of the whole frame without what follows the IP packet. 0 in the second part of a copied one.
    pub(super) len: u16,
    /// What is copied: from the Ethernet address it came from on, in the second part the rest. Of a lent one that
    /// address, its kind where the Ethernet type would be, and where it is.
    pub(super) body: [u8; BODY],
}

const _: () = assert!(size_of::<Place>() == 64);

impl Place {
    /// Nothing yet.
    pub(super) const EMPTY: Place = Place { entry: Entry::NONE, interface: 0, len: 0, body: [0; BODY] };

    /// About a lent frame that lies there.
    pub(super) fn lent(interface: InterfaceId, len: u16, kind: Kind, data: *const u8) -> Self {
        let mut place = Place { interface, len, ..Place::EMPTY };
        *view_mut(&mut place.body, 6) = kind.0.to_ne_bytes();
        *view_mut(&mut place.body, LENT) = data.expose_provenance().to_ne_bytes();
        place
    }

    /// Adds what is known about the packet in a lent frame.
    pub(super) fn known(self, entry: Entry, sender: [u8; 6], proto: u8) -> Self {
        let mut place = Place { entry, ..self };
        *view_mut(&mut place.body, 0) = sender;
        place.body[LENT + size_of::<usize>()] = proto;
        place
    }

    /// What it holds; of no meaning in the second part of a copied frame.
    #[inline(always)]
    pub(super) fn kind(&self) -> Kind {
        Kind(u16::from_ne_bytes(*view(&self.body, 6)))
    }

    /// The Ethernet address the frame came from.
    pub(super) fn sender(&self) -> [u8; 6] {
        *view(&self.body, 0)
    }

    /// The IP packet, or its beginning, of a copied frame.
    #[inline(always)]
    pub(super) fn packet(&self) -> &[u8] {
        &self.body[PACKET..]
    }

    /// The transport protocol of a lent packet that is known.
    pub(super) fn lent_proto(&self) -> u8 {
        self.body[LENT + size_of::<usize>()]
    }

    /// Where a lent frame is.
    #[inline(always)]
    pub(super) fn address(&self) -> *const u8 {
        std::ptr::with_exposed_provenance(usize::from_ne_bytes(*view(&self.body, LENT)))
    }
}

/// Whether connections of this protocol have a state.
#[inline(always)]
pub(super) fn is_stateful(proto: u8) -> bool {
    proto != protocol::UDP
}
