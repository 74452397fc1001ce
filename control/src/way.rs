//! A packet's way as clients see it: what the gateway found and decided, step by step, and what became of it.

mod text;

use std::net::IpAddr;

use dataplane::packet::icmp::Problem;
use dataplane::policy::{InterfaceId, List, Policy};
use dataplane::worker::account::{self, Account, Answer, Flow, Note};
use serde::{Deserialize, Serialize};

use crate::format;
use crate::rules;
use crate::wire::{Connection, Style};

/// One packet's way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Way {
    /// The packet in words, as it came in.
    pub(crate) packet: String,
    /// Where it came in.
    pub(crate) interface: Interface,
    /// The worker that decided.
    pub(crate) worker: u16,
    /// What was found and decided, in order.
    pub(crate) steps: Vec<Step>,
    /// What became of it.
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// The packet in words, as it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) leaves: Option<String>,
}

/// An interface of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// The device, with the VLAN if there is one.
    pub(crate) device: String,
    /// Its zone.
    pub(crate) zone: String,
}

/// A rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Its section of the policy.
    pub(crate) list: String,
    /// Its name.
    pub(crate) name: String,
    /// What it does, in a word.
    pub(crate) action: String,
    /// The file it is written in; none for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The line there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
}

/// An address with a port, or an ICMP identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// The address.
    pub(crate) address: IpAddr,
    /// The port or identifier; 0 for protocols that have neither.
    pub(crate) port: u16,
}

/// Something that was found or decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// The program in front of the workers leaves it to the kernel.
    Kernel {
        /// Why.
        why: String,
    },
    /// Another worker than the one it came in at owns its connection.
    Owner {
        /// The worker it came in at.
        came_in: u16,
    },
    /// It belongs to a connection.
    Connection {
        /// `original` or `reply`.
        direction: String,
        /// The rule that admitted it; none when it is not in the policy any more.
        rule: Option<Rule>,
        /// The connection, before this packet.
        connection: Box<Connection>,
        /// Its line as `sluice conntrack list` prints it.
        line: String,
    },
    /// It begins its connection anew.
    Reopens,
    /// What rules see of its tracking.
    State {
        /// The state as a policy names it.
        state: String,
    },
    /// A helper has announced the connection it begins.
    Announced {
        /// The helper.
        helper: String,
    },
    /// An endpoint-independent mapping lets it in.
    Mapped,
    /// A rule about tracking matches.
    Tracking {
        /// The rule.
        rule: Rule,
    },
    /// Its destination is translated.
    Destination {
        /// The rule; none when announced or mapped.
        rule: Option<Rule>,
        /// The new destination.
        to: Endpoint,
    },
    /// The route to its destination.
    Route {
        /// The destination.
        destination: IpAddr,
        /// The interface it leaves by.
        interface: Interface,
        /// The router, or the destination itself.
        next: IpAddr,
    },
    /// A rule matches but for its limit.
    Limit {
        /// The rule.
        rule: Rule,
        /// Whether the packet is within the rate.
        within: bool,
    },
    /// A rule, or the default, says what becomes of it.
    Rule {
        /// The rule.
        rule: Rule,
    },
    /// Its source is translated, or kept.
    Source {
        /// The rule that says so; none where none does.
        rule: Option<Rule>,
        /// What its receiver sees.
        to: Endpoint,
    },
    /// A helper reads its connection.
    Helper {
        /// The helper.
        helper: String,
    },
    /// The gateway answers its sender.
    Answer {
        /// With what.
        with: String,
    },
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It leaves.
    Sent {
        /// The interface it leaves by.
        egress: Interface,
        /// The next hop.
        next: IpAddr,
        /// The next hop's Ethernet address; none while the kernel is asked for it and the packet waits.
        mac: Option<String>,
    },
    /// It is for the gateway host, as it came.
    ToHost,
    /// It is for the gateway host, translated.
    Redirected,
    /// Another worker owns its connection.
    HandedOff {
        /// The worker.
        owner: u16,
    },
    /// It waits for the other fragments of its datagram.
    Waits,
    /// It is dropped.
    Dropped {
        /// The reason, as counters name it.
        reason: String,
    },
}

impl Way {
    /// What an account says of a packet that is described as `packet`.
    pub(crate) fn new(a: &Account, packet: String) -> Self {
        let p = &a.policy;
        Way {
            packet,
            interface: Interface::new(p, a.interface),
            worker: a.worker,
            steps: a.notes.iter().map(|n| Step::new(p, n)).collect(),
            verdict: Verdict::new(p, &a.verdict),
            leaves: a.leaves.as_ref().map(flow),
        }
    }
}

/// Addresses and ports of a packet in words.
pub(crate) fn flow(f: &Flow) -> String {
    crate::describe::ends(f.protocol, (f.source, f.source_port), (f.destination, f.destination_port))
}

