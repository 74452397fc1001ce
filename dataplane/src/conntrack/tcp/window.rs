//! Window tracking after Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), with
//! netfilter's bounds.
//!
//! From what both sides send follow, for each of them, the data it has sent so far and the data it may
//! send. A segment of a sender to a receiver fits when
//!
//! 1. its data begins within what the sender may send,
//! 2. its data ends no further back than the receiver's largest window allows for a repetition,
//! 3. it acknowledges nothing that the receiver has not sent,
//! 4. it acknowledges nothing much older than what the receiver has sent.
//!
//! What breaks 1 or 3 cannot stem from this connection; what breaks 2 or 4 is old, harmless and
//! perhaps of use to the ends.

use super::flags::{ACK, RST, SYN};
use super::options::{Both, SynOptions, highest_ack};
use super::states::Kind;
use super::{Last, TcpSegment, TcpState, TcpTrack};
use crate::conntrack::Direction;

/// How far an acknowledgement may lag behind at least: a window without scaling and some more.
const ACK_LAG: u32 = 66_000;

/// What is known of one side's sequence numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// End of the data it has sent.
    pub(super) end: u32,
    /// End of the data it may send.
    pub(super) max_end: u32,
    /// Largest window it has offered, scaled; 0 before its first segment.
    pub(super) max_window: u32,
    /// Highest acknowledgement number it has sent.
    pub(super) max_ack: u32,
}

/// A segment's numbers as the windows see them.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) seq: u32,
    /// After the last byte.
    pub(super) end: u32,
    pub(super) ack: u32,
    /// The acknowledgement number, or the highest SACK edge if that is higher.
    pub(super) sack: u32,
}

impl Numbers {
    /// Bound 1, for the window of the sender.
    #[inline]
    fn begins_within(&self, sender: &Window) -> bool {
        !after(self.seq, sender.max_end)
    }

    /// Bound 2.
    #[inline]
    fn repeats_recent(&self, sender: &Window, receiver: &Window) -> bool {
        after(self.end, sender.end.wrapping_sub(receiver.max_window).wrapping_sub(1))
    }

    /// Bound 3.
    #[inline]
    fn acks_sent_data(&self, receiver: &Window) -> bool {
        !after(self.sack, receiver.end)
    }

    /// Bound 4.
    #[inline]
    fn acks_recent(&self, sender: &Window, receiver: &Window) -> bool {
        let lag = sender.max_window.max(ACK_LAG);
        after(self.sack, receiver.end.wrapping_sub(lag).wrapping_sub(1))
    }

    /// All of them.
    #[inline]
    pub(super) fn fit(&self, sender: &Window, receiver: &Window) -> bool {
        self.begins_within(sender)
            && self.acks_sent_data(receiver)
            && self.acks_recent(sender, receiver)
            && self.repeats_recent(sender, receiver)
    }
}

/// The window that a segment offers.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    /// Scaled.
    pub(super) window: u32,
    /// It is 0.
    pub(super) closed: bool,
}

/// How a segment fits into the windows.
pub(super) enum Fit {
    /// It fits; the windows have moved.
    Inside,
    /// Old, or slightly beyond: harmless, but nothing to learn from.
    Ignore,
    /// It cannot belong to the connection.
    Outside,
}

/// Whether sequence number `a` lies before `b`, modulo 2^32.
#[inline]
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether sequence number `a` lies after `b`, modulo 2^32.
#[inline]
pub(super) fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

