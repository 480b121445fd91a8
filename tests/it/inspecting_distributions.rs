//! Distributions hand the kubelet other arguments than an operator wrote, or keep them where no file of the
//! node has them. A reader that misses this calls an open kubelet closed.

use std::fs;
use std::path::Path;

use kubelet_gate::adopt::inspect::Verdict::{Fail, Pass, Warn};
use kubelet_gate::adopt::inspect::{Inspection, Verdict};
use kubelet_gate::adopt::kubelet::invocation::Invocation;
use kubelet_gate::adopt::kubelet::{Root, in_files, running};
use tempfile::TempDir;

use crate::inspecting::{check, inspect_tree, judged, only};
use crate::program::{assert_says, code, stderr, stdout};
use crate::trees::{files, proc, write};

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
/// Of another node: any will do.
const CA: &str = include_str!("data/nodes/kubeadm/etc/kubernetes/pki/ca.crt");
const ANONYMOUS: &str = "authentication: {anonymous: {enabled: true}}\n";
const K3S_UNIT: &str = "etc/systemd/system/k3s-agent.service";
const K3S_CONFIG: &str = "etc/rancher/k3s/config.yaml";

/// Verdicts on anonymous requests, authorization, the client CA and the read-only port.
fn verdicts(found: &Inspection) -> [Verdict; 4] {
    [
        "anonymous-auth",
        "authorization-mode",
        "client-ca-file",
        "read-only-port",
    ]
    .map(|id| check(found, id).verdict)
}

/// What k3s or RKE2 writes into its folder of drop-ins.
fn own_drop_in(product: &str) -> String {
    let agent = format!("/var/lib/rancher/{product}/agent");
    format!(
        "{HEAD}address: 0.0.0.0\nauthentication:\n  anonymous: {{enabled: false}}\n  webhook: {{enabled: \
         true}}\n  x509: {{clientCAFile: {agent}/client-ca.crt}}\nauthorization: {{mode: Webhook}}\n"
    )
}

fn drop_ins(product: &str) -> String {
    format!("var/lib/rancher/{product}/agent/etc/kubelet.conf.d")
}

/// A k3s agent that has started once, with this configuration file and these files.
fn k3s(config: &str, more: &[(&str, &str)]) -> TempDir {
    let folder = files(more);
    let at = |path: &str| folder.path().join(path);
    write(&at(K3S_UNIT), "[Service]\nExecStart=/usr/local/bin/k3s agent\n");
    write(&at(K3S_CONFIG), config);
    write(
        &at(&drop_ins("k3s")).join("00-k3s-defaults.conf"),
        own_drop_in("k3s"),
    );
    write(&at("var/lib/rancher/k3s/agent/client-ca.crt"), CA);
    folder
}

