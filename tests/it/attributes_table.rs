//! If the gate asked for another permission than the kubelet itself would have, a user who was refused yesterday would
//! read pods today: every row recorded from a kubelet is compared, and what differs must differ by a written rule.

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, Request, Uri};
use kubelet_gate::attributes::Checks;

/// What a kubelet 1.36 asked about a user without rights: method, target, upgrade, status, checks.
const RECORDED: &str = include_str!("data/checks.tsv");

/// The targets that no kubelet may read in two ways, because the gate passes them to none.
const REFUSED: [&str; 25] = [
    "*",
    "/./pods",
    "//evil.example/metrics",
    "//metrics",
    "//pods",
    "/exec//default/bb/c",
    "/logs/%2e%2e%2f%2e%2e%2fetc/passwd",
    "/logs/%2e%2e/pods",
    "/logs/..%2f..%2fetc/passwd",
    "/logs/../pods",
    "/metrics%2fcadvisor",
    "/metrics/%2e%2e/run/default/bb/c?cmd=id",
    "/metrics/../run/default/bb/c?cmd=id",
    "/pods%zz",
    "/pods/../metrics",
    "/pods/./",
    "/pods\\..\\metrics",
    "/stats%2Fsummary",
    "/stats/..%2fexec/default/bb/c",
    "/stats/../exec/default/bb/c",
    "?x",
    "\\pods",
    "http://evil.example",
    "http://evil.example/pods",
    "pods",
];

/// Why a row may come out differently here, or that it does not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rule {
    /// The same checks in the same order.
    Same,
    /// The kubelet asks with an empty verb; the gate asks with `get`.
    HeadIsGet,
    /// The kubelet takes `get` from the method; the gate wants `create` wherever a process is handed out.
    InteractiveIsCreate,
    /// Methods outside the six: 405.
    MethodRefused,
    /// A path that two kubelets could read differently: 400.
    PathRefused,
    /// An upgrade that is not one, or to another protocol: 400.
    UpgradeRefused,
    /// The kubelet answered (404, 307, 400) before it asked anything; the gate authorizes all the same.
    AnsweredBeforeAuthorization,
}

struct Row<'a> {
    method: &'a str,
    target: &'a str,
    upgrade: &'a str,
    checks: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    RECORDED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("method\t"))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [method, target, upgrade, _status, checks] = fields[..] else {
                panic!("not a row: {line:?}");
            };
            Row {
                method,
                target,
                upgrade,
                checks,
            }
        })
        .collect()
}

/// The headers that the recorder sent for this kind of upgrade.
fn upgrade_headers(kind: &str) -> Vec<(&'static str, &'static str)> {
    let protocol = match kind.split(' ').nth(1) {
        None => return Vec::new(),
        Some("spdy") => "SPDY/3.1",
        Some("ws") => "websocket",
        Some("h2c") => "h2c",
        Some(other) => panic!("an unknown kind of upgrade: {other}"),
    };
    vec![("connection", "Upgrade"), ("upgrade", protocol)]
}

/// What the gate makes of a row: `verb subresource;verb subresource`, or the refusal's reason.
fn asked(row: &Row<'_>) -> Result<String, &'static str> {
    // A target that is no URI never gets past the HTTP library, which answers 400.
    let target: Uri = row.target.parse().map_err(|_| "not_a_path")?;
    let mut request = Request::builder()
        .method(Method::from_bytes(row.method.as_bytes()).unwrap())
        .uri(target)
        .header("host", "worker-1");
    for (name, value) in upgrade_headers(row.upgrade) {
        request = request.header(name, value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let checks = Checks::of(&parts, true).map_err(|error| {
        assert!(matches!(error.status.as_u16(), 400 | 405), "{error}");
        error.reason
    })?;
    assert!(!checks.subresources().is_empty(), "nothing would be asked");
    let verb = checks.verb().as_str();
    let asked: Vec<String> = checks
        .subresources()
        .iter()
        .map(|subresource| format!("{verb} {}", subresource.as_str()))
        .collect();
    Ok(asked.join(";"))
}

fn rule(row: &Row<'_>) -> Option<Rule> {
    let six = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let asked = asked(row);
    if asked == Err("not_a_path") {
        return Some(Rule::PathRefused);
    }
    if !six.contains(&row.method) {
        return (asked == Err("method")).then_some(Rule::MethodRefused);
    }
    let asked = match asked {
        Err("upgrade") if !row.upgrade.is_empty() => return Some(Rule::UpgradeRefused),
        Err("method" | "upgrade") => return None,
        Err(_) => return Some(Rule::PathRefused),
        Ok(asked) => asked,
    };
    if row.checks == "none" {
        return Some(Rule::AnsweredBeforeAuthorization);
    }
    if asked == row.checks {
        return Some(Rule::Same);
    }
    let interactive = ["/exec/", "/attach/", "/run/", "/portForward/", "/cri/"]
        .iter()
        .any(|prefix| row.target.starts_with(prefix));
    if interactive && asked == "create proxy" && row.checks.ends_with(" proxy") {
        return Some(Rule::InteractiveIsCreate);
    }
    if row.method == "HEAD" && asked == row.checks.replace("- ", "get ") {
        return Some(Rule::HeadIsGet);
    }
    None
}

#[test]
fn every_recorded_row_is_asked_as_the_kubelet_asks_or_differs_by_a_rule() {
    let mut counts: BTreeMap<Rule, usize> = BTreeMap::new();
    let mut refused = BTreeSet::new();
    let mut unexplained = Vec::new();
    for row in rows() {
        let rule = rule(&row);
        if rule == Some(Rule::PathRefused) {
            refused.insert(row.target);
        }
        match rule {
            Some(rule) => *counts.entry(rule).or_default() += 1,
            None => unexplained.push(format!(
                "{} {} {:?}: the kubelet {:?}, the gate {:?}",
                row.method,
                row.target,
                row.upgrade,
                row.checks,
                asked(&row)
            )),
        }
    }
    println!("{counts:#?}");
    assert_eq!(unexplained, [""; 0], "rows without a rule");
    let counts: Vec<(Rule, usize)> = counts.into_iter().collect();
    assert_eq!(
        counts,
        [
            (Rule::Same, 187),
            (Rule::HeadIsGet, 34),
            (Rule::InteractiveIsCreate, 62),
            (Rule::MethodRefused, 433),
            (Rule::PathRefused, 125),
            (Rule::UpgradeRefused, 1),
            (Rule::AnsweredBeforeAuthorization, 150),
        ]
    );
    let refused: Vec<&str> = refused.into_iter().collect();
    assert_eq!(refused, REFUSED);
}
