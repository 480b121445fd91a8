//! If `inspect` takes a kubelet's files for other documents than Go's decoders do, or passes a check whose
//! file is not there, an operator relies on a kubelet that is open, or that does not start.

use std::fs;
use std::path::Path;

use kubelet_gate::adopt::inspect::{Inspection, Verdict};

use crate::initialising::init;
use crate::inspecting::{check, inspect, inspect_tree, only};
use crate::program::{assert_says, code, json_of, stderr, stdout};
use crate::trees::{copied, files, tree, write};

const UNIT: &str = "etc/systemd/system/kubelet.service";
const CONFIG: &str = "var/lib/kubelet/config.yaml";
const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
const CLOSED: &str = "authentication: \
                      {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\nauthorization: {mode: Webhook}\n";

/// A node of kubeadm with this text as its kubelet's configuration.
fn kubeadm(config: &str) -> tempfile::TempDir {
    let node = copied("kubeadm");
    write(&node.path().join(CONFIG), config);
    node
}

fn verdicts(found: &Inspection) -> [Verdict; 3] {
    ["anonymous-auth", "authorization-mode", "client-ca-file"].map(|id| check(found, id).verdict)
}

/// Seen red: with the last of two objects alone, and with YAML tried first.
#[test]
fn an_open_door_in_the_first_of_two_objects_is_seen() {
    let node = kubeadm(
        "{\"kind\": \"KubeletConfiguration\", \"apiVersion\": \"kubelet.config.k8s.io/v1beta1\",\n\
         \"authentication\": {\"anonymous\": {\"enabled\": true}},\n\
         \"authentication\": {\"x509\": {\"clientCAFile\": \"/etc/kubernetes/pki/ca.crt\"}}}\n",
    );
    let output = inspect_tree(node.path(), &[]);
    assert_eq!(code(&output), 2);
    let said = stdout(&output);
    let line = said.lines().find(|line| line.starts_with("4.2.1 ")).unwrap();
    assert_says(line, &["FAIL", "authentication.anonymous.enabled=true"]);
    assert_says(&said, &["the key authentication is there twice"]);
    let found = only(node.path());
    assert_eq!(verdicts(&found), [Verdict::Fail, Verdict::Pass, Verdict::Pass]);
}

/// Seen red: with the missing kind and version only noted, each check passed and the exit code was 0.
#[test]
fn no_check_passes_for_a_kubelet_that_does_not_start() {
    for (config, drop_in, why) in [
        (
            CLOSED.to_owned(),
            None,
            "without kind: KubeletConfiguration a kubelet does not start",
        ),
        (
            format!("kind: KubeletConfiguration\n{CLOSED}"),
            None,
            "without apiVersion: kubelet.config.k8s.io/v1beta1 a kubelet does not start; it has none",
        ),
        (
            format!("apiVersion: v1\nkind: KubeletConfiguration\n{CLOSED}"),
            None,
            "does not start; it has \"v1\"",
        ),
        (
            format!("{HEAD}{CLOSED}"),
            Some("kind: KubeletConfiguration\nmaxPods: 5\n"),
            "/etc/kubelet.d/50.conf: without apiVersion:",
        ),
        (
            format!("{HEAD}{CLOSED}"),
            Some("apiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 5\n"),
            "/etc/kubelet.d/50.conf: without kind:",
        ),
    ] {
        let node = kubeadm(&config);
        if let Some(drop_in) = drop_in {
            write(&node.path().join("etc/kubelet.d/50.conf"), drop_in);
            write(
                &node.path().join("etc/default/kubelet"),
                "KUBELET_EXTRA_ARGS=--config-dir=/etc/kubelet.d\n",
            );
        }
        let output = inspect_tree(node.path(), &[]);
        assert_eq!(code(&output), 1, "{}", stdout(&output));
        assert_says(&stdout(&output), &[why]);
        let found = only(node.path());
        assert_eq!(verdicts(&found), [Verdict::Warn; 3], "{config}");
        assert_says(
            &check(&found, "read-only-port").why,
            &["not certain: a kubelet does not start"],
        );
        // init says so too.
        let out = tempfile::tempdir().unwrap();
        let made = init(node.path(), &out.path().join("out"), &[]);
        assert_says(
            &format!("{}{}", stdout(&made), stderr(&made)),
            &["does not start"],
        );
    }
    let node = kubeadm(&format!("{HEAD}{CLOSED}"));
    assert_eq!(verdicts(&only(node.path())), [Verdict::Pass; 3]);
}

