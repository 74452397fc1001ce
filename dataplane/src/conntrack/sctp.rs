//! SCTP connection tracking with the semantics of Linux 6.18 (`nf_conntrack_proto_sctp.c`).
//!
//! Chunk types lead from state to state; verification tags (RFC 9260 section 8.5) keep others from
//! doing so. Each side announces in INIT or INIT ACK the tag it wants to see, and every packet to it
//! carries that tag. A flow that starts with HEARTBEAT is another path of a multihomed association: its
//! tags are learned from both sides' first packets.
//!
//! The checksum is not verified here.

mod chunks;
#[cfg(test)]
mod tests;

use super::{Direction, Timeouts};
use chunks::{
    ABORT, COOKIE_ACK, COOKIE_ECHO, Chunks, DATA, ERROR, HEARTBEAT, HEARTBEAT_ACK, INIT, INIT_ACK, REFLECTED, SHUTDOWN,
    SHUTDOWN_ACK, SHUTDOWN_COMPLETE, types,
};

/// State of an association as seen from between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SctpState {
    /// Nothing seen yet.
    None,
    /// INIT seen, or the association has ended.
    Closed,
    /// INIT ACK seen.
    CookieWait,
    /// COOKIE ECHO seen.
    CookieEchoed,
    /// COOKIE ACK seen, or HEARTBEAT ACK on another path.
    Established,
    /// SHUTDOWN seen in original direction.
    ShutdownSent,
    /// SHUTDOWN seen in reply direction.
    ShutdownReceived,
    /// SHUTDOWN ACK seen.
    ShutdownAckSent,
    /// HEARTBEAT seen on another path.
    HeartbeatSent,
}

impl SctpState {
    /// The name as conntrack-tools prints it.
    pub fn label(self) -> &'static str {
        match self {
            SctpState::None => "NONE",
            SctpState::Closed => "CLOSED",
            SctpState::CookieWait => "COOKIE_WAIT",
            SctpState::CookieEchoed => "COOKIE_ECHOED",
            SctpState::Established => "ESTABLISHED",
            SctpState::ShutdownSent => "SHUTDOWN_SENT",
            SctpState::ShutdownReceived => "SHUTDOWN_RECD",
            SctpState::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            SctpState::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    /// Its idle timeout in seconds.
    fn timeout(self, timeouts: &Timeouts) -> u32 {
        // `Timeouts::sctp` begins at CLOSED.
        timeouts.sctp[(self as usize).saturating_sub(1)]
    }
}

/// An SCTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpPacket<'a> {
    /// Verification tag of the common header, host byte order.
    pub vtag: u32,
    /// All that follows the common header.
    pub chunks: &'a [u8],
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SctpOutcome {
    /// It belongs to the association.
    Accept {
        /// Seconds the association may now stay idle.
        timeout: u32,
        /// [`super::Status::ASSURED`] is to be set, if it is not yet.
        assured: bool,
    },
    /// It passes, but does not keep the association alive: a repeated INIT, or a HEARTBEAT with a tag that
    /// only its answer can prove right.
    Ignore,
    /// It is INVALID; the connection stays as it is.
    Invalid,
}

/// SCTP state of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpTrack {
    /// The tag that packets of each direction must carry; 0 when not known.
    vtag: [u32; 2],
    /// Which side has sent an INIT that no COOKIE ACK has concluded.
    init: [bool; 2],
    /// Which side last sent a HEARTBEAT with a tag that was not expected.
    unproven: Option<Direction>,
    state: SctpState,
}

const _: () = assert!(size_of::<SctpTrack>() == 12);

impl SctpTrack {
    /// The state before a connection's first packet is tracked; pass that packet to
    /// [`SctpTrack::track`] next, in original direction. `None` when it cannot start a connection: it is
    /// INVALID.
    pub fn new(packet: &SctpPacket) -> Option<SctpTrack> {
        let types = types(packet.chunks)?;
        // RFC 9260 section 8.4: whoever gets these out of the blue discards them.
        if types.has(ABORT) || types.has(SHUTDOWN_COMPLETE) || types.has(COOKIE_ACK) {
            return None;
        }
        let mut track = SctpTrack { vtag: [0; 2], init: [false; 2], unproven: None, state: SctpState::None };
        for c in Chunks(packet.chunks) {
            if next(Direction::Original, SctpState::None, c.kind)? == SctpState::None {
                return None;
            }
            match c.kind {
                INIT if packet.vtag != 0 => return None,
                INIT => track.vtag[Direction::Reply as usize] = c.init_tag()?,
                HEARTBEAT => track.vtag[Direction::Original as usize] = packet.vtag,
                // Its answer is a SHUTDOWN COMPLETE with the tag reflected (section 8.4 rule 5).
                SHUTDOWN_ACK => track.vtag[Direction::Reply as usize] = packet.vtag,
                _ => {}
            }
        }
        Some(track)
    }

    /// The state of the connection.
    pub fn state(&self) -> SctpState {
        self.state
    }

    /// Tracks a packet. All of its chunks count or none: netfilter keeps what the chunks before a wrong one
    /// did, although the packet is INVALID and its receiver will most likely not see them.
    pub fn track(&mut self, dir: Direction, packet: &SctpPacket, timeouts: &Timeouts) -> SctpOutcome {
        let mut after = *self;
        let Some(followed) = after.follow(dir, packet) else { return SctpOutcome::Invalid };
        *self = after;
        if followed.refresh {
            SctpOutcome::Accept { timeout: self.state.timeout(timeouts), assured: followed.established }
        } else {
            SctpOutcome::Ignore
        }
    }

