//! If `inspect` reads a node otherwise than its kubelet does, an operator believes a door to be closed that is open.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kubelet_gate::inspect::{Check, Inspection, Verdict};
use kubelet_gate::node::Root;
use kubelet_gate::node::invocation::{self, Invocation};
use kubelet_gate::prove::{Answer, Outcome, Ports, Report, SideKind};
use serde_json::Value;
use time::OffsetDateTime;

use crate::command_line::{code, kubelet_gate, stderr};
use crate::world::eventually;

/// The folder of a distribution's node.
pub(crate) fn tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/data/nodes")
        .join(name)
}

fn inspect(arguments: &[&str]) -> Output {
    kubelet_gate().arg("inspect").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn inspected(name: &str) -> Inspection {
    let (mut found, errors) = invocation::in_files(&Root::new(tree(name)));
    assert_eq!((found.len(), errors.len()), (1, 0), "{name}: {errors:?}");
    Inspection::of(found.remove(0), OffsetDateTime::now_utc()).unwrap()
}

fn check<'a>(inspection: &'a Inspection, id: &str) -> &'a Check {
    inspection.checks.iter().find(|check| check.id == id).unwrap()
}

/// Asserts that a document is as a schema wants it.
pub(crate) fn assert_valid(schema: &Value, document: &Value) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

pub(crate) fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/schemas")
        .join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// SARIF's own, as its committee publishes it: from the sources of a crate that is made of it.
pub(crate) fn sarif_schema() -> Value {
    // For other platforms there are packages that nobody has fetched here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages
        .iter()
        .find(|package| package["name"] == "serde-sarif")
        .unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    let schema = fs::read_to_string(manifest.with_file_name("src/schema.json")).unwrap();
    // A bracket in the patterns of its `language` is meant by itself, which strict readers want to see.
    serde_json::from_str(&schema.replace("[a-zA-Z]{2}]?$", r"[a-zA-Z]{2}\\]?$")).unwrap()
}

