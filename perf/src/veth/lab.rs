//! A client, a gateway and a server, each in a network namespace of its own:
//!
//! ```text
//! client (c0) ──── (d0) gateway (d1) ──── (s0) server
//! ```

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use crate::arguments::Mac;
use crate::sys;

/// What the names of all namespaces begin with; the process's number follows.
const STEM: &str = "sluice-perf";

pub(super) const CLIENT_PORT: &str = "c0";
pub(super) const INSIDE_PORT: &str = "d0";
pub(super) const OUTSIDE_PORT: &str = "d1";
pub(super) const SERVER_PORT: &str = "s0";

pub(super) const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
pub(super) const INSIDE_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
pub(super) const OUTSIDE_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
pub(super) const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 1);
/// The address that clients are translated to.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// First of the generator's clients, of the servers it sends to, and the net that these are in.
pub(super) const LOAD_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 81, 16, 0);
pub(super) const LOAD_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const LOAD_NET: &str = "203.0.113.0/24";

/// The three namespaces; dropped, they are removed.
pub(super) struct Lab {
    prefix: String,
}

impl Lab {
    /// Makes the namespaces and the two links, with so many queues each, without checksum and segmentation offload at
    /// the hosts: through AF_XDP and XDP redirects frames go as they are, and nobody would complete them.
    ///
    /// # Errors
    /// When one of the tools fails.
    pub(super) fn new(name: &str, queues: usize) -> Result<Self> {
        let lab = Lab { prefix: format!("{STEM}{}-{name}", std::process::id()) };
        for ns in lab.all() {
            run(Command::new("ip").args(["netns", "add", &ns]))?;
        }
        let (client, gateway, server) = (lab.client(), lab.gateway(), lab.server());
        cable((&client, CLIENT_PORT, CLIENT_MAC), (&gateway, INSIDE_PORT, INSIDE_MAC), queues)?;
        cable((&server, SERVER_PORT, SERVER_MAC), (&gateway, OUTSIDE_PORT, OUTSIDE_MAC), queues)?;
        let ports = [
            (&client, CLIENT_PORT, CLIENT, 16),
            (&gateway, INSIDE_PORT, INSIDE, 16),
            (&gateway, OUTSIDE_PORT, OUTSIDE, 24),
            (&server, SERVER_PORT, SERVER, 24),
        ];
        for (ns, port, address, length) in ports {
            set(ns, &format!("ipv6/conf/{port}/disable_ipv6"), "1")?;
            batch(ns, &[&format!("addr add {address}/{length} dev {port}"), &format!("link set {port} up")])?;
            // Frames redirected to a veth reach the other end only if that polls, as for GRO.
            run(Command::new("nsenter").args([&enter(ns), "ethtool", "-K", port, "gro", "on"]))?;
        }
        for (ns, port) in [(&client, CLIENT_PORT), (&server, SERVER_PORT)] {
            run(Command::new("nsenter").args([
                &enter(ns),
                "ethtool",
                "-K",
                port,
                "tx",
                "off",
                "tso",
                "off",
                "gso",
                "off",
            ]))?;
        }
        let neighbour = |address: Ipv4Addr, mac: Mac, port: &str| {
            format!("neigh replace {address} lladdr {mac} nud permanent dev {port}")
        };
        batch(
            &client,
            &[
                &neighbour(INSIDE, INSIDE_MAC, CLIENT_PORT),
                &format!("route add default via {INSIDE}"),
                "link set lo up",
            ],
        )?;
        batch(
            &server,
            &[
                &neighbour(OUTSIDE, OUTSIDE_MAC, SERVER_PORT),
                &format!("route add default via {OUTSIDE}"),
                "link set lo up",
            ],
        )?;
        batch(
            &gateway,
            &[
                &neighbour(CLIENT, CLIENT_MAC, INSIDE_PORT),
                &neighbour(SERVER, SERVER_MAC, OUTSIDE_PORT),
                &format!("route add {LOAD_NET} via {SERVER}"),
                "link set lo up",
            ],
        )?;
        Ok(lab)
    }

    /// Name of the client's namespace.
    pub(super) fn client(&self) -> String {
        format!("{}-client", self.prefix)
    }

    /// Name of the gateway's namespace.
    pub(super) fn gateway(&self) -> String {
        format!("{}-gateway", self.prefix)
    }

    /// Name of the server's namespace.
    pub(super) fn server(&self) -> String {
        format!("{}-server", self.prefix)
    }

    fn all(&self) -> [String; 3] {
        [self.client(), self.gateway(), self.server()]
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in self.all() {
            if Path::new("/run/netns").join(&ns).exists()
                && let Err(e) = run(Command::new("ip").args(["netns", "delete", &ns]))
            {
                eprintln!("{e:#}");
            }
        }
    }
}

/// Removes the namespaces of runs that were killed.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn remove_stale() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(STEM).and_then(|n| n.split_once('-')).and_then(|(p, _)| p.parse::<u32>().ok());
        if pid.is_some_and(|p| !Path::new(&format!("/proc/{p}")).exists()) {
            run(Command::new("ip").args(["netns", "delete", &name]))?;
        }
    }
    Ok(())
}

type End<'a> = (&'a str, &'a str, Mac);

fn cable(a: End<'_>, b: End<'_>, queues: usize) -> Result<()> {
    let end =
        |(ns, name, mac): End<'_>| format!("{name} netns {ns} address {mac} numtxqueues {queues} numrxqueues {queues}");
    let line = format!("link add {} type veth peer {}", end(a), end(b));
    run(Command::new("ip").args(line.split(' ')))
}

fn batch(namespace: &str, lines: &[&str]) -> Result<()> {
    feed(Command::new("ip").args(["-n", namespace, "-batch", "-"]), &lines.join("\n"))
}

/// The argument that makes `nsenter` enter a network namespace.
pub(super) fn enter(namespace: &str) -> String {
    format!("--net=/run/netns/{namespace}")
}

/// Sets a value under /proc/sys/net.
///
/// # Errors
/// When there is no such value.
pub(super) fn set(namespace: &str, key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    inside(namespace, || fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}")))
}

/// Does something in a namespace, on a thread of its own.
///
/// # Errors
/// When the namespace cannot be entered, or the thing fails.
pub(super) fn inside<T: Send>(namespace: &str, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|s| {
        let t = s.spawn(|| {
            sys::enter(namespace)?;
            what()
        });
        t.join().unwrap_or_else(|_| bail!("a thread in {namespace} panicked"))
    })
}

/// Runs a tool to its end.
///
/// # Errors
/// With the tool's own words when it fails.
pub(super) fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs a tool to its end; what it printed.
///
/// # Errors
/// With the tool's own words when it fails.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a tool with something to read.
///
/// # Errors
/// With the tool's own words when it fails.
pub(super) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    child.stdin.take().context("no pipe")?.write_all(input.as_bytes())?;
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
