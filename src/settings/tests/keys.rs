//! Keys: unknown, misplaced, mistyped, without effect, pasted from a kubelet.

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
fn a_key_that_several_sections_have_is_sent_to_all_of_them() {
    let said = error(&least_and("cacheAuthorizedTTL: 1m"));
    assert!(
        said.ends_with(
            "unknown key here; the nearest known keys are authorization.interactive.cacheAuthorizedTTL, \
             authorization.webhook.cacheAuthorizedTTL: use one of them or remove this one"
        ),
        "{said}"
    );
}

/// Seen red: `frobnicate` was said to be near `nodeName`.
#[test]
fn a_key_like_no_other_gets_the_list_and_no_advice() {
    assert_eq!(
        error(&least_and("audit: {zzzzzz: 1}")),
        "/etc/gate/gate.yaml:7: audit.zzzzzz: unknown key; the keys of this place are commands, \
         maxBackups, maxSizeMB, mode, path, strangers: use one of them or remove this one"
    );
    let said = error(&least_and("frobnicate: 1"));
    assert!(
        said.contains("unknown key; the keys of this place are admin, ") && !said.contains("nearest"),
        "{said}"
    );
}

#[test]
fn what_follows_from_a_problem_is_not_a_problem_of_its_own() {
    for (from, to) in [
        ("listen: [\"192.0.2.10:10250\"]", "listen: [1]"),
        ("listen: [\"192.0.2.10:10250\"]", "lisetn: [\"192.0.2.10:10250\"]"),
        (
            "upstream: {url: \"https://127.0.0.1:10250\", certificateFile: kubelet.crt}",
            "upstream: 3",
        ),
        ("tlsCertFile: gate.crt", "tlsCertFile: [gate.crt]"),
    ] {
        assert!(LEAST.contains(from));
        let said = error(&LEAST.replace(from, to));
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn keys_and_values_are_told_together() {
    let said = error(&least_and(
        "wrokers: 1\nworkers: 0\nlimits: {idleTimeout: 3}\naudit: {mode: no-such}",
    ));
    let lines: Vec<_> = said
        .lines()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>())
        .collect();
    assert_eq!(
        lines,
        [
            ["/etc/gate/gate.yaml:7", "wrokers"],
            ["/etc/gate/gate.yaml:9", "limits.idleTimeout"],
            ["/etc/gate/gate.yaml:10", "audit.mode"],
            ["/etc/gate/gate.yaml:8", "workers"],
        ],
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
            ":7: audit: 3 is not a mapping; write the keys below it, indented: commands, maxBackups, maxSizeMB, \
             mode, path, strangers",
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
            ":7: readOnlyPort: 0 is not a mapping; write the keys below it, indented: answer, healthz, \
             listen",
        ),
    ] {
        let said = error(&least_and(more));
        assert!(said.contains(expected), "{more}\n{said}");
    }
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

/// The file that earlier versions wrote and printed, with every key of a feature that is not built.
const WITHOUT_EFFECT: &str = "\
enforcement: Enforce
";

#[test]
fn a_key_without_effect_is_read_with_a_warning_and_changes_nothing() {
    let settings = good(&least_and(WITHOUT_EFFECT));
    let warned: Vec<_> = settings
        .warnings
        .iter()
        .map(|said| said.split(':').nth(1).unwrap())
        .collect();
    assert_eq!(warned, ["7"]);
    assert_eq!(
        settings.warnings[0],
        "/etc/gate/gate.yaml:7: `enforcement` has no effect in this version: every decision is enforced, and \
         there is no report mode; remove the key"
    );
    assert_eq!(without_warnings(settings), good(LEAST));
}

#[test]
fn a_promise_that_is_not_kept_is_refused_and_never_ignored() {
    assert_eq!(
        error(&least_and("enforcement: Report")),
        "/etc/gate/gate.yaml:7: enforcement: \"Report\" is not possible in this version: every decision is \
         enforced, and there is no report mode; remove the key"
    );
    assert!(error(&least_and("streams: 3")).contains(":7: streams: 3 is not a mapping"));
    assert!(
        error(&least_and("enforcement: 3")).contains(":7: enforcement: 3 is not possible in this version")
    );
    assert!(error(&least_and("enforcement:")).contains(":7: enforcement: nothing is written here"));
    assert!(
        error(&least_and("enforcement: Enforce\nenforcement: Report"))
            .contains("the key is already on line 7")
    );
}

#[test]
fn blocks_of_a_kubelet_configuration_can_be_pasted() {
    let settings = good(&least_and(
        "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 1m30s\n    enabled: \
         true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  \
         webhook:\n    cacheAuthorizedTTL: 5m0s\n    cacheUnauthorizedTTL: \
         0s\nstreamingConnectionIdleTimeout: 1h0m0s",
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
         cacheUnauthorizedTTL: 0s}, interactive: {cacheAuthorizedTTL: '0'}}\nstreamingConnectionIdleTimeout: \
         0s",
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
