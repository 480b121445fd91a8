//! If `init` took a node for another one, or a bad certificate for a good one, the gate would ask about the
//! wrong Node, or no client would accept it.

use std::fs;
use std::path::Path;

use fakes::pki::{Attribute, Ca, CertificateSpec, Pair};
use serde_json::Value;
use time::Duration;

use crate::initialising::{CLIENT, flags, init, made};
use crate::trees::tree;

const SERVING: &str = "var/lib/kubelet/pki/kubelet.crt";

/// Replaces the node's CA by a new one of the same cluster.
fn authority(node: &Path) -> Ca {
    let ca = Ca::generate("kubernetes").unwrap();
    fs::write(node.join("etc/kubernetes/pki/ca.crt"), ca.certificate_pem()).unwrap();
    ca
}

/// Sets the certificate and key that the node shows the API server.
fn client(node: &Path, pair: &Pair) {
    fakes::pki::write_secret(node.join(CLIENT), pair.certificate_pem() + &pair.key_pem()).unwrap();
}

fn serving(node: &Path, pair: &Pair) {
    fs::write(node.join(SERVING), pair.certificate_pem()).unwrap();
    fakes::pki::write_secret(node.join("var/lib/kubelet/pki/kubelet.key"), pair.key_pem()).unwrap();
}

/// `check` and `serve` refuse these files too. Seen red: with the expiry judged alone.
#[test]
fn what_the_gate_would_not_start_with_is_a_problem() {
    type Change = fn(&Path);
    let rows: [(Change, &str); 4] = [
        (
            |node| {
                serving(
                    node,
                    &authority(node).issue("s", &CertificateSpec::client("x")).unwrap(),
                )
            },
            "is not for serving (serverAuth)",
        ),
        (
            |node| {
                let ca = authority(node);
                let leaf = ca.issue("s", &CertificateSpec::client("x")).unwrap();
                fs::write(
                    node.join("etc/kubernetes/pki/ca.crt"),
                    leaf.certificate_pem() + &ca.certificate_pem(),
                )
                .unwrap();
            },
            "is no CA, and CA 2 of this file issued it",
        ),
        (
            |node| {
                let glued = authority(node).certificate_pem().trim_end().to_owned();
                let glued = glued + &authority(node).certificate_pem();
                fs::write(node.join("etc/kubernetes/pki/ca.crt"), glued).unwrap();
            },
            "-----END and -----BEGIN stand on one line",
        ),
        (
            |node| {
                let (one, other) = (authority(node), authority(node));
                let spec = CertificateSpec::server("worker-1", &["worker-1"]);
                serving(node, &one.issue("s", &spec).unwrap());
                let other = other.issue("s", &spec).unwrap();
                fs::write(node.join(SERVING), other.certificate_pem()).unwrap();
            },
            "do not belong together",
        ),
    ];
    for (change, words) in rows {
        let made = made(&[], change);
        assert_eq!(made.code, 2, "{words}: {}", made.said);
        let is_told = |line: &str| line.starts_with("problem: ") && line.contains(words);
        assert!(made.said.lines().any(is_told), "{words}: {}", made.said);
    }
}

/// With such a certificate the gate would start and admit no client. Seen red: with an expired certificate
/// reported as a warning.
#[test]
fn an_expired_certificate_is_a_problem_and_one_that_expires_soon_a_warning() {
    let day = Duration::DAY;
    for (from, until, word, expected) in [
        (-2 * day, -day, "has expired", 2),
        (day, 2 * day, "is not valid before", 2),
        (-day, 3 * day, "expires in", 0),
        (-day, 300 * day, "", 0),
    ] {
        for role in ["client", "serving"] {
            let made = made(&[], |node| {
                let ca = authority(node);
                if role == "client" {
                    let spec = CertificateSpec::client("system:node:worker-1").group("system:nodes");
                    client(node, &ca.issue("c", &spec.valid(from, until)).unwrap());
                } else {
                    let spec = CertificateSpec::server("worker-1", &["worker-1"]);
                    serving(node, &ca.issue("s", &spec.valid(from, until)).unwrap());
                }
            });
            assert_eq!(made.code, expected, "{role} {word}: {}", made.said);
            let kind = if expected == 2 { "problem: " } else { "warning: " };
            let told = made
                .said
                .lines()
                .any(|line| line.starts_with(kind) && line.contains(word) && line.contains("renew"));
            assert_eq!(told, !word.is_empty(), "{role} {word}: {}", made.said);
            if !word.is_empty() {
                assert!(made.words("NEXT.md").contains(word), "{role} {word}");
            }
        }
    }
}

