//! TCP connection tracking with the semantics of Linux 6.18 (`nf_conntrack_proto_tcp.c`).
//!
//! A segment passes three gates. The state table (`states`) says where a segment of its kind leads from
//! the connection's state, or that it is to be let past unread, or refused. A few cells need more than
//! the table knows (SYN on a closed connection, RST, answers to a SYN let past) and are settled in
//! [`TcpTrack::track`]. Then the window check (`window`) decides whether sequence and acknowledgement
//! numbers can belong to the connection. Only what passes all three moves state and timeout.
//!
//! The tracker sits between the ends: what it saw may never have arrived. Where it may be the one that
//! is wrong, it lets the segment pass without believing it, notes what it needs to recognise the
//! answer, and the ends sort it out.
//!
//! Helpers that change payload lengths move sequence numbers apart: pass [`TcpSegment`] with the
//! sequence number as the sender wrote it, and acknowledgement number (and SACK edges) shifted back
//! into the numbering of the side they acknowledge.

mod host;
mod idle;
mod options;
mod plain;
mod states;
#[cfg(test)]
mod tests;
mod window;

use super::{Direction, Status, Timeouts};
pub use host::{HostTcp, HostTcpOutcome};
pub use idle::{TcpTimeout, TcpTimeouts};
use options::SynOptions;
pub use plain::PlainSegment;
pub use states::TcpState;
use states::{Kind, Next};
use window::{Fit, Window};

/// Bits of the TCP flags byte (RFC 9293 section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;

    /// Their names, as nft writes them.
    pub const NAMES: [(&str, u8); 8] = [
        ("fin", FIN),
        ("syn", SYN),
        ("rst", RST),
        ("psh", PSH),
        ("ack", ACK),
        ("urg", URG),
        ("ece", ECE),
        ("cwr", CWR),
    ];
}

use flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

/// Whether netfilter takes this combination of flags for a TCP segment at all. PSH, ECE and CWR go with
/// everything; what remains must be a SYN, a SYN/ACK, a FIN/ACK, an ACK (URG allowed on all but the
/// SYN/ACK) or a RST with or without ACK.
#[inline]
pub fn valid_flags(flags: u8) -> bool {
    const VALID: u64 = {
        let mut set = 0;
        let mut i = 0;
        let combinations = [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];
        while i < combinations.len() {
            set |= 1 << combinations[i];
            i += 1;
        }
        set
    };
    VALID >> (flags & !(PSH | ECE | CWR)) & 1 == 1
}

/// What can be set about TCP tracking, the `net.netfilter.nf_conntrack_tcp_*` switches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSettings {
    /// Take up connections from the middle, when the first segment seen is a bare ACK.
    pub loose: bool,
    /// Let segments outside the window pass, except a RST older than what its receiver has acknowledged.
    pub liberal: bool,
    /// Believe a RST older than what its receiver has acknowledged already.
    pub ignore_invalid_rst: bool,
    /// So many repetitions of one segment lower the timeout to [`Timeouts::tcp_max_retrans`].
    pub max_retrans: u8,
}

impl Default for TcpSettings {
    fn default() -> Self {
        TcpSettings { loose: true, liberal: false, ignore_invalid_rst: false, max_retrans: 3 }
    }
}

/// The fields of one segment, in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment<'a> {
    /// Flags byte, bits as in [`flags`].
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without [`flags::ACK`].
    pub ack: u32,
    /// Window as in the header, not scaled.
    pub window: u16,
    /// Bytes of data.
    pub payload: u32,
    /// The options between header and data; empty when the data offset is 5.
    pub options: &'a [u8],
}

impl TcpSegment<'_> {
    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The sequence number after the segment; SYN and FIN count one each.
    #[inline]
    fn end(&self) -> u32 {
        self.seq
            .wrapping_add(self.payload)
            .wrapping_add(u32::from(self.has(SYN)))
            .wrapping_add(u32::from(self.has(FIN)))
    }
}

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpOutcome {
    /// It belongs to the connection.
    Accept {
        /// Seconds the connection may now stay idle.
        timeout: u32,
        /// Set [`Status::ASSURED`] now.
        assured: bool,
        /// Remove the connection once this segment has left: it was refused before any answer.
        kill: bool,
    },
    /// It passes, but moves neither deadline nor counters: the tracker does not trust it, or it repeats
    /// a SYN nobody has answered. In reply direction it still counts as a reply seen.
    Ignore,
    /// It is INVALID; the connection stays as it is.
    Invalid,
    /// It is INVALID like the one before from the other side, and both wanted to close: tracker and ends
    /// have lost each other. Where at least [`TcpOutcome::CUT_FROM`] seconds and more than `timeout`
    /// remain, cut the connection's idle time to `timeout` seconds, else leave it.
    InvalidClose {
        /// Seconds the connection may stay idle at most.
        timeout: u32,
    },
    /// It opens a new connection on the ports of a closed one: remove this connection and handle the
    /// segment as the first of another.
    Reopen,
}

