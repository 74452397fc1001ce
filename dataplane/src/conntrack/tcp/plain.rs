//! The short way of what nearly all segments are: an ACK, with data or without, in an established connection
//! that is known from both sides. Anything about one that needs a second look leaves it to [`TcpTrack::track`],
//! before a change is made, so that the two never differ.

use super::flags::{ACK, FIN, RST, SYN};
use super::options::{Both, LONE_TIMESTAMP, SynOptions};
use super::states::Kind;
use super::window::{Numbers, Offer, after};
use super::{Last, TcpState, TcpTrack};
use crate::conntrack::{Direction, Status};
use crate::packet::{be16, be32, view};

/// What most segments of a connection are: an ACK whose options, if any, are two NOPs and a timestamp.
#[derive(Debug, Clone, Copy)]
pub struct PlainSegment {
    seq: u32,
    ack: u32,
    window: u16,
    payload: u32,
}

impl PlainSegment {
    /// Reads the header of a segment of `length` bytes, which has been seen to be one. The first four bytes of its
    /// options are asked for only if it has options. `None` when it is not of this kind.
    #[inline(always)]
    pub fn read(t: &[u8; 20], length: u32, options: impl FnOnce() -> [u8; 4]) -> Option<Self> {
        // Data offset, and of the flags FIN, SYN, RST and ACK, at once.
        const BITS: u16 = u16::from_le_bytes([0xf0, FIN | SYN | RST | ACK]);
        const BARE: u16 = u16::from_le_bytes([5 << 4, ACK]);
        const TIMED: u16 = u16::from_le_bytes([8 << 4, ACK]);
        let header = match u16::from_le_bytes(*view(t, 12)) & BITS {
            BARE => 20,
            TIMED if options() == LONE_TIMESTAMP => 32,
            _ => return None,
        };
        Some(PlainSegment {
            seq: be32(t, 4),
            ack: be32(t, 8),
            window: be16(t, 14),
            payload: length.wrapping_sub(header),
        })
    }
}

impl TcpTrack {
    /// Tracks a segment like [`TcpTrack::track`], if that is sure to accept it and nothing else comes of it.
    /// Tells then whether there is data that has not been acknowledged, on which the timeout depends
    /// ([`super::TcpTimeout`]). `None` where it is not, and nothing is changed.
    #[inline(always)]
    pub fn track_plain(&mut self, dir: Direction, seg: &PlainSegment, status: Status) -> Option<bool> {
        // ASSURED says that both sides have been seen.
        if self.state != TcpState::Established || !status.intersects(Status::ASSURED) {
            return None;
        }
        let end = seg.seq.wrapping_add(seg.payload);
        let n = Numbers { seq: seg.seq, end, ack: seg.ack, sack: seg.ack };
        if (self.last.seq, self.last.ack) == (n.seq, n.ack) {
            return None;
        }
        // Once it has acknowledged something, its window is known too.
        let both = Both::of(&self.options, dir);
        if !both.sender_has(SynOptions::ACKED) || seg.window == 0 {
            return None;
        }
        let (sender, receiver) = (&self.windows[dir as usize], &self.windows[dir as usize ^ 1]);
        if after(end, sender.max_end) || !n.fit(sender, receiver) {
            return None;
        }
        let offer = Offer { window: u32::from(seg.window) << both.scale(), closed: false };
        self.note(Last { seq: n.seq, ack: n.ack, end, window: seg.window, dir, kind: Kind::Ack });
        Some(self.advance(dir, n, offer, true))
    }
}
