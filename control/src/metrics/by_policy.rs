//! What is counted for what the policy names: rules, translations, helpers.

use std::net::IpAddr;

use dataplane::helper::HelperKind;
use dataplane::policy::{List, PortChoice, SourceTranslation, Tally};
use dataplane::worker::counters::{Counter, HelperCounters};

use super::collect::{by_worker, each, load, number};
use super::families::{self as f, Family};
use super::page::Page;
use crate::context::Context;
use crate::rules::{self, DEFAULT};

/// Rules of a section that have series of their own: there may be thousands.
const RULES: usize = 256;
/// What stands in place of the name of the others.
const OTHERS: &str = "(others)";
/// Ports that a source gets in place of its own, where the policy does not say.
const PORTS: (u16, u16) = (1024, u16::MAX);

/// A rule's section, its name and a value.
type Sample<'a> = (&'a str, &'a str, f64);

/// Adds the values of rules, section by section.
fn by_rule(page: &mut Page, family: &'static Family, all: &[Sample<'_>]) {
    let mut samples = page.family(family);
    for section in all.chunk_by(|a, b| a.0 == b.0) {
        let mut others = None;
        for (i, (chain, rule, value)) in section.iter().enumerate() {
            if i < RULES || *rule == DEFAULT {
                samples.add(&[chain, rule], *value);
            } else {
                *others.get_or_insert(0.0) += value;
            }
        }
        if let Some(sum) = others {
            samples.add(&[section[0].0, OTHERS], sum);
        }
    }
}

pub(super) fn rules(ctx: &Context, page: &mut Page) {
    let all = rules::gather(ctx);
    type Of = fn(&rules::Rule) -> u64;
    let families: [(_, Of); 2] = [(&f::RULE_PACKETS, |r| r.packets), (&f::RULE_BYTES, |r| r.bytes)];
    for (family, get) in families {
        let samples: Vec<Sample<'_>> = all.iter().map(|r| (&*r.list, &*r.name, get(r) as f64)).collect();
        by_rule(page, family, &samples);
    }
    by_worker(ctx, page, &[(&f::LOG_LIMITED, |c| &c.log_limited), (&f::LOG_LOST, |c| &c.log_lost)]);
    page.single(&f::LIMIT_FULL, ctx.shared.limiter.full() as f64);
}

/// What rules that translate sources use.
pub(super) fn translations(ctx: &Context, page: &mut Page) {
    let current = ctx.shared.current.load();
    let p = &current.policy;
    let sources = p.source_nat.iter().enumerate().map(|(i, r)| (List::SourceNat, i, &r.name, Some(&r.translate)));
    let both = p.destination_nat.iter().enumerate().map(|(i, r)| (List::DestinationNat, i, &r.name, r.source.as_ref()));
    let translates = |t: &SourceTranslation| *t != SourceTranslation::None;
    let all: Vec<_> = (sources.chain(both))
        .filter_map(|(list, i, name, t)| Some((list, i, name, t.filter(|t| translates(t))?)))
        .collect();
    let tallied = |get: fn(&Tally) -> u64| -> Vec<Sample<'_>> {
        let sum = |list, i| current.tallies.each(list, i).map(get).sum::<u64>();
        all.iter().map(|(list, i, name, _)| (list.label(), name.as_str(), sum(*list, *i) as f64)).collect()
    };
    let live = |t: &Tally| {
        let ended = t.ended.get();
        t.begun.get().saturating_sub(ended)
    };
    by_rule(page, &f::NAT_CONNECTIONS, &tallied(live));
    by_rule(page, &f::NAT_EXHAUSTED, &tallied(|t| t.exhausted.get()));
    let endpoints: Vec<Sample<'_>> =
        all.iter().filter_map(|(list, _, name, t)| Some((list.label(), name.as_str(), endpoints(t)?))).collect();
    by_rule(page, &f::NAT_ENDPOINTS, &endpoints);
    let mut mappings = page.family(&f::MAPPINGS);
    for (family, n) in f::FAMILIES.iter().zip([ctx.shared.mappings4.len(), ctx.shared.mappings6.len()]) {
        mappings.add(&[family], n as f64);
    }
}

/// Addresses times ports that a translation has for the connections of one protocol; of masquerade, which uses one
/// address at a time, that one's ports.
fn endpoints(t: &SourceTranslation) -> Option<f64> {
    let ports = |c: &PortChoice| {
        let (first, last) = c.ports.unwrap_or(PORTS);
        f64::from(last - first) + 1.0
    };
    match t {
        SourceTranslation::Masquerade(choice) => Some(ports(choice)),
        SourceTranslation::Pool { addresses, choice } => Some(addresses.iter().map(size).sum::<f64>() * ports(choice)),
        SourceTranslation::Prefix(_) | SourceTranslation::None => None,
    }
}

/// Number of addresses of a range.
fn size((first, last): &(IpAddr, IpAddr)) -> f64 {
    let number = |a: &IpAddr| match a {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    number(last).saturating_sub(number(first)) as f64 + 1.0
}

pub(super) fn helpers(ctx: &Context, page: &mut Page) {
    type Of = fn(&HelperCounters) -> &Counter;
    let counters: [(_, Of); 4] = [
        (&f::HELPER_CONNECTIONS, |c| &c.connections),
        (&f::HELPER_REWRITTEN, |c| &c.rewritten),
        (&f::HELPER_DROPPED, |c| &c.dropped),
        (&f::EXPECTATIONS_REFUSED, |c| &c.refused),
    ];
    for (family, get) in counters {
        let mut samples = page.family(family);
        for kind in HelperKind::ALL {
            samples.add(&[kind.name()], each(ctx).map(|(_, c)| number(get(&c.helpers[kind as usize]))).sum());
        }
    }
    let fates = || HelperKind::ALL.into_iter().map(|kind| (kind.name(), ctx.shared.expectations.fates(kind)));
    let mut now = page.family(&f::EXPECTATIONS);
    fates().for_each(|(helper, x)| now.add(&[helper], x.live() as f64));
    let mut created = page.family(&f::EXPECTATIONS_CREATED);
    fates().for_each(|(helper, x)| created.add(&[helper], load(&x.created)));
    let mut ended = page.family(&f::EXPECTATIONS_ENDED);
    for (helper, x) in fates() {
        for (outcome, n) in [("used", &x.used), ("expired", &x.expired), ("withdrawn", &x.withdrawn)] {
            ended.add(&[helper, outcome], load(n));
        }
    }
}
