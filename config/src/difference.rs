//! How two policies differ: rules by their names, sets by their entries, everything else by its path.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::written::Written;

/// How two policies differ, in the order of the newer one's sections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Lists of rules.
    pub rules: Vec<Rules>,
    /// Lists of plain values, such as sets.
    pub entries: Vec<Entries>,
    /// All other keys.
    pub settings: Vec<Setting>,
}

/// How a list of rules differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Which one, such as `policy.rules`.
    pub list: String,
    /// What became of single rules.
    pub changes: Vec<Change>,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added {
        /// Its name.
        name: String,
        /// Its place in the list, counted from 1.
        position: usize,
        /// What it says.
        rule: String,
    },
    /// It is gone.
    Removed {
        /// Its name.
        name: String,
        /// What it said.
        rule: String,
    },
    /// It says something else.
    Changed {
        /// Its name.
        name: String,
        /// Which of its settings.
        settings: Vec<Setting>,
    },
    /// Other rules now come before it, or no longer do.
    Moved {
        /// Its name.
        name: String,
        /// Its former place, counted from 1.
        from: usize,
        /// Its place now.
        to: usize,
    },
}

/// How a list of plain values differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// Which one, such as `sets.offices`.
    pub key: String,
    /// Entries it has now.
    pub added: Vec<String>,
    /// Entries it had.
    pub removed: Vec<String>,
}

/// A setting with its value before and after; `None` where it is not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its path of keys.
    pub key: String,
    /// What it said.
    pub before: Option<String>,
    /// What it says.
    pub after: Option<String>,
}

impl Difference {
    /// How `after` differs from `before`.
    pub fn between(before: &Written, after: &Written) -> Self {
        let mut d = Difference::default();
        d.compare("", Some(before), Some(after));
        d
    }

    /// Whether both say the same.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.entries.is_empty() && self.settings.is_empty()
    }

    fn compare(&mut self, path: &str, before: Option<&Written>, after: Option<&Written>) {
        if let (Some(b), Some(a)) = (before, after)
            && b.same(a)
        {
            return;
        }
        let either = |is: fn(&Written) -> bool| before.is_none_or(is) && after.is_none_or(is);
        if either(is_rules) {
            let changes = rules(items(before), items(after));
            self.rules.push(Rules { list: path.to_owned(), changes });
        } else if either(|w| matches!(w, Written::Map(_))) {
            let keys = |w: Option<&Written>| match w {
                Some(Written::Map(entries)) => entries.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>(),
                _ => Vec::new(),
            };
            let mut all = keys(after);
            all.extend(keys(before).into_iter().filter(|k| after.is_none_or(|a| a.get(k).is_none())));
            for key in all {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self.compare(&below, before.and_then(|b| b.get(&key)), after.and_then(|a| a.get(&key)));
            }
        } else if let (Some(b), Some(a)) = (before, after)
            && (matches!(b, Written::List(_)) || matches!(a, Written::List(_)))
            && either(is_plain)
        {
            let texts = |w: &Written| w.items().iter().map(ToString::to_string).collect::<Vec<String>>();
            let (b, a) = (texts(b), texts(a));
            let (old, new): (HashSet<&String>, HashSet<&String>) = (b.iter().collect(), a.iter().collect());
            let added: Vec<String> = a.iter().filter(|x| !old.contains(x)).cloned().collect();
            let removed: Vec<String> = b.iter().filter(|x| !new.contains(x)).cloned().collect();
            // What is only in another order, or repeated, means the same.
            if !added.is_empty() || !removed.is_empty() {
                self.entries.push(Entries { key: path.to_owned(), added, removed });
            }
        } else {
            let text = |w: Option<&Written>| w.map(ToString::to_string);
            self.settings.push(Setting { key: path.to_owned(), before: text(before), after: text(after) });
        }
    }
}

fn items(w: Option<&Written>) -> &[Written] {
    w.map_or(&[], Written::items)
}

/// A list of rules: of maps with names.
fn is_rules(w: &Written) -> bool {
    matches!(w, Written::List(items) if items.iter().all(|i| i.get("name").is_some()))
}

