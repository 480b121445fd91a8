//! If `inspect` counts a line of a unit that systemd ignores, or overlooks one that systemd reads, it says
//! PASS of a kubelet that starts open.

use std::os::unix::fs::symlink;
use std::path::Path;

use kubelet_gate::adopt::inspect::Verdict::{Fail, Pass, Warn};
use kubelet_gate::adopt::kubelet::invocation::{Invocation, NextInvocation};
use kubelet_gate::adopt::kubelet::running;

use crate::inspecting::{check, inspect_tree, judged, only};
use crate::program::{assert_says, code, stderr, stdout};
use crate::trees::{files, proc, write};

const CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                      authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, \
                      x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\nauthorization: {mode: Webhook}\n";
const UNIT: &str = "etc/systemd/system/kubelet.service";
const OPTIONS: [&str; 4] = [
    "anonymous-auth",
    "authorization-mode",
    "client-ca-file",
    "read-only-port",
];

/// A node whose configuration file closes everything, with this unit.
fn node(unit: &str) -> tempfile::TempDir {
    files(&[
        (UNIT, unit),
        ("var/lib/kubelet/config.yaml", CONFIG),
        ("etc/kubernetes/pki/ca.crt", ""),
    ])
}

/// Seen red: with any of these lines counted, all four pass, as with the first unit.
#[test]
fn a_line_that_systemd_ignores_closes_nothing() {
    let good = node(
        "[Service]\nEnvironment=A=--config=/var/lib/kubelet/config.yaml\nExecStart=/usr/bin/kubelet $A\n",
    );
    let found = only(good.path());
    assert_eq!(check(&found, "anonymous-auth").verdict, Pass, "{:?}", found.notes);
    let ignored = |note: &String| note.contains("systemd");
    assert!(!found.notes.iter().any(ignored), "{:?}", found.notes);
    for (unit, noted) in [
        (
            "Environment=\"A=--config=/var/lib/kubelet/config.yaml\nExecStart=/usr/bin/kubelet $A\n",
            2,
        ),
        (
            "Environment=\"A=--kubeconfig=/k --config=/var/lib/kubelet/config.yaml\n  --v=2\"\n\
             ExecStart=/usr/bin/kubelet $A\n",
            2,
        ),
        (
            "Environment=A-B=/var/lib/kubelet/config.yaml\nExecStart=/usr/bin/kubelet --config=${A-B}\n",
            2,
        ),
        (
            "Enviroment=A=--config=/var/lib/kubelet/config.yaml\nExecStart=/usr/bin/kubelet $A\n",
            2,
        ),
        (
            "Environment=B \\x=1 A=--config=/var/lib/kubelet/config.yaml\nExecStart=/usr/bin/kubelet $A\n",
            2,
        ),
        (
            "ExecStart=/usr/bin/kubelet --kubeconfig=/k \\\\\n  --config=/var/lib/kubelet/config.yaml\n",
            3,
        ),
        (
            "[Servce]\nEnvironment=A=--config=/var/lib/kubelet/config.yaml\n[Service]\nExecStart=/usr/bin/kubelet $A\n",
            2,
        ),
        ("EnvironmentFile=\"/etc/env\"\nExecStart=/usr/bin/kubelet $A\n", 2),
    ] {
        let folder = node(&format!("[Service]\n{unit}"));
        write(
            &folder.path().join("etc/env"),
            "A=--config=/var/lib/kubelet/config.yaml\n",
        );
        let output = inspect_tree(folder.path(), &[]);
        let said = stdout(&output);
        assert_eq!(code(&output), 2, "{unit}: {said}");
        let found = only(folder.path());
        for option in OPTIONS {
            assert_eq!(check(&found, option).verdict, Fail, "{unit} {option}");
        }
        let place = format!("/{UNIT}:{noted}: ");
        let told = found
            .notes
            .iter()
            .any(|note| note.starts_with(&place) && note.contains("systemd ignores"));
        assert!(told, "{unit}: {:?}", found.notes);
        assert!(!said.contains("/var/lib/kubelet/config.yaml:"), "{said}");
    }
}

