//! What a policy's file says, as plain values: what two policies are compared by.

use std::fmt;
use std::sync::Arc;

use crate::files;
use crate::yaml::{Node, Value};

/// A value as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A scalar.
    Text(String),
    /// A list.
    List(Vec<Written>),
    /// A map, in the order of the file.
    Map(Vec<(String, Written)>),
}

impl Written {
    /// The tree without places. Keys without a value are left out: they say nothing.
    pub(crate) fn of(text: &str, node: &Node<'_>) -> Option<Written> {
        let scalar = |n: &Node<'_>| match &n.value {
            Value::Text(t) => t.to_string(),
            _ => text.get(n.at.start as usize..(n.at.start + n.at.len) as usize).unwrap_or("").to_owned(),
        };
        Some(match &node.value {
            Value::Null => return None,
            Value::Plain | Value::Text(_) => Written::Text(scalar(node)),
            Value::List(items) => Written::List(items.iter().filter_map(|n| Written::of(text, n)).collect()),
            Value::Map(entries) => {
                Written::Map(entries.iter().filter_map(|(k, v)| Some((scalar(k), Written::of(text, v)?))).collect())
            }
        })
    }

    /// Adds the entries of files that the policy names, as lists under the names of the files.
    pub(crate) fn add_files(&mut self, files: &[(Arc<str>, Arc<str>)]) {
        let Written::Map(all) = self else { return };
        for (name, text) in files {
            if all.iter().any(|(key, _)| **key == **name) {
                continue;
            }
            let entries = files::entries(text).map(|(_, entry)| Written::Text(entry.to_owned()));
            all.push((name.to_string(), Written::List(entries.collect())));
        }
    }

    /// The value of a key of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Written> {
        match self {
            Written::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The items of a list; another value stands for a list of one.
    pub(crate) fn items(&self) -> &[Written] {
        match self {
            Written::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// Whether both say the same: a map's order does not count, nor whether one value is in a list.
    pub fn same(&self, other: &Written) -> bool {
        match (self, other) {
            (Written::Text(a), Written::Text(b)) => a == b,
            (Written::Map(a), Written::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| other.get(k).is_some_and(|o| v.same(o)))
            }
            (Written::List(_), _) | (_, Written::List(_)) => {
                let (a, b) = (self.items(), other.items());
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            _ => false,
        }
    }
}

/// Items of a list that are shown.
const SHOWN: usize = 32;

/// YAML's flow style, on one line; of a long list the beginning.
impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Text(t) => f.write_str(t),
            Written::List(items) => {
                f.write_str("[")?;
                for (i, v) in items.iter().take(SHOWN).enumerate() {
                    write!(f, "{}{v}", if i > 0 { ", " } else { "" })?;
                }
                if items.len() > SHOWN {
                    write!(f, ", and {} more", items.len() - SHOWN)?;
                }
                f.write_str("]")
            }
            Written::Map(entries) => {
                f.write_str("{")?;
                for (i, (k, v)) in entries.iter().enumerate() {
                    write!(f, "{} {k}: {v}", if i > 0 { "," } else { "" })?;
                }
                f.write_str(" }")
            }
        }
    }
}
