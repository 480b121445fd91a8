//! What was recorded: a kubelet's answers, and the reviews it asked for before each.
//!
//! The recordings are kept as plain text: git packs their 5 MB into less than 100 kB, and no test needs a
//! decompressor.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// The node the recorded kubelet ran on.
pub(super) const NODE: &str = "rig-node";

/// One exchange.
#[derive(Deserialize)]
pub(super) struct Row {
    /// The credential: see [`Row::certificate`] and [`Row::token`].
    pub(super) identity: String,
    /// Which series it belongs to.
    #[serde(default)]
    pub(super) case: String,
    pub(super) method: String,
    pub(super) target: String,
    /// Header lines without credentials.
    #[serde(default)]
    pub(super) request_headers: Vec<String>,
    pub(super) status: u16,
    /// Status line and header lines; not recorded where anonymous requests were allowed.
    #[serde(default)]
    response_head: String,
    /// The first 400 bytes; after a 101 it is what the stream said.
    body: String,
    pub(super) reviews: Vec<Asked>,
}

/// A review, with the `status` that the API server gave it.
#[derive(Deserialize)]
pub(super) struct Asked {
    pub(super) kind: String,
    pub(super) spec: Value,
    pub(super) status: Value,
}

/// Every exchange of a kubelet, and what they show together.
pub(super) struct Recording {
    pub(super) rows: Vec<Row>,
    /// Answers to SubjectAccessReviews: the same question was never answered in two ways.
    access: HashMap<Question, Value>,
    /// Answers to TokenReviews, by the token's name.
    tokens: HashMap<String, Value>,
    /// The user of each identity, as a `spec` without attributes.
    users: HashMap<String, Value>,
    /// The rows that a handler of the kubelet answered, by series, method and target.
    passed: HashMap<[String; 3], usize>,
}

/// User and groups, verb, subresource.
type Question = (String, String, String);

impl Row {
    /// The name of the client certificate.
    pub(super) fn certificate(&self) -> Option<&str> {
        match self.identity.split_once(':')? {
            ("cert", name) => Some(name),
            ("mix", names) => names.split('+').next(),
            ("hdr", "impersonate-alice+admin") => Some("alice"),
            _ => None,
        }
    }

    /// The name of the token, however it is sent.
    pub(super) fn token(&self) -> Option<&str> {
        match self.identity.split_once(':')? {
            ("token", name) => Some(name),
            ("mix", names) => names.split("+token:").nth(1),
            ("hdr", "bearer-lower" | "bearer-upper" | "ws-token-protocol" | "query-token") => {
                Some("kubeletadmin")
            }
            _ => None,
        }
    }

    /// Whether the API server allowed it, so that the kubelet's handler answered.
    pub(super) fn allowed(&self) -> bool {
        let last = self.reviews.last();
        last.is_some_and(|last| last.kind == "SubjectAccessReview" && last.status["allowed"] == true)
    }

    pub(super) fn body(&self) -> Vec<u8> {
        bytes(&self.body)
    }

    /// The header lines of the answer; `None` where they were not recorded.
    pub(super) fn headers(&self) -> Option<impl Iterator<Item = (&str, &str)>> {
        let mut lines = self.response_head.split("\r\n");
        let status_line = lines.next()?;
        let pair = |line| str::split_once(line, ':').unwrap();
        (!status_line.is_empty()).then(|| lines.map(pair).map(|(name, value)| (name, value.trim())))
    }

