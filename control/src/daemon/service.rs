//! What systemd is told: ready, stopping, and signs of life while every worker gets on.

use crate::context::Context;

/// Rounds a worker may stand still before its silence is passed on: a loaded machine may keep it waiting.
const PATIENCE: u32 = 3;

/// Tells systemd, where it listens.
pub(super) fn tell(state: sd_notify::NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("telling systemd about the state: {e}");
    }
}

/// Gives systemd's watchdog its signs of life.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// What each worker's clocks showed, and for how many rounds.
    seen: Vec<(u64, u32)>,
}

impl Watchdog {
    /// To be called about once a second. A worker that stands still for long keeps the sign back, so that
    /// systemd ends the daemon, whose successor starts afresh.
    pub(super) fn beat(&mut self, ctx: &Context) {
        self.seen.resize(ctx.workers.len(), (0, 0));
        for ((clock, rounds), w) in self.seen.iter_mut().zip(&ctx.shared.workers) {
            let c = &w.counters;
            let now = c.busy_ns.get() + c.idle_ns.get() + c.sleep_ns.get();
            *rounds = if now == *clock { *rounds + 1 } else { 0 };
            *clock = now;
        }
        match self.seen.iter().position(|(_, rounds)| *rounds > PATIENCE) {
            None => tell(sd_notify::NotifyState::Watchdog),
            Some(worker) => tracing::warn!("worker {worker} stands still; systemd's watchdog gets no sign of life"),
        }
    }
}