/// Seen red: with `--config` and `--config-dir` handed to the kubelet as they are.
#[test]
fn what_k3s_copies_is_laid_over_its_own_configuration() {
    let pods = format!("{HEAD}maxPods: 200\n");
    let open = format!("{HEAD}{ANONYMOUS}");
    let closed = format!("{HEAD}authentication: {{anonymous: {{enabled: false}}}}\n");
    let sub = format!("{}/20-cli-config-dir/50-a.conf", drop_ins("k3s"));
    let copied = format!("{}/10-cli-config.conf", drop_ins("k3s"));
    let late = format!("{}/90-late.conf", drop_ins("k3s"));
    let folder = "kubelet-arg: [config-dir=/opt/kubelet.d]\n";
    let file = "kubelet-arg: [config=/opt/kubelet.yaml]\n";
    for (config, more, anonymous) in [
        (folder, &[("opt/kubelet.d/50-a.conf", pods.as_str())][..], Pass),
        (folder, &[("opt/kubelet.d/50-a.conf", &open)], Fail),
        (folder, &[("opt/kubelet.d/sub/50-a.conf", &open)], Fail),
        (folder, &[("opt/kubelet.d/50-a.yaml", &open)], Pass),
        // The copies of an earlier start stay, and are written over.
        (folder, &[("opt/kubelet.d/50-a.conf", &pods), (&sub, &open)], Pass),
        (folder, &[("opt/kubelet.d/60-b.conf", &pods), (&sub, &open)], Fail),
        (file, &[("opt/kubelet.yaml", &open)], Fail),
        (file, &[("opt/kubelet.yaml", &pods), (&copied, &open)], Pass),
        ("", &[(&copied, &open)], Fail),
        // Later names win.
        (file, &[("opt/kubelet.yaml", &open), (&late, &closed)], Pass),
        (file, &[("opt/kubelet.yaml", &closed), (&late, &open)], Fail),
        (
            "kubelet-arg: ['--config', /opt/kubelet.yaml]\n",
            &[("opt/kubelet.yaml", &open)],
            Fail,
        ),
        (
            "kubelet-arg+: [config=/x, config=/opt/kubelet.yaml]\n",
            &[("opt/kubelet.yaml", &open)],
            Fail,
        ),
        // Within a file too the order decides.
        (
            "kubelet-arg+: [config=/opt/kubelet.yaml]\nkubelet-arg: [v=2]\n",
            &[("opt/kubelet.yaml", &open)],
            Pass,
        ),
        (
            "kubelet-arg: [v=2]\nkubelet-arg+: config=/opt/kubelet.yaml\n",
            &[("opt/kubelet.yaml", &open)],
            Fail,
        ),
        // A flag wins over all of them.
        (
            "kubelet-arg: [config=/opt/kubelet.yaml, anonymous-auth=false]\n",
            &[("opt/kubelet.yaml", &open)],
            Pass,
        ),
    ] {
        let node = k3s(config, more);
        let found = only(node.path());
        assert_eq!(
            verdicts(&found),
            [anonymous, Pass, Pass, Pass],
            "{config} {more:?}"
        );
        assert_eq!(found.unread, Vec::<String>::new(), "{config} {more:?}");
    }
    let node = k3s(file, &[("opt/kubelet.yaml", &open)]);
    let found = only(node.path());
    assert_says(&check(&found, "anonymous-auth").origin, &["/opt/kubelet.yaml"]);
}

/// What is copied and cannot be read, or may mean two things, lets nothing pass. Seen red: with
/// `--config` and `--config-dir` handed on.
#[test]
fn nothing_passes_beside_a_file_that_k3s_copies_and_that_is_not_read() {
    let open = format!("{HEAD}{ANONYMOUS}");
    for (config, says) in [
        ("kubelet-arg: [config=/opt/gone.yaml]\n", "/opt/gone.yaml"),
        ("kubelet-arg: [config=opt/kubelet.yaml]\n", "relative path"),
        ("kubelet-arg: [config-dir=/opt/gone.d]\n", "/opt/gone.d"),
        ("kubelet-arg: [config-dir=/opt/link.d]\n", "a link"),
        ("kubelet-arg: [config-dir=/opt/links]\n", "a link"),
        ("kubelet-arg: [config=]\n", "starts no kubelet"),
        // The argument behind one without a value is dropped.
        (
            "kubelet-arg: [seccomp-default, anonymous-auth=true]\n",
            "drops it",
        ),
        ("kubelet-arg: [{read-only-port: 0}]\n", "not a text"),
        ("kubelet-arg: []\nkubelet-arg: []\n", "broken YAML"),
        ("- kubelet-arg\n", "broken YAML"),
        ("rootless: true\n", "rootless"),
    ] {
        let node = k3s(
            config,
            &[("opt/kubelet.yaml", &open), ("opt/real.d/a.conf", &open)],
        );
        let opt = node.path().join("opt");
        fs::create_dir(opt.join("links")).unwrap();
        std::os::unix::fs::symlink("real.d", opt.join("link.d")).unwrap();
        std::os::unix::fs::symlink("../kubelet.yaml", opt.join("links/a.conf")).unwrap();
        let found = only(node.path());
        assert!(
            !verdicts(&found).contains(&Pass),
            "{config}: {:?}",
            verdicts(&found)
        );
        assert_says(&found.unread.join("\n"), &[says]);
    }
    // What k3s writes itself may be missing in a copy of the node.
    let node = k3s("", &[]);
    fs::remove_file(node.path().join(drop_ins("k3s")).join("00-k3s-defaults.conf")).unwrap();
    let found = only(node.path());
    assert_says(&found.unread.join("\n"), &["00-k3s-defaults.conf is not there"]);
    assert!(!verdicts(&found).contains(&Pass));
    // Without its folder of drop-ins it may be a release that lets its own flags win.
    let node = k3s(
        "kubelet-arg: [config=/opt/kubelet.yaml]\n",
        &[("opt/kubelet.yaml", &open)],
    );
    fs::remove_dir_all(node.path().join(drop_ins("k3s"))).unwrap();
    let found = only(node.path());
    assert_says(&found.unread.join("\n"), &["1.32"]);
    assert!(!verdicts(&found).contains(&Pass));
}

