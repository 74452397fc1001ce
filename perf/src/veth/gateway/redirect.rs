//! Forwarding by `bpf/redirect.bpf.c`, in the kernel.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{Xdp, XdpMode};
use dataplane::io::link::Link;

use crate::veth::lab::{self, CLIENT_MAC, INSIDE_PORT, Lab, OUTSIDE_PORT, SERVER_MAC};

/// `struct way` of redirect.bpf.c, in bytes.
const WAY: usize = 20;

/// The attached program; detached when dropped.
pub(super) struct Redirect {
    _ebpf: Ebpf,
}

impl Redirect {
    /// Forwards between the gateway's two interfaces.
    ///
    /// # Errors
    /// When the program cannot be loaded or attached.
    pub(super) fn attach(lab: &Lab) -> Result<Self> {
        lab::inside(&lab.gateway(), || {
            let mut ebpf = Ebpf::load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")))?;
            let mut both: Array<_, [[u8; WAY]; 2]> = Array::try_from(ebpf.map_mut("both").context("no such map")?)?;
            let link = |name| Link::find(name).with_context(|| format!("no interface {name}"));
            let (inside, outside) = (link(INSIDE_PORT)?, link(OUTSIDE_PORT)?);
            let all = [(&inside, &outside, SERVER_MAC), (&outside, &inside, CLIENT_MAC)];
            let ways = all.map(|(from, to, peer)| {
                let mut way = [0; WAY];
                way[..4].copy_from_slice(&from.index.to_ne_bytes());
                way[4..8].copy_from_slice(&to.index.to_ne_bytes());
                way[8..14].copy_from_slice(&peer.0);
                way[14..].copy_from_slice(&to.mac);
                way
            });
            both.set(0, ways, 0)?;
            let program: &mut Xdp = ebpf.program_mut("redirect").context("no such program")?.try_into()?;
            program.load()?;
            for port in [INSIDE_PORT, OUTSIDE_PORT] {
                program.attach(port, XdpMode::Driver).with_context(|| format!("attaching XDP to {port}"))?;
            }
            Ok(Redirect { _ebpf: ebpf })
        })
    }
}
