//! A packet's way in words.

use std::fmt;

use dataplane::worker::DropReason;

use super::{Endpoint, Interface, Rule, Step, Verdict, Way};

/// Columns of the labels in front of the steps.
const LABEL: usize = 12;

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, zone {})", self.name, self.device, self.zone)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address) {
            (0, a) => write!(f, "{a}"),
            (port, a) => std::net::SocketAddr::new(a, port).fmt(f),
        }
    }
}

/// With its place: `lan-out (policy.yaml:41)`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{} ({file}:{line})", self.name),
            _ => f.write_str("the policy's default"),
        }
    }
}

impl Step {
    /// What it is about, in a word.
    fn label(&self) -> &'static str {
        match self {
            Step::Kernel { .. } => "steering",
            Step::Owner { .. } => "owner",
            Step::Connection { .. } => "connection",
            Step::Reopens => "reopens",
            Step::State { .. } => "state",
            Step::Announced { .. } => "announced",
            Step::Mapped => "mapping",
            Step::Tracking { .. } => "tracking",
            Step::Destination { .. } => "destination",
            Step::Route { .. } => "route",
            Step::Limit { .. } => "limit",
            Step::Rule { .. } => "rule",
            Step::Source { .. } => "source",
            Step::Helper { .. } => "helper",
            Step::Answer { .. } => "answer",
        }
    }

    /// In a few words, when it says something about why.
    fn brief(&self) -> Option<String> {
        match self {
            Step::Connection { direction, rule, .. } => {
                let by = rule.as_ref().map_or("a rule that is gone".to_owned(), Rule::to_string);
                Some(format!("{direction} direction of a connection accepted by {by}"))
            }
            Step::State { state } => Some(state.clone()),
            Step::Rule { rule } => Some(format!("{} by {rule}", rule.action)),
            Step::Limit { rule, within: false } => Some(format!("beyond the rate of {rule}")),
            Step::Tracking { rule } | Step::Destination { rule: Some(rule), .. } => Some(format!("by {rule}")),
            Step::Source { rule: Some(rule), .. } => Some(format!("source by {rule}")),
            Step::Answer { with } => Some(format!("{with} to the sender")),
            _ => None,
        }
    }

    fn text(&self, worker: u16) -> String {
        match self {
            Step::Kernel { why } => format!("the kernel's own business: {why}"),
            Step::Owner { came_in } => format!("worker {worker}, to whom worker {came_in} hands it"),
            Step::Connection { direction, rule, line, .. } => {
                let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                let by = rule.as_ref().map_or("a rule that is gone".to_owned(), Rule::to_string);
                format!("{line}\n{:LABEL$}  in its {direction} direction; accepted by {by}", "")
            }
            Step::Reopens => "it begins the connection anew".to_owned(),
            Step::State { state } => match state.as_str() {
                "new" => "new: no connection has its addresses and ports, it may begin one".to_owned(),
                "related" => "related: it belongs to what another connection has prepared".to_owned(),
                "invalid" => "invalid: it fits no connection and cannot begin one".to_owned(),
                other => other.to_owned(),
            },
            Step::Announced { helper } => format!("the {helper} helper expects this connection"),
            Step::Mapped => "an endpoint-independent mapping admits it".to_owned(),
            Step::Tracking { rule } => format!("{} by {rule}", rule.action),
            Step::Destination { rule: Some(rule), to } => format!("becomes {to} by {rule}"),
            Step::Destination { rule: None, to } => format!("becomes {to}"),
            Step::Route { destination, interface, next } if destination == next => {
                format!("{destination} is on {interface}")
            }
            Step::Route { destination, interface, next } => format!("{destination} by {interface} to router {next}"),
            Step::Limit { rule, within: true } => format!("within the rate of {rule}"),
            Step::Limit { rule, within: false } => format!("beyond the rate of {rule}"),
            Step::Rule { rule } => format!("{} by {rule}", rule.action),
            Step::Source { rule: Some(rule), to } if rule.action != "none" => format!("becomes {to} by {rule}"),
            Step::Source { rule: Some(rule), to } => format!("stays {to} by {rule}"),
            Step::Source { rule: None, to } => format!("{to}, no rule says otherwise"),
            Step::Helper { helper } => format!("{helper} reads the connection"),
            Step::Answer { with } => format!("{with} to the sender"),
        }
    }
}

impl Way {
    /// All of it on one line: what became of the packet, and by what.
    pub(crate) fn brief(&self) -> String {
        let leaves = self.leaves.as_deref().unwrap_or("?");
        let verdict = match &self.verdict {
            Verdict::Sent { egress, mac: Some(_), .. } => format!("sent by {} as {leaves}", egress.name),
            Verdict::Sent { egress, next, mac: None } => {
                format!("waits for the address of {next} on {} as {leaves}", egress.name)
            }
            Verdict::ToHost => "to the host".to_owned(),
            Verdict::Redirected => format!("to the host as {leaves}"),
            Verdict::HandedOff { owner } => format!("handed to worker {owner}"),
            Verdict::Waits => "waits for other fragments".to_owned(),
            Verdict::Dropped { reason } => format!("dropped, {reason}"),
        };
        let why: Vec<String> = self.steps.iter().filter_map(Step::brief).collect();
        if why.is_empty() { verdict } else { format!("{verdict} ({})", why.join("; ")) }
    }

    /// A line for each step.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Never fails: it is a String.
        let _ = self.write_steps(&mut text);
        text
    }

    fn write_steps(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let mut line = |label: &str, text: &str| writeln!(f, "  {label:LABEL$}{text}");
        line("comes in", &format!("{} at worker {}", self.interface, self.worker))?;
        for s in &self.steps {
            line(s.label(), &s.text(self.worker))?;
        }
        let leaves = self.leaves.as_deref().unwrap_or("?");
        match &self.verdict {
            Verdict::Sent { egress, next, mac } => {
                let neighbour = match mac {
                    Some(mac) => format!("{next} is at {mac}"),
                    None => format!("{next} is not known yet: the packet waits while the kernel looks for it"),
                };
                line("neighbour", &neighbour)?;
                line("leaves", &format!("{leaves} by {egress}"))
            }
            Verdict::ToHost => line("to the host", "whose own firewall decides"),
            Verdict::Redirected => line("to the host", &format!("{leaves}; the host's own firewall decides")),
            Verdict::HandedOff { owner } => line("handed to", &format!("worker {owner}")),
            Verdict::Waits => line("waits", "for the other fragments of its datagram"),
            Verdict::Dropped { reason } => {
                let known = DropReason::from_label(reason);
                line("dropped", &format!("{reason}: {}", known.map_or("", DropReason::describe)))?;
                line("", known.map_or("", DropReason::advice))
            }
        }
    }
}

/// The packet, then a line for each step.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.packet)?;
        self.write_steps(f)
    }
}
