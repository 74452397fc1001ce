//! What status and metrics show of the policies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::{Awaited, Generation, Refusal};

/// What status and metrics show.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The generations that are remembered, oldest first; the last one runs.
    pub(crate) history: Vec<Loaded>,
    /// The running one awaits confirmation.
    pub(crate) pending: Option<Pending>,
    /// When a policy was last read that was in order.
    pub(crate) last_success: SystemTime,
    /// The last attempt that left the running policy in force.
    pub(crate) last_failure: Option<Failure>,
    /// Whether the last attempt succeeded.
    pub(crate) successful: bool,
}

/// A generation in short.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) number: u64,
    pub(crate) file: PathBuf,
    pub(crate) loaded: SystemTime,
}

/// Until when confirmation is awaited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) until: Instant,
    pub(crate) back_to: u64,
}

/// An attempt that left the running policy in force.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Who wanted it.
    pub(crate) cause: &'static str,
    /// When.
    pub(crate) at: SystemTime,
    /// Why not, on one line.
    pub(crate) message: String,
}

impl Failure {
    pub(super) fn new(cause: &'static str, why: &Refusal) -> Self {
        let message = match why {
            Refusal::Other(e) => e.clone(),
            Refusal::Invalid(found) => {
                let errors: Vec<_> =
                    found.diagnostics.iter().filter(|d| d.severity == config::Severity::Error).collect();
                let more = (errors.len() + found.omitted).saturating_sub(1);
                let first = errors.first().map_or_else(String::new, |d| match d.line {
                    0 => format!("{}: {}", d.file, d.message),
                    _ => format!("{}:{}:{}: {}", d.file, d.line, d.column, d.message),
                });
                if more > 0 { format!("{first}, and {more} more") } else { first }
            }
        };
        Failure { cause, at: SystemTime::now(), message }
    }
}

impl Report {
    pub(super) fn new(first: &Generation) -> Self {
        Report {
            history: vec![Loaded::from(first)],
            pending: None,
            last_success: first.loaded,
            last_failure: None,
            successful: true,
        }
    }

    /// Something was read that was in order.
    pub(super) fn succeeded(&mut self, history: &[Arc<Generation>], pending: Option<Awaited>) {
        self.changed(history, pending);
        self.last_success = SystemTime::now();
        self.successful = true;
    }

    /// Other generations are in force and remembered.
    pub(super) fn changed(&mut self, history: &[Arc<Generation>], pending: Option<Awaited>) {
        self.history = history.iter().map(|g| Loaded::from(&**g)).collect();
        self.pending = pending.map(|p| Pending { until: p.until, back_to: p.back_to });
    }

    /// Something was not in order.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.last_failure = Some(failure);
        self.successful = false;
    }

    /// The generation in force.
    pub(crate) fn running(&self) -> &Loaded {
        self.history.last().expect("a policy is always in force")
    }
}

impl From<&Generation> for Loaded {
    fn from(g: &Generation) -> Self {
        Loaded { number: g.number, file: g.file.clone(), loaded: g.loaded }
    }
}
