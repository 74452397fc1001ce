//! TCP options as far as tracking needs them, and what the SYNs announced.

use crate::conntrack::Direction;

const END: u8 = 0;
const NOP: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMP: u8 = 8;

/// Largest shift count (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;

/// What one side announced in its SYN, and marks about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct SynOptions {
    /// Shift count of its windows.
    pub(super) scale: u8,
    marks: u8,
}

impl SynOptions {
    /// Offered window scaling.
    pub(super) const SCALES: u8 = 1;
    /// Understands SACK.
    pub(super) const SACKS: u8 = 1 << 1;
    /// Was the first to send FIN.
    pub(super) const CLOSES: u8 = 1 << 2;
    /// Its windows are not held against the other side's segments.
    pub(super) const LIBERAL: u8 = 1 << 3;
    /// Has sent data that the other side has not acknowledged.
    pub(super) const UNACKED: u8 = 1 << 4;
    /// Has acknowledged something: its window's `max_ack` is valid.
    pub(super) const ACKED: u8 = 1 << 5;
    /// On a SYN let past: it may be answered by a challenge ACK.
    pub(super) const CHALLENGE: u8 = 1 << 6;
    /// On the connection: both sides sent a SYN.
    pub(super) const SIMULTANEOUS: u8 = 1 << 7;

    /// Of a side whose SYN was not seen.
    pub(super) fn picked_up() -> Self {
        SynOptions { scale: 0, marks: Self::SACKS | Self::LIBERAL }
    }

    #[inline]
    pub(super) fn has(self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    #[inline]
    pub(super) fn insert(&mut self, mark: u8) {
        self.marks |= mark;
    }

    #[inline]
    pub(super) fn remove(&mut self, mark: u8) {
        self.marks &= !mark;
    }

    /// Back to nothing known, except that liberal stays liberal.
    pub(super) fn forget(&mut self) {
        *self = SynOptions { scale: 0, marks: self.marks & Self::LIBERAL };
    }

    /// Takes over what a SYN with these options announces. A SYN without any options takes nothing
    /// back of what an earlier one announced.
    pub(super) fn read(&mut self, options: &[u8]) {
        if options.is_empty() {
            return;
        }
        self.forget();
        for (kind, body) in Options(options) {
            match (kind, body) {
                (SACK_PERMITTED, []) => self.insert(Self::SACKS),
                (WINDOW_SCALE, [shift]) => {
                    self.scale = (*shift).min(MAX_SCALE);
                    self.insert(Self::SCALES);
                }
                _ => {}
            }
        }
    }
}

/// What both sides announced, and their marks, in one register: of a segment's sender in the lower half, of its
/// receiver in the upper.
#[derive(Clone, Copy)]
pub(super) struct Both(u32);

impl Both {
    #[inline(always)]
    pub(super) fn of(options: &[SynOptions; 2], sender: Direction) -> Self {
        let [a, b] = options;
        Both(u32::from_le_bytes([a.scale, a.marks, b.scale, b.marks]).rotate_right(16 * sender as u32))
    }

    #[inline(always)]
    pub(super) fn store(self, options: &mut [SynOptions; 2], sender: Direction) {
        let [scale, marks, other_scale, other_marks] = self.0.rotate_left(16 * sender as u32).to_le_bytes();
        *options = [SynOptions { scale, marks }, SynOptions { scale: other_scale, marks: other_marks }];
    }

