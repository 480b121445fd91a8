//! Which path answers what: the endpoints of a kubelet with all its debugging handlers on, and of its read-only port.
//!
//! Routing is an old kubelet's (Go ≤ 1.21): on the decoded path, with a redirect to its clean form. That is the reading
//! by which path tricks become commands.

use super::answer::{Answer, PLAIN};
use super::pages::{self, Pod};
use super::shell;
use super::streams::{Kind, StreamRequest};
use super::wire::{Head, decode};

/// What is to be done about a request.
pub(super) enum Reply {
    /// Give back the request's body as it comes.
    Echo,
    /// That many bytes.
    Filler {
        length: u64,
        chunked: bool,
    },
    /// A container's log, and perhaps what comes after it.
    Log {
        lines: Vec<&'static str>,
        follow: bool,
    },
    Page(Answer),
    Stream(StreamRequest),
    /// A chunked body with a trailer.
    Trailers,
}

/// Finds the reply. `body` is the beginning of the request's body.
pub(super) fn reply(head: &Head, body: &[u8], read_only: bool) -> Reply {
    if head.target == "*" {
        return Reply::Page(match head.method.as_str() {
            "OPTIONS" => Answer {
                status: 200,
                headers: Vec::new(),
                body: Default::default(),
            },
            _ => Answer::text(400, "400 Bad Request"),
        });
    }
    if let Some(redirect) = tidied(head) {
        return Reply::Page(redirect);
    }
    let path = decode(path_of(head.path()));
    let segments = path.split('/').skip(1).collect::<Vec<_>>();
    if read_only {
        return Reply::Page(read_only_page(head, &path, segments[0]));
    }
    match segments.as_slice() {
        ["exec" | "attach" | "portForward", rest @ ..] => stream(head, segments[0], rest),
        ["containerLogs", namespace, name, container] => container_log(head, namespace, name, container),
        ["lab", "bytes"] => Reply::Filler {
            length: head.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(0),
            chunked: head.parameter("chunked").is_some(),
        },
        ["lab", "echo"] => Reply::Echo,
        ["lab", "trailers"] => Reply::Trailers,
        _ => Reply::Page(page(head, &path, &segments, body)),
    }
}

/// The redirect to the tidy form of an untidy path. Go's `ServeMux` sends it before the kubelet asks who is there.
pub(super) fn tidied(head: &Head) -> Option<Answer> {
    let path = decode(path_of(head.path()));
    let clean = clean(&path);
    let folder = SUBTREES.contains(&clean.as_str());
    (clean != path || folder).then(|| redirect(head, &if folder { clean + "/" } else { clean }))
}

/// A page of the open port that needs no streaming.
fn page(head: &Head, path: &str, segments: &[&str], body: &[u8]) -> Answer {
    if let Some(page) = plain_page(head, path) {
        return page;
    }
    let method = head.method.as_str();
    match segments {
        ["configz"] => Answer::page(JSON, pages::configz()).with("X-Content-Type-Options", "nosniff"),
        ["flagz"] => Answer::page(PLAIN, pages::flagz()),
        ["statusz"] => Answer::page(PLAIN, pages::statusz()),
        ["runningpods", ""] if method != "GET" => Answer::method_not_allowed("GET"),
        ["runningpods", ""] => Answer::page(JSON, pages::running_pods()),
        ["logs", ..] if method != "GET" => Answer::method_not_allowed("GET"),
        ["logs", file @ ..] => match pages::node_log(&file.join("/")) {
            Some((content_type, text)) => Answer::page(content_type, text),
            None => Answer::not_found(),
        },
        ["run", ..] | ["checkpoint", _, _, _] if method != "POST" => Answer::method_not_allowed("POST"),
        ["run", namespace, name, container] | ["run", namespace, name, _, container] => {
            match find(namespace, name, container) {
                Ok(pod) => {
                    let output = shell::run_line(pod, &head.parameter("cmd").unwrap_or_default());
                    let code = output.code;
                    let text = output.stdout + &output.stderr;
                    match code {
                        0 => Answer::page(JSON, text),
                        code => Answer::text(500, format!("{text}command terminated with exit code {code}")),
                    }
                }
                Err(answer) => answer,
            }
        }
        ["checkpoint", namespace, name, container] => match find(namespace, name, container) {
            Ok(pod) => Answer::page(
                JSON,
                format!(
                    "{{\"items\":[\"/var/lib/kubelet/checkpoints/checkpoint-{}_{}-{}.tar\"]}}",
                    pod.name, pod.namespace, pod.container
                ),
            ),
            Err(answer) => answer,
        },
        ["debug", "pprof", "cmdline"] => {
            Answer::page(PLAIN, pages::command_line()).with("X-Content-Type-Options", "nosniff")
        }
        ["debug", "flags", "v"] if method != "PUT" => Answer::text(406, "unrecognized method in body"),
        ["debug", "flags", "v"] => {
            let level = String::from_utf8_lossy(body);
            Answer::text(200, format!("successfully set klog.logging.verbosity to {level}"))
        }
        _ => Answer::not_found(),
    }
}

