//! Asking the daemon.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::wire::{Request, Response};

/// How long the daemon may keep silent; it gives up on its workers before.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends a request and calls `each` with every line of the answer but the last.
///
/// # Errors
/// When the daemon does not run, refuses the request or breaks off.
pub(super) fn ask(
    socket: &Path,
    request: &Request,
    mut each: impl FnMut(Response) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow::anyhow!(
            "sluice is not running: nobody answers at {}; if its control.socket is elsewhere, name it with --socket",
            socket.display()
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("no permission to talk to sluice at {}: become root", socket.display())
        }
        _ => anyhow::anyhow!("connecting to sluice at {}: {e}", socket.display()),
    })?;
    // Events and packets come when they come, samples as seldom as asked for.
    let follows = matches!(request, Request::Events { .. } | Request::Top { .. } | Request::Trace(_));
    stream.set_read_timeout(Some(PATIENCE).filter(|_| !follows))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("asking sluice")?;
    for line in BufReader::with_capacity(64 << 10, stream).lines() {
        let line = line.context("reading sluice's answer")?;
        match serde_json::from_str(&line).context("sluice's answer cannot be read: is it of another version?")? {
            Response::End => return Ok(()),
            Response::Error(e) => bail!(e),
            other => each(other)?,
        }
    }
    bail!("sluice broke off its answer: has it been stopped?")
}

/// Prints a line; a reader that has gone away (`| head`) ends the program without a complaint.
pub(super) fn print(out: &mut impl Write, line: impl std::fmt::Display) -> anyhow::Result<()> {
    written(writeln!(out, "{line}"))
}

/// The outcome of writing to standard output; a reader that has gone away ends the program without a complaint.
pub(super) fn written(outcome: io::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}
