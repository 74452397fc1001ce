//! The kernel's interfaces, routes and neighbours, followed over rtnetlink and published to the workers.
//!
//! Everything is dumped once and kept up to date from multicast messages. When the kernel had to drop
//! messages (`ENOBUFS`), everything is dumped again. Changes that come together are published together,
//! and only if they change what a worker would do.

mod links;
mod local;
mod neighbours;
mod netlink;
mod routes;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use dataplane::packet::{V4, V6};
use dataplane::policy::{InterfaceId, Policy};
use dataplane::route::{Fib, Interface};
use dataplane::worker::shared::{Command, Filter, NeighbourRequest, Shared};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use links::{Effect, Links};
pub(crate) use local::LocalAddresses;
use neighbours::Neighbours;
use netlink::Netlink;
use routes::{DUMPED, Routes};

/// The least time between two publications: changes within it are published together.
const COALESCE: Duration = Duration::from_millis(10);
/// How long after a link or address went the routes are dumped again: the kernel tells of the address
/// before it drops the routes that depend on it.
const ROUTES_SETTLE: Duration = Duration::from_millis(20);
/// How often the thread looks whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(250);
/// How often what the kernel does not tell by itself is looked at.
const RECHECK: Duration = Duration::from_secs(5);
/// How often a dump that the kernel's changes interrupted is tried again before it is taken as it is;
/// what it lacks arrives as changes.
const DUMP_ATTEMPTS: usize = 5;

/// Figures about the mirror for metrics and status.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// IPv4 and IPv6 prefixes.
    pub(crate) routes: [AtomicU64; 2],
    /// Resolved IPv4 and IPv6 neighbours on the policy's interfaces.
    pub(crate) neighbours: [AtomicU64; 2],
    /// Times that something was published.
    pub(crate) publishes: AtomicU64,
    /// Times that everything was dumped again because messages were lost.
    pub(crate) resyncs: AtomicU64,
    /// Neighbours the kernel was asked to resolve.
    pub(crate) requests: AtomicU64,
}

