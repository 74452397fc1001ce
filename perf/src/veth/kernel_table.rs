//! Room for connections in the kernel's table.

use std::fs;

use anyhow::{Context, Result};

/// One value for the whole machine, whatever the namespace.
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// While it lives, the kernel's gateway can have as many connections as are measured; the former limit comes
/// back when it is dropped.
pub(super) struct KernelTable(Option<String>);

impl KernelTable {
    /// Raises the limit if it is too low for `connections` and as many of a round before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn hold(connections: u32) -> Result<Self> {
        let Ok(former) = fs::read_to_string(MAX) else { return Ok(KernelTable(None)) };
        let wanted = 2 * u64::from(connections) + 10_000;
        if former.trim().parse::<u64>().is_ok_and(|n| n == 0 || n >= wanted) {
            return Ok(KernelTable(None));
        }
        fs::write(MAX, wanted.to_string()).with_context(|| format!("cannot write to {MAX}"))?;
        Ok(KernelTable(Some(former)))
    }
}

impl Drop for KernelTable {
    fn drop(&mut self) {
        if let Some(former) = &self.0
            && let Err(e) = fs::write(MAX, former)
        {
            eprintln!("{MAX} keeps its new value: {e}");
        }
    }
}