impl TcpOutcome {
    /// [`TcpOutcome::InvalidClose`] leaves connections alone that have less than this many seconds left.
    pub const CUT_FROM: u32 = 120;
}

/// The last segment that was noted, for what depends on two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    seq: u32,
    ack: u32,
    end: u32,
    window: u16,
    dir: Direction,
    kind: Kind,
}

/// TCP state of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TcpTrack {
    windows: [Window; 2],
    options: [SynOptions; 2],
    last: Last,
    /// Repetitions of the last ACK segment.
    retransmits: u8,
    /// What a SYN of the original side announced that was let past unread, in case it is answered;
    /// also holds the marks that concern the connection as a whole.
    held: SynOptions,
    state: TcpState,
}

// The table's connection leaves 56 bytes for all protocols, discriminant included: it must fit into a
// niche of this type.
const _: () = assert!(size_of::<TcpTrack>() == 56 && align_of::<TcpTrack>() == 4);
const _: () = assert!(size_of::<Option<TcpTrack>>() == size_of::<TcpTrack>());

/// Where a segment leads, as far as state table and special cases know.
enum Lead {
    /// To this state, if the numbers fit the windows.
    Check(TcpState),
    /// To this state: it answers a segment that was let past, and no window is known to hold it against.
    Believe(TcpState),
    /// No further.
    Done(TcpOutcome),
}

impl TcpTrack {
    /// Sequence and acknowledgement number that a direction's next segment has when nothing is lost.
    pub fn next(&self, d: Direction) -> (u32, u32) {
        (self.windows[d as usize].end, self.windows[d.other() as usize].end)
    }

    /// The state before a connection's first segment is tracked; pass that segment to
    /// [`TcpTrack::track`] next, in original direction. `None` when it cannot start a connection: it is
    /// INVALID.
    pub fn new(seg: &TcpSegment, settings: &TcpSettings) -> Option<TcpTrack> {
        let end = seg.end();
        let max_window = u32::from(seg.window.max(1));
        let (first, options) = match states::next(Direction::Original, Kind::of(seg.flags), TcpState::None) {
            Next::To(TcpState::SynSent) => {
                let mut options = SynOptions::default();
                options.read(seg.options);
                (Window { end, max_end: end, max_window, max_ack: 0 }, [options, SynOptions::default()])
            }
            // What was negotiated is lost: allow SACK, and do not judge by windows whose scale is unknown.
            Next::To(_) if settings.loose => {
                let max_end = end.wrapping_add(max_window);
                (Window { end, max_end, max_window, max_ack: 0 }, [SynOptions::picked_up(); 2])
            }
            _ => return None,
        };
        Some(TcpTrack {
            windows: [first, Window::default()],
            options,
            last: Last { seq: 0, ack: 0, end: 0, window: 0, dir: Direction::Original, kind: Kind::Other },
            retransmits: 0,
            held: SynOptions::default(),
            state: TcpState::None,
        })
    }

    /// The state of the connection.
    #[inline]
    pub fn state(&self) -> TcpState {
        self.state
    }

