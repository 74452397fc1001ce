//! The kernel's routes of one family, and the forwarding table made of them.
//!
//! The tables `local` and `main` are mirrored, merged into one: where both have a prefix, `local` wins,
//! as the kernel asks it first. Of several routes to a prefix the one with the lowest metric that has a
//! living next hop wins. Routes for one type of service or source prefix only are left out.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use dataplane::packet::Address;
use dataplane::policy::InterfaceId;
use dataplane::route::{Lpm, NextHop, Target};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_MULTIPART, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
};

/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// Stands for the flags of a message of a dump, whose routes come in the kernel's order.
pub(super) const DUMPED: u16 = NLM_F_MULTIPART;

/// A prefix: address and length.
type Prefix<A> = (A, u8);

/// Which of several routes to a prefix the kernel prefers, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    main: bool,
    metric: u32,
}

/// One route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route<A> {
    rank: Rank,
    kind: Kind,
    /// Ways out; for other kinds than [`Kind::Unicast`] the device, if there is one.
    hops: Vec<Hop<A>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unicast,
    Local,
    Broadcast,
    Blackhole,
    Unreachable,
    Prohibit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop<A> {
    gateway: Option<A>,
    /// The egress device; 0 when Sluice cannot send that way (another family's gateway, a tunnel's encapsulation).
    ifindex: u32,
    weight: u16,
    dead: bool,
}

impl<A: Address> Hop<A> {
    /// Whether it is the same way out, dead or alive.
    fn same(&self, other: &Self) -> bool {
        (self.gateway, self.ifindex) == (other.gateway, other.ifindex)
    }
}

/// The routes of one family.
#[derive(Debug)]
pub(super) struct Routes<A> {
    /// Routes to each prefix, best first.
    known: HashMap<Prefix<A>, Vec<Route<A>>>,
    /// The forwarding table as of the last [`Routes::update`].
    table: Lpm<A, Target<A>>,
    /// Prefixes whose routes have changed since.
    changed: HashSet<Prefix<A>>,
    /// Addresses of the host itself.
    local: BTreeSet<IpAddr>,
}

impl<A: Address> Default for Routes<A> {
    fn default() -> Self {
        Routes { known: HashMap::new(), table: Lpm::default(), changed: HashSet::new(), local: BTreeSet::new() }
    }
}

impl<A: Address> Routes<A> {
    /// The forwarding table as of the last [`Routes::update`].
    pub(super) fn table(&self) -> &Lpm<A, Target<A>> {
        &self.table
    }

    /// Addresses of the host itself as of the last [`Routes::update`].
    pub(super) fn local(&self) -> &BTreeSet<IpAddr> {
        &self.local
    }

    /// Takes over the routes of a fresh dump, collected in `other`.
    pub(super) fn replace(&mut self, other: Routes<A>) {
        self.changed.extend(self.known.keys());
        self.changed.extend(other.known.keys());
        self.known = other.known;
    }

    /// A route that is new, or part of a dump; `flags` are the message's.
    pub(super) fn add(&mut self, flags: u16, m: &RouteMessage) {
        let Some((prefix, route)) = read::<A>(m) else { return };
        let all = self.known.entry(prefix).or_default();
        let first = all.iter().position(|r| r.rank == route.rank);
        // The same again, dead or alive; IPv6 reports a multipath route that has grown as a whole.
        let known = |r: &Route<A>| r.rank == route.rank && is_part(r, &route) && (A::V6 || is_part(&route, r));
        if let Some(i) = all.iter().position(known) {
            if all[i] == route {
                return;
            }
            all[i] = route;
        } else if let Some(i) = first.filter(|_| flags & NLM_F_REPLACE != 0) {
            all[i] = route;
        } else if let Some(i) = first.filter(|_| !A::V6 && flags & (NLM_F_APPEND | DUMPED) == 0) {
            all.insert(i, route);
        } else {
            let at = all.partition_point(|r| r.rank <= route.rank);
            all.insert(at, route);
        }
        self.changed.insert(prefix);
    }

    /// A route that is gone, or for IPv6 next hops of it.
    pub(super) fn remove(&mut self, m: &RouteMessage) {
        let Some((prefix, route)) = read::<A>(m) else { return };
        let MapEntry::Occupied(mut entry) = self.known.entry(prefix) else { return };
        let all = entry.get_mut();
        let equal = |r: &Route<A>| r.rank == route.rank && is_part(r, &route) && is_part(&route, r);
        if let Some(i) = all.iter().position(equal) {
            all.remove(i);
        } else if let Some(r) = all.iter_mut().find(|r| A::V6 && r.rank == route.rank && is_part(&route, r)) {
            r.hops.retain(|h| !route.hops.iter().any(|gone| gone.same(h)));
        } else {
            return;
        }
        if all.is_empty() {
            entry.remove();
        }
        self.changed.insert(prefix);
    }

    /// Works out every prefix again, for when devices have got other meanings.
    pub(super) fn touch_all(&mut self) {
        self.changed.extend(self.known.keys());
    }

