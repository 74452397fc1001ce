//! One immutable view of interfaces, routes and neighbours.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ahash::RandomState;

use super::Lpm;
use crate::packet::{V4, V6};
use crate::policy::{Classified, InterfaceId};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An interface Sluice forwards on, with what the kernel says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// The kernel's index of what has its addresses, the device or the VLAN's own; 0 while that does not exist.
    pub ifindex: u32,
    /// The kernel's index of the device its frames pass through; 0 while that does not exist.
    pub device: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Exists, is administratively up and has carrier.
    pub up: bool,
    /// IPv4 addresses with prefix lengths, the kernel's order: primary first.
    pub v4: Vec<(V4, u8)>,
    /// IPv6 addresses with prefix lengths, global ones first.
    pub v6: Vec<(V6, u8)>,
}

impl Interface {
    /// Its primary address: the first that is good beyond the link.
    pub fn primary_address<A: FibFamily>(&self) -> Option<A> {
        let link_local = |a: &A| matches!(a.ip(), IpAddr::V6(a) if a.is_unicast_link_local());
        A::addresses(self).iter().map(|(a, _)| *a).find(|a| !link_local(a))
    }
}

/// Where a route sends packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<A> {
    /// To one of these, by weight; never empty.
    Via(Vec<NextHop<A>>),
    /// To the gateway host itself.
    Local,
    /// To every host of a network (IPv4 broadcast); never forwarded.
    Broadcast,
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere, with ICMP host unreachable.
    Unreachable,
    /// Nowhere, with ICMP administratively prohibited.
    Prohibit,
}

/// One way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop<A> {
    /// The router to send to; `None` when the destination is on the link.
    pub gateway: Option<A>,
    /// The egress interface; `None` when it is not one of Sluice's.
    pub interface: Option<InterfaceId>,
    /// Weight among multipath next hops, at least 1.
    pub weight: u16,
}

/// Interfaces, routes and neighbours.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    /// Indexed by [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// IPv4 routes, local addresses among them.
    pub routes4: Lpm<V4, Target<V4>>,
    /// IPv6 routes, local addresses among them.
    pub routes6: Lpm<V6, Target<V6>>,
    /// Resolved IPv4 neighbours.
    pub neighbours4: HashMap<(InterfaceId, V4), Mac, RandomState>,
    /// Resolved IPv6 neighbours.
    pub neighbours6: HashMap<(InterfaceId, V6), Mac, RandomState>,
    /// The gateway host's own ephemeral ports (`ip_local_port_range`), both ends inclusive.
    pub host_ports: Option<(u16, u16)>,
}

/// The parts of a [`Fib`] that exist once per address family.
pub trait FibFamily: Classified {
    /// The family's routes.
    fn routes(fib: &Fib) -> &Lpm<Self, Target<Self>>;
    /// The family's neighbours.
    fn neighbours(fib: &Fib) -> &HashMap<(InterfaceId, Self), Mac, RandomState>;
    /// An interface's addresses of the family.
    fn addresses(i: &Interface) -> &[(Self, u8)];
}

impl FibFamily for V4 {
    fn routes(fib: &Fib) -> &Lpm<V4, Target<V4>> {
        &fib.routes4
    }

    fn neighbours(fib: &Fib) -> &HashMap<(InterfaceId, V4), Mac, RandomState> {
        &fib.neighbours4
    }

    fn addresses(i: &Interface) -> &[(V4, u8)] {
        &i.v4
    }
}

impl FibFamily for V6 {
    fn routes(fib: &Fib) -> &Lpm<V6, Target<V6>> {
        &fib.routes6
    }

    fn neighbours(fib: &Fib) -> &HashMap<(InterfaceId, V6), Mac, RandomState> {
        &fib.neighbours6
    }

    fn addresses(i: &Interface) -> &[(V6, u8)] {
        &i.v6
    }
}

impl Fib {
    /// The route to `a`.
    pub fn lookup<A: FibFamily>(&self, a: A) -> Option<&Target<A>> {
        A::routes(self).lookup(a)
    }

    /// Whether `a` is an address of the gateway host.
    pub fn is_local<A: FibFamily>(&self, a: A) -> bool {
        matches!(self.lookup(a), Some(Target::Local))
    }

    /// The primary address of interface `i`.
    pub fn primary_address<A: FibFamily>(&self, i: InterfaceId) -> Option<A> {
        self.interfaces.get(usize::from(i))?.primary_address()
    }

    /// The address a packet towards `towards` takes as its source on interface `i`: the first whose
    /// prefix contains it, else the first of all.
    pub fn source_address<A: FibFamily>(&self, i: InterfaceId, towards: A) -> Option<A> {
        let all = A::addresses(self.interfaces.get(usize::from(i))?);
        all.iter().find(|(a, l)| a.masked(*l) == towards.masked(*l)).or(all.first()).map(|(a, _)| *a)
    }
}