    /// Tracks a segment. `status` is the connection's as before this segment: [`Status::SEEN_REPLY`] is
    /// not yet set for its first reply.
    #[inline]
    pub fn track(
        &mut self,
        dir: Direction,
        seg: &TcpSegment,
        settings: &TcpSettings,
        timeouts: &Timeouts,
        status: Status,
    ) -> TcpOutcome {
        let kind = Kind::of(seg.flags);
        let from = self.state;
        // Nearly all segments; what the table says of them, without looking.
        let lead = if kind == Kind::Ack && from == TcpState::Established {
            Lead::Check(TcpState::Established)
        } else {
            self.lead(dir, kind, seg, settings, status)
        };
        let to = match lead {
            Lead::Check(to) => match self.fit(dir, kind, seg, settings.liberal) {
                Fit::Inside => to,
                Fit::Ignore => return TcpOutcome::Ignore,
                Fit::Outside => return self.outside(dir, kind, timeouts, status),
            },
            Lead::Believe(to) => to,
            Lead::Done(outcome) => return outcome,
        };

        self.last.kind = kind;
        self.last.dir = dir;
        self.state = to;
        if from != to && to == TcpState::FinWait {
            self.options[dir as usize].insert(SynOptions::CLOSES);
        }
        let mut timeout = self.idle().timeout(settings, timeouts);
        let mut assured = false;
        if !status.contains(Status::SEEN_REPLY) {
            if kind == Kind::Rst {
                return TcpOutcome::Accept { timeout: timeouts.tcp_refused, assured, kill: timeouts.tcp_refused == 0 };
            }
            // A client that reuses its port must not keep the entry, and its translation, alive.
            if kind == Kind::Syn && from == TcpState::SynSent {
                return TcpOutcome::Ignore;
            }
            if to == TcpState::Established {
                timeout = timeout.min(timeouts.tcp_unacknowledged);
            }
        } else if !status.contains(Status::ASSURED) && to == TcpState::Established {
            assured = matches!(from, TcpState::SynRecv | TcpState::Established);
        }
        TcpOutcome::Accept { timeout, assured, kill: false }
    }

    /// Whether the connection is on its way out: its ports may serve another one already.
    pub fn is_closing(&self) -> bool {
        use TcpState::{Close, CloseWait, FinWait, LastAck, TimeWait};
        matches!(self.state, FinWait | CloseWait | LastAck | TimeWait | Close)
    }

    /// Looks the segment up in the state table, and settles the cells that need more than the table knows.
    fn lead(&mut self, dir: Direction, kind: Kind, seg: &TcpSegment, settings: &TcpSettings, status: Status) -> Lead {
        let from = self.state;
        match states::next(dir, kind, from) {
            Next::Invalid => Lead::Done(TcpOutcome::Invalid),
            Next::Ignore if self.answers_held_syn(dir, kind, seg) => {
                self.adopt_held_syn(dir);
                Lead::Check(TcpState::SynRecv)
            }
            Next::Ignore => self.let_past(dir, kind, seg),
            Next::To(TcpState::SynSent) if matches!(from, TcpState::TimeWait | TcpState::Close) => {
                if self.may_reopen(dir) { Lead::Done(TcpOutcome::Reopen) } else { self.let_past(dir, kind, seg) }
            }
            Next::To(TcpState::SynSent2) => {
                self.held.insert(SynOptions::SIMULTANEOUS);
                Lead::Check(TcpState::SynSent2)
            }
            // The table cannot tell the two halves of a simultaneous open apart.
            Next::To(TcpState::SynRecv)
                if dir == Direction::Reply && kind == Kind::Ack && self.held.has(SynOptions::SIMULTANEOUS) =>
            {
                Lead::Check(TcpState::Established)
            }
            Next::To(TcpState::TimeWait) if self.is_challenge(dir, kind) => {
                self.held.remove(SynOptions::CHALLENGE);
                Lead::Done(TcpOutcome::Ignore)
            }
            Next::To(TcpState::Close) if kind == Kind::Rst => self.reset(dir, seg, settings, status),
            Next::To(to) => Lead::Check(to),
        }
    }

    /// Whether this is the SYN/ACK to a SYN that was let past: the ends agree, the tracker was wrong.
    #[cold]
    fn answers_held_syn(&self, dir: Direction, kind: Kind, seg: &TcpSegment) -> bool {
        kind == Kind::SynAck && self.last.kind == Kind::Syn && self.last.dir != dir && seg.ack == self.last.end
    }

    /// Starts over from the SYN that was let past; `dir` is the direction of its answer.
    #[cold]
    fn adopt_held_syn(&mut self, dir: Direction) {
        let syn = dir.other() as usize;
        self.windows[syn] = Window {
            end: self.last.end,
            max_end: self.last.end,
            max_window: u32::from(self.last.window.max(1)),
            max_ack: 0,
        };
        self.held.remove(SynOptions::CHALLENGE);
        self.options[syn] = self.held;
        self.windows[dir as usize] = Window::default();
        self.options[dir as usize].forget();
    }

