//! How a kubelet is started: among processes, by systemd, inside k3s or MicroK8s. An option that is missed
//! there may be the one that opens the node.

use std::fs;
use std::path::Path;

use kubelet_gate::adopt::inspect::Verdict::{self, Fail, Pass, Warn};
use kubelet_gate::adopt::kubelet::invocation::Invocation;
use kubelet_gate::adopt::kubelet::options::Effective;
use kubelet_gate::adopt::kubelet::{Root, contained, in_files, running, running_as};

use crate::inspecting::{check, inspect_tree, judged, only};
use crate::program::{assert_says, code, stderr, stdout};
use crate::trees::{files, proc, write};

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
        // In a container, with a configuration in its own root.
        (35, b"hyperkube\0kubelet\0--config=/etc/k.yaml\0"),
        (40, b"/usr/local/bin/k3s agent\0\0\0\0"),
        (50, b"/usr/local/bin/rke2 agent\0"),
        (60, b""),
    ]);
    write(
        &proc.path().join("35/root/etc/k.yaml"),
        "kind: KubeletConfiguration\nport: 7\n",
    );
    let found = running(proc.path());
    let pids: Vec<i32> = found.iter().filter_map(Invocation::pid).collect();
    assert_eq!(pids, [10, 20, 35, 40]);
    let options: Vec<_> = found
        .iter()
        .map(|invocation| Effective::of(invocation).unwrap())
        .collect();
    assert_says(&found[0].notes[0], &["not UTF-8"]);
    assert_eq!(options[0].number("readOnlyPort"), 0);
    assert_says(&found[1].unread[0], &["4 MiB"]);
    assert_eq!(options[1].number("readOnlyPort"), 1);
    assert_eq!(options[2].number("port"), 7);
    let mode = options[3].text("authorization.mode");
    assert_eq!(mode, "Webhook", "a k3s without drop-ins");
    assert_says(&found[3].notes[0], &["1.32"]);
}

/// The verdicts on callers' rights of the only kubelet that these files start; and what could not be read.
fn verdicts(folder: &Path) -> ([Verdict; 3], Vec<String>) {
    let found = only(folder);
    let verdict = |id| check(&found, id).verdict;
    let all = ["anonymous-auth", "authorization-mode", "read-only-port"].map(verdict);
    (all, found.unread)
}

const OPEN: &str =
    "kubelet-arg: [anonymous-auth=true, authorization-mode=AlwaysAllow, read-only-port=10255]\n";
const OPEN_ARGUMENTS: &str = "--kubelet-arg=anonymous-auth=true --kubelet-arg authorization-mode=AlwaysAllow \
    --kubelet-arg=read-only-port=10255";
const K3S: &str = "etc/systemd/system/k3s.service";
const K3S_CONFIG: &str = "etc/rancher/k3s/config.yaml";

/// A unit of k3s.
fn k3s(arguments: &str) -> String {
    format!(
        "[Service]\nEnvironmentFile=-/etc/systemd/system/%N.env\nExecStart=/usr/local/bin/k3s \
         server{arguments}\n"
    )
}

/// Seen red: with its environment, its short flags and its title not read, an open k3s passed everywhere.
#[test]
fn k3s_is_read_wherever_its_options_are() {
    for (unit, more) in [
        (k3s(" -c /opt/c.yaml"), ("opt/c.yaml", OPEN)),
        (k3s(""), (K3S_CONFIG, OPEN)),
        (k3s(&format!(" {OPEN_ARGUMENTS}")), ("x", "")),
    ] {
        let folder = files(&[(K3S, &unit), more]);
        assert_eq!(verdicts(folder.path()), ([Fail; 3], vec![]), "{unit}");
    }
    let variables = "K3S_CONFIG_FILE=/opt/c.yaml\nK3S_NODE_NAME=Other\n";
    let folder = files(&[
        (K3S, &k3s("")),
        ("etc/systemd/system/k3s.env", variables),
        ("opt/c.yaml", OPEN),
    ]);
    assert_eq!(verdicts(folder.path()).0, [Fail; 3]);
    let options = only(folder.path()).options;
    assert_eq!(options.text("--hostname-override"), "Other");
    // Flags of a command add to the file's. By the documentation they replace them: nothing is certain then.
    let config = "kubelet-arg: [anonymous-auth=true]\n";
    let folder = files(&[(K3S, &k3s(" --kubelet-arg=v=2")), (K3S_CONFIG, config)]);
    let (all, unread) = verdicts(folder.path());
    assert_eq!(all, [Fail, Warn, Warn]);
    assert_says(&unread[0], &["anonymous-auth", "keep them in one place"]);
    // A server without an agent has no kubelet.
    let folder = files(&[(K3S, &k3s(" --disable-agent"))]);
    assert!(in_files(&Root::new(folder.path())).0.is_empty());
    let folder = files(&[(K3S, &k3s(""))]);
    assert_eq!(verdicts(folder.path()).0, [Pass; 3]);
}

