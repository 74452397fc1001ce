//! What a worker answers itself: ICMP errors and TCP resets.

use super::account::{Answer, Note};
use super::core::Core;
use super::family::Packet;
use crate::io::{Frame, Port};
use crate::packet::icmp::{self, Problem};
use crate::packet::{Ip, protocol};
use crate::policy::Reject;

/// The most bytes an answer has.
const ROOM: u16 = 1300;

/// Sends an ICMP error about a packet, which must not have been translated yet, back to its sender.
pub(super) fn answer<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, problem: Problem) {
    if !icmp::may_answer(w.pool.bytes(p.frame), &p.headers) {
        return;
    }
    let Some(from) = w.snapshot.fib.source_address(p.interface, p.headers.src) else { return };
    w.note(|| Note::Answered(Answer::Icmp(problem)));
    if !w.is_dry() && w.may_send_icmp() {
        let h = p.headers;
        respond(w, p, |out, frame| Some(icmp::build_error(out, frame, &h, from, problem)));
        w.counters().icmp_sent.inc();
    }
}

/// Tells the sender of a packet that a rule discards it.
pub(super) fn reject<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, how: Reject) {
    let problem = match how {
        Reject::Closed | Reject::TcpReset if p.headers.proto == protocol::TCP && p.headers.fragment.is_none() => {
            let h = p.headers;
            w.note(|| Note::Answered(Answer::Reset));
            if w.is_dry() {
                return;
            }
            return respond(w, p, |out, frame| icmp::build_reset(out, frame, &h));
        }
        Reject::Closed | Reject::TcpReset | Reject::PortUnreachable => Problem::PortUnreachable,
        Reject::HostUnreachable => Problem::HostUnreachable,
        Reject::NoRoute => Problem::NoRoute,
        Reject::Prohibited => Problem::Prohibited,
    };
    answer(w, p, problem);
}

fn respond<P: Port, A: Ip>(w: &mut Core<P>, p: &Packet<A>, build: impl FnOnce(&mut [u8], &[u8]) -> Option<usize>) {
    let Some(empty) = w.pool.take() else { return };
    let full = Frame { len: ROOM.min(w.pool.capacity() as u16), ..empty };
    // The quoted frame is copied aside: the pool lends one packet at a time. Errors are rate-limited.
    let quoted = w.pool.bytes(p.frame).to_vec();
    match build(w.pool.bytes_mut(full), &quoted) {
        Some(len) => w.transmit(p.interface, Frame { len: len as u16, ..empty }),
        None => w.pool.give(empty),
    }
}