    /// Shift count of the sender's windows.
    #[inline(always)]
    pub(super) fn scale(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    pub(super) fn sender_has(self, mark: u8) -> bool {
        self.0 & u32::from(mark) << 8 != 0
    }

    #[inline(always)]
    pub(super) fn either_has(self, mark: u8) -> bool {
        self.0 & (u32::from(mark) << 8 | u32::from(mark) << 24) != 0
    }

    #[inline(always)]
    pub(super) fn insert_of_sender(&mut self, mark: u8) {
        self.0 |= u32::from(mark) << 8;
    }

    #[inline(always)]
    pub(super) fn remove_of_receiver(&mut self, mark: u8) {
        self.0 &= !(u32::from(mark) << 24);
    }
}

/// How the options of most segments begin that have any: two NOPs and a timestamp, and nothing after that.
pub(super) const LONE_TIMESTAMP: [u8; 4] = [NOP, NOP, TIMESTAMP, 10];

/// The highest sequence number that a segment acknowledges: its acknowledgement number or the right edge
/// of a block in its first SACK option.
#[inline]
pub(super) fn highest_ack(options: &[u8], ack: u32) -> u32 {
    if options.is_empty() || (options.len() == 12 && options.starts_with(&LONE_TIMESTAMP)) {
        return ack;
    }
    let sack = Options(options).find(|&(kind, body)| kind == SACK && !body.is_empty() && body.len() % 8 == 0);
    let Some((_, blocks)) = sack else { return ack };
    blocks.chunks_exact(8).fold(ack, |highest, b| {
        let right = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        if super::window::after(right, highest) { right } else { highest }
    })
}

/// The options as (kind, body), without padding. Ends at the first that is malformed.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [NOP, ref rest @ ..] => self.0 = rest,
                [kind, len, ..] if kind != END => {
                    let option = self.0.get(..usize::from(len))?;
                    let body = option.get(2..)?;
                    self.0 = &self.0[option.len()..];
                    return Some((kind, body));
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syn_options() {
        let both = SynOptions { scale: 7, marks: SynOptions::SCALES | SynOptions::SACKS };
        for (options, expected) in [
            (&[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7][..], both),
            // Above the limit.
            (&[3, 3, 200], SynOptions { scale: 14, marks: SynOptions::SCALES }),
            // Nothing after the end of options.
            (&[0, 3, 3, 7], SynOptions::default()),
            // Wrong lengths: skipped.
            (&[3, 4, 7, 7, 4, 3, 0, 4, 2], SynOptions { scale: 0, marks: SynOptions::SACKS }),
            // Cut off, too short, lone kind byte: nothing from there on.
            (&[4, 2, 3, 3], SynOptions { scale: 0, marks: SynOptions::SACKS }),
            (&[8, 1, 4, 2], SynOptions::default()),
            (&[8, 0, 4, 2], SynOptions::default()),
            (&[1, 1, 3], SynOptions::default()),
        ] {
            let mut read = SynOptions::default();
            read.read(options);
            assert_eq!(read, expected, "{options:?}");
        }
    }

    #[test]
    fn later_syn() {
        let mut o = SynOptions { scale: 7, marks: SynOptions::SCALES | SynOptions::LIBERAL };
        o.read(&[]);
        assert_eq!(o, SynOptions { scale: 7, marks: SynOptions::SCALES | SynOptions::LIBERAL });
        o.read(&[1]);
        assert_eq!(o, SynOptions { scale: 0, marks: SynOptions::LIBERAL });
    }

    #[test]
    fn sack_edges() {
        let block = |kind, len, edges: &[(u32, u32)]| {
            let mut o = vec![1, 1, kind, len];
            for (left, right) in edges {
                o.extend(left.to_be_bytes());
                o.extend(right.to_be_bytes());
            }
            o
        };
        assert_eq!(highest_ack(&[], 5), 5);
        assert_eq!(highest_ack(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1], 5), 5);
        assert_eq!(highest_ack(&block(5, 10, &[(100, 200)]), 5), 200);
        assert_eq!(highest_ack(&block(5, 26, &[(100, 200), (400, 500), (300, 350)]), 5), 500);
        // Below the acknowledgement number (a duplicate reported, RFC 2883).
        assert_eq!(highest_ack(&block(5, 10, &[(100, 200)]), 300), 300);
        // Across the wrap.
        assert_eq!(highest_ack(&block(5, 10, &[(0xffff_ff00, 16)]), 0xffff_fe00), 16);
        // Not whole blocks, or longer than the options.
        assert_eq!(highest_ack(&block(5, 9, &[(100, 200)]), 5), 5);
        assert_eq!(highest_ack(&block(5, 2, &[]), 5), 5);
        assert_eq!(highest_ack(&block(5, 18, &[(100, 200)]), 5), 5);
        // With a timestamp in front.
        let mut both = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];
        both.extend(block(5, 10, &[(100, 200)]));
        assert_eq!(highest_ack(&both, 5), 200);
    }
}
