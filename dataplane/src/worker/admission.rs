//! Which packets may begin a connection while more comes in than the worker can do.
//!
//! Frames that a ring has no room for are lost whoever they belong to. So when a worker lags behind while packets of
//! known connections come in, only few others in a turn may begin a connection, which costs several times as much as
//! to refuse one: the worker gets through its rings in time again, and what is lost are attempts to begin something. Netfilter
//! has no such rule.

use crate::io::BURST;

/// So many may begin in a turn however much comes in.
const LEAST: u32 = 4;
/// Four full bursts of them: hardly a limit, and a few halvings away from one.
const MOST: u32 = 4 * BURST as u32;

/// One worker's limit.
#[derive(Debug)]
pub(super) struct Admission {
    /// Connections that may begin in a turn, and those of them that have not in this one.
    quota: u32,
    left: u32,
    /// Packets that would have begun one in this turn.
    asked: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Admission { quota: MOST, left: MOST, asked: 0 }
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
        (self.left, self.asked) = (self.quota, 0);
    }
}
