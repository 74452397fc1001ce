//! Sequence numbers of a connection whose payload a helper changed in length.
//!
//! Sender and receiver then count differently. Per direction there is the position of the last change
//! and the offset before and after it, as in Linux's `nf_conntrack_seqadj.c`; a segment older than the
//! change before that one would be shifted wrongly, and its receiver throws it away. A change takes
//! effect after the first byte of its segment, so the changed segment itself and its repetitions keep
//! the number they had, whatever their length.
//!
//! The order for a packet: [`SequenceOffsets::restore`] what it acknowledges, track it, let the helper
//! read and change it, [`SequenceOffsets::record`] the change, and [`SequenceOffsets::shift`] its number.

use crate::conntrack::Direction;
use crate::packet::checksum::Delta;
use crate::packet::{be16, be32, put16};

/// Offsets in the TCP header (RFC 9293 section 3.1).
const SEQUENCE: usize = 4;
const ACKNOWLEDGEMENT: usize = 8;
const CHECKSUM: usize = 16;
const OPTIONS: usize = 20;

/// Kinds of TCP options: end of list and padding (RFC 9293 section 3.2), selective acknowledgement
/// (RFC 2018 section 3).
const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;

/// Whether `a` comes after `b` in sequence space.
#[inline]
pub(super) fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// What one direction's sequence numbers are shifted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Offsets {
    /// The last change's segment began here, in its sender's numbers.
    position: u32,
    before: i32,
    after: i32,
}

impl Offsets {
    /// From the sender's numbers to the receiver's.
    fn shifted(&self, seq: u32) -> u32 {
        seq.wrapping_add_signed(if after(seq, self.position) { self.after } else { self.before })
    }

    /// From the receiver's numbers to the sender's.
    fn restored(&self, ack: u32) -> u32 {
        let early = ack.wrapping_add_signed(self.before.wrapping_neg());
        if after(early, self.position) { ack.wrapping_add_signed(self.after.wrapping_neg()) } else { early }
    }
}

/// The offsets of both directions of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceOffsets {
    directions: [Offsets; 2],
}

impl SequenceOffsets {
    /// Records that the payload of a segment, which its sender numbered `seq`, became longer by `change`
    /// bytes. A repeated segment, changed again, counts once.
    pub fn record(&mut self, direction: Direction, seq: u32, change: i32) {
        let o = &mut self.directions[direction as usize];
        // Equal offsets: there was no change yet, and `position` means nothing.
        if change != 0 && (o.before == o.after || after(seq, o.position)) {
            *o = Offsets { position: seq, before: o.after, after: o.after.wrapping_add(change) };
        }
    }

    /// The receiver's number for a sequence number of a packet in `direction`.
    pub fn sequence(&self, direction: Direction, seq: u32) -> u32 {
        self.directions[direction as usize].shifted(seq)
    }

    /// The sender's number for what a packet in `direction` acknowledges: a number of the other direction.
    pub fn acknowledgement(&self, direction: Direction, ack: u32) -> u32 {
        self.directions[direction.other() as usize].restored(ack)
    }

    /// Shifts the sequence number of a TCP segment that goes in `direction`, and updates its checksum.
    /// Panics when `segment` is shorter than a TCP header.
    pub fn shift(&self, direction: Direction, segment: &mut [u8]) {
        let new = self.sequence(direction, be32(segment, SEQUENCE));
        let delta = replace_number(segment, SEQUENCE, new);
        apply(segment, delta);
    }

    /// Restores acknowledgement number and SACK blocks of a TCP segment that goes in `direction`, and
    /// updates its checksum. Only a segment with ACK set has them. False when its options are malformed:
    /// it must be dropped. Panics when `segment` is shorter than its data offset says, or that says less
    /// than a TCP header.
    #[must_use]
    pub fn restore(&self, direction: Direction, segment: &mut [u8]) -> bool {
        let new = self.acknowledgement(direction, be32(segment, ACKNOWLEDGEMENT));
        let mut delta = replace_number(segment, ACKNOWLEDGEMENT, new);
        let end = usize::from(segment[12] >> 4) * 4;
        let mut at = OPTIONS;
        while at < end {
            let kind = segment[at];
            if kind == END {
                break;
            }
            if kind == NOP {
                at += 1;
                continue;
            }
            let len = if at + 1 < end { usize::from(segment[at + 1]) } else { 0 };
            if len < 2 || at + len > end {
                return false;
            }
            if kind == SACK && len % 8 == 2 {
                for edge in (at + 2..at + len).step_by(4) {
                    let new = self.acknowledgement(direction, be32(segment, edge));
                    delta = delta.and(replace_number(segment, edge, new));
                }
            }
            at += len;
        }
        apply(segment, delta);
        true
    }
}

/// Writes a 32-bit number at `at`; what the checksum changes by. Options need not lie on even offsets.
fn replace_number(segment: &mut [u8], at: usize, new: u32) -> Delta {
    let old = be32(segment, at);
    segment[at..at + 4].copy_from_slice(&new.to_be_bytes());
    let words = |n: u32| u64::from(n >> 16) + u64::from(n & 0xffff);
    // At an odd offset each byte counts in the other half of its word (RFC 1071 section 2 (B)).
    let sum = |n: u32| if at.is_multiple_of(2) { words(n) } else { words(n.swap_bytes()) };
    Delta::new(sum(old), sum(new))
}

