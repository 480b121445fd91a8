//! A file that cannot do its work is noticed by `check` and at the start. If it were noticed by the first
//! client instead, the node would be dark, or a revoked client would be let in, and nothing would say why.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use fakes::pki::{Ca, CertificateSpec, KubeconfigUser, Pair, Usage, write_secret};
use serde_json::json;
use time::Duration as Span;

use crate::program::{Installation, assert_says, code, stderr, stdout};
use crate::skipped::skip;
use crate::trust_changes::revocation_list;
use crate::world::PKI;

/// A way to break the files of a folder, and what is said of it.
type Case = (&'static str, fn(&Path), &'static [&'static str]);

/// Makes the gate's serving pair one of `spec`.
fn serve_with(folder: &Path, spec: &CertificateSpec) {
    PKI.ca.issue("gate-serving", spec).unwrap().write(folder).unwrap();
}

pub(crate) fn server() -> CertificateSpec {
    CertificateSpec::server("gate", &["127.0.0.1"])
}

pub(crate) fn client_pair_in_place(folder: &Path) {
    serve_with(folder, &CertificateSpec::client("bob"));
}

pub(crate) fn expired_pair(folder: &Path) {
    serve_with(folder, &server().valid(-Span::DAY * 2, -Span::DAY));
}

pub(crate) fn pair_not_yet_valid(folder: &Path) {
    serve_with(folder, &server().valid(Span::DAY, Span::DAY * 2));
}

pub(crate) fn leaf_as_ca(folder: &Path) {
    fs::write(folder.join("ca.crt"), PKI.bob.certificate_pem()).unwrap();
}

/// A chain in place of the bundle.
pub(crate) fn leaf_beside_its_ca(folder: &Path) {
    fs::write(
        folder.join("ca.crt"),
        PKI.bob.certificate_pem() + &PKI.ca.certificate_pem(),
    )
    .unwrap();
}

pub(crate) fn expired_ca(folder: &Path) {
    let ca = Ca::generate_valid("kubernetes", -Span::DAY * 2, -Span::DAY).unwrap();
    fs::write(folder.join("ca.crt"), ca.certificate_pem()).unwrap();
}

/// No line feed between the first CA and the second.
pub(crate) fn glued_cas(folder: &Path) {
    let glued = PKI.ca.certificate_pem().trim_end().to_owned() + &PKI.rotated_ca.certificate_pem();
    fs::write(folder.join("ca.crt"), glued).unwrap();
}

pub(crate) fn ca_after_byte_order_mark(folder: &Path) {
    let text = PKI.rotated_ca.certificate_pem() + "\u{feff}" + &PKI.ca.certificate_pem();
    fs::write(folder.join("ca.crt"), text).unwrap();
}

pub(crate) fn indented_chain(folder: &Path) {
    let chain = PKI.gate_serving.certificate_pem() + " " + &PKI.ca.certificate_pem();
    fs::write(folder.join("gate-serving.crt"), chain).unwrap();
}

pub(crate) fn glued_key(folder: &Path) {
    let text = PKI.gate_serving.certificate_pem().trim_end().to_owned() + &PKI.gate_serving.key_pem();
    write_secret(folder.join("gate-serving.key"), text).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn readable_key(folder: &Path) {
    chmod(&folder.join("gate-serving.key"), 0o644);
}

pub(crate) fn writable_ca(folder: &Path) {
    chmod(&folder.join("ca.crt"), 0o646);
}

/// What is wrong with the serving pair and the client CAs. The line of a glued block is the line of the file.
pub(crate) const CASES: [Case; 12] = [
    (
        "an expired pair",
        expired_pair,
        &["gate-serving.crt", "has expired, at ", "renew"],
    ),
    (
        "a pair of tomorrow",
        pair_not_yet_valid,
        &["gate-serving.crt", "is not valid before ", "clock"],
    ),
    (
        "a client's pair",
        client_pair_in_place,
        &["gate-serving.crt", "is not for serving (serverAuth)"],
    ),
    (
        "a leaf as CA",
        leaf_as_ca,
        &["ca.crt", "it has no CA", "is no CA, for CA:TRUE"],
    ),
    (
        "a leaf beside its CA",
        leaf_beside_its_ca,
        &["ca.crt", "is no CA, and CA 2 of this file issued it"],
    ),
    (
        "an expired CA",
        expired_ca,
        &["ca.crt", "it has no CA", "has expired"],
    ),
    (
        "glued CAs",
        glued_cas,
        &["-----END and -----BEGIN stand on one line", "lines of their own"],
    ),
    (
        "a CA after a byte order mark",
        ca_after_byte_order_mark,
        &["a byte order mark stands before"],
    ),
    (
        "an indented chain",
        indented_chain,
        &["gate-serving.crt:", "is indented"],
    ),
    (
        "a glued key",
        glued_key,
        &["gate-serving.key:", "stand on one line"],
    ),
    (
        "a readable key",
        readable_key,
        &["gate-serving.key", "may read it (mode 0644)", "chmod 0600"],
    ),
    (
        "a CA file that every user may change",
        writable_ca,
        &["ca.crt", "may change it (mode 0646)"],
    ),
];

/// Seen red: with the judgements of `Serving::build` left out, and with an expired CA
/// refused by its date alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_serve_is_refused_by_check_and_at_the_start() {
    for (what, break_it, words) in CASES {
        let installation = Installation::new();
        break_it(installation.directory.path());
        let checked = installation.check(&["--offline"]);
        assert_eq!(code(&checked), 64, "{what}: {}", stderr(&checked));
        assert_says(&stderr(&checked), words);
        assert_says(
            &stderr(&checked),
            &[&format!("error: {}:1: ", installation.config())],
        );
        let served = installation.serve().await;
        assert_eq!(code(&served), 64, "{what}: {}", stderr(&served));
        assert_says(&stderr(&served), words);
    }
}

/// The line is the one of the file: a bundle has hundreds. Seen red: with malformed boundaries skipped.
#[test]
fn a_block_that_is_not_read_is_named_with_its_line() {
    let installation = Installation::new();
    glued_cas(installation.directory.path());
    let line = PKI.ca.certificate_pem().lines().count();
    let said = stderr(&installation.check(&["--offline"]));
    assert_says(&said, &[&format!("{}:{line}: ", installation.path("ca.crt"))]);
}

/// Seen red: with the files read without a guard, and with every kubeconfig held to be a secret.
#[test]
fn the_credentials_of_kubelet_and_api_server_are_judged_as_well() {
    type Change = fn(&Installation);
    let rows: [(&str, Change, i32, &[&str]); 7] = [
        (
            "a readable token",
            |node| {
                fs::write(node.path("token"), "secret").unwrap();
                chmod(Path::new(&node.path("token")), 0o604);
            },
            64,
            &["upstream.tokenFile", "may read it (mode 0604)"],
        ),
        (
            "an expired certificate for the kubelet",
            |node| {
                let spec = CertificateSpec::client("x").valid(-Span::DAY * 2, -Span::DAY);
                PKI.client("upstream", &spec)
                    .unwrap()
                    .write(node.directory.path())
                    .unwrap();
            },
            64,
            &["upstream.clientCertificateFile", "has expired"],
        ),
        (
            "a pin that every user may change",
            |node| chmod(Path::new(&node.path("kubelet-serving.crt")), 0o602),
            64,
            &["upstream.certificateFile", "may change it"],
        ),
        (
            "a glued CA of the API server",
            |node| {
                let glued =
                    PKI.ca.certificate_pem().trim_end().to_owned() + &PKI.rotated_ca.certificate_pem();
                fs::write(node.path("api.crt"), glued).unwrap();
                kubeconfig(
                    node,
                    "api.crt",
                    &json!({"client-certificate": "gate.crt", "client-key": "gate.key"}),
                );
            },
            64,
            &["kubeconfig", "api.crt:", "stand on one line"],
        ),
        (
            "a readable key for the API server",
            |node| chmod(Path::new(&node.path("gate.key")), 0o644),
            64,
            &["kubeconfig", "gate.key", "may read it"],
        ),
        (
            "a readable kubeconfig with a token",
            |node| {
                kubeconfig(node, "ca.crt", &json!({"token": "secret"}));
                chmod(Path::new(&node.path("kubeconfig")), 0o644);
            },
            64,
            &["kubeconfig", "may read it (mode 0644)"],
        ),
        // Many distributions have such a one; it says nothing that every user may not know.
        (
            "a readable kubeconfig that names files",
            |node| chmod(Path::new(&node.path("kubeconfig")), 0o644),
            0,
            &[],
        ),
    ];
    for (what, change, expected, words) in rows {
        let node = Installation::new();
        PKI.client("upstream", &CertificateSpec::client("x"))
            .unwrap()
            .write(node.directory.path())
            .unwrap();
        write_secret(node.path("token"), "secret").unwrap();
        node.configure(|configuration| {
            let upstream = &mut configuration["upstream"];
            upstream["tokenFile"] = json!("token");
            upstream["clientCertificateFile"] = json!("upstream.crt");
            upstream["clientKeyFile"] = json!("upstream.key");
        });
        assert_eq!(code(&node.check(&["--offline"])), 0, "{what}");
        change(&node);
        let checked = node.check(&["--offline"]);
        assert_eq!(code(&checked), expected, "{what}: {}", stderr(&checked));
        assert_says(&stderr(&checked), words);
        assert!(!stderr(&checked).contains("secret\""), "{}", stderr(&checked));
    }
}

fn kubeconfig(node: &Installation, authority: &str, user: &serde_json::Value) {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "c",
            "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": authority},
        }],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    write_secret(node.path("kubeconfig"), kubeconfig.to_string()).unwrap();
    node.configure(|configuration| configuration["nodeName"] = json!("worker-1"));
}