impl Stats {
    fn describe(&self, fib: &Fib) {
        let set = |gauge: &AtomicU64, n: usize| gauge.store(n as u64, Ordering::Relaxed);
        set(&self.routes[0], fib.routes4.len());
        set(&self.routes[1], fib.routes6.len());
        set(&self.neighbours[0], fib.neighbours4.len());
        set(&self.neighbours[1], fib.neighbours6.len());
        self.publishes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is known of the kernel's state.
#[derive(Debug, Default)]
struct State {
    links: Links,
    routes4: Routes<V4>,
    routes6: Routes<V6>,
    neighbours: Neighbours,
}

/// What has changed since the last publication.
#[derive(Debug, Default)]
struct Pending {
    interfaces: bool,
    neighbours: bool,
    routes: bool,
    /// When the routes have to be dumped again.
    dump_routes_at: Option<Instant>,
}

/// Follows the kernel and publishes what it says.
pub(crate) struct Mirror {
    shared: Arc<Shared>,
    /// The policy that was current at the last publication.
    policy: Arc<Policy>,
    stats: Arc<Stats>,
    ask: Netlink,
    listen: Netlink,
    state: State,
    pending: Pending,
    interfaces: Vec<Interface>,
    ids: HashMap<u32, InterfaceId>,
    local: LocalAddresses,
    published: Instant,
    /// How long to wait between publications; grows with what one costs.
    pause: Duration,
}

impl Mirror {
    /// Dumps the kernel's state and publishes it, for the interfaces of the policy that is current.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or a dump.
    pub(crate) fn open(shared: Arc<Shared>) -> anyhow::Result<Self> {
        let sockets = || Ok::<_, io::Error>((Netlink::to_ask()?, Netlink::to_listen()?));
        let (ask, listen) = sockets().context("opening a netlink socket to read the kernel's routes")?;
        let mut mirror = Mirror {
            policy: shared.current.load().policy,
            shared,
            stats: Arc::default(),
            ask,
            listen,
            state: State::default(),
            pending: Pending::default(),
            interfaces: Vec::new(),
            ids: HashMap::new(),
            local: LocalAddresses::new(),
            published: Instant::now(),
            pause: COALESCE,
        };
        mirror.dump_all().context("reading interfaces, routes and neighbours from the kernel")?;
        mirror.publish();
        Ok(mirror)
    }

    /// Figures about the mirror.
    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// The policy's interfaces as of now.
    pub(crate) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The host's addresses as of now.
    pub(crate) fn local(&self) -> &LocalAddresses {
        &self.local
    }

    /// Follows the kernel until the workers are told to stop; `on_change` gets the policy's interfaces and
    /// the host's addresses whenever any of them changes.
    ///
    /// # Errors
    /// When a netlink socket fails for good, or `on_change` does.
    pub(crate) fn run(
        mut self,
        mut on_change: impl FnMut(&[Interface], &LocalAddresses) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        while !shared.stop.load(Ordering::Relaxed) {
            crate::sys::readable(&[self.listen.fd(), shared.control_ready.as_raw_fd()], self.until_next());
            self.answer_requests();
            self.follow().context("following the kernel's routes")?;
            if self.pending.dump_routes_at.is_some_and(|t| t <= Instant::now()) {
                self.pending.dump_routes_at = None;
                self.dump_routes().context("reading the kernel's routes")?;
            }
            // A new policy may bring other interfaces and translations.
            let new_policy = !Arc::ptr_eq(&self.policy, &shared.current.load().policy);
            self.pending.interfaces |= new_policy;
            // Sysctls change without a message.
            self.pending.interfaces |= self.published.elapsed() > RECHECK;
            if self.pending.any() && (new_policy || self.until_publication().is_zero()) && self.publish() {
                on_change(&self.interfaces, &self.local)?;
            }
        }
        Ok(())
    }

    fn until_publication(&self) -> Duration {
        self.pause.saturating_sub(self.published.elapsed())
    }

    fn until_next(&self) -> Duration {
        let dump = self.pending.dump_routes_at.map(|t| t.saturating_duration_since(Instant::now()));
        let publication = self.pending.any().then(|| self.until_publication());
        [dump, publication].into_iter().flatten().min().unwrap_or(LOOK_UP)
    }

    /// Takes in the changes that have arrived.
    fn follow(&mut self) -> io::Result<()> {
        let Mirror { listen, state, pending, ids, .. } = self;
        let more = listen.changes(|flags, m| pending.add(state.apply(flags, m), ids));
        match more {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                tracing::warn!("the kernel's changes came faster than they were read: reading everything again");
                self.stats.resyncs.fetch_add(1, Ordering::Relaxed);
                // A fresh socket, so that nothing older than the dump is left in its queue.
                self.listen = Netlink::to_listen()?;
                self.dump_all()
            }
            Err(e) => Err(e),
        }
    }

    /// Asks the kernel for the neighbours that workers wait for.
    fn answer_requests(&mut self) {
        self.shared.control_ready.clear();
        let wanted: HashSet<NeighbourRequest> = std::iter::from_fn(|| self.shared.neighbour_requests.pop()).collect();
        for r in wanted {
            let Some(i) = self.interfaces.get(usize::from(r.interface)).filter(|i| i.ifindex != 0) else { continue };
            self.stats.requests.fetch_add(1, Ordering::Relaxed);
            if let Err(e) = self.ask.order(neighbours::resolve(i.ifindex, r.address), NLM_F_CREATE) {
                tracing::debug!("the kernel refused to resolve {} on interface {}: {e}", r.address, i.ifindex);
            }
        }
    }

    fn dump_all(&mut self) -> io::Result<()> {
        let mut links = Links::default();
        self.dump(&Message::GetLink(LinkMessage::default()), |m| {
            if let Message::NewLink(m) = m {
                links.set(&m);
            }
        })?;
        self.dump(&Message::GetAddress(AddressMessage::default()), |m| {
            if let Message::NewAddress(m) = m {
                links.set_address(&m);
            }
        })?;
        let mut neighbours = Neighbours::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            self.dump(&Message::GetNeighbour(request), |m| {
                if let Message::NewNeighbour(m) = m {
                    neighbours.set(&m);
                }
            })?;
        }
        self.dump_routes()?;
        self.state.links = links;
        self.state.neighbours = neighbours;
        self.pending = Pending { interfaces: true, neighbours: true, routes: true, dump_routes_at: None };
        Ok(())
    }

