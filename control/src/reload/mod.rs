//! The policies that are and were in force: reload, confirm, rollback.
//!
//! Every policy that takes effect is a generation with a number of its own. The running one is the last of a
//! short history, and `rollback` goes one back in it. A generation that awaits confirmation is the last one
//! too, and falls back by itself; what it falls back to is always a generation somebody has stood by. While
//! one is awaited, SIGHUP and a changed file are refused, so that nothing but the operator's own word makes a
//! policy stay that may have locked the operator out.

mod apply;
mod events;
mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use config::{Checked, Config, Diagnostics, NamedFile, Running, Written};

use crate::context::Context;
use apply::{Applied, apply};
pub(crate) use events::{Event, follow};
use report::Failure;
pub(crate) use report::Report;

/// Generations that are remembered, the running one included.
const KEPT: usize = 10;

/// A policy that is or was in force.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    /// Its number, counted from 1 since the daemon's start.
    pub(crate) number: u64,
    /// The policy.
    pub(crate) config: Config,
    /// What its file said.
    pub(crate) written: Written,
    /// The file.
    pub(crate) file: PathBuf,
    /// When it was read.
    pub(crate) loaded: SystemTime,
}

/// All of them, and what has been tried.
pub(crate) struct Policies {
    /// The file of `run --config`.
    file: PathBuf,
    /// One change at a time.
    work: Mutex<Work>,
    /// What status and metrics show; never locked for long.
    report: Mutex<Report>,
    /// Policies that took effect, or were read and were the same.
    pub(crate) succeeded: AtomicU64,
    /// Attempts that left the running policy in force.
    pub(crate) failed: AtomicU64,
    /// Returns to a former generation.
    pub(crate) rolled_back: AtomicU64,
}

struct Work {
    /// Oldest first; the last one runs.
    history: Vec<Arc<Generation>>,
    next: u64,
    pending: Option<Awaited>,
    /// What the file of `run --config` named when it was last tried.
    named: Arc<[NamedFile]>,
}

/// The running generation awaits confirmation.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    until: Instant,
    /// The number of the generation that is in force again if nobody confirms.
    back_to: u64,
}

/// Who wants a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// `sluice reload`.
    Command,
    /// SIGHUP.
    Signal,
    /// The file has changed.
    Watch,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Command => "sluice reload",
            Cause::Signal => "SIGHUP",
            Cause::Watch => "changed file",
        }
    }
}

/// Why the running policy stays in force.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The file is not in order, or cannot replace the running policy.
    Invalid(Diagnostics),
    /// Something else.
    Other(String),
}

/// What a reload has done.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The generation in force now.
    pub(crate) generation: Arc<Generation>,
    /// The file says what the running policy says: nothing was done.
    pub(crate) unchanged: bool,
    /// Connections that were deleted because the policy forbids them.
    pub(crate) revalidated: u64,
    /// A worker that has not taken it up in time.
    pub(crate) late: Option<String>,
    /// Where it returns to unless it is confirmed.
    pub(crate) back_to: Option<u64>,
    /// What is probably not meant.
    pub(crate) warnings: Diagnostics,
}

impl Outcome {
    fn of(generation: Arc<Generation>) -> Self {
        let warnings = Diagnostics::default();
        Outcome { generation, unchanged: false, revalidated: 0, late: None, back_to: None, warnings }
    }

    fn with(self, a: Applied) -> Self {
        if let Some(late) = &a.late {
            tracing::error!("{late}: the policy is in force, but not everywhere yet");
        }
        Outcome { revalidated: a.revalidated, late: a.late, ..self }
    }
}

