//! No mutation of a refusal allows: an answer in which an object became a list, or a key changed its place,
//! name or type, is an error or a refusal, unless it literally says what an allowing answer says.

use std::path::Path;

use proptest::prelude::*;

use super::server::kubeconfig_text;
use crate::apiserver::exec::Plugin;
use crate::apiserver::reviews::{access_answer, node_info, token_answer};
use crate::apiserver::{Kubeconfig, TokenAnswer};

/// A JSON value that may have a key twice.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

use Json::{Bool, List, Null, Number, Object, Text};

fn text(text: &str) -> Json {
    Text(text.to_owned())
}

fn object<const N: usize>(entries: [(&str, Json); N]) -> Json {
    Object(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

fn answer(kind: &str, version: &str, status: Json) -> Json {
    object([
        ("kind", text(kind)),
        ("apiVersion", text(version)),
        ("metadata", object([])),
        ("status", status),
    ])
}

fn access(status: Json) -> Json {
    answer("SubjectAccessReview", "authorization.k8s.io/v1", status)
}

fn token(status: Json) -> Json {
    answer("TokenReview", "authentication.k8s.io/v1", status)
}

const EXEC: &str = "client.authentication.k8s.io/v1";

/// Answers that do not allow.
fn refusals() -> Vec<Json> {
    let denied = [("allowed", Bool(false)), ("denied", Bool(true))];
    let user = object([
        ("username", text("admin")),
        ("groups", List(vec![text("system:masters")])),
        ("extra", object([("k", List(vec![text("v")]))])),
    ]);
    vec![
        access(object(denied.clone())),
        access(object([("allowed", Bool(false)), ("reason", text("true"))])),
        access(object([
            ("reason", text("no word on it")),
            ("denied", Bool(false)),
        ])),
        token(object([("user", user.clone()), ("error", text("bad token"))])),
        token(object([("authenticated", Bool(false)), ("user", user.clone())])),
        token(object([
            ("authenticated", Bool(true)),
            ("user", user),
            ("error", text("or not")),
        ])),
        token(object([("authenticated", Bool(true)), ("user", object([]))])),
        answer("ExecCredential", EXEC, Null),
        answer("ExecCredential", EXEC, object([("expirationTimestamp", Null)])),
        answer("Status", "v1", text("Failure")),
        // With an item that would be an allowing status.
        List(vec![
            text("SubjectAccessReview"),
            text("authorization.k8s.io/v1"),
            object([("allowed", Bool(true))]),
        ]),
        object([("items", List(vec![access(object([("allowed", Bool(true))]))]))]),
    ]
}

const KEYS: [&str; 14] = [
    "kind",
    "apiVersion",
    "status",
    "spec",
    "allowed",
    "denied",
    "authenticated",
    "user",
    "username",
    "error",
    "token",
    "Status",
    "ALLOWED",
    "status.allowed",
];

fn values() -> Vec<Json> {
    vec![
        Null,
        Bool(true),
        Bool(false),
        Number(0),
        Number(1),
        text(""),
        text("true"),
        text("SubjectAccessReview"),
        List(vec![]),
        List(vec![Bool(true)]),
        List(vec![Bool(true), Null, text("")]),
        object([]),
        object([("allowed", Bool(true))]),
        object([("username", text("admin"))]),
        List(vec![Bool(true), List(vec![text("admin")])]),
    ]
}

// === impl Json ===

impl Json {
    fn write(&self, out: &mut String) {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Null => out.push_str("null"),
            Bool(value) => out.push_str(&value.to_string()),
            Number(value) => out.push_str(&value.to_string()),
            Text(text) => out.push_str(&quoted(text)),
            List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    item.write(out);
                }
                out.push(']');
            }
            Object(entries) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    out.push_str(&quoted(key));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    /// How many values it has, itself included.
    fn size(&self) -> usize {
        1 + match self {
            List(items) => items.iter().map(Self::size).sum(),
            Object(entries) => entries.iter().map(|(_, value)| value.size()).sum::<usize>(),
            _ => 0,
        }
    }

    /// Changes the value of this number, counted from itself downwards.
    fn change(&mut self, number: &mut usize, change: &dyn Fn(&mut Self)) {
        if *number == 0 {
            change(self);
        }
        *number = number.wrapping_sub(1);
        match self {
            _ if *number > usize::MAX / 2 => {}
            List(items) => items.iter_mut().for_each(|item| item.change(number, change)),
            Object(entries) => entries
                .iter_mut()
                .for_each(|(_, value)| value.change(number, change)),
            _ => {}
        }
    }

    /// The value under a key that an object has exactly once.
    fn only(&self, key: &str) -> Option<&Self> {
        let Object(entries) = self else { return None };
        let mut found = entries.iter().filter(|(name, _)| name == key);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }

    /// Whether an object has a key with a value other than null or `zero`.
    fn says(&self, key: &str, zero: &Self) -> bool {
        let Object(entries) = self else { return false };
        let mut found = entries.iter().filter(|(name, _)| name == key);
        found.any(|(_, value)| value != &Null && value != zero)
    }

    fn is_of(&self, kind: &str, version: &str) -> bool {
        self.only("kind") == Some(&text(kind)) && self.only("apiVersion") == Some(&text(version))
    }

    fn says_allowed(&self) -> bool {
        let status = self.only("status");
        self.is_of("SubjectAccessReview", "authorization.k8s.io/v1")
            && status.is_some_and(|status| {
                status.only("allowed") == Some(&Bool(true)) && !status.says("denied", &Bool(false))
            })
    }

    fn says_authenticated(&self) -> bool {
        let status = self.only("status");
        self.is_of("TokenReview", "authentication.k8s.io/v1")
            && status.is_some_and(|status| {
                let user = status.only("user").and_then(|user| user.only("username"));
                status.only("authenticated") == Some(&Bool(true))
                    && !status.says("error", &text(""))
                    && matches!(user, Some(Text(name)) if !name.is_empty())
            })
    }

    fn says_token(&self) -> bool {
        let token = self.only("status").and_then(|status| status.only("token"));
        self.is_of("ExecCredential", EXEC) && matches!(token, Some(Text(token)) if !token.is_empty())
    }
}

/// One mutation: of which value, of which kind, with which word.
fn mutate(document: &mut Json, (place, kind, word): (usize, u8, usize)) {
    let (key, values) = (KEYS[word % KEYS.len()].to_owned(), values());
    let value = values[word % values.len()].clone();
    let mut number = place % document.size();
    document.change(&mut number, &|node: &mut Json| {
        let whole = node.clone();
        match (kind % 10, &mut *node) {
            (0, Object(entries)) => *node = List(entries.iter().map(|(_, value)| value.clone()).collect()),
            (0, List(items)) => {
                let keys = KEYS.iter().skip(word % KEYS.len()).map(ToString::to_string);
                *node = Object(keys.zip(items.iter().cloned()).collect());
            }
            (1, _) => *node = List(vec![whole]),
            (2, _) => *node = Object(vec![(key.clone(), whole)]),
            (3, Object(entries)) if !entries.is_empty() => {
                let index = word % entries.len();
                entries[index].0.clone_from(&key);
            }
            (4, Object(entries)) if !entries.is_empty() => drop(entries.remove(word % entries.len())),
            (5, Object(entries)) if !entries.is_empty() => {
                let (key, _) = entries[word % entries.len()].clone();
                entries.insert(place % (entries.len() + 1), (key, value.clone()));
            }
            (6, Object(entries)) => entries.reverse(),
            (6, List(items)) => items.reverse(),
            (7, Object(entries)) if !entries.is_empty() => {
                let index = word % entries.len();
                entries[index].0 = entries[index].0.to_uppercase();
            }
            (8, Object(entries)) => entries.push((key.clone(), value.clone())),
            (8, List(items)) => items.push(value.clone()),
            (_, node) => *node = value.clone(),
        }
    });
}

fn plugin() -> std::sync::Arc<Plugin> {
    let exec = format!("exec: {{apiVersion: {EXEC}, interactiveMode: Never, command: p}}");
    let text = kubeconfig_text("https://192.0.2.1", "certificate-authority: ca.crt", &exec);
    let kubeconfig = Kubeconfig::parse(Path::new("/k"), &text).unwrap();
    kubeconfig.plugin.unwrap()
}

/// Checks one document in every reader; yields whether one of them was convinced.
fn check(document: &Json, plugin: &Plugin) -> bool {
    let text = document.text();
    let body = text.as_bytes();
    let allowed = access_answer(body).is_ok_and(|answer| answer.allowed);
    let known = matches!(token_answer(body, ""), Ok(TokenAnswer::Authenticated { .. }));
    let issued = plugin.read(body).is_ok();
    assert!(!allowed || document.says_allowed(), "allowed by {text}");
    assert!(!known || document.says_authenticated(), "authenticated by {text}");
    assert!(!issued || document.says_token(), "a credential by {text}");
    for bytes in [[body, b"x"].concat(), [body, body].concat()] {
        assert!(access_answer(&bytes).is_err() && token_answer(&bytes, "").is_err());
        assert!(plugin.read(&bytes).is_err() && node_info(&bytes).is_err());
    }
    allowed || known || issued
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
