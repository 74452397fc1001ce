//! What `sluice top` draws.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table};

use super::rates::{Rates, short};
use crate::wire::{Sample, Talker};

/// Samples that the curve of new connections remembers.
const HISTORY: usize = 240;
/// A load from which a worker is near its end.
const HIGH: f64 = 0.8;

/// By what talkers are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Bits,
    Packets,
    Connections,
}

/// The state of the view.
pub(super) struct View {
    now: Sample,
    rates: Rates,
    created: VecDeque<u64>,
    order: Order,
    paused: bool,
}

impl View {
    pub(super) fn new(first: Sample) -> Self {
        View {
            rates: Rates::between(&first, &first),
            now: first,
            created: VecDeque::new(),
            order: Order::Bits,
            paused: false,
        }
    }

    /// Takes the next sample in.
    pub(super) fn add(&mut self, sample: Sample) {
        let rates = Rates::between(&self.now, &sample);
        self.created.push_front(rates.created.round() as u64);
        self.created.truncate(HISTORY);
        if !self.paused {
            self.rates = rates;
            self.now = sample;
        }
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('b') => self.order = Order::Bits,
            KeyCode::Char('k') => self.order = Order::Packets,
            KeyCode::Char('c') => self.order = Order::Connections,
            _ => {}
        }
    }

    /// Draws everything, as far as there is room.
    pub(super) fn draw(&self, frame: &mut Frame) {
        let s = &self.now.status;
        let [head, traffic, middle, bottom, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length((s.interfaces.len() + s.workers.len() + 4) as u16),
            Constraint::Length(9),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.head(frame, head);
        self.traffic(frame, traffic);
        let [created, states, drops] =
            Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)]).areas(middle);
        self.created(frame, created);
        self.states(frame, states);
        self.drops(frame, drops);
        self.talkers(frame, bottom);
        let keys = "q quit   p pause   talkers by: b bits  k packets  c connections";
        frame.render_widget(Paragraph::new(keys).dim(), foot);
    }

    fn head(&self, frame: &mut Frame, area: Rect) {
        let s = &self.now.status;
        let state = match &s.reason {
            None => Span::from("forwards packets").green(),
            Some(reason) => Span::from(format!("does not forward: {reason}")).red(),
        };
        let mut first = vec![Span::from(format!("sluice {}  ", s.version)).bold(), state];
        if self.paused {
            first.push("  paused".yellow());
        }
        let c = &s.connections;
        let (all, max) = (c.ipv4 + c.ipv6, u64::from(c.max));
        let second = format!(
            "up {}   {} connections of {} ({:.1} %), {} IPv4, {} IPv6   policy {}",
            super::super::status::duration(s.uptime_seconds),
            all,
            max,
            100.0 * all as f64 / max.max(1) as f64,
            c.ipv4,
            c.ipv6,
            s.policy.file
        );
        frame.render_widget(Paragraph::new(vec![Line::from(first), Line::from(second)]), area);
    }

    fn traffic(&self, frame: &mut Frame, area: Rect) {
        let title = ["", "", "in pps", "in bit/s", "out pps", "out bit/s", ""];
        let s = &self.now.status;
        let rate = |r: Option<&super::rates::Rate>| {
            let r = r.copied().unwrap_or_default();
            [r.rx_packets, r.rx_bits, r.tx_packets, r.tx_bits].map(|n| Cell::from(number(&short(n))))
        };
        let interfaces = s.interfaces.iter().enumerate().map(|(n, i)| {
            let down = if i.up { Style::new() } else { Style::new().fg(Color::Red) };
            let state = if i.up { format!("zone {}", i.zone) } else { "DOWN".to_owned() };
            let device = i.vlan.map_or(i.device.clone(), |v| format!("{}.{v}", i.device));
            let cells = [Cell::from(i.name.clone()).style(down), Cell::from(device)];
            Row::new(cells.into_iter().chain(rate(self.rates.interfaces.get(n))).chain([Cell::from(state)]))
        });
        let workers = s.workers.iter().enumerate().map(|(n, w)| {
            let cpu = w.cpu.map_or("not pinned".to_owned(), |c| format!("cpu {c}"));
            let cells = [Cell::from(format!("worker {n}")), Cell::from(cpu)];
            let load = Cell::from(bar(w.load)).style(if w.load > HIGH { Color::Red } else { Color::Green });
            Row::new(cells.into_iter().chain(rate(self.rates.workers.get(n))).chain([load]))
        });
        let widths = [12, 12, 10, 10, 10, 10, 30].map(Constraint::Max);
        let head = Row::new(title.map(|t| Cell::from(number(t)))).dim();
        let rows: Vec<Row> = interfaces.chain([Row::default()]).chain(workers).collect();
        frame.render_widget(Table::new(rows, widths).header(head).block(framed("traffic")), area);
    }

    fn created(&self, frame: &mut Frame, area: Rect) {
        let title = format!("new connections: {} a second", short(self.rates.created));
        let data: Vec<u64> = self.created.iter().rev().copied().collect();
        let width = usize::from(area.width.saturating_sub(2));
        let shown = data[data.len().saturating_sub(width)..].to_vec();
        let curve = Sparkline::default().data(shown).style(Color::Cyan);
        frame.render_widget(curve.block(framed(&title)), area);
    }

    fn states(&self, frame: &mut Frame, area: Rect) {
        let mut all: Vec<_> = self.now.states.iter().collect();
        all.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), (*name).clone()));
        let rows = all.into_iter().map(|(name, n)| Row::new([name.clone(), n.to_string()]));
        let table = Table::new(rows, [Constraint::Min(16), Constraint::Max(10)]);
        frame.render_widget(table.block(framed("connections by state")), area);
    }

    fn drops(&self, frame: &mut Frame, area: Rect) {
        let rows = self.rates.drops.iter().map(|(reason, all, now)| {
            let style = if *now > 0.0 { Style::new().fg(Color::Yellow) } else { Style::new() };
            Row::new([reason.clone(), number(&short(*now)), number(&all.to_string())]).style(style)
        });
        let widths = [Constraint::Min(14), Constraint::Max(10), Constraint::Max(10)];
        let table = Table::new(rows, widths);
        frame.render_widget(table.block(framed("drops: a second, in all")), area);
    }

    fn talkers(&self, frame: &mut Frame, area: Rect) {
        let mut all: Vec<&Talker> = self.now.talkers.iter().collect();
        let key = |t: &Talker| match self.order {
            Order::Bits => t.bytes,
            Order::Packets => t.packets,
            Order::Connections => t.connections as f64,
        };
        all.sort_by(|a, b| key(b).total_cmp(&key(a)));
        let rows = all.into_iter().map(|t| {
            let columns = [short(t.bytes * 8.0), short(t.packets), t.connections.to_string()].map(|n| number(&n));
            Row::new([t.address.to_string()].into_iter().chain(columns))
        });
        let head = Row::new(["address".to_owned(), number("bit/s"), number("pps"), number("connections")]).dim();
        let widths = [40, 10, 10, 12].map(Constraint::Max);
        frame.render_widget(Table::new(rows, widths).header(head).block(framed("talkers")), area);
    }
}

