//! What is looked at before anything is opened.

use std::fs;

use anyhow::bail;
use config::Config;
use dataplane::io::ethtool;
use dataplane::io::link::Link;
use dataplane::policy::Policy;

/// Capabilities that are needed, with their numbers in linux/capability.h. BPF programs need CAP_BPF, or
/// CAP_SYS_ADMIN where the container runtime does not know that.
const NEEDED: [(&str, &[u32]); 4] = [
    ("CAP_NET_ADMIN", &[12]),
    ("CAP_NET_RAW", &[13]),
    ("CAP_IPC_LOCK", &[14]),
    ("CAP_BPF (or CAP_SYS_ADMIN)", &[39, 21]),
];

/// Checks that the process has the capabilities it will need.
pub(super) fn privileges() -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    // Without /proc nothing can be said beforehand.
    let Some(effective) = effective.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()) else { return Ok(()) };
    let missing = missing(effective);
    if !missing.is_empty() {
        bail!(
            "missing {}: run sluice as root, or give it these capabilities (AmbientCapabilities= in a systemd unit, \
             --cap-add for a container)",
            missing.join(", ")
        );
    }
    Ok(())
}

fn missing(effective: u64) -> Vec<&'static str> {
    NEEDED.iter().filter(|(_, any)| any.iter().all(|n| effective >> n & 1 == 0)).map(|(name, _)| *name).collect()
}

/// Says what the kernel's own forwarding means together with `on_failure`.
pub(super) fn forwarding(open: bool) {
    let on = |path: &str| fs::read_to_string(path).is_ok_and(|s| s.trim() == "1");
    let forwards = on("/proc/sys/net/ipv4/ip_forward") || on("/proc/sys/net/ipv6/conf/all/forwarding");
    match (open, forwards) {
        (true, false) => tracing::warn!(
            "io.on_failure is open, but the kernel does not forward: set the sysctl net.ipv4.ip_forward to 1, or what \
             the kernel gets after a crash goes nowhere"
        ),
        (false, true) => tracing::info!(
            "the kernel forwards too (net.ipv4.ip_forward or its IPv6 counterpart): sluice keeps transit traffic from \
             it while it runs and after a crash, but not after a clean stop"
        ),
        _ => {}
    }
}

/// Refuses devices with VLANs whose cards take the tags off: the frames of all VLANs would look untagged.
pub(super) fn vlan_tags(policy: &Policy) -> anyhow::Result<()> {
    for (device, interfaces) in policy.devices() {
        let mut interfaces = interfaces.iter().map(|i| &policy.interfaces[usize::from(*i)]);
        let Some(i) = interfaces.find(|i| i.vlan != 0) else { continue };
        // A device that is not there, or does not answer, is reported by others.
        let driver = ethtool::driver(device).ok().flatten();
        let strips = ethtool::strips_vlan(device).ok().flatten() == Some(true);
        match tags(driver.as_deref().unwrap_or_default(), strips) {
            Tags::InFrames => {}
            Tags::AsTheOtherEndDoes => tracing::info!(
                "{device} is a veth: its other end must write VLAN tags into the frames, or they look untagged here: \
                 `ethtool -K PEER txvlan off` there"
            ),
            Tags::TakenOff => bail!(
                "interface {}: {device} takes VLAN tags off the frames it receives, so that all of them look untagged: \
                 turn that off with `ethtool -K {device} rxvlan off`",
                i.name
            ),
            Tags::TakenOffBelow => bail!(
                "interface {}: {device} gets its frames from another device, without their VLAN tags: name that device instead",
                i.name
            ),
        }
    }
    Ok(())
}

/// Where the VLAN tags of received frames are when the XDP program sees them.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    InFrames,
    /// In the frames or beside them, as the sender left them.
    AsTheOtherEndDoes,
    TakenOff,
    /// The kernel took them off before it passed the frames up.
    TakenOffBelow,
}

fn tags(driver: &str, strips: bool) -> Tags {
    match driver {
        // Its own setting has no effect.
        "veth" => Tags::AsTheOtherEndDoes,
        "bridge" | "macvlan" | "802.1Q VLAN Support" => Tags::TakenOffBelow,
        _ if strips => Tags::TakenOff,
        _ => Tags::InFrames,
    }
}

/// Whether there is no such device. One that cannot be looked at counts as there: opening it says why.
pub(super) fn absent(device: &str) -> bool {
    Link::find(device).is_err_and(|e| e.error.raw_os_error() == Some(libc::ENODEV))
}

/// The CPU of each worker, `None` for one that is not pinned; as many as there are to be workers.
pub(super) fn cpus(config: &Config, queues: &[(String, u32)]) -> anyhow::Result<Vec<Option<usize>>> {
    let available: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    let least = queues.iter().map(|(_, n)| *n as usize).min().unwrap_or(1);
    if let Some(cpus) = &config.workers.cpus {
        if let Some(cpu) = cpus.iter().find(|c| !available.contains(c)) {
            bail!("workers.cpus names CPU {cpu}, which sluice may not use: it may use {}", list(&available));
        }
        return Ok(cpus.iter().map(|c| Some(*c)).collect());
    }
    let count = config.workers.count.map_or(least.min(available.len().max(1)), usize::from);
    if count > available.len() {
        tracing::warn!("{count} workers share {} CPUs; they are not pinned", available.len());
        return Ok(vec![None; count]);
    }
    Ok(available.into_iter().take(count).map(Some).collect())
}

fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_vlan_tags_are() {
        assert_eq!(tags("veth", true), Tags::AsTheOtherEndDoes);
        assert_eq!(tags("ixgbe", true), Tags::TakenOff);
        assert_eq!(tags("ixgbe", false), Tags::InFrames);
        assert_eq!(tags("macvlan", false), Tags::TakenOffBelow);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert!(missing(u64::MAX).is_empty());
        assert_eq!(missing(0).len(), 4);
        // Docker's default set has CAP_NET_RAW.
        assert_eq!(missing(0xa804_25fb), ["CAP_NET_ADMIN", "CAP_IPC_LOCK", "CAP_BPF (or CAP_SYS_ADMIN)"]);
        assert_eq!(missing(1 << 12 | 1 << 13 | 1 << 14 | 1 << 21), [""; 0]);
    }
}
