//! What is known of the kernel's state: dumped once, then kept up to date by the kernel's messages.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use dataplane::packet::{V4, V6};
use dataplane::policy::InterfaceId;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::links::{Effect, Links};
use super::neighbours::Neighbours;
use super::netlink::Netlink;
use super::routes::{DUMPED, Routes};

/// How long after a link or address went the routes are dumped again: the kernel tells of the address
/// before it drops the routes that depend on it.
const ROUTES_SETTLE: Duration = Duration::from_millis(20);
/// How often a dump that the kernel's changes interrupted is tried again before it is taken as it is;
/// what it lacks arrives as changes.
const DUMP_ATTEMPTS: usize = 5;

/// What is known of the kernel's state.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) links: Links,
    pub(super) routes4: Routes<V4>,
    pub(super) routes6: Routes<V6>,
    pub(super) neighbours: Neighbours,
}

/// What has changed since the last publication.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Interfaces, their addresses, or what the policy says of them.
    pub(super) interfaces: bool,
    /// Routes or neighbours.
    pub(super) others: bool,
    /// When the routes have to be dumped again.
    pub(super) dump_routes_at: Option<Instant>,
}

/// What a message changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// A link or an address.
    Links(Effect),
    /// A neighbour on the device of this index, if any.
    Neighbour(Option<u32>),
    /// A route.
    Routes,
}

impl Pending {
    /// Everything is to be published.
    pub(super) fn all() -> Self {
        Pending { interfaces: true, others: true, dump_routes_at: None }
    }

    /// Whether there is something to publish.
    pub(super) fn any(&self) -> bool {
        self.interfaces || self.others
    }

    /// Adds a change; `ids` are the devices of the policy's interfaces.
    pub(super) fn add(&mut self, change: Change, ids: &HashMap<u32, InterfaceId>) {
        match change {
            Change::Links(Effect::None) | Change::Neighbour(None) => {}
            Change::Links(Effect::Interfaces) => self.interfaces = true,
            Change::Links(Effect::Routes) => {
                self.interfaces = true;
                self.dump_routes_at = Some(Instant::now() + ROUTES_SETTLE);
            }
            Change::Neighbour(Some(index)) => self.others |= ids.contains_key(&index),
            Change::Routes => self.others = true,
        }
    }
}

impl State {
    /// Takes in a message that arrived with these flags.
    pub(super) fn apply(&mut self, flags: u16, m: Message) -> Change {
        match m {
            Message::NewLink(m) => Change::Links(self.links.set(&m)),
            Message::DelLink(m) => Change::Links(self.links.remove(&m)),
            Message::NewAddress(m) => Change::Links(self.links.set_address(&m)),
            Message::DelAddress(m) => Change::Links(self.links.remove_address(&m)),
            Message::NewNeighbour(m) => Change::Neighbour(self.neighbours.set(&m)),
            Message::DelNeighbour(m) => Change::Neighbour(self.neighbours.remove(&m)),
            Message::NewRoute(m) => {
                self.routes4.add(flags, &m);
                self.routes6.add(flags, &m);
                Change::Routes
            }
            Message::DelRoute(m) => {
                self.routes4.remove(&m);
                self.routes6.remove(&m);
                Change::Routes
            }
            _ => Change::Links(Effect::None),
        }
    }

    /// Asks the kernel for everything.
    pub(super) fn dump(&mut self, ask: &mut Netlink) -> io::Result<()> {
        let mut fresh = State::default();
        let neighbours_of = |family| {
            let mut m = NeighbourMessage::default();
            m.header.family = family;
            Message::GetNeighbour(m)
        };
        for request in [
            Message::GetLink(LinkMessage::default()),
            Message::GetAddress(AddressMessage::default()),
            neighbours_of(AddressFamily::Inet),
            neighbours_of(AddressFamily::Inet6),
        ] {
            fresh.collect(ask, &request)?;
        }
        self.links = fresh.links;
        self.neighbours = fresh.neighbours;
        self.dump_routes(ask)
    }

    /// Asks the kernel for the routes.
    pub(super) fn dump_routes(&mut self, ask: &mut Netlink) -> io::Result<()> {
        let mut fresh = State::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            fresh.collect(ask, &Message::GetRoute(request))?;
        }
        self.routes4.replace(fresh.routes4);
        self.routes6.replace(fresh.routes6);
        Ok(())
    }

    /// Takes in a dump, and once more when the kernel says that a change interrupted it. Objects then come
    /// twice, and one that has gone in between is taken away by the change that waits in the other socket.
    fn collect(&mut self, ask: &mut Netlink, request: &Message) -> io::Result<()> {
        for _ in 0..DUMP_ATTEMPTS {
            let done = ask.dump(request.clone(), |m| {
                self.apply(DUMPED, m);
            });
            match done {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
        Ok(())
    }
}
