//! If `inspect` reads a node otherwise than its kubelet does, an operator believes a door to be closed that is open.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kubelet_gate::adopt::inspect::{Check, Inspection, Verdict};
use kubelet_gate::adopt::kubelet::invocation::Invocation;
use kubelet_gate::adopt::kubelet::{Root, in_files, running};
use kubelet_gate::adopt::prove::{Ports, ProbeAnswer, ProbeOutcome, ProbeReport, SideKind};
use serde_json::Value;
use time::OffsetDateTime;

use crate::node::{Node, on_a_node};
use crate::program::{assert_says, code, json_of, kubelet_gate, kubelet_gate_beside, stderr, stdout};

/// The folder of a distribution's node.
pub(crate) fn tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/data/nodes")
        .join(name)
}

fn inspect(arguments: &[&str]) -> Output {
    kubelet_gate().arg("inspect").args(arguments).output().unwrap()
}

fn inspected(name: &str) -> Inspection {
    only(&tree(name))
}

/// The only kubelet that the files of a node start.
fn only(folder: &Path) -> Inspection {
    let (mut found, errors) = in_files(&Root::new(folder));
    assert_eq!(
        (found.len(), errors.len()),
        (1, 0),
        "{}: {errors:?}",
        folder.display()
    );
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
        .find(|line| line.contains("client certificate should be valid"))
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
    let found = running(proc.path());
    let pids: Vec<i32> = found.iter().filter_map(Invocation::pid).collect();
    assert_eq!(pids, [10, 20, 35, 40]);
    let options: Vec<_> = found
        .iter()
        .map(|invocation| kubelet_gate::adopt::kubelet::options::Effective::of(invocation).unwrap())
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

/// A tree with these files.
fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// The verdicts on who may do what, of the only kubelet that these files start; and what could not be read.
fn verdicts(folder: &Path) -> ([Verdict; 3], Vec<String>) {
    let found = only(folder);
    let verdict = |id| check(&found, id).verdict;
    let all = ["anonymous-auth", "authorization-mode", "read-only-port"].map(verdict);
    (all, found.unread)
}

const OPEN: &str =
    "kubelet-arg: [anonymous-auth=true, authorization-mode=AlwaysAllow, read-only-port=10255]\n";
const OPEN_ARGUMENTS: &str = "--kubelet-arg=anonymous-auth=true --kubelet-arg authorization-mode=AlwaysAllow --kubelet-arg=read-only-port=10255";

/// Seen red: with its environment, its short flags and its title taken for nothing, an open k3s passed everywhere.
#[test]
fn k3s_is_read_wherever_it_is_told() {
    use Verdict::{Fail, Pass, Warn};
    let unit = |command: &str| {
        format!("[Service]\nEnvironmentFile=-/etc/systemd/system/%N.env\nExecStart={command}\n")
    };
    let plain = unit("/usr/local/bin/k3s server");
    let at = "etc/systemd/system/k3s.service";
    for (text, more) in [
        (
            unit("/usr/local/bin/k3s server -c /opt/c.yaml"),
            ("opt/c.yaml", OPEN),
        ),
        (plain.clone(), ("etc/rancher/k3s/config.yaml", OPEN)),
        (
            unit(&format!("/usr/local/bin/k3s server {OPEN_ARGUMENTS}")),
            ("x", ""),
        ),
    ] {
        let folder = files(&[(at, &text), more]);
        assert_eq!(verdicts(folder.path()), ([Fail; 3], vec![]), "{text}");
    }
    let variable = (
        "etc/systemd/system/k3s.env",
        "K3S_CONFIG_FILE=/opt/c.yaml\nK3S_NODE_NAME=Other\n",
    );
    let folder = files(&[(at, &plain), variable, ("opt/c.yaml", OPEN)]);
    assert_eq!(verdicts(folder.path()).0, [Fail; 3]);
    let options = only(folder.path()).options;
    assert_eq!(options.text("--hostname-override"), "Other");
    // Flags of a command take the place of the file's.
    let command = unit("/usr/local/bin/k3s server --kubelet-arg=v=2");
    let folder = files(&[
        (at, &command),
        (
            "etc/rancher/k3s/config.yaml",
            "kubelet-arg: [protect-kernel-defaults=true]\n",
        ),
    ]);
    let options = only(folder.path()).options;
    assert!(!options.is_on("protectKernelDefaults"));
    // What cannot be read may say anything.
    let folder = files(&[
        (at, &plain),
        (
            "etc/rancher/k3s/config.yaml",
            "token: s3cret\nkubelet-arg: [ s3cret\n",
        ),
    ]);
    let (all, unread) = verdicts(folder.path());
    assert_eq!(all, [Warn; 3]);
    assert!(unread[0].contains("/etc/rancher/k3s/config.yaml"), "{unread:?}");
    let output = inspect(&["--root", folder.path().to_str().unwrap()]);
    assert_eq!(code(&output), 1, "{}", stdout(&output));
    assert!(stdout(&output).contains("not read: ") && stderr(&output).contains("nothing is sure"));
    // Seen red: with the parser's own words.
    assert!(!stdout(&output).contains("s3cret"), "{}", stdout(&output));
    // A server without an agent has no kubelet.
    let folder = files(&[(at, &unit("/usr/local/bin/k3s server --disable-agent"))]);
    assert!(in_files(&Root::new(folder.path())).0.is_empty());
    let folder = files(&[(at, &plain)]);
    assert_eq!(verdicts(folder.path()).0, [Pass; 3]);

    // Running, it hides what it was told; its unit and its environment have it.
    let proc = proc(&[(7, b"/usr/local/bin/k3s server\0\0\0\0")]);
    let process = proc.path().join("7");
    let found = |index: usize| {
        let found = running(proc.path());
        Inspection::of(found[index].clone(), OffsetDateTime::now_utc()).unwrap()
    };
    assert!(
        found(0).unread[0].contains("hides its arguments"),
        "{:?}",
        found(0).unread
    );
    assert_eq!(check(&found(0), "anonymous-auth").verdict, Warn);
    fs::write(process.join("cgroup"), "0::/system.slice/k3s.service\n").unwrap();
    let unit_file = process.join("root").join(at);
    fs::create_dir_all(unit_file.parent().unwrap()).unwrap();
    fs::write(
        &unit_file,
        unit(&format!("/usr/local/bin/k3s server {OPEN_ARGUMENTS}")),
    )
    .unwrap();
    assert_eq!(check(&found(0), "anonymous-auth").verdict, Fail);
    assert_eq!(found(0).unread, Vec::<String>::new());
    fs::write(&unit_file, &plain).unwrap();
    fs::write(process.join("environ"), "A=1\0K3S_CONFIG_FILE=/opt/c.yaml\0").unwrap();
    fs::create_dir_all(process.join("root/opt")).unwrap();
    fs::write(process.join("root/opt/c.yaml"), OPEN).unwrap();
    assert_eq!(check(&found(0), "anonymous-auth").verdict, Fail);
}

/// A program that starts a kubelet may add flags, unless it is known not to. Seen red: with any word that ends in kubelet taken for it.
#[test]
fn what_starts_a_kubelet_is_looked_through_only_if_it_is_known() {
    let of = |command: &str| {
        let unit = format!("[Service]\nExecStart={command}\n");
        let folder = files(&[("etc/systemd/system/kubelet.service", &unit)]);
        let (found, errors) = in_files(&Root::new(folder.path()));
        match found.first() {
            Some(found) => found
                .words
                .iter()
                .map(|word| word.text.clone())
                .collect::<Vec<_>>()
                .join(" "),
            None => errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
        }
    };
    for known in [
        "/usr/bin/nice -n 5 /usr/bin/kubelet --port=7",
        "/usr/bin/env A=/x/kubelet /usr/bin/numactl --cpunodebind=0 /usr/bin/kubelet --port=7",
        "/usr/bin/taskset 0x3 /hyperkube kubelet --port=7",
        "/opt/kubelet --port=7",
    ] {
        assert_eq!(of(known), "--port=7", "{known}");
    }
    for unknown in [
        "/opt/bin/kubelet-wrapper --anonymous-auth=true --root-dir=/var/lib/kubelet --config=/k",
        "/opt/start.sh /var/lib/kubelet --config=/k",
        "/usr/bin/docker run --name kubelet -v /var/lib/kubelet:/var/lib/kubelet image kubelet --config=/k",
    ] {
        assert!(
            of(unknown).contains("not known to start a kubelet"),
            "{unknown}: {}",
            of(unknown)
        );
    }
}

/// What is not a flag that is known may be a secret. Seen red: with words, values and lines shown as they are.
#[test]
fn secrets_of_a_nodes_are_not_shown() {
    let folder = files(&[
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nEnvironmentFile=/e\nExecStart=/usr/bin/kubelet --manifest-url-header=Authorization:s3cret s3cret --port=7 $A\n",
        ),
        ("e", "bad line s3cret==\nA=--unknown=s3cret\nexport B=s3cret\n"),
    ]);
    let root = folder.path().to_str().unwrap();
    for more in [&["--options"][..], &["-o", "json"], &["-o", "sarif"]] {
        let output = inspect(&[&["--root", root][..], more].concat());
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.contains("s3cret"), "{said}");
        assert!(more.contains(&"sarif") || said.contains("port"), "{said}");
    }
    let said = stdout(&inspect(&["--root", root]));
    assert!(said.contains("\"export B\" names no variable"), "{said}");
}

