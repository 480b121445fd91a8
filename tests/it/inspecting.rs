//! If `inspect` reads a node otherwise than its kubelet does, an operator believes that a door is closed
//! which is open.

use std::fs;
use std::path::Path;
use std::process::Output;

use kubelet_gate::adopt::inspect::{Check, Inspection, Verdict};
use kubelet_gate::adopt::kubelet::invocation::Invocation;
use kubelet_gate::adopt::kubelet::{Root, in_files};
use serde_json::Value;
use time::OffsetDateTime;

use crate::corpus::rows;
use crate::program::{assert_says, code, json_of, kubelet_gate, kubelet_gate_beside, output, stderr, stdout};
use crate::schemas::{assert_valid, sarif_schema, schema};
use crate::trees::{files, tree, write};

pub(crate) fn inspect(arguments: &[&str]) -> Output {
    kubelet_gate().arg("inspect").args(arguments).output().unwrap()
}

/// `inspect` of another file system.
pub(crate) fn inspect_tree(folder: &Path, more: &[&str]) -> Output {
    let root = ["--root", folder.to_str().unwrap()];
    inspect(&[&root, more].concat())
}

pub(crate) fn inspected(name: &str) -> Inspection {
    only(&tree(name))
}

/// The only kubelet that the files of a node start.
pub(crate) fn only(folder: &Path) -> Inspection {
    let (mut found, errors) = in_files(&Root::new(folder));
    let counts = (found.len(), errors.len());
    assert_eq!(counts, (1, 0), "{}: {errors:?}", folder.display());
    judged(found.remove(0))
}

pub(crate) fn judged(invocation: Invocation) -> Inspection {
    Inspection::of(invocation, OffsetDateTime::now_utc()).unwrap()
}

pub(crate) fn check<'a>(inspection: &'a Inspection, id: &str) -> &'a Check {
    inspection.checks.iter().find(|check| check.id == id).unwrap()
}

/// The line of the table on this check of the CIS benchmark.
fn line<'a>(said: &'a str, cis: &str) -> &'a str {
    let prefix = format!("{cis} ");
    let line = said.lines().find(|line| line.starts_with(&prefix));
    line.unwrap_or_else(|| panic!("{cis}: {said}"))
}

const DISTRIBUTIONS: &str = include_str!("data/distributions.tsv");

#[test]
fn every_distribution_is_read_as_its_kubelet_reads_it() {
    for row in rows(DISTRIBUTIONS) {
        let [name, anonymous, mode, read_only, ca, serving, node] = row[..] else {
            panic!("{row:?}");
        };
        let found = inspected(name);
        let verdicts = ["anonymous-auth", "authorization-mode", "read-only-port"]
            .map(|id| format!("{:?}", check(&found, id).verdict));
        assert_eq!(verdicts, [anonymous, mode, read_only], "{name}");
        let options = &found.options;
        assert_eq!(options.text("authentication.x509.clientCAFile"), ca, "{name}");
        assert_eq!(options.serving_pair().0, serving, "{name}");
        let subject = format!("CN=system:node:{node}");
        let is_named = |subjects: &[String]| subjects.iter().any(|one| one.ends_with(&subject));
        let subjects: Vec<String> = found
            .certificates
            .iter()
            .map(|certificate| certificate.subject.clone())
            .collect();
        assert!(node == "-" || is_named(&subjects), "{name}: {subjects:?}");
        assert!(
            found.notes.is_empty() && found.unread.is_empty(),
            "{name}: {:?}",
            found.notes
        );
    }
    // What one of them alone has.
    let k3s = inspected("k3s").options;
    assert_eq!(k3s.number("podPidsLimit"), 4096, "kubelet-arg+ of config.yaml.d");
    assert_eq!(k3s.text("streamingConnectionIdleTimeout"), "5m");
    let rke2 = inspected("rke2").options;
    assert!(rke2.is_on("protectKernelDefaults"));
    assert_eq!(rke2.text("--hostname-override"), "Rancher-1");
    let aks = inspected("aks").options;
    let kubeconfig = aks.text("--kubeconfig");
    assert_eq!(kubeconfig, "/var/lib/kubelet/kubeconfig", "unquoted in its file");
    let eks = inspected("eks");
    assert_eq!(eks.options.files.len(), 2);
    assert_eq!(check(&eks, "rotate-server-certificate").verdict, Verdict::Pass);
}

