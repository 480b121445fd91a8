//! Keys of features that are not built yet. Earlier versions took each at one value and printed it as if it
//! were in force. A file that has that value is read, with a warning; any other value is refused, since to
//! ignore it would break a promise. See `docs/decisions/011-keys-without-effect.md`.

use serde_json::{Value, json};

/// Every such key, with the value that earlier versions took.
pub(super) fn keys() -> Value {
    json!({
        "enforcement": "Enforce",
    })
}

/// What this version does instead of what such a key says.
pub(super) const INSTEAD: &str = "every decision is enforced, and there is no report mode";