#[test]
fn microk8s_keeps_its_arguments_in_a_file() {
    let arguments = "--kubeconfig=${SNAP_DATA}/credentials/kubelet.config\n# --anonymous-auth=true\n\
                     --client-ca-file=$SNAP_DATA/certs/ca.crt\n--anonymous-auth=false\n";
    let folder = files(&[("var/snap/microk8s/current/args/kubelet", arguments)]);
    let options = only(folder.path()).options;
    assert_eq!(
        options.text("authentication.x509.clientCAFile"),
        "/var/snap/microk8s/current/certs/ca.crt"
    );
    assert_eq!(
        options.text("--kubeconfig"),
        "/var/snap/microk8s/current/credentials/kubelet.config"
    );
    assert!(!options.is_on("authentication.anonymous.enabled"));
    assert_eq!(options.text("authorization.mode"), "AlwaysAllow");
    let proc = proc(&[(7, b"/snap/microk8s/1/kubelite\0--kubelet-args-file=/args\0")]);
    fs::write(proc.path().join("7/root/args"), "--port=9\n").unwrap();
    let found = running(proc.path());
    let options = kubelet_gate::adopt::kubelet::options::Effective::of(&found[0]).unwrap();
    assert_eq!(options.number("port"), 9);
}

/// Each verdict that depends on one option: flags, and what they make of which check.
#[test]
fn every_option_is_judged() {
    use Verdict::{Fail, Pass, Warn};
    const FILE: &str = "kind: KubeletConfiguration\n";
    for (config, flags, id, expected) in [
        (FILE, "", "token-webhook", Pass),
        (
            FILE,
            "--authentication-token-webhook=false",
            "token-webhook",
            Warn,
        ),
        (FILE, "", "client-ca-file", Fail),
        (FILE, "--client-ca-file=/ca", "client-ca-file", Pass),
        (FILE, "", "authorization-mode", Warn),
        (
            FILE,
            "--streaming-connection-idle-timeout=0",
            "streaming-idle-timeout",
            Fail,
        ),
        (FILE, "", "streaming-idle-timeout", Pass),
        (FILE, "", "protect-kernel-defaults", Warn),
        (
            FILE,
            "--make-iptables-util-chains=false",
            "iptables-util-chains",
            Fail,
        ),
        (FILE, "--hostname-override=x", "hostname-override", Warn),
        (FILE, "--event-qps=4", "event-qps", Warn),
        (FILE, "--tls-cert-file=/c", "serving-pair", Fail),
        (
            FILE,
            "--tls-cert-file=/c --tls-private-key-file=/k",
            "serving-pair",
            Pass,
        ),
        (FILE, "", "serving-pair", Warn),
        (FILE, "--rotate-certificates=false", "rotate-certificates", Fail),
        (FILE, "", "rotate-certificates", Warn),
        (FILE, "--rotate-certificates", "rotate-certificates", Pass),
        (
            FILE,
            "--rotate-server-certificates",
            "rotate-server-certificate",
            Pass,
        ),
        (
            FILE,
            "--rotate-server-certificates --feature-gates=RotateKubeletServerCertificate=false",
            "rotate-server-certificate",
            Fail,
        ),
        (
            FILE,
            "--tls-cipher-suites=TLS_RSA_WITH_RC4_128_SHA",
            "cipher-suites",
            Fail,
        ),
        (
            FILE,
            "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "cipher-suites",
            Pass,
        ),
        (FILE, "--pod-max-pids=100", "pod-pids-limit", Pass),
        (FILE, "", "pod-pids-limit", Warn),
        (FILE, "--seccomp-default", "seccomp-default", Pass),
        (FILE, "", "seccomp-default", Warn),
        (FILE, "--address=127.0.0.1", "bind-address", Pass),
        (FILE, "", "bind-address", Warn),
        (FILE, "--tls-min-version=VersionTLS11", "tls-min-version", Fail),
        (FILE, "--tls-min-version=VersionTLS99", "tls-min-version", Fail),
        (FILE, "--tls-min-version=VersionTLS13", "tls-min-version", Pass),
        (
            FILE,
            "--healthz-bind-address=0.0.0.0",
            "healthz-bind-address",
            Warn,
        ),
        (
            FILE,
            "--healthz-bind-address=0.0.0.0 --healthz-port=0",
            "healthz-bind-address",
            Pass,
        ),
        (FILE, "--contention-profiling", "contention-profiling", Warn),
        (
            "kind: KubeletConfiguration\nenableSystemLogQuery: true\n",
            "",
            "system-log-query",
            Warn,
        ),
        (
            FILE,
            "--redirect-container-streaming",
            "redirect-container-streaming",
            Fail,
        ),
        (FILE, "--cadvisor-port=4194", "cadvisor-port", Fail),
        (FILE, "", "cadvisor-port", Pass),
        // Without a file it may be a kubelet from when these were on.
        ("", "", "cadvisor-port", Warn),
        ("", "", "redirect-container-streaming", Warn),
        (FILE, "", "ip-address-deny", Warn),
    ] {
        let unit = format!(
            "[Service]\nExecStart=/usr/bin/kubelet {} {flags}\n",
            if config.is_empty() { "" } else { "--config=/k" }
        );
        let folder = files(&[("etc/systemd/system/kubelet.service", &unit), ("k", config)]);
        let found = only(folder.path());
        let check = check(&found, id);
        assert_eq!(check.verdict, expected, "{id} with {flags:?}: {}", check.why);
        assert_eq!(
            check.why.is_empty(),
            expected == Pass,
            "{id} with {flags:?}: {}",
            check.why
        );
    }
    // The seal knows one health port.
    for (port, can) in [("10248", true), ("20248", false)] {
        let flags = [
            format!("--healthz-port={port}"),
            "--healthz-bind-address=::".to_owned(),
        ];
        let invocation = Invocation::given(&flags, Root::new("/nowhere"));
        let found = Inspection::of(invocation, OffsetDateTime::now_utc()).unwrap();
        let said = check(&found, "healthz-bind-address").with_gate(None);
        assert_eq!(said.starts_with("can compensate: "), can, "{said}");
    }
}