/// A scalar, or a list of scalars.
fn is_plain(w: &Written) -> bool {
    w.items().iter().all(|i| matches!(i, Written::Text(_)))
}

fn name(rule: &Written) -> &str {
    match rule.get("name") {
        Some(Written::Text(t)) => t,
        _ => "",
    }
}

fn rules(before: &[Written], after: &[Written]) -> Vec<Change> {
    let former: HashMap<&str, usize> = before.iter().map(name).zip(0..).collect();
    let now: HashSet<&str> = after.iter().map(name).collect();
    let mut out: Vec<Change> = Vec::new();
    for r in before.iter().filter(|r| !now.contains(name(r))) {
        out.push(Change::Removed { name: name(r).to_owned(), rule: without_name(r) });
    }
    let stayed: Vec<usize> = after.iter().filter_map(|r| former.get(name(r)).copied()).collect();
    let in_place = longest_increasing(&stayed);
    for (position, r) in after.iter().enumerate() {
        let name = name(r).to_owned();
        let Some(from) = former.get(name.as_str()).copied() else {
            out.push(Change::Added { name, position: position + 1, rule: without_name(r) });
            continue;
        };
        if !before[from].same(r) {
            let mut d = Difference::default();
            d.compare("", Some(&before[from]), Some(r));
            // Lists inside a rule are settings like others.
            let entries = d.entries.into_iter().map(|e| {
                let value = |w: &Written| Some(path(w, &e.key)?.to_string());
                Setting { key: e.key.clone(), before: value(&before[from]), after: value(r) }
            });
            let settings: Vec<Setting> = d.settings.into_iter().chain(entries).collect();
            if !settings.is_empty() {
                out.push(Change::Changed { name: name.clone(), settings });
            }
        }
        if !in_place.contains(&from) {
            out.push(Change::Moved { name, from: from + 1, to: position + 1 });
        }
    }
    out
}

fn path<'w>(w: &'w Written, path: &str) -> Option<&'w Written> {
    path.split('.').try_fold(w, |w, key| w.get(key))
}

fn without_name(rule: &Written) -> String {
    match rule {
        Written::Map(entries) => {
            Written::Map(entries.iter().filter(|(k, _)| k != "name").cloned().collect()).to_string()
        }
        other => other.to_string(),
    }
}

/// The values of a longest increasing subsequence: what kept its order, so that the fewest count as moved.
fn longest_increasing(values: &[usize]) -> HashSet<usize> {
    // The index of the smallest last value of an increasing run of each length, and what comes before each.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(values.len());
    for (i, v) in values.iter().enumerate() {
        let length = ends.partition_point(|e| values[*e] < *v);
        before.push(length.checked_sub(1).map(|l| ends[l]));
        if length == ends.len() {
            ends.push(i);
        } else {
            ends[length] = i;
        }
    }
    let mut out = HashSet::new();
    let mut at = ends.last().copied();
    while let Some(i) = at {
        out.insert(values[i]);
        at = before[i];
    }
    out
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for list in self.rules.iter().filter(|l| !l.changes.is_empty()) {
            writeln!(f, "{}", list.list)?;
            for c in &list.changes {
                match c {
                    Change::Added { name, position, rule } => writeln!(f, "  + {name} (rule {position}) {rule}")?,
                    Change::Removed { name, rule } => writeln!(f, "  - {name} {rule}")?,
                    Change::Changed { name, settings } => {
                        writeln!(f, "  ~ {name}")?;
                        settings.iter().try_for_each(|s| writeln!(f, "      {s}"))?;
                    }
                    Change::Moved { name, from, to } => writeln!(f, "  > {name} from place {from} to {to}")?,
                }
            }
        }
        for e in &self.entries {
            writeln!(f, "{}", e.key)?;
            e.added.iter().try_for_each(|x| writeln!(f, "  + {x}"))?;
            e.removed.iter().try_for_each(|x| writeln!(f, "  - {x}"))?;
        }
        self.settings.iter().try_for_each(|s| writeln!(f, "{s}"))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "(not set)".to_owned());
        write!(f, "{}: {} -> {}", self.key, value(&self.before), value(&self.after))
    }
}