/// What a correct reader must conclude of each tree.
#[test]
fn every_distribution_is_read_as_its_kubelet_reads_it() {
    use Verdict::{Fail, Pass};
    for (name, anonymous, mode, read_only, ca, serving, client) in [
        (
            "kubeadm",
            Pass,
            Pass,
            Pass,
            "/etc/kubernetes/pki/ca.crt",
            "/var/lib/kubelet/pki/kubelet.crt",
            "worker-1",
        ),
        (
            "k3s",
            Pass,
            Pass,
            Pass,
            "/var/lib/rancher/k3s/agent/client-ca.crt",
            "/var/lib/rancher/k3s/agent/serving-kubelet.crt",
            "edge-1",
        ),
        (
            "rke2",
            Pass,
            Pass,
            Pass,
            "/var/lib/rancher/rke2/agent/client-ca.crt",
            "/var/lib/rancher/rke2/agent/serving-kubelet.crt",
            "rancher-1",
        ),
        (
            "eks",
            Pass,
            Pass,
            Pass,
            "/etc/kubernetes/pki/ca.crt",
            "/var/lib/kubelet/pki/kubelet-server-current.pem",
            "",
        ),
        (
            "gke",
            Pass,
            Pass,
            Fail,
            "/etc/srv/kubernetes/pki/ca-certificates.crt",
            "/var/lib/kubelet/pki/kubelet-server-current.pem",
            "gke-pool-1",
        ),
        (
            "aks",
            Pass,
            Pass,
            Pass,
            "/etc/kubernetes/certs/ca.crt",
            "/etc/kubernetes/certs/kubeletserver.crt",
            "aks-nodepool1-0",
        ),
        (
            "kops",
            Fail,
            Fail,
            Pass,
            "/srv/kubernetes/ca.crt",
            "/srv/kubernetes/kubelet-server.crt",
            "i-0123456789abcdef0",
        ),
        (
            "flags-only",
            Fail,
            Fail,
            Fail,
            "/var/lib/kubernetes/ca.pem",
            "/var/lib/kubelet/worker-0.pem",
            "worker-0",
        ),
    ] {
        let found = inspected(name);
        let verdict = |id| check(&found, id).verdict;
        assert_eq!(
            (
                verdict("anonymous-auth"),
                verdict("authorization-mode"),
                verdict("read-only-port")
            ),
            (anonymous, mode, read_only),
            "{name}"
        );
        assert_eq!(
            found.options.text("authentication.x509.clientCAFile"),
            ca,
            "{name}"
        );
        assert_eq!(found.options.serving_pair().0, serving, "{name}");
        let subjects: Vec<&str> = found
            .certificates
            .iter()
            .map(|certificate| certificate.subject.as_str())
            .collect();
        let node = format!("CN=system:node:{client}");
        assert!(
            client.is_empty() || subjects.iter().any(|subject| subject.ends_with(&node)),
            "{name}: {subjects:?}"
        );
        assert!(
            found.notes.is_empty() && found.unread.is_empty(),
            "{name}: {:?}",
            found.notes
        );
    }
    // What only one of them has.
    assert_eq!(
        inspected("k3s").options.number("podPidsLimit"),
        4096,
        "kubelet-arg+ of config.yaml.d"
    );
    assert_eq!(
        inspected("k3s").options.text("streamingConnectionIdleTimeout"),
        "5m"
    );
    assert!(inspected("rke2").options.is_on("protectKernelDefaults"));
    assert_eq!(inspected("rke2").options.text("--hostname-override"), "Rancher-1");
    assert_eq!(
        inspected("aks").options.text("--kubeconfig"),
        "/var/lib/kubelet/kubeconfig",
        "unquoted in its file"
    );
    let eks = inspected("eks");
    assert_eq!(eks.options.files.len(), 2);
    assert_eq!(check(&eks, "rotate-server-certificate").verdict, Pass);
}

/// Seen red: with one set of defaults for all, 4.2.4 passed as it does for kube-bench.
#[test]
fn a_kubelet_of_flags_alone_is_open_where_nothing_says_so() {
    let root = tree("flags-only");
    let output = inspect(&["--root", root.to_str().unwrap()]);
    let said = stdout(&output);
    assert_eq!(code(&output), 2, "{said}");
    for number in ["4.2.1", "4.2.2", "4.2.4"] {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("{number} ")))
            .unwrap();
        assert!(line.contains("FAIL"), "{line}");
    }
    assert!(
        said.contains("kube-bench") && said.contains("port 10255 is open"),
        "{said}"
    );
    assert!(
        said.contains("route_localnet=1 (/etc/sysctl.d/99-kubernetes.conf)"),
        "{said}"
    );
    let expired = said
        .lines()
        .find(|line| line.contains("certificate towards the API server"))
        .unwrap();
    assert!(
        expired.contains("FAIL") && expired.contains("2020-01-01"),
        "{expired}"
    );
    assert!(
        !said.contains("compliant") && !said.contains("compensated, verified"),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'), "no colours where there is no terminal");
    let never = inspect(&["--root", root.to_str().unwrap(), "--fail-on", "never"]);
    assert_eq!(code(&never), 0);
    let eks = tree("eks");
    for (level, expected) in [("fail", 0), ("warn", 2)] {
        let output = inspect(&["--root", eks.to_str().unwrap(), "--fail-on", level]);
        assert_eq!(code(&output), expected, "{level}");
    }
}

