//! SCTP connection tracking with the semantics of Linux 6.18 (`nf_conntrack_proto_sctp.c`).
//!
//! Chunk types lead from state to state; verification tags (RFC 9260 section 8.5) keep others from
//! doing so. Each side announces in INIT or INIT ACK the tag it wants to see, and every packet to it
//! carries that tag. A flow that starts with HEARTBEAT is another path of a multihomed association: its
//! tags are learned from both sides' first packets.
//!
//! The checksum is not verified here.

use super::{Direction, Timeouts};

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

/// Chunk types (RFC 9260 section 3.2).
mod chunk {
    pub(super) const DATA: u8 = 0;
    pub(super) const INIT: u8 = 1;
    pub(super) const INIT_ACK: u8 = 2;
    pub(super) const HEARTBEAT: u8 = 4;
    pub(super) const HEARTBEAT_ACK: u8 = 5;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const SHUTDOWN_ACK: u8 = 8;
    pub(super) const ERROR: u8 = 9;
    pub(super) const COOKIE_ECHO: u8 = 10;
    pub(super) const COOKIE_ACK: u8 = 11;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
}
use chunk::{
    ABORT, COOKIE_ACK, COOKIE_ECHO, DATA, ERROR, HEARTBEAT, HEARTBEAT_ACK, INIT, INIT_ACK, SHUTDOWN, SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
};

/// The T bit of ABORT and SHUTDOWN COMPLETE: the tag is the sender's own, reflected.
const REFLECTED: u8 = 1;

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
        /// Set [`super::Status::ASSURED`] now.
        assured: bool,
    },
    /// It passes, but does not keep the association alive: a repeated INIT, or a HEARTBEAT with a tag that
    /// only its answer can prove right.
    Ignore,
    /// It is INVALID.
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

    /// Tracks a packet.
    pub fn track(&mut self, dir: Direction, packet: &SctpPacket, timeouts: &Timeouts) -> SctpOutcome {
        match self.follow(dir, packet) {
            None => SctpOutcome::Invalid,
            Some(Followed { refresh: false, .. }) => SctpOutcome::Ignore,
            Some(Followed { assured, .. }) => SctpOutcome::Accept { timeout: self.state.timeout(timeouts), assured },
        }
    }

    /// Follows all chunks of a packet; `None` from the first on that is wrong.
    fn follow(&mut self, dir: Direction, packet: &SctpPacket) -> Option<Followed> {
        let (own, other) = (dir as usize, dir.other() as usize);
        let types = types(packet.chunks)?;
        // These are held to rules of their own below.
        let special = [INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK];
        if !special.iter().any(|t| types.has(*t)) && packet.vtag != self.vtag[own] {
            return None;
        }
        let mut done = Followed { refresh: true, assured: false };
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
            done.assured |= state == SctpState::Established && self.state != state;
            self.state = state;
        }
        Some(done)
    }
}

/// What a packet did that was followed to its end.
struct Followed {
    refresh: bool,
    assured: bool,
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

/// The set of chunk types below 16 in a packet.
#[derive(Clone, Copy)]
struct Types(u16);

impl Types {
    fn has(self, kind: u8) -> bool {
        self.0 >> kind & 1 == 1
    }
}

/// The types of a packet's chunks; `None` when chunks are bundled that must not be, one has length 0, or
/// there are none.
fn types(chunks: &[u8]) -> Option<Types> {
    let mut types = Types(0);
    let mut alone = false;
    for (i, c) in Chunks(chunks).enumerate() {
        alone |= matches!(c.kind, INIT | INIT_ACK | SHUTDOWN_COMPLETE);
        if c.len == 0 || i > 0 && (alone || matches!(c.kind, COOKIE_ECHO | COOKIE_ACK)) {
            return None;
        }
        types.0 |= 1u16.checked_shl(u32::from(c.kind)).unwrap_or(0);
    }
    (!chunks.is_empty() && Chunks(chunks).next().is_some()).then_some(types)
}

/// One chunk.
struct Chunk<'a> {
    kind: u8,
    flags: u8,
    /// Length as the chunk says, header included.
    len: u16,
    /// The packet from this chunk on.
    bytes: &'a [u8],
}

impl Chunk<'_> {
    /// The tag that an INIT or INIT ACK announces; `None` when the packet ends within its fixed part.
    fn init_tag(&self) -> Option<u32> {
        const FIXED_PART: usize = 20;
        let b = self.bytes.get(4..FIXED_PART)?;
        Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// The chunks of a packet. Ends at one whose header is cut off, or whose length is 0.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let [kind, flags, high, low, ..] = *self.0 else { return None };
        let len = u16::from_be_bytes([high, low]);
        let chunk = Chunk { kind, flags, len, bytes: self.0 };
        // Chunks are padded to multiples of four bytes; the length does not count the padding.
        let step = usize::from(len).next_multiple_of(4);
        self.0 = if step == 0 { &[] } else { self.0.get(step..).unwrap_or_default() };
        Some(chunk)
    }
}
