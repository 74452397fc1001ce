//! Master connections: their packets go through a helper, which may announce another connection.

use std::collections::HashMap;

use ahash::RandomState;

use super::core::Core;
use super::family::{Member, Packet};
use super::reason::DropReason;
use crate::conntrack::{Connection, Direction, Expectation, ExpectedTarget, Live, Master, MasterFlow, Status};
use crate::helper::sequence::SequenceOffsets;
use crate::helper::{Announcement, Format, HelperKind, HelperState, Inspection, Opener, View, mangle};
use crate::io::{Frame, Port};
use crate::packet::{be32, protocol};

/// Ports tried for an announced connection before its announcement is dropped.
const ATTEMPTS: u16 = 64;

/// What a connection has beside its slot when a helper reads it.
#[derive(Debug)]
pub(super) struct Extension {
    pub(super) helper: HelperState,
    pub(super) offsets: SequenceOffsets,
}

impl Extension {
    pub(super) fn new(kind: HelperKind) -> Self {
        Extension { helper: HelperState::new(kind), offsets: SequenceOffsets::default() }
    }
}

/// The extensions of one family's connections, by slot.
pub(super) type Extensions = HashMap<u32, Extension, RandomState>;

/// Restores the numbers that a segment acknowledges to what their sender wrote, before it is tracked.
#[cold]
pub(super) fn restore<P: Port, A: Member>(
    w: &mut Core<P>,
    extensions: &Extensions,
    p: &Packet<A>,
    slot: u32,
    d: Direction,
) -> Result<(), DropReason> {
    let Some(e) = extensions.get(&slot).filter(|_| p.headers.proto == protocol::TCP) else { return Ok(()) };
    let segment = &mut w.pool.bytes_mut(p.frame)[usize::from(p.headers.l4)..usize::from(p.headers.end)];
    if segment[13] & crate::conntrack::tcp::flags::ACK != 0 && !e.offsets.restore(d, segment) {
        return Err(DropReason::Malformed);
    }
    Ok(())
}

/// Lets the helper read a packet that has been tracked and not been translated yet, expects what it
/// announces, and rewrites the announcement.
#[cold]
pub(super) fn read<P: Port, A: Member>(
    w: &mut Core<P>,
    extensions: &mut Extensions,
    p: &mut Packet<A>,
    mut c: Live<'_, A>,
    d: Direction,
) -> Result<(), DropReason> {
    // Nobody has written what a dry run's packet says.
    let Some(e) = extensions.get_mut(&c.slot()).filter(|_| !w.is_dry()) else { return Ok(()) };
    let frame = w.pool.bytes(p.frame);
    let seq = if c.proto == protocol::TCP { be32(frame, usize::from(p.headers.l4) + 4) } else { 0 };
    // What came in fragments and could not be put together is beyond reading; its connection goes on without it.
    let payload = mangle::payload_range(frame, &p.headers).filter(|r| p.later == 0 && !r.is_empty());
    if let Some(range) = payload {
        let (own, other) = (c.tuple(d), c.tuple(d.other()));
        let view = View {
            payload: &frame[range],
            seq,
            direction: d,
            established: c.status.contains(Status::SEEN_REPLY),
            speaker: own.src.ip(),
            speaker_port: own.sport,
            speaker_outside: other.dst.ip(),
        };
        match e.helper.inspect(&view) {
            Inspection::Nothing => {}
            Inspection::Drop => {
                w.counters().helpers[e.helper.kind() as usize].dropped.inc();
                return Err(DropReason::Helper);
            }
            Inspection::Announce(a) => {
                let kind = e.helper.kind();
                let told = expect(w, &a, kind, &c, d)?;
                if let Some((address, port)) = told {
                    let text = a.format.render(address, port).ok_or(DropReason::Helper)?;
                    let room = w.pool.room(p.frame);
                    let buffer = w.pool.bytes_mut(Frame { len: room as u16, ..p.frame });
                    let change = mangle::replace(buffer, &mut p.headers, a.range, text.as_bytes())
                        .map_err(|_| DropReason::Helper)?;
                    p.frame.len = p.headers.end;
                    w.counters().helpers[kind as usize].rewritten.inc();
                    e.offsets.record(d, seq, change);
                    if change != 0 {
                        c.status.insert(Status::SEQ_ADJUST);
                    }
                }
            }
        }
    }
    if c.proto == protocol::TCP {
        let segment = &mut w.pool.bytes_mut(p.frame)[usize::from(p.headers.l4)..usize::from(p.headers.end)];
        e.offsets.shift(d, segment);
    }
    Ok(())
}

/// Enters the expectation of an announced connection. Returns the address and port to tell the other end,
/// when they are not what the announcement says.
fn expect<P: Port, A: Member>(
    w: &Core<P>,
    a: &Announcement,
    helper: HelperKind,
    c: &Connection<A>,
    d: Direction,
) -> Result<Option<(std::net::IpAddr, u16)>, DropReason> {
    let master = Master { worker: w.id, hash: c.key(Direction::Original).hash(&w.keys) };
    let translated = c.status.intersects(Status::ANY_NAT);
    let (own, other) = (c.tuple(d), c.tuple(d.other()));
    let t = c.original();
    let master_flow = MasterFlow { source: (t.src.ip(), t.sport), destination: (t.dst.ip(), t.dport) };
    let properties = helper.properties();
    let refused = &w.counters().helpers[helper as usize].refused;
    w.shared.expectations.limit(master, properties.max_expected);
    let outside = if translated { other.dst.ip() } else { a.address };
    let expectation = |port: u16| Expectation {
        target: ExpectedTarget { proto: a.protocol, destination: outside, port },
        source: match a.opener {
            Opener::OtherEnd => Some(other.src.ip()),
            Opener::Anyone => None,
        },
        listener: (a.address, a.port),
        source_to: translated.then_some(own.dst.ip()).filter(|_| a.opener == Opener::OtherEnd),
        helper,
        master,
        master_flow,
        mark: c.mark,
        expires: w.now.after(properties.timeout),
    };
    if a.format == Format::Unwritten {
        // The packet's own source, as translated, is what the other end will send to.
        let port = if translated { other.dport } else { a.port };
        if !w.shared.expectations.insert(expectation(port), w.now) {
            refused.inc();
        }
        return Ok(None);
    }
    let attempts = if translated { ATTEMPTS } else { 1 };
    // The announced port first; others keep clear of well-known ports.
    let candidate = |i: u16| if i == 0 { a.port } else { (a.port.wrapping_add(i)).max(1024) };
    let port = (0..attempts).map(candidate).find(|p| w.shared.expectations.insert(expectation(*p), w.now)).ok_or_else(
        || {
            refused.inc();
            DropReason::Helper
        },
    )?;
    Ok(((outside, port) != (a.address, a.port)).then_some((outside, port)))
}
