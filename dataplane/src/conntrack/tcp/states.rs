//! The states of a connection and the table that leads from one to the next.

use super::flags::{ACK, FIN, RST, SYN};
use crate::conntrack::Direction;

/// State of a connection as seen from between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// Nothing seen yet.
    None,
    /// SYN seen.
    SynSent,
    /// SYN/ACK seen.
    SynRecv,
    /// ACK of the SYN/ACK seen, or picked up in the middle.
    Established,
    /// One FIN seen.
    FinWait,
    /// ACK seen after a FIN.
    CloseWait,
    /// FINs of both sides seen.
    LastAck,
    /// ACK seen after both FINs.
    TimeWait,
    /// RST seen.
    Close,
    /// SYNs of both sides seen.
    SynSent2,
}

impl TcpState {
    /// Number of states.
    pub const COUNT: usize = 10;

    /// The name as conntrack-tools prints it.
    pub fn label(self) -> &'static str {
        match self {
            TcpState::None => "NONE",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::Established => "ESTABLISHED",
            TcpState::FinWait => "FIN_WAIT",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Close => "CLOSE",
            TcpState::SynSent2 => "SYN_SENT2",
        }
    }
}

/// What a segment is to the state table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    Other,
}

impl Kind {
    /// RST says more than SYN, SYN more than FIN, FIN more than ACK.
    #[inline]
    pub(super) fn of(flags: u8) -> Kind {
        if flags & (RST | SYN | FIN | ACK) == ACK {
            Kind::Ack
        } else if flags & RST != 0 {
            Kind::Rst
        } else if flags & SYN != 0 {
            if flags & ACK != 0 { Kind::SynAck } else { Kind::Syn }
        } else if flags & FIN != 0 {
            Kind::Fin
        } else {
            Kind::Other
        }
    }
}

/// Where a segment leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// To this state, if its numbers fit.
    To(TcpState),
    /// Nowhere; but it may be good, and its answer will show.
    Ignore,
    /// Nowhere; it is wrong whatever the ends think.
    Invalid,
}
use Next::{Ignore, Invalid, To};
use TcpState::{Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, SynSent2, TimeWait};

/// Where a segment of this kind leads from `state`.
#[inline]
pub(super) fn next(dir: Direction, kind: Kind, state: TcpState) -> Next {
    TABLE[dir as usize][kind as usize][state as usize]
}

