//! Putting a policy in force on every worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use config::Config;
use dataplane::worker::shared::WorkerShared;

use crate::context::Context;

/// How long workers may take to take up a policy, and to bring all their connections over to it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What putting a policy in force has done.
#[derive(Debug)]
pub(super) struct Applied {
    /// Connections that were deleted because the policy forbids them.
    pub(super) revalidated: u64,
    /// A worker that has not taken it up in time.
    pub(super) late: Option<String>,
}

/// Publishes the policy and waits until every worker runs it and has brought its connections over.
///
/// # Errors
/// When a worker or the thread that steers frames does not answer, or the kernel refuses a program that the
/// policy needs; nothing has been changed then.
pub(super) fn apply(ctx: &Context, config: &Config) -> Result<Applied, String> {
    let current = ctx.shared.current.load();
    // A worker that is still busy with the last policy could not tell that one's rules from the one's before.
    wait(ctx, ctx.adopted.load(Ordering::Acquire), |w| &w.adopted)?;
    let mut policy = config.policy.clone();
    policy.follow(&current.policy, config.reload.revalidate);
    let policy = Arc::new(policy);
    let before = revalidated(ctx);
    ctx.answers.ensure_attached(&policy).map_err(|e| format!("{e:#}"))?;
    ctx.coming.announce(&policy, &ctx.shared).inspect_err(|_| ctx.answers.settle(&current.policy))?;
    let generation = ctx.shared.publish_policy(policy.clone());
    ctx.adopted.store(generation, Ordering::Release);
    // The mirror notices by itself that another policy is in force.
    ctx.coming.withdraw();
    let waited = wait(ctx, generation, |w| &w.generation).and_then(|()| wait(ctx, generation, |w| &w.adopted));
    ctx.answers.settle(&policy);
    Ok(Applied { revalidated: revalidated(ctx) - before, late: waited.err() })
}

fn revalidated(ctx: &Context) -> u64 {
    ctx.shared.workers.iter().map(|w| w.counters.revalidated.get()).sum()
}

/// Waits until every worker has reached a generation in one respect.
fn wait(ctx: &Context, generation: u32, of: fn(&WorkerShared) -> &AtomicU32) -> Result<(), String> {
    let began = Instant::now();
    for (n, w) in ctx.shared.workers.iter().enumerate() {
        // Generations wrap.
        while (of(w).load(Ordering::Acquire).wrapping_sub(generation) as i32) < 0 {
            if began.elapsed() > PATIENCE {
                return Err(format!("worker {n} does not answer"));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    Ok(())
}