/// The pages that both ports have.
fn plain_page(head: &Head, path: &str) -> Option<Answer> {
    let method = head.method.as_str();
    Some(match path {
        "/healthz" => Answer::text(200, "ok").with("X-Content-Type-Options", "nosniff"),
        "/healthz/ping" | "/healthz/log" | "/healthz/syncloop" => Answer::text(200, "ok"),
        "/pods" | "/pods/" if method != "GET" => Answer::method_not_allowed("GET"),
        "/pods" | "/pods/" => Answer::page(JSON, pages::pods()),
        "/stats/summary" | "/stats/summary/" if !matches!(method, "GET" | "POST") => {
            Answer::method_not_allowed("GET, POST")
        }
        "/stats/summary" | "/stats/summary/" => Answer::page(JSON, pages::stats_summary()),
        _ => {
            let text = pages::metrics(path.strip_prefix("/metrics")?)?;
            Answer::page(METRICS, text).with("Process-Start-Time-Unix", &pages::STARTED_UNIX.to_string())
        }
    })
}

fn read_only_page(head: &Head, path: &str, root: &str) -> Answer {
    let debug = [
        "run",
        "exec",
        "attach",
        "portForward",
        "containerLogs",
        "runningpods",
        "logs",
    ]
    .contains(&root);
    match plain_page(head, path) {
        Some(page) => page,
        None if debug || path.starts_with("/debug/pprof/") => {
            Answer::error(405, "Debug endpoints are disabled.")
        }
        None => Answer::not_found(),
    }
}