impl TcpTrack {
    /// Holds a segment against the windows, and moves them if it fits.
    #[inline]
    pub(super) fn fit(&mut self, dir: Direction, kind: Kind, seg: &TcpSegment, liberal: bool) -> Fit {
        let (s, r) = (dir as usize, dir.other() as usize);
        let sack = if self.options[r].has(SynOptions::SACKS) { highest_ack(seg.options, seg.ack) } else { seg.ack };
        let mut n = Numbers { seq: seg.seq, end: seg.end(), ack: seg.ack, sack };
        if (kind != Kind::Ack || self.windows[s].max_window == 0) && !self.prepare(dir, seg, &mut n) {
            return Fit::Inside;
        }

        let (sender, receiver) = (&self.windows[s], &self.windows[r]);
        // The second bound cannot be asked before the receiver's first segment.
        let first = receiver.max_window == 0;
        if !n.begins_within(sender) {
            let beyond = n.end.wrapping_sub(sender.max_end).wrapping_add(1);
            let slightly = !first
                && n.repeats_recent(sender, receiver)
                && n.acks_recent(sender, receiver)
                && beyond <= receiver.max_window;
            if slightly && n.acks_sent_data(receiver) {
                // More than the receiver's window allows. Should the receiver take it nevertheless, its
                // acknowledgement has to fit.
                self.windows[s].end = n.end;
                self.options[s].insert(SynOptions::UNACKED);
                return self.misfit(s, liberal, Fit::Ignore);
            }
            return self.misfit(s, liberal, Fit::Outside);
        }
        if !n.acks_sent_data(receiver) {
            return self.misfit(s, liberal, Fit::Outside);
        }
        if !n.acks_recent(sender, receiver) || !(first || n.repeats_recent(sender, receiver)) {
            return self.misfit(s, liberal, Fit::Ignore);
        }

        // The window of a SYN is never scaled (RFC 7323 section 2.2).
        let scale = if seg.has(SYN) { 0 } else { self.options[s].scale };
        let offer = Offer { window: u32::from(seg.window) << scale, closed: seg.window == 0 };
        self.advance(dir, n, offer, seg.has(ACK));
        if kind == Kind::Ack {
            self.count_repetition(Last { seq: n.seq, ack: n.ack, end: n.end, window: seg.window, dir, kind });
        }
        Fit::Inside
    }

    /// Everything that a plain ACK in a connection seen both ways can do without: starts windows that
    /// are not known yet, and replaces numbers that mean nothing. False when the segment fits whatever
    /// its numbers.
    fn prepare(&mut self, dir: Direction, seg: &TcpSegment, n: &mut Numbers) -> bool {
        let (s, r) = (dir as usize, dir.other() as usize);
        if self.windows[s].max_window == 0 {
            if seg.has(SYN) {
                self.start(dir, seg, n.end);
                if !seg.has(ACK) {
                    // Simultaneous open: it says nothing about the other side.
                    return false;
                }
            } else {
                self.pick_up(dir, seg, n.end, n.sack);
            }
        } else if seg.has(SYN)
            && after(n.end, self.windows[s].end)
            && matches!(self.state, TcpState::SynSent | TcpState::SynRecv)
        {
            // A new attempt with later sequence numbers, perhaps with other options.
            self.start(dir, seg, n.end);
            if dir == Direction::Reply && !seg.has(ACK) {
                return false;
            }
        }
        if !seg.has(ACK) || (seg.has(RST) && n.ack == 0) {
            // Nothing acknowledged; some stacks set ACK on a RST and leave the number 0.
            n.ack = self.windows[r].end;
            n.sack = n.ack;
        }
        if seg.has(RST) && n.seq == 0 && self.state == TcpState::SynSent {
            // Refuses the SYN: the refusing side has no sequence number yet.
            n.end = self.windows[s].end;
            n.seq = n.end;
        }
        true
    }

    /// A side's first SYN, or a new one with later sequence numbers.
    #[cold]
    fn start(&mut self, dir: Direction, seg: &TcpSegment, end: u32) {
        let (s, r) = (dir as usize, dir.other() as usize);
        let w = &mut self.windows[s];
        w.end = end;
        w.max_end = end;
        w.max_window = u32::from(seg.window.max(1));
        self.options[s].read(seg.options);
        // Scaling counts only when both sides offer it (RFC 7323 section 2.2).
        let both = self.options[s].has(SynOptions::SCALES) && self.options[r].has(SynOptions::SCALES);
        if dir == Direction::Reply && !both {
            self.options[s].scale = 0;
            self.options[r].scale = 0;
        }
    }

