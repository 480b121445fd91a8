//! The endpoints of a kubelet with all its debugging handlers on, and of its read-only port.
//!
//! Routing is that of an old kubelet (Go ≤ 1.21): on the decoded path, with a redirect to its clean form.
//! Because of that a path with dot segments can run a command.

use super::answer::{Answer, PLAIN};
use super::pages::{self, Pod};
use super::shell;
use super::streams::{Endpoint, StreamRequest};
use super::wire::{Head, decode};

/// How a request is answered.
pub(super) enum Reply {
    /// The request's body is sent back while it comes in.
    Echo,
    /// This many bytes.
    Filler {
        length: u64,
        chunked: bool,
    },
    /// The lines of a container's log; with `follow`, new lines until the client leaves.
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
    if let Some(redirect) = redirect_to_clean(head) {
        return Reply::Page(redirect);
    }
    let path = decode(head.path());
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

/// The redirect of a path to its clean form. Go's `ServeMux` sends it before the kubelet authenticates the
/// client.
pub(super) fn redirect_to_clean(head: &Head) -> Option<Answer> {
    let path = decode(head.path());
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
        ["configz"] => Answer::page(JSON, pages::CONFIGZ).with("X-Content-Type-Options", "nosniff"),
        ["flagz"] => Answer::page(PLAIN, pages::FLAGZ),
        ["statusz"] => Answer::page(PLAIN, pages::STATUSZ),
        ["runningpods", ""] if method != "GET" => Answer::method_not_allowed("GET"),
        ["runningpods", ""] => Answer::page(JSON, pages::RUNNING),
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
            Ok(_) => {
                let file = format!("checkpoint-{name}_{namespace}-{container}.tar");
                Answer::page(
                    JSON,
                    format!("{{\"items\":[\"/var/lib/kubelet/checkpoints/{file}\"]}}"),
                )
            }
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
        "/pods" | "/pods/" => Answer::page(JSON, pages::LISTED),
        "/stats/summary" | "/stats/summary/" if !matches!(method, "GET" | "POST") => {
            Answer::method_not_allowed("GET, POST")
        }
        "/stats/summary" | "/stats/summary/" => Answer::page(JSON, pages::STATS),
        _ => {
            let text = pages::metrics(path.strip_prefix("/metrics")?)?;
            Answer::page(METRICS, text).with("Process-Start-Time-Unix", pages::STARTED_UNIX)
        }
    })
}

fn read_only_page(head: &Head, path: &str, root: &str) -> Answer {
    plain_page(head, path).unwrap_or_else(|| match root {
        "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs" => {
            Answer::error(405, "Debug endpoints are disabled.")
        }
        _ if path.starts_with("/debug/pprof/") => Answer::error(405, "Debug endpoints are disabled."),
        _ => Answer::not_found(),
    })
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
    let endpoint = match endpoint {
        "exec" => {
            let words = query.iter().filter(|(have, _)| have == "command");
            Endpoint::Exec(words.map(|(_, value)| value.clone()).collect())
        }
        "attach" => Endpoint::Attach,
        _ => match ports(&query) {
            Some(ports) => Endpoint::PortForward(ports),
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
            endpoint,
            pod,
            stdin,
            stdout,
            stderr,
            tty,
        }),
    }
}

/// The ports of `?port=`, repeated or separated by commas; `None` if one of them is not a port.
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
    let lines = pod.log.lines().collect::<Vec<_>>();
    let skipped = lines.len().saturating_sub(tail.unwrap_or(usize::MAX));
    let follow = head
        .parameter("follow")
        .is_some_and(|follow| matches!(follow.as_str(), "true" | "1"));
    Reply::Log {
        lines: lines[skipped..].to_vec(),
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
