//! The ways of real packets, as they go.

use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::policy::Policy;
use dataplane::worker::DropReason;
use dataplane::worker::shared::Command;
use dataplane::worker::trace::{self, Tracer};

use super::insight::named;
use super::tracking::{COLLECT, WORKER_PATIENCE, hung_up, send};
use super::{Outcome, write};
use crate::context::Context;
use crate::describe::{self, Condition, Side};
use crate::format::since_epoch;
use crate::way::Way;
use crate::wire::{Response, Traced};

/// Writes the ways of packets that meet the conditions until the client goes or the daemon stops.
pub(super) fn trace(conditions: &[Condition], ctx: &Context, out: &mut BufWriter<&UnixStream>) -> io::Result<Outcome> {
    let policy = ctx.shared.current.load().policy;
    let conditions = match conditions.iter().map(|c| condition(&policy, c)).collect() {
        Ok(all) => all,
        Err(e) => return Ok(Err(e)),
    };
    let tracer = Running(Tracer::new(ctx.shared.workers.len(), conditions));
    for worker in 0..ctx.shared.workers.len() {
        if let Err(e) = send(ctx, worker, Command::Trace(tracer.0.clone())) {
            return Ok(Err(e));
        }
    }
    let began = Instant::now();
    while !tracer.0.is_known() {
        if began.elapsed() > WORKER_PATIENCE {
            return Ok(Err("a worker does not answer".to_owned()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    // The client may now rely on it.
    write(out, &Response::Lines { count: 0, text: String::new() })?;
    out.flush()?;
    // One who does not read loses packets, not the connection.
    out.get_ref().set_write_timeout(None)?;
    while !ctx.shared.stop.load(Ordering::Relaxed) && !hung_up(out.get_ref(), COLLECT) {
        let (packets, lost) = tracer.0.take();
        for t in &packets {
            let way = Way::new(&t.account, describe::words(&t.frame));
            let at = since_epoch(t.at).as_secs_f64();
            write(out, &Response::Traced(Box::new(Traced { at, way, frame: hex(&t.frame) })))?;
        }
        if lost > 0 {
            write(out, &Response::Lost(lost))?;
        }
        out.flush()?;
    }
    Ok(Ok(()))
}

/// A trace that ends with its client.
struct Running(Arc<Tracer>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The condition as workers know it.
fn condition(p: &Policy, c: &Condition) -> Result<trace::Condition, String> {
    Ok(match c {
        Condition::V6(v6) => trace::Condition::V6(*v6),
        Condition::Protocol(n) => trace::Condition::Protocol(*n),
        Condition::Address(s, a) => trace::Condition::Address(side(*s), (*a).into()),
        Condition::Port(s, ports) => trace::Condition::Port(side(*s), *ports.start(), *ports.end()),
        Condition::In(name) => trace::Condition::In(named(p, name)?),
        Condition::Out(name) => trace::Condition::Out(named(p, name)?),
        Condition::Dropped(None) => trace::Condition::Dropped(None),
        Condition::Dropped(Some(name)) => {
            let reason = DropReason::from_label(name).ok_or_else(|| format!("there is no reason `{name}`"))?;
            trace::Condition::Dropped(Some(reason))
        }
        Condition::Not(c) => trace::Condition::Not(Box::new(condition(p, c)?)),
    })
}

fn side(s: Side) -> trace::Side {
    match s {
        Side::Source => trace::Side::Source,
        Side::Destination => trace::Side::Destination,
        Side::Either => trace::Side::Either,
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}
