//! What other programs read of an inspection. If two nodes looked alike to a dashboard, the report of
//! one would close the alerts of the other; if a pipeline took a compensated FAIL for a PASS, its
//! kubelet would stay open.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::corpus::rows;
use crate::inspecting::{inspect, inspect_tree};
use crate::program::{code, json_of};
use crate::schemas::{assert_valid, sarif_schema};
use crate::trees::{files, tree};

const DISTRIBUTIONS: &str = include_str!("data/distributions.tsv");

fn sarif(folder: &Path) -> Value {
    let document = json_of(&inspect_tree(folder, &["-o", "sarif"]));
    assert_valid(&sarif_schema(), &document);
    document["runs"][0].clone()
}

fn fingerprints(run: &Value) -> Vec<String> {
    let results = run["results"].as_array().unwrap().iter();
    results
        .map(|result| {
            result["partialFingerprints"]["kubeletGate/v1"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// A node of flags, with the name of its host.
fn node(host: &str, flags: &str) -> tempfile::TempDir {
    let unit = format!("[Service]\nExecStart=/usr/bin/kubelet {flags}\n");
    files(&[
        ("etc/systemd/system/kubelet.service", unit.as_str()),
        ("etc/hostname", host),
    ])
}

/// Seen red: with fingerprints of rule and key alone, and with one category for all nodes.
#[test]
fn the_reports_of_a_thousand_nodes_close_no_alert_of_each_other() {
    let mut seen = BTreeSet::new();
    let mut categories = BTreeSet::new();
    let mut count = 0;
    for host in ["worker-1\n", "worker-2\n", "# a comment\nworker-3\n"] {
        let run = sarif(node(host, "").path());
        let found = fingerprints(&run);
        count += found.len();
        seen.extend(found);
        categories.insert(run["automationDetails"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen.len(), count, "each result of each node is one of its own");
    let expected = [
        "kubelet-gate/worker-1/",
        "kubelet-gate/worker-2/",
        "kubelet-gate/worker-3/",
    ];
    assert_eq!(categories.into_iter().collect::<Vec<_>>(), expected);
    // The same finding is the same alert when it is uploaded again, with another value or from another file.
    let one = fingerprints(&sarif(node("a", "--anonymous-auth=true").path()));
    assert_eq!(
        one,
        fingerprints(&sarif(node("a", "--anonymous-auth=true").path()))
    );
    let moved = node("a", "--anonymous-auth=true --authorization-mode=Webhook");
    let both = BTreeSet::from_iter(fingerprints(&sarif(moved.path())));
    assert!(
        both.is_subset(&BTreeSet::from_iter(one)),
        "one finding is gone, none is new"
    );
    // A name that a host may claim does not leave its category.
    let run = sarif(node("../worker-1/x?", "").path());
    assert_eq!(
        run["automationDetails"]["id"],
        "kubelet-gate/..%2Fworker-1%2Fx%3F/"
    );
}

/// The name of a node is its Node's where that is known. Seen red: with the host's name first.
#[test]
fn a_report_is_named_after_the_node() {
    for (name, expected) in [
        ("kubeadm", "kubelet-gate/"),
        ("flags-only", "kubelet-gate/worker-0/"),
    ] {
        let run = sarif(&tree(name));
        let id = run["automationDetails"]["id"].as_str().unwrap();
        assert!(id.starts_with(expected) && id.ends_with('/'), "{id}");
    }
    let named = node("host-7", "--hostname-override=Node-7");
    assert_eq!(
        sarif(named.path())["automationDetails"]["id"],
        "kubelet-gate/node-7/"
    );
    let json = json_of(&inspect_tree(named.path(), &["-o", "json"]));
    assert_eq!(json["kubelets"][0]["node"], "node-7");
    // Nothing names it but the folder of the copy.
    let nameless = files(&[(
        "copies/n17/etc/systemd/system/kubelet.service",
        "[Service]\nExecStart=/usr/bin/kubelet\n",
    )]);
    let run = sarif(&nameless.path().join("copies/n17"));
    assert_eq!(run["automationDetails"]["id"], "kubelet-gate/n17/");
}

/// Code scanning drops a result without a file, and refuses one outside its base. Seen red: with `file:`
/// URIs.
#[test]
fn every_result_has_a_place_below_the_nodes_root_and_every_rule_a_severity() {
    let odd = files(&[
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nExecStart=/usr/bin/kubelet --config=\"/etc/kube let/kübe#1:a.yaml\"\n",
        ),
        (
            "etc/kube let/kübe#1:a.yaml",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nreadOnlyPort: 10255\n",
        ),
    ]);
    let mut trees: Vec<_> = rows(DISTRIBUTIONS).map(|row| tree(row[0])).collect();
    trees.push(odd.path().to_owned());
    let mut uris = BTreeSet::new();
    for root in trees {
        let run = sarif(&root);
        let driver = &run["tool"]["driver"];
        assert_eq!(driver["version"], env!("CARGO_PKG_VERSION"));
        let base = &run["originalUriBaseIds"]["NODEROOT"];
        assert!(base.is_object() && base.get("uri").is_none(), "{base}");
        for rule in driver["rules"].as_array().unwrap() {
            let severity = rule["properties"]["security-severity"].as_str().unwrap();
            let severity: f32 = severity.parse().unwrap();
            assert!((0.1..=10.0).contains(&severity), "{rule}");
            assert_eq!(rule["properties"]["tags"], json!(["security"]));
        }
        for result in run["results"].as_array().unwrap() {
            let [location] = result["locations"].as_array().unwrap().as_slice() else {
                panic!("{result}");
            };
            let artifact = &location["physicalLocation"]["artifactLocation"];
            assert_eq!(artifact["uriBaseId"], "NODEROOT");
            let uri = artifact["uri"].as_str().unwrap();
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
            assert!(
                !uri.is_empty() && !uri.starts_with('/') && uri.bytes().all(is_plain),
                "{uri}"
            );
            uris.insert(uri.to_owned());
        }
    }
    for expected in [
        "etc/kube%20let/k%C3%BCbe%231%3Aa.yaml",
        "etc/systemd/system/kubelet.service",
    ] {
        assert!(uris.contains(expected), "{expected}: {uris:#?}");
    }
    // Options of the command line alone are in no file of the node.
    let given = inspect(&["-o", "sarif", "--kubelet-arg=--anonymous-auth=true"]);
    assert_valid(&sarif_schema(), &json_of(&given));
}

/// Fields of the JSON of kube-bench 0.10, as its report on a node by its cis-1.10 controls has them: of a
/// document, a control, a test and a result. `reason` is left out where it is empty.
const DOCUMENT: [(&str, &str); 2] = [("Controls", "array"), ("Totals", "object")];
const CONTROL: [(&str, &str); 10] = [
    ("id", "string"),
    ("version", "string"),
    ("detected_version", "string"),
    ("text", "string"),
    ("node_type", "string"),
    ("tests", "array"),
    ("total_pass", "number"),
    ("total_fail", "number"),
    ("total_warn", "number"),
    ("total_info", "number"),
];
const TEST: [(&str, &str); 8] = [
    ("section", "string"),
    ("type", "string"),
    ("pass", "number"),
    ("fail", "number"),
    ("warn", "number"),
    ("info", "number"),
    ("desc", "string"),
    ("results", "array"),
];
const RESULT: [(&str, &str); 13] = [
    ("test_number", "string"),
    ("test_desc", "string"),
    ("audit", "string"),
    ("AuditEnv", "string"),
    ("AuditConfig", "string"),
    ("type", "string"),
    ("remediation", "string"),
    ("test_info", "array"),
    ("status", "string"),
    ("actual_value", "string"),
    ("scored", "boolean"),
    ("IsMultiple", "boolean"),
    ("expected_result", "string"),
];

#[track_caller]
fn assert_shape(value: &Value, fields: &[(&str, &str)]) {
    let kind = |value: &Value| match value {
        Value::Array(_) => "array",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
        Value::Number(_) => "number",
        Value::Object(_) => "object",
        Value::String(_) => "string",
    };
    let mut found: Vec<(&str, &str)> = value
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "reason")
        .map(|(name, value)| (name.as_str(), kind(value)))
        .collect();
    let mut expected = fields.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Checks shape and counts, and yields the results.
#[track_caller]
pub(crate) fn kube_bench_results(document: &Value) -> Vec<Value> {
    assert_shape(document, &DOCUMENT);
    let counts = |results: &[Value]| {
        ["PASS", "FAIL", "WARN", "INFO"]
            .map(|status| results.iter().filter(|result| result["status"] == status).count() as u64)
    };
    let numbers = |value: &Value, prefix: &str| {
        ["pass", "fail", "warn", "info"].map(|name| value[format!("{prefix}{name}")].as_u64().unwrap())
    };
    let mut all = Vec::new();
    for control in document["Controls"].as_array().unwrap() {
        assert_shape(control, &CONTROL);
        let mut of_control = Vec::new();
        for test in control["tests"].as_array().unwrap() {
            assert_shape(test, &TEST);
            let results = test["results"].as_array().unwrap();
            for result in results {
                assert_shape(result, &RESULT);
            }
            assert_eq!(counts(results), numbers(test, ""));
            of_control.extend_from_slice(results);
        }
        assert_eq!(counts(&of_control), numbers(control, "total_"));
        all.extend(of_control);
    }
    assert_eq!(counts(&all), numbers(&document["Totals"], "total_"));
    assert_eq!(counts(&all).iter().sum::<u64>(), all.len() as u64);
    all
}

/// Seen red: with the numbers of older benchmarks.
#[test]
fn the_json_of_kube_bench_has_every_check_with_the_kubelets_own_status() {
    for row in rows(DISTRIBUTIONS) {
        let root = tree(row[0]);
        let output = inspect_tree(&root, &["-o", "kube-bench"]);
        let results = kube_bench_results(&json_of(&output));
        let ours = json_of(&inspect_tree(&root, &["-o", "json"]));
        let checks = ours["kubelets"][0]["checks"].as_array().unwrap();
        assert_eq!(results.len(), checks.len(), "{}", row[0]);
        for check in checks {
            let number = check["cis"]["since1.7"].as_str();
            let number = number.unwrap_or_else(|| check["id"].as_str().unwrap());
            let of: Vec<_> = results
                .iter()
                .filter(|result| result["test_number"] == number)
                .collect();
            let [result] = of.as_slice() else {
                panic!("{number}: {of:#?}");
            };
            assert_eq!(result["status"], check["verdict"], "{number}");
            let passes = check["verdict"] == "PASS";
            assert_eq!(result.get("reason").is_none(), passes, "{result}");
            if !passes {
                let reason = result["reason"].as_str().unwrap();
                assert!(
                    reason.contains(check["gate"]["says"].as_str().unwrap()),
                    "{reason}"
                );
            }
        }
    }
    let output = inspect_tree(&tree("flags-only"), &["-o", "kube-bench"]);
    assert_eq!(code(&output), 2);
    let document = json_of(&output);
    assert_eq!(document["Controls"][0]["id"], "4");
    assert_eq!(document["Controls"][0]["node_type"], "node");
    let tests = document["Controls"][0]["tests"].as_array().unwrap().iter();
    let sections: Vec<_> = tests.map(|test| test["section"].as_str().unwrap()).collect();
    assert_eq!(sections, ["4.2", "kubelet-gate"]);
}

/// A pipeline that reads the JSON alone must see that a kubelet is missing in it. Seen red: with
/// the errors on stderr alone.
#[test]
fn what_could_not_be_read_is_a_warning_in_the_json_of_kube_bench() {
    let folder = files(&[
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nExecStart=/usr/bin/kubelet\n",
        ),
        (
            "etc/systemd/system/k3s.service",
            "[Service]\nExecStart=/usr/local/bin/k3s agent --kubelet-arg=port=x\n",
        ),
    ]);
    let output = inspect_tree(folder.path(), &["-o", "kube-bench"]);
    let results = kube_bench_results(&json_of(&output));
    let unread: Vec<_> = results
        .iter()
        .filter(|result| result["test_number"] == "not-read")
        .collect();
    let [unread] = unread.as_slice() else {
        panic!("{unread:#?}");
    };
    assert_eq!(unread["status"], "WARN");
    assert!(unread["reason"].as_str().unwrap().contains("port=x"), "{unread}");
    assert_eq!(code(&inspect(&["-o", "kube_bench"])), 64, "the name has a hyphen");
}
