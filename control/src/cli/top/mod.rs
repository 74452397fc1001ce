//! `sluice top`: a live view of the gateway.

mod rates;
mod view;

use std::io::{BufWriter, IsTerminal, Write, stdin, stdout};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::Client;
use super::client::{ask, print, written};
use crate::wire::{Request, Response, Sample};
use view::View;

/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(50);

/// `sluice top`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Seconds between two looks
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Addresses that are listed at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    talkers: usize,
    /// Print so many samples as JSON, one a line, instead of the view
    #[arg(short = 'n', long, value_name = "NUMBER", requires = "json")]
    samples: Option<u64>,
    #[command(flatten)]
    client: Client,
}

fn seconds(s: &str) -> Result<f64, String> {
    let n: f64 = s.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&n) { Ok(n) } else { Err("expected 0.1 to 3600 seconds".to_owned()) }
}

pub(super) fn run(a: Arguments) -> anyhow::Result<ExitCode> {
    let request = Request::Top { interval: (a.interval * 1000.0) as u64, talkers: a.talkers };
    if a.client.json {
        json(&a, &request)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !stdin().is_terminal() || !stdout().is_terminal() {
        bail!("`sluice top` needs a terminal; `sluice top --json` prints samples instead");
    }
    let (sender, samples) = mpsc::channel();
    let socket = a.client.socket.clone();
    // Ends with the process: it waits for the daemon.
    std::thread::spawn(move || {
        let outcome = ask(&socket, &request, |r| match r {
            Response::Top(sample) => Ok(sender.send(Ok(sample))?),
            _ => Ok(()),
        });
        let gone = outcome.err().unwrap_or_else(|| anyhow::anyhow!("sluice has stopped"));
        let _ = sender.send(Err(gone));
    });
    // What is wrong from the start is said in plain text.
    let first = samples.recv()??;
    let mut terminal = ratatui::init();
    let outcome = show(&mut terminal, View::new(*first), &samples);
    ratatui::restore();
    outcome.map(|()| ExitCode::SUCCESS)
}

fn json(a: &Arguments, request: &Request) -> anyhow::Result<()> {
    let mut left = a.samples.unwrap_or(u64::MAX);
    let mut out = BufWriter::new(stdout().lock());
    let outcome = ask(&a.client.socket, request, |r| {
        if let Response::Top(sample) = r {
            print(&mut out, serde_json::to_string(&sample)?)?;
            written(out.flush())?;
            left = left.saturating_sub(1);
            if left == 0 {
                bail!("enough");
            }
        }
        Ok(())
    });
    if left == 0 { Ok(()) } else { outcome }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut view: View,
    samples: &Receiver<anyhow::Result<Box<Sample>>>,
) -> anyhow::Result<()> {
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        let mut changed = false;
        while !changed {
            if event::poll(KEYS)? {
                match event::read()? {
                    Event::Key(key) if leaves(key) => return Ok(()),
                    Event::Key(key) if key.kind == KeyEventKind::Press => view.key(key.code),
                    _ => {}
                }
                changed = true;
            }
            match samples.try_recv() {
                Ok(sample) => {
                    view.add(*sample?);
                    changed = true;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => bail!("sluice has stopped"),
            }
        }
    }
}

fn leaves(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}
