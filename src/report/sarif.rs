//! Findings as SARIF 2.1.0, which code scanning and most dashboards read.

use serde_json::{Value, json};

/// A rule: what is checked, whether or not it was found.
pub(crate) struct Rule {
    /// Its name, which never changes, such as `kubelet/anonymous-auth`.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) help: String,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Level {
    Error,
    Warning,
    Note,
}

/// A finding.
pub(crate) struct Finding {
    /// The [`Rule::id`].
    pub(crate) rule: String,
    pub(crate) level: Level,
    pub(crate) message: String,
    pub(crate) place: Place,
    /// Why no action is needed, if so.
    pub(crate) suppressed: Option<String>,
}

/// Where it was found.
pub(crate) enum Place {
    /// A file of the node, by its absolute path.
    File(String),
    /// A process, an address: something that is not in a file.
    Named(String),
}

/// The document, with one run of this program. With `faults` the run counts as failed: a finding that is
/// missing then proves nothing.
pub(crate) fn document(rules: &[Rule], findings: &[Finding], faults: &[String], notes: &[String]) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": {"text": rule.name},
                "help": {"text": rule.help},
            })
        })
        .collect();
    let results: Vec<Value> = findings.iter().map(result).collect();
    let notification =
        |level: &'static str| move |text: &String| json!({"level": level, "message": {"text": text}});
    let notifications: Vec<Value> = faults
        .iter()
        .map(notification("error"))
        .chain(notes.iter().map(notification("note")))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "kubelet-gate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": faults.is_empty(),
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let place = match &finding.place {
        Place::File(path) => json!({"physicalLocation": {"artifactLocation": {"uri": uri(path)}}}),
        Place::Named(name) => json!({"logicalLocations": [{"fullyQualifiedName": name}]}),
    };
    let mut result = json!({
        "ruleId": finding.rule,
        "level": level,
        "message": {"text": finding.message},
        "locations": [place],
    });
    if let Some(why) = &finding.suppressed {
        result["suppressions"] = json!([{"kind": "external", "status": "accepted", "justification": why}]);
    }
    result
}

/// A `file:` URI, with every character escaped that a URI reserves.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    path.bytes()
        .fold("file://".to_owned(), |uri, byte| match plain(byte) {
            true => uri + char::from(byte).encode_utf8(&mut [0; 4]),
            false => uri + &format!("%{byte:02X}"),
        })
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn a_path_is_escaped_in_its_uri() {
        assert_eq!(uri("/etc/kübe config#1"), "file:///etc/k%C3%BCbe%20config%231");
    }
}
