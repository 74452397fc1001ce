//! Packets refused for their IP options.

use super::core::Core;
use super::error;
use super::exit::check_source;
use super::family::Packet;
use super::reason::DropReason;
use crate::io::{Frame, Port};
use crate::packet::icmp::Problem;
use crate::packet::transport::Transport;
use crate::packet::{ETHERNET, Ip};
use crate::policy::InterfaceId;

/// Drops a packet for its options, and tells its sender when their lengths do not add up (RFC 1812 5.2.4.1
/// and 4.3.3.5). A packet for the gateway host goes to its kernel, which does the same by its own settings.
#[cold]
pub(super) fn refuse<P: Port, A: Ip>(w: &mut Core<P>, f: Frame, interface: InterfaceId) -> Result<(), DropReason> {
    let b = w.pool.bytes(f);
    let headers = A::parse_quote(b, ETHERNET, b.len()).ok_or(DropReason::Malformed)?;
    if w.snapshot.fib.is_local(headers.dst) && !w.is_dry() {
        w.punt(interface, f);
        return Ok(());
    }
    if headers.dst.is_martian_destination() {
        return Err(DropReason::MartianDestination);
    }
    let problem = A::faulty_option(b, &headers).map(Problem::Parameter);
    let p = Packet::new(f, interface, headers, Transport::Invalid);
    check_source(&w.snapshot, p.headers.src, p.interface)?;
    if let Some(problem) = problem {
        error::answer(w, &p, problem);
    }
    Err(DropReason::IpOption)
}
