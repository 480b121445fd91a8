//! Where the kubelet's secure port answers a path of the read-only port, and which permission that takes.

use http::{Method, Request};

use crate::attributes::Checks;

/// Longest path that is repeated in the answer, in bytes.
const REPEATED: usize = 200;

/// A path that kubelets answer on the secure port.
struct Endpoint {
    path: &'static str,
    /// Which paths it covers.
    extent: Extent,
    /// The methods it takes; the one to recommend comes first. Where a kubelet takes
    /// any method, GET is enough.
    methods: &'static [Method],
    /// What replaces it in newer kubelets, if they no longer have it.
    instead: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Extent {
    /// This path alone.
    Exact,
    /// Also with a slash at its end.
    Slash,
    /// Every path below it.
    Below,
}

/// What the kubelet's read-only port serves, what it names as served on the secure port only, and what old
/// kubelets served on both.
const ENDPOINTS: [Endpoint; 35] = {
    use Extent::{Below, Exact, Slash};
    const GET: &[Method] = &[Method::GET];
    const POST: &[Method] = &[Method::POST];
    const GET_POST: &[Method] = &[Method::GET, Method::POST];
    const POST_GET: &[Method] = &[Method::POST, Method::GET];
    const fn is(path: &'static str, extent: Extent, methods: &'static [Method]) -> Endpoint {
        Endpoint {
            path,
            extent,
            methods,
            instead: None,
        }
    }
    const fn gone(path: &'static str, extent: Extent, instead: &'static str) -> Endpoint {
        Endpoint {
            path,
            extent,
            methods: GET,
            instead: Some(instead),
        }
    }
    [
        is("/healthz", Exact, GET),
        is("/healthz/ping", Exact, GET),
        is("/healthz/log", Exact, GET),
        is("/healthz/syncloop", Exact, GET),
        is("/healthz/device-plugin", Exact, GET),
        is("/pods", Slash, GET),
        is("/stats/summary", Exact, GET_POST),
        is("/metrics", Exact, GET),
        is("/metrics/cadvisor", Exact, GET),
        is("/metrics/probes", Exact, GET),
        is("/metrics/resource", Exact, GET),
        is("/metrics/slis", Exact, GET),
        is("/configz", Exact, GET),
        is("/flagz", Exact, GET),
        is("/statusz", Exact, GET),
        is("/debug/flags/v", Exact, &[Method::PUT]),
        is("/runningpods", Slash, GET),
        is("/logs", Slash, GET),
        is("/logs", Below, GET),
        is("/debug/pprof", Slash, GET),
        is("/debug/pprof", Below, GET),
        is("/containerLogs", Below, GET),
        is("/checkpoint", Below, POST),
        is("/run", Below, POST),
        is("/exec", Below, POST_GET),
        is("/attach", Below, POST_GET),
        is("/portForward", Below, POST_GET),
        // cAdvisor's own JSON, of kubelets before 1.21.
        gone("/spec", Slash, "/metrics/cadvisor"),
        gone("/stats", Slash, "/stats/summary"),
        gone("/stats/container", Slash, "/stats/summary"),
        gone("/stats/container", Below, "/stats/summary"),
        gone("/stats", Below, "/stats/summary"),
        // Names that were replaced by others.
        gone("/metrics/resource/v1alpha1", Exact, "/metrics/resource"),
        gone("/stats/summary", Slash, "/stats/summary"),
        gone("/runningPods", Slash, "/runningpods/"),
    ]
};

/// One sentence for a caller of the read-only port. It is ASCII, of bounded length, and repeats nothing of
/// the request but a path of harmless characters. `port` is the kubelet's secure port.
pub(super) fn sentence(method: &Method, target: &str, port: u16, require_create: bool) -> String {
    const CLOSED: &str = "The kubelet's read-only port is closed on this node: ";
    const BY: &str = "with a client certificate or a bearer token";
    let base = format!("https://NODE:{port}");
    let judge = |method: &Method, path: &str| checks(method, path, require_create);
    let found = judge(&Method::GET, target).ok().and_then(|checks| {
        let path = checks.path().to_owned();
        Some((ENDPOINTS.iter().find(|endpoint| endpoint.covers(&path))?, path))
    });
    let described = found.and_then(|(endpoint, path)| {
        let method = endpoint.method(method);
        let ask = |path: &str| {
            let who = who_may(&judge(method, path).ok()?);
            Some(format!("ask {method} {base}{path} instead, {BY} that may {who}"))
        };
        match (endpoint.instead, path.as_str()) {
            (Some(instead), _) => Some(format!(
                "newer kubelets have no {path} any more: {}",
                ask(instead)?
            )),
            // The kubelet answers these with a redirect. Naming its target saves the caller a request.
            (None, "/runningpods" | "/logs" | "/debug/pprof") => ask(&(path + "/")),
            (None, path) => ask(path),
        }
    });
    let described = described.unwrap_or_else(|| format!("ask {base} instead, {BY}"));
    format!("{CLOSED}{described}.\n")
}

/// As the gate judges a request on the wire.
fn checks(method: &Method, target: &str, require_create: bool) -> Result<Checks, ()> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "node");
    let (parts, ()) = request.body(()).map_err(drop)?.into_parts();
    Checks::of(&parts, require_create).map_err(drop)
}