/// A kubelet that runs has read what was copied for its start, and not what is written since. Seen red: with
/// `--config` handed on.
#[test]
fn a_k3s_that_runs_is_judged_by_what_was_copied_for_its_start() {
    let open = format!("{HEAD}{ANONYMOUS}");
    let proc = proc(&[(7, b"/usr/local/bin/k3s\0agent\0")]);
    let node = k3s(
        "kubelet-arg: [config=/opt/kubelet.yaml]\n",
        &[("opt/kubelet.yaml", &open)],
    );
    fs::remove_dir(proc.path().join("7/root")).unwrap();
    std::os::unix::fs::symlink(node.path(), proc.path().join("7/root")).unwrap();
    let found = || judged(running(proc.path()).remove(0));
    assert_eq!(verdicts(&found())[0], Pass);
    assert_says(
        &found().notes.join("\n"),
        &["/opt/kubelet.yaml is not what", "next start"],
    );
    let copy = node.path().join(drop_ins("k3s")).join("10-cli-config.conf");
    write(&copy, &open);
    assert_eq!(verdicts(&found())[0], Fail);
    assert!(!found().notes.join("\n").contains("is not what"));
}

/// Files win over the environment, flags over files; later files over earlier ones. Seen red: with the
/// environment over the files.
#[test]
fn options_of_k3s_come_from_the_place_that_wins() {
    let data = |config: &str, unit: &str, more: &[(&str, &str)]| {
        let node = k3s(config, more);
        write(&node.path().join(K3S_UNIT), unit);
        let found = only(node.path());
        found.options.text("--kubeconfig").to_owned()
    };
    let unit = |environment: &str, arguments: &str| {
        format!("[Service]\n{environment}ExecStart=/usr/local/bin/k3s agent{arguments}\n")
    };
    let env = "Environment=K3S_DATA_DIR=/env\n";
    let later = ("etc/rancher/k3s/config.yaml.d/10-a.YML", "data-dir: /later\n");
    let not_yaml = ("etc/rancher/k3s/config.yaml.d/20-b.txt", "data-dir: /never\n");
    for (config, unit, more, expected) in [
        ("", unit(env, ""), &[][..], "/env"),
        ("data-dir: /file\n", unit(env, ""), &[], "/file"),
        ("data-dir: /file\n", unit(env, ""), &[later, not_yaml], "/later"),
        ("data-dir: /file\n", unit(env, " -d /flag"), &[later], "/flag"),
        (
            "data-dir: /file\n",
            unit(
                "Environment=K3S_CONFIG_FILE=/etc/other.yaml\n",
                " --config=/etc/third.yaml",
            ),
            &[
                ("etc/other.yaml", "data-dir: /other\n"),
                ("etc/third.yaml", "data-dir: /third\n"),
            ],
            "/other",
        ),
        (
            "",
            "[Service]\nExecStart=/usr/bin/env K3S_DATA_DIR=/wrapped /usr/local/bin/k3s --debug agent\n"
                .to_owned(),
            &[],
            "/wrapped",
        ),
    ] {
        let found = data(config, &unit, more);
        assert_eq!(
            found,
            format!("{expected}/agent/kubelet.kubeconfig"),
            "{config} {unit}"
        );
    }
    let node = k3s("", &[]);
    write(
        &node.path().join(K3S_UNIT),
        "[Service]\nExecStart=/usr/local/bin/k3s agent --config=https://192.0.2.1/config.yaml\n",
    );
    assert_says(&only(node.path()).unread.join("\n"), &["another machine"]);
}