impl Policies {
    /// The policy that the daemon starts with.
    pub(crate) fn new(file: &Path, checked: Checked) -> Self {
        let Checked { config, written, .. } = checked;
        let named = config.files.as_slice().into();
        let first = Generation { number: 1, config, written, file: file.to_owned(), loaded: SystemTime::now() };
        Policies {
            file: file.to_owned(),
            report: Mutex::new(Report::new(&first)),
            work: Mutex::new(Work { history: vec![Arc::new(first)], next: 2, pending: None, named }),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            rolled_back: AtomicU64::new(0),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of `run --config`.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The generation in force.
    pub(crate) fn running(&self) -> Arc<Generation> {
        self.work().running().clone()
    }

    /// The files that the one of `run --config` named when it was last tried, whatever came of that.
    pub(crate) fn named(&self) -> Arc<[NamedFile]> {
        self.work().named.clone()
    }

    /// What status and metrics show.
    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, f: impl FnOnce(&mut Report)) {
        f(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Puts the policy in `file`, else in the file of `run --config`, in force on all workers. With `confirm` it
    /// stays only if it is confirmed within that time.
    ///
    /// # Errors
    /// Why the running policy stays in force.
    pub(crate) fn reload(
        &self,
        ctx: &Context,
        file: Option<&Path>,
        confirm: Option<Duration>,
        cause: Cause,
    ) -> Result<Outcome, Refusal> {
        let mut work = self.work();
        let result = {
            let _reloading = Reloading::begin();
            work.reload(ctx, file.unwrap_or(&self.file), confirm, cause)
        };
        match &result {
            Ok(o) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                self.update(|r| r.succeeded(&work.history, work.pending));
                for w in &o.warnings.diagnostics {
                    tracing::warn!("{}", w.to_string().trim_end());
                }
                let (g, by) = (&o.generation, cause.name());
                match (o.unchanged, confirm) {
                    // Anything may have happened in the directory.
                    (true, _) if cause == Cause::Watch => {}
                    (true, _) => tracing::info!("{by}: {} says what the running policy says", g.file.display()),
                    (false, None) => tracing::info!(
                        "{by}: policy generation {} of {} is in force, {} connections deleted",
                        g.number,
                        g.file.display(),
                        o.revalidated
                    ),
                    (false, Some(t)) => tracing::info!(
                        "{by}: policy generation {} of {} is in force for {} s unless it is confirmed",
                        g.number,
                        g.file.display(),
                        t.as_secs()
                    ),
                }
            }
            Err(e) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let failure = Failure::new(cause.name(), e);
                tracing::warn!("{}: the running policy stays in force: {}", failure.cause, failure.message);
                self.update(|r| r.failed(failure));
            }
        }
        result
    }

    /// Lets the policy that awaits confirmation stay. Returns its number.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn confirm(&self) -> Result<u64, String> {
        let mut work = self.work();
        if work.pending.take().is_none() {
            return Err(format!(
                "nothing awaits confirmation: generation {} is in force for good",
                work.running().number
            ));
        }
        let number = work.running().number;
        work.trim();
        self.update(|r| r.changed(&work.history, None));
        tracing::info!("policy generation {number} is confirmed");
        Ok(number)
    }

    /// Returns to the generation before, or to the one before what awaits confirmation.
    ///
    /// # Errors
    /// When there is none, or the workers do not answer.
    pub(crate) fn rollback(&self, ctx: &Context) -> Result<Outcome, String> {
        let mut work = self.work();
        self.roll_back(&mut work, ctx)
    }

    fn roll_back(&self, work: &mut Work, ctx: &Context) -> Result<Outcome, String> {
        let from = work.running().number;
        let Some(to) = work.former() else {
            return Err(format!("there is no generation before {from} to return to"));
        };
        let applied = {
            let _reloading = Reloading::begin();
            apply(ctx, &to.config)?
        };
        work.history.retain(|g| g.number <= to.number);
        work.pending = None;
        self.rolled_back.fetch_add(1, Ordering::Relaxed);
        self.update(|r| r.changed(&work.history, None));
        tracing::warn!("policy generation {} of {} is in force again", to.number, to.file.display());
        Ok(Outcome::of(to).with(applied))
    }