/// exec, attach and portForward, up to the point where the kubelet would switch protocols.
fn stream(head: &Head, endpoint: &str, rest: &[&str]) -> Reply {
    if !matches!(head.method.as_str(), "GET" | "POST") {
        return Reply::Page(Answer::method_not_allowed("GET, POST"));
    }
    let query = head.query();
    let on = |name: &str| {
        query
            .iter()
            .find(|(have, _)| have == name)
            .is_some_and(|(_, value)| value == "1")
    };
    let (namespace, name, container) = match (endpoint, rest) {
        ("portForward", [namespace, name] | [namespace, name, _]) => (namespace, name, None),
        ("exec" | "attach", [namespace, name, container] | [namespace, name, _, container]) => {
            (namespace, name, Some(container))
        }
        _ => return Reply::Page(Answer::text(404, "404: Page Not Found")),
    };
    let (stdin, stdout, stderr, tty) = (on("input"), on("output"), on("error"), on("tty"));
    if container.is_some() && !(stdin || stdout || stderr) {
        return Reply::Page(Answer::text(
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    let kind = match endpoint {
        "exec" => {
            let words = query.iter().filter(|(have, _)| have == "command");
            Kind::Exec(words.map(|(_, value)| value.clone()).collect())
        }
        "attach" => Kind::Attach,
        _ => match ports(&query) {
            Some(ports) => Kind::PortForward(ports),
            None => return Reply::Page(Answer::text(400, "query parameter \"port\" is not a port")),
        },
    };
    let found = match container {
        Some(container) => find(namespace, name, container),
        None => pages::pod(namespace, name).ok_or_else(|| Answer::text(404, "pod does not exist")),
    };
    match found {
        Err(answer) => Reply::Page(answer),
        Ok(_) if !head.is_upgrade() => Reply::Page(Answer::error(500, "Upgrade request required")),
        Ok(pod) => Reply::Stream(StreamRequest {
            kind,
            pod,
            stdin,
            stdout,
            stderr,
            tty,
        }),
    }
}

/// The ports of `?port=`, repeated or separated by commas; `None` if one is none.
fn ports(query: &[(String, String)]) -> Option<Vec<u16>> {
    let named = query
        .iter()
        .filter(|(have, _)| have == "port")
        .flat_map(|(_, value)| value.split(','));
    named
        .map(|port| port.parse().ok().filter(|port| *port > 0))
        .collect()
}

fn container_log(head: &Head, namespace: &str, name: &str, container: &str) -> Reply {
    if head.method != "GET" {
        return Reply::Page(Answer::method_not_allowed("GET"));
    }
    let Some(pod) = pages::pod(namespace, name) else {
        return Reply::Page(Answer::text(404, format!("pod {name:?} does not exist")));
    };
    if !pod.has_container(container) {
        return Reply::Page(Answer::text(
            404,
            format!("container {container:?} not found in pod {name:?}"),
        ));
    }
    let tail = head
        .parameter("tailLines")
        .or_else(|| head.parameter("tail"))
        .and_then(|tail| tail.parse().ok());
    let skipped = pod.log.len().saturating_sub(tail.unwrap_or(usize::MAX));
    let follow = head
        .parameter("follow")
        .is_some_and(|follow| matches!(follow.as_str(), "true" | "1"));
    Reply::Log {
        lines: pod.log[skipped..].to_vec(),
        follow,
    }
}

fn find(namespace: &str, name: &str, container: &str) -> Result<&'static Pod, Answer> {
    let pod = pages::pod(namespace, name).ok_or_else(|| Answer::text(404, "pod does not exist"))?;
    match pod.has_container(container) {
        true => Ok(pod),
        false => Err(Answer::text(500, format!("container not found ({container:?})"))),
    }
}

fn redirect(head: &Head, to: &str) -> Answer {
    let query = head
        .target
        .split_once('?')
        .map(|(_, query)| format!("?{query}"))
        .unwrap_or_default();
    let to = to.chars().filter(|c| !c.is_control()).collect::<String>() + &query;
    let location = vec![("Location".to_owned(), to.clone())];
    if head.method != "GET" {
        return Answer {
            status: 301,
            headers: location,
            body: Default::default(),
        };
    }
    let body = format!("<a href=\"{to}\">Moved Permanently</a>.\n\n");
    Answer {
        status: 301,
        ..Answer::page("text/html; charset=utf-8", body).with("Location", &to)
    }
}

/// The path of a target, absolute-form included: the authority is ignored, as Go's server does.
fn path_of(target: &str) -> &str {
    match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    }
}

/// Go's `path.Clean`, with a trailing slash kept, as its `ServeMux` cleans.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", kept.join("/"))
}

const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
/// Registered with a trailing slash only: without it Go's mux redirects.
const SUBTREES: [&str; 5] = ["/stats", "/logs", "/runningpods", "/checkpoint", "/debug/pprof"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_clean_path_is_clean_and_stays_so(path in "/[a./%]{0,12}") {
            let cleaned = clean(&decode(&path));
            prop_assert_eq!(&clean(&cleaned), &cleaned);
            prop_assert!(cleaned.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(cleaned.starts_with('/') && !cleaned.contains("//"));
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, cleaned) in [
            ("/pods", "/pods"),
            ("/", "/"),
            ("//pods", "/pods"),
            ("/metrics/../exec/a/b/c", "/exec/a/b/c"),
            ("/logs/", "/logs/"),
            ("/../..", "/"),
            ("/exec//a/./b", "/exec/a/b"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn absolute_targets_lose_their_authority() {
        assert_eq!(path_of("http://evil/pods"), "/pods");
        assert_eq!(path_of("https://evil"), "/");
        assert_eq!(path_of("/pods"), "/pods");
    }
}