fn apply(segment: &mut [u8], delta: Delta) {
    let c = delta.apply(be16(segment, CHECKSUM));
    put16(segment, CHECKSUM, c);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::checksum::{fold, sum};

    const C: Direction = Direction::Original;
    const S: Direction = Direction::Reply;

    #[test]
    fn one_change() {
        let mut o = SequenceOffsets::default();
        assert_eq!((o.sequence(C, 5), o.acknowledgement(S, 5)), (5, 5));
        // 26 bytes from 1000 on became 29.
        o.record(C, 1000, 3);
        for (seq, shifted) in [(900, 900), (1000, 1000), (1001, 1004), (1026, 1029), (2000, 2003)] {
            assert_eq!(o.sequence(C, seq), shifted, "{seq}");
        }
        for (ack, restored) in [(900, 900), (1000, 1000), (1029, 1026), (2003, 2000)] {
            assert_eq!(o.acknowledgement(S, ack), restored, "{ack}");
        }
        // The other direction has its own numbers.
        assert_eq!((o.sequence(S, 2000), o.acknowledgement(C, 2000)), (2000, 2000));
        let once = o;
        o.record(C, 1000, 3);
        o.record(C, 900, 3);
        o.record(C, 3000, 0);
        assert_eq!(o, once, "repeated, older, no change");
    }

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut s = vec![0u8; OPTIONS];
        s[SEQUENCE..8].copy_from_slice(&0xffff_fff0u32.to_be_bytes());
        s[ACKNOWLEDGEMENT..12].copy_from_slice(&2003u32.to_be_bytes());
        s[12] = ((OPTIONS + options.len()) as u8 / 4) << 4;
        s.extend(options);
        s.extend(b"data");
        let c = !fold(sum(&s));
        put16(&mut s, CHECKSUM, c);
        s
    }

    fn sack(padding: &[u8], edges: &[u32], tail: &[u8]) -> Vec<u8> {
        let blocks = edges.iter().flat_map(|e| e.to_be_bytes());
        let option = [SACK, 2 + 4 * edges.len() as u8].into_iter().chain(blocks);
        padding.iter().copied().chain(option).chain(tail.iter().copied()).collect()
    }

    #[test]
    fn segments_in_place() {
        let mut o = SequenceOffsets::default();
        o.record(C, 1000, 3);
        o.record(S, 0xffff_ff00, -40);
        for (name, options, restored, ok) in [
            ("none", vec![], vec![], true),
            ("aligned", sack(&[1, 1], &[2013, 2021], &[]), sack(&[1, 1], &[2010, 2018], &[]), true),
            ("odd offset", sack(&[1], &[2013, 2021], &[1]), sack(&[1], &[2010, 2018], &[1]), true),
            (
                "old and new",
                sack(&[], &[900, 950, 1100, 1200], &[0, 0]),
                sack(&[], &[900, 950, 1097, 1197], &[0, 0]),
                true,
            ),
            ("after the end", sack(&[0, 1], &[2013, 2021], &[]), sack(&[0, 1], &[2013, 2021], &[]), true),
            ("half a block", sack(&[1, 1], &[2013], &[]), sack(&[1, 1], &[2013], &[]), true),
            ("empty", vec![SACK, 2, 1, 1], vec![SACK, 2, 1, 1], true),
            ("kind alone", vec![1, 1, 1, 8], vec![], false),
            ("length 1", vec![8, 1, 1, 1], vec![], false),
            ("beyond the header", vec![1, 1, 8, 10], vec![], false),
        ] {
            let mut s = segment(&options);
            assert_eq!(o.restore(S, &mut s), ok, "{name}");
            if ok {
                assert_eq!(be32(&s, ACKNOWLEDGEMENT), 2000, "{name}");
                assert_eq!(&s[OPTIONS..OPTIONS + options.len()], &restored, "{name}");
                assert_eq!(fold(sum(&s)), 0xffff, "{name}: checksum");
                o.shift(S, &mut s);
                assert_eq!(be32(&s, SEQUENCE), 0xffff_fff0 - 40, "{name}");
                assert_eq!(fold(sum(&s)), 0xffff, "{name}: checksum");
            }
        }
    }

    /// One segment of a stream: its length, and its length after translation.
    fn stream() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let segment = prop_oneof![(1u32..1500).prop_map(|n| (n, n)), (8u32..60, 8u32..60)];
        prop::collection::vec(segment, 1..40)
    }

    proptest! {
        #[test]
        fn the_receiver_sees_a_stream_without_gaps(segments in stream(), start: u32, reply: bool) {
            let (direction, back) = if reply { (S, C) } else { (C, S) };
            let mut o = SequenceOffsets::default();
            // Sender's and receiver's number where each segment begins, and what it changed by.
            let mut begins = vec![(start, start, 0)];
            // The last two changes: nothing older than the first of them can be mapped.
            let mut changes = [0, 0];
            for (i, (len, translated)) in segments.iter().enumerate() {
                let (seq, seen, _) = begins[i];
                let change = *translated as i32 - *len as i32;
                begins[i].2 = change;
                o.record(direction, seq, change);
                if change != 0 {
                    changes = [changes[1], i];
                }
                begins.push((seq.wrapping_add(*len), seen.wrapping_add(*translated), 0));
                prop_assert_eq!(o.sequence(direction, seq), seen);
                // Whatever may still be repeated or acknowledged.
                let first = if changes[0] == changes[1] { 0 } else { changes[0] + 1 };
                for (seq, seen, change) in &begins[first..] {
                    let before = o;
                    o.record(direction, *seq, *change);
                    prop_assert_eq!(o, before);
                    prop_assert_eq!(o.sequence(direction, *seq), *seen);
                    prop_assert_eq!(o.acknowledgement(back, *seen), *seq);
                }
            }
            prop_assert_eq!(o.sequence(back, start), start);
        }
    }
}
