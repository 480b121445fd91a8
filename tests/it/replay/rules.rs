//! What the gate does otherwise than the kubelet on purpose: which rows, and what it does instead.
//!
//! The predictions are made from the recording and the tables below, without the gate's code.

use std::fmt;

use serde_json::{Value, json};

use super::recording::{NODE, Recording, Row};

/// What happened to a request.
#[derive(Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) status: u16,
    /// Header lines of the answer, sorted; only those that [`told`] keeps.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Kind and whole `spec` of each review, in order.
    pub(super) reviews: Vec<(String, Value)>,
    /// How often the request reached the kubelet.
    pub(super) forwarded: usize,
}

/// One difference.
pub(super) struct Rule {
    pub(super) name: &'static str,
    /// The section of the design that decides it.
    pub(super) section: &'static str,
    pub(super) covers: fn(&Row, &Recording) -> bool,
    /// What the gate does with the row of this number.
    pub(super) instead: fn(usize, &Recording) -> Outcome,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        writeln!(
            f,
            "  {} {:?} {body:?}, forwarded {} times",
            self.status, self.headers, self.forwarded
        )?;
        self.reviews
            .iter()
            .try_for_each(|(kind, spec)| writeln!(f, "  {kind} {spec}"))
    }
}

/// All differences. Each row is covered by at most one of them, and then it does differ.
pub(super) const RULES: [Rule; 13] = [
    Rule {
        name: "malformed HTTP gets the library's bare 400",
        section: "5.5",
        covers: |row, _| refusal(row) == Some(Refusal::Malformed),
        instead: |number, recording| refused(&recording.rows[number], 400, Vec::new(), ""),
    },
    Rule {
        name: "a folded header line is malformed",
        section: "5.5",
        covers: |row, _| refusal(row) == Some(Refusal::Folded),
        instead: |number, recording| refused(&recording.rows[number], 400, Vec::new(), ""),
    },
    Rule {
        name: "only GET HEAD POST PUT PATCH DELETE, else 405",
        section: "5.3",
        covers: |row, _| refusal(row) == Some(Refusal::Method),
        instead: |number, recording| {
            let row = &recording.rows[number];
            let allow = (
                "allow".to_owned(),
                "GET, HEAD, POST, PUT, PATCH, DELETE".to_owned(),
            );
            refused(row, 405, vec![allow, plain_text()], "405: Method Not Allowed")
        },
    },
    Rule {
        name: "an ambiguous path is 400",
        section: "5.3",
        covers: |row, _| matches!(refusal(row), Some(Refusal::Path(_))),
        instead: bad_request,
    },
    Rule {
        name: "an upgrade to something unknown, or asked for twice, is 400",
        section: "5.5",
        covers: |row, _| matches!(refusal(row), Some(Refusal::Upgrade(_))),
        instead: bad_request,
    },
    Rule {
        name: "401 before 404 and 307",
        section: "5.3",
        covers: |row, recording| {
            is_authenticated_by_gate(row)
                && is_answered_unauthenticated(row)
                && recording.user(&row.identity).is_none()
        },
        instead: |number, recording| decided(number, recording, None),
    },
    Rule {
        name: "403 before 404 and 307",
        section: "5.3",
        covers: |row, recording| {
            is_authenticated_by_gate(row)
                && is_answered_unauthenticated(row)
                && may(row, recording) == Some(false)
        },
        instead: decided_by_table,
    },
    Rule {
        name: "reviews before 404 and 307",
        section: "5.3",
        covers: |row, recording| {
            is_authenticated_by_gate(row)
                && is_answered_unauthenticated(row)
                && !row.target.contains('#')
                && may(row, recording) == Some(true)
        },
        instead: decided_by_table,
    },
    Rule {
        name: "a fragment is cut off the target by the library, before anything is decided",
        section: "5.3",
        covers: |row, recording| {
            is_authenticated_by_gate(row) && row.target.contains('#') && may(row, recording) == Some(true)
        },
        instead: decided_by_table,
    },
    Rule {
        name: "HEAD is get",
        section: "5.3",
        covers: |row, _| asked(row) && row.method == "HEAD" && !interactive(row),
        instead: decided_by_table,
    },
    Rule {
        name: "exec, attach, run and portForward are create",
        section: "5.3",
        covers: |row, recording| {
            asked(row) && row.method != "POST" && interactive(row) && may(row, recording) == Some(true)
        },
        instead: decided_by_table,
    },
    Rule {
        name: "exec, attach, run and portForward are create, and refused without it",
        section: "5.3",
        covers: |row, recording| {
            asked(row) && row.method != "POST" && interactive(row) && may(row, recording) == Some(false)
        },
        instead: decided_by_table,
    },
    Rule {
        name: "an upgrade that succeeds without 101 is 502",
        section: "5.5",
        covers: |row, _| asked(row) && upgrade(row) && interactive(row) && row.status == 200,
        instead: |number, recording| {
            let row = &recording.rows[number];
            let told = "the kubelet gave an upgrade an answer that is not passed on\n";
            let bad_gateway = refused(row, 502, vec![plain_text()], told);
            let Outcome {
                reviews, forwarded, ..
            } = recorded(number, recording);
            Outcome {
                reviews,
                forwarded,
                ..bad_gateway
            }
        },
    },
];

