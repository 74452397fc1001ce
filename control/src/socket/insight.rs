//! What clients ask about packets: the way one would go, the ways they do go.

use std::io::{self, Write};
use std::net::IpAddr;

use dataplane::packet::{Address, V4, V6};
use dataplane::policy::{InterfaceId, Policy};
use dataplane::route::{Fib, Target};
use dataplane::snapshot::Snapshot;
use dataplane::worker::account::{Account, Verdict as Became};
use dataplane::worker::shared::{Command, Fit, Handed};

use super::tracking::{WORKER_PATIENCE, order, silent};
use super::{Outcome, write};
use crate::context::Context;
use crate::describe::{self, Packet};
use crate::mirror;
use crate::way::{Interface, Step, Verdict, Way};
use crate::wire::Response;

/// Tells what a packet would meet.
pub(super) fn explain(packet: &Packet, ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    match way(packet, ctx) {
        Ok(way) => write(out, &Response::Explained(Box::new(way))).map(Ok),
        Err(e) => Ok(Err(e)),
    }
}

fn way(packet: &Packet, ctx: &Context) -> Result<Way, String> {
    let current = ctx.shared.current.load();
    let interface = match &packet.interface {
        Some(name) => named(&current.policy, name)?,
        None => towards(&current, packet.source)?,
    };
    let device = &current.policy.interfaces[usize::from(interface)].device;
    let same_device = |i: usize| current.policy.interfaces.get(i).is_some_and(|i| i.device == *device);
    let first = ctx.queues.iter().find(|q| same_device(q.interface)).map_or(0, |q| q.worker);
    if let Some(why) = kernels_own(packet, &current) {
        return Ok(Way {
            packet: packet.to_string(),
            interface: Interface::new(&current.policy, interface),
            worker: first as u16,
            steps: vec![Step::Kernel { why: why.to_owned() }],
            verdict: Verdict::ToHost,
            leaves: None,
        });
    }
    let mac = current.fib.interfaces.get(usize::from(interface)).map(|i| i.mac).unwrap_or_default();
    let frame: Box<[u8]> = describe::build(packet, mac).into();
    let fit = if packet.flags.is_some() { Fit::Numbers } else { Fit::Next };
    let ask = |worker: usize, handed| -> Result<Account, String> {
        let frame = frame.clone();
        let answer = order(ctx, worker, 1, |reply| Command::Explain { frame, interface, handed, fit, reply })?;
        answer.recv_timeout(WORKER_PATIENCE).map_err(|_| silent(worker))
    };
    let account = ask(first, Handed::No)?;
    let Became::HandedOff(owner) = account.verdict else { return Ok(Way::new(&account, packet.to_string())) };
    let mut way = Way::new(&ask(usize::from(owner), Handed::ToOwner)?, packet.to_string());
    way.steps.insert(0, Step::Owner { came_in: account.worker });
    Ok(way)
}

/// The interface with this name, on this device, or the only one of this zone.
pub(super) fn named(p: &Policy, name: &str) -> Result<InterfaceId, String> {
    let all = || p.interfaces.iter().zip(0..);
    if let Some((_, i)) = all().find(|(x, _)| x.name == name).or_else(|| all().find(|(x, _)| x.device == name)) {
        return Ok(i);
    }
    let Some(zone) = p.zones.iter().position(|z| z == name) else {
        let known: Vec<String> = all().map(|(x, _)| format!("{} ({x})", x.name)).collect();
        return Err(format!("`{name}` is not an interface of the policy; it has {}", known.join(", ")));
    };
    let of_zone: Vec<(&str, InterfaceId)> =
        all().filter(|(x, _)| usize::from(x.zone) == zone).map(|(x, i)| (x.name.as_str(), i)).collect();
    match of_zone[..] {
        [] => Err(format!("zone `{name}` has no interface")),
        [(_, i)] => Ok(i),
        _ => {
            let names: Vec<&str> = of_zone.iter().map(|(n, _)| *n).collect();
            Err(format!("`{name}` is a zone; name one of its interfaces: {}", names.join(", ")))
        }
    }
}

/// The interface that an address is routed to.
fn towards(s: &Snapshot, a: IpAddr) -> Result<InterfaceId, String> {
    fn first<A>(t: Option<&Target<A>>) -> Option<InterfaceId> {
        match t {
            Some(Target::Via(hops)) => hops.iter().find_map(|h| h.interface),
            _ => None,
        }
    }
    let v4 = || first(s.fib.lookup(V4::from_ip(a)?));
    let v6 = || first(s.fib.lookup(V6::from_ip(a)?));
    v4().or_else(v6).ok_or_else(|| {
        let name = s.policy.interfaces.first().map_or("lan", |i| &i.name);
        format!("{a} is routed to no interface of the policy; say where the packet comes in: `in {name}`")
    })
}

/// Why the steering program does not show the packet to a worker. It has these words for itself in C.
fn kernels_own(p: &Packet, s: &Snapshot) -> Option<&'static str> {
    match (p.source, p.destination) {
        (_, IpAddr::V4(d)) if d.is_multicast() => Some("multicast is not forwarded"),
        (_, IpAddr::V4(d)) if d.is_broadcast() => Some("broadcasts are not forwarded"),
        (_, IpAddr::V6(d)) if d.is_multicast() => Some("multicast is not forwarded"),
        (IpAddr::V6(a), IpAddr::V6(d)) if a.is_unicast_link_local() || d.is_unicast_link_local() => {
            Some("link-local addresses are not forwarded")
        }
        (_, d) if is_local(&s.fib, d) && !mirror::is_translated(&s.policy, &s.fib.interfaces, d) => {
            Some("the destination is the host's own address, and no translation uses it")
        }
        _ => None,
    }
}

fn is_local(fib: &Fib, a: IpAddr) -> bool {
    V4::from_ip(a).is_some_and(|a| fib.is_local(a)) || V6::from_ip(a).is_some_and(|a| fib.is_local(a))
}

#[cfg(test)]
mod tests {
    use dataplane::policy::InterfacePolicy;

    use super::*;

    #[test]
    fn interfaces_by_name_device_and_zone() {
        let interface = |name: &str, device: &str, vlan, zone| InterfacePolicy {
            name: name.to_owned(),
            device: device.to_owned(),
            vlan,
            zone,
        };
        let p = Policy {
            zones: ["inside", "outside", "spare"].map(str::to_owned).into(),
            interfaces: vec![
                interface("lan", "eth1", 0, 0),
                interface("guests", "eth1", 20, 0),
                interface("wan", "eth0", 0, 1),
            ],
            ..Policy::default()
        };
        for (name, expected) in [
            ("lan", Ok(0)),
            ("guests", Ok(1)),
            ("eth1", Ok(0)),
            ("outside", Ok(2)),
            ("inside", Err("`inside` is a zone; name one of its interfaces: lan, guests")),
            ("spare", Err("zone `spare` has no interface")),
            (
                "dmz",
                Err("`dmz` is not an interface of the policy; it has lan (eth1), guests (VLAN 20 of eth1), wan (eth0)"),
            ),
        ] {
            assert_eq!(named(&p, name), expected.map_err(str::to_owned), "{name}");
        }
    }
}
