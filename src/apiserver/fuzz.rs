//! Fuzz target: an answer to a review, or of an exec plugin, that allows says literally that it does. The
//! tests of the shapes of answers use the same model.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target tells what it found"
)]

use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::exec::Plugin;
use super::kubeconfig::Kubeconfig;
use super::reviews::{TokenAnswer, access_answer, node_info, token_answer};

/// An answer: `r` and its bytes, or `m` and mutations of a refusal, four bytes each, the first of which says
/// which refusal.
///
/// # Panics
/// An answer allows what it does not literally say, or a message shows the token.
pub(crate) fn review_answer(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    if *kind == b'm' {
        let Some((which, plan)) = rest.split_first() else {
            return;
        };
        let refusals = refusals();
        let mut document = refusals[usize::from(*which) % refusals.len()].clone();
        for mutation in plan.chunks_exact(4).take(16) {
            let place = usize::from(u16::from_be_bytes([mutation[0], mutation[1]]));
            mutate(&mut document, (place, mutation[2], usize::from(mutation[3])));
            check(&document, &PLUGIN);
        }
        return;
    }
    shows_no_token(rest);
    match serde_json::from_slice::<Json>(rest) {
        Ok(document) => drop(check(&document, &PLUGIN)),
        Err(_) => {
            assert!(access_answer(rest).is_err() && token_answer(rest, TOKEN).is_err());
            assert!(PLUGIN.read(rest).is_err() && node_info(rest).is_err());
        }
    }
}

/// The token that the answers are about.
const TOKEN: &str = "t0ken-t0ken";

fn shows_no_token(body: &[u8]) {
    let said = match token_answer(body, TOKEN) {
        Ok(TokenAnswer::Authenticated { .. }) => return,
        Ok(TokenAnswer::Rejected { error }) => error.unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    assert!(!said.contains(TOKEN), "{said}");
}

static PLUGIN: LazyLock<Arc<Plugin>> = LazyLock::new(|| {
    let text = format!(
        "current-context: c\nclusters: [{{name: k, cluster: {{server: 'https://192.0.2.1', \
         certificate-authority: ca.crt}}}}]\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         users: [{{name: u, user: {{exec: {{apiVersion: {EXEC}, interactiveMode: Never, command: p}}}}}}]\n"
    );
    let kubeconfig = Kubeconfig::parse(Path::new("/k"), &text).expect("a kubeconfig");
    kubeconfig.plugin.expect("its plugin")
});

/// A JSON value that may have a key twice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

use Json::{Bool, List, Null, Number, Object, Text};

pub(super) fn text(text: &str) -> Json {
    Text(text.to_owned())
}

pub(super) fn object<const N: usize>(entries: [(&str, Json); N]) -> Json {
    Object(entries.map(|(key, value)| (key.to_owned(), value)).into())
}

pub(super) fn answer(kind: &str, version: &str, status: Json) -> Json {
    object([
        ("kind", text(kind)),
        ("apiVersion", text(version)),
        ("metadata", object([])),
        ("status", status),
    ])
}

pub(super) fn access(status: Json) -> Json {
    answer("SubjectAccessReview", "authorization.k8s.io/v1", status)
}

pub(super) fn token(status: Json) -> Json {
    answer("TokenReview", "authentication.k8s.io/v1", status)
}

pub(super) const EXEC: &str = "client.authentication.k8s.io/v1";

/// Answers that do not allow.
pub(super) fn refusals() -> Vec<Json> {
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

/// Reads every key of an object, also one that is there twice.
struct JsonVisitor;

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(JsonVisitor)
    }
}

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Number(value))
    }

    // The size of a number does not matter here.
    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Number(1))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Number(1))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Object(object))
    }
}

/// One mutation: of which value, of which kind, with which word.
pub(super) fn mutate(document: &mut Json, (place, kind, word): (usize, u8, usize)) {
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

/// Checks one document in every reader; yields whether one of them was convinced.
pub(super) fn check(document: &Json, plugin: &Plugin) -> bool {
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
