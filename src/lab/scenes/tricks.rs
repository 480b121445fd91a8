//! Scenes 9 and 10: forged headers and ambiguous paths.

use super::caller::Caller;
use super::marks::{API_SERVER, NO_CREDENTIALS, PODS, ROOT, UNAUTHORIZED};
use super::{Attempt, Demo, exposed, refused, served};
use fakes::apiserver::METRICS_TOKEN;

/// Scene 9.
pub(super) async fn forged_headers(demo: &mut Demo<'_>) {
    const FORGED: [(&str, &str); 4] = [
        ("X-Remote-User", "kube-apiserver-kubelet-client"),
        ("X-Remote-Group", "system:masters"),
        ("Impersonate-User", "system:admin"),
        ("Impersonate-Group", "system:masters"),
    ];
    const REQUEST: &str = "GET /pods, forged X-Remote-User, Impersonate-User";
    let pki = &demo.lab.pki;
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &Caller::anonymous(NO_CREDENTIALS),
            request: REQUEST,
            open: exposed(200, PODS, "all pods, with or without the headers"),
            gate: refused(401, UNAUTHORIZED, UNAUTHORIZED),
            why: "the identity is never read from such a header",
        },
        async |session| session.call("GET", "/pods", &FORGED).await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &Caller::certificate("alice (certificate)", &pki.alice),
            request: REQUEST,
            open: exposed(200, PODS, "all pods, with or without the headers"),
            gate: refused(403, "user=alice,", "Forbidden (user=alice, …)"),
            why: "the user is still alice",
        },
        async |session| session.call("GET", "/pods", &FORGED).await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &Caller::certificate(API_SERVER, &pki.apiserver_client),
            request: REQUEST,
            open: served(200, PODS, "all pods"),
            gate: served(200, PODS, "all pods; the kubelet received none of the headers"),
            why: "the gate removes them, so that the kubelet cannot trust them",
        },
        async |session| session.call("GET", "/pods", &FORGED).await,
    )
    .await;
    let requests = demo.lab.kubelet.requests();
    let passed: Vec<_> = requests.last().map_or_else(Vec::new, |request| {
        let names = request.headers.iter().map(|(name, _)| name.to_lowercase());
        names
            .filter(|name| name.starts_with("x-remote-") || name.starts_with("impersonate-"))
            .collect()
    });
    if let Some(row) = demo.rows.last_mut() {
        row.gate.require(passed.is_empty(), || {
            format!("expected that the kubelet receives none of the headers, got {passed:?}")
        });
    }
}

/// Scene 10.
pub(super) async fn path_tricks(demo: &mut Demo<'_>) {
    const LED_TO_RUN: &str = "301 to /run/default/web/nginx?cmd=id: uid=0(root)";
    let metrics = Caller::token("monitoring (token, get nodes/metrics)", METRICS_TOKEN);
    let tricks = [
        (
            "POST /metrics/../run/…",
            "/metrics/../run/default/web/nginx?cmd=id",
            exposed(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            refused(400, "dot segment", "the path has a dot segment"),
            "it looks like metrics and is run: refused before any review",
        ),
        (
            "POST /metrics/%2e%2e/run/…",
            "/metrics/%2e%2e/run/default/web/nginx?cmd=id",
            exposed(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            refused(400, "dot segment", "the path has a dot segment"),
            "the same, encoded: decoded once, then checked",
        ),
        (
            "POST /metrics%2f..%2frun/…",
            "/metrics%2f..%2frun/default/web/nginx?cmd=id",
            exposed(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            refused(400, "encoded slash", "the path has an encoded slash"),
            "one segment or three: kubelets differ",
        ),
        (
            "POST //run/…",
            "//run/default/web/nginx?cmd=id",
            exposed(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            refused(400, "empty segment", "the path has an empty segment"),
            "a prefix rule misses it, the kubelet's router does not",
        ),
        (
            "POST /%72un/…",
            "/%72un/default/web/nginx?cmd=id",
            exposed(200, ROOT, "uid=0(root)"),
            refused(
                403,
                "verb=create, resource=nodes, subresource(s)=[proxy]",
                "Forbidden (… [proxy])",
            ),
            "it decodes to /run, and is checked as /run",
        ),
    ];
    demo.next_scene();
    for (request, target, open, gate, why) in tricks {
        demo.compare(
            Attempt {
                caller: &metrics,
                request,
                open,
                gate,
                why,
            },
            async |session| session.post_following(target).await,
        )
        .await;
    }
}
