//! What clients ask about connections: listings, changes, events, expectations.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use dataplane::worker::events::{Kinds, Subscription};
use dataplane::worker::listing::{ConnectionInfo, Filter as Conditions};
use dataplane::worker::shared::{Command, Edit};

use super::{Outcome, write};
use crate::context::Context;
use crate::wire::{EventName, Expectation, Filter, Response, Style, TrackingStats};
use crate::{format, sys};

/// How long a worker may take to answer. It goes on with its traffic first, but not that long.
pub(super) const WORKER_PATIENCE: Duration = Duration::from_secs(10);
/// Chunks of connections a worker may be ahead of the client.
const CHUNKS: usize = 8;
/// How often events are collected.
pub(super) const COLLECT: Duration = Duration::from_millis(20);

/// Writes the lines of the connections that meet the conditions.
pub(super) fn list(filter: &Filter, style: Style, ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    let conditions = match filter.conditions() {
        Ok(c) => c,
        Err(e) => return Ok(Err(e)),
    };
    each_chunk(ctx, &conditions, |chunk| {
        let mut text = String::with_capacity(chunk.len() * 192);
        for c in chunk {
            format::connection(c, style, &mut text);
        }
        write(out, &Response::Lines { count: chunk.len() as u64, text })
    })
}

/// Calls `each` with all connections that meet the conditions, some at a time.
pub(super) fn each_chunk(
    ctx: &Context,
    conditions: &Conditions,
    mut each: impl FnMut(&[ConnectionInfo]) -> io::Result<()>,
) -> io::Result<Outcome> {
    // One worker after the other: the copies that wait for a slow client stay few.
    for worker in 0..ctx.shared.workers.len() {
        let filter = Box::new(conditions.clone());
        let chunks = match order(ctx, worker, CHUNKS, |reply| Command::List { filter, reply }) {
            Ok(receiver) => receiver,
            Err(e) => return Ok(Err(e)),
        };
        loop {
            match chunks.recv_timeout(WORKER_PATIENCE) {
                Ok(chunk) => each(&chunk)?,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Ok(Err(silent(worker))),
            }
        }
    }
    Ok(Ok(()))
}

/// Writes how many connections meet the conditions. Without conditions the workers need not look.
pub(super) fn count(filter: &Filter, ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    if *filter != Filter::default() {
        return edit(filter, Edit::Count, ctx, out);
    }
    let counters = ctx.shared.workers.iter().map(|w| &w.counters);
    let all = counters.map(|c| c.connections4.get() + c.connections6.get()).sum();
    write(out, &Response::Count(all))?;
    Ok(Ok(()))
}

/// Does something to the connections that meet the conditions, and writes how many they were.
pub(super) fn edit(filter: &Filter, edit: Edit, ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    let all = || {
        let filter = Box::new(filter.conditions()?);
        let command = |reply| Command::Edit { filter: filter.clone(), edit, reply };
        let workers = 0..ctx.shared.workers.len();
        // All are ordered before the first is waited for.
        let receivers = workers.map(|w| order(ctx, w, 1, command)).collect::<Result<Vec<Receiver<u64>>, String>>()?;
        let numbers = receivers.iter().enumerate().map(|(w, r)| r.recv_timeout(WORKER_PATIENCE).map_err(|_| silent(w)));
        numbers.sum::<Result<u64, String>>()
    };
    match all() {
        Ok(n) => write(out, &Response::Count(n)).map(Ok),
        Err(e) => Ok(Err(e)),
    }
}

/// Writes events as they happen until the client goes or the daemon stops.
pub(super) fn events(
    filter: &Filter,
    kinds: &[EventName],
    style: Style,
    ctx: &Context,
    out: &mut BufWriter<&UnixStream>,
) -> io::Result<Outcome> {
    let conditions = match filter.conditions() {
        Ok(c) => c,
        Err(e) => return Ok(Err(e)),
    };
    let wanted = |k| kinds.is_empty() || kinds.contains(&k);
    let kinds =
        Kinds { new: wanted(EventName::New), update: wanted(EventName::Update), destroy: wanted(EventName::Destroy) };
    let listener = Listener(Subscription::new(ctx.shared.workers.len(), kinds, conditions));
    for worker in 0..ctx.shared.workers.len() {
        if let Err(e) = send(ctx, worker, Command::Subscribe(listener.0.clone())) {
            return Ok(Err(e));
        }
    }
    // The client may now rely on it.
    write(out, &Response::Lines { count: 0, text: String::new() })?;
    out.flush()?;
    let stream = *out.get_ref();
    // One who does not read loses events, not the connection.
    stream.set_write_timeout(None)?;
    while !ctx.shared.stop.load(Ordering::Relaxed) {
        if hung_up(stream, COLLECT) {
            break;
        }
        let (events, lost) = listener.0.take();
        if !events.is_empty() {
            let mut text = String::with_capacity(events.len() * 256);
            for e in &events {
                format::event(e, style, &mut text);
            }
            write(out, &Response::Lines { count: events.len() as u64, text })?;
        }
        if lost > 0 {
            write(out, &Response::Lost(lost))?;
        }
        out.flush()?;
    }
    Ok(Ok(()))
}

/// Waits, and tells whether the client has gone: one that has asked says no more, so what can be read is its end.
pub(super) fn hung_up(stream: &UnixStream, wait: Duration) -> bool {
    sys::readable(&[stream.as_raw_fd()], wait)
}

/// A subscription that ends with its client.
struct Listener(Arc<Subscription>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Writes the connections that helpers expect.
pub(super) fn expectations(ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    let now = ctx.shared.now();
    for e in ctx.shared.expectations.list().iter().filter(|e| !e.expires.reached(now)) {
        write(out, &Response::Expectation(Expectation::new(e, now)))?;
    }
    Ok(Ok(()))
}

/// Writes what each worker has counted.
pub(super) fn stats(ctx: &Context, out: &mut impl Write) -> io::Result<Outcome> {
    for (i, w) in ctx.shared.workers.iter().enumerate() {
        write(out, &Response::Stats(TrackingStats::new(i, &w.counters)))?;
    }
    Ok(Ok(()))
}

pub(super) fn order<T>(
    ctx: &Context,
    worker: usize,
    capacity: usize,
    command: impl FnOnce(channel::Sender<T>) -> Command,
) -> Result<Receiver<T>, String> {
    let (sender, receiver) = channel::bounded(capacity);
    send(ctx, worker, command(sender))?;
    Ok(receiver)
}

pub(super) fn send(ctx: &Context, worker: usize, mut command: Command) -> Result<(), String> {
    let began = Instant::now();
    while let Err(refused) = ctx.shared.command(worker, command) {
        if began.elapsed() > WORKER_PATIENCE {
            return Err(silent(worker));
        }
        command = refused;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(super) fn silent(worker: usize) -> String {
    format!("worker {worker} does not answer")
}