/// What cannot be read may say anything. Seen red: with the parser's own words, which had the secret.
#[test]
fn nothing_is_certain_of_a_k3s_whose_file_cannot_be_read() {
    let config = "token: s3cret\nkubelet-arg: [ s3cret\n";
    let folder = files(&[(K3S, &k3s("")), (K3S_CONFIG, config)]);
    let (all, unread) = verdicts(folder.path());
    assert_eq!(all, [Warn; 3]);
    assert_says(&unread[0], &["/etc/rancher/k3s/config.yaml"]);
    let output = inspect_tree(folder.path(), &[]);
    assert_eq!(code(&output), 1, "{}", stdout(&output));
    assert_says(&stdout(&output), &["not read: "]);
    assert_says(&stderr(&output), &["nothing is sure"]);
    assert!(!stdout(&output).contains("s3cret"), "{}", stdout(&output));
}

/// A running k3s hides its arguments; its unit and its environment have them.
#[test]
fn a_running_k3s_is_read_by_its_unit_and_environment() {
    let proc = proc(&[(7, b"/usr/local/bin/k3s server\0\0\0\0")]);
    let process = proc.path().join("7");
    let found = || judged(running(proc.path()).remove(0));
    let anonymous = || check(&found(), "anonymous-auth").verdict;
    assert_says(&found().unread[0], &["hides its arguments"]);
    assert_eq!(anonymous(), Warn);
    write(&process.join("cgroup"), "0::/system.slice/k3s.service\n");
    let unit = process.join("root").join(K3S);
    write(&unit, k3s(&format!(" {OPEN_ARGUMENTS}")));
    assert_eq!((anonymous(), found().unread), (Fail, vec![]));
    write(&unit, k3s(""));
    write(&process.join("environ"), "A=1\0K3S_CONFIG_FILE=/opt/c.yaml\0");
    write(&process.join("root/opt/c.yaml"), OPEN);
    assert_eq!(anonymous(), Fail);
}

/// A program that starts a kubelet may add flags, unless it is known not to. Seen red: with any word that
/// ends in kubelet taken for it.
#[test]
fn a_program_that_starts_a_kubelet_is_looked_through_only_if_it_is_known() {
    let of = |command: &str| {
        let unit = format!("[Service]\nExecStart={command}\n");
        let folder = files(&[("etc/systemd/system/kubelet.service", &unit)]);
        let (found, errors) = in_files(&Root::new(folder.path()));
        let words = |found: &Invocation| found.words.iter().map(|word| word.text.clone()).collect();
        let errors = errors.iter().map(ToString::to_string).collect();
        let said: Vec<String> = found.first().map_or(errors, words);
        said.join(" ")
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
        "/usr/bin/nice -n 5 /opt/start.sh /usr/bin/kubelet --config=/k",
        "/usr/bin/env -i A=b /opt/start /usr/bin/kubelet --config=/k",
    ] {
        assert_says(&of(unknown), &["not known to start a kubelet"]);
    }
}

#[test]
fn microk8s_keeps_its_arguments_in_a_file() {
    let arguments = "--kubeconfig=${SNAP_DATA}/credentials/kubelet.config\n# --anonymous-auth=true\n\
                     --client-ca-file=$SNAP_DATA/certs/ca.crt\n--anonymous-auth=false\n";
    let folder = files(&[("var/snap/microk8s/current/args/kubelet", arguments)]);
    let options = only(folder.path()).options;
    for (option, value) in [
        (
            "authentication.x509.clientCAFile",
            "/var/snap/microk8s/current/certs/ca.crt",
        ),
        (
            "--kubeconfig",
            "/var/snap/microk8s/current/credentials/kubelet.config",
        ),
        ("authorization.mode", "AlwaysAllow"),
    ] {
        assert_eq!(options.text(option), value);
    }
    assert!(!options.is_on("authentication.anonymous.enabled"));
    let proc = proc(&[(7, b"/snap/microk8s/1/kubelite\0--kubelet-args-file=/args\0")]);
    fs::write(proc.path().join("7/root/args"), "--port=9\n").unwrap();
    let found = running(proc.path());
    assert_eq!(Effective::of(&found[0]).unwrap().number("port"), 9);
}

/// A kubelet in a container is not taken for the node's, but can be named. A pod's process is not proposed.
/// Seen red: with pods' processes proposed too.
#[test]
fn a_kubelet_in_a_container_is_looked_at_if_it_is_named() {
    let node = ["/usr/bin/kubelet", "--port=7"].join("\0");
    let proc = proc(&[(7, node.as_bytes()), (8, node.as_bytes()), (9, b"/bin/sh\0")]);
    for (pid, cgroup) in [
        (7, "0::/docker/0123/kubelet.slice/kubelet.service\n"),
        (8, "0::/kubepods/burstable/pod1/2\n"),
        (9, "0::/docker/0123\n"),
    ] {
        let process = proc.path().join(pid.to_string());
        fs::create_dir(process.join("ns")).unwrap();
        std::os::unix::fs::symlink("pid:[4026539999]", process.join("ns/pid")).unwrap();
        write(&process.join("cgroup"), cgroup);
    }
    assert!(running(proc.path()).is_empty());
    assert_eq!(contained(proc.path()), [7]);
    let named = running_as(proc.path(), 7).unwrap();
    assert_eq!(Effective::of(&named).unwrap().number("port"), 7);
    assert!(running_as(proc.path(), 9).is_none() && running_as(proc.path(), 10).is_none());
}