/// `get nodes/pods or get nodes/proxy`.
fn who_may(checks: &Checks) -> String {
    let each: Vec<String> = checks
        .subresources()
        .iter()
        .map(|subresource| format!("{} nodes/{subresource}", checks.verb()))
        .collect();
    each.join(" or ")
}

impl Endpoint {
    fn covers(&self, path: &str) -> bool {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-:".contains(&byte);
        let Some(rest) = path.strip_prefix(self.path) else {
            return false;
        };
        match self.extent {
            Extent::Exact => rest.is_empty(),
            Extent::Slash => matches!(rest, "" | "/"),
            Extent::Below => {
                rest.len() > 1
                    && rest.starts_with('/')
                    && path.len() <= REPEATED
                    && path.bytes().all(harmless)
            }
        }
    }

    /// The caller's method if a kubelet takes it here, else the recommended one.
    fn method<'a>(&'a self, asked: &'a Method) -> &'a Method {
        self.methods
            .iter()
            .find(|method| *method == asked)
            .unwrap_or(&self.methods[0])
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLOSED: &str = "The kubelet's read-only port is closed on this node: ";

    fn told(method: &str, target: &str) -> String {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let sentence = sentence(&method, target, 10250, true);
        let told = sentence
            .strip_prefix(CLOSED)
            .unwrap()
            .strip_suffix(".\n")
            .unwrap();
        told.replace(", with a client certificate or a bearer token", "")
    }

    #[test]
    fn every_path_that_was_served_has_its_replacement() {
        let pods = "ask GET https://NODE:10250/pods instead that may get nodes/pods or get nodes/proxy";
        for (method, target, expected) in [
            ("GET", "/pods", pods),
            ("HEAD", "/pods", pods),
            ("FOO", "/pods?x=1", pods),
            ("GET", "/%70ods", pods),
            (
                "GET",
                "/pods/",
                "ask GET https://NODE:10250/pods/ instead that may get nodes/pods or get nodes/proxy",
            ),
            (
                "GET",
                "/metrics/cadvisor",
                "ask GET https://NODE:10250/metrics/cadvisor instead that may get nodes/metrics",
            ),
            (
                "POST",
                "/stats/summary",
                "ask POST https://NODE:10250/stats/summary instead that may create nodes/stats",
            ),
            (
                "GET",
                "/stats/container",
                "newer kubelets have no /stats/container any more: ask GET https://NODE:10250/stats/summary \
                 instead that may get nodes/stats",
            ),
            (
                "GET",
                "/spec",
                "newer kubelets have no /spec any more: ask GET https://NODE:10250/metrics/cadvisor instead \
                 that may get nodes/metrics",
            ),
            (
                "GET",
                "/runningpods",
                "ask GET https://NODE:10250/runningpods/ instead that may get nodes/pods or get nodes/proxy",
            ),
            (
                "GET",
                "/exec/ns/pod/c?command=id",
                "ask GET https://NODE:10250/exec/ns/pod/c instead that may create nodes/proxy",
            ),
            (
                "GET",
                "/logs/syslog",
                "ask GET https://NODE:10250/logs/syslog instead that may get nodes/log",
            ),
        ] {
            assert_eq!(told(method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn what_no_kubelet_knows_is_not_repeated() {
        let long = format!("/logs/{}", "a".repeat(300));
        for target in [
            "/",
            "*",
            "/secret",
            "/podsfoo",
            "/logs/<b>",
            "/logs/%3Cb%3E",
            "/logs/%1b%5b2J",
            "/logs/caf\u{e9}",
            "/logs/../pods",
            "//pods",
            "/pods%zz",
            "host:1",
            long.as_str(),
        ] {
            assert_eq!(told("GET", target), "ask https://NODE:10250 instead", "{target}");
        }
    }

    /// The table and the gate agree: whatever the table names can be asked of the gate.
    #[test]
    fn every_endpoint_can_be_judged() {
        for endpoint in &ENDPOINTS {
            let below = matches!(endpoint.extent, Extent::Below);
            let path = format!("{}{}", endpoint.path, if below { "/x" } else { "" });
            assert!(endpoint.covers(&path));
            for method in endpoint.methods {
                let told = told(method.as_str(), &path);
                assert!(
                    told.contains(&format!("{method} https://NODE:10250/")),
                    "{path}: {told}"
                );
                assert!(told.contains(" nodes/"), "{path}: {told}");
            }
        }
    }

    proptest! {
        /// Seen red: with every path below /logs repeated as it was decoded, a quotation mark came back.
        #[test]
        fn the_sentence_is_one_short_line_of_ascii(tail in "[^ ]{0,300}", encoded: Vec<u8>) {
            let escapes: String = encoded.iter().map(|byte| format!("%{byte:02x}")).collect();
            let logs = [format!("/logs/{tail}"), format!("/logs/{escapes}")];
            for target in [tail.clone(), format!("/exec{tail}")].into_iter().chain(logs) {
                let sentence = sentence(&Method::GET, &target, 65535, true);
                prop_assert!(sentence.len() <= 600, "{}", sentence.len());
                let line = sentence.strip_suffix('\n').unwrap();
                prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
                prop_assert!(!line.contains(['<', '>', '"', '&']), "{line:?}");
            }
        }
    }
}
