//! Static rules and stale answers: what is possible, and what an operator is told.

use super::*;

/// A rule for a name that every client has would be AlwaysAllow by another name.
///
/// (Not seen red.)
#[test]
fn a_static_rule_names_neither_everyone_nor_every_pod() {
    for name in [
        "system:authenticated",
        "system:unauthenticated",
        "system:anonymous",
        "system:serviceaccounts",
        " system:authenticated",
        "*",
        "system:serviceaccount:monitoring:*",
    ] {
        for list in ["users", "groups"] {
            let rule = format!("{{{list}: [a, '{name}'], verbs: [get], subresources: [metrics]}}");
            let said = error(&least_and(&format!("authorization: {{static: [{rule}]}}")));
            let expected = format!("authorization.static[0].{list}[1]: \"{name}\" ");
            assert!(said.contains(&expected), "{said}");
            assert!(said.contains("write the exact name of a user or group"), "{said}");
        }
    }
}

#[test]
fn static_rules_and_stale_answers_are_read_printed_and_warned_about() {
    let rules = "authorization:
  static:
  - {groups: ['system:serviceaccounts:monitoring'], verbs: [get], subresources: [metrics, stats]}
  - users: [prometheus]
    verbs: [get]
    subresources: [healthz]
  webhook: {staleAllow: {maxAge: 10m, subresources: [metrics]}}";
    let settings = good(&least_and(rules));
    let [first, second] = settings.authorization.static_rules.as_slice() else {
        panic!("two rules");
    };
    assert_eq!(first.groups, ["system:serviceaccounts:monitoring"]);
    assert_eq!(second.users, ["prometheus"]);
    assert_eq!(
        settings.authorization.stale_allow.max_age,
        Duration::from_secs(600)
    );
    let [warning] = settings.warnings.as_slice() else {
        panic!("{:?}", settings.warnings);
    };
    assert!(
        warning.starts_with("/etc/gate/gate.yaml:9: authorization.static: ")
            && warning.contains("if an authorizer of the API server denies it, the gate does not see that"),
        "{warning}"
    );
    let printed = settings.to_yaml().unwrap();
    assert_eq!(without_warnings(good(&printed)), without_warnings(settings));

    let short = good(&least_and("authorization: {webhook: {staleAllow: {maxAge: 1m}}}"));
    assert!(
        short.warnings[0].contains("staleAllow.maxAge: has no effect"),
        "{:?}",
        short.warnings
    );
    let ignored = good(&least_and(
        "authorization: {mode: AlwaysAllow, static: [{users: [a], verbs: [get], subresources: [stats]}]}",
    ));
    let said = ignored.warnings.join("\n");
    assert!(
        said.contains("authorization.static: has no effect while"),
        "{said}"
    );
}
