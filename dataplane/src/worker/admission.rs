//! Which packets may begin a connection while more comes in than the worker can do.
//!
//! Frames that a ring has no room for are lost whoever they belong to. So when a worker lags behind while packets of
//! known connections come in, only few others in a turn may begin a connection, which costs several times as much as
//! to refuse one: the worker gets through its rings in time again, and what is lost are attempts to begin something. Netfilter
//! has no such rule.

use crate::io::BURST;

/// So many may begin in a turn however much comes in.
const LEAST: u32 = 4;
/// From here on there is no limit, however many ports a worker has: it keeps up.
const MOST: u32 = 4 * BURST as u32;

/// One worker's limit.
#[derive(Debug)]
pub(super) struct Admission {
    /// Connections that may begin in a turn, unless it is [`MOST`].
    quota: u32,
    /// Those that may yet begin in this one.
    left: u32,
    /// Packets that would have begun one in this turn.
    asked: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Admission { quota: MOST, left: u32::MAX, asked: 0 }
    }
}

impl Admission {
    /// Whether one more connection may begin.
    #[inline]
    pub(super) fn admit(&mut self) -> bool {
        self.asked += 1;
        let admitted = self.left > 0;
        self.left -= u32::from(admitted);
        admitted
    }

    /// A turn with so many frames is over, in which a port lagged behind or none did.
    #[inline]
    pub(super) fn next_turn(&mut self, frames: usize, lags: bool) {
        // Where nothing but first packets comes in, there is nobody whose share they take.
        self.quota = if lags && frames > self.asked {
            (self.quota / 2).max(LEAST)
        } else {
            // Slowly: a flood is still there when the worker has caught up with it.
            (self.quota + 1).min(MOST)
        };
        let left = if self.quota < MOST { self.quota } else { u32::MAX };
        (self.left, self.asked) = (left, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a thousand begin in a turn.
    fn turn(a: &mut Admission, frames: usize, lags: bool) -> usize {
        let n = (0..1000).filter(|_| a.admit()).count();
        a.next_turn(frames, lags);
        n
    }

    #[test]
    fn there_is_no_limit_but_while_it_lags_and_shortly_after() {
        let mut a = Admission::default();
        assert!((0..3).all(|_| turn(&mut a, 1001, false) == 1000));
        assert!((0..3).all(|_| turn(&mut a, 1000, true) == 1000), "nothing else comes in");
        let lagging: Vec<usize> = (0..8).map(|_| turn(&mut a, 1001, true)).collect();
        assert_eq!(lagging, [1000, 128, 64, 32, 16, 8, 4, 4]);
        let later: Vec<usize> = (LEAST..=MOST).map(|_| turn(&mut a, 1001, false)).collect();
        assert!(later.is_sorted() && later.ends_with(&[MOST as usize - 1, 1000]), "{later:?}");
    }
}
