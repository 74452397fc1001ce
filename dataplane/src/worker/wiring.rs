//! Which port the frames of an interface pass through, and with which VLAN tag.
//!
//! A worker has a port for each device. An interface stands for a device's untagged frames or for those of one
//! VLAN. A tag is taken off before anything else looks at the frame and put on when it is sent, so that nothing
//! in between knows of tags.

use super::core::Outlet;
use crate::io::{Frame, FramePool, Port};
use crate::packet::vlan;
use crate::policy::{InterfaceId, Policy};

/// Stands for no interface.
const NONE: InterfaceId = InterfaceId::MAX;
/// Number of VLAN ids.
const VLANS: usize = 4096;

/// Whose a port's frames are.
#[derive(Debug)]
pub(super) struct Inlet {
    /// The device's first interface, for which what concerns the whole port is counted.
    pub(super) first: InterfaceId,
    /// The interface of untagged frames, or [`NONE`].
    untagged: InterfaceId,
    /// Where there are VLANs: the interface of each, or [`NONE`].
    tagged: Option<Box<[InterfaceId; VLANS]>>,
}

/// Where the frames of each of a policy's interfaces leave, and whose those of each port are.
pub(super) fn of(policy: &Policy) -> (Vec<Outlet>, Vec<Inlet>) {
    let mut outlets = vec![Outlet::default(); policy.interfaces.len()];
    let mut inlets = Vec::new();
    for ((_, interfaces), port) in policy.devices().iter().zip(0..) {
        let mut inlet = Inlet { first: interfaces[0], untagged: NONE, tagged: None };
        for id in interfaces {
            let vlan = policy.interfaces[usize::from(*id)].vlan;
            outlets[usize::from(*id)] = Outlet::new(port, vlan);
            match vlan {
                0 => inlet.untagged = *id,
                _ => inlet.tagged.get_or_insert_with(|| Box::new([NONE; VLANS]))[usize::from(vlan)] = *id,
            }
        }
        inlets.push(inlet);
    }
    (outlets, inlets)
}

impl Inlet {
    /// The interface of all of the port's frames; `None` where there are VLANs.
    #[inline]
    pub(super) fn only_interface(&self) -> Option<InterfaceId> {
        self.tagged.is_none().then_some(self.untagged)
    }

    /// The interface of a received frame, and the frame without its tag; `None` for one that is no interface's.
    pub(super) fn receive(&self, pool: &mut FramePool, f: Frame) -> Option<(InterfaceId, Frame)> {
        let Some(id) = vlan::id(pool.bytes(f)) else {
            return (self.untagged != NONE).then_some((self.untagged, f));
        };
        let interface = self.tagged.as_ref().map_or(NONE, |t| t[usize::from(id)]);
        if interface == NONE {
            return None;
        }
        vlan::take_off(pool.bytes_mut(f));
        Some((interface, Frame { at: f.at + u32::from(vlan::TAG), len: f.len - vlan::TAG }))
    }
}

/// Queues a frame with a VLAN tag, which takes the place of some headroom.
// Cold as the compiler sees it: other frames need the registers.
#[cold]
pub(super) fn send_tagged<P: Port>(port: &mut P, pool: &mut FramePool, f: Frame, vlan: u16) -> Result<(), Frame> {
    if pool.offset(f) < vlan::TAG {
        return Err(f);
    }
    let tagged = Frame { at: f.at - u32::from(vlan::TAG), len: f.len + vlan::TAG };
    vlan::put_on(pool.bytes_mut(tagged), vlan);
    port.send(pool, tagged)
}