/// The first releases with drop-ins leave the read-only port to the kubelet, which opens it. Seen red: with
/// `--read-only-port=0` passed by every release.
#[test]
fn the_release_decides_whether_k3s_and_rke2_close_the_read_only_port() {
    let port = |config: &str, program: &str| {
        let node = k3s(config, &[("usr/local/bin/k3s", program)]);
        let found = only(node.path());
        (check(&found, "read-only-port").verdict, found.notes.join("\n"))
    };
    for (release, verdict) in [
        ("v1.31.13+k3s1", Pass),
        ("v1.32.0-rc1+k3s1", Fail),
        ("v1.32.0+k3s1", Fail),
        ("v1.32.3+k3s1", Fail),
        ("v1.32.4-rc1+k3s1", Pass),
        ("v1.32.4+k3s1", Pass),
        ("v1.33.0+k3s1", Pass),
    ] {
        let (found, notes) = port("", &format!("\0program {release} (abc)"));
        assert_eq!(found, verdict, "{release}");
        assert_eq!(
            notes.contains("CVE-2025-46599"),
            verdict == Fail,
            "{release}: {notes}"
        );
    }
    let node = k3s(
        "",
        &[("var/lib/rancher/k3s/data/current/bin/k3s", "v1.32.1+k3s1\0")],
    );
    assert_eq!(check(&only(node.path()), "read-only-port").verdict, Fail);
    // The user's own argument counts for every release; without a program the release is not known.
    assert_eq!(port("kubelet-arg: [read-only-port=0]\n", "v1.32.0+k3s1").0, Pass);
    assert_eq!(
        port("kubelet-arg: [read-only-port=10255]\n", "v1.33.0+k3s1").0,
        Fail
    );
    assert_says(
        &port("", "").1,
        &["release of k3s is not known", "CVE-2025-46599"],
    );

    for (release, verdict) in [
        ("v1.32.2", Fail),
        ("v1.32.5", Warn),
        ("v1.33.2", Pass),
        ("v1.31.9", Pass),
    ] {
        let node = files(&[
            (
                "usr/local/lib/systemd/system/rke2-agent.service",
                "[Service]\nExecStart=/usr/local/bin/rke2 agent\n",
            ),
            (
                &format!("{}/00-rke2-defaults.conf", drop_ins("rke2")),
                &own_drop_in("rke2"),
            ),
        ]);
        let data = node.path().join("var/lib/rancher/rke2");
        let unpacked = format!("data/{release}-rke2r1-0123abcd/bin");
        fs::create_dir_all(data.join(&unpacked)).unwrap();
        std::os::unix::fs::symlink(format!("/var/lib/rancher/rke2/{unpacked}"), data.join("bin")).unwrap();
        assert_eq!(
            check(&only(node.path()), "read-only-port").verdict,
            verdict,
            "{release}"
        );
    }
}

const UNIT: &str = "etc/systemd/system/kubelet.service";

fn kubelet_unit(command: &str) -> TempDir {
    let config = format!(
        "{HEAD}authentication:\n  anonymous: {{enabled: false}}\n  x509: {{clientCAFile: \
         /etc/kubernetes/ca.crt}}\n"
    );
    files(&[
        (UNIT, &format!("[Service]\n{command}\n")),
        ("etc/kubernetes/kubelet.conf", &config),
        ("etc/kubernetes/ca.crt", CA),
    ])
}

