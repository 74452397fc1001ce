//! How long a connection may stay idle.

use super::options::SynOptions;
use super::states::Kind;
use super::{TcpSettings, TcpState, TcpTrack};
use crate::conntrack::Timeouts;

/// What a connection's idle timeout depends on.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    pub(super) state: TcpState,
    /// Of the segment just accepted.
    pub(super) kind: Kind,
    pub(super) repetitions: u8,
    /// There is data that has not been acknowledged.
    pub(super) unacknowledged: bool,
    /// The last window was 0.
    pub(super) closed: bool,
}

impl Idle {
    /// Seconds that the connection may stay idle.
    #[inline(always)]
    pub fn timeout(self, settings: &TcpSettings, timeouts: &Timeouts) -> u32 {
        let usual = timeouts.tcp[self.state as usize];
        if self.repetitions >= settings.max_retrans && usual > timeouts.tcp_max_retrans {
            timeouts.tcp_max_retrans
        } else if self.kind == Kind::Rst {
            // Also when the state stays, because the RST is not exact: a peer that lives will answer it.
            timeouts.tcp[TcpState::Close as usize]
        } else if self.unacknowledged && usual > timeouts.tcp_unacknowledged {
            timeouts.tcp_unacknowledged
        } else if self.closed {
            usual.min(timeouts.tcp_max_retrans)
        } else {
            usual
        }
    }
}

impl TcpTrack {
    /// What the timeout depends on after a segment was accepted.
    pub(super) fn idle(&self) -> Idle {
        Idle {
            state: self.state,
            kind: self.last.kind,
            repetitions: self.retransmits,
            unacknowledged: self.options.iter().any(|o| o.has(SynOptions::UNACKED)),
            closed: self.last.window == 0,
        }
    }
}
