//! What changes the policy without a client: SIGHUP, a changed file, a confirmation that does not come.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Cause, Policies};
use crate::context::Context;

/// How long a file must be left alone before it is read: editors and copies write in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// How long changes that do not end may put off the reading.
const LONGEST: Duration = Duration::from_secs(2);
/// How often the thread looks for a confirmation that is late, and whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(200);

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGHUP has come.
    Signal,
    /// Something has changed beside the policy's file, or the file itself.
    Changed,
}

/// Answers events until the workers are told to stop.
///
/// # Errors
/// When the file is to be watched and cannot be.
pub(crate) fn follow(ctx: &Context, events: &Receiver<Event>, watch: Option<Sender<Event>>) -> anyhow::Result<()> {
    let policies = &ctx.policies;
    let mut watched = watch.map(|sender| Watched::new(policies, sender)).transpose()?;
    // The file may have changed since it was read.
    let mut quiet = watched.is_some().then(|| (Instant::now(), Instant::now()));
    while !ctx.shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let timeout = quiet.map_or(LOOK_UP, |(at, latest)| at.min(latest).saturating_duration_since(now).min(LOOK_UP));
        match events.recv_timeout(timeout) {
            // The outcome is in the log, in status and in the metrics.
            Ok(Event::Signal) => drop(policies.reload(ctx, None, None, Cause::Signal)),
            Ok(Event::Changed) => {
                let now = Instant::now();
                quiet = Some((now + QUIET, quiet.map_or(now + LONGEST, |(_, latest)| latest)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The gateway is about to end.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_UP),
        }
        if let Some(w) = &mut watched
            && quiet.is_some_and(|(at, latest)| at.min(latest) <= Instant::now())
        {
            quiet = None;
            if w.has_changed(policies.file(), &policies.running().config.files) {
                drop(policies.reload(ctx, None, None, Cause::Watch));
            }
        }
        policies.expire(ctx);
    }
    Ok(())
}

/// The directories in which something may happen to the policy's file, and to those that it names.
struct Watched {
    watcher: RecommendedWatcher,
    directories: BTreeSet<PathBuf>,
    keys: RandomState,
    /// Hash of what the files said when it was last looked at.
    seen: Option<u64>,
}

impl Watched {
    fn new(policies: &Policies, sender: Sender<Event>) -> anyhow::Result<Self> {
        let changed = move |event: notify::Result<notify::Event>| {
            match event {
                Ok(e) if e.kind.is_access() => return,
                Ok(_) => {}
                Err(e) => tracing::warn!("watching the policy's file: {e}"),
            }
            // The gateway may be about to end.
            let _ = sender.send(Event::Changed);
        };
        let watcher = notify::recommended_watcher(changed).context("watching the policy's file")?;
        let mut w = Watched { watcher, directories: BTreeSet::new(), keys: RandomState::new(), seen: None };
        w.watch(policies.file()).with_context(|| format!("watching {}", policies.file().display()))?;
        Ok(w)
    }

    /// Watches the directory of the file and, where it is a symbolic link, of what that points to: a file
    /// that is replaced is seen in its directory only.
    fn watch(&mut self, file: &Path) -> notify::Result<()> {
        let target = std::fs::canonicalize(file).ok();
        let here = std::path::absolute(file)?;
        for directory in [Some(&here), target.as_ref()].into_iter().flatten().filter_map(|f| f.parent()) {
            if !self.directories.contains(directory) {
                self.watcher.watch(directory, RecursiveMode::NonRecursive)?;
                self.directories.insert(directory.to_owned());
            }
        }
        Ok(())
    }

    /// Whether the policy's file, or one of those it names, says something else than when this was last asked.
    fn has_changed(&mut self, policy: &Path, named: &[PathBuf]) -> bool {
        let mut hasher = self.keys.build_hasher();
        for file in std::iter::once(policy).chain(named.iter().map(PathBuf::as_path)) {
            if let Err(e) = self.watch(file) {
                tracing::warn!("watching {}: {e}", file.display());
            }
            match std::fs::read(file) {
                Ok(text) => Some(text).hash(&mut hasher),
                // A file that is gone for a moment is about to be replaced.
                Err(_) if file == policy => return false,
                // The policy may name it no more.
                Err(_) => None::<Vec<u8>>.hash(&mut hasher),
            }
        }
        let now = Some(hasher.finish());
        std::mem::replace(&mut self.seen, now) != now
    }
}