/// Seen red: with one set of defaults for all, 4.2.4 passed as it does for kube-bench.
#[test]
fn a_kubelet_of_flags_alone_is_open_by_its_defaults() {
    let root = tree("flags-only");
    let output = inspect_tree(&root, &[]);
    let said = stdout(&output);
    assert_eq!(code(&output), 2, "{said}");
    for cis in ["4.2.1", "4.2.2", "4.2.4"] {
        assert_says(line(&said, cis), &["FAIL"]);
    }
    let sysctl = "route_localnet=1 (/etc/sysctl.d/99-kubernetes.conf)";
    assert_says(&said, &["kube-bench", "port 10255 is open", sysctl]);
    let expired = said
        .lines()
        .find(|line| line.contains("client certificate should be valid"));
    assert_says(expired.unwrap(), &["FAIL", "2020-01-01"]);
    for never in ["compliant", "compensated, verified", "\u{1b}"] {
        assert!(!said.contains(never), "{never:?} in {said}");
    }
    assert_eq!(code(&inspect_tree(&root, &["--fail-on", "never"])), 0);
    for (level, expected) in [("fail", 0), ("warn", 2)] {
        let output = inspect_tree(&tree("eks"), &["--fail-on", level]);
        assert_eq!(code(&output), expected, "{level}");
    }
}

#[test]
fn json_and_sarif_are_valid_by_their_schemas() {
    let (ours, sarif) = (schema("inspection.json"), sarif_schema());
    for row in rows(DISTRIBUTIONS) {
        let root = tree(row[0]);
        assert_valid(&ours, &json_of(&inspect_tree(&root, &["-o", "json"])));
        let document = json_of(&inspect_tree(&root, &["-o", "sarif"]));
        assert_valid(&sarif, &document);
        // Each result names a rule of the document.
        let run = &document["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        for result in run["results"].as_array().unwrap() {
            let named = |rule: &Value| rule["id"] == result["ruleId"];
            assert!(rules.iter().any(named), "{}: {result}", row[0]);
        }
    }
    // A validator that accepts everything would be none.
    let broken = serde_json::json!({"version": "2.1.0", "runs": [{"tool": {}}]});
    assert!(!jsonschema::validator_for(&sarif).unwrap().is_valid(&broken));
}

#[test]
fn options_can_be_given_instead_of_found() {
    let config =
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nreadOnlyPort: 10255\n";
    let folder = files(&[("k.yaml", config)]);
    let output = inspect(&[
        "--kubelet-config",
        folder.path().join("k.yaml").to_str().unwrap(),
        "--kubelet-arg=--authorization-mode=AlwaysAllow",
        "--kubelet-arg",
        "--anonymous_auth=false",
    ]);
    assert_eq!(code(&output), 2);
    for (cis, verdict) in [("4.2.1", "PASS"), ("4.2.2", "FAIL"), ("4.2.4", "FAIL")] {
        assert_says(line(&stdout(&output), cis), &[verdict]);
    }
}

#[test]
fn what_cannot_be_read_is_reported_and_nothing_is_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = at.join("etc/systemd/system/kubelet.service");
    let unit = |command: &str| write(&path, format!("[Service]\nExecStart={command}\n"));
    let fails = |words: &str| {
        let output = inspect_tree(at, &[]);
        assert_eq!(code(&output), 1, "{}", stdout(&output));
        assert_says(&stderr(&output), &[words]);
    };
    fails("no kubelet is started here");
    unit("/bin/sh -c 'exec kubelet $X'");
    fails("--kubelet-config");
    unit("/usr/bin/kubelet --config=/etc/k.yaml");
    fails("/etc/k.yaml");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("etc/k.yaml"),
        fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fails("not a regular file");
    unit("/usr/bin/kubelet --anonymous-auth=perhaps");
    fails("--anonymous-auth=perhaps");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("kubelet.service", path.with_file_name("other.service")).unwrap();
    std::os::unix::fs::symlink("other.service", &path).unwrap();
    fails("a link to another name of a unit that leads to no file");
    fs::remove_file(&path).unwrap();
    unit(&format!("/usr/bin/kubelet --x={}", "a".repeat(10 << 20)));
    fails("larger than 1 MiB");
    let nowhere = inspect_tree(Path::new("/nowhere"), &[]);
    assert_eq!(code(&nowhere), 1);
    assert_says(&stderr(&nowhere), &["/nowhere"]);
}

/// A word that is not a known flag may be a secret. Seen red: with words, values and lines shown as they are.
#[test]
fn secrets_of_a_node_are_not_shown() {
    let folder = files(&[
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nEnvironmentFile=/e\nExecStart=/usr/bin/kubelet \
             --manifest-url-header=Authorization:s3cret s3cret --port=7 $A\n",
        ),
        ("e", "bad line s3cret==\nA=--unknown=s3cret\nexport B=s3cret\n"),
    ]);
    for more in [&["--options"][..], &["-o", "json"], &["-o", "sarif"]] {
        let output = inspect_tree(folder.path(), more);
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.contains("s3cret"), "{said}");
        assert!(more.contains(&"sarif") || said.contains("port"), "{said}");
    }
    let said = stdout(&inspect_tree(folder.path(), &[]));
    assert_says(&said, &["\"export B\" names no variable"]);
}