/// By direction, kind of segment and state.
#[rustfmt::skip]
static TABLE: [[[Next; TcpState::COUNT]; 6]; 2] = [
    // Original direction: from the side that opened the connection.
    [
        // SYN
        [
            To(SynSent), // NONE: starts the connection
            To(SynSent), // SYN_SENT: the SYN again
            Ignore, // SYN_RECV: the client may have started over; the server will know
            Ignore, // ESTABLISHED: the client may have rebooted: the server answers with a SYN/ACK, a RST or a challenge
            Ignore, // FIN_WAIT: as in ESTABLISHED
            Ignore, // CLOSE_WAIT: as in ESTABLISHED
            Ignore, // LAST_ACK: as in ESTABLISHED; beware of the challenge ACK
            To(SynSent), // TIME_WAIT: reuses the ports, if `may_reopen` agrees
            To(SynSent), // CLOSE: reuses the ports, if `may_reopen` agrees
            To(SynSent2), // SYN_SENT2: the SYN again, after the two crossed
        ],
        // SYN/ACK
        [
            Invalid, // NONE: answers a SYN we know nothing of
            Invalid, // SYN_SENT: a client has no SYN to answer yet
            To(SynRecv), // SYN_RECV: the second half of a simultaneous open, again
            Invalid, // ESTABLISHED: only the answering side sends SYN/ACK
            Invalid, // FIN_WAIT: as in ESTABLISHED
            Invalid, // CLOSE_WAIT: as in ESTABLISHED
            Invalid, // LAST_ACK: as in ESTABLISHED
            Invalid, // TIME_WAIT: as in ESTABLISHED
            Invalid, // CLOSE: as in ESTABLISHED
            To(SynRecv), // SYN_SENT2: answers the SYN that crossed its own
        ],
        // FIN
        [
            Invalid, // NONE: nothing is left to track of a connection that ends
            Invalid, // SYN_SENT: no end before the server has answered
            To(FinWait), // SYN_RECV: the first to end
            To(FinWait), // ESTABLISHED: the first to end
            To(LastAck), // FIN_WAIT: both have ended now, or the same FIN again: either way ACKs are due
            To(LastAck), // CLOSE_WAIT: the other side ends too
            To(LastAck), // LAST_ACK: the FIN again
            To(TimeWait), // TIME_WAIT: the FIN again, its ACK was lost
            To(Close), // CLOSE: late, the connection was reset
            Invalid, // SYN_SENT2: no end before either SYN is answered
        ],
        // ACK
        [
            To(Established), // NONE: in the middle of a connection older than its tracking (`loose`)
            Invalid, // SYN_SENT: there is nothing to acknowledge yet
            To(Established), // SYN_RECV: completes the handshake
            To(Established), // ESTABLISHED: data and acknowledgements
            To(CloseWait), // FIN_WAIT: acknowledges the FIN, or is taken to
            To(CloseWait), // CLOSE_WAIT: one side may go on sending
            To(TimeWait), // LAST_ACK: the last acknowledgement, unless it is a challenge
            To(TimeWait), // TIME_WAIT: the last acknowledgement again
            To(Close), // CLOSE: late, the connection was reset
            Invalid, // SYN_SENT2: has to answer with a SYN/ACK first
        ],
        // RST
        [
            Invalid, // NONE: there is nothing to reset
            To(Close), // SYN_SENT: the client gives up
            To(Close), // SYN_RECV: the client refuses the answer
            To(Close), // ESTABLISHED: reset, if `reset` finds it in sequence
            To(Close), // FIN_WAIT: cuts the ending short
            To(Close), // CLOSE_WAIT: cuts the ending short
            To(Close), // LAST_ACK: cuts the ending short
            To(Close), // TIME_WAIT: answers something late
            To(Close), // CLOSE: the RST again
            To(Close), // SYN_SENT2: the client gives up
        ],
        // Neither SYN, FIN, RST nor ACK
        [Invalid; TcpState::COUNT], // in any state: no segment of TCP
    ],
    // Reply direction: from the side that was called.
    [
        // SYN
        [
            Invalid, // NONE: cannot be: the first segment defines the original direction
            To(SynSent2), // SYN_SENT: simultaneous open: the SYNs cross
            Invalid, // SYN_RECV: the server has answered already
            Invalid, // ESTABLISHED: a server does not open this connection
            Invalid, // FIN_WAIT: as in ESTABLISHED
            Invalid, // CLOSE_WAIT: as in ESTABLISHED
            Invalid, // LAST_ACK: as in ESTABLISHED
            To(SynSent), // TIME_WAIT: the ends change roles on the same ports, if `may_reopen` agrees
            Invalid, // CLOSE: as in ESTABLISHED
            To(SynSent2), // SYN_SENT2: the crossing SYN again
        ],
        // SYN/ACK
        [
            Invalid, // NONE: cannot be: the first segment defines the original direction
            To(SynRecv), // SYN_SENT: the server answers
            Ignore, // SYN_RECV: the answer again; its ACK was lost
            Ignore, // ESTABLISHED: late, or the answer to a SYN that was let past
            Ignore, // FIN_WAIT: as in ESTABLISHED
            Ignore, // CLOSE_WAIT: as in ESTABLISHED
            Ignore, // LAST_ACK: as in ESTABLISHED
            Ignore, // TIME_WAIT: as in ESTABLISHED
            Ignore, // CLOSE: as in ESTABLISHED
            To(SynRecv), // SYN_SENT2: answers the SYN that crossed its own
        ],
        // FIN
        [
            Invalid, // NONE: cannot be: the first segment defines the original direction
            Invalid, // SYN_SENT: no end without an answer first
            To(FinWait), // SYN_RECV: ends before the client's ACK was seen
            To(FinWait), // ESTABLISHED: the first to end
            To(LastAck), // FIN_WAIT: both have ended now, or the same FIN again
            To(LastAck), // CLOSE_WAIT: the other side ends too
            To(LastAck), // LAST_ACK: the FIN again
            To(TimeWait), // TIME_WAIT: the FIN again, its ACK was lost
            To(Close), // CLOSE: late, the connection was reset
            Invalid, // SYN_SENT2: no end before either SYN is answered
        ],
        // ACK
        [
            Invalid, // NONE: cannot be: the first segment defines the original direction
            Ignore, // SYN_SENT: the server holds half of an older connection and challenges the SYN
            To(SynRecv), // SYN_RECV: answers a repeated SYN; completes a simultaneous open
            To(Established), // ESTABLISHED: data and acknowledgements
            To(CloseWait), // FIN_WAIT: acknowledges the FIN, or is taken to
            To(CloseWait), // CLOSE_WAIT: one side may go on sending
            To(TimeWait), // LAST_ACK: the last acknowledgement, unless it is a challenge
            To(TimeWait), // TIME_WAIT: the last acknowledgement again
            To(Close), // CLOSE: late, the connection was reset
            Ignore, // SYN_SENT2: may challenge the SYN, as in SYN_SENT
        ],
        // RST
        [
            Invalid, // NONE: cannot be: the first segment defines the original direction
            To(Close), // SYN_SENT: the server refuses
            To(Close), // SYN_RECV: the server gives up
            To(Close), // ESTABLISHED: reset, if `reset` finds it in sequence
            To(Close), // FIN_WAIT: cuts the ending short
            To(Close), // CLOSE_WAIT: cuts the ending short
            To(Close), // LAST_ACK: cuts the ending short
            To(Close), // TIME_WAIT: answers something late
            To(Close), // CLOSE: the RST again
            To(Close), // SYN_SENT2: the other side gives up
        ],
        // Neither SYN, FIN, RST nor ACK
        [Invalid; TcpState::COUNT], // in any state: no segment of TCP
    ],
];