/// Why a request is refused before authentication.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusal {
    Malformed,
    Folded,
    Method,
    Path(&'static str),
    Upgrade(&'static str),
}

/// The ambiguous targets, and the answer's explanation.
const AMBIGUOUS: [(&str, &str); 23] = [
    ("*", NOT_A_PATH),
    ("/./pods", DOT),
    ("//evil.example/metrics", EMPTY),
    ("//metrics", EMPTY),
    ("//pods", EMPTY),
    ("/exec//default/bb/c", EMPTY),
    ("/logs/%2e%2e%2f%2e%2e%2fetc/passwd", SLASH),
    ("/logs/%2e%2e/pods", DOT),
    ("/logs/..%2f..%2fetc/passwd", SLASH),
    ("/logs/../pods", DOT),
    ("/metrics%2fcadvisor", SLASH),
    ("/metrics/%2e%2e/run/default/bb/c?cmd=id", DOT),
    ("/metrics/../run/default/bb/c?cmd=id", DOT),
    ("/pods%zz", "the path has an incomplete percent-encoding\n"),
    ("/pods/../metrics", DOT),
    ("/pods/./", DOT),
    ("/pods\\..\\metrics", "the path has a backslash\n"),
    ("/stats%2Fsummary", SLASH),
    ("/stats/..%2fexec/default/bb/c", SLASH),
    ("/stats/../exec/default/bb/c", DOT),
    ("http://evil.example", ABSOLUTE),
    ("http://evil.example/pods", ABSOLUTE),
    ("pods", ABSOLUTE),
];
const ABSOLUTE: &str = "the request target must be a path: absolute-form is refused\n";
const DOT: &str = "the path has a dot segment\n";
const EMPTY: &str = "the path has an empty segment\n";
const NOT_A_PATH: &str = "the request target must be a path starting with /\n";
const SLASH: &str = "the path has an encoded slash\n";

/// Targets that are no URI.
const NO_TARGETS: [&str; 2] = ["\\pods", "?x"];

/// The kubelet's table of paths, by their first segment.
const SUBRESOURCES: [(&str, &[&str]); 10] = [
    ("checkpoint", &["checkpoint"]),
    ("configz", &["configz", "proxy"]),
    ("flagz", &["configz"]),
    ("healthz", &["healthz", "proxy"]),
    ("logs", &["log"]),
    ("metrics", &["metrics"]),
    ("pods", &["pods", "proxy"]),
    ("runningpods", &["pods", "proxy"]),
    ("stats", &["stats"]),
    ("statusz", &["statusz"]),
];

/// Whether this header of an answer is compared. The others depend on the connection or the time; the length
/// of an answer to HEAD does not.
pub(super) fn told(name: &str, method: &str) -> bool {
    match name {
        "connection" | "date" | "transfer-encoding" => false,
        "content-length" => method == "HEAD",
        _ => true,
    }
}

/// What the kubelet did, with the test's own certificate and token in place of the recorded ones.
pub(super) fn recorded(number: usize, recording: &Recording) -> Outcome {
    let row = &recording.rows[number];
    let mut headers: Vec<_> = row
        .headers()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .filter(|(name, _)| told(name, &row.method))
        .collect();
    headers.sort();
    Outcome {
        status: row.status,
        headers,
        body: row.body(),
        reviews: row
            .reviews
            .iter()
            .map(|asked| (asked.kind.clone(), asked.spec.clone()))
            .collect(),
        forwarded: usize::from(row.allowed()),
    }
}

fn refusal(row: &Row) -> Option<Refusal> {
    let lines = |start: &str| {
        let headers = row.request_headers.iter();
        headers.filter(|line| line.starts_with(start)).count()
    };
    if NO_TARGETS.contains(&row.target.as_str()) || lines("Foo : ") + lines("Foo: a\0") > 0 {
        return Some(Refusal::Malformed);
    }
    if lines("Foo: a\r\n ") > 0 {
        return Some(Refusal::Folded);
    }
    if !["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].contains(&row.method.as_str()) {
        return Some(Refusal::Method);
    }
    if let Some((_, told)) = AMBIGUOUS.iter().find(|(target, _)| *target == row.target) {
        return Some(Refusal::Path(told));
    }
    match (lines("Upgrade: "), lines("Upgrade: h2c")) {
        (2.., _) => Some(Refusal::Upgrade("more than one Upgrade header\n")),
        (_, 1) => Some(Refusal::Upgrade(
            "only websocket and SPDY/3.1 can be upgraded to\n",
        )),
        _ => None,
    }
}

/// Whether the gate authenticates the request.
fn is_authenticated_by_gate(row: &Row) -> bool {
    refusal(row).is_none()
}

/// Whether the kubelet answered without authentication.
fn is_answered_unauthenticated(row: &Row) -> bool {
    row.reviews.is_empty() && row.status != 401
}

/// Whether both asked for authorization.
fn asked(row: &Row) -> bool {
    is_authenticated_by_gate(row)
        && row
            .reviews
            .iter()
            .any(|asked| asked.kind == "SubjectAccessReview")
}

fn first_segment(row: &Row) -> &str {
    let path = row.target.split(['?', '#']).next().unwrap_or_default();
    path.split('/').nth(1).unwrap_or_default()
}

fn interactive(row: &Row) -> bool {
    ["attach", "cri", "exec", "portForward", "run"].contains(&first_segment(row))
}

fn upgrade(row: &Row) -> bool {
    row.request_headers
        .iter()
        .any(|line| line.starts_with("Upgrade: "))
}

fn verb(row: &Row) -> &'static str {
    match row.method.as_str() {
        _ if interactive(row) => "create",
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => panic!("{other} does not get so far"),
    }
}