/// Seen red: with the drop-ins of the link's name alone.
#[test]
fn a_drop_in_of_any_of_a_units_names_opens_it() {
    let unit = "[Service]\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml $A\n";
    let open = "[Service]\nEnvironment=A=--anonymous-auth=true\n";
    for name in [
        "node-agent.service.d",
        "kubelet.service.d",
        "third.service.d",
        "node-.service.d",
        "service.d",
    ] {
        let folder = node("");
        let etc = folder.path().join("etc/systemd/system");
        std::fs::remove_file(etc.join("kubelet.service")).unwrap();
        write(
            &folder.path().join("usr/lib/systemd/system/node-agent.service"),
            unit,
        );
        for link in ["kubelet.service", "third.service"] {
            symlink("/usr/lib/systemd/system/node-agent.service", etc.join(link)).unwrap();
        }
        assert_eq!(
            check(&only(folder.path()), "anonymous-auth").verdict,
            Pass,
            "{name}"
        );
        write(&etc.join(name).join("10-extra.conf"), open);
        let found = only(folder.path());
        let anonymous = check(&found, "anonymous-auth");
        assert_eq!(anonymous.verdict, Fail, "{name}");
        let place = format!("/etc/systemd/system/{name}/10-extra.conf");
        assert_eq!(anonymous.file.as_deref(), Some(place.as_str()));
    }
}

/// A unit that systemd refuses starts no kubelet: neither its lines nor the defaults are in force.
#[test]
fn a_unit_that_systemd_refuses_is_an_error_with_its_line() {
    for (unit, said) in [
        (
            "[Service] # the kubelet\nExecStart=/usr/bin/kubelet\n",
            ":1: an invalid section header",
        ),
        (
            "[Service]\nExecStart=/usr/bin/kubelet \"--a\n",
            ":2: ExecStart: a quote is not closed",
        ),
        (
            "[Service]\nExecStart=/k\nExecStart=/usr/bin/kubelet\n",
            ":3: a second ExecStart",
        ),
        (
            "[Service]\nExecStart=|/usr/bin/kubelet\n",
            ":2: ExecStart: systemd before 258 does not know",
        ),
        (
            "[Service]\nWorkingDirectory=var\nExecStart=/usr/bin/kubelet\n",
            ":2: WorkingDirectory: no absolute path",
        ),
    ] {
        let folder = node(unit);
        let output = inspect_tree(folder.path(), &[]);
        assert_eq!(code(&output), 1, "{unit}: {}", stdout(&output));
        assert_says(&stderr(&output), &[said, "does not start this unit"]);
    }
}

/// What is not known may be any flag. Seen red: with the unknown variable taken for an empty one.
#[test]
fn a_variable_that_is_set_elsewhere_leaves_nothing_certain() {
    let unit = "[Service]\nPassEnvironment=A\n\
                ExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml $A\n";
    let folder = node(unit);
    let found = only(folder.path());
    assert_eq!(check(&found, "anonymous-auth").verdict, Warn);
    assert_says(
        &found.unread[0],
        &[&format!("/{UNIT}:3"), "$A", "systemd's own environment"],
    );
    let folder = node(&unit.replace("PassEnvironment=A\n", ""));
    assert!(only(folder.path()).unread.is_empty());
    let generators = "usr/lib/systemd/system-environment-generators";
    write(
        &folder.path().join(generators).join("snapd-env-generator"),
        "sets PATH alone",
    );
    assert!(only(folder.path()).unread.is_empty());
    let generator = format!("{generators}/10-more");
    write(
        &folder.path().join(&generator),
        "#!/bin/sh\necho A=--anonymous-auth=true\n",
    );
    assert_says(
        &only(folder.path()).unread[0],
        &["system-environment-generators may set it"],
    );
    let everywhere = "etc/systemd/system.conf.d/10-more.conf";
    write(
        &folder.path().join(everywhere),
        "[Manager]\nDefaultEnvironment=A=--anonymous-auth=true\n",
    );
    let found = only(folder.path());
    assert_eq!(check(&found, "anonymous-auth").verdict, Fail);
    assert_eq!(
        check(&found, "anonymous-auth").file,
        Some(format!("/{everywhere}"))
    );
}

