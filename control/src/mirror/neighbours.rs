//! The kernel's neighbours: which Ethernet address a next hop has.

use std::collections::HashMap;
use std::net::IpAddr;

use ahash::RandomState;
use dataplane::packet::Address;
use dataplane::policy::InterfaceId;
use dataplane::route::Mac;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// Resolved neighbours by device index and address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbours(HashMap<(u32, IpAddr), Mac>);

impl Neighbours {
    /// A neighbour as the kernel describes it now. Returns the device's index when that changed anything;
    /// going from reachable to stale and back does not.
    pub(super) fn set(&mut self, m: &NeighbourMessage) -> Option<u32> {
        let (key, mac) = read(m)?;
        let changed = match mac {
            Some(mac) => self.0.insert(key, mac) != Some(mac),
            None => self.0.remove(&key).is_some(),
        };
        changed.then_some(key.0)
    }

    /// A neighbour the kernel has forgotten. Returns the device's index when it was known.
    pub(super) fn remove(&mut self, m: &NeighbourMessage) -> Option<u32> {
        let (key, _) = read(m)?;
        self.0.remove(&key).map(|_| key.0)
    }

    /// Those of one family on the policy's interfaces.
    pub(super) fn of_family<A: Address>(
        &self,
        ids: &HashMap<u32, InterfaceId>,
    ) -> HashMap<(InterfaceId, A), Mac, RandomState> {
        let all = self.0.iter();
        all.filter_map(|((index, a), mac)| Some(((*ids.get(index)?, A::from_ip(*a)?), *mac))).collect()
    }
}

/// The neighbour's device and address, and its Ethernet address if it is resolved.
fn read(m: &NeighbourMessage) -> Option<((u32, IpAddr), Option<Mac>)> {
    if m.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for a in &m.attributes {
        match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(x)) => address = Some(IpAddr::V4(*x)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(x)) => address = Some(IpAddr::V6(*x)),
            NeighbourAttribute::LinkLayerAddress(b) => mac = b.as_slice().try_into().map(Mac).ok(),
            _ => {}
        }
    }
    let resolved = matches!(
        m.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    Some(((m.header.ifindex, address?), mac.filter(|_| resolved)))
}

/// The order to resolve a neighbour, or to confirm it if it is stale: what `ip neigh add ADDRESS dev
/// DEVICE use` sends.
pub(super) fn resolve(ifindex: u32, address: IpAddr) -> RouteNetlinkMessage {
    let (family, destination) = match address {
        IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
        IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
    };
    let header = NeighbourHeader { family, ifindex, flags: NeighbourFlags::Use, ..NeighbourHeader::default() };
    let mut m = NeighbourMessage::default();
    m.header = header;
    m.attributes = vec![NeighbourAttribute::Destination(destination)];
    RouteNetlinkMessage::NewNeighbour(m)
}