/// Seen red: with dates before the first left out; with one address that is named enough for all; with the kubeconfig's certificate
/// where the kubelet has a rotated one.
#[test]
fn certificates_are_judged_by_what_they_are_used_for() {
    use Verdict::{Fail, Pass, Warn};
    let given = |name: &str, words: &[&str], year: i64| {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * (year - 1970));
        Inspection::of(Invocation::given(&words, Root::new(tree(name))), now).unwrap()
    };
    let aks = [
        "--tls-cert-file=/etc/kubernetes/certs/kubeletserver.crt",
        "--tls-private-key-file=/etc/kubernetes/certs/kubeletserver.key",
    ];
    for (year, verdict) in [(2000, Fail), (2030, Pass), (2200, Fail)] {
        let found = given("aks", &aks, year);
        assert_eq!(
            check(&found, "serving-certificate-expiry").verdict,
            verdict,
            "{year}"
        );
    }
    for (node_ip, verdict, words) in [
        ("--node-ip=192.0.2.16", Pass, ""),
        ("--node-ip=192.0.2.16,2001:db8::16", Warn, "2001:db8::16"),
        ("--node-ip=192.0.2.17", Warn, "192.0.2.17"),
        ("--node-ip=", Warn, "not compared"),
    ] {
        let found = given("aks", &[&aks[..], &[node_ip]].concat(), 2030);
        let names = check(&found, "serving-certificate-names");
        assert_eq!(names.verdict, verdict, "{node_ip}");
        assert!(names.why.contains(words), "{}", names.why);
    }

    // The kubeconfig has one that ended in 2020; beside it lies a rotated one.
    let of = |name: &str, path: &str| fs::read_to_string(tree(name).join(path)).unwrap();
    let kubeconfig = of("flags-only", "var/lib/kubelet/kubeconfig");
    let (ended, key) = (
        "var/lib/kubelet/worker-0-client.pem",
        "var/lib/kubelet/worker-0-client-key.pem",
    );
    let (old, old_key) = (of("flags-only", ended), of("flags-only", key));
    let new = of(
        "kubeadm",
        "var/lib/kubelet/pki/kubelet-client-2024-01-01-00-00-00.pem",
    );
    let current = "var/lib/kubelet/pki/kubelet-client-current.pem";
    for (flags, rotated, verdict, file) in [
        ("--rotate-certificates", true, Pass, current),
        ("--rotate-certificates", false, Fail, ended),
        ("--rotate-certificates=false", true, Fail, ended),
    ] {
        let unit = format!(
            "[Service]\nExecStart=/usr/bin/kubelet --kubeconfig=/var/lib/kubelet/kubeconfig {flags}\n"
        );
        let folder = files(&[
            ("etc/systemd/system/kubelet.service", &unit),
            ("var/lib/kubelet/kubeconfig", &kubeconfig),
            (ended, &old),
            (key, &old_key),
            if rotated { (current, &new) } else { ("x", "") },
        ]);
        let found = only(folder.path());
        let client = check(&found, "client-certificate-expiry");
        assert_eq!(
            (client.verdict, client.origin.as_str()),
            (verdict, format!("/{file}").as_str()),
            "{flags}"
        );
    }
}

