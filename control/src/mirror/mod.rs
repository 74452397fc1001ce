//! The kernel's interfaces, routes and neighbours, followed over rtnetlink and published to the workers.
//!
//! Everything is dumped once and kept up to date from multicast messages. When the kernel had to drop
//! messages (`ENOBUFS`), everything is dumped again. Changes that come together are published together,
//! and only if they change what a worker would do.

mod coming;
mod kept;
mod links;
mod local;
mod neighbours;
mod netlink;
mod routes;
mod state;
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
use dataplane::policy::{InterfaceId, Policy};
use dataplane::route::{Fib, Interface};
use dataplane::worker::listing::{Filter, FlowFilter};
use dataplane::worker::shared::{Command, Edit, NeighbourRequest, Shared};
use netlink_packet_core::NLM_F_CREATE;

pub(crate) use coming::Coming;
use kept::Kept;
pub(crate) use links::no_vlan_device;
pub(crate) use local::{LocalAddresses, is_translated};
use netlink::Netlink;
use state::{Pending, State};

/// The least time between two publications: changes within it are published together.
const COALESCE: Duration = Duration::from_millis(10);
/// How often the thread looks whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(250);
/// How often what the kernel does not tell by itself is looked at.
const RECHECK: Duration = Duration::from_secs(5);
/// Figures about the mirror for metrics and status.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// IPv4 and IPv6 prefixes.
    pub(crate) routes: [AtomicU64; 2],
    /// Resolved IPv4 and IPv6 neighbours on the policy's interfaces.
    pub(crate) neighbours: [AtomicU64; 2],
    /// Times that something was published.
    pub(crate) publishes: AtomicU64,
    /// Nanoseconds that this took.
    pub(crate) publish_ns: AtomicU64,
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

