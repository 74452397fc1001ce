//! What clients ask about the policy: reload, confirm, rollback, diff.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::{Diagnostics, Difference, Running};
use dataplane::worker::Judged;
use dataplane::worker::shared::Command;

use super::tracking::{WORKER_PATIENCE, order, silent};
use super::{Outcome, write};
use crate::context::Context;
use crate::reload::{self, Cause, Refusal};
use crate::wire::{Affected, Diff, Reloaded, Response};

/// Puts a policy in force.
pub(super) fn reload(
    file: Option<&Path>,
    confirm: Option<u32>,
    ctx: &Context,
    out: &mut impl Write,
) -> io::Result<Outcome> {
    let confirm = confirm.map(|s| Duration::from_secs(s.into()));
    match ctx.policies.reload(ctx, file, confirm, Cause::Command) {
        Ok(o) => write(out, &Response::Reloaded(Box::new(reloaded(o)))).map(Ok),
        Err(Refusal::Invalid(d)) => write(out, &Response::Refused(d)).map(Ok),
        Err(Refusal::Other(e)) => Ok(Err(e)),
    }
}

/// Returns to the generation before.
pub(super) fn rollback(ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    match ctx.policies.rollback(ctx) {
        Ok(o) => write(out, &Response::Reloaded(Box::new(reloaded(o)))).map(Ok),
        Err(e) => Ok(Err(e)),
    }
}

/// Lets what awaits confirmation stay.
pub(super) fn confirm(ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    match ctx.policies.confirm() {
        Ok(generation) => write(out, &Response::Confirmed(generation)).map(Ok),
        Err(e) => Ok(Err(e)),
    }
}

fn reloaded(o: reload::Outcome) -> Reloaded {
    Reloaded {
        generation: o.generation.number,
        file: o.generation.file.clone(),
        unchanged: o.unchanged,
        deleted: o.revalidated,
        back_to: o.back_to,
        late: o.late,
        warnings: o.warnings,
    }
}

/// Tells how the policy in `file` differs from the one in force, and how many connections it concerns.
pub(super) fn diff(file: &Path, ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    let now = ctx.policies.running();
    let running = Running { config: &now.config, max_connections: ctx.max_connections };
    let checked = match config::load_beside(file, &running) {
        Ok(c) => c,
        Err(d) => return write(out, &Response::Refused(d)).map(Ok),
    };
    let devices = |c: &config::Config| c.policy.interfaces.iter().map(|i| i.device.clone()).collect::<Vec<_>>();
    let connections = if devices(&now.config) == devices(&checked.config) {
        match judge(ctx, checked.config.policy.clone()) {
            Ok(j) => Some(j),
            Err(e) => return Ok(Err(e)),
        }
    } else {
        None
    };
    let diff = Diff {
        generation: now.number,
        running: now.file.clone(),
        file: file.to_owned(),
        difference: Difference::between(&now.written, &checked.written),
        restart: config::fixed(&running, &checked.config).into_iter().map(|f| f.message).collect(),
        connections: connections.map(affected),
        revalidate: checked.config.reload.revalidate,
        warnings: Diagnostics { diagnostics: checked.warnings, ..Default::default() },
    };
    write(out, &Response::Diff(Box::new(diff))).map(Ok)
}

/// Has every worker count the connections that a policy would concern.
fn judge(ctx: &Context, policy: config::Policy) -> Result<Judged, String> {
    let policy = Arc::new(policy);
    let workers = 0..ctx.shared.workers.len();
    let ask = |w| order(ctx, w, 1, |reply| Command::Judge { policy: policy.clone(), reply });
    let answers = workers.map(ask).collect::<Result<Vec<_>, String>>()?;
    let mut sum = Judged::default();
    for (w, answer) in answers.iter().enumerate() {
        let j = answer.recv_timeout(WORKER_PATIENCE).map_err(|_| silent(w))?;
        sum.connections += j.connections;
        sum.denied += j.denied;
        sum.translated += j.translated;
        sum.untracked += j.untracked;
    }
    Ok(sum)
}

fn affected(j: Judged) -> Affected {
    Affected { connections: j.connections, denied: j.denied, translated: j.translated, untracked: j.untracked }
}