    /// The first segment seen of a side, in the middle of the connection.
    #[cold]
    fn pick_up(&mut self, dir: Direction, seg: &TcpSegment, end: u32, sack: u32) {
        let (s, r) = (dir as usize, dir.other() as usize);
        let max_window = (u32::from(seg.window) << self.options[s].scale).max(1);
        let w = &mut self.windows[s];
        w.end = end;
        w.max_window = max_window;
        w.max_end = end.wrapping_add(max_window);
        let other = &mut self.windows[r];
        if other.max_window == 0 {
            // Nothing seen of the other side: it must have sent what is acknowledged here.
            other.end = sack;
            other.max_end = sack;
        } else if sack == other.end.wrapping_add(1) {
            // Probably answers a keep-alive, whose sequence number is one too low.
            other.end = sack;
        }
    }

    /// What is left to do about a segment that does not fit. Liberal tracking takes it, but does not
    /// learn from it.
    #[cold]
    fn misfit(&self, s: usize, liberal: bool, fit: Fit) -> Fit {
        if liberal || self.options[s].has(SynOptions::LIBERAL) { Fit::Inside } else { fit }
    }

    /// Moves the windows to where a fitting segment takes them. `acks` tells whether its acknowledgement number
    /// means anything. Whether any data is now unacknowledged.
    #[inline(always)]
    pub(super) fn advance(&mut self, dir: Direction, n: Numbers, offer: Offer, acks: bool) -> bool {
        let Numbers { end, ack, sack, .. } = n;
        let Offer { window, closed } = offer;
        let mut both = Both::of(&self.options, dir);

        let known = both.sender_has(SynOptions::ACKED);
        let sender = &mut self.windows[dir as usize];
        // What lies between acknowledgement and SACK is already in the receiver's buffer.
        let offered = window.wrapping_add(sack.wrapping_sub(ack));
        if offered > sender.max_window {
            sender.max_window = offered;
        }
        if after(end, sender.end) {
            sender.end = end;
            both.insert_of_sender(SynOptions::UNACKED);
        }
        if acks && !known {
            sender.max_ack = ack;
            both.insert_of_sender(SynOptions::ACKED);
        } else if acks && after(ack, sender.max_ack) {
            sender.max_ack = ack;
        }
        let allowed = sender.max_end;

        let receiver = &mut self.windows[dir as usize ^ 1];
        if after(end, allowed) && receiver.max_window != 0 {
            receiver.max_window = receiver.max_window.wrapping_add(end.wrapping_sub(allowed));
        }
        let max_end = sack.wrapping_add(window);
        if !before(max_end, receiver.max_end) {
            // One byte more than a closed window allows: the probe (RFC 9293 section 3.8.6.1).
            receiver.max_end = max_end.wrapping_add(u32::from(closed));
        }
        if ack == receiver.end {
            both.remove_of_receiver(SynOptions::UNACKED);
        }
        both.store(&mut self.options, dir);
        both.either_has(SynOptions::UNACKED)
    }

    /// Counts how often the same ACK segment came in a row.
    #[inline]
    fn count_repetition(&mut self, now: Last) {
        if self.last.is_repeated_by(&now) {
            self.retransmits = self.retransmits.wrapping_add(1);
        } else {
            self.note(now);
        }
    }

    /// Notes a segment that does not repeat the one before.
    #[inline]
    pub(super) fn note(&mut self, now: Last) {
        self.last = now;
        self.retransmits = 0;
    }
}

impl Last {
    /// Whether the same segment comes again.
    #[inline]
    fn is_repeated_by(&self, now: &Last) -> bool {
        (self.seq, self.ack, self.end, self.window, self.dir) == (now.seq, now.ack, now.end, now.window, now.dir)
    }
}
