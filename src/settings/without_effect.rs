//! Keys of features that are not built yet. Earlier versions took each at one value and printed it as if it
//! were in force. A file that has that value is read, with a warning; any other value is refused, since to
//! ignore it would break a promise. See `docs/decisions/011-keys-without-effect.md`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::duration;

/// Every such key, with the value that earlier versions took.
pub(super) fn keys() -> Value {
    json!({
        "authorization": {
            "webhook": {"staleAllow": {"maxAge": "0s", "subresources": ["metrics", "healthz", "stats"]}},
        },
        "enforcement": "Enforce",
        "sandbox": "BestEffort",
    })
}

/// What this version does instead of what the key says.
pub(super) fn instead(key: &str) -> &'static str {
    match key {
        "enforcement" => "every decision is enforced, and there is no report mode",
        "sandbox" => "there is no sandbox",
        _ => "no allow stands longer than its cache time",
    }
}

/// Whether two values mean the same; `5m` is `5m0s`.
pub(super) fn same(written: &Value, accepted: &Value) -> bool {
    let duration = |value: &Value| -> Option<Duration> { duration::parse(value.as_str()?).ok() };
    written == accepted || duration(accepted).is_some_and(|accepted| duration(written) == Some(accepted))
}