    fn dump_routes(&mut self) -> io::Result<()> {
        let (mut routes4, mut routes6) = (Routes::<V4>::default(), Routes::<V6>::default());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            self.dump(&Message::GetRoute(request), |m| match m {
                Message::NewRoute(m) if family == AddressFamily::Inet => routes4.add(DUMPED, &m),
                Message::NewRoute(m) => routes6.add(DUMPED, &m),
                _ => {}
            })?;
        }
        self.state.routes4.replace(routes4);
        self.state.routes6.replace(routes6);
        self.pending.routes = true;
        Ok(())
    }

    /// Dumps, and once more when the kernel says that a change interrupted it. Objects then come twice,
    /// and one that has gone in between is taken away by the change that waits in the other socket.
    fn dump(&mut self, request: &Message, mut each: impl FnMut(Message)) -> io::Result<()> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.ask.dump(request.clone(), &mut each) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
        Ok(())
    }

    /// Publishes the state if it differs from what is published. Returns whether the policy's interfaces
    /// or the host's addresses changed.
    fn publish(&mut self) -> bool {
        let began = Instant::now();
        let pending = &mut self.pending;
        let interfaces_changed = std::mem::take(&mut pending.interfaces);
        (pending.neighbours, pending.routes) = (false, false);
        let current = self.shared.current.load();
        let State { links, routes4, routes6, neighbours } = &mut self.state;
        let mut new_interfaces = false;
        if interfaces_changed {
            let interfaces = links.interfaces(&current.policy.interfaces);
            new_interfaces = interfaces != self.interfaces;
            let ids = links::by_index(&interfaces);
            if ids != self.ids {
                routes4.touch_all();
                routes6.touch_all();
            }
            self.interfaces = interfaces;
            self.ids = ids;
        }
        let host_ports = host_ports();
        let mut changed = new_interfaces || host_ports != current.fib.host_ports;
        changed |= routes4.update(&self.ids) | routes6.update(&self.ids);
        let (neighbours4, neighbours6) = (neighbours.of_family(&self.ids), neighbours.of_family(&self.ids));
        changed |= neighbours4 != current.fib.neighbours4 || neighbours6 != current.fib.neighbours6;
        if changed {
            let fib = Fib {
                interfaces: self.interfaces.clone(),
                routes4: routes4.table().clone(),
                routes6: routes6.table().clone(),
                neighbours4,
                neighbours6,
                host_ports,
            };
            self.stats.describe(&fib);
            self.shared.current.publish(None, Some(Arc::new(fib)));
            for w in 0..self.shared.workers.len() {
                self.shared.wake(w);
            }
        }
        let host = routes4.local().iter().chain(routes6.local()).copied();
        let local: LocalAddresses =
            host.map(|a| (a, local::is_translated(&current.policy, &self.interfaces, a))).collect();
        let former = std::mem::replace(&mut self.local, local);
        for gone in former.keys().filter(|a| !self.local.contains_key(a)) {
            delete_connections_to(&self.shared, *gone);
        }
        self.policy = current.policy;
        self.published = began;
        // With a full Internet table a publication takes long: do not spend all one's time on it.
        self.pause = COALESCE.max(began.elapsed() * 4);
        new_interfaces || former != self.local
    }
}

/// The ports the host's own connections take (`ip_local_port_range`), both ends inclusive.
fn host_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map_while(|p| p.parse().ok());
    Some((ports.next()?, ports.next()?))
}

/// Ends the connections whose source was translated to an address that the host has lost, as the
/// kernel's masquerade does: their replies would not find the way back.
fn delete_connections_to(shared: &Shared, address: IpAddr) {
    let filter = Filter { reply_destination: Some(address), ..Filter::default() };
    for w in 0..shared.workers.len() {
        let (reply, _) = crossbeam::channel::bounded(1);
        if shared.command(w, Command::Delete { filter: filter.clone(), reply }).is_err() {
            tracing::warn!("worker {w} is too busy to delete the connections of {address}, which is gone");
        }
    }
}

/// What a message changed.
enum Change {
    Links(Effect),
    Neighbour(Option<u32>),
    Routes,
}

impl State {
    fn apply(&mut self, flags: u16, m: Message) -> Change {
        match m {
            Message::NewLink(m) => Change::Links(self.links.set(&m)),
            Message::DelLink(m) => Change::Links(self.links.remove(&m)),
            Message::NewAddress(m) => Change::Links(self.links.set_address(&m)),
            Message::DelAddress(m) => Change::Links(self.links.remove_address(&m)),
            Message::NewNeighbour(m) => Change::Neighbour(self.neighbours.set(&m)),
            Message::DelNeighbour(m) => Change::Neighbour(self.neighbours.remove(&m)),
            Message::NewRoute(m) => {
                match m.header.address_family {
                    AddressFamily::Inet => self.routes4.add(flags, &m),
                    AddressFamily::Inet6 => self.routes6.add(flags, &m),
                    _ => {}
                }
                Change::Routes
            }
            Message::DelRoute(m) => {
                match m.header.address_family {
                    AddressFamily::Inet => self.routes4.remove(&m),
                    AddressFamily::Inet6 => self.routes6.remove(&m),
                    _ => {}
                }
                Change::Routes
            }
            _ => Change::Links(Effect::None),
        }
    }
}

impl Pending {
    /// Whether there is something to publish.
    fn any(&self) -> bool {
        self.interfaces || self.neighbours || self.routes
    }

    fn add(&mut self, change: Change, ids: &HashMap<u32, InterfaceId>) {
        match change {
            Change::Links(Effect::None) | Change::Neighbour(None) => {}
            Change::Links(Effect::Interfaces) => self.interfaces = true,
            Change::Links(Effect::Routes) => {
                self.interfaces = true;
                self.dump_routes_at = Some(Instant::now() + ROUTES_SETTLE);
            }
            Change::Neighbour(Some(index)) => self.neighbours |= ids.contains_key(&index),
            Change::Routes => self.routes = true,
        }
    }
}
