//! Idle timeouts, and the coarse clock that deadlines are kept in.

use super::TcpState;

/// The most seconds that a deadline may lie ahead.
const LIMIT_S: u32 = i32::MAX as u32 / 1000;

/// A moment of the workers' clock: milliseconds since the daemon's start, wrapping after 49 days, so
/// that deadlines up to 24 days ahead compare right. Never 0, which marks a free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticks(pub u32);

impl Ticks {
    /// The moment `seconds` later.
    #[inline]
    #[must_use]
    pub fn after(self, seconds: u32) -> Ticks {
        self.after_ms(seconds.min(LIMIT_S) * 1000)
    }

    /// The moment after a timeout of [`Timeouts`], which is known not to be too long.
    #[inline]
    #[must_use]
    pub fn after_timeout(self, seconds: u32) -> Ticks {
        debug_assert!(seconds <= LIMIT_S);
        self.after_timeout_ms(seconds.wrapping_mul(1000))
    }

    /// The same in milliseconds.
    #[inline]
    #[must_use]
    pub fn after_timeout_ms(self, ms: u32) -> Ticks {
        Ticks(self.0.wrapping_add(ms).max(1))
    }

    /// The moment `ms` milliseconds later.
    #[inline]
    #[must_use]
    pub fn after_ms(self, ms: u32) -> Ticks {
        Ticks(self.0.wrapping_add(ms.min(i32::MAX as u32)).max(1))
    }

    /// Whether this moment lies at or before `now`.
    #[inline]
    pub fn reached(self, now: Ticks) -> bool {
        now.0.wrapping_sub(self.0) as i32 >= 0
    }

    /// Milliseconds from `now` until this moment, 0 when it has passed.
    pub fn remaining_ms(self, now: Ticks) -> u32 {
        u32::try_from(self.0.wrapping_sub(now.0) as i32).unwrap_or(0)
    }
}

/// The timeouts of UDP in milliseconds, by the number of the timeouts they are part of.
pub type UdpTimeouts = [UdpTimeout; 256];

/// UDP's timeouts in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct UdpTimeout {
    /// Before it is a stream.
    pub first: u32,
    /// With traffic both ways for more than two seconds.
    pub stream: u32,
}

/// Idle timeouts in seconds. At most 24 days each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP before it is a stream.
    pub udp: u32,
    /// UDP with traffic both ways for more than two seconds.
    pub udp_stream: u32,
    /// TCP by state, indexed by [`TcpState`].
    pub tcp: [u32; TcpState::COUNT],
    /// TCP after too many retransmissions.
    pub tcp_max_retrans: u32,
    /// TCP with data that is not acknowledged.
    pub tcp_unacknowledged: u32,
    /// TCP that was reset before it was answered; 0: it goes with the reset.
    pub tcp_refused: u32,
    /// ICMP queries.
    pub icmp: u32,
    /// ICMPv6 queries.
    pub icmpv6: u32,
    /// GRE seen one way.
    pub gre: u32,
    /// GRE seen both ways.
    pub gre_stream: u32,
    /// SCTP by state, indexed by [`super::tcp`]'s sibling for SCTP: closed, cookie-wait, cookie-echoed,
    /// established, shutdown-sent, shutdown-received, shutdown-ack-sent, heartbeat-sent.
    pub sctp: [u32; 8],
    /// Every other protocol.
    pub generic: u32,
}

impl Timeouts {
    /// The defaults of Linux 6.18 (`net.netfilter.nf_conntrack_*_timeout`).
    pub fn linux() -> Self {
        let mut tcp = [0; TcpState::COUNT];
        for (state, seconds) in [
            (TcpState::None, 120),
            (TcpState::SynSent, 120),
            (TcpState::SynRecv, 60),
            (TcpState::Established, 432_000),
            (TcpState::FinWait, 120),
            (TcpState::CloseWait, 60),
            (TcpState::LastAck, 30),
            (TcpState::TimeWait, 120),
            (TcpState::Close, 10),
            (TcpState::SynSent2, 120),
        ] {
            tcp[state as usize] = seconds;
        }
        Timeouts {
            udp: 30,
            udp_stream: 120,
            tcp,
            tcp_max_retrans: 300,
            tcp_unacknowledged: 300,
            tcp_refused: 0,
            icmp: 30,
            icmpv6: 30,
            gre: 30,
            gre_stream: 180,
            sctp: [10, 3, 3, 210, 3, 3, 3, 30],
            generic: 600,
        }
    }

    /// What the NAT RFCs ask for: UDP 5 minutes (RFC 4787 REQ-5), TCP established 2 h 4 min whatever is
    /// outstanding, and transitory 4 minutes (RFC 5382 REQ-5), also after a reset (RFC 7857 2.2), ICMP 60 s
    /// (RFC 5508 REQ-2).
    pub fn rfc() -> Self {
        let mut t = Self::linux();
        t.udp = 300;
        t.udp_stream = 300;
        t.icmp = 60;
        t.icmpv6 = 60;
        t.tcp = [240; TcpState::COUNT];
        t.tcp[TcpState::Established as usize] = 7440;
        t.tcp_max_retrans = 7440;
        t.tcp_unacknowledged = 7440;
        t.tcp_refused = 240;
        t
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::linux()
    }
}
