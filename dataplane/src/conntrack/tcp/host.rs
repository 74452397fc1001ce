//! TCP between a client and the gateway host, of which the worker sees the client's segments only.
//!
//! Windows cannot be followed from one side, and need not be: the host is the other end and judges every
//! segment itself. What is left is how long the connection may be idle. Of the host's segments the worker
//! hears that there was a first one, one with FIN, one with RST ([`crate::io::host::Sight`]), and perhaps
//! later than the client's answer to it.

use super::flags::{ACK, FIN, RST, SYN};
use super::states::TcpState;
use crate::conntrack::Timeouts;

/// State of a TCP connection that ends at the gateway host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostTcp {
    state: TcpState,
    /// The host has sent FIN.
    finished: bool,
}

/// What a client's segment does to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTcpOutcome {
    /// It may be idle for so many seconds.
    Accept(u32),
    /// The segment begins it anew.
    Reopen,
}

impl HostTcp {
    /// A connection that begins with a segment with these flags, picked up in the middle unless that is a SYN.
    pub fn new(flags: u8) -> Self {
        let state = if flags & SYN != 0 { TcpState::SynSent } else { TcpState::Established };
        HostTcp { state, finished: false }
    }

    /// The connection's state.
    pub fn state(&self) -> TcpState {
        self.state
    }

    /// Whether both ends have agreed, as far as one can see.
    pub fn is_established(&self) -> bool {
        self.state == TcpState::Established
    }

    /// Follows a segment of the client; `answered` when the host has been seen to send anything.
    pub fn segment(&mut self, flags: u8, answered: bool, t: &Timeouts) -> HostTcpOutcome {
        use TcpState::{Close, Established, FinWait, SynRecv, SynSent, TimeWait};
        self.state = match self.state {
            _ if flags & RST != 0 => Close,
            Close | TimeWait if flags & (SYN | ACK) == SYN => return HostTcpOutcome::Reopen,
            Close => Close,
            _ if flags & FIN != 0 => {
                if self.finished {
                    TimeWait
                } else {
                    FinWait
                }
            }
            // What answers the host's SYN, which the worker may not have heard of yet.
            SynSent | SynRecv if flags & (SYN | ACK) == ACK => Established,
            state => state,
        };
        HostTcpOutcome::Accept(self.timeout(answered, t))
    }

    /// Follows what the host has been seen to send. Returns how long the connection may be idle.
    pub fn answered(&mut self, finished: bool, reset: bool, t: &Timeouts) -> u32 {
        use TcpState::{Close, FinWait, SynRecv, SynSent, TimeWait};
        self.state = match self.state {
            _ if reset => Close,
            SynSent if !finished => SynRecv,
            FinWait if finished && !self.finished => TimeWait,
            state @ (Close | TimeWait) => state,
            _ if finished => FinWait,
            state => state,
        };
        self.finished |= finished;
        self.timeout(true, t)
    }

    fn timeout(&self, answered: bool, t: &Timeouts) -> u32 {
        let timeout = t.tcp[self.state as usize];
        // Picked up in the middle, and perhaps the host knows nothing of it.
        if answered || self.state != TcpState::Established { timeout } else { timeout.min(t.tcp_unacknowledged) }
    }
}

#[cfg(test)]
mod tests {
    use super::TcpState::{Close, Established, FinWait, SynRecv, SynSent, TimeWait};
    use super::*;

    /// What happens: the client's flags, or what is seen of the host.
    #[derive(Clone, Copy)]
    enum Event {
        Client(u8),
        Host { finished: bool, reset: bool },
    }
    use Event::{Client, Host};
    const ANSWER: Event = Host { finished: false, reset: false };
    const HOST_FIN: Event = Host { finished: true, reset: false };
    const HOST_RST: Event = Host { finished: false, reset: true };

    #[test]
    fn lives() {
        let t = Timeouts::linux();
        for (events, state, timeout) in [
            (&[Client(SYN)][..], SynSent, 120),
            (&[Client(SYN), ANSWER], SynRecv, 60),
            (&[Client(SYN), ANSWER, Client(ACK)], Established, 432_000),
            // The acknowledgement overtakes the news of the answer.
            (&[Client(SYN), Client(ACK)], Established, 300),
            (&[Client(SYN), Client(ACK), ANSWER], Established, 432_000),
            (&[Client(ACK)], Established, 300),
            (&[Client(SYN), HOST_RST], Close, 10),
            (&[Client(SYN), ANSWER, Client(ACK), Client(RST)], Close, 10),
            (&[Client(SYN), ANSWER, Client(ACK), HOST_RST, Client(ACK)], Close, 10),
            (&[Client(SYN), ANSWER, Client(ACK), Client(FIN | ACK)], FinWait, 120),
            (&[Client(SYN), ANSWER, Client(ACK), Client(FIN | ACK), HOST_FIN], TimeWait, 120),
            (&[Client(SYN), ANSWER, Client(ACK), Client(FIN | ACK), HOST_FIN, Client(ACK)], TimeWait, 120),
            (&[Client(SYN), ANSWER, Client(ACK), HOST_FIN, Client(ACK)], FinWait, 120),
            (&[Client(SYN), ANSWER, Client(ACK), HOST_FIN, Client(FIN | ACK)], TimeWait, 120),
        ] {
            let mut c = None;
            let (mut answered, mut last) = (false, 0);
            for e in events {
                last = match *e {
                    Client(flags) => match c.get_or_insert(HostTcp::new(flags)).segment(flags, answered, &t) {
                        HostTcpOutcome::Accept(timeout) => timeout,
                        HostTcpOutcome::Reopen => panic!("reopened"),
                    },
                    Host { finished, reset } => {
                        answered = true;
                        c.as_mut().unwrap().answered(finished, reset, &t)
                    }
                };
            }
            assert_eq!((c.unwrap().state(), last), (state, timeout), "after {} events", events.len());
        }
    }

    #[test]
    fn a_syn_begins_a_closed_connection_anew() {
        let t = Timeouts::linux();
        for (events, reopens) in [([Client(RST), Client(SYN)], true), ([Client(ACK), Client(SYN)], false)] {
            let mut c = HostTcp::new(SYN);
            let outcomes = events.map(|e| match e {
                Client(flags) => c.segment(flags, true, &t),
                Host { .. } => unreachable!(),
            });
            assert_eq!(outcomes[1] == HostTcpOutcome::Reopen, reopens);
        }
    }
}