/// systemd takes the last by name, whichever folder it is in; what is not set in files kube-proxy may set.
#[test]
fn a_file_that_routes_loopback_is_found() {
    use Verdict::Warn;
    let unit = (
        "etc/systemd/system/kubelet.service",
        "[Service]\nIPAddressDeny=any\nExecStart=/usr/bin/kubelet\n",
    );
    let on = "net.ipv4.conf.all.route_localnet = 1\n";
    let off = "net/ipv4/conf/all/route_localnet=0\n";
    for (more, value) in [
        (
            vec![
                ("usr/lib/sysctl.d/99-z.conf", on),
                ("etc/sysctl.d/10-a.conf", off),
            ],
            "route_localnet=1",
        ),
        (
            vec![("usr/lib/sysctl.d/50-z.conf", on), ("etc/sysctl.d/50-z.conf", "")],
            "(not set)",
        ),
        (
            vec![("etc/sysctl.d/10-a.conf", on), ("etc/sysctl.conf", off)],
            "(not set)",
        ),
        (vec![], "(not set)"),
    ] {
        let folder = files(&[&[unit][..], &more].concat());
        let found = only(folder.path());
        let localnet = check(&found, "route-localnet");
        assert_eq!(localnet.verdict, Warn, "only the running node tells");
        assert!(localnet.value.ends_with(value), "{more:?}: {}", localnet.value);
        assert_eq!(check(&found, "ip-address-deny").verdict, Verdict::Pass);
    }
}