/// The words of the kubelet that this unit starts, or the error.
fn started(folder: &Path) -> Result<Vec<String>, String> {
    let (found, errors) = in_files(&Root::new(folder));
    let words = |found: &Invocation| found.words.iter().map(|word| word.text.clone()).collect();
    found.first().map(words).ok_or_else(|| errors[0].to_string())
}

/// OpenShift starts its kubelet by a script that runs its arguments. Seen red: without that wrapper.
#[test]
fn openshifts_wrapper_is_read_as_what_it_runs() {
    let command = "ExecStart=/usr/local/bin/kubenswrapper \\\n  /usr/bin/kubelet \\\n    \
         --config=/etc/kubernetes/kubelet.conf \\\n    --kubeconfig=/var/lib/kubelet/kubeconfig";
    let node = kubelet_unit(command);
    let found = only(node.path());
    assert_eq!(verdicts(&found), [Pass; 4]);
    let node = kubelet_unit("ExecStart=/usr/local/bin/kubensenter -q /usr/bin/kubelet --port=7");
    assert_says(&only(node.path()).unread[0], &["kubensenter"]);
    // In another mount namespace it may see other files.
    let node = kubelet_unit(&format!("Environment=KUBENSMNT=/run/kubens/mnt\n{command}"));
    let found = only(node.path());
    assert_eq!(verdicts(&found), [Warn; 4]);
    assert_says(&found.unread[0], &["KUBENSMNT"]);
    // A script of that name which does more.
    let script = node.path().join("usr/local/bin/kubenswrapper");
    for (text, passes) in [
        (
            "#!/bin/bash\nif [ -n \"$KUBENSMNT\" ]; then\n  exec nsenter --mount=$KUBENSMNT \"$@\"\nfi\nexec \
             \"$@\"\n",
            true,
        ),
        ("#!/bin/bash\nexec \"$@\" --anonymous-auth=true\n", false),
    ] {
        write(&script, text);
        let node = in_files(&Root::new(node.path()));
        assert_eq!(node.0.len() == 1, passes, "{text}");
    }
    let output = inspect_tree(node.path(), &[]);
    assert_eq!(code(&output), 1);
    assert_says(&stderr(&output), &["kubenswrapper", "No verdict is given"]);
    assert!(!stdout(&output).contains("PASS"), "{}", stdout(&output));
}

/// Seen red: with the command searched for the first word that is a kubelet.
#[test]
fn programs_that_only_start_another_are_read_with_their_options() {
    for command in [
        "/usr/bin/nice -n5 -- /usr/bin/kubelet --port=7",
        "/usr/bin/nice --adjustment 5 /usr/bin/kubelet --port=7",
        "/usr/bin/ionice -c 2 -n0 /usr/bin/kubelet --port=7",
        "/usr/bin/taskset -c 0,1 /usr/bin/kubelet --port=7",
        "/usr/bin/chrt -f 10 /usr/bin/kubelet --port=7",
        "/usr/bin/numactl -l -C 0-3 /usr/bin/kubelet --port=7",
        "/usr/bin/systemd-run --scope -p MemoryMax=1G --unit kubelet-run /usr/bin/kubelet --port=7",
        "/usr/bin/nsenter -t 1 -m -- /usr/bin/kubelet --port=7",
        "/usr/bin/setpriv --reuid 0 --clear-groups /usr/bin/kubelet --port=7",
        "/bin/sh -c 'exec /usr/bin/kubelet --port=7'",
        "/bin/bash -ec \"GOGC=50 exec nice /usr/bin/kubelet --port=7\"",
        "/bin/sh -c '/usr/bin/kubelet $$FLAGS'",
    ] {
        let node = kubelet_unit(&format!("Environment=FLAGS=--port=7\nExecStart={command}"));
        assert_eq!(started(node.path()).unwrap(), ["--port=7"], "{command}");
        assert_eq!(only(node.path()).unread, Vec::<String>::new(), "{command}");
    }
    // Below another root are other files.
    let node = kubelet_unit("ExecStart=/usr/sbin/chroot /host /usr/bin/kubelet --config=/k.yaml");
    write(&node.path().join("host/k.yaml"), format!("{HEAD}port: 7\n"));
    assert_eq!(only(node.path()).options.number("port"), 7);
}

