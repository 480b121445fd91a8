#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const EXAMPLE: &str = include_str!("../../config/kubelet-gate.yaml");
const DOCS: &str = include_str!("../../docs/configuration.md");

/// The least that is a configuration.
const LEAST: &str = r#"apiVersion: kubelet-gate.dev/v1alpha1
kind: KubeletGateConfiguration
listen: ["192.0.2.10:10250"]
upstream: {url: "https://127.0.0.1:10250", certificateFile: kubelet.crt}
tlsCertFile: gate.crt
tlsPrivateKeyFile: gate.key
"#;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: KubeletFlags,
}

fn flags(arguments: &[&str]) -> KubeletFlags {
    Line::try_parse_from(std::iter::once(&"kubelet-gate").chain(arguments))
        .expect("these flags are good")
        .flags
}

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse(text, Path::new("/etc/gate/gate.yaml"), &KubeletFlags::default())
}

fn good(text: &str) -> Settings {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn error(text: &str) -> String {
    parse(text)
        .err()
        .unwrap_or_else(|| panic!("accepted:\n{text}"))
        .to_string()
}

/// `LEAST` and more.
fn least_and(more: &str) -> String {
    format!("{LEAST}{more}\n")
}

/// `LEAST` with another `upstream`.
fn upstream(section: &str) -> String {
    LEAST.replace(
        r#"{url: "https://127.0.0.1:10250", certificateFile: kubelet.crt}"#,
        section,
    )
}

/// The keys of the example that carry a value, as paths, and their values.
fn leaves(value: &Value, parent: &str, found: &mut Vec<(String, Value)>) {
    for (key, value) in value.as_object().expect("a mapping") {
        let path = if parent.is_empty() {
            key.clone()
        } else {
            format!("{parent}.{key}")
        };
        if value.is_object() {
            leaves(value, &path, found)
        } else {
            found.push((path, value.clone()))
        }
    }
}

fn known_leaves() -> Vec<(String, Value)> {
    let mut known = Vec::new();
    leaves(&schema::schema().unwrap(), "", &mut known);
    known
}

fn example() -> Value {
    serde_saphyr::from_str(EXAMPLE).unwrap()
}

/// `value` without the key at `path`.
fn without(value: &Value, path: &str) -> Value {
    let mut value = value.clone();
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parent.split('.').filter(|segment| !segment.is_empty());
    let section = parent.fold(&mut value, |value, segment| &mut value[segment]);
    section
        .as_object_mut()
        .unwrap()
        .remove(key)
        .expect("the key is in the example");
    value
}

// --- the example, the schema and the page agree ---

#[test]
fn the_example_has_every_key_and_no_other() {
    let mut written = Vec::new();
    leaves(&example(), "", &mut written);
    let names = |leaves: Vec<(String, Value)>| leaves.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(names(written), names(known_leaves()));
}

#[test]
fn every_value_of_the_example_is_the_default_except_the_nodes_own() {
    let nodes_own = [
        "apiVersion",
        "kind",
        "listen",
        "kubeconfig",
        "upstream.url",
        "upstream.certificateFile",
        "tlsCertFile",
        "tlsPrivateKeyFile",
        "authentication.x509.clientCAFile",
    ];
    let example = example();
    let all = good(EXAMPLE);
    assert_eq!(all.warnings, Vec::<String>::new());
    for (key, default) in known_leaves() {
        let settings = parse(&without(&example, &key).to_string());
        if nodes_own.contains(&key.as_str()) {
            assert!(
                !settings.is_ok_and(|settings| settings == all),
                "{key} has a default after all"
            );
        } else {
            assert_eq!(settings.unwrap(), all, "{key}");
            assert_eq!(schema::at(&example, &key), Some(&default), "{key}");
        }
    }
}

#[test]
fn the_page_names_every_key_its_default_and_every_flag() {
    for (key, default) in known_leaves() {
        let row = DOCS
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {key}"));
        let default = match default {
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => text,
            other => other.to_string().replace(',', ", ").replace('"', ""),
        };
        if default != "[]" {
            assert!(
                row.contains(&format!("`{default}`")),
                "the default {default} is not in: {row}"
            );
        }
    }
    for flag in <Line as clap::CommandFactory>::command().get_arguments() {
        let flag = format!("`--{}", flag.get_long().unwrap_or("help"));
        assert!(
            flag == "`--help" || DOCS.contains(&flag),
            "docs/configuration.md does not name {flag}"
        );
    }
}

#[test]
fn the_errors_on_the_page_are_real() {
    let page = DOCS.split("## Errors").nth(1).unwrap();
    let mut examples = 0;
    for example in page.split("```yaml\n").skip(1) {
        let (yaml, rest) = example.split_once("```").unwrap();
        let expected = rest
            .split("```text\n")
            .nth(1)
            .unwrap()
            .split_once("\n```")
            .unwrap()
            .0;
        let said = Settings::parse(yaml, Path::new("gate.yaml"), &KubeletFlags::default())
            .unwrap_err()
            .to_string();
        assert!(
            said.lines().any(|line| line == expected),
            "the page says\n{expected}\nthe gate says\n{said}"
        );
        examples += 1;
    }
    assert!(examples >= 5);
}

// --- keys ---

#[test]
fn an_unknown_key_is_named_with_its_line_its_path_and_its_nearest() {
    let text = least_and("authentication:\n  x509:\n    clientCAFil: /ca.crt");
    assert_eq!(
        error(&text),
        "/etc/gate/gate.yaml:9: authentication.x509.clientCAFil: unknown key; the nearest known key is \
         authentication.x509.clientCAFile: write clientCAFile or remove this one"
    );
}

#[test]
fn a_key_at_the_wrong_place_is_sent_to_the_right_one() {
    let said = error(&least_and("clientCAFile: /ca.crt"));
    assert!(
        said.contains("nearest known key is authentication.x509.clientCAFile: move it there"),
        "{said}"
    );
}

#[test]
fn a_key_like_no_other_gets_the_list() {
    let said = error(&least_and("audit: {zzzzzz: 1}"));
    assert!(
        said.contains("nearest known key is audit.") && said.contains("commands, maxBackups, maxSizeMB"),
        "{said}"
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let said = error(&least_and("wrokers: 1\nsandbx: Off\naudit: {path: 7}"));
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_duplicate_key_names_both_lines() {
    let said = error(&least_and("workers: 1\nworkers: 2"));
    assert_eq!(
        said,
        "/etc/gate/gate.yaml:8: workers: 2: the key is already on line 7; keep one of the two"
    );
}

#[test]
fn wrong_types_name_key_value_and_way_out() {
    for (more, expected) in [
        (
            "workers: many",
            r#":7: workers: "many" is not a whole number from 0; write one, without quotes"#,
        ),
        ("workers: -1", ":7: workers: -1 is not a whole number"),
        ("workers: 1.5", ":7: workers: 1.5 is not a whole number"),
        ("nodeName: 12", ":7: nodeName: 12 is not a text; put it in quotes"),
        ("nodeName: [a]", ":7: nodeName: a list is not a text"),
        ("nodeName:", ":7: nodeName: nothing is written here"),
        (
            "audit: 3",
            ":7: audit: 3 is not a mapping; write the keys below it, indented: commands, maxBackups",
        ),
        (
            "nodeNameFromHost: maybe",
            r#":7: nodeNameFromHost: "maybe" is neither true nor false"#,
        ),
        (
            "tlsCipherSuites: TLS_X",
            r#":7: tlsCipherSuites: "TLS_X" is not a list; write ["TLS_X"]"#,
        ),
        ("tlsCipherSuites: [1]", ":7: tlsCipherSuites[0]: 1 is not a text"),
        (
            "readOnlyPort: 0",
            ":7: readOnlyPort: 0 is not a mapping; write the keys below it, indented: answer, listen",
        ),
    ] {
        let said = error(&least_and(more));
        assert!(said.contains(expected), "{more}\n{said}");
    }
}

#[test]
fn broken_yaml_names_the_line() {
    let said = error(&least_and("audit: {path: [}"));
    assert!(
        said.starts_with("/etc/gate/gate.yaml:7: the file is not the YAML it should be"),
        "{said}"
    );
    assert!(error("").contains("nothing") && error("- a").contains("a list is not a mapping"));
    assert!(error("a: 1\n---\nb: 2").contains("the file is not the YAML it should be"));
}

#[test]
fn a_kubelets_own_file_is_told_apart() {
    let text = LEAST.replace("KubeletGateConfiguration", "KubeletConfiguration");
    assert!(error(&text).contains("is the kubelet's own configuration"));
    assert!(
        error(&LEAST.replace("v1alpha1", "v9"))
            .contains(r#":1: apiVersion: "kubelet-gate.dev/v9" is not known"#)
    );
    assert!(
        error(&LEAST.replace("apiVersion: kubelet-gate.dev/v1alpha1\n", ""))
            .contains("apiVersion: is missing")
    );
}

#[test]
fn what_is_not_built_yet_is_refused_and_never_ignored() {
    let example = example();
    for key in file::LATER {
        let mut changed = example.clone();
        let value = key
            .split('.')
            .fold(&mut changed, |value, segment| &mut value[segment]);
        *value = match value {
            Value::Bool(value) => Value::Bool(!*value),
            Value::Number(_) => Value::from(7),
            Value::Array(_) => Value::from(vec!["x"]),
            _ => Value::from("7s"),
        };
        let said = error(&changed.to_string());
        assert!(
            said.contains(&format!(": {key}: ")) && said.contains("not yet"),
            "{key}: {said}"
        );
    }
    assert!(error(&least_and("enforcement: Report")).contains(r#"enforcement: "Report": not yet"#));
    good(&least_and("streams: {maxUnverified: 300s}"));
}

// --- blocks of a kubelet ---

#[test]
fn blocks_of_a_kubelet_configuration_can_be_pasted() {
    let settings = good(&least_and(
        "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 1m30s\n    enabled: true\n  x509:\n    \
         clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: \
         5m0s\n    cacheUnauthorizedTTL: 0s\nstreamingConnectionIdleTimeout: 1h0m0s",
    ));
    assert_eq!(settings.authentication.webhook_cache_ttl, Duration::from_secs(90));
    assert_eq!(
        settings.authentication.client_ca_file.as_deref(),
        Some(Path::new("/etc/kubernetes/pki/ca.crt"))
    );
    assert_eq!(settings.authorization.cache_unauthorized_ttl, Duration::ZERO);
    assert_eq!(settings.warnings.len(), 1);
    assert!(settings.warnings[0].contains(":19: authorization.webhook.cacheUnauthorizedTTL: 0s means here"));
}

#[test]
fn json_is_yaml_too() {
    assert_eq!(good(&example().to_string()), good(EXAMPLE));
}

// --- values ---

#[test]
fn relative_paths_start_at_the_file_and_in_flags_at_the_working_directory() {
    let flags = flags(&["--tls-private-key-file", "flag.key"]);
    let settings = Settings::parse(LEAST, Path::new("/etc/gate/gate.yaml"), &flags).unwrap();
    assert_eq!(settings.tls.cert_file, PathBuf::from("/etc/gate/gate.crt"));
    assert_eq!(
        settings.tls.private_key_file,
        std::env::current_dir().unwrap().join("flag.key")
    );
    let settings = Settings::parse(LEAST, Path::new("gate.yaml"), &KubeletFlags::default()).unwrap();
    assert_eq!(
        settings.tls.cert_file,
        std::env::current_dir().unwrap().join("gate.crt")
    );
}

#[test]
fn the_node_name_is_trimmed_lower_cased_and_judged() {
    assert_eq!(
        good(&least_and("nodeName: ' Worker-1.Example '"))
            .node_name
            .as_deref(),
        Some("worker-1.example")
    );
    for name in [
        "a_b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a b",
        "ä",
        "system:node:a",
        &"a".repeat(254),
    ] {
        assert!(
            error(&least_and(&format!("nodeName: '{name}'"))).contains("cannot be the name of a Node"),
            "{name}"
        );
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (more, expected) in [
        (
            "limits: {handshakeTimeout: 0s}",
            r#"limits.handshakeTimeout: "0s" is out of range; write 100ms to 5m0s"#,
        ),
        ("limits: {idleTimeout: 2}", "limits.idleTimeout: 2 is not a text"),
        (
            "limits: {idleTimeout: '2'}",
            r#"limits.idleTimeout: "2": a duration needs a unit"#,
        ),
        (
            "limits: {connections: 0}",
            "limits.connections: 0 is out of range; write 1 to 1000000",
        ),
        (
            "limits: {http2Streams: 4294967297}",
            "limits.http2Streams: 4294967297 is out of range; write 1 to 10000",
        ),
        (
            "limits: {requestHeadBytes: 10}",
            "limits.requestHeadBytes: 10 is out of range; write 8192 to 1048576",
        ),
        ("workers: 0", "workers: 0 is out of range"),
        (
            "tlsMinVersion: TLS1.3",
            r#"tlsMinVersion: "TLS1.3" is not known; write VersionTLS12 or VersionTLS13"#,
        ),
        (
            "authorization: {mode: webhook}",
            r#"authorization.mode: "webhook" is not known; write Webhook or AlwaysAllow"#,
        ),
        (
            "authentication: {webhook: {cacheTTL: -1s}}",
            "authentication.webhook.cacheTTL: \"-1s\": a duration cannot",
        ),
        (
            "authentication: {webhook: {audiences: ['']}}",
            "authentication.webhook.audiences[0]: \"\" is no name",
        ),
        (
            "admin: {listen: '0.0.0.0:19250'}",
            "admin.listen: \"0.0.0.0:19250\" is not a loopback address",
        ),
        (
            "admin: {listen: localhost}",
            "admin.listen: \"localhost\" is not an address; write IP:PORT",
        ),
        (
            "audit: {path: /var/log/gate.log}",
            "audit.path: \"/var/log/gate.log\" is under /var/log",
        ),
        (
            "audit: {path: /var/lib/../log/x}",
            "is under /var/log, which the kubelet serves",
        ),
        (
            "audit: {mode: sync}",
            "audit.mode: \"sync\" is not known; write batch or blocking",
        ),
        (
            "authorization: {paths: {deny: [debug]}}",
            "authorization.paths.deny[0]: \"debug\" does not begin with /",
        ),
        (
            "authorization: {paths: {deny: [/a/../b]}}",
            "deny[0]: \"/a/../b\" has an empty segment, . or ..",
        ),
        (
            "authorization: {paths: {deny: [/]}}",
            "deny[0]: \"/\" denies everything",
        ),
        (
            "authorization: {paths: {deny: [/a, /%64ebug]}}",
            "deny[1]: \"/%64ebug\" is percent-encoded",
        ),
    ] {
        let said = error(&least_and(more));
        assert!(
            said.starts_with("/etc/gate/gate.yaml:7: ") && said.contains(expected),
            "{more}\n{said}"
        );
    }
    good(&least_and(
        "authorization: {paths: {deny: [/debug/pprof/, /checkpoint]}}",
    ));
    assert_eq!(
        good(&least_and("audit: {path: '-'}\nadmin: {listen: ''}")).admin_listen,
        None
    );
    assert_eq!(good(&least_and("audit: {path: ''}")).audit.sink, AuditSink::Off);
}

#[test]
fn missing_keys_are_named() {
    for (key, line) in [
        ("listen", "listen:"),
        ("tlsCertFile", "tlsCertFile:"),
        ("tlsPrivateKeyFile", "tlsPriv"),
    ] {
        let text: String = LEAST
            .lines()
            .filter(|l| !l.starts_with(line))
            .map(|l| format!("{l}\n"))
            .collect();
        let said = error(&text);
        assert!(
            said.starts_with(&format!("/etc/gate/gate.yaml: {key}: is missing; ")),
            "{said}"
        );
    }
    assert!(error(&upstream("{}")).contains("upstream.url: is missing; write https://127.0.0.1:10250"));
}

#[test]
fn old_tls_versions_are_read_with_a_warning() {
    let settings = good(&least_and("tlsMinVersion: VersionTLS10"));
    assert_eq!(settings.tls.min_version, TlsVersion::Tls12);
    assert!(settings.warnings[0].contains(":7: tlsMinVersion: TLS 1.0 and 1.1 are not offered"));
    assert_eq!(
        good(&least_and("tlsMinVersion: ''")).tls.min_version,
        TlsVersion::Tls12
    );
    assert_eq!(
        good(&least_and("tlsMinVersion: VersionTLS13")).tls.min_version,
        TlsVersion::Tls13
    );
}

// --- upstream ---

#[test]
fn the_upstream_is_loopback_and_never_the_read_only_port() {
    let http: SocketAddr = "127.0.0.1:10251".parse().unwrap();
    assert_eq!(
        good(&upstream("{url: 'http://127.0.0.1:10251/'}")).upstream.url,
        UpstreamUrl::Http(http)
    );
    let socket = good(&upstream("{url: 'unix:///run/kubelet.sock'}")).upstream;
    assert_eq!(
        (socket.url, socket.trust),
        (UpstreamUrl::Unix("/run/kubelet.sock".into()), None)
    );
    good(&upstream("{url: 'https://[::1]:10250', certificateFile: a}"));
    good(&upstream(
        "{url: 'https://198.51.100.1:10250', certificateFile: a, allowRemote: true}",
    ));
    for (section, expected) in [
        (
            "{url: 'http://127.0.0.1:10255'}",
            "is the kubelet's read-only port",
        ),
        (
            "{url: 'https://[::1]:10255', certificateFile: a}",
            "is the kubelet's read-only port",
        ),
        (
            "{url: 'https://198.51.100.1:10250', certificateFile: a}",
            "set upstream.allowRemote: true",
        ),
        (
            "{url: 'http://198.51.100.1:10250', allowRemote: true}",
            "unencrypted",
        ),
        (
            "{url: 'https://0.0.0.0:10250', certificateFile: a}",
            "is nothing to connect to",
        ),
        (
            "{url: 'https://127.0.0.1:0', certificateFile: a}",
            "is nothing to connect to",
        ),
        (
            "{url: 'https://localhost:10250', certificateFile: a}",
            "write https://127.0.0.1:10250",
        ),
        (
            "{url: 'https://127.0.0.1', certificateFile: a}",
            "write https://127.0.0.1:10250",
        ),
        (
            "{url: 'https://u:p@127.0.0.1:10250', certificateFile: a}",
            "scheme, IP address and port alone",
        ),
        (
            "{url: 'https://127.0.0.1:10250/pods', certificateFile: a}",
            "scheme, IP address and port alone",
        ),
        (
            "{url: '127.0.0.1:10250'}",
            "is not a URL that the gate can forward to",
        ),
        ("{url: 'unix://run/x.sock'}", "absolute path"),
    ] {
        let said = error(&upstream(section));
        assert!(
            said.contains(":4: upstream.url: ") && said.contains(expected),
            "{section}\n{said}"
        );
    }
}

#[test]
fn the_kubelet_proves_itself_in_exactly_one_way() {
    let ca = good(&upstream(
        "{url: 'https://127.0.0.1:10250', caFile: /ca.crt, serverName: worker-1}",
    ));
    let expected = UpstreamTrust::Ca {
        ca_file: "/ca.crt".into(),
        server_name: "worker-1".to_owned(),
    };
    assert_eq!(ca.upstream.trust, Some(expected));
    for (keys, expected) in [
        ("", "upstream.certificateFile: is missing: https must be verified"),
        (
            ", caFile: a",
            "upstream.serverName: is missing, though upstream.caFile is there",
        ),
        (
            ", serverName: a",
            "upstream.caFile: is missing, though upstream.serverName is there",
        ),
        (
            ", certificateFile: a, caFile: b",
            "upstream.certificateFile: contradicts upstream.caFile",
        ),
        (
            ", certificateFile: a, serverName: b",
            "upstream.certificateFile: contradicts upstream.serverName",
        ),
        (
            ", caFile: a, serverName: 'a b'",
            "upstream.serverName: \"a b\" is neither a DNS name nor an IP address",
        ),
        (
            ", certificateFile: a, clientCertificateFile: b",
            "upstream.clientKeyFile: is missing",
        ),
        (
            ", certificateFile: a, clientKeyFile: b",
            "upstream.clientCertificateFile: is missing",
        ),
    ] {
        let said = error(&upstream(&format!("{{url: 'https://127.0.0.1:10250'{keys}}}")));
        assert!(said.contains(expected), "{keys}\n{said}");
    }
    for key in ["certificateFile", "caFile", "serverName"] {
        let said = error(&upstream(&format!("{{url: 'unix:///run/x.sock', {key}: a}}")));
        assert!(
            said.contains(&format!(
                "upstream.{key}: \"a\" belongs to TLS, but upstream.url is unix://"
            )),
            "{said}"
        );
    }
}

// --- values against each other ---

#[test]
fn contradictions_are_refused() {
    for (more, expected) in [
        (
            "authentication: {webhook: {enabled: false}}",
            "nobody could ever get in",
        ),
        (
            "authentication: {x509: {clientCertificates: Require}}",
            "clientCAFile: is missing, though authentication.x509",
        ),
        (
            "readOnlyPort: {listen: ['192.0.2.10:10250']}",
            "readOnlyPort.listen: 192.0.2.10:10250 is also 192.0.2.10:10250 of listen",
        ),
        (
            "readOnlyPort: {listen: ['127.0.0.1:10250']}",
            "is also 127.0.0.1:10250 of upstream.url",
        ),
        (
            "readOnlyPort: {listen: ['127.0.0.1:10255', '127.0.0.1:10255']}",
            "readOnlyPort.listen[1]: \"127.0.0.1:10255\" is there twice",
        ),
        (
            "admin: {listen: '127.0.0.1:10250'}",
            "admin.listen: 127.0.0.1:10250 is also 127.0.0.1:10250 of upstream.url",
        ),
        ("admin: {listen: '[::ffff:127.0.0.1]:10250'}", "of upstream.url"),
    ] {
        let said = error(&least_and(more));
        assert!(said.contains(expected), "{more}\n{said}");
    }
    let everywhere = LEAST.replace("192.0.2.10:10250", "0.0.0.0:10250");
    assert!(error(&everywhere).contains(":3: listen: 0.0.0.0:10250 is also 127.0.0.1:10250 of upstream.url"));
    let any = LEAST.replace(r#"["192.0.2.10:10250"]"#, r#"["127.0.0.1:0", "127.0.0.1:0"]"#);
    assert_eq!(good(&any).listen.len(), 2, "port 0 is any port");
}

#[test]
fn open_doors_are_warned_about() {
    let warnings = |more: &str| good(&least_and(more)).warnings.join("\n");
    let open = warnings("authentication: {anonymous: {enabled: true}}\nauthorization: {mode: AlwaysAllow}");
    assert!(
        open.contains(":8: authorization.mode: ANYBODY WHO REACHES THE PORT"),
        "{open}"
    );
    assert!(warnings("authorization: {mode: AlwaysAllow}").contains("EVERYBODY WHO AUTHENTICATES"));
    assert!(warnings("authentication: {anonymous: {enabled: true}}").contains("judged as system:anonymous"));
    assert!(warnings("authorization: {interactive: {requireCreate: false}}").contains("requireCreate"));
    assert!(warnings("audit: {path: ''}").contains("nothing is written about any request"));
    assert_eq!(warnings(""), "");
}

#[test]
fn the_api_server_must_be_found_when_it_is_needed() {
    let path = Path::new("gate.yaml");
    let settings = good(LEAST);
    assert!(
        settings
            .api_server(path, false)
            .unwrap_err()
            .to_string()
            .starts_with("gate.yaml: kubeconfig: is missing")
    );
    settings.api_server(path, true).unwrap();
    good(EXAMPLE).api_server(path, false).unwrap();
    let alone = "authentication: {webhook: {enabled: false}, x509: {clientCAFile: a}}\nauthorization: {mode: AlwaysAllow}";
    good(&least_and(alone)).api_server(path, false).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = Settings::load(&folder.path().join("none.yaml"), &KubeletFlags::default())
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("none.yaml: the configuration cannot be read") && said.contains("--config"),
        "{said}"
    );
    let file = folder.path().join("gate.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    assert_eq!(
        Settings::load(&file, &KubeletFlags::default()).unwrap(),
        good(EXAMPLE)
    );
}

// --- flags ---

#[test]
fn flags_win_over_the_file() {
    let flags = flags(&[
        "--anonymous-auth",
        "--client-ca-file=/flag/ca.crt",
        "--authentication-token-webhook=false",
        "--authentication-token-webhook-cache-ttl=1m",
        "--authorization-mode=AlwaysAllow",
        "--authorization-webhook-cache-authorized-ttl",
        "1.5h",
        "--authorization-webhook-cache-unauthorized-ttl=0",
        "--kubeconfig=/flag/kubeconfig",
        "--tls-cert-file=/flag/crt",
        "--tls-private-key-file=/flag/key",
        "--tls-min-version=VersionTLS13",
        "--tls-cipher-suites=TLS_A,TLS_B",
        "--hostname-override=Worker-9",
        "--address=192.0.2.99",
        "--port=10443",
        "--read-only-port=10255",
    ]);
    let settings = Settings::parse(EXAMPLE, Path::new("/etc/gate/gate.yaml"), &flags).unwrap();
    let authentication = settings.authentication;
    assert!(authentication.anonymous && !authentication.webhook);
    assert_eq!(authentication.client_ca_file, Some("/flag/ca.crt".into()));
    assert_eq!(authentication.webhook_cache_ttl, Duration::from_secs(60));
    assert_eq!(settings.authorization.mode, AuthorizationMode::AlwaysAllow);
    assert_eq!(
        settings.authorization.cache_authorized_ttl,
        Duration::from_secs(5400)
    );
    assert_eq!(settings.authorization.cache_unauthorized_ttl, Duration::ZERO);
    assert_eq!(settings.kubeconfig, Some("/flag/kubeconfig".into()));
    assert_eq!(settings.tls.cert_file, PathBuf::from("/flag/crt"));
    assert_eq!(settings.tls.private_key_file, PathBuf::from("/flag/key"));
    assert_eq!(settings.tls.min_version, TlsVersion::Tls13);
    assert_eq!(settings.tls.cipher_suites, ["TLS_A", "TLS_B"]);
    assert_eq!(settings.node_name.as_deref(), Some("worker-9"));
    assert_eq!(settings.listen, ["192.0.2.99:10443".parse().unwrap()]);
    assert_eq!(
        settings.read_only_port.listen,
        ["192.0.2.99:10255".parse().unwrap()]
    );
}

#[test]
fn a_flag_alone_changes_only_its_own_key() {
    let with = |arguments: &[&str], text: &str| {
        Settings::parse(text, Path::new("/etc/gate/gate.yaml"), &flags(arguments)).unwrap()
    };
    let addresses = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<Vec<SocketAddr>>()
    };
    let two = LEAST.replace(
        r#"["192.0.2.10:10250"]"#,
        r#"["192.0.2.10:10250", "192.0.2.11:10250"]"#,
    );
    assert_eq!(
        with(&["--port=1"], &two).listen,
        addresses(&["192.0.2.10:1", "192.0.2.11:1"])
    );
    assert_eq!(with(&["--address=::1"], &two).listen, addresses(&["[::1]:10250"]));
    let none = LEAST.replace("listen: [\"192.0.2.10:10250\"]\n", "");
    assert_eq!(
        with(&["--address=192.0.2.1"], &none).listen,
        addresses(&["192.0.2.1:10250"])
    );
    assert_eq!(with(&["--port=1"], &none).listen, addresses(&["0.0.0.0:1"]));
    let tombstone = least_and("readOnlyPort: {listen: ['192.0.2.10:10255']}");
    assert_eq!(
        with(&["--read-only-port=0"], &tombstone).read_only_port.listen,
        []
    );
    assert_eq!(
        with(&[], &tombstone).read_only_port.listen,
        addresses(&["192.0.2.10:10255"])
    );
    assert_eq!(with(&["--anonymous-auth=false"], LEAST), good(LEAST));
}

#[test]
fn an_error_names_the_flag_it_came_from() {
    let said = |arguments: &[&str]| {
        Settings::parse(LEAST, Path::new("gate.yaml"), &flags(arguments))
            .unwrap_err()
            .to_string()
    };
    assert!(said(&["--authorization-mode=X"]).starts_with("--authorization-mode: \"X\" is not known"));
    assert!(
        said(&["--address=127.0.0.1"])
            .starts_with("--address: 127.0.0.1:10250 is also 127.0.0.1:10250 of upstream")
    );
    for bad in [
        "--port=0",
        "--port=65536",
        "--address=x",
        "--anonymous-auth=yes",
        "--kubeconfig",
    ] {
        assert!(Line::try_parse_from(["kubelet-gate", bad]).is_err(), "{bad}");
    }
    assert!(Line::try_parse_from(["kubelet-gate", "--authentication-token-webhook-cache-ttl=2"]).is_err());
}

// --- what is printed ---

#[test]
fn the_printed_settings_load_as_themselves() {
    let everything = least_and(
        "nodeName: worker-1\nnodeNameFromHost: true\nkubeconfig: k\ntlsMinVersion: VersionTLS13\ntlsCipherSuites: \
         [TLS_A]\nauthentication: {anonymous: {enabled: true}, x509: {clientCAFile: 'with space: #.crt', \
         clientCertificates: Require}, webhook: {cacheTTL: 1500ms, audiences: ['yes', '1']}}\nauthorization: {mode: \
         AlwaysAllow, webhook: {cacheAuthorizedTTL: 1h1s, cacheUnauthorizedTTL: 0s}, interactive: {requireCreate: false, \
         allowedUsers: ['kube-apiserver', 'null'], cacheAuthorizedTTL: 1s}, paths: {deny: [/checkpoint]}}\nreadOnlyPort: \
         {listen: ['[2001:db8::1]:10255']}\nstreamingConnectionIdleTimeout: 0s\nlimits: {idleTimeout: 1m30s, connections: \
         10}\naudit: {path: '-', mode: blocking, commands: show}\nadmin: {listen: ''}\nworkers: 4",
    );
    let remote = upstream(
        "{url: 'https://198.51.100.1:10250', allowRemote: true, caFile: ca, serverName: worker-1, clientCertificateFile: c, \
         clientKeyFile: k, tokenFile: t}",
    );
    let socket = upstream("{url: 'unix:///run/kubelet.sock'}");
    for text in [EXAMPLE, LEAST, &everything, &remote, &socket] {
        let settings = good(text);
        let yaml = settings.to_yaml().unwrap();
        let again = Settings::parse(&yaml, Path::new("/elsewhere/x.yaml"), &KubeletFlags::default())
            .unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        assert_eq!(
            Settings {
                warnings: Vec::new(),
                ..again
            },
            Settings {
                warnings: Vec::new(),
                ..settings
            },
            "{yaml}"
        );
    }
}

// --- any text ---

/// The example with `from` to `to` (in characters) replaced by `with`.
fn spliced(from: usize, length: usize, with: &str) -> String {
    let kept: Vec<char> = EXAMPLE.chars().collect();
    let from = from % kept.len();
    let end = (from + length).min(kept.len());
    kept[..from]
        .iter()
        .copied()
        .chain(with.chars())
        .chain(kept[end..].iter().copied())
        .collect()
}

#[test]
fn a_character_lost_from_any_key_is_found_and_the_key_named() {
    let mut tried = 0;
    let mut sections: Vec<(usize, &str)> = Vec::new();
    for (index, line) in EXAMPLE.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, _)) = line
            .trim_start()
            .split_once(':')
            .filter(|(key, _)| !key.starts_with('#'))
        else {
            continue;
        };
        sections.retain(|(depth, _)| *depth < indent);
        sections.push((indent, key));
        let path = sections.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
        for lost in 0..key.len() {
            let misspelt = format!(
                "{}{}{}",
                &line[..indent + lost],
                &key[lost + 1..],
                &line[indent + key.len()..]
            );
            let lines = EXAMPLE
                .lines()
                .enumerate()
                .map(|(at, old)| if at == index { &misspelt } else { old });
            let said = error(&lines.map(|line| format!("{line}\n")).collect::<String>());
            let place = format!("/etc/gate/gate.yaml:{}: ", index + 1);
            let nearest = format!("the nearest known key is {path}: write {key} or");
            assert!(
                said.starts_with(&place) && said.contains(&nearest),
                "{misspelt}\n{said}"
            );
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
}

proptest! {
    #[test]
    fn any_text_is_refused_or_read_but_never_panics(text in "\\PC*|[a-z:\\[\\]{}&*<>!|#\"' \n-]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_change_to_the_example_is_refused_or_read(
        from in 0..20_000usize,
        length in 0..40usize,
        with in "\\PC{0,10}|[:\\[\\]{}&*!|#\"' \n-]{0,5}",
    ) {
        let _ = parse(&spliced(from, length, &with));
    }

    #[test]
    fn any_value_of_a_text_is_refused_or_printed_as_it_was(value in "\\PC{0,40}", key in 0..200usize) {
        let texts: Vec<_> = known_leaves().into_iter().filter(|(_, default)| default.is_string()).collect();
        let key = &texts[key % texts.len()].0;
        let mut changed = example();
        *key.split('.').fold(&mut changed, |value, segment| &mut value[segment]) = Value::from(value);
        if let Ok(settings) = parse(&changed.to_string()) {
            let again = good(&settings.to_yaml().unwrap());
            prop_assert_eq!(Settings { warnings: Vec::new(), ..again }, Settings { warnings: Vec::new(), ..settings });
        }
    }
}