/// Seen red: with the text `"false"` read as a boolean.
#[test]
fn a_value_of_the_wrong_type_is_an_error_and_no_pass() {
    for wrong in [
        "authentication: {anonymous: {enabled: \"false\"}}\n",
        "maxPods: \"110\"\n",
        "authorization: Webhook\n",
    ] {
        let node = kubeadm(&format!("{HEAD}{wrong}"));
        let output = inspect_tree(node.path(), &[]);
        assert_eq!(code(&output), 1, "{wrong}");
        assert_says(&stderr(&output), &["/var/lib/kubelet/config.yaml: "]);
        assert!(!stdout(&output).contains("PASS"), "{wrong}");
    }
}

/// Seen red: with keys that a kubelet ignores ignored in silence.
#[test]
fn a_key_beside_its_section_is_named() {
    let node = kubeadm(&format!(
        "{HEAD}authorization:\nmode: Webhook\nauthentication:\n  anonymous:\n  enabled: true\n"
    ));
    let said = json_of(&inspect_tree(node.path(), &["-o", "json"]));
    let notes: Vec<&str> = said["kubelets"][0]["notes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    let all = notes.join("\n");
    assert_says(
        &all,
        &["config.yaml:4: the key \"mode\" is ignored", "authorization.mode"],
    );
    assert_says(
        &all,
        &[
            "config.yaml:7: the key \"authentication.enabled\" is ignored",
            "authentication.anonymous.enabled",
        ],
    );
}

/// Units that give `--address=${NODE_IP}` where no file sets the variable. Seen red: with the empty flag for
/// an address, `init` had no url.
#[test]
fn an_empty_address_is_as_if_it_were_not_given() {
    const EXEC: &str = "[Service]\nEnvironmentFile=-/etc/node.env\nExecStart=/usr/bin/kubelet \
                        --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml \
                        --address=${NODE_IP} --healthz-bind-address=\n";
    for (address, binds, url) in [
        ("", "0.0.0.0:10250", "https://127.0.0.1:10250"),
        (
            "address: 192.0.2.7\n",
            "192.0.2.7:10250",
            "https://192.0.2.7:10250",
        ),
    ] {
        let node = kubeadm(&format!("{HEAD}{CLOSED}{address}"));
        write(&node.path().join(UNIT), EXEC);
        fs::remove_dir_all(node.path().join("usr/lib/systemd/system/kubelet.service.d")).unwrap();
        let said = stdout(&inspect_tree(node.path(), &[]));
        assert_says(&said, &[&format!("binds     {binds}")]);
        let line = said
            .lines()
            .find(|line| line.contains("health port should be"))
            .unwrap();
        assert_says(line, &["PASS", "127.0.0.1 (default)"]);
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        init(node.path(), &out, &[]);
        let gate = fs::read_to_string(out.join("kubelet-gate.yaml")).unwrap();
        assert_says(&gate, &[&format!("url: \"{url}\"")]);
    }
}

/// A kubelet from before Kubernetes 1.6. Seen red: the folder was an error, and nothing
/// was told about the node.
#[test]
fn a_config_that_names_static_pods_leaves_an_old_kubelets_defaults() {
    let unit = "[Service]\nExecStart=/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf \
                --config=/etc/kubernetes/manifests --cluster-dns=10.254.0.10\n";
    let with_folder = files(&[
        (UNIT, unit),
        ("etc/kubernetes/manifests/etcd.yaml", "kind: Pod\n"),
    ]);
    let with_file = files(&[
        (UNIT, unit),
        ("etc/kubernetes/manifests", "apiVersion: v1\nkind: Pod\n"),
    ]);
    // A copy lacks the folder, and a flag says how old the kubelet is.
    let old = unit.replace("--cluster-dns", "--api-servers=https://192.0.2.1 --cluster-dns");
    let with_nothing = files(&[(UNIT, &old)]);
    for node in [with_folder, with_file, with_nothing] {
        let output = inspect_tree(node.path(), &[]);
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        let said = stdout(&output);
        assert_says(&said, &["before Kubernetes 1.6", "--pod-manifest-path"]);
        let found = only(node.path());
        assert_eq!(verdicts(&found), [Verdict::Fail; 3]);
        assert_eq!(check(&found, "read-only-port").verdict, Verdict::Fail);
    }
}

/// The verdict on the clients' CA of a node whose bundle `change` has changed.
fn with_bundle(change: impl FnOnce(&Path)) -> (Verdict, String) {
    let node = copied("kubeadm");
    change(&node.path().join("etc/kubernetes/pki/ca.crt"));
    let found = only(node.path());
    let check = check(&found, "client-ca-file");
    (check.verdict, check.why.clone())
}

/// Seen red: with the option's text alone judged, each passed.
#[test]
fn no_check_passes_whose_file_cannot_be_used() {
    let passes = with_bundle(|_| {});
    assert_eq!(passes, (Verdict::Pass, String::new()));
    let missing = with_bundle(|bundle| fs::remove_file(bundle).unwrap());
    assert_eq!(missing.0, Verdict::Warn);
    assert_says(
        &missing.1,
        &["/etc/kubernetes/pki/ca.crt is not among these files"],
    );
    let folder = with_bundle(|bundle| {
        fs::remove_file(bundle).unwrap();
        fs::create_dir(bundle).unwrap();
    });
    assert_eq!(folder.0, Verdict::Fail);
    assert_says(&folder.1, &["it is a folder", "does not start"]);
    let dead_link = with_bundle(|bundle| {
        fs::remove_file(bundle).unwrap();
        std::os::unix::fs::symlink("/nowhere", bundle).unwrap();
    });
    assert_eq!(dead_link.0, Verdict::Warn);
    const NOT_DER: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "no certificate\n", NOT_DER, "-----BEGIN CERTIFICATE-----\n"] {
        let (verdict, why) = with_bundle(|bundle| fs::write(bundle, text).unwrap());
        assert_eq!(verdict, Verdict::Fail, "{text:?}");
        assert_says(
            &why,
            &["/etc/kubernetes/pki/ca.crt", "a kubelet does not start with it"],
        );
    }
    let key = with_bundle(|bundle| {
        fs::copy(tree("kubeadm").join("var/lib/kubelet/pki/kubelet.key"), bundle).unwrap();
    });
    assert_eq!(key.0, Verdict::Fail);
    // On this machine a file that is not there is missing.
    let found = inspect(&["--kubelet-arg=--client-ca-file=/nowhere/ca.crt", "-o", "json"]);
    let found = json_of(&found);
    let checks = found["kubelets"][0]["checks"].as_array().unwrap();
    let bundle = checks
        .iter()
        .find(|check| check["id"] == "client-ca-file")
        .unwrap();
    assert_eq!(bundle["verdict"], "FAIL", "{bundle}");
    assert_says(
        bundle["why"].as_str().unwrap(),
        &["/nowhere/ca.crt", "No such file"],
    );
}