/// What is recognised is named, and nothing passes. Seen red: with the command searched for the first word
/// that is a kubelet.
#[test]
fn what_is_recognised_and_not_read_is_named_without_a_verdict() {
    let flags = "--config=/etc/kubernetes/kubelet.conf --anonymous-auth=false";
    for (unit, command, says) in [
        (
            UNIT,
            format!("/usr/bin/podman run --net host quay.io/x/kubelet:v1 {flags}"),
            "podman run",
        ),
        (
            UNIT,
            format!("/usr/bin/docker run image/hyperkube kubelet {flags}"),
            "docker run",
        ),
        (
            UNIT,
            "/usr/bin/docker start -a kubelet".to_owned(),
            "docker start",
        ),
        (
            UNIT,
            format!("/usr/bin/rkt run docker://image/hyperkube -- kubelet {flags}"),
            "rkt run",
        ),
        (
            UNIT,
            format!("/usr/lib/coreos/kubelet-wrapper {flags}"),
            "kubelet-wrapper of CoreOS",
        ),
        (
            UNIT,
            format!("/bin/sh -c 'sleep 1; exec kubelet {flags}'"),
            "more than one command",
        ),
        (
            UNIT,
            format!("/bin/bash -lc 'kubelet {flags}'"),
            "options other than",
        ),
        (UNIT, "/bin/bash /opt/kubelet.sh".to_owned(), "/opt/kubelet.sh"),
        (
            UNIT,
            format!("/opt/kubelet.sh /usr/bin/kubelet {flags}"),
            "a script",
        ),
        (
            UNIT,
            format!("/usr/bin/nice -Z /usr/bin/kubelet {flags}"),
            "-Z is not known",
        ),
        (
            UNIT,
            format!("/usr/bin/env -S kubelet {flags}"),
            "-S is not known",
        ),
        (
            UNIT,
            format!("/usr/bin/systemd-run -M other /usr/bin/kubelet {flags}"),
            "systemd-run",
        ),
        (UNIT, "/usr/bin/nice".to_owned(), "no command follows"),
        (
            "etc/systemd/system/k0sworker.service",
            "/usr/local/bin/k0s worker".to_owned(),
            "worker profile",
        ),
        (
            "etc/systemd/system/k0scontroller.service",
            "/usr/local/bin/k0s controller --enable-worker=true --kubelet-extra-args=--v=2".to_owned(),
            "--kubelet-extra-args",
        ),
        (
            "etc/systemd/system/snap.kubelet.daemon.service",
            "/usr/bin/snap run kubelet.daemon".to_owned(),
            "snap",
        ),
        (
            "etc/systemd/system/microshift.service",
            "microshift run".to_owned(),
            "MicroShift",
        ),
        // A script by the kubelet's name may add flags as any other.
        (UNIT, format!("/opt/scripts/kubelet {flags}"), "a script"),
    ] {
        let unit_text = format!("[Service]\nExecStart={command}\n");
        let node = files(&[
            (unit, &unit_text),
            ("opt/kubelet.sh", "#!/bin/sh\nexec \"$@\" --x\n"),
            (
                "opt/scripts/kubelet",
                "#!/bin/sh\nexec /usr/bin/kubelet \"$@\" --x\n",
            ),
        ]);
        let output = inspect_tree(node.path(), &[]);
        assert_eq!(code(&output), 1, "{command}");
        assert_says(
            &stderr(&output),
            &[says, "No verdict is given", "--kubelet-config"],
        );
        assert!(
            !stdout(&output).contains("PASS"),
            "{command}: {}",
            stdout(&output)
        );
    }
    // A controller alone has no kubelet, and Talos no unit.
    let node = files(&[(
        "etc/systemd/system/k0scontroller.service",
        "[Service]\nExecStart=/usr/local/bin/k0s controller --enable-worker=false\n",
    )]);
    assert_says(
        &started(node.path()).unwrap_err(),
        &["no kubelet is started here"],
    );
    let node = files(&[("etc/containers/systemd/kubelet.container", "[Container]\n")]);
    assert_says(
        &started(node.path()).unwrap_err(),
        &["kubelet.container", "No verdict is given"],
    );
    let node = files(&[("etc/os-release", "NAME=\"Talos\"\nID=talos\n")]);
    assert_says(
        &started(node.path()).unwrap_err(),
        &["Talos", "No verdict is given"],
    );
}