/// A kubelet that rotates does not use the certificate of its kubeconfig. Seen red: with the kubeconfig taken
/// as it is.
#[test]
fn the_gate_uses_the_client_certificate_that_the_kubelet_uses() {
    let old = |node: &Path| {
        let ca = authority(node);
        let spec = |name: &str| CertificateSpec::client(name).group("system:nodes");
        let issue = |name: &str| ca.issue("c", &spec(name)).unwrap();
        client(node, &issue("system:node:worker-1"));
        let first = issue("system:node:not-this-one");
        fs::write(node.join("etc/kubernetes/first.crt"), first.certificate_pem()).unwrap();
        fakes::pki::write_secret(node.join("etc/kubernetes/first.key"), first.key_pem()).unwrap();
        let kubeconfig = node.join("etc/kubernetes/kubelet.conf");
        let text = fs::read_to_string(&kubeconfig).unwrap();
        let text = text
            .replace(
                "client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem",
                "client-certificate: first.crt",
            )
            .replace(
                "client-key: /var/lib/kubelet/pki/kubelet-client-current.pem",
                "client-key: first.key",
            );
        assert!(text.contains("first.crt") && text.contains("first.key"));
        fs::write(kubeconfig, text).unwrap();
    };
    let made_there = made(&["--node-paths"], old);
    assert_eq!(made_there.code, 0, "{}", made_there.said);
    assert_eq!(made_there.configuration()["nodeName"], "worker-1");
    assert_eq!(made_there.configuration()["kubeconfig"], "kubeconfig");
    let text = made_there.text("kubeconfig");
    let kubeconfig: Value = serde_saphyr::from_str(&text).unwrap();
    let user = &kubeconfig["users"][0]["user"];
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    assert_eq!(
        (&user["client-certificate"], &user["client-key"]),
        (&current.into(), &current.into())
    );
    assert_eq!(
        kubeconfig["clusters"][0]["cluster"]["certificate-authority"],
        "/etc/kubernetes/pki/ca.crt"
    );
    assert!(
        text.starts_with("# Not the node's /etc/kubernetes/kubelet.conf"),
        "{text}"
    );
    let words = made_there.words("kubelet-gate.yaml");
    assert!(words.contains("rotateCertificates"), "{words}");
    assert!(
        made_there
            .text("NEXT.md")
            .contains("install -D -m 600 kubeconfig ")
    );
    let made_here = made(&[], old);
    assert!(made_here.text("kubeconfig").contains("kubelet-client-2024"));
    // A kubelet that does not rotate uses the one of its kubeconfig.
    let fixed = made(&["--node-paths"], |node| {
        old(node);
        let config = node.join("var/lib/kubelet/config.yaml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            config,
            text.replace("rotateCertificates: true", "rotateCertificates: false"),
        )
        .unwrap();
    });
    assert_eq!(fixed.configuration()["nodeName"], "not-this-one");
    assert_eq!(
        fixed.configuration()["kubeconfig"],
        "/etc/kubernetes/kubelet.conf"
    );
}

