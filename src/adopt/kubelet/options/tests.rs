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
    assert!(stray.refused[0].contains("\"false\""), "{:?}", stray.refused);
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

/// What is said of a kubelet with this file, and with this command line.
fn told(words: &[&str], text: &str) -> (Vec<String>, Vec<String>) {
    let effective = effective(words, &[("etc/kubelet.yaml", text)]).unwrap();
    (effective.notes, effective.refused)
}

/// A kubelet puts both objects into one struct. Seen red: with the last object alone, anonymous requests were
/// off, and with null taken for a value that is not there.
#[test]
fn json_with_a_key_twice_is_read_as_go_reads_it() {
    const HEAD: &str = "\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"kind\":\"KubeletConfiguration\"";
    for (text, key, shown) in [
        (
            r#""authentication":{"anonymous":{"enabled":true}},"authentication":{"x509":{"clientCAFile":"/a"}}"#,
            "authentication.anonymous.enabled",
            "true",
        ),
        (
            r#""authentication":{"anonymous":{"enabled":true},"anonymous":{}},"authentication":null"#,
            "authentication.anonymous.enabled",
            "true",
        ),
        (
            r#""authentication":{"anonymous":{"enabled":true,"enabled":null}}"#,
            "authentication.anonymous.enabled",
            "false",
        ),
        (
            r#""authorization":{"mode":"AlwaysAllow","mode":null}"#,
            "authorization.mode",
            "AlwaysAllow",
        ),
        (r#""readOnlyPort":10255,"readOnlyPort":0"#, "readOnlyPort", "0"),
        (
            r#""readOnlyPort":10255,"readOnlyPort":null"#,
            "readOnlyPort",
            "10255",
        ),
        (
            r#""tlsCipherSuites":["A","B"],"tlsCipherSuites":["C"]"#,
            "tlsCipherSuites",
            "C",
        ),
        (
            r#""tlsCipherSuites":["A"],"tlsCipherSuites":null"#,
            "tlsCipherSuites",
            "(none named)",
        ),
        (
            r#""featureGates":{"RotateKubeletServerCertificate":false},"featureGates":{"A":true}"#,
            "featureGates.RotateKubeletServerCertificate",
            "false",
        ),
    ] {
        let text = format!("{{{HEAD},{text}}}");
        assert_eq!(
            value(&[CONFIG], &[("etc/kubelet.yaml", &text)], key),
            shown,
            "{text}"
        );
        let (notes, refused) = told(&[CONFIG], &text);
        let is_told = notes.iter().any(|note| note.contains("is there twice. Of JSON"));
        assert!(is_told && refused.is_empty(), "{text}: {notes:?} {refused:?}");
    }
    let yaml = file("authentication: {anonymous: {enabled: true}}\nauthentication: {x509: {}}\n");
    assert_eq!(
        value(
            &[CONFIG],
            &[("etc/kubelet.yaml", &yaml)],
            "authentication.anonymous.enabled"
        ),
        "false",
        "of YAML the last counts as a whole"
    );
    assert_eq!(
        told(&[CONFIG], &yaml).0,
        [
            "/etc/kubelet.yaml:4: the key authentication is there twice. Of YAML a kubelet reads the last \
             alone"
        ]
    );
}

/// Seen red: with `kind` alone looked at.
#[test]
fn a_file_without_version_or_kind_starts_no_kubelet() {
    const BOTH: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    for (text, expected) in [
        (BOTH, [].as_slice()),
        (
            "APIVersion: kubelet.config.k8s.io/v1beta1\nKind: KubeletConfiguration\n",
            &[],
        ),
        (
            "kind: KubeletConfiguration\n",
            &["without apiVersion: kubelet.config.k8s.io/v1beta1"],
        ),
        (
            "apiVersion: kubelet.config.k8s.io/v1beta1\n",
            &["without kind: KubeletConfiguration"],
        ),
        ("port: 1\n", &["it has none", "it has none"]),
        (
            "apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration\n",
            &["it has \"kubelet.config.k8s.io/v1\""],
        ),
        (
            "apiVersion: ~\nkind: Kubelet\n",
            &["it has \"Kubelet\"", "it has none"],
        ),
        (
            "{\"kind\": \"KubeletConfiguration\", \"apiVersion\": \"kubelet.config.k8s.io/v1beta1\", \"Kind\": \"X\"}",
            &["it has \"X\""],
        ),
    ] {
        let refused = told(&[CONFIG], text).1;
        assert_eq!(refused.len(), expected.len(), "{text}: {refused:?}");
        for (said, expected) in refused.iter().zip(expected) {
            assert!(
                said.starts_with("/etc/kubelet.yaml: without ") && said.contains(expected),
                "{said}"
            );
        }
    }
    let drop_in = |text: &str| {
        effective(&["--config-dir=/d"], &[("d/a.conf", text)])
            .unwrap()
            .refused
    };
    assert_eq!(drop_in(BOTH), Vec::<String>::new());
    for text in [
        "kind: KubeletConfiguration\n",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nKind: KubeletConfiguration\n",
    ] {
        assert_eq!(drop_in(text).len(), 1, "{text}");
    }
    let twice = file("port: 1\nport: 2\n");
    assert!(
        drop_in(&twice)[0].contains("/d/a.conf:4: the key port is there twice"),
        "{:?}",
        drop_in(&twice)
    );
}

/// Seen red: with unknown keys ignored in silence, as the kubelet does but for its log.
#[test]
fn keys_that_a_kubelet_ignores_are_named() {
    for (text, expected) in [
        (
            "authorization:\nmode: AlwaysAllow\n",
            ":4: the key \"mode\" is ignored: KubeletConfiguration has none there. A kubelet knows \
             authorization.mode:",
        ),
        (
            "authentication:\n  anonymous:\n  enabled: false\n",
            ":5: the key \"authentication.enabled\" is ignored: KubeletConfiguration has none there. A \
             kubelet knows authentication.anonymous.enabled and authentication.webhook.enabled:",
        ),
        (
            "ReadOnlyPort: 10255\n",
            ":3: the key \"ReadOnlyPort\" is ignored: KubeletConfiguration has none there. A kubelet knows \
             readOnlyPort:",
        ),
        (
            "featureGates: {A: true}\nmore: {a: 1}\n",
            ":4: the key \"more\" is ignored: KubeletConfiguration has none there",
        ),
        (
            "authentication: {Anonymous: {enabled: true}}\n",
            "\"authentication.Anonymous\" is ignored",
        ),
    ] {
        let (notes, refused) = told(&[CONFIG], &file(text));
        assert!(
            notes.len() == 1 && notes[0].contains(expected),
            "{text}: {notes:?}"
        );
        assert!(refused.is_empty(), "{refused:?}");
    }
    let many: String = (0..50).map(|number| format!("key{number}: 1\n")).collect();
    let notes = told(&[CONFIG], &file(&many)).0;
    assert_eq!(notes.len(), 21);
    assert!(notes[20].ends_with("further keys are ignored as well"));
    // Every key of a kubelet is known, with the type that it has.
    let every = "staticPodURLHeader: {a: [b]}\nclusterDNS: [10.96.0.10]\nevictionHard: \
                 {memory.available: 5%}\n\
                 maxPods: 110\nlogging: {format: json}\nmemorySwap: {swapBehavior: NoSwap}\nfailSwapOn: off\n\
                 shutdownGracePeriod: 30s\nregisterWithTaints: [{key: a}]\nresolvConf: /etc/resolv.conf\n";
    assert_eq!(told(&[CONFIG], &file(every)), (Vec::new(), Vec::new()));
}

/// Seen red: with the types of those options alone that are judged.
#[test]
fn a_value_of_the_wrong_type_starts_no_kubelet() {
    for text in [
        "authentication: {anonymous: {enabled: 'false'}}\n",
        "authentication: {anonymous: {enabled: \"yes\"}}\n",
        "authentication: {anonymous: {enabled: 0}}\n",
        "authorization: {mode: on}\n",
        "authentication: {x509: {clientCAFile: 5}}\n",
        "readOnlyPort: '0'\n",
        "readOnlyPort: 99999999999\n",
        "port: 1.5\n",
        "tlsCipherSuites: A,B\n",
        "tlsCipherSuites: [1]\n",
        "streamingConnectionIdleTimeout: null\n",
        "maxPods: many\n",
        "failSwapOn: 'no'\n",
        "featureGates: {A: 'true'}\n",
        "featureGates: [A]\n",
        "evictionHard: {memory.available: 5}\n",
        "clusterDNS: 10.96.0.10\n",
        "shutdownGracePeriod: 30\n",
        "memorySwap: NoSwap\n",
    ] {
        let error = effective(&[CONFIG], &[("etc/kubelet.yaml", &file(text))]).unwrap_err();
        let key = text.split(':').next().unwrap();
        assert!(
            error.place == "/etc/kubelet.yaml" && error.why.contains(key),
            "{error}"
        );
    }
    // A secret is not shown.
    let url = file("staticPodURL: [https://user:S3CR3T@192.0.2.1]\n");
    let error = effective(&[CONFIG], &[("etc/kubelet.yaml", &url)])
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("staticPodURL: a list is not a text"), "{error}");
    for (text, port) in [("0x1F", 31), ("010", 8), ("10_0", 100), ("7.0", 7), ("1e2", 100)] {
        let config = file(&format!("port: {text}\n"));
        assert_eq!(
            value(&[CONFIG], &[("etc/kubelet.yaml", &config)], "port"),
            port.to_string()
        );
        let json = format!("{{\"port\": {text}}}");
        assert!(
            effective(&[CONFIG], &[("etc/kubelet.yaml", &json)]).is_err(),
            "{json}"
        );
    }
}