    /// Follows the chunks of a packet; `None` from the first on that is wrong.
    fn follow(&mut self, dir: Direction, packet: &SctpPacket) -> Option<Followed> {
        let (own, other) = (dir as usize, dir.other() as usize);
        let types = types(packet.chunks)?;
        // These are held to rules of their own below.
        let special = [INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK];
        if !special.iter().any(|t| types.has(*t)) && packet.vtag != self.vtag[own] {
            return None;
        }
        let mut done = Followed { refresh: true, established: false };
        for c in Chunks(packet.chunks) {
            match c.kind {
                // RFC 9260 section 8.5.1, rules A to E.
                INIT if packet.vtag != 0 => return None,
                ABORT | SHUTDOWN_COMPLETE => {
                    let reflected = c.flags & REFLECTED != 0;
                    if packet.vtag != self.vtag[if reflected { other } else { own }] {
                        return None;
                    }
                }
                COOKIE_ECHO if packet.vtag != self.vtag[own] => return None,
                COOKIE_ACK => self.init = [false; 2],
                HEARTBEAT | HEARTBEAT_ACK if self.vtag[own] == 0 => self.vtag[own] = packet.vtag,
                HEARTBEAT | HEARTBEAT_ACK if packet.vtag == self.vtag[own] => self.unproven = None,
                // The peer may have restarted on this path: wait for what the other side answers.
                HEARTBEAT | HEARTBEAT_ACK if types.has(DATA) || !done.refresh => return None,
                HEARTBEAT => {
                    self.unproven = Some(dir);
                    done.refresh = false;
                    continue;
                }
                HEARTBEAT_ACK => {
                    if self.unproven != Some(dir.other()) {
                        return None;
                    }
                    self.unproven = None;
                    self.vtag[own] = packet.vtag;
                    self.vtag[other] = 0;
                }
                _ => {}
            }
            let state = next(dir, self.state, c.kind)?;
            match c.kind {
                INIT => {
                    let tag = c.init_tag()?;
                    if self.state == SctpState::None || self.vtag[other] != tag {
                        if self.init == [true; 2] {
                            self.init[other] = false;
                        }
                        self.init[own] = true;
                    }
                    self.vtag[other] = tag;
                    // A client that reuses its port must not keep the entry, and its translation, alive.
                    if self.state == SctpState::Closed && state == SctpState::Closed {
                        done.refresh = false;
                    }
                }
                INIT_ACK => {
                    let tag = c.init_tag()?;
                    let known = self.vtag[other];
                    // A new tag may only answer an INIT. When both sides sent one, their own INITs have
                    // announced the tags already.
                    let fixed = if self.init[other] { self.init[own] } else { known != 0 };
                    if fixed && known != tag {
                        return None;
                    }
                    self.vtag[other] = tag;
                }
                _ => {}
            }
            done.established |= state == SctpState::Established;
            self.state = state;
        }
        Some(done)
    }
}

/// What a packet did whose chunks are all right.
struct Followed {
    /// It keeps the association alive.
    refresh: bool,
    /// The association was established at least between two of its chunks.
    established: bool,
}

/// Where a chunk leads. `None`: it has no place there.
fn next(dir: Direction, state: SctpState, kind: u8) -> Option<SctpState> {
    use Direction::{Original, Reply};
    use SctpState::{
        Closed, CookieEchoed, CookieWait, Established, HeartbeatSent, ShutdownAckSent, ShutdownReceived, ShutdownSent,
    };
    // DATA, SACK and whatever extensions bring change nothing.
    if !matches!(kind, INIT..=INIT_ACK | HEARTBEAT..=COOKIE_ACK | SHUTDOWN_COMPLETE) {
        return Some(state);
    }
    Some(match (state, dir, kind) {
        // The first packet.
        (SctpState::None, Original, HEARTBEAT) => HeartbeatSent,
        (SctpState::None, Original, SHUTDOWN_ACK) => ShutdownAckSent,
        (SctpState::None, Original, _) => Closed,
        (SctpState::None, Reply, _) => return None,

        // A path waits for its HEARTBEAT's answer. The client may also begin something else.
        (HeartbeatSent, Original, HEARTBEAT | HEARTBEAT_ACK) => HeartbeatSent,
        (HeartbeatSent, Original, INIT) => CookieWait,
        (HeartbeatSent, Original, SHUTDOWN_ACK) => ShutdownAckSent,
        (HeartbeatSent, Original, _) => Closed,
        (HeartbeatSent, Reply, HEARTBEAT) => HeartbeatSent,
        (HeartbeatSent, Reply, HEARTBEAT_ACK) => Established,
        (HeartbeatSent, Reply, _) => return None,

        // Opening.
        (Closed, Reply, INIT_ACK) => CookieWait,
        (CookieWait, _, COOKIE_ECHO) => CookieEchoed,
        (CookieEchoed, _, COOKIE_ACK) => Established,
        // The server did not like the cookie.
        (CookieEchoed, Reply, ERROR) => Closed,

        // Closing.
        (_, _, ABORT) => Closed,
        (Established, Original, SHUTDOWN) => ShutdownSent,
        (Established, Reply, SHUTDOWN) => ShutdownReceived,
        (ShutdownSent | ShutdownReceived, _, SHUTDOWN_ACK) => ShutdownAckSent,
        (ShutdownAckSent, _, SHUTDOWN_COMPLETE) => Closed,
        // The client does not wait for the end and begins again.
        (ShutdownSent | ShutdownReceived, Original, INIT) => Closed,

        // Repeated, late, or of another attempt.
        _ => state,
    })
}
