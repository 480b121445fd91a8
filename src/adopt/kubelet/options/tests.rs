#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// What a kubelet with these words and files runs with.
fn effective(words: &[&str], files: &[(&str, &str)]) -> Result<Effective, OptionsError> {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    Effective::of(&Invocation::given(&words, Root::new(folder.path())))
}

fn value(words: &[&str], files: &[(&str, &str)], key: &str) -> String {
    effective(words, files).unwrap().get(key).unwrap().shown()
}

/// Before Kubernetes 1.6. Seen red: the folder was an error, and nothing else was told about the node.
#[test]
fn a_config_that_is_a_folder_is_one_of_static_pods() {
    let pod = [("etc/manifests/pod.yaml", "")];
    for (words, files) in [
        (&["--config=/etc/manifests"][..], &pod[..]),
        (
            &["--config=/etc/manifests", "--api-servers=https://192.0.2.1"],
            &[],
        ),
    ] {
        let effective = effective(words, files).unwrap();
        assert!(effective.is_on("authentication.anonymous.enabled"));
        assert_eq!(effective.number("readOnlyPort"), 10255);
        assert!(effective.notes[0].starts_with("--config names a folder, /etc/manifests: before"));
    }
    assert!(effective(&["--config=/etc/manifests"], &[]).is_err());
}

const CONFIG: &str = "--config=/etc/kubelet.yaml";
const KIND: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn file(text: &str) -> String {
    format!("{KIND}{text}")
}

/// The contract's table: key, with a file that says nothing, without a file.
#[test]
fn both_sets_of_defaults_are_the_kubelets() {
    let file = file("");
    let with = [("etc/kubelet.yaml", file.as_str())];
    for (key, of_file, of_flags) in [
        ("enableServer", "true", "true"),
        ("address", "0.0.0.0", "0.0.0.0"),
        ("port", "10250", "10250"),
        ("readOnlyPort", "0", "10255"),
        ("authentication.anonymous.enabled", "false", "true"),
        ("authentication.webhook.enabled", "true", "false"),
        ("authentication.webhook.cacheTTL", "2m0s", "2m0s"),
        ("authentication.x509.clientCAFile", "\"\"", "\"\""),
        ("authorization.mode", "Webhook", "AlwaysAllow"),
        ("authorization.webhook.cacheAuthorizedTTL", "5m0s", "5m0s"),
        ("authorization.webhook.cacheUnauthorizedTTL", "30s", "30s"),
        ("rotateCertificates", "false", "false"),
        ("serverTLSBootstrap", "false", "false"),
        ("enableDebuggingHandlers", "true", "true"),
        ("enableContentionProfiling", "false", "false"),
        ("enableSystemLogHandler", "true", "true"),
        ("enableProfilingHandler", "true", "true"),
        ("healthzPort", "10248", "10248"),
        ("healthzBindAddress", "127.0.0.1", "127.0.0.1"),
        ("streamingConnectionIdleTimeout", "4h0m0s", "4h0m0s"),
        ("eventRecordQPS", "50", "50"),
        ("--cert-dir", "/var/lib/kubelet/pki", "/var/lib/kubelet/pki"),
    ] {
        assert_eq!(value(&[CONFIG], &with, key), of_file, "{key} with a file");
        assert_eq!(value(&[], &[], key), of_flags, "{key} without a file");
    }
    // Everything else does not differ between the two.
    let (with, without) = (effective(&[CONFIG], &with).unwrap(), effective(&[], &[]).unwrap());
    let differ = |(one, other): &(&Setting, &Setting)| one.value != other.value;
    let pairs = with.settings().iter().zip(without.settings());
    let keys: Vec<&str> = pairs.filter(differ).map(|(one, _)| one.field.key).collect();
    assert_eq!(
        keys,
        [
            "readOnlyPort",
            "authentication.anonymous.enabled",
            "authentication.webhook.enabled",
            "authorization.mode",
            "--config"
        ]
    );
}

