//! Nothing that is fed to the parser makes it panic.

use proptest::prelude::*;

const GOOD: &str = include_str!("../examples/office-dmz.yaml");

/// Words that a policy is made of, so that random texts get past the first check.
const WORDS: [&str; 40] = [
    "version: 1\n",
    "interfaces:\n",
    "  lan: { device: eth1, zone: inside }\n",
    "policy:\n",
    "  rules:\n",
    "    - ",
    "{ name: a, ",
    "match: ",
    "{ from: ",
    "inside",
    " }",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    "\n",
    "  ",
    "sets:\n",
    "nat:\n",
    "  source:\n",
    "  destination:\n",
    "translate: ",
    "masquerade",
    "pool: ",
    "10.0.0.0/8",
    "1-2",
    "2001:db8::",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "port: ",
    "65536",
    "\u{feff}",
    "é",
    "\t",
];

proptest! {
    #[test]
    fn arbitrary_text(text in any::<String>()) {
        config::fuzz(text.as_bytes());
    }

    #[test]
    fn words_of_a_policy(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60)) {
        config::fuzz(words.concat().as_bytes());
    }

    #[test]
    fn a_good_policy_behind_a_head(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..40)) {
        let head = "version: 1\ninterfaces:\n  lan: { device: eth1, zone: inside }\n";
        config::fuzz(format!("{head}{}", words.concat()).as_bytes());
    }

    #[test]
    fn a_good_policy_with_bytes_changed(
        changes in proptest::collection::vec((0..GOOD.len(), "[ -~\n]"), 1..8),
        cut in 0..GOOD.len(),
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (i, c) in changes {
            bytes[i] = c.as_bytes()[0];
        }
        config::fuzz(&bytes);
        config::fuzz(&bytes[..cut]);
    }
}
