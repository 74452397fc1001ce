//! Logs: lines for a terminal, or for the journal with its priorities.

use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, fmt};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging to standard error; `RUST_LOG` says how much, by default what is worth knowing.
pub(super) fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that cannot be written, as on a full disk, is lost. To complain about that on standard error would fail in
    // the same way, and panic.
    let log = fmt().with_env_filter(filter).with_writer(stderr).log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.event_format(Journal).init();
    } else {
        log.with_ansi(stderr().is_terminal()).with_target(false).init();
    }
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        tracing::error!("thread {} panicked: {info}", thread.name().unwrap_or("?"));
    }));
}

/// Lines as sd-daemon(3) describes them: a priority in angle brackets and the message. The journal itself
/// knows the time and the process.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(out, "<{priority}>")?;
        ctx.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}
