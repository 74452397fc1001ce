//! The control socket's server side: one thread per client, so that a slow one holds up nobody.

mod insight;
mod policy;
mod top;
mod trace;
mod tracking;

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use dataplane::worker::shared::Edit;

use crate::context::Context;
use crate::wire::{Request, Response};
use crate::{rules, status, sys};

/// Clients served at the same time.
const CLIENTS: usize = 16;
/// How long a client may take to ask, or to read what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the thread looks whether it shall stop.
const LOOK_UP: Duration = Duration::from_millis(100);
/// The longest request in bytes.
const REQUEST: u64 = 64 << 10;

/// What a client that asked gets besides lines: nothing, or why not.
type Outcome = Result<(), String>;

/// The control socket; dropping it removes its file.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Opens the socket at `path`, in place of one that a daemon which is gone has left there.
    ///
    /// # Errors
    /// When another daemon answers there, or the file cannot be made.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("opening the control socket {}", path.display());
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(what)?;
        }
        if fs::symlink_metadata(path).is_ok_and(|m| !m.file_type().is_socket()) {
            bail!("{} exists and is not a socket: remove it, or set control.socket to another path", path.display());
        }
        match UnixStream::connect(path) {
            Ok(_) => {
                bail!("another sluice is running at {}: stop it, or set control.socket to another path", path.display())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).with_context(what)?,
            Err(e) => return Err(e).with_context(what),
        }
        let listener = UnixListener::bind(path).with_context(what)?;
        listener.set_nonblocking(true).with_context(what)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(what)?;
        Ok(ControlSocket { listener, path: path.to_owned() })
    }

    /// Answers clients, each on a thread of its own, until the workers are told to stop.
    pub(crate) fn serve(&self, ctx: &Arc<Context>) {
        let clients = Arc::new(AtomicUsize::new(0));
        while !ctx.shared.stop.load(Ordering::Relaxed) {
            sys::readable(&[self.listener.as_raw_fd()], LOOK_UP);
            match self.listener.accept() {
                Ok((stream, _)) => spawn(stream, ctx, &clients),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => {
                    tracing::warn!("accepting a client on the control socket: {e}");
                    std::thread::sleep(LOOK_UP);
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A file that is gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

fn spawn(stream: UnixStream, ctx: &Arc<Context>, clients: &Arc<AtomicUsize>) {
    if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
        clients.fetch_sub(1, Ordering::Relaxed);
        let busy = Response::Error(format!("{CLIENTS} clients are served already: try again"));
        let _ = write(&mut &stream, &busy);
        return;
    }
    let (ctx, counted) = (ctx.clone(), clients.clone());
    let spawned = std::thread::Builder::new().name("client".to_owned()).spawn(move || {
        if let Err(e) = serve_client(&stream, &ctx) {
            tracing::debug!("a client on the control socket: {e}");
        }
        counted.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(e) = spawned {
        clients.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!("starting a thread for a client on the control socket: {e}");
    }
}

fn serve_client(stream: &UnixStream, ctx: &Context) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST)).read_line(&mut line)?;
    let mut out = BufWriter::with_capacity(64 << 10, stream);
    let answer = match serde_json::from_str::<Request>(&line) {
        Err(e) => Response::Error(format!("the request cannot be read: {e}")),
        Ok(request) => answer(request, ctx, &mut out)?,
    };
    write(&mut out, &answer)?;
    out.flush()
}

fn write(out: &mut impl Write, r: &Response) -> io::Result<()> {
    serde_json::to_writer(&mut *out, r)?;
    out.write_all(b"\n")
}

/// Writes the answer but for its last line, which is returned.
fn answer(request: Request, ctx: &Context, out: &mut BufWriter<&UnixStream>) -> io::Result<Response> {
    let done = match request {
        Request::Status => {
            write(out, &Response::Status(Box::new(status::gather(ctx))))?;
            Ok(())
        }
        Request::Rules => {
            rules::gather(ctx).into_iter().try_for_each(|r| write(out, &Response::Rule(r)))?;
            Ok(())
        }
        Request::Count(filter) => tracking::count(&filter, ctx, out)?,
        Request::List { filter, style } => tracking::list(&filter, style, ctx, out)?,
        Request::Delete(filter) => tracking::edit(&filter, Edit::Delete, ctx, out)?,
        Request::Update { filter, mark, timeout } => {
            let mark = mark.map(|m| (m.value, m.mask));
            tracking::edit(&filter, Edit::Update { mark, timeout }, ctx, out)?
        }
        Request::Events { filter, kinds, style } => tracking::events(&filter, &kinds, style, ctx, out)?,
        Request::Expectations => tracking::expectations(ctx, out)?,
        Request::Stats => tracking::stats(ctx, out)?,
        Request::Top { interval, talkers } => top::top(interval, talkers, ctx, out)?,
        Request::Reload { file, confirm } => policy::reload(file.as_deref(), confirm, ctx, out)?,
        Request::Confirm => policy::confirm(ctx, out)?,
        Request::Rollback => policy::rollback(ctx, out)?,
        Request::Diff { file } => policy::diff(&file, ctx, out)?,
        Request::Explain(packet) => insight::explain(&packet, ctx, out)?,
        Request::Trace(conditions) => trace::trace(&conditions, ctx, out)?,
    };
    Ok(done.map_or_else(Response::Error, |()| Response::End))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_respected() {
        let directory = std::env::temp_dir().join(format!("sluice-socket-test-{}", std::process::id()));
        let path = directory.join("control.sock");
        let first = ControlSocket::open(&path).unwrap();
        let error = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(error.contains("another sluice is running at"), "{error}");
        drop(first);
        // As after a crash: the file stays, nobody listens.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlSocket::open(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "something else").unwrap();
        let error = ControlSocket::open(&path).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"something else");
        fs::remove_dir_all(directory).unwrap();
    }
}