    /// The answer's bytes, and whether the connection ends behind it.
    pub(super) fn answer(&self) -> (Vec<u8>, bool) {
        let body = self.body();
        let mut head = format!("HTTP/1.1 {} Recorded\r\n", self.status);
        let (mut framed, mut chunked) = (self.status == 101 || self.method == "HEAD", false);
        match self.headers() {
            None => {
                framed = true;
                head += &format!("Content-Length: {}\r\n", body.len());
            }
            Some(headers) => {
                for (name, value) in headers {
                    match name {
                        "Content-Length" if self.method != "HEAD" => {
                            framed = true;
                            head += &format!("Content-Length: {}\r\n", body.len());
                        }
                        "Transfer-Encoding" => {
                            (framed, chunked) = (true, true);
                            head += "Transfer-Encoding: chunked\r\n";
                        }
                        _ => head += &format!("{name}: {value}\r\n"),
                    }
                }
            }
        }
        let mut bytes = head.into_bytes();
        bytes.extend(b"\r\n");
        if self.method == "HEAD" {
            return (bytes, false);
        }
        if !chunked {
            bytes.extend(body);
            return (bytes, !framed || self.status == 101);
        }
        if !body.is_empty() {
            bytes.extend(format!("{:x}\r\n", body.len()).bytes());
            bytes.extend(body);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        (bytes, false)
    }
}

impl Recording {
    pub(super) fn new(rows: Vec<Row>) -> Self {
        let (mut access, mut tokens) = (HashMap::new(), HashMap::new());
        let (mut users, mut passed) = (HashMap::new(), HashMap::new());
        for (number, row) in rows.iter().enumerate() {
            for asked in &row.reviews {
                let known = if asked.kind == "TokenReview" {
                    tokens.insert(row.token().unwrap().to_owned(), asked.status.clone())
                } else {
                    let mut user = asked.spec.clone();
                    user.as_object_mut().unwrap().remove("resourceAttributes");
                    users.insert(row.identity.clone(), user);
                    access.insert(question(&asked.spec), asked.status.clone())
                };
                assert!(known.is_none_or(|known| known == asked.status), "two answers");
            }
            if row.allowed() && row.certificate() == Some("admin") {
                passed.insert([&row.case, &row.method, &row.target].map(Clone::clone), number);
            }
        }
        Self {
            rows,
            access,
            tokens,
            users,
            passed,
        }
    }

    /// The answer to a SubjectAccessReview; a question that was never asked gets no opinion.
    pub(super) fn access(&self, spec: &Value) -> Value {
        let never_asked = || json!({"allowed": false, "reason": "never asked while recording"});
        self.access
            .get(&question(spec))
            .cloned()
            .unwrap_or_else(never_asked)
    }

    /// The answer to a TokenReview about the token of this name.
    pub(super) fn token(&self, name: &str) -> Value {
        self.tokens[name].clone()
    }

    /// The user of an identity, as a `spec` without attributes; `None` if it was not authenticated.
    pub(super) fn user(&self, identity: &str) -> Option<&Value> {
        self.users.get(identity)
    }

    /// Whether the token of this identity was reviewed.
    pub(super) fn token_counts(&self, identity: &str) -> bool {
        let reviewed = |row: &Row| row.identity == identity && row.reviews.iter().any(Asked::about_token);
        self.rows.iter().any(reviewed)
    }

    /// The row with the answer of the kubelet's handler to this row's request.
    pub(super) fn behind(&self, number: usize) -> Option<&Row> {
        let row = &self.rows[number];
        let answered_before_the_door = row.reviews.is_empty() && row.status != 401;
        // A fragment is cut off before.
        let whole = row.target.split('#').next().unwrap_or_default().to_owned();
        if row.allowed() || answered_before_the_door && whole == row.target {
            return Some(row);
        }
        let same = [row.case.clone(), row.method.clone(), whole];
        self.passed.get(&same).map(|number| &self.rows[*number])
    }
}

/// Each byte is recorded as the character of its number.
pub(super) fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).unwrap()).collect()
}

impl Asked {
    fn about_token(&self) -> bool {
        self.kind == "TokenReview"
    }
}

fn question(spec: &Value) -> Question {
    let attribute = |name: &str| spec["resourceAttributes"][name].as_str().unwrap_or("").to_owned();
    (
        format!("{} in {}", spec["user"], spec["groups"]),
        attribute("verb"),
        attribute("subresource"),
    )
}
