//! The kernel's links and their addresses.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{InterfaceId, InterfacePolicy};
use dataplane::route::{Interface, Mac};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanProtocol,
};

/// What is kept of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    name: String,
    mac: Mac,
    mtu: u32,
    /// Administratively up.
    up: bool,
    /// Has carrier.
    carrier: bool,
    /// What it is when it is a VLAN device.
    vlan: Option<Vlan>,
}

/// A VLAN device of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vlan {
    /// The index of the device it is on; 0 when that is in another namespace.
    parent: u32,
    /// Its id; `None` for one that is not of 802.1Q.
    id: Option<u16>,
}

/// What is kept of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LinkAddress {
    address: IpAddr,
    prefix: u8,
    /// Its place among the link's addresses: of link scope, deprecated, secondary or temporary; false first.
    rank: (bool, bool, bool),
}

/// What a change of a link or an address means for the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that is mirrored changed.
    None,
    /// Interfaces changed.
    Interfaces,
    /// The kernel may have dropped or revived routes without a message: for IPv4 it reports neither the
    /// routes that leave with a device or a preferred source address nor next hops that die or revive.
    Routes,
}

/// All links of the kernel by index.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<u32, Link>,
    addresses: HashMap<u32, Vec<LinkAddress>>,
}

impl Links {
    /// A link as the kernel describes it now.
    pub(super) fn set(&mut self, m: &LinkMessage) -> Effect {
        if m.header.interface_family != AddressFamily::Unspec {
            return Effect::None;
        }
        let flags = m.header.flags;
        let mut link = Link {
            name: String::new(),
            mac: Mac::default(),
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            vlan: read_vlan(m),
        };
        for a in &m.attributes {
            match a {
                LinkAttribute::IfName(n) => link.name.clone_from(n),
                LinkAttribute::Mtu(n) => link.mtu = *n,
                LinkAttribute::Address(b) => link.mac = b.as_slice().try_into().map(Mac).unwrap_or_default(),
                _ => {}
            }
        }
        let old = self.links.insert(m.header.index, link.clone());
        match old {
            Some(old) if old == link => Effect::None,
            Some(old) if (old.up, old.carrier) == (link.up, link.carrier) => Effect::Interfaces,
            _ => Effect::Routes,
        }
    }

    /// A link that is gone.
    pub(super) fn remove(&mut self, m: &LinkMessage) -> Effect {
        // A bridge reports a port that leaves it as a deleted link of family AF_BRIDGE.
        if m.header.interface_family != AddressFamily::Unspec || self.links.remove(&m.header.index).is_none() {
            return Effect::None;
        }
        self.addresses.remove(&m.header.index);
        Effect::Routes
    }

    /// An address as the kernel describes it now.
    pub(super) fn set_address(&mut self, m: &AddressMessage) -> Effect {
        let Some(new) = read_address(m) else { return self.remove_address(m) };
        let all = self.addresses.entry(m.header.index).or_default();
        if all.contains(&new) {
            return Effect::None;
        }
        all.retain(|a| (a.address, a.prefix) != (new.address, new.prefix));
        let at = all.partition_point(|a| a.rank <= new.rank);
        all.insert(at, new);
        Effect::Interfaces
    }

    /// An address that is gone.
    pub(super) fn remove_address(&mut self, m: &AddressMessage) -> Effect {
        let (Some(all), Some(gone)) = (self.addresses.get_mut(&m.header.index), address_of(m)) else {
            return Effect::None;
        };
        let before = all.len();
        all.retain(|a| (a.address, a.prefix) != (gone, m.header.prefix_len));
        if all.len() == before { Effect::None } else { Effect::Routes }
    }

    /// The policy's interfaces with what is known of their devices; index 0 and down where there is none.
    pub(super) fn interfaces(&self, policy: &[InterfacePolicy]) -> Vec<Interface> {
        policy.iter().map(|p| self.interface(p)).collect()
    }

    fn interface(&self, p: &InterfacePolicy) -> Interface {
        let Some((parent, device)) = self.named(&p.device) else { return Interface::default() };
        let found = if p.vlan == 0 { Some((parent, device)) } else { self.vlan_device(parent, p) };
        let Some((ifindex, l)) = found else { return Interface { device: parent, ..Interface::default() } };
        Interface {
            ifindex,
            device: parent,
            mac: l.mac,
            mtu: u16::try_from(l.mtu).unwrap_or(u16::MAX),
            up: l.up && l.carrier && device.up && device.carrier,
            v4: self.of_family::<V4>(ifindex),
            v6: self.of_family::<V6>(ifindex),
        }
    }

    fn named(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, l)| l.name == name).map(|(index, l)| (*index, l))
    }

    /// What has the addresses of a VLAN: the kernel's VLAN device, whatever its name, else a device of another kind
    /// that is named like one, `eth1.20`.
    fn vlan_device(&self, parent: u32, p: &InterfacePolicy) -> Option<(u32, &Link)> {
        let vlan = Some(Vlan { parent, id: Some(p.vlan) });
        let device = self.links.iter().find(|(_, l)| l.vlan == vlan).map(|(index, l)| (*index, l));
        device.or_else(|| self.named(&vlan_name(p)).filter(|(_, l)| l.vlan.is_none()))
    }

    fn of_family<A: Address>(&self, index: u32) -> Vec<(A, u8)> {
        let all = self.addresses.get(&index).map_or(&[][..], Vec::as_slice);
        all.iter().filter_map(|a| Some((A::from_ip(a.address)?, a.prefix))).collect()
    }
}

/// What a VLAN device is usually named.
fn vlan_name(p: &InterfacePolicy) -> String {
    format!("{}.{}", p.device, p.vlan)
}