#[test]
fn json_and_sarif_are_as_their_schemas_want_them() {
    let (ours, sarif) = (schema("inspection.json"), sarif_schema());
    for name in [
        "kubeadm",
        "k3s",
        "rke2",
        "eks",
        "gke",
        "aks",
        "kops",
        "flags-only",
    ] {
        let root = tree(name);
        let run = |format: &str| -> Value {
            let output = inspect(&["--root", root.to_str().unwrap(), "-o", format]);
            serde_json::from_slice(&output.stdout).unwrap()
        };
        assert_valid(&ours, &run("json"));
        let document = run("sarif");
        assert_valid(&sarif, &document);
        // Each result names a rule that is there.
        let rules = &document["runs"][0]["tool"]["driver"]["rules"];
        let ids: Vec<&Value> = rules.as_array().unwrap().iter().map(|rule| &rule["id"]).collect();
        for result in document["runs"][0]["results"].as_array().unwrap() {
            assert!(ids.contains(&&result["ruleId"]), "{name}: {result}");
        }
    }
    // A validator that takes anything would be none.
    let broken = jsonschema::validator_for(&sarif).unwrap();
    assert!(!broken.is_valid(&serde_json::json!({"version": "2.1.0", "runs": [{"tool": {}}]})));
}

#[test]
fn options_can_be_given_instead_of_found() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("k.yaml");
    fs::write(&config, "kind: KubeletConfiguration\nreadOnlyPort: 10255\n").unwrap();
    let output = inspect(&[
        "--kubelet-config",
        config.to_str().unwrap(),
        "--kubelet-arg=--authorization-mode=AlwaysAllow",
        "--kubelet-arg",
        "--anonymous_auth=false",
    ]);
    let said = stdout(&output);
    assert_eq!(code(&output), 2);
    for (number, verdict) in [("4.2.1", "PASS"), ("4.2.2", "FAIL"), ("4.2.4", "FAIL")] {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("{number} ")))
            .unwrap();
        assert!(line.contains(verdict), "{line}");
    }
}

#[test]
fn whatever_cannot_be_read_is_told_and_nothing_is_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = at.to_str().unwrap();
    let unit = |text: &str| {
        fs::create_dir_all(at.join("etc/systemd/system")).unwrap();
        fs::write(at.join("etc/systemd/system/kubelet.service"), text).unwrap();
    };
    let fails = |words: &str| {
        let output = inspect(&["--root", root]);
        assert_eq!(code(&output), 1, "{}", stdout(&output));
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
    };
    fails("no kubelet is started here");
    unit("[Service]\nExecStart=/bin/sh -c 'exec kubelet $X'\n");
    fails("--kubelet-config");
    unit("[Service]\nExecStart=/usr/bin/kubelet --config=/etc/k.yaml\n");
    fails("/etc/k.yaml");
    fs::create_dir(at.join("etc/k.yaml")).unwrap();
    fails("not a regular file");
    unit("[Service]\nExecStart=/usr/bin/kubelet --anonymous-auth=perhaps\n");
    fails("--anonymous-auth=perhaps");
    std::os::unix::fs::symlink("kubelet.service", at.join("etc/systemd/system/other")).unwrap();
    fs::remove_file(at.join("etc/systemd/system/kubelet.service")).unwrap();
    std::os::unix::fs::symlink("other", at.join("etc/systemd/system/kubelet.service")).unwrap();
    fails("symbolic links");
    // Ten megabytes of flags are no unit.
    fs::remove_file(at.join("etc/systemd/system/kubelet.service")).unwrap();
    unit(&format!(
        "[Service]\nExecStart=/usr/bin/kubelet --x={}\n",
        "a".repeat(10 << 20)
    ));
    fails("larger than 1 MiB");
    let nowhere = inspect(&["--root", "/nowhere"]);
    assert_eq!((code(&nowhere), stderr(&nowhere).contains("/nowhere")), (1, true));
}

/// A `/proc` with these processes: id, arguments.
fn proc(processes: &[(i32, &[u8])]) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    for (pid, argv) in processes {
        let process = proc.path().join(pid.to_string());
        fs::create_dir_all(process.join("root")).unwrap();
        fs::write(process.join("cmdline"), argv).unwrap();
    }
    proc
}

