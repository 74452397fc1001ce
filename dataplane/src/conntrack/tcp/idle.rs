//! How long a connection may stay idle.

use super::options::SynOptions;
use super::states::Kind;
use super::{TcpSettings, TcpState, TcpTrack};
use crate::conntrack::Timeouts;

/// The timeouts of connections with nothing unusual about them, by the number of the timeouts they are part of.
pub type TcpTimeouts = [TcpTimeout; 256];

/// The timeouts of an established connection whose segments are plain, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpTimeout([u32; 2]);

impl TcpTimeout {
    /// What these settings make it.
    pub fn new(settings: &TcpSettings, timeouts: &Timeouts) -> Self {
        TcpTimeout([false, true].map(|unacknowledged| Idle::plain(unacknowledged).timeout(settings, timeouts) * 1000))
    }

    /// That of a connection with or without data that has not been acknowledged.
    #[inline]
    pub fn ms(&self, unacknowledged: bool) -> u32 {
        self.0[usize::from(unacknowledged)]
    }
}

/// What a connection's idle timeout depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    state: TcpState,
    /// Of the segment just accepted.
    kind: Kind,
    repetitions: u8,
    /// There is data that has not been acknowledged.
    unacknowledged: bool,
    /// The last window was 0.
    closed: bool,
}

impl Idle {
    /// After a plain segment.
    fn plain(unacknowledged: bool) -> Self {
        Idle { state: TcpState::Established, kind: Kind::Ack, repetitions: 0, unacknowledged, closed: false }
    }

    /// Seconds that the connection may stay idle.
    pub(super) fn timeout(self, settings: &TcpSettings, timeouts: &Timeouts) -> u32 {
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