/// A `/proc` with a kubelet of `kubelet.service` that runs with these arguments.
fn runs(arguments: &[u8], unit: Option<&str>) -> tempfile::TempDir {
    let proc = proc(&[(7, arguments)]);
    let process = proc.path().join("7");
    write(&process.join("cgroup"), "0::/system.slice/kubelet.service\n");
    write(&process.join("root/var/lib/kubelet/config.yaml"), CONFIG);
    if let Some(unit) = unit {
        write(&process.join("root").join(UNIT), unit);
    }
    proc
}

fn running_in(proc: &Path) -> Invocation {
    running(proc).remove(0)
}

/// Seen red: with the process alone looked at, its next start opened the node without a word.
#[test]
fn a_unit_that_starts_another_kubelet_than_runs_is_a_finding_and_is_shown_too() {
    let now = time::OffsetDateTime::now_utc();
    let arguments = b"/usr/bin/kubelet\0--config=/var/lib/kubelet/config.yaml\0";
    let same = "[Service]\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml\n";
    let node = runs(arguments, Some(same));
    let found = judged(running_in(node.path()));
    assert_eq!(check(&found, "next-start").verdict, Pass);
    assert!(found.next_start(now).unwrap().is_none());

    let changed = runs(
        arguments,
        Some("[Service]\nExecStart=/usr/bin/kubelet --anonymous-auth=true\n"),
    );
    let found = judged(running_in(changed.path()));
    assert_eq!(check(&found, "anonymous-auth").verdict, Pass, "what runs");
    let finding = check(&found, "next-start");
    assert_eq!(finding.verdict, Warn);
    assert_eq!(finding.file, Some(format!("/{UNIT}")));
    assert_says(
        &finding.why,
        &[
            "only the process has --config=/var/lib/kubelet/config.yaml",
            "--anonymous-auth=true",
        ],
    );
    let next = found.next_start(now).unwrap().unwrap();
    assert_eq!(check(&next, "anonymous-auth").verdict, Fail, "what starts next");
    assert_eq!(
        next.invocation.source.to_string(),
        format!("/{UNIT}, the next start of process 7")
    );
}

#[test]
fn a_next_start_that_is_not_known_is_said_to_be_so() {
    let arguments = b"/usr/bin/kubelet\0--config=/var/lib/kubelet/config.yaml\0";
    for (unit, said) in [
        (None, "there is no such unit"),
        (
            Some("[Service]\nExecStart=/opt/start-kubelet\n"),
            "not known to start a kubelet",
        ),
        (
            Some("[Service\nExecStart=/usr/bin/kubelet\n"),
            "an invalid section header",
        ),
    ] {
        let node = runs(arguments, unit);
        let invocation = running_in(node.path());
        assert!(
            matches!(invocation.next, Some(NextInvocation::Unknown(_))),
            "{unit:?}"
        );
        let found = judged(invocation);
        let finding = check(&found, "next-start");
        assert_eq!(finding.verdict, Warn, "{unit:?}");
        assert_says(&finding.why, &[said]);
    }
    // By hand: there is no unit to compare with.
    let by_hand = proc(&[(7, arguments)]);
    write(&by_hand.path().join("7/root/var/lib/kubelet/config.yaml"), CONFIG);
    let found = judged(running_in(by_hand.path()));
    assert!(found.checks.iter().all(|check| check.id != "next-start"));
}
