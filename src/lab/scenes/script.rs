//! The scenes themselves.

use std::io;

use super::caller::{Caller, Said, Who};
use super::{Line, Play, gives_in, serves, stops};
use crate::lab::fake_apiserver::{ADMIN_TOKEN, METRICS_TOKEN, PROXY_GET_TOKEN};

/// A secret in a pod's environment: who sees it has read `/pods`.
const PODS: &str = "STRIPE_API_KEY";
const METRICS: &str = "kubelet_running_pods";
const ROOT: &str = "uid=0(root)";
const EXEC: &str = "/exec/default/web/nginx?command=id&input=0&output=1&error=1";
const RUN: &str = "/run/default/web/nginx?cmd=id";
const UNAUTHORIZED: &str = "Unauthorized";
const API_SERVER: &str = "the API server (certificate)";

/// Plays them in order.
pub(super) async fn all(play: &mut Play<'_>) -> io::Result<()> {
    anonymous(play).await;
    read_only_port(play).await;
    api_server(play).await;
    user_without_rights(play).await;
    metrics_token(play).await;
    get_nodes_proxy(play).await;
    bad_certificates(play).await;
    forged_headers(play).await;
    path_tricks(play).await;
    removed_ca(play).await?;
    api_server_down(play).await
}

/// Scenes 1 and 2.
async fn anonymous(play: &mut Play<'_>) {
    let anybody = Who::nobody("anybody");
    play.scene();
    play.both(
        Line {
            who: &anybody,
            request: "GET /pods",
            open: gives_in(200, PODS, "all pods, secrets in their environment too"),
            gate: stops(401, UNAUTHORIZED, UNAUTHORIZED),
            why: "no certificate, no token: nobody known asks",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
    play.scene();
    play.both(
        Line {
            who: &anybody,
            request: "POST /run/default/web/nginx?cmd=id",
            open: gives_in(200, ROOT, "uid=0(root): a command ran"),
            gate: stops(401, UNAUTHORIZED, UNAUTHORIZED),
            why: "the kubelet never hears of the command",
        },
        async |caller| caller.post(RUN).await,
    )
    .await;
}

/// Scene 3.
async fn read_only_port(play: &mut Play<'_>) {
    play.scene();
    let (kubelet, tombstone) = (play.lab.read_only(), play.lab.tombstone());
    let open = Caller::plain(kubelet).get("/pods").await;
    let before = play.lab.kubelet.request_count();
    let gate = Caller::plain(tombstone).get("/pods").await;
    let passed = play.lab.kubelet.request_count() - before;
    let line = Line {
        who: &Who::nobody("anybody"),
        request: "GET http://…/pods, on the read-only port",
        open: gives_in(200, PODS, "all pods, with their secrets"),
        gate: stops(410, "read-only port is closed", "Gone, and where to go instead"),
        why: "the gate takes its place, refuses everybody and counts them",
    };
    play.row(line, &open, &gate, passed);
}

/// Scene 4.
async fn api_server(play: &mut Play<'_>) {
    let who = Who::certificate(API_SERVER, &play.lab.pki.apiserver_client);
    play.scene();
    play.both(
        Line {
            who: &who,
            request: "GET /pods",
            open: serves(200, PODS, "all pods"),
            gate: serves(200, PODS, "all pods"),
            why: "allowed by SubjectAccessReview: kubectl works as before",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
    play.both(
        Line {
            who: &who,
            request: "GET /containerLogs/…?follow=true",
            open: serves(200, "booked 7 transfers\nstill here", "lines as they are written"),
            gate: serves(200, "booked 7 transfers\nstill here", "lines as they are written"),
            why: "kubectl logs -f: each line passes at once",
        },
        async |caller| {
            let target = "/containerLogs/payments/ledger/app?follow=true&tailLines=2";
            caller.follow(target, 3).await
        },
    )
    .await;
    play.both(
        Line {
            who: &who,
            request: "exec id, over WebSocket",
            open: serves(101, ROOT, "uid=0(root)"),
            gate: serves(101, ROOT, "uid=0(root)"),
            why: "kubectl exec: it has create nodes/proxy",
        },
        async |caller| caller.exec_websocket(EXEC).await,
    )
    .await;
    play.both(
        Line {
            who: &who,
            request: "exec, over SPDY/3.1",
            open: serves(101, "to and fro", "bytes to and fro"),
            gate: serves(101, "to and fro", "bytes to and fro"),
            why: "older kubectl: bytes pass only after the kubelet's 101",
        },
        async |caller| {
            let target = "/exec/default/web/nginx?command=cat&input=1&output=1";
            caller.exec_spdy(target, "to and fro").await
        },
    )
    .await;
}

/// Scene 5.
async fn user_without_rights(play: &mut Play<'_>) {
    let alice = Who::certificate("alice, developer (certificate)", &play.lab.pki.alice);
    play.scene();
    play.both(
        Line {
            who: &alice,
            request: "GET /pods",
            open: gives_in(200, PODS, "all pods, with their secrets"),
            gate: stops(
                403,
                "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])",
                "Forbidden (user=alice, … [pods proxy])",
            ),
            why: "the certificate says who she is; RBAC gives her nothing",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
    play.both(
        Line {
            who: &alice,
            request: "POST /run/default/web/nginx?cmd=id",
            open: gives_in(200, ROOT, "uid=0(root)"),
            gate: stops(
                403,
                "Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[proxy])",
                "Forbidden (user=alice, … [proxy])",
            ),
            why: "nor may she run commands",
        },
        async |caller| caller.post(RUN).await,
    )
    .await;
}

/// Scene 6.
async fn metrics_token(play: &mut Play<'_>) {
    let metrics = Who::token("monitoring (token, get nodes/metrics)", METRICS_TOKEN);
    play.scene();
    play.both(
        Line {
            who: &metrics,
            request: "GET /metrics",
            open: serves(200, METRICS, "metrics"),
            gate: serves(200, METRICS, "metrics"),
            why: "TokenReview says who it is, and that one may read metrics",
        },
        async |caller| caller.get("/metrics").await,
    )
    .await;
    play.both(
        Line {
            who: &metrics,
            request: "GET /pods",
            open: gives_in(200, PODS, "all pods: it never read the token"),
            gate: stops(403, "subresource(s)=[pods proxy]", "Forbidden ([pods proxy])"),
            why: "the same token opens nothing else",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
}

/// Scene 7.
async fn get_nodes_proxy(play: &mut Play<'_>) {
    let reader = Who::token("a reader (token, get nodes/proxy)", PROXY_GET_TOKEN);
    play.scene();
    play.both(
        Line {
            who: &reader,
            request: "GET /pods",
            open: serves(200, PODS, "all pods"),
            gate: serves(200, PODS, "all pods"),
            why: "get nodes/proxy is enough to read",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
    let specs = |play: &Play<'_>| {
        let specs = play.lab.api_server.access_specs();
        specs
            .into_iter()
            .filter(|spec| spec["user"] == "system:serviceaccount:monitoring:reader")
            .map(|spec| spec["resourceAttributes"].clone())
            .filter(|asked| asked["subresource"] == "proxy")
            .filter_map(|asked| asked["verb"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    play.both(
        Line {
            who: &reader,
            request: "exec id, by GET over WebSocket",
            open: gives_in(101, ROOT, "uid=0(root)"),
            gate: stops(
                403,
                "verb=create, resource=nodes, subresource(s)=[proxy]",
                "Forbidden (… verb=create, … [proxy])",
            ),
            why: "even a hardened kubelet takes this GET for reading; the gate asks for create, whatever the method",
        },
        async |caller| caller.exec_websocket(EXEC).await,
    )
    .await;
    let asked = specs(play);
    if let Some(row) = play.rows.last_mut() {
        row.gate.and(asked.iter().any(|verb| verb == "create"), || {
            format!("expected a SubjectAccessReview for create nodes/proxy, got only {asked:?}")
        });
    }
}

/// Scene 8.
async fn bad_certificates(play: &mut Play<'_>) {
    let pki = &play.lab.pki;
    play.scene();
    let cast = [
        (
            Who::certificate("the API server's, expired", &pki.expired),
            "it ended yesterday",
        ),
        (
            Who::certificate("its twin, by a stranger's CA", &pki.wrong_ca),
            "all names are the same, the CA's too; its key is not",
        ),
        (
            Who::certificate("the API server's, for servers only", &pki.wrong_usage),
            "the extended key usage lacks clientAuth",
        ),
    ];
    for (who, why) in cast {
        play.both(
            Line {
                who: &who,
                request: "GET /pods",
                open: gives_in(200, PODS, "all pods: it asks for no certificate"),
                gate: stops(401, UNAUTHORIZED, UNAUTHORIZED),
                why,
            },
            async |caller| caller.get("/pods").await,
        )
        .await;
    }
}

/// Scene 9.
async fn forged_headers(play: &mut Play<'_>) {
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
async fn path_tricks(play: &mut Play<'_>) {
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

/// Scene 11: one connection to each door, asked on twice.
async fn removed_ca(play: &mut Play<'_>) -> io::Result<()> {
    const WHO: &str = "carol, admin (cert. by a second CA)";
    let lab = play.lab;
    let carol = Who::certificate(WHO, &lab.pki.carol);
    play.scene();
    let connections = async {
        let (open, gate) = (carol.at_open(lab)?, carol.at_gate(lab)?);
        Ok((open.connect().await?, gate.connect().await?))
    };
    let (mut open, mut gate) = connections
        .await
        .map_err(|error: crate::lab::client::ClientError| io::Error::other(error))?;
    let (at_open, at_gate) = (open.get("/pods").await.into(), gate.get("/pods").await.into());
    let line = Line {
        who: &carol,
        request: "GET /pods",
        open: serves(200, PODS, "all pods"),
        gate: serves(200, PODS, "all pods"),
        why: "both CAs are in the bundle, as during a rotation",
    };
    play.row(line, &at_open, &at_gate, 1);

    lab.trust_rotated_ca(false)?;
    let at_open = Said::from(open.get("/pods").await);
    let before = lab.kubelet.request_count();
    let at_gate = Said::from(gate.get("/pods").await);
    let passed = lab.kubelet.request_count() - before;
    lab.trust_rotated_ca(true)?;
    let line = Line {
        who: &carol,
        request: "GET /pods, same connection, her CA removed",
        open: gives_in(200, PODS, "all pods: there is no CA at all"),
        gate: stops(401, UNAUTHORIZED, UNAUTHORIZED),
        why: "the bundle changed: certificates are judged again, on open connections too",
    };
    play.row(line, &at_open, &at_gate, passed);
    Ok(())
}

/// Scene 12.
async fn api_server_down(play: &mut Play<'_>) -> io::Result<()> {
    let pki = &play.lab.pki;
    play.scene();
    play.lab.api_server.down().await?;
    play.both(
        Line {
            who: &Who::certificate("bob, admin (certificate)", &pki.bob),
            request: "GET /stats/summary, API server down",
            open: serves(200, "\"nodeName\"", "statistics: it asks nobody anyway"),
            gate: stops(
                503,
                "SubjectAccessReview failed",
                "review failed, nothing forwarded",
            ),
            why: "he may, but nobody can say so: fails closed, try again",
        },
        async |caller| caller.get("/stats/summary").await,
    )
    .await;
    play.both(
        Line {
            who: &Who::token("admin (token)", ADMIN_TOKEN),
            request: "GET /pods, API server down",
            open: serves(200, PODS, "all pods: it asks nobody anyway"),
            gate: stops(503, "TokenReview failed", "review failed, nothing forwarded"),
            why: "whose token is it? Nobody can say",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
    play.both(
        Line {
            who: &Who::certificate(API_SERVER, &pki.apiserver_client),
            request: "GET /pods, API server down",
            open: serves(200, PODS, "all pods"),
            gate: serves(200, PODS, "all pods"),
            why: "allowed in scene 4, remembered for five minutes",
        },
        async |caller| caller.get("/pods").await,
    )
    .await;
    play.lab.api_server.up().await
}
