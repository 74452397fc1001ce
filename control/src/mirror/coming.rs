//! A policy that is about to take effect: its translated addresses must lead to the workers before the first
//! connection is translated by it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataplane::policy::Policy;
use dataplane::worker::shared::Shared;

/// How long the mirror may take; it answers between two changes of the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a coming policy is announced to the mirror.
#[derive(Debug, Default)]
pub(crate) struct Coming {
    state: Mutex<State>,
    prepared: Condvar,
}

#[derive(Debug, Default)]
struct State {
    policy: Option<Arc<Policy>>,
    prepared: bool,
}

impl Coming {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a policy, and waits until the steering programs treat its addresses as it wants.
    ///
    /// # Errors
    /// When the mirror does not answer.
    pub(crate) fn announce(&self, policy: &Arc<Policy>, shared: &Shared) -> Result<(), String> {
        *self.lock() = State { policy: Some(policy.clone()), prepared: false };
        shared.control_ready.signal();
        let (state, late) = self
            .prepared
            .wait_timeout_while(self.lock(), PATIENCE, |s| !s.prepared)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if late.timed_out() {
            self.withdraw();
            return Err("the thread that follows the kernel's routes does not answer".to_owned());
        }
        Ok(())
    }

    /// The policy is in force, or will not be.
    pub(crate) fn withdraw(&self) {
        *self.lock() = State::default();
    }

    /// The policy that is about to take effect.
    pub(super) fn policy(&self) -> Option<Arc<Policy>> {
        self.lock().policy.clone()
    }

    /// Whether somebody waits for [`Coming::prepared`].
    pub(super) fn is_awaited(&self) -> bool {
        let state = self.lock();
        state.policy.is_some() && !state.prepared
    }

    /// The steering programs know of the policy's addresses.
    pub(super) fn prepared(&self) {
        self.lock().prepared = true;
        self.prepared.notify_all();
    }
}