/// Seen red: with the layers in another order, rows two to four.
#[test]
fn flags_win_over_drop_ins_and_these_over_the_file() {
    let base =
        file("authorization: {mode: AlwaysAllow}\nreadOnlyPort: 1\ntlsCipherSuites: [a, b]\nport: 1\n");
    let first = file("authorization: {mode: Webhook}\ntlsCipherSuites: [c]\nport: 2\n");
    let second = file("port: 3\nreadOnlyPort: null\n");
    let ignored = file("port: 4\n");
    let files = [
        ("etc/kubelet.yaml", base.as_str()),
        ("etc/d/10-a.conf", first.as_str()),
        ("etc/d/20-folder/x.conf", second.as_str()),
        ("etc/d/30.yaml", ignored.as_str()),
    ];
    let words = [
        CONFIG,
        "--config-dir",
        "/etc/d",
        "--read_only_port=7",
        "--port",
        "5",
    ];
    let both = effective(&words, &files).unwrap();
    for (key, value, origin) in [
        ("readOnlyPort", "7", "flag, the command line"),
        ("port", "5", "flag, the command line"),
        ("authorization.mode", "Webhook", "/etc/d/10-a.conf"),
        ("tlsCipherSuites", "c", "/etc/d/10-a.conf"),
    ] {
        let setting = both.get(key).unwrap();
        assert_eq!(
            (setting.shown(), setting.origin.to_string()),
            (value.into(), origin.into()),
            "{key}"
        );
    }
    assert_eq!(
        both.files,
        ["/etc/kubelet.yaml", "/etc/d/10-a.conf", "/etc/d/20-folder/x.conf"]
    );
    let flagless = effective(&words[..3], &files).unwrap();
    assert_eq!(flagless.number("port"), 3);
    assert_eq!(flagless.number("readOnlyPort"), 0, "null brings the default back");
}

#[test]
fn a_drop_in_folder_alone_keeps_the_defaults_of_flags() {
    let drop_in = file("authentication: {anonymous: {enabled: false}}\n");
    let alone = effective(&["--config-dir=/d"], &[("d/a.conf", drop_in.as_str())]).unwrap();
    assert!(!alone.is_on("authentication.anonymous.enabled"));
    assert_eq!(alone.text("authorization.mode"), "AlwaysAllow");
    assert_eq!(alone.number("readOnlyPort"), 10255);
    assert!(
        alone
            .notes
            .iter()
            .any(|note| note.contains("--config-dir without --config"))
    );
    let deleted = file("authorization: null\nreadOnlyPort: null\n");
    let deleted = effective(&["--config-dir=/d"], &[("d/a.conf", deleted.as_str())]).unwrap();
    assert_eq!(
        (deleted.text("authorization.mode"), deleted.number("readOnlyPort")),
        ("Webhook", 0),
        "what is deleted has the file's default"
    );
}

#[test]
fn zero_in_the_file_is_unset_and_in_a_flag_it_is_zero() {
    let text = file(
        "authentication: {webhook: {cacheTTL: 0s}}\nport: 0\nhealthzPort: 0\nauthorization: {mode: ''}\n",
    );
    let files = [("etc/kubelet.yaml", text.as_str())];
    let from_file = effective(&[CONFIG], &files).unwrap();
    assert_eq!(from_file.text("authentication.webhook.cacheTTL"), "2m0s");
    assert_eq!(
        (
            from_file.number("port"),
            from_file.number("healthzPort"),
            from_file.text("authorization.mode")
        ),
        (10250, 0, "Webhook")
    );
    let flag = "--authentication-token-webhook-cache-ttl=0s";
    assert_eq!(
        value(&[CONFIG, flag], &files, "authentication.webhook.cacheTTL"),
        "0s"
    );
}

#[test]
fn paths_start_where_the_kubelet_starts_them() {
    let main = file("authentication: {x509: {clientCAFile: pki/ca.crt}}\ntlsCertFile: ../a.crt\n");
    let drop_in = file("tlsPrivateKeyFile: b.key\n");
    let files = [
        ("etc/kubelet.yaml", main.as_str()),
        ("etc/d/a.conf", drop_in.as_str()),
    ];
    let words = [
        "--config=etc/kubelet.yaml",
        "--config-dir=/etc/d",
        "--kubeconfig=k",
    ];
    let all = effective(&words, &files).unwrap();
    for (key, path) in [
        ("authentication.x509.clientCAFile", "/etc/pki/ca.crt"),
        ("tlsCertFile", "/a.crt"),
        ("tlsPrivateKeyFile", "/b.key"),
        ("--kubeconfig", "/k"),
    ] {
        assert_eq!(all.text(key), path, "{key}");
    }
    assert_eq!(all.serving_pair(), ("/a.crt".into(), "/b.key".into()));
}

