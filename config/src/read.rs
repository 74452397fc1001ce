//! Reading typed values out of the tree; whoever gets `None` knows that the fault has been reported.

use std::ops::RangeInclusive;

use crate::report::{Report, Span, short};
use crate::shape::{Key, Shape};
use crate::suggest::nearest;
use crate::yaml::{Node, Value};

/// The keys a map may have, and what to say about keys that others use for the same thing.
pub(crate) struct Keys {
    pub(crate) known: &'static [Key],
    /// Foreign key and the help to give for it.
    pub(crate) foreign: &'static [(&'static str, &'static str)],
}

impl Keys {
    /// What is known of a key.
    pub(crate) fn find(&self, name: &str) -> Option<&'static Key> {
        self.known.iter().find(|k| k.name == name)
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|k| k.name)
    }

    fn listed(&self) -> String {
        format!("its keys are: {}", self.names().collect::<Vec<_>>().join(", "))
    }
}

/// A map whose keys have been checked.
pub(crate) struct Fields<'n, 't> {
    /// The map, or its first key where YAML gives the map no extent.
    pub(crate) at: Span,
    entries: &'n [(Node<'t>, Node<'t>)],
    keys: &'static Keys,
    /// Keys that were offered in place of unknown ones, and are therefore not missed as well.
    offered: Vec<&'static str>,
}

impl<'n, 't> Fields<'n, 't> {
    /// The map at `node`; `what` names it in messages. Unknown keys are reported and skipped.
    pub(crate) fn of(report: &mut Report<'t>, node: &'n Node<'t>, what: &str, keys: &'static Keys) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            report.error_help(node.at, format!("{what} must be a map, not {}", kind(node)), keys.listed());
            return None;
        };
        let mut offered = Vec::new();
        for (key, _) in entries {
            let Some(name) = scalar(report, key, "a key") else { continue };
            if keys.find(name).is_some() {
                continue;
            }
            let help = match keys.foreign.iter().find(|(k, _)| *k == name) {
                Some((_, help)) => (*help).to_owned(),
                None => match nearest(name, keys.names()) {
                    Some(n) => {
                        offered.push(n);
                        format!("did you mean `{n}`?")
                    }
                    None => keys.listed(),
                },
            };
            report.error_help(key.at, format!("unknown key `{}` in {what}", short(name)), help);
        }
        let at = if node.at.len == 0 { entries.first().map_or(node.at, |(k, _)| k.at) } else { node.at };
        Some(Fields { at, entries, keys, offered })
    }

    /// The value of `key`; `None` when it is absent or empty.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node<'t>> {
        debug_assert!(self.keys.find(key).is_some(), "{key} is not in its table");
        let (_, value) = self.entry(key)?;
        (!matches!(value.value, Value::Null)).then_some(value)
    }

    /// The value of `key`, which must be there.
    pub(crate) fn require(&self, report: &mut Report<'_>, key: &str, what: &str) -> Option<&'n Node<'t>> {
        debug_assert!(self.keys.find(key).is_some(), "{key} is not in its table");
        match self.entry(key) {
            None if self.offered.contains(&key) => {}
            None => report.error(self.at, format!("{what} needs `{key}`")),
            Some((k, v)) if matches!(v.value, Value::Null) => report.error(k.at, format!("`{key}` has no value")),
            Some((_, v)) => return Some(v),
        }
        None
    }

    /// The whole number that `key` has, in the range that its table gives it; `None` for `auto`.
    pub(crate) fn number(&self, report: &mut Report<'t>, key: &str) -> Option<u64> {
        let node = self.get(key)?;
        let (range, auto) = match self.keys.find(key)?.shape {
            Shape::Number(first, last) => (first..=last, false),
            Shape::AutoNumber(first, last) => (first..=last, true),
            _ => unreachable!("`{key}` is no number in its table"),
        };
        match &node.value {
            Value::Text(t) if auto && t == "auto" => None,
            _ if auto => number(report, node, &format!("`{key}` (`auto` or a number)"), range),
            _ => number(report, node, &format!("`{key}`"), range),
        }
    }

    /// The switch that `key` is.
    pub(crate) fn switch(&self, report: &mut Report<'t>, key: &str) -> Option<bool> {
        boolean(report, self.get(key)?, &format!("`{key}`"))
    }

    /// Where `key` is written, if it is.
    pub(crate) fn key_at(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|(k, _)| k.at)
    }

    fn entry(&self, key: &str) -> Option<&'n (Node<'t>, Node<'t>)> {
        self.entries.iter().find(|(k, _)| matches!(&k.value, Value::Text(t) if t == key))
    }
}