/// A node's file cannot print a line that passes for one of the program's. Seen red: with values printed as
/// they are.
#[test]
fn what_a_node_says_is_shown_as_text() {
    let folder = files(&[
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nExecStart=/usr/bin/kubelet --config=/k\n",
        ),
        (
            "k",
            "kind: KubeletConfiguration\ntlsMinVersion: \"x\\n4.2.4  PASS  forged\\e[2J\"\n",
        ),
    ]);
    let said = stdout(&inspect_tree(folder.path(), &["--options"]));
    let is_forged = |line: &str| line.starts_with("4.2.4  PASS  forged");
    assert!(!said.lines().any(is_forged), "{said}");
    assert!(!said.contains('\u{1b}') && said.contains("forged"), "{said}");
}

/// What cannot be understood hides no kubelet beside it.
#[test]
fn what_can_be_read_is_shown_beside_what_cannot() {
    let units = [
        ("kubelet", "ExecStart=/usr/bin/kubelet\n"),
        ("k3s-agent", ""),
        ("k3s", "ExecStart=/usr/local/bin/k3s agent --kubelet-arg=port=x\n"),
    ]
    .map(|(name, command)| {
        let path = format!("etc/systemd/system/{name}.service");
        (path, format!("[Service]\n{command}"))
    });
    let folder = files(
        &units
            .each_ref()
            .map(|(path, unit)| (path.as_str(), unit.as_str())),
    );
    let output = inspect_tree(folder.path(), &[]);
    assert_eq!(code(&output), 2, "what is found counts first");
    assert_says(&stdout(&output), &["4.2.1"]);
    let errors = ["k3s-agent.service: it starts nothing", "port=x"];
    assert_says(&stderr(&output), &errors);
    let document = json_of(&inspect_tree(folder.path(), &["-o", "sarif"]));
    assert_valid(&sarif_schema(), &document);
    let ran = &document["runs"][0]["invocations"][0];
    assert_eq!(ran["executionSuccessful"], false);
    let faults = ran["toolExecutionNotifications"].as_array().unwrap();
    let faults = faults.iter().filter(|fault| fault["level"] == "error").count();
    assert_eq!(faults, 2, "{ran}");
    // Of a copy without units, the place of its configuration is reported.
    let folder = files(&[("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n")]);
    let output = inspect_tree(folder.path(), &[]);
    assert_eq!(code(&output), 1);
    let option = "--kubelet-config=/var/lib/kubelet/config.yaml";
    assert_says(&stderr(&output), &[option]);
}

#[tokio::test]
async fn a_kubelet_that_runs_is_found_and_chosen() {
    let one = ["--port=1 --address=127.0.0.1"];
    let two = [one[0], "--port=2 --address=127.0.0.1"];
    let beside = async |kubelets: &[&str], arguments: &[&str]| {
        let mut gate = kubelet_gate_beside(kubelets)?;
        gate.args(arguments);
        Some(output(gate).await)
    };
    let Some(seen) = beside(&two, &["inspect", "-o", "json"]).await else {
        return;
    };
    let seen = json_of(&seen);
    let kubelets = seen["kubelets"].as_array().unwrap();
    let ids: Vec<u64> = kubelets
        .iter()
        .map(|kubelet| kubelet["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [2, 3]);
    // Which of them to probe must be said. Seen red: with the usual ports probed, which no process has, both
    // were called closed.
    for (command, option) in [(&["inspect", "--prove"][..], "--pid"), (&["prove"], "--port")] {
        let several = beside(&two, command).await.unwrap();
        assert_eq!(code(&several), 64);
        assert_says(&stderr(&several), &[option]);
    }
    let chosen = json_of(
        &beside(&two, &["inspect", "--pid", "3", "-o", "json"])
            .await
            .unwrap(),
    );
    assert_valid(&schema("inspection.json"), &chosen);
    assert_eq!(chosen["kubelets"].as_array().unwrap().len(), 1);
    assert_eq!(chosen["kubelets"][0]["options"]["port"]["value"], 2);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let init = beside(&two, &["init", "--out", out.to_str().unwrap()])
        .await
        .unwrap();
    assert_eq!((code(&init), out.exists()), (1, false));
    assert_says(&stderr(&init), &[" kubelets ("]);
    let none = beside(&one, &["inspect", "--pid", "3"]).await.unwrap();
    assert_eq!(code(&none), 1);
    assert_says(&stderr(&none), &["--root"]);
}