fn framed(title: &str) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(format!(" {title} ")).border_style(Color::DarkGray)
}

/// Right-aligned in a column of numbers.
fn number(text: &str) -> String {
    format!("{text:>10}")
}

/// A load as a bar of twenty places and a figure.
fn bar(load: f64) -> String {
    let full = (load * 20.0).round().clamp(0.0, 20.0) as usize;
    format!("{}{} {:>3.0} %", "|".repeat(full), ".".repeat(20 - full), load * 100.0)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn sample(at: f64, packets: u64) -> Sample {
        let status = serde_json::json!({
            "ready": true, "reason": null, "version": "1.0.0", "pid": 1, "uptime_seconds": 90,
            "policy": { "file": "p.yaml", "rules": 4, "source_nat": 1, "destination_nat": 0, "generation": 1, "loaded": 0,
                "unconfirmed": null, "former": [], "last_failure": null },
            "interfaces": [{
                "name": "lan", "device": "eth1", "zone": "inside", "up": true, "mac": "", "mtu": 1500, "addresses": [],
                "queues": [],
                "traffic": { "rx_packets": packets, "rx_bytes": packets * 100, "tx_packets": 0, "tx_bytes": 0 },
            }],
            "workers": [{
                "cpu": 3, "alive": true, "load": 0.5, "connections": 2, "handed_off": 0, "taken_over": 0, "punted": 0,
                "frames": { "total": 0, "free": 0, "receive": 0, "transmit": 0, "lent": 0, "waiting": 0 },
            }],
            "connections": {
                "ipv4": 2, "ipv6": 0, "max": 100, "created": { "tcp": packets / 1000 }, "expired": 0, "deleted": 0,
                "early_dropped": 0,
            },
            "drops": { "policy": packets / 100 },
            "mirror": { "routes": [0, 0], "neighbours": [0, 0], "publishes": 0, "resyncs": 0 },
        });
        Sample {
            at,
            status: serde_json::from_value(status).unwrap(),
            states: [("tcp ESTABLISHED".to_owned(), 2)].into(),
            talkers: vec![
                Talker { address: [10, 0, 0, 2].into(), connections: 1, packets: 10.0, bytes: 1e6 },
                Talker { address: [10, 0, 0, 3].into(), connections: 9, packets: 90.0, bytes: 1e3 },
            ],
        }
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|f| view.draw(f)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_on_the_screen_and_no_size_is_too_small() {
        let mut view = View::new(sample(1.0, 0));
        view.add(sample(2.0, 2_000_000));
        let text = drawn(&view, 120, 40);
        for part in [
            "forwards packets",
            "2 connections of 100 (2.0 %)",
            "2.00 M",
            "1.60 G",
            "||||||||||..........  50 %",
            "new connections: 2.00 k a second",
            "tcp ESTABLISHED",
            "policy",
            "20.0 k",
            "8.00 M",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.find("10.0.0.2") < text.find("10.0.0.3"));
        view.key(KeyCode::Char('c'));
        let text = drawn(&view, 120, 40);
        assert!(text.find("10.0.0.3") < text.find("10.0.0.2"));
        view.key(KeyCode::Char('p'));
        view.add(sample(3.0, 9_000_000));
        assert!(drawn(&view, 120, 40).contains("2.00 M"));
        for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 5)] {
            drawn(&view, width, height);
        }
    }
}
