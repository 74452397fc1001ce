//! A YAML text as a tree whose every node knows its place.
//!
//! Reading into a tree first, instead of into typed structures, is what lets one run report every
//! wrong type and every unknown key, and point at each of them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, MessageFormatter, NonFiniteFloatPolicy, Options, Spanned, UserMessageFormatter,
};

use crate::report::{Report, Span};

/// The longest text that is read, in bytes. Far above any policy; keeps offsets in 32 bits.
pub(crate) const MAX_TEXT: usize = 64 << 20;

/// One node of the tree.
pub(crate) struct Node<'t> {
    /// Where it is written; for an alias, where its anchor is.
    pub(crate) at: Span,
    pub(crate) value: Value<'t>,
}

/// What a node holds.
pub(crate) enum Value<'t> {
    /// Nothing, or `null`.
    Null,
    /// A number or a boolean; its text is what the span covers, so that `1_000` or `1.10` stay as written.
    Plain,
    /// Every other scalar.
    Text(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Map(Vec<(Node<'t>, Node<'t>)>),
}

/// Reads the text; `None` when it is no YAML, which has then been reported.
pub(crate) fn read<'t>(report: &mut Report<'t>) -> Option<Node<'t>> {
    let text = report.text();
    if text.len() > MAX_TEXT {
        report.error(Span::default(), format!("the policy is longer than {} MiB", MAX_TEXT >> 20));
        return None;
    }
    match serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::Error)) {
        Ok(node) => Some(node),
        Err(e) => {
            refuse(report, &e);
            // Ignoring the duplicate shows what else is wrong.
            match e.without_snippet() {
                Error::DuplicateMappingKey { .. } => {
                    serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::FirstWins)).ok()
                }
                _ => None,
            }
        }
    }
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        // A set of a million addresses fits; a bomb of nested aliases does not.
        budget: serde_saphyr::budget! {
            max_nodes: 4_000_000,
            max_events: 8_000_000,
            max_depth: 32,
            max_aliases: 10_000,
            max_anchors: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 1_000_000 },
        duplicate_keys: duplicate_keys,
        emit_comments: false,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn refuse(report: &mut Report<'_>, error: &Error) {
    let at = error.location().map_or(Span::default(), |l| {
        let place = report.place(l.line(), l.column());
        Span { len: l.span().byte_len().map_or(1, |n| n as u32), ..place }
    });
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => report.error_help(
            at,
            format!("the key `{}` appears twice in this map", crate::report::short(key)),
            "merge the two, or remove one",
        ),
        Error::MultipleDocuments { .. } => {
            report.error_help(at, "a second YAML document begins here", "a policy is one document: remove the `---`");
        }
        _ => report.error(at, format!("not valid YAML: {}", UserMessageFormatter.format_message(error))),
    }
}

impl<'de: 't, 't> Deserialize<'de> for Node<'t> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = Spanned::<Value<'t>>::deserialize(d)?;
        let span = s.defined.span();
        let number = |n: Option<u64>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Ok(Node {
            at: Span { start: number(span.byte_offset()), len: number(span.byte_len()), source: 0 },
            value: s.value,
        })
    }
}

impl<'de: 't, 't> Deserialize<'de> for Value<'t> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Value::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Value::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Plain)
    }

    fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(s)))
    }

    fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(s.to_owned())))
    }

    fn visit_string<E>(self, s: String) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(s)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = a.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = a.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