#[test]
fn processes_are_understood_however_odd_they_are() {
    let large = [
        b"kubelet\0--read-only-port=1\0--x=".to_vec(),
        vec![b'a'; 10 << 20],
    ]
    .concat();
    let proc = proc(&[
        (
            10,
            b"/usr/bin/kubelet\0--read-only-port=0\0--root-dir=/\xff\xfe\0",
        ),
        (20, &large),
        (30, b"kubelet-gate\0serve\0"),
        (40, b"/usr/local/bin/k3s agent\0\0\0\0"),
        (50, b"/usr/local/bin/rke2 agent\0"),
        (60, b""),
    ]);
    // The third is in a container, with a configuration in its own root.
    let container = proc.path().join("35");
    fs::create_dir_all(container.join("root/etc")).unwrap();
    fs::write(
        container.join("cmdline"),
        b"hyperkube\0kubelet\0--config=/etc/k.yaml\0",
    )
    .unwrap();
    fs::write(
        container.join("root/etc/k.yaml"),
        "kind: KubeletConfiguration\nport: 7\n",
    )
    .unwrap();
    let found = invocation::running(proc.path());
    let pids: Vec<i32> = found.iter().filter_map(Invocation::pid).collect();
    assert_eq!(pids, [10, 20, 35, 40]);
    let options: Vec<_> = found
        .iter()
        .map(|invocation| kubelet_gate::node::options::Effective::of(invocation).unwrap())
        .collect();
    assert!(found[0].notes[0].contains("not UTF-8"), "{:?}", found[0].notes);
    assert_eq!(options[0].number("readOnlyPort"), 0);
    assert!(found[1].unread[0].contains("4 MiB"), "{:?}", found[1].unread);
    assert_eq!(options[1].number("readOnlyPort"), 1);
    assert_eq!(options[2].number("port"), 7);
    assert_eq!(
        options[3].text("authorization.mode"),
        "Webhook",
        "a k3s without drop-ins"
    );
    assert!(found[3].notes[0].contains("1.32"), "{:?}", found[3].notes);
}

/// A report in which each probe was tried from both sides, a gate answered, and those named got through.
fn report(through: &[&str]) -> Report {
    let outcome = |probe: &str, side| Outcome {
        probe: probe.to_owned(),
        side,
        address: "127.0.0.1:10250".parse().unwrap(),
        answer: Answer::Status(if probe == "double-slash" { 400 } else { 401 }),
        through: through.contains(&probe),
    };
    let tried = ["pods", "double-slash", "foreign-certificate", "read-only-pods"];
    Report {
        api_version: String::new(),
        kind: String::new(),
        version: String::new(),
        host: String::new(),
        started: String::new(),
        finished: "2026-11-24T12:00:00Z".to_owned(),
        ports: Ports::default(),
        results: tried
            .iter()
            .flat_map(|probe| {
                [
                    outcome(probe, SideKind::NodeAddress),
                    outcome(probe, SideKind::Loopback),
                ]
            })
            .collect(),
        skipped: Vec::new(),
        untried: Vec::new(),
    }
}