/// Seen red: with whom `IPAddressAllow` lets in left out.
#[test]
fn systemd_keeps_out_only_whom_it_does_not_let_in() {
    for (lines, expected) in [
        ("IPAddressDeny=any", Verdict::Pass),
        (
            "IPAddressDeny=any\nIPAddressAllow=localhost 127.0.0.0/8",
            Verdict::Pass,
        ),
        (
            "IPAddressDeny=any\nIPAddressAllow=localhost\nIPAddressAllow=any",
            Verdict::Warn,
        ),
        ("IPAddressDeny=192.0.2.0/24", Verdict::Warn),
    ] {
        let unit = format!("[Service]\n{lines}\nExecStart=/usr/bin/kubelet\n");
        let folder = files(&[("etc/systemd/system/kubelet.service", &unit)]);
        let found = only(folder.path());
        assert_eq!(check(&found, "ip-address-deny").verdict, expected, "{lines}");
    }
}

/// A file of the node's cannot print a line that passes for one of ours. Seen red: with values printed as they are.
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
    let said = stdout(&inspect(&[
        "--root",
        folder.path().to_str().unwrap(),
        "--options",
    ]));
    assert!(
        !said.lines().any(|line| line.starts_with("4.2.4  PASS  forged")),
        "{said}"
    );
    assert!(!said.contains('\u{1b}') && said.contains("forged"), "{said}");
}