/// Nodes whose unit is the usual one are read whatever starts them. (Not seen red.)
#[test]
fn nodes_with_an_ordinary_unit_are_read() {
    let secure = "authentication:\n  anonymous: {enabled: false}\n";
    let config = format!("{HEAD}{secure}");
    for (files_of, anonymous) in [
        // Bottlerocket
        (
            vec![
                (
                    "usr/lib/systemd/system/kubelet.service",
                    "[Service]\nEnvironmentFile=/etc/kubernetes/kubelet/env\n",
                ),
                (
                    "etc/systemd/system/kubelet.service.d/exec-start.conf",
                    "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config \
                     /etc/kubernetes/kubelet/config --node-labels \"${NODE_LABELS}\"\n",
                ),
                ("etc/kubernetes/kubelet/env", "NODE_LABELS=a=b\n"),
                ("etc/kubernetes/kubelet/config", config.as_str()),
            ],
            Pass,
        ),
        // minikube
        (
            vec![
                (
                    UNIT,
                    "[Service]\nExecStart=/var/lib/minikube/binaries/v1.33.1/kubelet\n",
                ),
                (
                    "etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
                    "[Service]\nExecStart=\nExecStart=/var/lib/minikube/binaries/v1.33.1/kubelet \
                     --config=/var/lib/kubelet/config.yaml\n",
                ),
                ("var/lib/kubelet/config.yaml", &config),
            ],
            Pass,
        ),
        // kind, with what an operator gave it
        (
            vec![
                (
                    UNIT,
                    "[Service]\nEnvironmentFile=-/etc/default/kubelet\nExecStart=/usr/bin/kubelet \
                     --config=/var/lib/kubelet/config.yaml $KUBELET_EXTRA_ARGS \
                     --runtime-cgroups=/system.slice\n",
                ),
                (
                    "etc/default/kubelet",
                    "KUBELET_EXTRA_ARGS=--anonymous-auth=true\n",
                ),
                ("var/lib/kubelet/config.yaml", &config),
            ],
            Fail,
        ),
    ] {
        let node = files(&files_of);
        let found = only(node.path());
        assert_eq!(check(&found, "anonymous-auth").verdict, anonymous, "{files_of:?}");
        assert_eq!(found.unread, Vec::<String>::new(), "{files_of:?}");
    }
}

/// Canonical Kubernetes keeps the arguments in a file, as MicroK8s does. What only a shell understands there
/// lets nothing pass. (Not seen red.)
#[test]
fn the_arguments_of_snaps_are_read_from_their_file() {
    let node = |text: &str| files(&[("var/snap/k8s/common/args/kubelet", text)]);
    let closed = "--anonymous-auth=\"false\"\n--authorization-mode=Webhook\n--read-only-port=0\n\
         --kubeconfig=/etc/kubernetes/kubelet.conf\n\
         --client-ca-file=\"${SNAP_COMMON}/ca.crt\"\n";
    let tree = node(closed);
    write(&tree.path().join("var/snap/k8s/common/ca.crt"), CA);
    assert_eq!(verdicts(&only(tree.path())), [Pass; 4]);
    for odd in ["--x=$(cat /y)", "--x=$OTHER", "--x=\"a b\"", "--x=a;b"] {
        let tree = node(&format!("{closed}{odd}\n"));
        let found = only(tree.path());
        assert!(!verdicts(&found).contains(&Pass), "{odd}");
        assert_says(&found.unread[0], &["/var/snap/k8s/common/args/kubelet:6"]);
    }
}
