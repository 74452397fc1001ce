//! Samples for `sluice top`.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;
use dataplane::conntrack::Status as Bits;
use dataplane::packet::protocol;
use dataplane::worker::listing::{ConnectionInfo, Filter};

use super::tracking::{each_chunk, hung_up};
use super::{Outcome, write};
use crate::context::Context;
use crate::status;
use crate::wire::{Response, Sample, Talker};

/// The shortest distance of two samples.
const SHORTEST: Duration = Duration::from_millis(100);
/// Looking at all connections may take one part in so many of the time.
const SHARE: u32 = 5;
/// Addresses that are told at most.
const TALKERS: usize = 1000;

/// What is known of an address.
#[derive(Debug, Clone, Copy, Default)]
struct Volume {
    connections: u64,
    packets: u64,
    bytes: u64,
}

/// All connections in short.
#[derive(Debug, Default)]
struct Survey {
    states: BTreeMap<String, u64>,
    sources: HashMap<IpAddr, Volume, RandomState>,
}

impl Survey {
    fn add(&mut self, c: &ConnectionInfo) {
        let name = protocol::name(c.proto);
        let state = match c.state {
            Some(state) => format!("{name} {state}"),
            None if c.status.contains(Bits::SEEN_REPLY) => name.to_owned(),
            None => format!("{name} UNREPLIED"),
        };
        *self.states.entry(state).or_default() += 1;
        let v = self.sources.entry(c.original.source).or_default();
        v.connections += 1;
        v.packets += u64::from(c.original.packets) + u64::from(c.reply.packets);
        v.bytes += c.original.bytes + c.reply.bytes;
    }

    /// Who had most since `before`, `seconds` ago. A connection that has ended in between takes its last
    /// packets with it, so that what is told is never too much.
    fn talkers(&self, before: &Survey, seconds: f64, most: usize) -> Vec<Talker> {
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let mut all: Vec<Talker> = self
            .sources
            .iter()
            .map(|(address, v)| {
                let then = before.sources.get(address).copied().unwrap_or_default();
                let (packets, bytes) = (rate(v.packets, then.packets), rate(v.bytes, then.bytes));
                Talker { address: *address, connections: v.connections, packets, bytes }
            })
            .collect();
        all.sort_by(|a, b| {
            (b.bytes, b.connections, a.address).partial_cmp(&(a.bytes, a.connections, b.address)).unwrap()
        });
        all.truncate(most);
        all
    }
}

/// Writes samples until the client goes or the daemon stops.
pub(super) fn top(
    interval: u64,
    talkers: usize,
    ctx: &Context,
    out: &mut BufWriter<&UnixStream>,
) -> io::Result<Outcome> {
    let start = Instant::now();
    let mut before: Option<(Survey, Instant)> = None;
    while !ctx.shared.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut survey = Survey::default();
        let looked = each_chunk(ctx, &Filter::default(), |chunk| {
            chunk.iter().for_each(|c| survey.add(c));
            Ok(())
        })?;
        if let Err(e) = looked {
            return Ok(Err(e));
        }
        // Rates of the first sample would be since ever.
        if let Some((former, at)) = &before {
            let talkers = survey.talkers(former, (began - *at).as_secs_f64(), talkers.min(TALKERS));
            let sample = Sample {
                at: (began - start).as_secs_f64(),
                status: status::gather(ctx),
                states: survey.states.clone(),
                talkers,
            };
            write(out, &Response::Top(Box::new(sample)))?;
            out.flush()?;
        }
        // The first two come close together, so that there is something to see at once.
        let pause = Duration::from_millis(interval.min(3_600_000)).max(SHORTEST).max(began.elapsed() * SHARE);
        let pause = if before.is_none() { pause.min(SHORTEST * 3) } else { pause };
        before = Some((survey, began));
        let until = began + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            if ctx.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            if hung_up(out.get_ref(), left.min(SHORTEST)) {
                return Ok(Ok(()));
            }
        }
    }
    Ok(Ok(()))
}
