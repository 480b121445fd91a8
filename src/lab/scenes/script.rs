//! The scenes in their order, and the first eight: what each sort of caller gets.

use std::io;

use super::caller::{Caller, Who};
use super::{Line, Play, around, changes, gives_in, serves, stops, tricks};
use fakes::apiserver::{METRICS_TOKEN, PROXY_GET_TOKEN};

/// A secret in a pod's environment: who sees it has read `/pods`.
pub(super) const PODS: &str = "STRIPE_API_KEY";
const METRICS: &str = "kubelet_running_pods";
pub(super) const ROOT: &str = "uid=0(root)";
const EXEC: &str = "/exec/default/web/nginx?command=id&input=0&output=1&error=1";
const RUN: &str = "/run/default/web/nginx?cmd=id";
pub(super) const UNAUTHORIZED: &str = "Unauthorized";
pub(super) const API_SERVER: &str = "the API server (certificate)";

/// Plays them in order; yields what could not be played.
pub(super) async fn all(play: &mut Play<'_>) -> io::Result<Option<String>> {
    anonymous(play).await;
    read_only_port(play).await;
    api_server(play).await;
    user_without_rights(play).await;
    metrics_token(play).await;
    get_nodes_proxy(play).await;
    bad_certificates(play).await;
    tricks::forged_headers(play).await;
    tricks::path_tricks(play).await;
    changes::removed_ca(play).await?;
    changes::api_server_down(play).await?;
    Ok(around::local_user(play).await)
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