#[test]
fn the_serving_pair_is_the_one_that_the_kubelet_takes() {
    let pair = |words: &[&str]| effective(words, &[]).unwrap().serving_pair().0;
    assert_eq!(pair(&[]), "/var/lib/kubelet/pki/kubelet.crt");
    assert_eq!(
        pair(&["--cert-dir=/p", "--tls-cert-file=/x"]),
        "/x",
        "only where neither is set does a kubelet make its own"
    );
    assert_eq!(pair(&["--tls-cert-file=/x", "--tls-private-key-file=/y"]), "/x");
    let rotated = "/var/lib/kubelet/pki/kubelet-server-current.pem";
    assert_eq!(
        pair(&["--rotate-server-certificates", "--tls-cert-file=/x"]),
        rotated
    );
    let off = [
        "--rotate-server-certificates",
        "--feature-gates=A=true,RotateKubeletServerCertificate=false",
    ];
    assert_eq!(pair(&off), "/var/lib/kubelet/pki/kubelet.crt");
}

#[test]
fn words_are_read_as_the_kubelet_reads_them() {
    for (words, key, shown) in [
        (
            &["--anonymous-auth", "--port=1"][..],
            "authentication.anonymous.enabled",
            "true",
        ),
        (
            &["--anonymous-auth", "false"],
            "authentication.anonymous.enabled",
            "true",
        ),
        (
            &["--anonymous_auth=F"],
            "authentication.anonymous.enabled",
            "false",
        ),
        (&["--unknown", "--port", "1"], "port", "1"),
        (
            &["--unknown", "x", "-v", "2", "--port", "1", "--port=2"],
            "port",
            "2",
        ),
        (&["--tls-cipher-suites=a,b"], "tlsCipherSuites", "a,b"),
        (&["--hostname-override="], "--hostname-override", "\"\""),
    ] {
        assert_eq!(value(words, &[], key), shown, "{words:?}");
    }
    let stray = effective(&["--anonymous-auth", "false"], &[]).unwrap();
    assert!(stray.notes[0].contains("\"false\""), "{:?}", stray.notes);
}

#[test]
fn yaml_and_json_are_read_as_the_kubelet_reads_them() {
    let anonymous = |text: &str| {
        value(
            &[CONFIG],
            &[("etc/kubelet.yaml", text)],
            "authentication.anonymous.enabled",
        )
    };
    assert_eq!(
        anonymous(&file("authentication: {anonymous: {enabled: yes}}\n")),
        "true"
    );
    assert_eq!(
        anonymous(
            "{\n\t\"kind\": \"KubeletConfiguration\",\n\t\"authentication\": {\"anonymous\": {\"enabled\": true}}}"
        ),
        "true"
    );
    assert_eq!(
        anonymous(&file("port: 1\nport: 2\nnobody: {knows: this}\n")),
        "false"
    );
}

#[test]
fn what_a_kubelet_would_not_start_with_is_an_error_that_names_its_place() {
    for (words, text, place, why) in [
        (
            vec![CONFIG],
            "authentication: {anonymous: {enabled: maybe}}\n",
            "/etc/kubelet.yaml",
            "authentication.anonymous.enabled",
        ),
        (vec![CONFIG], "port: \"x\"\n", "/etc/kubelet.yaml", "port"),
        (
            vec![CONFIG],
            "streamingConnectionIdleTimeout: 5\n",
            "/etc/kubelet.yaml",
            "duration",
        ),
        (
            vec![CONFIG, "--read-only-port=x"],
            "",
            "the command line",
            "--read-only-port=x",
        ),
        (vec!["--config=/nowhere"], "", "/nowhere", "os error 2"),
    ] {
        let text = file(text);
        let error = effective(&words, &[("etc/kubelet.yaml", text.as_str())]).unwrap_err();
        assert_eq!(error.place, place, "{error}");
        assert!(error.why.contains(why), "{error}");
    }
    for text in ["- a\n", "just text", "{", ""] {
        assert!(
            effective(&[CONFIG], &[("etc/kubelet.yaml", text)]).is_err(),
            "{text:?}"
        );
    }
}

