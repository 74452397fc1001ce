//! Sources whose port a collision has changed, and what it was changed to.

use std::collections::HashMap;

use ahash::RandomState;

use crate::conntrack::Connection;
use crate::packet::{Ip, protocol};

/// Address, port and protocol of a source.
type Source<A> = (A, u16, u8);

/// For each source that has connections with a changed port: the newest of these, and how many there are.
#[derive(Debug)]
pub struct Moved<A>(HashMap<Source<A>, (A, u16, u32), RandomState>);

impl<A> Default for Moved<A> {
    fn default() -> Self {
        Moved(HashMap::default())
    }
}

impl<A: Ip> Moved<A> {
    /// What the source is translated to for other remotes.
    pub fn get(&self, source: Source<A>) -> Option<(A, u16)> {
        // Nearly always empty: collisions are rare.
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&source).map(|(a, port, _)| (*a, *port))
    }

    /// A connection has come.
    pub fn added(&mut self, c: &Connection<A>) {
        if let Some((source, to)) = moved(c) {
            let e = self.0.entry(source).or_insert((to.0, to.1, 0));
            (e.0, e.1) = to;
            e.2 += 1;
        }
    }

    /// A connection has gone.
    pub fn removed(&mut self, c: &Connection<A>) {
        if let Some((source, _)) = moved(c)
            && let Some(e) = self.0.get_mut(&source)
        {
            e.2 -= 1;
            if e.2 == 0 {
                self.0.remove(&source);
            }
        }
    }
}

/// The source of a connection whose port was changed, and what it was changed to.
fn moved<A: Ip>(c: &Connection<A>) -> Option<(Source<A>, (A, u16))> {
    let port = match c.proto {
        p if protocol::has_ports(p) => c.reply.dport,
        p if p == A::ICMP => c.reply.sport,
        _ => return None,
    };
    (port != c.original.sport).then_some(((c.original.src, c.original.sport, c.proto), (c.reply.dst, port)))
}
