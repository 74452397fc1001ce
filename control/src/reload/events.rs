//! What changes the policy without a client: SIGHUP, a changed file, a confirmation that does not come.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use config::NamedFile;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Cause, Policies};
use crate::context::Context;

/// How long a file must be left alone before it is read: editors and copies write in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// How long changes that do not end may put off the reading.
const LONGEST: Duration = Duration::from_secs(2);
/// How often the thread looks for a confirmation that is late, and whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(200);

/// How many symbolic links the way to a file may have, as for the kernel.
const LINKS: usize = 40;

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
            && w.names_others(policies.named())
        {
            quiet = quiet.or_else(|| Some((now + QUIET, now + LONGEST)));
        }
        if let Some(w) = &mut watched
            && quiet.is_some_and(|(at, latest)| at.min(latest) <= Instant::now())
        {
            quiet = None;
            if w.has_changed(policies.file()) {
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
    /// What the policy's file named when it was last tried.
    named: Arc<[NamedFile]>,
    keys: RandomState,
    /// What stood for the texts of the files when they were last looked at.
    seen: HashMap<PathBuf, Option<u64>>,
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
        let (named, keys, seen) = (policies.named(), RandomState::new(), HashMap::new());
        let mut w = Watched { watcher, named, keys, seen };
        w.watch(policies.file()).with_context(|| format!("watching {}", policies.file().display()))?;
        Ok(w)
    }

    /// Watches where something may happen to a file. A directory that was replaced is another one, so each is
    /// watched anew.
    fn watch(&mut self, file: &Path) -> notify::Result<()> {
        for directory in directories(&std::path::absolute(file)?) {
            self.watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        }
        Ok(())
    }

    /// Whether the policy's file was tried again since this was last asked: it may name other files then.
    fn names_others(&mut self, named: Arc<[NamedFile]>) -> bool {
        !Arc::ptr_eq(&std::mem::replace(&mut self.named, named), &self.named)
    }

    /// Whether the policy's file, or one of those it names, says something else than when this was last asked,
    /// or, of a file that was not asked about, than when the policy was tried.
    fn has_changed(&mut self, policy: &Path) -> bool {
        let named = self.named.clone();
        for file in std::iter::once(policy).chain(named.iter().map(|f| f.path.as_path())) {
            if let Err(e) = self.watch(file) {
                tracing::warn!("watching {}: {e}", file.display());
            }
        }
        // A file that is gone for a moment is about to be replaced.
        let Ok(text) = std::fs::read(policy) else { return false };
        let text = Some(self.keys.hash_one(text));
        let mut changed = self.seen.get(policy) != Some(&text);
        let mut seen = HashMap::from([(policy.to_owned(), text)]);
        for tried in &*named {
            let now = NamedFile::look(&tried.path).digest;
            changed |= *self.seen.get(&tried.path).unwrap_or(&tried.digest) != now;
            seen.insert(tried.path.clone(), now);
        }
        self.seen = seen;
        changed
    }
}

/// The directories that tell of a file: its own, as a file that is replaced is seen there only, or the nearest that
/// there is. Where the way to the file leads over symbolic links, those that these stand in and lead to as well.
fn directories(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut at = file.to_owned();
    for _ in 0..LINKS {
        found.extend(at.ancestors().skip(1).find(|d| d.is_dir()).map(Path::to_owned));
        let link = at.ancestors().find_map(|a| Some((a, a.parent()?, std::fs::read_link(a).ok()?)));
        let Some((link, parent, target)) = link else { break };
        let rest = at.strip_prefix(link).unwrap_or(Path::new(""));
        found.insert(parent.to_owned());
        let leads = parent.join(target);
        at = if rest.as_os_str().is_empty() { leads } else { leads.join(rest) };
    }
    found
}