/// Seen red: with whatever is no object taken for one in which nothing is set.
#[test]
fn what_is_above_an_option_must_be_an_object() {
    for broken in [
        "authentication: 5\n",
        "authorization: [x]\n",
        "authentication: {anonymous: on}\n",
    ] {
        let config = file(broken);
        let error = effective(&["--config=/c"], &[("c", &config)]).unwrap_err();
        assert!(error.to_string().contains("not a section with keys"), "{error}");
    }
    let config = file("authentication: null\n");
    assert!(effective(&["--config=/c"], &[("c", &config)]).is_ok());
}

/// A kubelet splits each `--tls-cipher-suites` at commas, and adds up. Seen red: with the last alone, the
/// weak one was not seen.
#[test]
fn a_list_that_is_given_twice_is_one() {
    let words = ["--tls-cipher-suites=A,B", "--tls-cipher-suites=C"];
    let options = effective(&words, &[]).unwrap();
    assert_eq!(options.get("tlsCipherSuites").unwrap().shown(), "A,B,C");
    let config = file("tlsCipherSuites: [D]\n");
    let words = ["--config=/c", "--tls-cipher-suites=A"];
    let options = effective(&words, &[("c", &config)]).unwrap();
    assert_eq!(options.get("tlsCipherSuites").unwrap().shown(), "A");
}

#[test]
fn the_first_document_of_a_file_counts() {
    for more in ["---\n", "---\nport: 7\n", "---\n{{{\n"] {
        let config = file("port: 5\n") + more;
        assert_eq!(
            value(&["--config=/c"], &[("c", &config)], "port"),
            "5",
            "{more:?}"
        );
    }
}

#[test]
fn a_folder_of_drop_ins_that_is_not_there_is_told() {
    let options = effective(&["--config-dir=/nowhere"], &[]).unwrap();
    assert!(options.unread[0].contains("/nowhere"), "{:?}", options.unread);
}

/// As `filepath.WalkDir` does. Seen red: with links to folders followed, the one that leads to itself.
#[test]
fn links_to_folders_have_no_drop_ins() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("a.conf"), file("port: 1\n")).unwrap();
    symlink(".", real.join("b")).unwrap();
    symlink("real", folder.path().join("link.conf")).unwrap();
    let read = |path: &str| {
        let words = [format!("--config-dir={path}")];
        Effective::of(&Invocation::given(&words, Root::new(folder.path()))).unwrap()
    };
    assert_eq!(read("/real").number("port"), 1);
    let link = read("/link.conf");
    assert_eq!(link.number("port"), 10250);
    assert!(
        link.notes.iter().any(|note| note.contains("link")),
        "{:?}",
        link.notes
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the words and the file are, there is an answer or an error, and never a panic.
        #[test]
        fn any_words_and_any_file_are_read(words in prop::collection::vec("\\PC{0,20}", 0..8),
            text in "\\PC{0,200}") {
            let mut all: Vec<&str> = words.iter().map(String::as_str).collect();
            all.push(CONFIG);
            let _ = effective(&all, &[("etc/kubelet.yaml", &text)]);
        }

        /// The last of several flags decides, however it is written.
        #[test]
        fn the_last_flag_decides(ports in prop::collection::vec((1u16.., any::<bool>()), 1..6)) {
            let words: Vec<String> = ports
                .iter()
                .flat_map(|(port, split)| match split {
                    true => vec!["--read_only_port".to_owned(), port.to_string()],
                    false => vec![format!("--read-only-port={port}")],
                })
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let last = i64::from(ports.last().unwrap().0);
            prop_assert_eq!(effective(&words, &[]).unwrap().number("readOnlyPort"), last);
        }
    }
}
