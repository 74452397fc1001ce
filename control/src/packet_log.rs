//! Writes to the log what rules log: workers queue records, and never wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::conntrack::tcp::flags;
use dataplane::packet::protocol;
use dataplane::worker::logged::LogRecord;
use dataplane::worker::shared::Shared;

/// How often the queue is looked at. Nobody signals it: that would cost a worker a system call.
const PERIOD: Duration = Duration::from_millis(50);

/// Writes what is queued until the workers are told to stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        drain(&shared);
        tokio::time::sleep(PERIOD).await;
    }
}

/// Writes what is queued now.
pub(crate) fn drain(shared: &Shared) {
    // Bounded: what comes meanwhile is for the next time.
    for _ in 0..shared.logged.len() {
        let Some(r) = shared.logged.pop() else { return };
        write(&r);
    }
}

fn write(r: &LogRecord) {
    let p = &r.policy;
    let Some(rule) = p.rules.get(usize::from(r.rule)) else { return };
    let interface = |i: u16| p.interfaces.get(usize::from(i));
    let name = |i: u16| interface(i).map_or("", |i| &i.name);
    let zone = |i: u16| interface(i).and_then(|i| p.zones.get(usize::from(i.zone))).map_or("", String::as_str);
    let prefix = rule.log.as_ref().map(|l| l.prefix.as_str()).filter(|p| !p.is_empty());
    tracing::info!(
        target: "sluice::packet",
        rule = rule.name,
        verdict = %rule.action.name(),
        state = %r.state.label(),
        from = %zone(r.ingress),
        to = %zone(r.egress),
        in = %name(r.ingress),
        out = %name(r.egress),
        src = %r.source,
        dst = %r.destination,
        proto = %protocol_name(r.protocol),
        sport = r.ports.map(|p| p.0),
        dport = r.ports.map(|p| p.1),
        icmp_type = r.icmp.map(|t| t >> 8),
        icmp_code = r.icmp.map(|t| t & 0xff),
        flags = r.tcp_flags.map(|f| display(tcp_flags(f))),
        len = r.length,
        mark = (r.mark != 0).then(|| display(format!("{:#x}", r.mark))),
        "{}", prefix.unwrap_or("packet")
    );
}

fn protocol_name(number: u8) -> String {
    match protocol::name(number) {
        "unknown" => number.to_string(),
        name => name.to_owned(),
    }
}

fn tcp_flags(bits: u8) -> String {
    let set = flags::NAMES.iter().filter(|(_, f)| bits & f != 0);
    set.map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}