/// A text that begins with a brace is JSON to a kubelet. Seen red: with YAML tried after JSON.
#[test]
fn what_looks_like_json_is_not_read_as_yaml() {
    for text in [
        "{kind: KubeletConfiguration}",
        "\n {\"port\": 1,}",
        "{\"port\": 1}\n---\n",
    ] {
        let error = effective(&[CONFIG], &[("etc/kubelet.yaml", text)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("broken JSON in line"), "{error}");
    }
    let flow = "--- {apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, port: 5}";
    assert_eq!(value(&[CONFIG], &[("etc/kubelet.yaml", flow)], "port"), "5");
}

/// As `IPVar` of the kubelet. Seen red: with the empty flag for an address, `binds` had none.
#[test]
fn an_empty_flag_of_an_address_changes_nothing() {
    let config = file("address: 127.0.0.1\nhealthzBindAddress: 127.0.0.2\n");
    let files = [("etc/kubelet.yaml", config.as_str())];
    for (words, address, healthz) in [
        (
            &[CONFIG, "--address=", "--healthz-bind-address="][..],
            "127.0.0.1",
            "127.0.0.2",
        ),
        (
            &["--address=", "--healthz-bind-address", ""],
            "0.0.0.0",
            "127.0.0.1",
        ),
        (&["--address=192.0.2.1", "--address="], "192.0.2.1", "127.0.0.1"),
    ] {
        assert_eq!(value(words, &files, "address"), address, "{words:?}");
        assert_eq!(value(words, &files, "healthzBindAddress"), healthz, "{words:?}");
    }
    let empty = effective(&["--address="], &[]).unwrap();
    assert_eq!(empty.get("address").unwrap().origin, ValueOrigin::Default);
    assert!(effective(&["--address=node1"], &[]).is_err());
    let sloppy = effective(&["--address=010.00.002.1"], &[]).unwrap();
    assert_eq!(address(sloppy.text("address")), Some("10.0.2.1".parse().unwrap()));
    // Other flags have an empty value, or refuse it.
    let list = file("tlsCipherSuites: [A]\n");
    let files = [("etc/kubelet.yaml", list.as_str())];
    assert_eq!(
        value(&[CONFIG, "--tls-cipher-suites="], &files, "tlsCipherSuites"),
        "(none named)"
    );
    assert_eq!(
        value(&["--client-ca-file="], &[], "authentication.x509.clientCAFile"),
        "\"\""
    );
    for refused in [
        "--port=",
        "--anonymous-auth=",
        "--authentication-token-webhook-cache-ttl=",
    ] {
        assert!(effective(&[refused], &[]).is_err(), "{refused}");
    }
}

/// Seen red: with a switch and its neighbour taken for a flag and its value, and with a flag that follows one
/// without a value read as a flag.
#[test]
fn words_are_flags_values_or_neither_as_for_pflag() {
    for (words, key, shown) in [
        // A flag without its value takes the next word, whatever that is.
        (
            &["--pod-infra-container-image", "--read-only-port=0"][..],
            "readOnlyPort",
            "10255",
        ),
        (&["-v", "--read-only-port=0"], "readOnlyPort", "10255"),
        (&["--v", "2", "--read-only-port=0"], "readOnlyPort", "0"),
        (&["-v2", "-v=2", "--read-only-port=0"], "readOnlyPort", "0"),
        (&["--fail-swap-on", "--read-only-port=0"], "readOnlyPort", "0"),
        (&["--", "--read-only-port=0"], "readOnlyPort", "10255"),
        (&["--read-only-port=0x10"], "readOnlyPort", "16"),
        (&["--read-only-port=010"], "readOnlyPort", "8"),
        (&["--tls-cipher-suites=\"A\",B"], "tlsCipherSuites", "A,B"),
    ] {
        assert_eq!(value(words, &[], key), shown, "{words:?}");
    }
    for (words, expected) in [
        (
            &["--fail-swap-on", "false"][..],
            "the word \"false\" is not a flag",
        ),
        (
            &["--anonymous-auth=false", "node1"],
            "the word \"node1\" is not a flag",
        ),
        (
            &["anonymous-auth=false"],
            "the word \"anonymous-auth=false\" is not a flag",
        ),
        (
            &["\u{2013}\u{2013}anonymous-auth=false"],
            "the word \"\u{2013}\u{2013}anonymous-auth=false\" is not",
        ),
        (
            &["-anonymous-auth=false"],
            "the word \"-anonymous-auth=false\" begins with one hyphen",
        ),
        (&["\"--port=1\""], "the word \"\\\"--port=1\\\"\" is not a flag"),
        (&[""], "the word \"\" is not a flag"),
        (&["--", "x"], "the word \"x\" is not a flag"),
        (&["---port=1"], "begins with ---"),
        (&["--=1"], "begins with --="),
        (&["-h"], "the word \"-h\""),
        (
            &["--client-ca-file"],
            "--client-ca-file is the last word and needs a value",
        ),
        (&["-v"], "-v is the last word"),
        (&["TOKEN=S3CR3T"], "the word \"TOKEN=…\""),
        (&["abcdef.0123456789abcdef"], "the word \"abc…\""),
        (&["S3CR3T-MARK"], "the word \"S3C…\""),
        (
            &["--manifest-url-header=Authorization:", "S3CR3T"],
            "the word \"…\" after --manifest-url-header",
        ),
        (&["--unknown=Bearer", "S3CR3T"], "the word \"…\" after --unknown"),
    ] {
        let refused = effective(words, &[]).unwrap().refused;
        assert!(
            refused.len() == 1 && refused[0].contains(expected),
            "{words:?}: {refused:?}"
        );
        assert!(!refused[0].contains("S3CR3T"), "{refused:?}");
    }
    let unknown = effective(&["--anonymous-auht=S3CR3T"], &[]).unwrap();
    assert!(
        unknown.notes[0].contains("the flag --anonymous-auht is unknown"),
        "{:?}",
        unknown.notes
    );
    assert!(unknown.refused.is_empty() && unknown.unread.is_empty());
    let unknown = effective(&["--new", "--anonymous-auth=false"], &[]).unwrap();
    assert!(
        unknown.unread[0].contains("the word after the unknown flag --new"),
        "{:?}",
        unknown.unread
    );
    assert!(effective(&["--feature-gates=A"], &[]).is_err());
    assert!(effective(&["--feature-gates=", "--feature-gates=A=true,,B=F"], &[]).is_ok());
}

/// A kubelet that runs has started with its words. (Not seen red.)
#[test]
fn words_of_a_kubelet_that_runs_are_only_noted() {
    let mut invocation = Invocation::given(&["stray".to_owned()], Root::new("/nowhere"));
    invocation.source = crate::adopt::kubelet::invocation::Source::Process(1);
    let effective = Effective::of(&invocation).unwrap();
    assert!(effective.refused.is_empty() && effective.notes[0].contains("\"stray\""));
}

/// Before 1.6, `--config` could also name one static pod. (Not seen red.)
#[test]
fn a_config_that_is_a_pod_leaves_the_defaults_of_flags() {
    let pod = "apiVersion: v1\nkind: Pod\nspec: {hostNetwork: true}\n";
    let effective = effective(&[CONFIG], &[("etc/kubelet.yaml", pod)]).unwrap();
    assert!(effective.is_on("authentication.anonymous.enabled") && effective.refused.is_empty());
    assert!(effective.notes[0].starts_with("--config names a static pod, /etc/kubelet.yaml: before"));
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