/// Follows the kernel and publishes what it says.
pub(crate) struct Mirror {
    shared: Arc<Shared>,
    /// The policy that was current at the last publication.
    policy: Arc<Policy>,
    /// The one that will be soon.
    coming: Arc<Coming>,
    /// Addresses that only connections of former policies carry.
    kept: Kept,
    stats: Arc<Stats>,
    ask: Netlink,
    listen: Netlink,
    state: State,
    pending: Pending,
    interfaces: Vec<Interface>,
    ids: HashMap<u32, InterfaceId>,
    local: LocalAddresses,
    /// Addresses the host has lost, and the workers that have yet to be told.
    lost: Vec<(IpAddr, usize)>,
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
            coming: Arc::default(),
            kept: Kept::default(),
            stats: Arc::default(),
            ask,
            listen,
            state: State::default(),
            pending: Pending::all(),
            interfaces: Vec::new(),
            ids: HashMap::new(),
            local: LocalAddresses::new(),
            lost: Vec::new(),
            published: Instant::now(),
            pause: COALESCE,
        };
        mirror.state.dump(&mut mirror.ask).context("reading interfaces, routes and neighbours from the kernel")?;
        mirror.publish();
        Ok(mirror)
    }

    /// Figures about the mirror.
    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Where a policy is announced before it takes effect.
    pub(crate) fn coming(&self) -> Arc<Coming> {
        self.coming.clone()
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
    /// When a netlink socket fails for good.
    pub(crate) fn run(mut self, mut on_change: impl FnMut(&[Interface], &LocalAddresses)) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        while !shared.stop.load(Ordering::Relaxed) {
            crate::sys::readable(&[self.listen.fd(), shared.control_ready.as_raw_fd()], self.until_next());
            self.answer_requests();
            self.follow().context("following the kernel's routes")?;
            if self.pending.dump_routes_at.is_some_and(|t| t <= Instant::now()) {
                self.pending.dump_routes_at = None;
                self.pending.others = true;
                self.state.dump_routes(&mut self.ask).context("reading the kernel's routes")?;
            }
            // A new policy may bring other interfaces and translations.
            let new_policy = !Arc::ptr_eq(&self.policy, &shared.current.load().policy);
            self.pending.interfaces |= new_policy;
            // Sysctls change without a message.
            self.pending.interfaces |= self.published.elapsed() > RECHECK;
            let due = self.pending.any() && (new_policy || self.until_publication().is_zero());
            let mut changed = due && self.publish();
            let announced = self.coming.is_awaited();
            let free = self.kept.turn(&shared);
            if announced || free.is_some() {
                changed |= self.update_local(free);
            }
            if changed {
                on_change(&self.interfaces, &self.local);
            }
            if announced {
                self.coming.prepared();
            }
            self.end_lost_connections();
        }
        Ok(())
    }

    fn until_publication(&self) -> Duration {
        self.pause.saturating_sub(self.published.elapsed())
    }

    fn until_next(&self) -> Duration {
        let dump = self.pending.dump_routes_at.map(|t| t.saturating_duration_since(Instant::now()));
        let publication = self.pending.any().then(|| self.until_publication());
        let lost = (!self.lost.is_empty()).then_some(COALESCE);
        [dump, publication, lost].into_iter().flatten().min().unwrap_or(LOOK_UP)
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
                self.pending = Pending::all();
                self.state.dump(&mut self.ask)
            }
            Err(e) => Err(e),
        }
    }

    /// Ends the connections whose source was translated to an address that the host has lost, as the
    /// kernel's masquerade does: their replies would not find the way back. A worker that has enough to
    /// do is told later.
    fn end_lost_connections(&mut self) {
        let Mirror { shared, local, lost, .. } = self;
        lost.retain(|(address, worker)| {
            let reply = FlowFilter { destination: Some((*address).into()), ..FlowFilter::default() };
            let filter = Box::new(Filter { reply, ..Filter::default() });
            // Nobody waits for the number.
            let (reply, _) = crossbeam::channel::bounded(1);
            !local.contains_key(address)
                && shared.command(*worker, Command::Edit { filter, edit: Edit::Delete, reply }).is_err()
        });
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

    /// Publishes the state if it differs from what is published. Returns whether the policy's interfaces
    /// or the host's addresses changed.
    fn publish(&mut self) -> bool {
        let began = Instant::now();
        let pending = &mut self.pending;
        let interfaces_changed = std::mem::take(&mut pending.interfaces);
        pending.others = false;
        let current = self.shared.current.load();
        let State { links, routes4, routes6, neighbours } = &mut self.state;
        let mut new_interfaces = false;
        if interfaces_changed {
            let interfaces = links.interfaces(&current.policy.interfaces);
            new_interfaces = interfaces != self.interfaces;
            log_changes(&current.policy, &self.interfaces, &interfaces);
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
        self.policy = current.policy;
        let new_local = self.update_local(None);
        self.published = began;
        // With a full Internet table a publication takes long: do not spend all one's time on it.
        let took = began.elapsed();
        self.pause = COALESCE.max(took * 4);
        if changed {
            self.stats.publish_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        }
        new_interfaces || new_local
    }

    /// Brings the host's addresses up to date; no connection carries `free` any more. Returns whether they changed.
    fn update_local(&mut self, free: Option<IpAddr>) -> bool {
        let coming = self.coming.policy();
        let policies = || std::iter::once(&self.policy).chain(&coming);
        let translated = |a| policies().any(|p| is_translated(p, &self.interfaces, a));
        let host = self.state.routes4.local().iter().chain(self.state.routes6.local()).copied();
        let mut local: LocalAddresses = host.map(|a| (a, translated(a))).collect();
        for (a, _) in self.local.iter().filter(|(_, translated)| **translated) {
            if local.get(a) == Some(&false) && Some(*a) != free {
                self.kept.insert(*a);
            }
        }
        self.kept.retain(|a| local.get(a) == Some(&false));
        local.iter_mut().for_each(|(a, translated)| *translated |= self.kept.contains(a));
        let former = std::mem::replace(&mut self.local, local);
        for gone in former.keys().filter(|a| !self.local.contains_key(a)) {
            self.lost.extend((0..self.shared.workers.len()).map(|w| (*gone, w)));
        }
        former != self.local
    }
}

fn log_changes(policy: &Policy, former: &[Interface], now: &[Interface]) {
    for (id, (p, now)) in policy.interfaces.iter().zip(now).enumerate() {
        // At the start there are none.
        let former = former.get(id);
        let existed = former.is_none_or(|f| f.ifindex != 0);
        let was_up = former.map(|f| f.up);
        match (now.ifindex, now.device) {
            (0, 1..) if existed => tracing::warn!("interface {}: {}", p.name, no_vlan_device(p)),
            (0, 0) if existed => tracing::warn!("{p} does not exist any more"),
            _ if was_up == Some(true) && !now.up => tracing::warn!("{p} is down or has no carrier"),
            _ if was_up == Some(false) && now.up => tracing::info!("{p} is up"),
            _ => {}
        }
    }
}

/// The ports the host's own connections take (`ip_local_port_range`), both ends inclusive.
fn host_ports() -> Option<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map_while(|p| p.parse().ok());
    Some((ports.next()?, ports.next()?))
}