    /// Whether a SYN in this direction may open a new connection on the ports of this closed one: an
    /// end closed it in order, or the sender itself has just reset it.
    #[cold]
    fn may_reopen(&self, dir: Direction) -> bool {
        self.options[0].has(SynOptions::CLOSES)
            || self.options[1].has(SynOptions::CLOSES)
            || (self.last.dir == dir && self.last.kind == Kind::Rst)
    }

    /// Lets a segment pass that the connection's state has no place for, and notes what its answer
    /// must fit.
    #[cold]
    fn let_past(&mut self, dir: Direction, kind: Kind, seg: &TcpSegment) -> Lead {
        let ack = if self.state == TcpState::SynSent && kind == Kind::Ack && dir == Direction::Reply {
            // The server answers the SYN from an older connection's state; the client's RST will have this
            // sequence number.
            seg.ack
        } else {
            self.last.ack
        };
        self.last = Last { seq: seg.seq, ack, end: seg.end(), window: seg.window, dir, kind };
        if kind == Kind::Syn && dir == Direction::Original {
            self.held = SynOptions::default();
            self.held.read(seg.options);
            // In LAST_ACK the ACK that challenges this SYN would pass for the one that ends the connection.
            if self.state == TcpState::LastAck {
                self.held.insert(SynOptions::CHALLENGE);
            }
        }
        Lead::Done(TcpOutcome::Ignore)
    }

    /// Whether this ACK challenges a SYN that was let past (RFC 5961 section 4).
    #[cold]
    fn is_challenge(&self, dir: Direction, kind: Kind) -> bool {
        self.state == TcpState::LastAck
            && kind == Kind::Ack
            && self.last.dir != dir
            && self.last.kind == Kind::Syn
            && self.held.has(SynOptions::CHALLENGE)
    }

    /// Judges a RST before the window does.
    #[cold]
    fn reset(&self, dir: Direction, seg: &TcpSegment, settings: &TcpSettings, status: Status) -> Lead {
        // The ports may have been reused and everything noted be out of date: it cannot do much harm now.
        if self.is_closing() {
            return Lead::Believe(TcpState::Close);
        }
        let mut to = TcpState::Close;
        let assured = status.contains(Status::ASSURED);
        let established = self.state == TcpState::Established && assured;
        let receiver = dir.other() as usize;
        // After a SYN that was let past, the receiver's acknowledgements tell nothing.
        if self.options[receiver].has(SynOptions::ACKED) && self.last.kind != Kind::Syn {
            let expected = self.windows[receiver].max_ack;
            // Sequence number 0 before the connection stands: refuses a SYN that was let past earlier.
            if seg.seq == 0 && !established {
                return Lead::Check(to);
            }
            if window::before(seg.seq, expected) && !settings.ignore_invalid_rst {
                return Lead::Done(TcpOutcome::Invalid);
            }
            let follows_last = self.last.kind == Kind::Ack && self.last.dir == dir && seg.seq == self.last.end;
            if !established || seg.seq == expected || follows_last {
                return Lead::Check(to);
            }
            // Inside the window but not the very next byte: the receiver will not believe it but
            // challenge it (RFC 5961 section 3), and a blind attacker must not close our entry.
            to = self.state;
        }
        let after_syn = status.contains(Status::SEEN_REPLY) && self.last.kind == Kind::Syn && self.last.dir != dir;
        let after_ack = !assured && self.last.kind == Kind::Ack;
        if (after_syn || after_ack) && seg.ack == self.last.end {
            return Lead::Believe(to);
        }
        // The client refuses the challenge that its SYN met.
        let refuses_challenge =
            self.state == TcpState::SynSent && self.last.kind == Kind::Ack && seg.seq == self.last.ack;
        if refuses_challenge { Lead::Believe(to) } else { Lead::Check(to) }
    }

    /// What follows from a segment outside the window. Attempts to close are noted: when both sides
    /// make one, the connection is most likely over and the tracker missed something.
    #[cold]
    fn outside(&mut self, dir: Direction, kind: Kind, timeouts: &Timeouts, status: Status) -> TcpOutcome {
        if !status.contains(Status::ASSURED) || !matches!(kind, Kind::Fin | Kind::Rst) {
            return TcpOutcome::Invalid;
        }
        if self.last.dir != dir && matches!(self.last.kind, Kind::Fin | Kind::Rst) {
            return TcpOutcome::InvalidClose { timeout: timeouts.tcp_unacknowledged };
        }
        self.last.kind = kind;
        self.last.dir = dir;
        TcpOutcome::Invalid
    }
}