/// A revoked client would be let in. Seen red: with malformed boundaries, ends without a beginning and base64
/// outside a block skipped, as most readers skip them.
#[test]
fn a_list_that_is_not_read_to_its_end_is_refused() {
    let installation = Installation::new();
    let ca = Ca::generate("kubernetes").unwrap();
    let ours = PKI.ca.certificate_pem() + &ca.certificate_pem();
    fs::write(installation.path("ca.crt"), ours).unwrap();
    installation.configure(|configuration| {
        configuration["authentication"]["x509"]["crlFiles"] = json!(["lists.pem"]);
    });
    let lists = [&PKI.ca, &ca].map(|ca| revocation_list(ca, &[], Span::DAY));
    for (between, expected) in [("\n", 0), ("", 64), ("\n ", 64), ("\n\u{feff}", 64)] {
        let text = lists[0].trim_end().to_owned() + between + &lists[1];
        fs::write(installation.path("lists.pem"), text).unwrap();
        let checked = installation.check(&["--offline"]);
        assert_eq!(code(&checked), expected, "{between:?}: {}", stderr(&checked));
        if expected == 64 {
            assert_says(&stderr(&checked), &["authentication.x509.crlFiles", "lists.pem:"]);
        }
    }
}

/// Time takes one CA of a bundle after the other. Seen red: with each of them an error.
#[test]
fn a_ca_that_has_expired_beside_a_good_one_is_a_warning() {
    let installation = Installation::new();
    let old = Ca::generate_valid("old", -Span::DAY * 2, -Span::DAY).unwrap();
    let soon = Ca::generate_valid("soon", -Span::DAY, Span::DAY).unwrap();
    let bundle = old.certificate_pem() + &soon.certificate_pem() + &PKI.ca.certificate_pem();
    fs::write(installation.path("ca.crt"), bundle).unwrap();
    let checked = installation.check(&["--offline"]);
    assert_eq!(
        (code(&checked), stdout(&checked).as_str()),
        (0, "ok, 2 warnings\n")
    );
    let said = stderr(&checked);
    assert_says(
        &said,
        &[
            "certificate 1 (CN=old) has expired",
            "certificate 2 (CN=soon) expires in 0 days",
        ],
    );
}