/// That the kernel has no device for an interface that is a VLAN, and what to do.
pub(crate) fn no_vlan_device(p: &InterfacePolicy) -> String {
    let (device, id, name) = (&p.device, p.vlan, vlan_name(p));
    format!("{device} has no VLAN device with id {id}: `ip link add link {device} name {name} type vlan id {id}`")
}

/// The policy's interfaces by the kernel's index.
pub(super) fn by_index(interfaces: &[Interface]) -> HashMap<u32, InterfaceId> {
    let all = interfaces.iter().zip(0..);
    all.filter(|(i, _)| i.ifindex != 0).map(|(i, id)| (i.ifindex, id)).collect()
}

/// What a link is when it is a VLAN device.
fn read_vlan(m: &LinkMessage) -> Option<Vlan> {
    let mut vlan = None;
    let (mut parent, mut elsewhere) = (0, false);
    for a in &m.attributes {
        match a {
            LinkAttribute::Link(index) => parent = *index,
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => vlan = read_vlan_id(infos),
            _ => {}
        }
    }
    Some(Vlan { parent: if elsewhere { 0 } else { parent }, id: vlan? })
}

fn read_vlan_id(infos: &[LinkInfo]) -> Option<Option<u16>> {
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let (mut id, mut protocol) = (None, VlanProtocol::Ieee8021Q);
    for info in infos {
        let LinkInfo::Data(InfoData::Vlan(data)) = info else { continue };
        for d in data {
            match d {
                InfoVlan::Id(n) => id = Some(*n),
                InfoVlan::Protocol(p) => protocol = *p,
                _ => {}
            }
        }
    }
    Some(id.filter(|_| protocol == VlanProtocol::Ieee8021Q))
}

/// The link's own address; with a peer, `IFA_ADDRESS` is the peer's.
fn address_of(m: &AddressMessage) -> Option<IpAddr> {
    let local = m.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(a) => Some(*a),
        _ => None,
    });
    local.or_else(|| {
        m.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(a) => Some(*a),
            _ => None,
        })
    })
}

/// The address with its rank; `None` when it cannot be used (yet), as during duplicate address detection.
fn read_address(m: &AddressMessage) -> Option<LinkAddress> {
    let address = address_of(m)?;
    let flags = m
        .attributes
        .iter()
        .find_map(|a| match a {
            AddressAttribute::Flags(f) => Some(*f),
            _ => None,
        })
        .unwrap_or(AddressFlags::from_bits_retain(m.header.flags.bits().into()));
    let optimistic = flags.contains(AddressFlags::Optimistic);
    if flags.contains(AddressFlags::Dadfailed) || (flags.contains(AddressFlags::Tentative) && !optimistic) {
        return None;
    }
    // The kernel chooses sources in this order: wide scope before link scope, then primary before
    // secondary (inet_select_addr) or temporary, not deprecated before deprecated (RFC 6724).
    let narrow = matches!(m.header.scope, AddressScope::Link | AddressScope::Host | AddressScope::Nowhere);
    let rank = (narrow, flags.contains(AddressFlags::Deprecated), flags.contains(AddressFlags::Secondary));
    Some(LinkAddress { address, prefix: m.header.prefix_len, rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, more: Vec<LinkAttribute>) -> LinkMessage {
        let mut m = LinkMessage::default();
        m.header.index = index;
        m.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        m.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(1500)];
        m.attributes.extend(more);
        m
    }

    fn vlan(index: u32, name: &str, parent: u32, id: u16, protocol: VlanProtocol) -> LinkMessage {
        let data = InfoData::Vlan(vec![InfoVlan::Protocol(protocol), InfoVlan::Id(id)]);
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)]);
        link(index, name, vec![LinkAttribute::Link(parent), info])
    }

    fn found(links: &Links, vlan: u16) -> (u32, u32, bool) {
        let p = InterfacePolicy { device: "eth1".into(), vlan, ..InterfacePolicy::default() };
        let i = links.interfaces(&[p]).remove(0);
        (i.device, i.ifindex, i.up)
    }

    #[test]
    fn vlan_devices_are_found_by_device_and_id() {
        let mut links = Links::default();
        assert_eq!(found(&links, 20), (0, 0, false));
        links.set(&link(3, "eth1", vec![]));
        assert_eq!((found(&links, 0), found(&links, 20)), ((3, 3, true), (3, 0, false)));
        links.set(&vlan(4, "guests", 3, 20, VlanProtocol::Ieee8021Q));
        assert_eq!(found(&links, 20), (3, 4, true));
        // Another id, another device, another protocol, a device in another namespace with the same index.
        links.set(&vlan(5, "eth1.21", 3, 22, VlanProtocol::Ieee8021Q));
        links.set(&vlan(6, "eth0.21", 2, 21, VlanProtocol::Ieee8021Q));
        links.set(&vlan(7, "qinq", 3, 21, VlanProtocol::Ieee8021Ad));
        let mut foreign = vlan(8, "foreign", 3, 21, VlanProtocol::Ieee8021Q);
        foreign.attributes.push(LinkAttribute::LinkNetNsId(0));
        links.set(&foreign);
        assert_eq!((found(&links, 21), found(&links, 22)), ((3, 0, false), (3, 5, true)));
        // A device of another kind counts by its name, where there is no VLAN device.
        links.set(&link(9, "eth1.23", vec![]));
        links.set(&link(10, "eth1.20", vec![]));
        assert_eq!((found(&links, 23), found(&links, 20)), ((3, 9, true), (3, 4, true)));
        links.set(&{
            let mut down = link(3, "eth1", vec![]);
            down.header.flags = LinkFlags::Up;
            down
        });
        assert_eq!(found(&links, 20), (3, 4, false));
    }
}