    /// Rolls back what was not confirmed in time.
    fn expire(&self, ctx: &Context) {
        let mut work = self.work();
        let Some(late) = work.pending.filter(|p| p.until <= Instant::now()) else { return };
        tracing::warn!("policy generation {} was not confirmed: rolling back", work.running().number);
        if let Err(e) = self.roll_back(&mut work, ctx) {
            tracing::error!("rolling back to policy generation {}: {e}; trying again", late.back_to);
        }
    }
}

impl Work {
    fn running(&self) -> &Arc<Generation> {
        self.history.last().expect("a policy is always in force")
    }

    /// The generation that a rollback returns to.
    fn former(&self) -> Option<Arc<Generation>> {
        match self.pending {
            Some(p) => self.history.iter().find(|g| g.number == p.back_to).cloned(),
            None => self.history.iter().rev().nth(1).cloned(),
        }
    }

    fn trim(&mut self) {
        let excess = self.history.len().saturating_sub(KEPT);
        self.history.drain(..excess);
    }

    fn reload(
        &mut self,
        ctx: &Context,
        file: &Path,
        confirm: Option<Duration>,
        cause: Cause,
    ) -> Result<Outcome, Refusal> {
        if let Some(p) = self.pending
            && confirm.is_none()
        {
            let left = p.until.saturating_duration_since(Instant::now()).as_secs();
            let number = self.running().number;
            let help = match cause {
                Cause::Command => format!(
                    "`sluice confirm` keeps it, `sluice rollback` returns to {}, `sluice reload --confirm` tries another",
                    p.back_to
                ),
                Cause::Signal | Cause::Watch => format!("it goes back to {} unless `sluice confirm` comes", p.back_to),
            };
            return Err(Refusal::Other(format!("generation {number} awaits confirmation for {left} s more; {help}")));
        }
        let running = self.running().clone();
        let replaced = Running { config: &running.config, max_connections: ctx.max_connections };
        let loaded = config::load_to_replace(file, &replaced);
        if file == ctx.policies.file() {
            match &loaded {
                Ok(checked) => self.named = checked.config.files.as_slice().into(),
                // What cannot be read at all is about to be replaced by something like the last one.
                Err(found) if found.files.is_empty() => {}
                Err(found) => self.named = found.files.as_slice().into(),
            }
        }
        let checked = loaded.map_err(Refusal::Invalid)?;
        let warnings = Diagnostics { diagnostics: checked.warnings, ..Default::default() };
        let mut outcome = Outcome { unchanged: true, warnings, ..Outcome::of(running.clone()) };
        if checked.written.same(&running.written) {
            // It may be another file by now: status names the one that holds the policy.
            if running.file != file {
                outcome.generation = Arc::new(Generation { file: file.to_owned(), ..(*running).clone() });
                *self.history.last_mut().expect("a policy is always in force") = outcome.generation.clone();
            }
            return Ok(outcome);
        }
        outcome.unchanged = false;
        outcome = outcome.with(apply(ctx, &checked.config).map_err(Refusal::Other)?);
        // What was never confirmed is nothing to return to.
        let back_to = self.pending.take().map_or(running.number, |p| p.back_to);
        if confirm.is_some() {
            self.history.retain(|g| g.number <= back_to);
        }
        outcome.generation = Arc::new(Generation {
            number: self.next,
            config: checked.config,
            written: checked.written,
            file: file.to_owned(),
            loaded: SystemTime::now(),
        });
        self.next += 1;
        self.history.push(outcome.generation.clone());
        match confirm {
            Some(time) => {
                self.pending = Some(Awaited { until: Instant::now() + time, back_to });
                outcome.back_to = Some(back_to);
            }
            None => self.trim(),
        }
        Ok(outcome)
    }
}

/// Tells systemd that the daemon reloads, and when it is done (`Type=notify-reload`).
struct Reloading;

impl Reloading {
    fn begin() -> Self {
        if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
            // Without systemd nobody listens.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading, now]);
        }
        Reloading
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }
}