/// Clients that verify refuse such a certificate, and the others do not care. Seen red: with no names
/// compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_name_the_node_is_a_warning() {
    let installation = Installation::new();
    installation.configure(|configuration| configuration["listen"] = json!(["192.0.2.7:8443"]));
    let checked = installation.check(&["--offline"]);
    assert_eq!(
        (code(&checked), stdout(&checked).as_str()),
        (0, "ok, 1 warning\n")
    );
    assert_says(
        &stderr(&checked),
        &["does not name 192.0.2.7, where the gate listens"],
    );
    serve_with(
        installation.directory.path(),
        &CertificateSpec::server("gate", &["192.0.2.7"]),
    );
    assert_eq!(stdout(&installation.check(&["--offline"])), "ok\n");

    let api = fakes::apiserver::FakeApiServer::start(&PKI).await.unwrap();
    PKI.write(installation.directory.path()).unwrap();
    let kubeconfig = api.kubeconfig(&PKI, KubeconfigUser::Certificate(&PKI.gate));
    write_secret(installation.path("kubeconfig"), kubeconfig).unwrap();
    installation.configure(|_| {});
    api.set_node("worker-1", fakes::kubelet::node_info());
    let none = "names none of the Node's addresses (192.0.2.8)";
    for (addresses, expected) in [
        (&["192.0.2.8"][..], true),
        (&["192.0.2.8", "127.0.0.1"], false),
        (&[], false),
    ] {
        api.set_node_addresses(addresses);
        let checked = installation.check(&[]);
        assert_eq!(code(&checked), 0, "{}", stderr(&checked));
        assert_eq!(stderr(&checked).contains(none), expected, "{}", stderr(&checked));
    }
}