/// What the certificate of the kubelet's kubeconfig is for, and the notes.
fn presented(kubeconfig: &str) -> (Option<String>, Inspection) {
    let node = copied("kubeadm");
    // Otherwise the rotated certificate is the one that is presented.
    let config = fs::read_to_string(node.path().join(CONFIG)).unwrap();
    write(
        &node.path().join(CONFIG),
        config.replace("rotateCertificates: true", "rotateCertificates: false"),
    );
    write(&node.path().join("etc/kubernetes/kubelet.conf"), kubeconfig);
    fs::copy(
        node.path()
            .join("var/lib/kubelet/pki/kubelet-client-2024-01-01-00-00-00.pem"),
        node.path().join("etc/kubernetes/client.pem"),
    )
    .unwrap();
    let found = only(node.path());
    let client = found
        .certificates
        .iter()
        .find(|one| one.subject.contains("system:node:"));
    (client.map(|client| client.file.clone()), found)
}

/// Seen red: with more than one document, with a key that is there twice, and with JSON that has a tab.
#[test]
fn a_kubeconfig_is_read_as_client_go_reads_it() {
    const KUBECONFIG: &str = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
                              clusters: [{name: c, cluster: {server: https://192.0.2.1}}]\n\
                              users: \
                              [{name: u, user: {client-certificate: client.pem, client-key: client.pem}}]\n";
    const FILE: &str = "/etc/kubernetes/client.pem";
    let json = "{\"current-context\": \"a\", \"contexts\": [{\"name\": \"a\", \"context\": {\"cluster\": \"c\", \"user\": \"u\"}}],\n \"clusters\": [{\"name\": \"c\", \"cluster\": {\"server\": \"https://192.0.2.1\"}}], \"users\": [{\"name\": \"u\", \"user\": {\"client-certificate\": \"client.pem\", \"client-key\": \"client.pem\"}}]}";
    for text in [
        KUBECONFIG.to_owned(),
        json.to_owned(),
        format!("apiVersion: v1\nkind: Config\npreferences: {{}}\nnew: 1\n{KUBECONFIG}"),
        format!("{KUBECONFIG}---\nusers: [{{name: u, user: {{token: other}}}}]\n"),
        format!("users: [{{name: u, user: {{token: first}}}}]\n{KUBECONFIG}"),
        KUBECONFIG.replace("{name: u, user:", "{name: u, cluster: 5, context: ~, user:"),
        KUBECONFIG.replace("users: [", "users: [{user: {token: t}}, "),
    ] {
        let (file, found) = presented(&text);
        assert_eq!(file.as_deref(), Some(FILE), "{text}: {:?}", found.notes);
        assert_eq!(
            check(&found, "authorization-mode").verdict,
            Verdict::Pass,
            "{text}"
        );
    }
    for (text, why) in [
        (
            KUBECONFIG.replace("users: [", "users: [{name: x}, {name: x}, "),
            "users: has \"x\" twice",
        ),
        (
            KUBECONFIG.replace("clusters: [", "clusters: [{name: c}, "),
            "clusters: has \"c\" twice",
        ),
        (
            KUBECONFIG.replace("current-context: a", "current-context: b"),
            "nothing in it is named \"b\"",
        ),
        (
            KUBECONFIG.replace("current-context: a\n", ""),
            "current-context: not set",
        ),
        (
            KUBECONFIG.replace("users: [", "users: [{name: x, user: {token: 5}}, "),
            "a value of the wrong type near line 4",
        ),
        (format!("kind: Secret\n{KUBECONFIG}"), "kind: not Config"),
        (format!("---\n---\n{KUBECONFIG}"), "current-context: not set"),
        ("\t".to_owned(), "current-context: not set"),
    ] {
        let (file, found) = presented(&text);
        assert_eq!(file, None, "{text}");
        assert_says(&found.notes.join("\n"), &["/etc/kubernetes/kubelet.conf: ", why]);
        let mode = check(&found, "authorization-mode");
        assert_eq!(mode.verdict, Verdict::Warn, "{text}");
        assert_says(
            &mode.why,
            &["not certain: the kubelet asks the API server by a kubeconfig that cannot be used"],
        );
    }
}

/// (Not seen red.)
#[test]
fn a_kubelet_that_has_not_joined_yet_has_no_kubeconfig() {
    let node = copied("kubeadm");
    fs::remove_file(node.path().join("etc/kubernetes/kubelet.conf")).unwrap();
    let config = fs::read_to_string(node.path().join(CONFIG)).unwrap();
    write(
        &node.path().join(CONFIG),
        config.replace("rotateCertificates: true", "rotateCertificates: false"),
    );
    let found = only(node.path());
    assert_says(
        &found.notes.join("\n"),
        &[
            "/etc/kubernetes/kubelet.conf is not there",
            "--bootstrap-kubeconfig /etc/kubernetes/bootstrap-kubelet.conf",
        ],
    );
    assert_eq!(check(&found, "authorization-mode").verdict, Verdict::Pass);
}
