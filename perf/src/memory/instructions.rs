//! Instructions a packet, counted by callgrind: the same in every run, however busy the machine is.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::flows::Kind;
use super::gateway::{Gateway, unhurried};
use super::generator::Plan;
use super::{Section, rules, workers};

/// `sluice-perf count`, which runs inside callgrind.
#[derive(Debug, Args)]
pub(crate) struct Count {
    what: What,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    UdpSnatEstablished,
    TcpSnatData,
    Udp6Established,
    UdpSnatCps,
    /// New connections to servers anywhere, with so many rules
    #[value(name = "udp-snat-cps-10-rules")]
    UdpSnatCps10Rules,
    #[value(name = "udp-snat-cps-10k-rules")]
    UdpSnatCps10kRules,
    /// Two workers, half of the packets handed from one to the other
    UdpSnatHandedOff,
}

/// Flows, and packets of each.
const FLOWS: u32 = 1 << 8;
const PACKETS: u64 = 1 << 18;

/// Runs what is to be counted. Prints the number of packets.
///
/// # Errors
/// When a frame was not forwarded.
pub(crate) fn run(a: &Count) -> Result<()> {
    let kind = match a.what {
        What::TcpSnatData => Kind::Tcp,
        What::Udp6Established => Kind::Udp6,
        _ => Kind::Udp,
    };
    if a.what == What::UdpSnatHandedOff {
        workers::hand_off(PACKETS)?;
        println!("{PACKETS}");
        return Ok(());
    }
    let beginning = match a.what {
        What::UdpSnatCps => Some(Gateway::new(kind, PACKETS as u32)?),
        What::UdpSnatCps10Rules => Some(rules::gateway(10, PACKETS as u32)?),
        What::UdpSnatCps10kRules => Some(rules::gateway(10_000, PACKETS as u32)?),
        _ => None,
    };
    if let Some(mut g) = beginning {
        for part in unhurried(PACKETS as u32) {
            g.run(part, Plan::none())?;
        }
        println!("{PACKETS}");
        return Ok(());
    }
    let mut g = Gateway::new(kind, FLOWS)?;
    // Few enough beside the others not to count.
    g.establish(FLOWS)?;
    g.data(FLOWS, PACKETS)?;
    println!("{PACKETS}");
    Ok(())
}

/// Instructions a packet, where there is a valgrind to count them.
///
/// # Errors
/// When it does not run.
pub(super) fn figures(s: &mut Section) -> Result<()> {
    for what in What::value_variants() {
        let name = what.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        match count(&name)? {
            Some(n) => s.single_below(&format!("instructions-{name}"), n, "instructions/packet", None),
            None => println!("instructions are not counted: there is no valgrind"),
        }
    }
    Ok(())
}

/// Instructions a packet; `None` where there is no valgrind.
///
/// # Errors
/// When it does not run.
fn count(what: &str) -> Result<Option<f64>> {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        // On inside the one, off inside the other.
        .args(["--toggle-collect=*Gateway::measured", "--toggle-collect=*Team::measured"])
        .arg("--toggle-collect=*Generator*receive")
        .arg(std::env::current_exe()?)
        .args(["count", what])
        .output();
    let out = match valgrind {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        out => out.context("cannot run valgrind")?,
    };
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "valgrind: {text}");
    let counted = text.lines().find_map(|l| l.split("Collected : ").nth(1)).context("callgrind counted nothing")?;
    let packets: f64 = String::from_utf8_lossy(&out.stdout).trim().parse()?;
    Ok(Some(counted.trim().parse::<f64>()? / packets))
}