impl Interface {
    /// The interface with this index.
    pub(crate) fn new(p: &Policy, i: InterfaceId) -> Self {
        let Some(x) = p.interfaces.get(usize::from(i)) else {
            return Interface { name: i.to_string(), device: String::new(), zone: String::new() };
        };
        let zone = p.zones.get(usize::from(x.zone)).cloned().unwrap_or_default();
        Interface { name: x.name.clone(), device: x.to_string(), zone }
    }
}

/// A forward rule by the index that connections have it by.
fn forward(p: &Policy, i: u16) -> Option<Rule> {
    rule(p, List::Forward, if i == Policy::DEFAULT { p.rules.len() } else { i.into() })
}

fn rule(p: &Policy, list: List, i: usize) -> Option<Rule> {
    let (name, action, place) = rules::about(p, list, i)?;
    Some(Rule {
        list: list.label().to_owned(),
        name: name.to_owned(),
        action: action.to_owned(),
        file: place.map(|p| p.file.to_string()),
        line: place.map(|p| p.line),
    })
}

impl From<(IpAddr, u16)> for Endpoint {
    fn from((address, port): (IpAddr, u16)) -> Self {
        Endpoint { address, port }
    }
}

impl Step {
    fn new(p: &Policy, n: &Note) -> Self {
        // Its own policy's indices: there is always such a rule.
        let own = |list, i: usize| rule(p, list, i).unwrap_or_else(|| Rule::unknown(list));
        match n {
            Note::Connection { connection, direction, rule } => {
                let mut line = String::new();
                format::connection(connection, Style { json: false, counters: true, timestamps: false }, &mut line);
                Step::Connection {
                    direction: direction.label().to_owned(),
                    rule: forward(p, *rule),
                    connection: Box::new((&**connection).into()),
                    line: line.trim_end().to_owned(),
                }
            }
            Note::Reopens => Step::Reopens,
            Note::State(s) => Step::State { state: s.label().to_owned() },
            Note::Announced(helper) => Step::Announced { helper: helper.name().to_owned() },
            Note::Mapped => Step::Mapped,
            Note::Tracking(i) => Step::Tracking { rule: own(List::Tracking, *i) },
            Note::Destination { rule, to } => {
                Step::Destination { rule: rule.map(|i| own(List::DestinationNat, i)), to: (*to).into() }
            }
            Note::Route { destination, interface, next } => {
                Step::Route { destination: *destination, interface: Interface::new(p, *interface), next: *next }
            }
            Note::Limit { rule, within } => {
                Step::Limit { rule: own(List::Forward, usize::from(*rule)), within: *within }
            }
            Note::Rule(i) => Step::Rule { rule: forward(p, *i).unwrap_or_else(|| Rule::unknown(List::Forward)) },
            Note::Source { rule, to } => {
                Step::Source { rule: rule.map(|(list, i)| own(list, i.into())), to: (*to).into() }
            }
            Note::Helper(helper) => Step::Helper { helper: helper.name().to_owned() },
            Note::Answered(Answer::Reset) => Step::Answer { with: "TCP RST".to_owned() },
            Note::Answered(Answer::Icmp(problem)) => Step::Answer { with: icmp(*problem) },
        }
    }
}

impl Rule {
    fn unknown(list: List) -> Self {
        Rule { list: list.label().to_owned(), name: "?".to_owned(), action: "?".to_owned(), file: None, line: None }
    }
}

fn icmp(problem: Problem) -> String {
    match problem {
        Problem::TimeExceeded => "ICMP time exceeded".to_owned(),
        Problem::TooBig(mtu) => format!("ICMP packet too big (fragmentation needed), MTU {mtu}"),
        Problem::NoRoute => "ICMP network unreachable".to_owned(),
        Problem::HostUnreachable => "ICMP host unreachable".to_owned(),
        Problem::Prohibited => "ICMP administratively prohibited".to_owned(),
        Problem::PortUnreachable => "ICMP port unreachable".to_owned(),
        Problem::Parameter(at) => format!("ICMP parameter problem at byte {at}"),
    }
}

impl Verdict {
    fn new(p: &Policy, v: &account::Verdict) -> Self {
        match v {
            account::Verdict::Sent { interface, next, mac } => {
                Verdict::Sent { egress: Interface::new(p, *interface), next: *next, mac: mac.map(|m| m.to_string()) }
            }
            account::Verdict::ToHost => Verdict::ToHost,
            account::Verdict::Redirected => Verdict::Redirected,
            account::Verdict::HandedOff(owner) => Verdict::HandedOff { owner: *owner },
            account::Verdict::Waits => Verdict::Waits,
            account::Verdict::Dropped(why) => Verdict::Dropped { reason: why.label().to_owned() },
        }
    }
}
