//! What is counted for each worker, and for the rings between it and the kernel.

use std::sync::atomic::Ordering;

use dataplane::io::xsk::{RING, XskStatistics};
use dataplane::worker::HandoffReason;
use dataplane::worker::counters::{Counter, InterfaceCounters};

use super::collect::{by_worker, each, number, truth};
use super::families as f;
use super::page::Page;
use crate::context::Context;

pub(super) fn workers(ctx: &Context, page: &mut Page) {
    let states = || ctx.workers.iter().enumerate().map(|(i, w)| (i.to_string(), w));
    let mut info = page.family(&f::WORKER_INFO);
    for (worker, w) in states() {
        info.add(&[&worker, &w.cpu.map_or(String::new(), |c| c.to_string())], 1.0);
    }
    let mut up = page.family(&f::WORKER_UP);
    states().for_each(|(worker, w)| up.add(&[&worker], truth(w.alive.load(Ordering::Relaxed))));
    let mut time = page.family(&f::WORKER_SECONDS);
    for (worker, c) in each(ctx) {
        for (state, n) in [("busy", &c.busy_ns), ("idle", &c.idle_ns), ("sleep", &c.sleep_ns)] {
            time.add(&[&worker, state], number(n) / 1e9);
        }
    }
    let mut bursts = page.family(&f::BURST_TIME);
    for (worker, c) in each(ctx) {
        bursts.add_durations(&[&worker], &c.burst_time, c.busy_ns.get());
    }
    let mut handed_off = page.family(&f::HANDED_OFF);
    for (worker, c) in each(ctx) {
        for r in HandoffReason::ALL {
            handed_off.add(&[r.label(), &worker], number(&c.handed_off[*r as usize]));
        }
    }
    by_worker(
        ctx,
        page,
        &[
            (&f::TAKEN_OVER, |c| &c.taken_over),
            (&f::PUNTED, |c| &c.punted),
            (&f::CHECKSUMS, |c| &c.checksums_completed),
        ],
    );
}

pub(super) fn frames(ctx: &Context, page: &mut Page) {
    by_worker(ctx, page, &[(&f::FRAMES_SIZE, |c| &c.frames_total)]);
    let mut frames = page.family(&f::FRAMES);
    for (worker, c) in each(ctx) {
        let held = |get: fn(&InterfaceCounters) -> &Counter| c.interfaces.iter().map(|i| number(get(i))).sum();
        for (place, n) in [
            ("free", number(&c.frames_free)),
            ("receive", held(|i| &i.frames_receive)),
            ("transmit", held(|i| &i.frames_transmit)),
            ("lent", number(&c.frames_lent)),
            ("waiting", number(&c.frames_waiting)),
        ] {
            frames.add(&[&worker, place], n);
        }
    }
    let policy = ctx.shared.current.load().policy;
    let devices = policy.devices();
    let mut rings = page.family(&f::RING_FRAMES);
    for (worker, c) in each(ctx) {
        for (_, interfaces) in &devices {
            let (p, i) = (&policy.interfaces[usize::from(interfaces[0])], c.interface(interfaces[0]));
            rings.add(&[&p.name, &p.device, &worker, "receive"], number(&i.frames_receive));
            rings.add(&[&p.name, &p.device, &worker, "transmit"], number(&i.frames_transmit));
        }
    }
    page.single(&f::RING_SIZE, f64::from(RING));
}

/// What the kernel counts for each socket.
pub(super) fn sockets(ctx: &Context, page: &mut Page) {
    let names = &ctx.shared.current.load().policy.interfaces.clone();
    type Of = fn(&XskStatistics) -> u64;
    let families: [(_, Of); 6] = [
        (&f::XSK_DROPPED, |s| s.rx_dropped),
        (&f::XSK_RING_FULL, |s| s.rx_ring_full),
        (&f::XSK_FILL_EMPTY, |s| s.fill_ring_empty),
        (&f::XSK_TX_EMPTY, |s| s.tx_ring_empty),
        (&f::XSK_RX_INVALID, |s| s.rx_invalid),
        (&f::XSK_TX_INVALID, |s| s.tx_invalid),
    ];
    let all = ctx.socket_statistics();
    for (family, get) in families {
        let mut samples = page.family(family);
        for (q, s) in &all {
            let i = &names[q.interface];
            samples.add(&[&i.name, &i.device, &q.queue.to_string()], get(s) as f64);
        }
    }
}
