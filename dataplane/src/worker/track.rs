//! Following a connection: what each packet does to its state and its deadline.

use super::core::Core;
use super::events::Before;
use super::family::{Member, Packet};
use crate::conntrack::sctp::{SctpOutcome, SctpState};
use crate::conntrack::tcp::{HostTcpOutcome, PlainSegment, TcpOutcome, TcpSegment, TcpTimeouts};
use crate::conntrack::{Connection, Direction, Live, Private, SctpTrack, Status, TcpTrack, Ticks, UdpTimeouts};
use crate::io::{Frame, FramePool, Port};
use crate::packet::{ETHERNET, Ip, protocol, transport, view};

/// Two seconds of traffic both ways make UDP a stream (netfilter's `stream_ts`).
const STREAM_AFTER_S: u32 = 2;

/// [`Connection::aside`] of a connection that begins.
#[inline]
pub(super) fn aside(now: Ticks, private: &Private) -> [u16; 2] {
    let from = if let Private::Udp(_) = private { now.after(STREAM_AFTER_S).0 } else { 0 };
    [from as u16, (from >> 16) as u16]
}

/// Why a packet does not pass although its connection is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stray {
    /// It does not fit the connection's state.
    Invalid,
    /// It begins the connection anew: the old one goes.
    Reopens,
}

/// Whether a packet belongs to a connection as it stands, and the deadline that the connection is to have.
type Followed = (Result<(), Stray>, Ticks);

/// The protocol state of a connection that this packet would begin; `None` when it cannot begin one.
pub(super) fn begin<P: Port, A: Ip>(w: &Core<P>, p: &Packet<A>) -> Option<Private> {
    let frame = w.pool.bytes(p.frame);
    let at = usize::from(p.headers.l4);
    match p.headers.proto {
        protocol::TCP => {
            let segment = segment(frame, p);
            TcpTrack::new(&segment, &w.snapshot.policy.tcp).map(Private::Tcp)
        }
        protocol::UDP | protocol::UDPLITE => Some(Private::Udp([0; 2])),
        protocol::SCTP => SctpTrack::new(&transport::sctp_packet(frame, &p.headers)).map(Private::Sctp),
        // Only requests begin something (netfilter's `valid_new`).
        protocol::ICMP if A::ICMP == protocol::ICMP => matches!(frame[at], 8 | 13 | 15 | 17).then_some(Private::Plain),
        protocol::ICMPV6 if A::ICMP == protocol::ICMPV6 => matches!(frame[at], 128 | 139).then_some(Private::Plain),
        _ => Some(Private::Plain),
    }
}

/// The TCP segment, which may continue in later fragments.
#[inline(always)]
fn segment<'a, A: Ip>(frame: &'a [u8], p: &Packet<A>) -> TcpSegment<'a> {
    let mut s = transport::tcp_segment(frame, &p.headers);
    s.payload += p.later;
    s
}

/// Lets a connection follow a packet: state, status, and the deadline it is to have, which the caller stores.
#[inline(always)]
pub(super) fn follow<P: Port, A: Ip>(w: &Core<P>, c: &mut Connection<A>, d: Direction, p: &Packet<A>) -> Followed {
    let t = w.snapshot.policy.timeouts(c.timeouts);
    let timeout = match &mut c.private {
        Private::Udp(_) => return (Ok(()), datagram(&w.udp, w.now, c, d)),
        Private::Tcp(track) => {
            let segment = segment(w.pool.bytes(p.frame), p);
            match track.track(d, &segment, &w.snapshot.policy.tcp, t, c.status) {
                TcpOutcome::Accept { timeout, assured, kill: false } => {
                    if assured {
                        c.status.insert(Status::ASSURED);
                    }
                    timeout
                }
                other => return unusual(w, c, d, other),
            }
        }
        _ => return follow_other(w, c, d, p),
    };
    seen(c, d);
    (Ok(()), w.now.after_timeout(timeout))
}

/// [`follow`] for UDP: with what comes both ways for some time, it is a stream, and stays one.
#[inline(always)]
pub(super) fn datagram<A: Ip>(timeouts: &UdpTimeouts, now: Ticks, c: &mut Connection<A>, d: Direction) -> Ticks {
    let timeouts = &timeouts[usize::from(c.timeouts)];
    if !c.status.contains(Status::ASSURED) && !matures(c, d, now) {
        return now.after_timeout_ms(timeouts.first);
    }
    now.after_timeout_ms(timeouts.stream)
}

/// Whether a UDP connection is a stream from this packet on.
#[inline]
fn matures<A: Ip>(c: &mut Connection<A>, d: Direction, now: Ticks) -> bool {
    let replied = c.status.contains(Status::SEEN_REPLY);
    seen(c, d);
    let stream = replied && c.stream_from().reached(now);
    if stream {
        c.status.insert(Status::ASSURED);
    }
    stream
}

