//! No mutation of a refusal allows: an answer in which an object became a list, or a key changed its place,
//! name or type, is an error or a refusal, unless it literally says what an allowing answer says.

use std::path::Path;

use proptest::prelude::*;

use super::server::kubeconfig_text;
use crate::apiserver::Kubeconfig;
use crate::apiserver::exec::Plugin;
use crate::apiserver::fuzz::Json::{Bool, Null};
use crate::apiserver::fuzz::{EXEC, access, answer, check, mutate, object, refusals, text, token};
use crate::apiserver::reviews::{access_answer, node_info, token_answer};

fn plugin() -> std::sync::Arc<Plugin> {
    let exec = format!("exec: {{apiVersion: {EXEC}, interactiveMode: Never, command: p}}");
    let text = kubeconfig_text("https://192.0.2.1", "certificate-authority: ca.crt", &exec);
    let kubeconfig = Kubeconfig::parse(Path::new("/k"), &text).unwrap();
    kubeconfig.plugin.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Seen red: with `serde_json::from_slice` in `json::read` ("allowed by" a list for the status), and with
    /// `visit_map` taking the last of two equal keys.
    #[test]
    fn no_mutation_of_a_refusal_allows(
        which in any::<usize>(),
        mutations in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<usize>()), 1..6),
    ) {
        let (refusals, plugin) = (refusals(), plugin());
        let mut document = refusals[which % refusals.len()].clone();
        assert!(!check(&document, &plugin), "not a refusal: {document:?}");
        for mutation in mutations {
            mutate(&mut document, mutation);
            check(&document, &plugin);
        }
    }
}

/// The search reaches answers that allow: what is literally said is understood.
#[test]
fn what_is_literally_said_is_understood() {
    let plugin = plugin();
    let user = object([("username", text("u"))]);
    for document in [
        access(object([("allowed", Bool(true)), ("denied", Null)])),
        token(object([("authenticated", Bool(true)), ("user", user)])),
        answer("ExecCredential", EXEC, object([("token", text("t"))])),
    ] {
        assert!(check(&document, &plugin), "{document:?}");
    }
}

/// Each of these is read as an object by the code that serde derives.
#[test]
fn a_list_is_no_object_at_any_level() {
    let access = |status: &str| {
        format!(
            r#"{{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{status}}}"#
        )
    };
    for body in [
        access("[true]"),
        access("[true,false,\"\"]"),
        access("[[true]]"),
        access(r#"{"allowed":true,"allowed":true}"#),
        access(r#"{"allowed":false},"status":{"allowed":true}"#),
        access(r#"{"allowed":false,"allowed":true}"#),
        r#"["SubjectAccessReview","authorization.k8s.io/v1",{"allowed":true}]"#.to_owned(),
        "[".repeat(200_000),
        access(&format!("{}{}", r#"{"a":"#.repeat(5000), "}".repeat(5000))),
    ] {
        assert!(access_answer(body.as_bytes()).is_err(), "{:.200}", body);
    }
    let token = |status: &str| {
        format!(r#"{{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{status}}}"#)
    };
    for status in [
        r#"[true,{"username":"admin"}]"#,
        r#"{"authenticated":true,"user":["admin"]}"#,
        r#"{"authenticated":true,"user":{"username":["admin"]}}"#,
        r#"{"authenticated":true,"user":{"username":"u","groups":{"0":"system:masters"}}}"#,
        r#"{"authenticated":true,"user":{"username":"u","groups":"system:masters"}}"#,
        r#"{"authenticated":true,"user":{"username":"u","extra":["a"]}}"#,
        r#"{"authenticated":true,"user":{"username":"u","extra":{"a":["b"],"a":["c"]}}}"#,
        r#"{"authenticated":true,"user":{"username":"u","uid":7}}"#,
        r#"{"authenticated":true,"user":{"username":"u"},"audiences":"gate"}"#,
    ] {
        assert!(token_answer(token(status).as_bytes(), "").is_err(), "{status}");
    }
    let node = |status: &str| format!(r#"{{"kind":"Node","apiVersion":"v1","status":{status}}}"#);
    assert!(node_info(node(r#"{"nodeInfo":{"bootID":"b"}}"#).as_bytes()).is_ok());
    for status in [r#"[["b","m","s"]]"#, r#"{"nodeInfo":["b","m","s"]}"#, "null"] {
        assert!(node_info(node(status).as_bytes()).is_err(), "{status}");
    }
    for output in [
        format!(r#"["ExecCredential",{EXEC:?},{{"token":"t"}}]"#),
        format!(r#"{{"kind":"ExecCredential","apiVersion":{EXEC:?},"status":["t"]}}"#),
    ] {
        assert!(plugin().read(output.as_bytes()).is_err(), "{output}");
    }
}

/// A kubeconfig's sections are mappings, and its values have the types that they have for client-go.
#[test]
fn a_kubeconfig_is_not_read_by_guessing() {
    let good = ("https://192.0.2.1", "certificate-authority: ca.crt", "token: t");
    let parse = |text: &str| Kubeconfig::parse(Path::new("/k"), text);
    assert!(parse(&kubeconfig_text(good.0, good.1, good.2)).is_ok());
    for (cluster, user) in [
        (good.1, "token: [t]"),
        (good.1, "token: {a: b}"),
        (good.1, "token: t, token: u"),
        (good.1, "exec: [client.authentication.k8s.io/v1, p]"),
        (
            good.1,
            "exec: {apiVersion: client.authentication.k8s.io/v1, command: p, interactiveMode: Never, \
                  env: [[a, b]]}",
        ),
        (
            "certificate-authority: ca.crt, insecure-skip-tls-verify: 'true'",
            good.2,
        ),
        (
            "certificate-authority: ca.crt, insecure-skip-tls-verify: yes",
            good.2,
        ),
        (
            "certificate-authority: ca.crt, insecure-skip-tls-verify: on",
            good.2,
        ),
        (
            "certificate-authority: ca.crt, insecure-skip-tls-verify: 1",
            good.2,
        ),
        (
            "certificate-authority: ca.crt, insecure-skip-tls-verify: [true]",
            good.2,
        ),
    ] {
        let read = parse(&kubeconfig_text(good.0, cluster, user));
        assert!(read.is_err(), "{cluster} {user}");
    }
    for text in [
        "[c, [[k, {server: 'https://192.0.2.1', certificate-authority: ca}]], [[c, {cluster: k, user: u}]], \
         [[u, {token: t}]]]",
        "current-context: c\nclusters: [[k, {server: 'https://192.0.2.1', certificate-authority: ca}]]\n\
         contexts: [[c, {cluster: k, user: u}]]\nusers: [[u, {token: t}]]\n",
        "current-context: c\nclusters: [{name: k, cluster: ['https://192.0.2.1']}]\n\
         contexts: [{name: c, context: [k, u]}]\nusers: [{name: u, user: [t]}]\n",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}
