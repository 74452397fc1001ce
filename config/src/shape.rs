//! What the values of keys look like. Readers take the keys of a map and the limits of numbers from these
//! tables, and the JSON Schema is made of them.

use crate::read::Keys;

/// A key of a map.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// What it means, for people who write a policy.
    pub(crate) about: &'static str,
    pub(crate) required: bool,
}

/// A key that may be left out.
pub(crate) const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, about, required: false }
}

impl Key {
    /// The same key, which must be there.
    pub(crate) const fn required(self) -> Key {
        Key { required: true, ..self }
    }
}

/// What a value looks like.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// A map with these keys.
    Map(&'static Keys),
    /// A map from names that the policy gives.
    Named(&'static Shape),
    /// A list of maps with these keys.
    Rules(&'static Keys),
    /// A list, which may be empty, or one of its items.
    List(&'static Shape),
    /// A list of some, or one of its items.
    Some(&'static Shape),
    /// Either of these.
    Either(&'static [Shape]),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A whole number, from the one to the other.
    Number(u64, u64),
    /// The same, or `auto`.
    AutoNumber(u64, u64),
    /// `true` or `false`.
    Switch,
    /// `true`.
    True,
    /// Nothing.
    Empty,
    /// A value that is written in a way of its own.
    Leaf(Leaf),
}

/// Values that are written in a way of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    Version,
    /// The name of a rule.
    RuleName,
    /// The name of a zone, an interface or a set.
    Name,
    Device,
    File,
    Socket,
    /// The prefix of log lines.
    Prefix,
    Endpoint,
    Address,
    /// An address, a prefix or a range.
    Addresses,
    Net,
    Port,
    Ports,
    Duration,
    Rate,
    Mark,
    MaskedMark,
    Protocol,
    IcmpType,
    Helper,
    Cpus,
}

impl Leaf {
    pub(crate) const ALL: [Leaf; 21] = [
        Leaf::Version,
        Leaf::RuleName,
        Leaf::Name,
        Leaf::Device,
        Leaf::File,
        Leaf::Socket,
        Leaf::Prefix,
        Leaf::Endpoint,
        Leaf::Address,
        Leaf::Addresses,
        Leaf::Net,
        Leaf::Port,
        Leaf::Ports,
        Leaf::Duration,
        Leaf::Rate,
        Leaf::Mark,
        Leaf::MaskedMark,
        Leaf::Protocol,
        Leaf::IcmpType,
        Leaf::Helper,
        Leaf::Cpus,
    ];
}

/// The words of a table that says what each of them means.
pub(crate) const fn words<T: Copy, const N: usize>(table: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut out = [""; N];
    let mut i = 0;
    while i < N {
        out[i] = table[i].0;
        i += 1;
    }
    out
}

/// Zones that a rule names.
pub(crate) const ZONES: Shape = Shape::Some(&Shape::Leaf(Leaf::Name));