/// `%70ods` is `pods`.
fn subresources(row: &Row) -> &'static [&'static str] {
    let segment = first_segment(row).replace("%70", "p");
    let found = SUBRESOURCES.iter().find(|(name, _)| *name == segment);
    found.map_or(&["proxy"], |(_, subresources)| subresources)
}

/// The reviews about a user, in order, up to the first that allows; and whether one allows.
fn access(row: &Row, recording: &Recording, user: &Value) -> (Vec<(String, Value)>, bool) {
    let mut reviews = Vec::new();
    for subresource in subresources(row) {
        let mut spec = user.clone();
        spec["resourceAttributes"] = json!({
            "name": NODE,
            "resource": "nodes",
            "subresource": subresource,
            "verb": verb(row),
            "version": "v1",
        });
        let allowed = recording.access(&spec)["allowed"] == true;
        reviews.push(("SubjectAccessReview".to_owned(), spec));
        if allowed {
            return (reviews, true);
        }
    }
    (reviews, false)
}

/// Whether the user is permitted by the gate's table; `None` without a user.
fn may(row: &Row, recording: &Recording) -> Option<bool> {
    let user = recording.user(&row.identity)?;
    Some(access(row, recording, user).1)
}

fn decided_by_table(number: usize, recording: &Recording) -> Outcome {
    let user = recording.user(&recording.rows[number].identity);
    decided(number, recording, user)
}

/// Authentication, then authorization, then the answer of the kubelet's handler.
fn decided(number: usize, recording: &Recording, user: Option<&Value>) -> Outcome {
    let row = &recording.rows[number];
    let mut reviews = Vec::new();
    if recording.token_counts(&row.identity) {
        reviews.push(("TokenReview".to_owned(), json!({"token": "<token>"})));
    }
    let Some(user) = user else {
        let unauthorized = refused(row, 401, vec![plain_text()], "Unauthorized");
        return Outcome {
            reviews,
            ..unauthorized
        };
    };
    let (access, allowed) = access(row, recording, user);
    reviews.extend(access);
    if !allowed {
        let sentence = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
            user["user"].as_str().unwrap(),
            verb(row),
            subresources(row).join(" ")
        );
        let forbidden = refused(row, 403, vec![plain_text()], &sentence);
        return Outcome { reviews, ..forbidden };
    }
    let behind = recording.behind(number).expect("no row has the kubelet's answer");
    let behind = recording
        .rows
        .iter()
        .position(|row| std::ptr::eq(row, behind))
        .unwrap();
    Outcome {
        reviews,
        forwarded: 1,
        ..recorded(behind, recording)
    }
}

fn bad_request(number: usize, recording: &Recording) -> Outcome {
    let row = &recording.rows[number];
    let (Some(Refusal::Path(told)) | Some(Refusal::Upgrade(told))) = refusal(row) else {
        panic!("not refused");
    };
    refused(row, 400, vec![plain_text()], told)
}

/// Refused at once, without reviews and without the kubelet.
fn refused(row: &Row, status: u16, mut headers: Vec<(String, String)>, body: &str) -> Outcome {
    let to_head = row.method == "HEAD";
    if to_head {
        headers.push(("content-length".to_owned(), body.len().to_string()));
    }
    headers.sort();
    Outcome {
        status,
        headers,
        body: if to_head { "" } else { body }.into(),
        reviews: Vec::new(),
        forwarded: 0,
    }
}

fn plain_text() -> (String, String) {
    ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())
}
