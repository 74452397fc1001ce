//! The steering programs of all devices together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use dataplane::io::host::HostProgram;
use dataplane::io::punt::Ingress;
use dataplane::io::steer::{self, LocalKind, Managed, Steer, SteerCounters};
use dataplane::io::xsk::{IoMode, XskPort};
use dataplane::policy::{InterfaceId, Policy};
use dataplane::route::Interface;

use crate::mirror::LocalAddresses;

/// One steering program for each device of the policy, in the order of a worker's ports.
pub(crate) struct Steering(Mutex<Vec<One>>);

struct One {
    /// As messages name it, by its first interface: `interface lan`.
    name: String,
    steer: Steer,
    /// The policy's interfaces on the device.
    interfaces: Vec<Own>,
}

/// An interface as its device's program knows it.
struct Own {
    id: InterfaceId,
    vlan: u16,
    told: Managed,
}

impl Steering {
    /// Loads the programs; nothing is attached yet.
    ///
    /// # Errors
    /// When a device does not exist or the kernel refuses a program.
    pub(crate) fn load(policy: &Policy, on_failure: config::OnFailure) -> anyhow::Result<Self> {
        let on_failure = match on_failure {
            config::OnFailure::Closed => steer::OnFailure::Closed,
            config::OnFailure::Open => steer::OnFailure::Open,
        };
        let load = |(device, interfaces): (&str, Vec<InterfaceId>)| {
            let name = format!("interface {}", policy.interfaces[usize::from(interfaces[0])].name);
            let mut steer = Steer::load(device, on_failure).with_context(|| name.clone())?;
            let told = Managed { mac: steer.link().mac, accept_dhcp: false };
            let own = |id: InterfaceId| Own { id, vlan: policy.interfaces[usize::from(id)].vlan, told };
            let interfaces: Vec<Own> = interfaces.into_iter().map(own).collect();
            let mut set = || {
                steer.set_interface(0, None)?;
                interfaces.iter().try_for_each(|i| steer.set_interface(i.vlan, Some(i.told)))
            };
            set().with_context(|| name.clone())?;
            Ok(One { name, steer, interfaces })
        };
        Ok(Steering(Mutex::new(policy.devices().into_iter().map(load).collect::<anyhow::Result<_>>()?)))
    }

    fn all(&self) -> MutexGuard<'_, Vec<One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each device's number of receive queues.
    pub(crate) fn receive_queues(&self) -> Vec<(String, u32)> {
        self.all().iter().map(|o| (o.steer.link().name.clone(), o.steer.link().rx_queues)).collect()
    }

    /// The kernel's index of each interface's device.
    pub(crate) fn indices(&self) -> Vec<u32> {
        self.by_interface(|o, _| o.steer.link().index)
    }

    /// How frames are handed to the kernel on each interface; final once the programs are attached.
    pub(crate) fn ingress(&self) -> Vec<Ingress> {
        self.by_interface(|o, i| o.steer.ingress(i.vlan))
    }

    /// What `get` says of each interface, in the policy's order.
    fn by_interface<T>(&self, get: impl Fn(&One, &Own) -> T) -> Vec<T> {
        let all = self.all();
        let mut found: Vec<_> = all.iter().flat_map(|o| o.interfaces.iter().map(|i| (i.id, get(o, i)))).collect();
        found.sort_by_key(|(id, _)| *id);
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// Gives a queue's frames to the worker's ports, one for each device.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    pub(crate) fn set_sockets(&self, queue: u32, ports: &[XskPort]) -> anyhow::Result<()> {
        for (o, p) in self.all().iter_mut().zip(ports) {
            o.steer.set_socket(queue, p).with_context(|| o.name.clone())?;
        }
        Ok(())
    }

    /// Tells the programs the host's addresses, and what has changed about their own interfaces.
    ///
    /// # Errors
    /// When there are too many addresses or the kernel refuses.
    pub(crate) fn update(&self, interfaces: &[Interface], local: &LocalAddresses) -> anyhow::Result<()> {
        let kind = |translated: bool| if translated { LocalKind::Translated } else { LocalKind::Host };
        let addresses: Vec<_> = local.iter().map(|(a, t)| (*a, kind(*t))).collect();
        for o in self.all().iter_mut() {
            let One { name, steer, interfaces: own } = o;
            let set = || {
                steer.replace_locals(&addresses)?;
                for own in own {
                    let i = &interfaces[usize::from(own.id)];
                    // A VLAN device that is yet to be made takes the address of its device.
                    let exists = i.ifindex != 0 && i.device == steer.link().index;
                    let now =
                        Managed { mac: if exists { i.mac.0 } else { own.told.mac }, accept_dhcp: i.v4.is_empty() };
                    if now != own.told {
                        steer.set_interface(own.vlan, Some(now))?;
                        own.told = now;
                    }
                }
                Ok::<_, steer::SteerError>(())
            };
            set().with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// Attaches all programs. Returns the mode of each, with the first interface on its device.
    ///
    /// # Errors
    /// When the kernel refuses one; those attached before it stay so until [`Steering::detach`].
    pub(crate) fn attach(&self, mode: config::IoMode) -> anyhow::Result<Vec<(InterfaceId, &'static str)>> {
        let mode = match mode {
            config::IoMode::Auto => IoMode::Auto,
            config::IoMode::ZeroCopy => IoMode::ZeroCopy,
            config::IoMode::Copy => IoMode::Copy,
            config::IoMode::Generic => IoMode::Generic,
        };
        let attach = |o: &mut One| {
            let device = o.steer.link().name.clone();
            let a = o.steer.attach(mode).with_context(|| o.name.clone())?;
            if a.replaced {
                tracing::info!("{device}: replaced the XDP program of a sluice that did not end cleanly");
            }
            if let Some(refused) = a.native_refused {
                tracing::warn!("{device}: generic XDP, because the kernel refuses the native mode: {refused}");
            }
            let mode = match a.mode {
                dataplane::io::link::XdpMode::Native => "native",
                dataplane::io::link::XdpMode::Generic => "generic",
                dataplane::io::link::XdpMode::Offloaded => "offloaded",
            };
            Ok((o.interfaces[0].id, mode))
        };
        self.all().iter_mut().map(attach).collect()
    }

    /// Has workers see packets to the host that look like those of redirected connections.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn set_redirected(&self, program: &HostProgram) -> anyhow::Result<()> {
        self.all().iter_mut().try_for_each(|o| o.steer.set_redirected(program).with_context(|| o.name.clone()))
    }

    /// Gives a sign of life.
    pub(crate) fn heartbeat(&self) {
        for o in self.all().iter_mut() {
            if let Err(e) = o.steer.heartbeat(crate::sys::monotonic_ns()) {
                tracing::warn!("{}: {e}", o.name);
            }
        }
    }

    /// What each program has done so far, where the kernel says it, with the first interface on its device.
    pub(crate) fn counters(&self) -> Vec<(InterfaceId, SteerCounters)> {
        self.all().iter().filter_map(|o| Some((o.interfaces[0].id, o.steer.counters().ok()?))).collect()
    }

    /// Takes the programs off their devices.
    pub(crate) fn detach(&self) {
        for o in self.all().iter_mut() {
            if let Err(e) = o.steer.detach() {
                tracing::error!("{}: {e}", o.name);
            }
        }
    }
}
