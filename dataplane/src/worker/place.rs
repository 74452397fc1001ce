//! Frames as they lie in the queues between workers.
//!
//! A short one is copied into one or two places: its giver has it at hand, and keeps its frame. A longer one is lent,
//! and copied by its taker. What the giver has found out about it goes along.

use super::shared::Handed;
use crate::conntrack::Entry;
use crate::packet::{ETHERNET, Ip, protocol};
use crate::policy::InterfaceId;

/// Bytes of a frame in each place.
pub(super) const BODY: usize = 48;
/// Places that a copied frame takes at most.
pub(super) const MOST: usize = 2;
/// More than that: it is lent.
pub(super) const LENT: usize = MOST + 1;
/// A frame that is copied into one place is at most so long.
pub(super) const SHORT: usize = ETHERNET + BODY;
/// A copied frame is at most so long.
pub(super) const LONGEST: usize = ETHERNET + MOST * BODY;

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(super) enum Kind {
    /// A copied frame's IP packet, of a family.
    V4,
    V6,
    /// Half of one; the other half is beside it.
    HalfV4,
    HalfV6,
    /// Where a lent frame is, whose IP packet is known to be as a copied one's would be.
    LentV4,
    LentV6,
    /// The same of one that nothing is known about.
    Lent,
    /// The same of one that is to be put together with others of its datagram.
    LentToCollect,
}

/// A cache line of the queue.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Place {
    /// Where its connection may be at the taker.
    pub(super) entry: Entry,
    /// The interface it came in on.
    pub(super) interface: InterfaceId,
    /// Length of the whole frame.
    pub(super) len: u16,
    /// The Ethernet address it came from, where the rest of the Ethernet header goes without saying.
    pub(super) sender: [u8; 6],
    pub(super) kind: Kind,
    /// The transport protocol, where it is known.
    pub(super) proto: u8,
    /// What is copied, or where it is that is lent.
    pub(super) body: [u8; BODY],
}

const _: () = assert!(size_of::<Place>() == 64);

impl Kind {
    /// Packets of a family that are known, in so many places; lent ones in [`LENT`].
    #[inline(always)]
    pub(super) fn known<A: Ip>(places: usize) -> Self {
        match (places, A::V6) {
            (1, false) => Kind::V4,
            (1, true) => Kind::V6,
            (MOST, false) => Kind::HalfV4,
            (MOST, true) => Kind::HalfV6,
            (_, false) => Kind::LentV4,
            (_, true) => Kind::LentV6,
        }
    }

    /// Whether it is about a packet of IPv4 that is known.
    #[inline(always)]
    pub(super) fn is_v4(self) -> bool {
        matches!(self, Kind::V4 | Kind::HalfV4 | Kind::LentV4)
    }

    /// What a frame was handed over for.
    pub(super) fn handed(self) -> Handed {
        if self == Kind::LentToCollect { Handed::ToCollect } else { Handed::ToOwner }
    }
}

impl Place {
    /// Nothing yet.
    pub(super) const EMPTY: Place =
        Place { entry: Entry::NONE, interface: 0, len: 0, sender: [0; 6], kind: Kind::Lent, proto: 0, body: [0; BODY] };

    /// Whether the connection has a state of its protocol.
    #[inline(always)]
    pub(super) fn is_stateful(&self) -> bool {
        self.proto != protocol::UDP
    }

    /// Notes where a lent frame is.
    pub(super) fn set_address(&mut self, data: *const u8) {
        self.body[..size_of::<usize>()].copy_from_slice(&data.expose_provenance().to_ne_bytes());
    }

    /// Where a lent frame is.
    #[inline(always)]
    pub(super) fn address(&self) -> *const u8 {
        let (address, _) = self.body.split_first_chunk().expect("a place has room for an address");
        std::ptr::with_exposed_provenance(usize::from_ne_bytes(*address))
    }
}