/// A bad neighbour hides nobody.
#[test]
fn what_can_be_read_is_shown_beside_what_cannot() {
    let folder = files(&[
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nExecStart=/usr/bin/kubelet\n",
        ),
        ("etc/systemd/system/k3s-agent.service", "[Service]\n"),
        (
            "etc/systemd/system/k3s.service",
            "[Service]\nExecStart=/usr/local/bin/k3s agent --kubelet-arg=port=x\n",
        ),
    ]);
    let root = folder.path().to_str().unwrap();
    let output = inspect(&["--root", root]);
    assert_eq!(code(&output), 2, "what is found counts first");
    assert!(stdout(&output).contains("4.2.1"), "{}", stdout(&output));
    for words in ["k3s-agent.service: it starts nothing", "port=x"] {
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    let document: Value = serde_json::from_slice(&inspect(&["--root", root, "-o", "sarif"]).stdout).unwrap();
    assert_valid(&sarif_schema(), &document);
    let ran = &document["runs"][0]["invocations"][0];
    assert_eq!(ran["executionSuccessful"], false);
    let faults = ran["toolExecutionNotifications"].as_array().unwrap();
    let faults = faults.iter().filter(|fault| fault["level"] == "error").count();
    assert_eq!(faults, 2, "{ran}");
    // A copy without units: where its configuration is, is told.
    let folder = files(&[("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n")]);
    let output = inspect(&["--root", folder.path().to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("--kubelet-config=/var/lib/kubelet/config.yaml"),
        "{}",
        stderr(&output)
    );
}

/// A report in which each probe was tried from both sides, a gate answered, and those named got through.
fn report(through: &[&str]) -> ProbeReport {
    let outcome = |probe: &str, side| ProbeOutcome {
        probe: probe.to_owned(),
        side,
        address: "127.0.0.1:10250".parse().unwrap(),
        answer: ProbeAnswer::Status(if probe == "double-slash" { 400 } else { 401 }),
        through: through.contains(&probe),
    };
    let tried = ["pods", "double-slash", "foreign-certificate", "read-only-pods"];
    ProbeReport {
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

/// A file that was edited after the kubelet was started. Seen red: with the file believed.
#[test]
fn what_a_probe_gets_through_is_open_whatever_is_written() {
    let mut found = inspected("kubeadm");
    assert_eq!(check(&found, "anonymous-auth").verdict, Verdict::Pass);
    found.face(&report(&[]));
    assert_eq!(check(&found, "anonymous-auth").verdict, Verdict::Pass);
    found.face(&report(&["pods"]));
    let open = check(&found, "anonymous-auth");
    assert_eq!(open.verdict, Verdict::Fail);
    assert!(open.with_gate(Some(&report(&["pods"]))).starts_with("open: "));
}

/// Seen red: with what the gate could do taken for done; with every refusal taken for the gate's; with no answer for a refusal.
#[test]
fn only_what_a_probe_has_seen_closed_is_called_compensated() {
    let found = inspected("flags-only");
    let said = |id: &str, report: Option<&ProbeReport>| check(&found, id).with_gate(report);
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
    assert_eq!(said("pod-pids-limit", Some(&closed)), "does not compensate");
    let mut zero = found.clone();
    let idle = zero
        .checks
        .iter_mut()
        .find(|check| check.id == "streaming-idle-timeout")
        .unwrap();
    idle.verdict = Verdict::Fail;
    assert!(idle.with_gate(Some(&closed)).starts_with("compensates in part: "));
    // A kubelet that refuses strangers by itself, and has no gate: nothing of it is the gate's doing.
    let mut alone = report(&[]);
    for outcome in alone
        .results
        .iter_mut()
        .filter(|outcome| outcome.probe == "double-slash")
    {
        outcome.answer = ProbeAnswer::Status(307);
    }
    assert!(said("anonymous-auth", Some(&alone)).ends_with("no gate answered"));
    assert!(!check(&found, "anonymous-auth").is_compensated(Some(&alone)));
    assert!(said("read-only-port", Some(&alone)).ends_with("no gate answered"));
    // An answer that never came shows nothing.
    let mut waiting = report(&[]);
    waiting.results[0].answer = ProbeAnswer::Unknown("no answer".to_owned());
    assert!(said("anonymous-auth", Some(&waiting)).ends_with("not probed"));
    // From one side alone nothing is shown.
    let mut half = report(&[]);
    half.results.retain(|outcome| outcome.side == SideKind::Loopback);
    assert!(said("anonymous-auth", Some(&half)).ends_with("not probed"));
}

/// From the kubelet's own network, before and after the seal. Seen red: from a neighbour's network, where nobody has the ports, all
/// was compensated.
#[test]
fn what_the_seal_closes_is_compensated_and_only_where_it_is_seen() {
    on_a_node(async |mut node: Node| {
        // The node's kubelet is this process; what it is started with is another's.
        let kubelet = started(&[
            "--anonymous-auth=true",
            "--authorization-mode=AlwaysAllow",
            "--read-only-port=10255",
        ]);
        let addresses = ["--prove", "--address=192.0.2.10", "--address=127.0.0.1"];
        let which = ["-o", "json", "--pid", &kubelet.pid()];
        let token = node.file("token");
        fs::write(&token, "proxy-get-token\n").unwrap();
        let token = token.to_str().unwrap().to_owned();
        let words = [&addresses[..], &which].concat();
        let probe = |output: &Output, id: &str| -> String {
            let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
            assert_valid(&schema("inspection.json"), &said);
            let checks = said["kubelets"][0]["checks"].as_array().unwrap();
            let check = checks.iter().find(|check| check["id"] == id).unwrap();
            check["gate"]["probe"].as_str().unwrap().to_owned()
        };
        let checks = [
            "anonymous-auth",
            "authorization-mode",
            "read-only-port",
            "ip-address-deny",
        ];
        let before = inspect(&words);
        assert_eq!(code(&before), 2);
        for id in checks {
            assert_eq!(probe(&before, id), "open", "{id}");
        }
        let elsewhere = node.neighbour.run(|| inspect(&words)).unwrap();
        assert_eq!(
            (code(&elsewhere), stderr(&elsewhere).contains("nsenter")),
            (64, true),
            "{elsewhere:?}"
        );
        let elsewhere = node.neighbour.run(|| inspect(&which)).unwrap();
        assert!(
            String::from_utf8_lossy(&elsewhere.stdout).contains("nsenter"),
            "{elsewhere:?}"
        );

        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        node.firewall_exits(0, "confirm");
        let after = inspect(&[&words[..], &["--token-file", &token]].concat());
        for id in checks {
            assert_eq!(probe(&after, id), "closed", "{id}");
        }
        // Without a token nothing is shown of what those may who have credentials, and without `ip` a side is missing. Seen red: with
        // everybody's refusal taken for the authorizer's.
        let mut blind = kubelet_gate();
        let blind = blind
            .arg("inspect")
            .args(&words)
            .env("PATH", "")
            .output()
            .unwrap();
        assert_eq!(probe(&blind, "authorization-mode"), "untried");
        assert_eq!(probe(&blind, "anonymous-auth"), "closed");
        let said: Value = serde_json::from_slice(&blind.stdout).unwrap();
        assert_eq!(
            said["probes"]["untried"].as_array().unwrap().len(),
            1,
            "{}",
            said["probes"]
        );
        drop(kubelet);
        node.stop().await;
    });
}

/// A process that is called kubelet, gone when dropped.
struct Running(std::process::Child);

impl Running {
    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

/// One with these flags, in this thread's network.
fn started(flags: &[&str]) -> Running {
    // Its shell waits for an end of its input, which comes when it is dropped.
    let child = Command::new("sh")
        .arg0("kubelet")
        .args(["-c", "read _", "--port=10250"])
        .args(flags)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    Running(child)
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_kubelet_that_runs_is_found_and_chosen() {
    let beside = |kubelets: &[&str], arguments: &[&str]| {
        let mut gate = kubelet_gate_beside(kubelets)?;
        Some(gate.args(arguments).output().unwrap())
    };
    let one = ["--port=1 --address=127.0.0.1"];
    let two = [one[0], "--port=2 --address=127.0.0.1"];
    let Some(seen) = beside(&two, &["inspect", "-o", "json"]) else {
        return;
    };
    let kubelets = json_of(&seen)["kubelets"].clone();
    let ids = [0, 1].map(|index| kubelets[index]["pid"].as_u64().unwrap());
    assert_eq!((ids, kubelets.as_array().unwrap().len()), ([2, 3], 2));
    // Which of them is to be probed must be said. Seen red: with the usual ports probed, which no process has, both were called closed.
    for (command, option) in [(&["inspect", "--prove"][..], "--pid"), (&["prove"], "--port")] {
        let several = beside(&two, command).unwrap();
        assert_eq!(code(&several), 64);
        assert_says(&stderr(&several), &[option]);
    }
    let chosen = json_of(&beside(&two, &["inspect", "--pid", "3", "-o", "json"]).unwrap());
    assert_valid(&schema("inspection.json"), &chosen);
    assert_eq!(chosen["kubelets"].as_array().unwrap().len(), 1);
    assert_eq!(chosen["kubelets"][0]["options"]["port"]["value"], 2);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let init = beside(&two, &["init", "--out", out.to_str().unwrap()]).unwrap();
    assert_eq!((code(&init), out.exists()), (1, false));
    assert_says(&stderr(&init), &[" kubelets ("]);
    let none = beside(&one, &["inspect", "--pid", "3"]).unwrap();
    assert_eq!(code(&none), 1);
    assert_says(&stderr(&none), &["--root"]);
}