/// What a node is, for messages.
pub(crate) fn kind(node: &Node<'_>) -> &'static str {
    match node.value {
        Value::Null => "nothing",
        Value::Plain | Value::Text(_) => "a single value",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

/// The text of a scalar; `what` says what is expected.
pub(crate) fn scalar<'n, 't: 'n>(report: &mut Report<'t>, node: &'n Node<'t>, what: &str) -> Option<&'n str> {
    match &node.value {
        Value::Text(t) => Some(t),
        Value::Plain => {
            let from = node.at.start as usize;
            report.text().get(from..from + node.at.len as usize)
        }
        Value::Map(entries) if looks_like_v6(entries) => {
            let help = "YAML takes a `:` at the end for a key: put the address in quotes";
            report.error_help(entries[0].0.at, format!("expected {what}, found a map"), help);
            None
        }
        _ => {
            report.error(node.at, format!("expected {what}, found {}", kind(node)));
            None
        }
    }
}

/// `fe80::` without quotes is YAML for a map with the key `fe80:` and no value.
pub(crate) fn looks_like_v6(entries: &[(Node<'_>, Node<'_>)]) -> bool {
    match entries {
        [(Node { value: Value::Text(key), .. }, Node { value: Value::Null, .. })] => key.ends_with(':'),
        _ => false,
    }
}

/// The items of a list; a scalar stands for a list of one.
pub(crate) fn items<'n, 't>(node: &'n Node<'t>) -> &'n [Node<'t>] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// The items of a list that must have some.
pub(crate) fn some_items<'n, 't>(
    report: &mut Report<'_>,
    node: &'n Node<'t>,
    what: &str,
    help: &str,
) -> Option<&'n [Node<'t>]> {
    let all = items(node);
    if all.is_empty() {
        report.error_help(node.at, format!("{what} is an empty list"), help);
        return None;
    }
    Some(all)
}

/// One of several words.
pub(crate) fn choice<'t, T: Copy>(
    report: &mut Report<'t>,
    node: &Node<'t>,
    what: &str,
    words: &[(&str, T)],
) -> Option<T> {
    let word = scalar(report, node, what)?;
    if let Some((_, v)) = words.iter().find(|(w, _)| *w == word) {
        return Some(*v);
    }
    let help = match nearest(word, words.iter().map(|(w, _)| *w)) {
        Some(n) => format!("did you mean `{n}`?"),
        None => format!("valid are: {}", words.iter().map(|(w, _)| *w).collect::<Vec<_>>().join(", ")),
    };
    report.error_help(node.at, format!("`{}` is not {what}", short(word)), help);
    None
}

/// A whole number within `range`; `_` may separate digits.
fn number<'t>(report: &mut Report<'t>, node: &Node<'t>, what: &str, range: RangeInclusive<u64>) -> Option<u64> {
    let word = scalar(report, node, what)?;
    let digits = word.replace('_', "");
    let well_formed = digits.bytes().all(|b| b.is_ascii_digit()) && word.starts_with(|c: char| c.is_ascii_digit());
    match digits.parse::<u64>() {
        Ok(n) if well_formed && range.contains(&n) => Some(n),
        _ if well_formed => {
            let message = format!("{what} must be between {} and {}", range.start(), range.end());
            report.error(node.at, message);
            None
        }
        _ => {
            report.error(node.at, format!("{what} must be a whole number, not `{}`", short(word)));
            None
        }
    }
}

/// `true` or `false`.
pub(crate) fn boolean<'t>(report: &mut Report<'t>, node: &Node<'t>, what: &str) -> Option<bool> {
    choice(report, node, &format!("a value for {what}"), &[("true", true), ("false", false)])
}
