//! What the reader accepts, the schema accepts.

use std::sync::OnceLock;

use serde_json::Value;

/// What the schema says against a policy; nothing when it is valid.
pub(crate) fn faults(text: &str) -> Vec<String> {
    static VALIDATOR: OnceLock<jsonschema::Validator> = OnceLock::new();
    let validator =
        VALIDATOR.get_or_init(|| jsonschema::draft7::new(&config::schema()).unwrap_or_else(|e| panic!("{e}")));
    // As YAML 1.2 has it, and editors: `off` is a word.
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: Value = serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|e| panic!("{e}\n{text}"));
    validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

/// Fails when a policy is not valid.
#[track_caller]
#[allow(dead_code)]
pub(crate) fn agrees(text: &str) {
    let all = faults(text);
    assert!(all.is_empty(), "{}\n{text}", all.join("\n"));
}
