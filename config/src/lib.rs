//! Sluice's policy file: YAML text to a compiled [`Policy`] and the daemon's settings.
//!
//! [`parse`] reads the text into a tree that knows the place of every node, then each section turns its
//! part into plain values and reports every fault it finds. A policy with one error yields none of its
//! values, so that a half-understood policy never forwards a packet. `docs/configuration.md` describes
//! every key.

#![forbid(unsafe_code)]

mod address;
mod advice;
mod conntrack;
mod diagnostic;
mod difference;
mod document;
pub mod duration;
mod files;
mod forward;
mod host;
mod icmp;
mod lists;
mod mark;
mod matching;
mod names;
mod nat;
mod port;
mod protocol;
mod rate;
mod read;
mod report;
mod rules;
mod running;
mod schema;
mod sets;
mod settings;
mod shape;
mod suggest;
mod timeouts;
mod written;
mod yaml;

pub use address::{AddressError, AddressRange};
pub use dataplane::policy::Policy;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use difference::{Change, Difference, Entries, Rules, Setting};
pub use files::NamedFile;
pub use host::Host;
pub use icmp::message as icmp_named;
pub use protocol::{name as protocol_name, named as protocol_named};
pub use running::{Fixed, fixed};
pub use schema::schema;
pub use settings::{Control, Io, IoMode, OnFailure, Poll, Reload, Workers};
pub use written::Written;

use std::path::Path;

use report::Report;

/// A policy, ready for the daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the data plane asks.
    pub policy: Policy,
    /// The workers.
    pub workers: Workers,
    /// How frames are received and sent.
    pub io: Io,
    /// The daemon's own endpoints.
    pub control: Control,
    /// What a reload does.
    pub reload: Reload,
    /// Files beside the policy's own that were read.
    pub files: Vec<NamedFile>,
}

/// A policy without errors.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The policy.
    pub config: Config,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// What the file says.
    pub written: Written,
}

/// What a policy is to replace while the daemon runs.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// The policy in force.
    pub config: &'a Config,
    /// The connections that the tables were made for.
    pub max_connections: u32,
}

/// Reads, checks and compiles a policy; `name` is the file's name in diagnostics, and files that the policy
/// names are relative to it.
///
/// # Errors
/// All faults that were found, errors and warnings.
pub fn parse(name: &str, text: &str) -> Result<Checked, Diagnostics> {
    read(name, text, files::from_disk, Beside::Nothing, Host::unknown())
}

/// [`parse`] of a policy for a machine.
///
/// # Errors
/// As [`parse`].
pub fn parse_for(name: &str, text: &str, host: Host) -> Result<Checked, Diagnostics> {
    read(name, text, files::from_disk, Beside::Nothing, host)
}

/// Reads, checks and compiles a policy that is to replace the one in force. Its interfaces are in the order
/// of that one's.
///
/// # Errors
/// As [`parse`]; also when it changes what only a restart can change.
pub fn parse_to_replace(name: &str, text: &str, running: &Running<'_>) -> Result<Checked, Diagnostics> {
    read(name, text, files::from_disk, Beside::Replacing(running), Host::unknown())
}

fn read(name: &str, text: &str, load: files::Load, beside: Beside<'_>, host: Host) -> Result<Checked, Diagnostics> {
    let mut report = Report::new(name, text, load, host);
    let root = yaml::read(&mut report);
    let config = root.as_ref().and_then(|root| document::compile(&mut report, root, beside));
    let listed = report.files();
    let (config, warnings) = report.finish(config)?;
    let mut written = root.and_then(|root| Written::of(text, &root)).unwrap_or(Written::Map(Vec::new()));
    written.add_files(&listed);
    Ok(Checked { config, warnings, written })
}

/// Reads, checks and compiles the policy in a file, for this machine.
///
/// # Errors
/// As [`parse`]; also when the file cannot be read or is not UTF-8.
pub fn load(path: &Path) -> Result<Checked, Diagnostics> {
    let (name, text) = read_file(path)?;
    parse_for(&name, &text, Host::here())
}

/// [`parse_to_replace`] of a file.
///
/// # Errors
/// As [`load`] and [`parse_to_replace`].
pub fn load_to_replace(path: &Path, running: &Running<'_>) -> Result<Checked, Diagnostics> {
    let (name, text) = read_file(path)?;
    read(&name, &text, files::from_disk, Beside::Replacing(running), Host::here())
}

/// [`load`] of a file that is to be compared with the policy in force: its interfaces are in the order of that
/// one's, whatever else differs.
///
/// # Errors
/// As [`load`].
pub fn load_beside(path: &Path, running: &Running<'_>) -> Result<Checked, Diagnostics> {
    let (name, text) = read_file(path)?;
    read(&name, &text, files::from_disk, Beside::Comparing(running), Host::here())
}

/// What a policy is read for.
#[derive(Clone, Copy)]
enum Beside<'a> {
    /// For itself.
    Nothing,
    /// To be compared with what runs.
    Comparing(&'a Running<'a>),
    /// To replace it.
    Replacing(&'a Running<'a>),
}

/// The file's name for diagnostics, and its text.
fn read_file(path: &Path) -> Result<(String, String), Diagnostics> {
    let name = path.display().to_string();
    // A pipe will do.
    let bytes = std::fs::read(path).map_err(|e| e.to_string());
    let text = bytes.and_then(files::utf8).map_err(|e| unreadable(&name, format!("cannot read the policy: {e}")))?;
    Ok((name, text))
}

fn unreadable(file: &str, message: String) -> Diagnostics {
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        file: file.to_owned(),
        line: 0,
        column: 0,
        length: 1,
        message,
        help: None,
        source_line: None,
    };
    Diagnostics { diagnostics: vec![diagnostic], ..Diagnostics::default() }
}

/// Parses arbitrary bytes and checks what holds for every input: no panic, diagnostics that point into
/// the text, and text for each of them. The entry point of fuzzers.
///
/// # Panics
/// When one of these does not hold.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let found = match read("fuzz", text, files::none, Beside::Nothing, Host::unknown()) {
        Ok(checked) => {
            assert!(checked.warnings.iter().all(|d| d.severity == Severity::Warning));
            checked.warnings
        }
        Err(d) => {
            assert!(d.diagnostics.iter().any(|d| d.severity == Severity::Error));
            d.diagnostics
        }
    };
    let lines = text.bytes().filter(|b| *b == b'\n').count() + 1;
    for d in found {
        assert!((1..=lines).contains(&(d.line as usize)) && d.column >= 1 && d.length >= 1, "{d:?}");
        let width = d.source_line.as_deref().map_or(0, |l| l.chars().count());
        assert!(d.column as usize + d.length as usize <= width + 2, "{d:?}");
        assert!(d.to_string().lines().count() >= 5, "{d}");
    }
}
