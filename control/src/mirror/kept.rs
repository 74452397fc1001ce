//! Addresses of the host that only connections of a former policy still carry. Their frames keep going to the
//! workers until the last of these connections is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use dataplane::worker::listing::{Filter, FlowFilter};
use dataplane::worker::shared::{Command, Edit, Shared};

/// How often the workers are asked for such connections.
const PERIOD: Duration = Duration::from_secs(30);

/// The addresses, and the question about one of them that is under way.
#[derive(Debug, Default)]
pub(super) struct Kept {
    addresses: BTreeSet<IpAddr>,
    /// Those still to be asked about in this round.
    round: Vec<IpAddr>,
    began: Option<Instant>,
    asked: Option<Question>,
}

/// How many connections of an address there are; each worker answers twice.
#[derive(Debug)]
struct Question {
    address: IpAddr,
    answers: Receiver<u64>,
    missing: usize,
    sum: u64,
}

impl Kept {
    /// No translation uses the address any more.
    pub(super) fn insert(&mut self, a: IpAddr) {
        self.addresses.insert(a);
    }

    /// Whether connections may still carry the address.
    pub(super) fn contains(&self, a: &IpAddr) -> bool {
        self.addresses.contains(a)
    }

    /// Keeps only addresses that `wanted` says are the host's and not translated otherwise.
    pub(super) fn retain(&mut self, wanted: impl Fn(&IpAddr) -> bool) {
        self.addresses.retain(|a| wanted(a));
    }

    /// Asks, or looks for answers. Returns an address that no connection carries any more; it is not kept then.
    pub(super) fn turn(&mut self, shared: &Shared) -> Option<IpAddr> {
        if let Some(q) = &mut self.asked {
            for n in q.answers.try_iter() {
                q.sum += n;
                q.missing -= 1;
            }
            if q.missing > 0 {
                return None;
            }
            let freed = (q.sum == 0 && self.addresses.remove(&q.address)).then_some(q.address);
            self.asked = None;
            return freed;
        }
        if let Some(address) = self.round.pop() {
            self.asked = ask(shared, address);
        } else if !self.addresses.is_empty() && self.began.is_none_or(|t| t.elapsed() > PERIOD) {
            self.round = self.addresses.iter().copied().collect();
            self.began = Some(Instant::now());
        }
        None
    }
}

/// Asks every worker; `None` when one has enough to do.
fn ask(shared: &Shared, address: IpAddr) -> Option<Question> {
    let missing = 2 * shared.workers.len();
    let (reply, answers) = bounded(missing);
    let side = FlowFilter { destination: Some(address.into()), ..FlowFilter::default() };
    let original = Filter { original: side.clone(), ..Filter::default() };
    let back = Filter { reply: side, ..Filter::default() };
    for filter in [original, back] {
        for w in 0..shared.workers.len() {
            let command = Command::Edit { filter: Box::new(filter.clone()), edit: Edit::Count, reply: reply.clone() };
            shared.command(w, command).ok()?;
        }
    }
    Some(Question { address, answers, missing, sum: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers what the workers were asked, the first question of each with `n`.
    fn answer(shared: &Shared, n: u64) {
        for w in &shared.workers {
            for n in [n, 0] {
                let Some(Command::Edit { edit: Edit::Count, reply, .. }) = w.commands.pop() else {
                    panic!("not asked")
                };
                reply.try_send(n).unwrap();
            }
        }
    }

    #[test]
    fn an_address_is_kept_while_a_connection_carries_it() {
        let shared = Shared::new(2, 1, 16, 16).unwrap();
        let a = "192.0.2.1".parse().unwrap();
        let mut k = Kept::default();
        assert_eq!(k.turn(&shared), None);
        k.insert(a);
        for (n, free) in [(3, None), (1, None), (0, Some(a))] {
            assert_eq!((k.turn(&shared), k.turn(&shared)), (None, None));
            assert_eq!(k.turn(&shared), None, "no worker has answered");
            answer(&shared, n);
            assert_eq!(k.turn(&shared), free);
            assert_eq!(k.contains(&a), free.is_none());
            assert_eq!((k.turn(&shared), shared.workers[0].commands.len()), (None, 0), "a pause");
            k.began = None;
        }
        k.insert(a);
        k.retain(|_| false);
        assert!(!k.contains(&a));
    }
}