/// Seen red: with what the gate could do taken for done; with every refusal taken for the gate's; with no answer for a refusal.
#[test]
fn only_what_a_probe_has_seen_closed_is_called_compensated() {
    let found = inspected("flags-only");
    let said = |id: &str, report: Option<&Report>| check(&found, id).with_gate(report);
    let closed = report(&[]);
    assert_eq!(
        said("read-only-port", Some(&closed)),
        "compensated, verified by probe at 2026-11-24T12:00:00Z"
    );
    assert!(check(&found, "anonymous-auth").is_compensated(Some(&closed)));
    let open = report(&["read-only-pods"]);
    assert!(said("read-only-port", Some(&open)).starts_with("open: a probe got through"));
    assert!(said("anonymous-auth", Some(&open)).starts_with("compensated"));
    assert!(said("anonymous-auth", None).ends_with("not probed"));
    // What no probe bears on is never verified, nor what is half of it.
    assert!(said("token-webhook", Some(&closed)).ends_with("not probed"));
    assert!(said("bind-address", Some(&closed)).ends_with("not probed"));
    assert!(said("ip-address-deny", Some(&closed)).starts_with("compensated"));
    assert_eq!(said("pod-pids-limit", Some(&closed)), "no");
    let mut zero = found.clone();
    let idle = zero
        .checks
        .iter_mut()
        .find(|check| check.id == "streaming-idle-timeout")
        .unwrap();
    idle.verdict = Verdict::Fail;
    assert!(idle.with_gate(Some(&closed)).starts_with("partly: "));
    // A kubelet that refuses strangers by itself, and has no gate: nothing of it is the gate's doing.
    let mut alone = report(&[]);
    for outcome in alone
        .results
        .iter_mut()
        .filter(|outcome| outcome.probe == "double-slash")
    {
        outcome.answer = Answer::Status(307);
    }
    assert!(said("anonymous-auth", Some(&alone)).ends_with("no gate that answered"));
    assert!(!check(&found, "anonymous-auth").is_compensated(Some(&alone)));
    assert!(said("read-only-port", Some(&alone)).ends_with("no gate that answered"));
    // An answer that never came shows nothing.
    let mut waiting = report(&[]);
    waiting.results[0].answer = Answer::Unknown("no answer".to_owned());
    assert!(said("anonymous-auth", Some(&waiting)).ends_with("not probed"));
    // From one side alone nothing is shown.
    let mut half = report(&[]);
    half.results.retain(|outcome| outcome.side == SideKind::Loopback);
    assert!(said("anonymous-auth", Some(&half)).ends_with("not probed"));
}

/// A process that is called kubelet, gone when dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_kubelet_that_runs_is_found_and_chosen() {
    let started = |port: &str| {
        // Its shell waits for an end of its input, which comes when it is dropped.
        let child = Command::new("sh")
            .arg0("kubelet")
            .args(["-c", "read _", port, "--address=127.0.0.1"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Running(child)
    };
    let (one, other) = (started("--port=1"), started("--port=2"));
    let pid = |running: &Running| running.0.id().to_string();
    eventually("both are seen", || {
        let output = inspect(&["-o", "json"]);
        let said = stdout(&output);
        said.contains(&format!("\"pid\": {}", pid(&one)))
            && said.contains(&format!("\"pid\": {}", pid(&other)))
    })
    .await;
    // Whose ports? Seen red: with the usual ports probed, where nobody is, both were called closed.
    let several = inspect(&["--prove"]);
    assert_eq!(
        (code(&several), stderr(&several).contains("--pid")),
        (64, true),
        "{}",
        stderr(&several)
    );
    let several = kubelet_gate().arg("prove").output().unwrap();
    assert_eq!(
        (code(&several), stderr(&several).contains("--port")),
        (64, true),
        "{}",
        stderr(&several)
    );
    let chosen = inspect(&["--pid", &pid(&other), "-o", "json"]);
    let chosen: Value = serde_json::from_slice(&chosen.stdout).unwrap();
    assert_valid(&schema("inspection.json"), &chosen);
    assert_eq!(chosen["kubelets"].as_array().unwrap().len(), 1);
    assert_eq!(chosen["kubelets"][0]["options"]["port"]["value"], 2);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let init = kubelet_gate()
        .arg("init")
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(code(&init), 1);
    assert!(
        stderr(&init).contains("2 kubelets") && !out.exists(),
        "{}",
        stderr(&init)
    );
    let gone = pid(&one);
    drop(one);
    let none = inspect(&["--pid", &gone]);
    assert_eq!(code(&none), 1);
    assert!(stderr(&none).contains("--root"), "{}", stderr(&none));
}
