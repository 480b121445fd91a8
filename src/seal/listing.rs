//! What `nft -j` says is in the kernel, read for what matters to the seal.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::digest::sha256;
use super::error::FirewallError;

/// Objects of one listing.
#[derive(Debug)]
pub struct Listing {
    objects: Vec<Value>,
}

/// Reads a listing.
pub(super) fn parse(tool: &str, text: &str) -> Result<Listing, FirewallError> {
    let unreadable = |why: String| FirewallError::Answer {
        tool: tool.to_owned(),
        doing: "listing as JSON",
        why,
    };
    let mut document: Value = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    match document.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => Ok(Listing { objects }),
        _ => Err(unreadable("there is no nftables array in it".to_owned())),
    }
}

impl Listing {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter_map(move |object| object.get(kind))
    }

    pub(super) fn has_table(&self, name: &str) -> bool {
        self.of_kind("table")
            .any(|table| table["family"] == "inet" && table["name"] == name)
    }

    /// Whether the trial's set is there, empty or not.
    pub(super) fn has_trial(&self) -> bool {
        self.of_kind("set").any(|set| set["name"] == "trial")
    }

    /// Whether there is a chain of which this is true.
    pub(super) fn has_chain(&self, is: impl Fn(&str) -> bool) -> bool {
        self.of_kind("chain")
            .any(|chain| chain["name"].as_str().is_some_and(&is))
    }

    /// What is left of the trial's shortest-lived port. Expired ones are not listed.
    pub(super) fn trial_remaining(&self) -> Option<Duration> {
        let set = self.of_kind("set").find(|set| set["name"] == "trial")?;
        let elements = set["elem"].as_array()?.iter();
        elements
            .map(|element| Duration::from_secs(element["elem"]["expires"].as_u64().unwrap_or(0)))
            .min()
    }

    /// Whether the chain `exempt` has exactly this rule.
    pub(super) fn admits(&self, uid: u32, value: u32, mask: u32, cgroup: Option<&str>) -> bool {
        let mut expected =
            vec![json!({"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": uid}})];
        if let Some(path) = cgroup {
            expected
                .push(json!({"match": {"op": "==", "left": {"socket": {"key": "cgroupv2"}}, "right": path}}));
        }
        let mark = json!({"&": [{"meta": {"key": "mark"}}, mask]});
        expected.push(json!({"match": {"op": "==", "left": mark, "right": value}}));
        expected.push(json!({"counter": null}));
        expected.push(json!({"accept": null}));
        let rules: Vec<&Value> = self
            .of_kind("rule")
            .filter(|rule| rule["chain"] == "exempt")
            .collect();
        matches!(rules.as_slice(), [rule] if is_ours(rule) && normal(&rule["expr"]) == Value::Array(expected))
    }

    /// A hash of the confirmed rules: without what the trial adds, what the exemption is, and what only
    /// counts.
    pub(super) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for object in &self.objects {
            if !passing(object) {
                text.push_str(&normal(object).to_string());
                text.push('\n');
            }
        }
        sha256(text.as_bytes())
    }
}

/// Whether a set, chain or rule is in the gate's table.
fn is_ours(object: &Value) -> bool {
    object["family"] == "inet" && object["table"] == "kubelet_gate"
}

/// Whether an object belongs to the trial or to the exemption. One that is two things at once is not ours.
fn passing(object: &Value) -> bool {
    let of_trial = |name: &Value| name.as_str().is_some_and(|name| name.ends_with("_trial"));
    let mut kinds = object.as_object().into_iter().flatten();
    let (Some((kind, value)), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    if kind == "metainfo" {
        return true;
    }
    if !is_ours(value) {
        return false;
    }
    if object["set"]["name"] == "trial" || of_trial(&object["chain"]["name"]) {
        return true;
    }
    let rule = &object["rule"];
    let chain = rule["chain"].as_str().unwrap_or_default();
    // The one rule of a base chain that leads to the trial; any other with `@trial` in it is not ours.
    let to_trial = json!([
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
            "right": "@trial"}},
        {"goto": {"target": format!("{chain}_trial")}},
    ]);
    chain == "exempt" || of_trial(&rule["chain"]) || rule["expr"] == to_trial
}

/// Without handles and counts, and sets in one order.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut kept = Map::new();
            for (key, value) in object {
                match key.as_str() {
                    "handle" => {}
                    "counter" => drop(kept.insert(key.clone(), Value::Null)),
                    "set" if value.is_array() => {
                        let mut elements: Vec<Value> =
                            value.as_array().into_iter().flatten().map(normal).collect();
                        elements.sort_by_key(Value::to_string);
                        kept.insert(key.clone(), elements.into());
                    }
                    _ => drop(kept.insert(key.clone(), normal(value))),
                }
            }
            Value::Object(kept)
        }
        Value::Array(values) => values.iter().map(normal).collect(),
        plain => plain.clone(),
    }
}