    /// Brings the forwarding table up to date. Returns whether that changed anything.
    pub(super) fn update(&mut self, ids: &HashMap<u32, InterfaceId>) -> bool {
        let mut any = false;
        for (prefix, length) in std::mem::take(&mut self.changed) {
            let best = self.known.get(&(prefix, length)).and_then(|all| all.iter().find_map(|r| target(r, ids)));
            if self.table.get(prefix, length) == best.as_ref() {
                continue;
            }
            any = true;
            if length == A::BITS {
                match best {
                    Some(Target::Local) => self.local.insert(prefix.ip()),
                    _ => self.local.remove(&prefix.ip()),
                };
            }
            match best {
                Some(t) => self.table.insert(prefix, length, t),
                None => drop(self.table.remove(prefix, length)),
            }
        }
        any
    }
}

/// Whether every next hop of `part` is one of `whole`.
fn is_part<A: Address>(part: &Route<A>, whole: &Route<A>) -> bool {
    part.kind == whole.kind && part.hops.iter().all(|h| whole.hops.iter().any(|w| w.same(h)))
}

/// Where the route leads; `None` when all its next hops are dead.
fn target<A: Address>(r: &Route<A>, ids: &HashMap<u32, InterfaceId>) -> Option<Target<A>> {
    Some(match r.kind {
        Kind::Local => Target::Local,
        Kind::Broadcast => Target::Broadcast,
        Kind::Blackhole => Target::Blackhole,
        Kind::Unreachable => Target::Unreachable,
        Kind::Prohibit => Target::Prohibit,
        Kind::Unicast => {
            let alive = r.hops.iter().filter(|h| !h.dead);
            let hops: Vec<_> = alive
                .map(|h| NextHop { gateway: h.gateway, interface: ids.get(&h.ifindex).copied(), weight: h.weight })
                .collect();
            if hops.is_empty() {
                return None;
            }
            Target::Via(hops)
        }
    })
}

/// The route a message describes; `None` for one that is not mirrored.
fn read<A: Address>(m: &RouteMessage) -> Option<(Prefix<A>, Route<A>)> {
    let h = &m.header;
    // A kernel without IPv6 answers a dump of it with what it has.
    if (h.address_family == AddressFamily::Inet6) != A::V6 {
        return None;
    }
    if h.flags.contains(RouteFlags::Cloned) || h.source_prefix_length != 0 || h.tos != 0 {
        return None;
    }
    let kind = match h.kind {
        RouteType::Unicast => Kind::Unicast,
        RouteType::Local | RouteType::Anycast => Kind::Local,
        RouteType::Broadcast => Kind::Broadcast,
        RouteType::BlackHole => Kind::Blackhole,
        // After `main` comes no table that is mirrored, so `throw` ends as "network unreachable".
        RouteType::Unreachable | RouteType::Throw => Kind::Unreachable,
        RouteType::Prohibit => Kind::Prohibit,
        _ => return None,
    };
    let (mut table, mut metric, mut prefix) = (u32::from(h.table), 0, A::default());
    for a in &m.attributes {
        match a {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::Destination(d) => prefix = address(d)?,
            _ => {}
        }
    }
    let main = match table {
        TABLE_MAIN => true,
        TABLE_LOCAL => false,
        _ => return None,
    };
    let hops = read_hops(m);
    if kind == Kind::Unicast && hops.is_empty() {
        tracing::warn!(
            "the route to {prefix}/{} names no next hop and is left out; if it uses a nexthop object, set the sysctl \
             net.ipv4.nexthop_compat_mode to 1",
            h.destination_prefix_length
        );
        return None;
    }
    let prefix = (prefix.masked(h.destination_prefix_length), h.destination_prefix_length);
    Some((prefix, Route { rank: Rank { main, metric }, kind, hops }))
}

fn read_hops<A: Address>(m: &RouteMessage) -> Vec<Hop<A>> {
    let multipath = m.attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    match multipath {
        Some(hops) => {
            let mut hops: Vec<Hop<A>> = hops.iter().map(read_multipath).collect();
            if A::V6 {
                // Messages and dumps name them in different orders; flows are spread by this one.
                hops.sort_by_key(|h| (h.gateway, h.ifindex));
            }
            hops
        }
        None => {
            let dead = m.header.flags.contains(RouteFlags::Dead);
            read_hop(&m.attributes, 0).map(|h| Hop { dead, ..h }).into_iter().collect()
        }
    }
}

fn read_multipath<A: Address>(n: &RouteNextHop) -> Hop<A> {
    let hop = read_hop(&n.attributes, n.interface_index);
    let hop = hop.unwrap_or(Hop { gateway: None, ifindex: n.interface_index, weight: 1, dead: false });
    Hop { weight: u16::from(n.hops) + 1, dead: n.flags.contains(RouteNextHopFlags::Dead), ..hop }
}

fn read_hop<A: Address>(attributes: &[RouteAttribute], ifindex: u32) -> Option<Hop<A>> {
    let mut hop = Hop { gateway: None, ifindex, weight: 1, dead: false };
    let mut unusable = false;
    for a in attributes {
        match a {
            RouteAttribute::Oif(i) => hop.ifindex = *i,
            RouteAttribute::Gateway(g) => hop.gateway = address(g),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => unusable = true,
            _ => {}
        }
    }
    if hop.ifindex == 0 {
        return None;
    }
    if unusable {
        hop.ifindex = 0;
    }
    Some(hop)
}

fn address<A: Address>(a: &RouteAddress) -> Option<A> {
    match a {
        RouteAddress::Inet(a) => A::from_ip(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => A::from_ip(IpAddr::V6(*a)),
        _ => None,
    }
}