/// Each request would be answered 502. Seen red: with the running kubelet not asked, and with the gate in its
/// place not recognized.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_the_running_kubelet_does_not_match_is_refused() {
    let kubelet = async |pair: &Pair| {
        FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        })
        .await
        .unwrap()
    };
    let installation = Installation::new();
    PKI.write(installation.directory.path()).unwrap();
    let right = kubelet(&PKI.kubelet_serving).await;
    let wrong = kubelet(&PKI.apiserver_serving).await;
    // As on a sealed node, where this program's connection is brought to the gate.
    let gate = kubelet(&PKI.gate_serving).await;
    let rows = [
        (right.address().to_string(), 0, ""),
        (wrong.address().to_string(), 64, "error: "),
        (
            gate.address().to_string(),
            0,
            "the gate itself answers at its address",
        ),
        (
            "127.0.0.1:1".to_owned(),
            0,
            "upstream.certificateFile: not compared with the running kubelet",
        ),
    ];
    for (address, expected, words) in rows {
        installation.configure(|configuration| {
            configuration["upstream"]["url"] = json!(format!("https://{address}"));
        });
        for offline in [&[][..], &["--offline"]] {
            let checked = installation.check(offline);
            let said = stderr(&checked);
            assert_eq!(code(&checked), expected, "{address}: {said}");
            if offline.is_empty() {
                assert_says(&said, &[words]);
            }
            if expected == 64 {
                let place = format!("{}:1: upstream.certificateFile: {address}", installation.config());
                assert_says(
                    &said,
                    &[&place, "shows another key than upstream.certificateFile"],
                );
            }
        }
    }
}

/// Go's TLS, and the gate's, sign with no shorter keys. Seen red: with the message of the library.
#[test]
fn a_short_key_is_refused_with_its_length() {
    let installation = Installation::new();
    let (key, certificate) = (
        installation.path("gate-serving.key"),
        installation.path("gate-serving.crt"),
    );
    for (kind, bits, said) in [
        (
            "genrsa",
            "1024",
            "an RSA key of 1024 bits: 2048 or more are needed",
        ),
        ("genrsa", "2048", ""),
    ] {
        for traditional in [&["-traditional"][..], &[]] {
            fs::remove_file(&key).unwrap();
            let made = Command::new("openssl")
                .arg(kind)
                .args(traditional)
                .args(["-out", &key, bits])
                .output();
            if !made.is_ok_and(|output| output.status.success()) {
                return skip("openssl 3 is missing");
            }
            let issued = Command::new("openssl")
                .args([
                    "req", "-x509", "-new", "-subj", "/CN=gate", "-days", "90", "-key", &key,
                ])
                .args(["-out", &certificate])
                .output();
            assert!(issued.unwrap().status.success());
            let checked = installation.check(&["--offline"]);
            let expected = if said.is_empty() { 0 } else { 64 };
            assert_eq!(code(&checked), expected, "{bits}: {}", stderr(&checked));
            assert_says(&stderr(&checked), &[said]);
        }
    }
}

/// An extended key usage may be absent, or any: so Go's clients take it. Seen red: with `any` not taken.
#[test]
fn a_certificate_for_any_use_may_serve() {
    let installation = Installation::new();
    for usages in [&[][..], &[Usage::Any], &[Usage::ClientAuth, Usage::ServerAuth]] {
        serve_with(installation.directory.path(), &server().usages(usages));
        let checked = installation.check(&["--offline"]);
        assert_eq!(code(&checked), 0, "{usages:?}: {}", stderr(&checked));
    }
}
