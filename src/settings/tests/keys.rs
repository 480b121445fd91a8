//! Keys: unknown, misplaced, mistyped, not yet, pasted from a kubelet.

use super::*;

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
            ":7: readOnlyPort: 0 is not a mapping; write the keys below it, indented: answer, healthz, listen",
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
    assert!(
        error("").ends_with("nothing is no configuration; begin with apiVersion: kubelet-gate.dev/v1alpha1")
    );
    assert!(error("- a").contains(":1: a list is no configuration"));
    assert!(error(&least_and("workers: !odd 1")).contains(":7: the file is not the YAML it should be"));
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

#[test]
fn blocks_of_a_kubelet_configuration_can_be_pasted() {
    let settings = good(&least_and(
        "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 1m30s\n    enabled: true\n  x509:\n    \
         clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: \
         5m0s\n    cacheUnauthorizedTTL: 0s\nstreamingConnectionIdleTimeout: 1h0m0s",
    ));
    assert_eq!(settings.authentication.webhook_cache_ttl, Duration::from_secs(90));
    assert_eq!(
        settings.tls.client_ca_file.as_deref(),
        Some(Path::new("/etc/kubernetes/pki/ca.crt"))
    );
    assert_eq!(
        settings.authorization.cache_unauthorized_ttl,
        Duration::from_secs(30)
    );
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn zero_in_the_file_is_not_set_as_kubeadm_writes_it() {
    let zeroes = good(&least_and(
        "authentication: {webhook: {cacheTTL: 0s}}\nauthorization: {webhook: {cacheAuthorizedTTL: 0s, \
         cacheUnauthorizedTTL: 0s}, interactive: {cacheAuthorizedTTL: '0'}}\nstreamingConnectionIdleTimeout: 0s",
    ));
    assert_eq!(zeroes, good(LEAST));
    assert_eq!(
        zeroes.streaming_connection_idle_timeout,
        Duration::from_secs(4 * 3600)
    );
    assert_eq!(
        zeroes.authorization.interactive.cache_authorized_ttl,
        Duration::from_secs(10)
    );
}

#[test]
fn json_is_yaml_too() {
    assert_eq!(good(&example().to_string()), good(EXAMPLE));
}
