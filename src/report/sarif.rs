//! Findings as SARIF 2.1.0, which code scanning and most dashboards read.
//!
//! A dashboard keeps what it is sent apart by a run's category, and follows a result from one upload
//! to the next by its fingerprint. Both name the node here: otherwise the report of one node would
//! close the alerts of another.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::hex;

/// What was found on one node.
pub(crate) struct Run {
    /// What the node is called.
    pub(crate) node: String,
    /// The part of the category behind the node's name: empty, or a command whose results are kept apart.
    pub(crate) part: &'static str,
    pub(crate) rules: Vec<Rule>,
    pub(crate) findings: Vec<Finding>,
    /// Why a finding that is missing proves nothing. With any, the run counts as failed.
    pub(crate) faults: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// A rule: what is checked, whether or not it was found.
pub(crate) struct Rule {
    /// Its name, which never changes, such as `kubelet/anonymous-auth`.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) help: String,
    /// How severe a breach is, from 0.1 to 10.0 as CVSS counts.
    pub(crate) severity: f64,
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
    /// What tells it from other findings of the rule on the same node: an option, a file, an address. It
    /// stays the same from one report to the next.
    pub(crate) key: String,
    pub(crate) level: Level,
    pub(crate) message: String,
    pub(crate) place: Place,
    /// Why no action is needed, if so.
    pub(crate) suppressed: Option<String>,
}

/// Where it was found.
#[derive(Clone)]
pub(crate) struct Place {
    /// A file of the node, by its absolute path there.
    pub(crate) file: String,
    /// The process, unit or address that it is about.
    pub(crate) name: String,
}

/// The base of every URI: where it is on the reader's side is unknown, so the document gives it no address.
const NODE_ROOT: &str = "NODEROOT";

/// The document, with a run for each node.
pub(crate) fn document(runs: &[Run]) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    })
}

fn run(run: &Run) -> Value {
    let rules: Vec<Value> = run.rules.iter().map(rule).collect();
    let mut seen = HashMap::new();
    let results: Vec<Value> = run
        .findings
        .iter()
        .map(|finding| {
            let identity = [&run.node, &finding.rule, &finding.key].map(|part| escaped(part));
            let identity = identity.join(" ");
            // Two kubelets of one node may share it.
            let count: &mut u32 = seen.entry(identity.clone()).or_default();
            *count += 1;
            let hash = hex::text(digest(&SHA256, identity.as_bytes()).as_ref());
            result(finding, &format!("{hash}:{count}"))
        })
        .collect();
    let notification =
        |level: &'static str| move |text: &String| json!({"level": level, "message": {"text": text}});
    let notifications: Vec<Value> = run
        .faults
        .iter()
        .map(notification("error"))
        .chain(run.notes.iter().map(notification("note")))
        .collect();
    let node = escaped(&run.node).replace('/', "%2F");
    let part = match run.part {
        "" => String::new(),
        part => format!("{part}/"),
    };
    json!({
        "tool": {"driver": {
            "name": "kubelet-gate",
            "version": env!("CARGO_PKG_VERSION"),
            "semanticVersion": env!("CARGO_PKG_VERSION"),
            "rules": rules,
        }},
        "automationDetails": {"id": format!("kubelet-gate/{node}/{part}")},
        "originalUriBaseIds": {
            NODE_ROOT: {"description": {"text": "the root of the node's file system"}},
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [{
            "executionSuccessful": run.faults.is_empty(),
            "toolExecutionNotifications": notifications,
        }],
        "results": results,
    })
}

fn rule(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": rule.help},
        "help": {"text": rule.help},
        "properties": {
            "tags": ["security"],
            "security-severity": format!("{:.1}", rule.severity),
        },
    })
}

fn result(finding: &Finding, fingerprint: &str) -> Value {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let mut result = json!({
        "ruleId": finding.rule,
        "level": level,
        "message": {"text": finding.message},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": uri(&finding.place.file), "uriBaseId": NODE_ROOT},
            },
            "logicalLocations": [{"fullyQualifiedName": finding.place.name}],
        }],
        "partialFingerprints": {"kubeletGate/v1": fingerprint},
    });
    if let Some(why) = &finding.suppressed {
        result["suppressions"] = json!([{"kind": "external", "status": "accepted", "justification": why}]);
    }
    result
}

/// A path as a URI that is relative to the node's root. `..` is taken out as well: readers refuse a location
/// that may lead out of its base.
fn uri(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    escaped(&segments.join("/"))
}

/// With every character escaped that a URI reserves, except `/`.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    text.bytes().fold(String::new(), |uri, byte| match plain(byte) {
        true => uri + char::from(byte).encode_utf8(&mut [0; 4]),
        false => uri + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::uri;

    /// With `:` left as it is, the first segment of the last path would be read as a scheme. (Not seen red.)
    #[test]
    fn a_path_is_escaped_in_its_uri_and_relative_to_the_root() {
        for (path, expected) in [
            ("/etc/kübe config#1", "etc/k%C3%BCbe%20config%231"),
            (
                "//etc/./kubernetes//x/../50%.conf?a=b",
                "etc/kubernetes/50%25.conf%3Fa%3Db",
            ),
            ("/../../etc/shadow", "etc/shadow"),
            ("relative/k.yaml", "relative/k.yaml"),
            ("javascript:alert(1)\\", "javascript%3Aalert%281%29%5C"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }
}
