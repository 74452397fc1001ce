//! Which port the frames of an interface pass through, and with which VLAN tag.
//!
//! A worker has a port for each device. An interface stands for a device's untagged frames or for those of one
//! VLAN. A tag is taken off before anything else looks at the frame and put on by [`Core::transmit`], so that
//! nothing in between knows of tags.

use super::core::Core;
use crate::io::{Frame, FramePool, Port};
use crate::packet::vlan;
use crate::policy::{InterfaceId, Policy};

/// Stands for no interface.
const NONE: InterfaceId = InterfaceId::MAX;
/// Number of VLAN ids.
const VLANS: usize = 4096;

/// The interfaces' ports and VLANs, both ways.
#[derive(Debug)]
pub(super) struct Wiring {
    /// By interface.
    outlets: Vec<Outlet>,
    /// By port.
    inlets: Vec<Inlet>,
}

/// Where an interface's frames leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlet {
    pub(super) port: u16,
    /// 0 for untagged frames.
    pub(super) vlan: u16,
}

/// Whose a port's frames are.
#[derive(Debug)]
struct Inlet {
    /// The device's first interface, for which what concerns the whole port is counted.
    first: InterfaceId,
    /// The interface of untagged frames, or [`NONE`].
    untagged: InterfaceId,
    /// Where there are VLANs: the interface of each, or [`NONE`].
    tagged: Option<Box<[InterfaceId; VLANS]>>,
}

impl Wiring {
    pub(super) fn new(policy: &Policy) -> Self {
        let mut outlets = vec![Outlet { port: 0, vlan: 0 }; policy.interfaces.len()];
        let mut inlets = Vec::new();
        for ((_, interfaces), port) in policy.devices().iter().zip(0..) {
            let mut inlet = Inlet { first: interfaces[0], untagged: NONE, tagged: None };
            for id in interfaces {
                let vlan = policy.interfaces[usize::from(*id)].vlan;
                outlets[usize::from(*id)] = Outlet { port, vlan };
                match vlan {
                    0 => inlet.untagged = *id,
                    _ => inlet.tagged.get_or_insert_with(|| Box::new([NONE; VLANS]))[usize::from(vlan)] = *id,
                }
            }
            inlets.push(inlet);
        }
        Wiring { outlets, inlets }
    }

    #[inline]
    pub(super) fn outlet(&self, interface: InterfaceId) -> Outlet {
        self.outlets[usize::from(interface)]
    }

    /// The interface of all of a port's frames; `None` where there are VLANs.
    #[inline]
    pub(super) fn only_interface(&self, port: usize) -> Option<InterfaceId> {
        let inlet = self.inlets.get(port)?;
        inlet.tagged.is_none().then_some(inlet.untagged)
    }

    /// The interface for which what concerns the whole port is counted.
    pub(super) fn first_interface(&self, port: usize) -> Option<InterfaceId> {
        Some(self.inlets.get(port)?.first)
    }

    /// The interface of a frame that a port has received, and the frame without its tag; the frame itself when it
    /// is no interface's.
    pub(super) fn receive(&self, pool: &mut FramePool, port: usize, f: Frame) -> Result<(InterfaceId, Frame), Frame> {
        let inlet = self.inlets.get(port).ok_or(f)?;
        let Some(id) = vlan::id(pool.bytes(f)) else {
            return if inlet.untagged == NONE { Err(f) } else { Ok((inlet.untagged, f)) };
        };
        match inlet.tagged.as_ref().map(|t| t[usize::from(id)]) {
            None | Some(NONE) => Err(f),
            Some(interface) => {
                vlan::take_off(pool.bytes_mut(f));
                Ok((interface, Frame { at: f.at + u32::from(vlan::TAG), len: f.len - vlan::TAG }))
            }
        }
    }
}

impl<P: Port> Core<P> {
    /// Queues a complete frame that leaves with a VLAN tag, which takes the place of some headroom.
    #[inline(never)]
    pub(super) fn send_tagged(&mut self, outlet: Outlet, f: Frame) -> Result<(), Frame> {
        if self.pool.offset(f) < vlan::TAG {
            return Err(f);
        }
        let tagged = Frame { at: f.at - u32::from(vlan::TAG), len: f.len + vlan::TAG };
        vlan::put_on(self.pool.bytes_mut(tagged), outlet.vlan);
        self.ports[usize::from(outlet.port)].send(&mut self.pool, tagged)
    }
}
