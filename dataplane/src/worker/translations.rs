//! Which rule translates each connection's source, for the account of what a rule's addresses are used for.
//!
//! It is asked only when a connection begins and ends, so it lies beside the connections: four bytes each, which
//! cost memory only where a connection is.

use std::io;

use crate::conntrack::SlabView;
use crate::conntrack::region::Region;
use crate::policy::{List, Policy};

/// A rule that translates sources: a source translation, or a destination translation that sees to both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Translator {
    pub(super) list: List,
    pub(super) rule: u16,
}

/// The rules by slot; 0 for none, else the rule's index plus one, above [`DESTINATION`] for destination translations.
pub(super) struct Translations(Region<u32>);

const DESTINATION: u32 = 1 << 16;

impl Translations {
    pub(super) fn new(view: &SlabView) -> io::Result<Self> {
        // SAFETY: zero is a valid `u32`, which needs no drop.
        let rules = unsafe { Region::zeroed(view.capacity() as usize)? };
        view.has_part(2, &rules);
        Ok(Translations(rules))
    }

    /// Notes the rule of a connection that begins.
    #[inline]
    pub(super) fn set(&mut self, slot: u32, by: Option<Translator>) {
        let code = by.map_or(0, |t| u32::from(t.rule) + 1 + if t.list == List::SourceNat { 0 } else { DESTINATION });
        self.0.as_mut_slice()[slot as usize] = code;
    }

    /// The rule, as an index of the policy under which it was noted.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<Translator> {
        let code = self.0.as_slice()[slot as usize].checked_sub(1)?;
        let list = if code < DESTINATION { List::SourceNat } else { List::DestinationNat };
        Some(Translator { list, rule: code as u16 })
    }
}

impl Translator {
    /// The same rule in the policy that follows; `None` when it is not there any more.
    pub(super) fn successor(self, policy: &Policy) -> Option<Self> {
        Some(Translator { rule: policy.translation_successor(self.list, self.rule)?, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found() {
        let mut t = Translations::new(&SlabView::new(10).unwrap()).unwrap();
        assert_eq!(t.get(3), None);
        for list in [List::SourceNat, List::DestinationNat] {
            for rule in [0, 1, 65_000] {
                let by = Some(Translator { list, rule });
                t.set(3, by);
                assert_eq!(t.get(3), by);
            }
        }
        t.set(3, None);
        assert_eq!(t.get(3), None);
    }
}