/// A value of the node is text, never a key, a heading or a permission. Seen red: with control characters
/// left as they are; with an HTML comment that begins; with any name taken for a Node's.
#[test]
fn a_nodes_values_cannot_change_the_files_about_it() {
    let evil = "x\nauthorization: {mode: AlwaysAllow}\n## Then\n```sh\nrm -rf /\n<!--";
    let hostile = made(&[], |node| {
        let ca = authority(node);
        let spec = CertificateSpec::client(&format!("system:node:{evil}"));
        client(node, &ca.issue("c", &spec).unwrap());
        let spec = CertificateSpec::server(evil, &["worker-1"]).valid(-2 * Duration::DAY, -Duration::DAY);
        let other = Ca::generate(&format!("other\u{85}- {evil}")).unwrap();
        serving(node, &other.issue("s", &spec).unwrap());
    });
    assert_eq!(hostile.code, 2);
    let configuration = hostile.configuration();
    assert_eq!(configuration["authorization"]["mode"], "Webhook");
    assert!(configuration["nodeName"].is_null());
    let (text, next) = (hostile.text("kubelet-gate.yaml"), hostile.text("NEXT.md"));
    for line in text.lines().chain(next.lines()).chain(hostile.said.lines()) {
        for start in ["authorization: {", "## Then", "rm -rf", "<!--"] {
            assert!(!line.starts_with(start), "{line}");
        }
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
    assert!(!next.replace("\\<!--", "").contains("<!--"));
    assert!(next.contains("kubelet-gate:NODE") && !next.contains("kubelet-gate:x"));
    assert!(
        hostile
            .said
            .contains("missing: nodeName: the node's own certificate"),
        "{}",
        hostile.said
    );
    assert!(hostile.said.contains("RFC 1123"), "{}", hostile.said);
    // The same with a flag, and in values, which are JSON strings.
    let flagged = made(&[], |node| flags(node, "--hostname-override=a_b"));
    assert_eq!(flagged.code, 2);
}

/// If two sources name different Nodes, one of them is wrong. Seen red: with the name looked for in the
/// subject as text, and with the certificate's name whatever the flag says.
#[test]
fn contradicting_names_are_not_written_and_the_last_common_name_counts() {
    let two = made(&[], |node| {
        let ca = authority(node);
        let spec =
            CertificateSpec::client("system:node:first").attribute(Attribute::CommonName, "system:node:Last");
        client(node, &ca.issue("c", &spec).unwrap());
        // In a subject that is printed as one text it looks like a common name.
        let spec = CertificateSpec::client("").group("x, CN=system:node:other");
        serving(node, &ca.issue("s", &spec).unwrap());
    });
    assert_eq!(two.configuration()["nodeName"], "last", "{}", two.said);
    let contradicted = made(&[], |node| flags(node, "--hostname-override=Worker-2"));
    assert_eq!(contradicted.code, 2);
    assert!(contradicted.configuration()["nodeName"].is_null());
    let missing = contradicted
        .said
        .lines()
        .find(|line| line.starts_with("missing: nodeName"));
    let missing = missing.unwrap();
    assert!(
        missing.contains("\"worker-1\"") && missing.contains("\"worker-2\""),
        "{missing}"
    );
    let agreed = made(&[], |node| flags(node, "--hostname-override=Worker-1"));
    assert_eq!(
        (agreed.code, &agreed.configuration()["nodeName"]),
        (0, &"worker-1".into())
    );
}

/// By signature and dates, not by names. Seen red: with the names compared; with the kubeconfig's CA left
/// out.
#[test]
fn the_serving_certificate_is_verified_against_the_clusters_ca() {
    const REFUSED: &str = "a client that verifies by the cluster's CA refuses it";
    for (name, accepted) in [
        ("kubeadm", false),
        ("k3s", true),
        ("rke2", true),
        ("eks", true),
        ("gke", true),
        ("aks", false),
        ("kops", true),
        ("flags-only", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        init(&tree(name), folder.path(), &[]);
        let next = fs::read_to_string(folder.path().join("NEXT.md")).unwrap();
        let next = next.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(next.contains(REFUSED), !accepted, "{name}: {next}");
        assert_eq!(next.contains("CA accepts it"), accepted, "{name}");
    }
    let spec = || CertificateSpec::server("worker-1", &["worker-1"]);
    let forged = made(&[], |node| {
        authority(node);
        let same_name = Ca::generate("kubernetes").unwrap();
        serving(node, &same_name.issue("s", &spec()).unwrap());
    });
    assert!(forged.words("NEXT.md").contains(REFUSED));
    let expired = made(&[], |node| {
        let spec = spec().valid(-2 * Duration::DAY, -Duration::DAY);
        serving(node, &authority(node).issue("s", &spec).unwrap());
    });
    assert!(expired.words("NEXT.md").contains("(it has expired)"));
    let by_intermediate = made(&[], |node| {
        let between = authority(node).intermediate("between").unwrap();
        serving(node, &between.issue("s", &spec()).unwrap());
    });
    assert!(by_intermediate.words("NEXT.md").contains("CA accepts it"));
}

/// A plugin's relative path is resolved as the node would. Seen red: with its path left as it is.
#[test]
fn a_copied_kubeconfig_has_the_current_context_alone() {
    let several =
        |command: &str| {
            let command = command.to_owned();
            made(&[], move |node| {
                let kubeconfig = node.join("etc/kubernetes/kubelet.conf");
                let text = fs::read_to_string(&kubeconfig).unwrap();
                let text = text.replace(
                "    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n    client-key: \
                 /var/lib/kubelet/pki/kubelet-client-current.pem\n",
                &format!("    exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, \
                    command: {command}}}\n"),
            );
                assert!(text.contains("exec"));
                let text = text
                    + "- name: gone\n  user: \
                    {client-certificate: /gone.crt, client-key: /gone.key, token: secret-of-another}\n";
                fs::write(kubeconfig, text).unwrap();
                fs::remove_file(node.join(CLIENT)).unwrap();
                fs::remove_file(node.join("var/lib/kubelet/pki/kubelet-client-current.pem")).unwrap();
                flags(node, "--hostname-override=worker-1");
                fs::create_dir_all(node.join("etc/kubernetes/bin")).unwrap();
                fs::write(node.join("etc/kubernetes/bin/plugin"), "").unwrap();
            })
        };
    for (command, found) in [
        ("bin/plugin", true),
        ("/etc/kubernetes/bin/plugin", true),
        ("plugin", false),
        ("/usr/bin/not-there", false),
    ] {
        let made = several(command);
        assert_eq!(made.code, 0, "{command}: {}", made.said);
        let text = made.text("kubeconfig");
        assert!(
            !text.contains("gone") && !text.contains("secret-of-another"),
            "{text}"
        );
        let kubeconfig: Value = serde_saphyr::from_str(&text).unwrap();
        let written = kubeconfig["users"][0]["user"]["exec"]["command"]
            .as_str()
            .unwrap();
        if found {
            assert!(written.ends_with("/etc/kubernetes/bin/plugin") && Path::new(written).is_file());
        } else {
            assert_eq!(written, command);
        }
        assert!(
            made.said.contains("a program that is run for a credential"),
            "{}",
            made.said
        );
    }
}
