//! Scenes 9 and 10: requests that pretend to be others.

use super::caller::Who;
use super::script::{API_SERVER, PODS, ROOT, UNAUTHORIZED};
use super::{Line, Play, gives_in, serves, stops};
use fakes::apiserver::METRICS_TOKEN;

/// Scene 9.
pub(super) async fn forged_headers(play: &mut Play<'_>) {
    const FORGED: [(&str, &str); 4] = [
        ("X-Remote-User", "kube-apiserver-kubelet-client"),
        ("X-Remote-Group", "system:masters"),
        ("Impersonate-User", "system:admin"),
        ("Impersonate-Group", "system:masters"),
    ];
    const REQUEST: &str = "GET /pods, forged X-Remote-User, Impersonate-User";
    let pki = &play.lab.pki;
    play.scene();
    play.both(
        Line {
            who: &Who::nobody("anybody"),
            request: REQUEST,
            open: gives_in(200, PODS, "all pods, headers or not"),
            gate: stops(401, UNAUTHORIZED, UNAUTHORIZED),
            why: "who asks is never read from such a header",
        },
        async |caller| caller.call("GET", "/pods", &FORGED).await,
    )
    .await;
    play.both(
        Line {
            who: &Who::certificate("alice (certificate)", &pki.alice),
            request: REQUEST,
            open: gives_in(200, PODS, "all pods, headers or not"),
            gate: stops(403, "user=alice,", "Forbidden (user=alice, …)"),
            why: "she stays alice",
        },
        async |caller| caller.call("GET", "/pods", &FORGED).await,
    )
    .await;
    play.both(
        Line {
            who: &Who::certificate(API_SERVER, &pki.apiserver_client),
            request: REQUEST,
            open: serves(200, PODS, "all pods"),
            gate: serves(200, PODS, "all pods; the kubelet saw none of the headers"),
            why: "taken out before forwarding: nothing behind can believe them",
        },
        async |caller| caller.call("GET", "/pods", &FORGED).await,
    )
    .await;
    let seen = play.lab.kubelet.requests();
    let passed: Vec<_> = seen.last().map_or_else(Vec::new, |request| {
        let names = request.headers.iter().map(|(name, _)| name.to_lowercase());
        names
            .filter(|name| name.starts_with("x-remote-") || name.starts_with("impersonate-"))
            .collect()
    });
    if let Some(row) = play.rows.last_mut() {
        row.gate.and(passed.is_empty(), || {
            format!("expected that the kubelet sees none of the headers, got {passed:?}")
        });
    }
}

/// Scene 10.
pub(super) async fn path_tricks(play: &mut Play<'_>) {
    const LED_TO_RUN: &str = "301 to /run/default/web/nginx?cmd=id: uid=0(root)";
    let metrics = Who::token("monitoring (token, get nodes/metrics)", METRICS_TOKEN);
    let tricks = [
        (
            "POST /metrics/../run/…",
            "/metrics/../run/default/web/nginx?cmd=id",
            gives_in(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            stops(400, "dot segment", "the path has a dot segment"),
            "looks like metrics and is run: refused before any review",
        ),
        (
            "POST /metrics/%2e%2e/run/…",
            "/metrics/%2e%2e/run/default/web/nginx?cmd=id",
            gives_in(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            stops(400, "dot segment", "the path has a dot segment"),
            "the same in disguise: decoded once, then judged",
        ),
        (
            "POST /metrics%2f..%2frun/…",
            "/metrics%2f..%2frun/default/web/nginx?cmd=id",
            gives_in(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            stops(400, "encoded slash", "the path has an encoded slash"),
            "one segment or three? Kubelets differ",
        ),
        (
            "POST //run/…",
            "//run/default/web/nginx?cmd=id",
            gives_in(200, LED_TO_RUN, "after a redirect: uid=0(root)"),
            stops(400, "empty segment", "the path has an empty segment"),
            "a prefix rule misses it, the kubelet's router does not",
        ),
        (
            "POST /%72un/…",
            "/%72un/default/web/nginx?cmd=id",
            gives_in(200, ROOT, "uid=0(root)"),
            stops(
                403,
                "verb=create, resource=nodes, subresource(s)=[proxy]",
                "Forbidden (… [proxy])",
            ),
            "one reading only, /run, and judged as that",
        ),
    ];
    play.scene();
    for (request, target, open, gate, why) in tricks {
        play.both(
            Line {
                who: &metrics,
                request,
                open,
                gate,
                why,
            },
            async |caller| caller.post_following(target).await,
        )
        .await;
    }
}