/// What a TCP segment brings that is not accepted and nothing else.
#[cold]
fn unusual<P: Port, A: Ip>(w: &Core<P>, c: &mut Connection<A>, d: Direction, outcome: TcpOutcome) -> Followed {
    match outcome {
        TcpOutcome::Accept { assured, .. } => {
            if assured {
                c.status.insert(Status::ASSURED);
            }
            // It is found expired by the next packet or the next scan.
            (Ok(()), w.now)
        }
        TcpOutcome::Ignore => {
            seen(c, d);
            (Ok(()), c.deadline)
        }
        TcpOutcome::Invalid => (Err(Stray::Invalid), c.deadline),
        TcpOutcome::InvalidClose { timeout } => {
            let left = c.deadline.remaining_ms(w.now) / 1000;
            let cut = left >= TcpOutcome::CUT_FROM && left > timeout;
            (Err(Stray::Invalid), if cut { w.now.after_timeout(timeout) } else { c.deadline })
        }
        TcpOutcome::Reopen => (Err(Stray::Reopens), c.deadline),
    }
}

/// [`follow`] for protocols other than TCP and UDP.
fn follow_other<P: Port, A: Ip>(w: &Core<P>, c: &mut Connection<A>, d: Direction, p: &Packet<A>) -> Followed {
    let t = w.snapshot.policy.timeouts(c.timeouts);
    let replied = c.status.contains(Status::SEEN_REPLY);
    let timeout = match &mut c.private {
        Private::Sctp(track) => match track.track(d, &transport::sctp_packet(w.pool.bytes(p.frame), &p.headers), t) {
            SctpOutcome::Accept { timeout, assured } => {
                if assured {
                    c.status.insert(Status::ASSURED);
                }
                timeout
            }
            SctpOutcome::Ignore => {
                seen(c, d);
                return (Ok(()), c.deadline);
            }
            SctpOutcome::Invalid => return (Err(Stray::Invalid), c.deadline),
        },
        Private::HostTcp(track) => {
            // From outside nobody can answer for the host.
            if d == Direction::Reply {
                return (Err(Stray::Invalid), c.deadline);
            }
            let flags = w.pool.bytes(p.frame)[usize::from(p.headers.l4) + 13];
            match track.segment(flags, replied, t) {
                HostTcpOutcome::Accept(timeout) => {
                    if replied && track.is_established() {
                        c.status.insert(Status::ASSURED);
                    }
                    timeout
                }
                HostTcpOutcome::Reopen => return (Err(Stray::Reopens), c.deadline),
            }
        }
        _ => match c.proto {
            protocol::ICMP => t.icmp,
            protocol::ICMPV6 => t.icmpv6,
            protocol::GRE if replied => {
                c.status.insert(Status::ASSURED);
                t.gre_stream
            }
            protocol::GRE => t.gre,
            // Ends at the gateway host, or its tracker would follow it.
            protocol::SCTP => t.sctp[SctpState::Established as usize],
            _ => t.generic,
        },
    };
    seen(c, d);
    (Ok(()), w.now.after_timeout(timeout))
}

#[inline]
fn seen<A: Ip>(c: &mut Connection<A>, d: Direction) {
    // Replies come as often as not: no branch.
    c.status.insert(Status(Status::SEEN_REPLY.0 * d as u16));
}

/// Lets the packet's connection follow it and moves the deadline.
#[inline]
pub(super) fn packet<P: Port, A: Member>(
    w: &Core<P>,
    mut c: Live<'_, A>,
    p: &Packet<A>,
    d: Direction,
) -> Result<(), Stray> {
    if !w.listeners.is_empty() {
        return packet_watched(w, c, p, d);
    }
    let (followed, deadline) = follow(w, &mut c, d, p);
    c.refresh(deadline);
    followed
}

/// What nearly all segments of TCP are, read from a frame that ends with the packet.
#[inline(always)]
pub(super) fn plain_segment<A: Ip>(pool: &FramePool, frame: Frame) -> Option<PlainSegment> {
    let at = ETHERNET + A::HEADER;
    let beginning = |n: usize| pool.bytes(Frame { len: (at + n) as u16, ..frame });
    PlainSegment::read(view(beginning(20), at), u32::from(frame.len) - at as u32, || *view(beginning(24), at + 20))
}

/// The deadline after such a segment; `None`, and nothing is changed, where it takes a second look.
#[inline(always)]
pub(super) fn segment_of<A: Ip>(
    timeouts: &TcpTimeouts,
    now: Ticks,
    c: &mut Connection<A>,
    segment: &PlainSegment,
    d: Direction,
) -> Option<Ticks> {
    let Private::Tcp(track) = &mut c.private else { return None };
    let unacknowledged = track.track_plain(d, segment, c.status)?;
    Some(now.after_timeout_ms(timeouts[usize::from(c.timeouts)].ms(unacknowledged)))
}

/// [`packet`] while somebody listens to events.
#[cold]
fn packet_watched<P: Port, A: Member>(
    w: &Core<P>,
    mut c: Live<'_, A>,
    p: &Packet<A>,
    d: Direction,
) -> Result<(), Stray> {
    let before = Before::new(&*c);
    let (followed, deadline) = follow(w, &mut c, d, p);
    c.refresh(deadline);
    if !w.is_dry() {
        w.tell_change(&before, &*c);
    }
    followed
}
