//! `sluice status`.

use std::fmt::Write;
use std::io::stdout;
use std::process::ExitCode;
use std::time::SystemTime;

use dataplane::worker::DropReason;

use super::Client;
use super::client::{ask, print};
use crate::format::since_epoch;
use crate::status::{Policy, Status};
use crate::wire::{Request, Response};

pub(super) fn run(client: &Client) -> anyhow::Result<ExitCode> {
    let mut ready = false;
    ask(&client.socket, &Request::Status, |r| {
        if let Response::Status(s) = r {
            ready = s.ready;
            let text = if client.json { serde_json::to_string_pretty(&s)? } else { text(&s) };
            print(&mut stdout(), text.trim_end())?;
        }
        Ok(())
    })?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The status for people.
fn text(s: &Status) -> String {
    let mut t = String::new();
    write_text(s, &mut t).expect("a String takes everything");
    t
}

fn write_text(s: &Status, t: &mut String) -> std::fmt::Result {
    match &s.reason {
        None => writeln!(t, "sluice {} forwards packets", s.version)?,
        Some(r) => writeln!(t, "sluice {} does not forward: {r}", s.version)?,
    }
    writeln!(t, "  up {}, process {}", duration(s.uptime_seconds), s.pid)?;
    write_policy(&s.policy, t)?;

    writeln!(t, "\ninterfaces")?;
    for i in &s.interfaces {
        let up = if i.up { "up" } else { "DOWN" };
        let vlan = i.vlan.map_or(String::new(), |v| format!(" VLAN {v}"));
        writeln!(t, "  {} ({}{vlan}, zone {}): {up}, {}, mtu {}", i.name, i.device, i.zone, i.mac, i.mtu)?;
        writeln!(
            t,
            "    addresses {}",
            if i.addresses.is_empty() { "none".to_owned() } else { i.addresses.join(" ") }
        )?;
        for q in &i.queues {
            writeln!(t, "    queue {}: worker {}, {} XDP, {}", q.queue, q.worker, q.xdp, q.mode)?;
        }
        let f = &i.traffic;
        writeln!(
            t,
            "    received {} packets, {} bytes; sent {} packets, {} bytes",
            f.rx_packets, f.rx_bytes, f.tx_packets, f.tx_bytes
        )?;
    }

    writeln!(t, "\nworkers")?;
    for (n, w) in s.workers.iter().enumerate() {
        let cpu = w.cpu.map_or("not pinned".to_owned(), |c| format!("cpu {c}"));
        let state = if w.alive { "" } else { " ENDED," };
        writeln!(t, "  {n}:{state} {cpu}, load {:.1} %, {} connections", w.load * 100.0, w.connections)?;
        writeln!(t, "    handed off {}, taken over {}, to the kernel {}", w.handed_off, w.taken_over, w.punted)?;
        let f = &w.frames;
        writeln!(
            t,
            "    frames {} = {} free + {} receive + {} transmit + {} lent + {} waiting",
            f.total, f.free, f.receive, f.transmit, f.lent, f.waiting
        )?;
    }

    let c = &s.connections;
    writeln!(t, "\nconnections {} of {} ({} IPv4, {} IPv6)", c.ipv4 + c.ipv6, c.max, c.ipv4, c.ipv6)?;
    let created: Vec<_> = c.created.iter().filter(|(_, n)| **n > 0).map(|(p, n)| format!("{p} {n}")).collect();
    let created = if created.is_empty() { "none".to_owned() } else { created.join(", ") };
    writeln!(
        t,
        "  created {created}; expired {}, deleted {}, dropped early {}",
        c.expired, c.deleted, c.early_dropped
    )?;

    writeln!(t, "\ndropped packets")?;
    if s.drops.is_empty() {
        writeln!(t, "  none")?;
    }
    for (reason, n) in &s.drops {
        let meaning = DropReason::from_label(reason).map_or("", DropReason::describe);
        writeln!(t, "  {reason:<20} {n:>10}  {meaning}")?;
    }

    let m = &s.mirror;
    writeln!(t, "\nfrom the kernel")?;
    writeln!(
        t,
        "  {} IPv4 and {} IPv6 routes, {} and {} neighbours",
        m.routes[0], m.routes[1], m.neighbours[0], m.neighbours[1]
    )?;
    writeln!(t, "  published {} times, read again {} times", m.publishes, m.resyncs)
}

fn write_policy(p: &Policy, t: &mut String) -> std::fmt::Result {
    let now = since_epoch(SystemTime::now()).as_secs();
    let ago = |time: u64| format!("{} ago", duration(now.saturating_sub(time)));
    writeln!(t, "\npolicy {}", p.file)?;
    writeln!(t, "  generation {}, read {}", p.generation, ago(p.loaded))?;
    writeln!(t, "  {} rules, {} source and {} destination translations", p.rules, p.source_nat, p.destination_nat)?;
    if let Some(u) = &p.unconfirmed {
        let left = duration(u.seconds_left);
        writeln!(t, "  UNCONFIRMED: returns to generation {} in {left} unless `sluice confirm` comes", u.back_to)?;
    }
    for f in &p.former {
        writeln!(t, "  before it: generation {} of {}, read {}", f.generation, f.file, ago(f.loaded))?;
    }
    match &p.last_failure {
        Some(f) if f.latest => writeln!(t, "  THE LAST RELOAD FAILED {} ({}): {}", ago(f.time), f.cause, f.message),
        Some(f) => writeln!(t, "  last failed reload {} ({}): {}", ago(f.time), f.cause, f.message),
        None => Ok(()),
    }
}

/// A time for people, two units at most.
pub(super) fn duration(seconds: u64) -> String {
    let (d, h, m) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{m} min {} s", seconds % 60),
        (0, ..) => format!("{h} h {m} min"),
        _ => format!("{d} days {h} h"),
    }
}
