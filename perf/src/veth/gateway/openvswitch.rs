//! Open vSwitch with its user space datapath: a polling thread on the gateway's CPU, ports of AF_XDP, and
//! connection tracking with SNAT to the gateway's address.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::GATEWAY_CPU;
use crate::sys;
use crate::veth::lab::{
    CLIENT_MAC, INSIDE_MAC, INSIDE_PORT, Lab, OUTSIDE, OUTSIDE_MAC, OUTSIDE_PORT, SERVER_MAC, enter, output, run,
};
use crate::veth::process::{Process, START};

/// The database's schema.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Starts the switch and its database, and waits until the flows are in force.
///
/// # Errors
/// With the tools' own words; when they are not installed.
pub(super) fn start(lab: &Lab, files: &Path) -> Result<(Process, Process)> {
    ensure!(Path::new(SCHEMA).exists(), "{SCHEMA} does not exist: `apt-get install openvswitch-switch`");
    let ns = lab.gateway();
    let tool = |program: &str, arguments: &[&str]| {
        let mut c = Command::new("nsenter");
        c.arg(enter(&ns)).arg(program).args(arguments);
        for folder in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            c.env(folder, files);
        }
        c
    };
    let path = |name: &str| files.join(name).to_string_lossy().into_owned();
    let (database, socket) = (path("conf.db"), path("db.sock"));
    run(&mut tool("ovsdb-tool", &["create", &database, SCHEMA]))?;
    let log = |name: &str| format!("--log-file={}", path(name));
    let quiet = "-vconsole:off";
    let remote = format!("--remote=punix:{socket}");
    let server =
        Process::start(tool("ovsdb-server", &[&database, &remote, &log("db.log"), quiet]).stderr(Stdio::null()))?;
    wait_for(&files.join("db.sock"))?;

    let db = format!("--db=unix:{socket}");
    let set = |words: &[&str]| {
        let mut all = vec!["--timeout=15", db.as_str()];
        all.extend(words);
        output(&mut tool("ovs-vsctl", &all))
    };
    set(&["--no-wait", "init"])?;
    let mask = format!("other_config:pmd-cpu-mask={:#x}", 1 << GATEWAY_CPU);
    set(&["--no-wait", "set", "Open_vSwitch", ".", &mask])?;
    let remote = format!("unix:{socket}");
    let switch = Process::start(tool("ovs-vswitchd", &[&remote, &log("switch.log"), quiet]).stderr(Stdio::null()))?;
    set(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure"])?;
    let mut numbers = Vec::new();
    for port in [INSIDE_PORT, OUTSIDE_PORT] {
        let options = ["type=afxdp", "options:n_rxq=1", "options:xdp-mode=native"];
        set(&[&["add-port", "br0", port, "--", "set", "interface", port], &options[..]].concat())?;
        let number = set(&["get", "interface", port, "ofport"])?.trim().to_owned();
        ensure!(number.parse::<u16>().is_ok(), "{port}: {}", set(&["get", "interface", port, "error"])?.trim());
        numbers.push(number);
    }
    std::fs::write(files.join("flows"), flows(&numbers[0], &numbers[1]))?;
    let bridge = format!("unix:{}", path("br0.mgmt"));
    run(&mut tool("ovs-ofctl", &["--timeout=10", "del-flows", &bridge]))?;
    run(&mut tool("ovs-ofctl", &["--timeout=10", "add-flows", &bridge, &path("flows")]))?;
    Ok((switch, server))
}

/// What Sluice's policy says, in the switch's language.
fn flows(inside: &str, outside: &str) -> String {
    let out = format!("dec_ttl,mod_dl_src:{OUTSIDE_MAC},mod_dl_dst:{SERVER_MAC},output:{outside}");
    let back = format!("dec_ttl,mod_dl_src:{INSIDE_MAC},mod_dl_dst:{CLIENT_MAC},output:{inside}");
    format!(
        "table=0,priority=10,in_port={inside},ip,nw_src=10.81.0.0/16,actions=ct(table=1,zone=1,nat)
table=0,priority=10,in_port={outside},ip,nw_dst={OUTSIDE},actions=ct(table=2,zone=1,nat)
table=1,priority=10,ct_state=+trk+new,ip,actions=ct(commit,zone=1,nat(src={OUTSIDE})),{out}
table=1,priority=10,ct_state=+trk+est,ip,actions={out}
table=1,priority=10,ct_state=+trk+rel,ip,actions={out}
table=2,priority=10,ct_state=+trk+est,ip,actions={back}
table=2,priority=10,ct_state=+trk+rel,ip,actions={back}
"
    )
}

fn wait_for(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + START;
    while !socket.exists() {
        ensure!(Instant::now() < deadline && !sys::stopped(), "ovsdb-server makes no {}", socket.display());
        sleep(Duration::from_millis(10));
    }
    Ok(())
}
