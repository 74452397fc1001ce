//! The kernel as a gateway, with nftables.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use super::GATEWAY_CPU;
use crate::sys;
use crate::veth::lab::{self, INSIDE_PORT, Lab, OUTSIDE_PORT, enter, run};

/// The policy that Sluice has.
const RULES: &str = "
table ip bench {
  chain translate {
    type nat hook postrouting priority srcnat; policy accept;
    oifname d1 ip saddr 10.81.0.0/16 masquerade
  }
  chain transit {
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname d0 oifname d1 accept
  }
}
";

/// Starts nftables masquerade. Its work is done in the softirq of whoever sends, on the hosts' CPU, until threads
/// [take it over](napi_on_gateway_cpu).
///
/// # Errors
/// When the kernel has no nftables.
pub(super) fn masquerade(lab: &Lab) -> Result<()> {
    let ns = lab.gateway();
    lab::set(&ns, "ipv4/ip_forward", "1")?;
    lab::feed(Command::new("nsenter").args([&enter(&ns), "nft", "-f", "-"]), RULES)
}

/// Lets threads on the gateway's CPU receive what comes to it, instead of whoever sends.
///
/// # Errors
/// When the kernel has no NAPI threads.
pub(super) fn napi_on_gateway_cpu(lab: &Lab) -> Result<Vec<u32>> {
    let ns = lab.gateway();
    let before = napi_threads()?;
    for port in [INSIDE_PORT, OUTSIDE_PORT] {
        // `ip netns exec` rather than nsenter: /sys shows the devices of the namespace it was mounted in.
        let script = format!("echo 1 > /sys/class/net/{port}/threaded");
        run(Command::new("ip").args(["netns", "exec", &ns, "sh", "-c", &script]))?;
    }
    let threads: Vec<u32> = napi_threads()?.difference(&before).copied().collect();
    if threads.is_empty() {
        bail!("the kernel made no NAPI threads for {ns}");
    }
    for t in &threads {
        let t = t.to_string();
        run(Command::new("taskset").args(["-p", "-c", &GATEWAY_CPU.to_string(), &t]))?;
        // The other gateways inherit this process's niceness.
        run(Command::new("renice").args(["-n", &sys::niceness().to_string(), "-p", &t]))?;
    }
    Ok(threads)
}

fn napi_threads() -> Result<BTreeSet<u32>> {
    let mut threads = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let Ok(pid) = entry.file_name().to_string_lossy().parse()
            && name.starts_with("napi/")
        {
            threads.insert(pid);
        }
    }
    Ok(threads)
}
