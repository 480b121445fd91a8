//! The order of the scenes, and the first eight: what each kind of caller gets.

use std::io;

use super::caller::{Caller, Session};
use super::marks::{API_SERVER, NO_CREDENTIALS, PODS, ROOT, UNAUTHORIZED};
use super::{Attempt, Demo, around, changes, exposed, refused, served, tricks};
use fakes::apiserver::{METRICS_TOKEN, PROXY_GET_TOKEN};

const METRICS: &str = "kubelet_running_pods";
const EXEC: &str = "/exec/default/web/nginx?command=id&input=0&output=1&error=1";
const RUN: &str = "/run/default/web/nginx?cmd=id";

/// Plays every scene. Yields the one that could not be played, if any, with the reason.
pub(super) async fn all(demo: &mut Demo<'_>) -> io::Result<Option<String>> {
    anonymous(demo).await;
    read_only_port(demo).await;
    api_server(demo).await;
    user_without_rights(demo).await;
    metrics_token(demo).await;
    get_nodes_proxy(demo).await;
    bad_certificates(demo).await;
    tricks::forged_headers(demo).await;
    tricks::path_tricks(demo).await;
    changes::removed_ca(demo).await?;
    changes::api_server_down(demo).await?;
    Ok(around::local_user(demo).await)
}

/// Scenes 1 and 2.
async fn anonymous(demo: &mut Demo<'_>) {
    let client = Caller::anonymous(NO_CREDENTIALS);
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &client,
            request: "GET /pods",
            open: exposed(200, PODS, "all pods, with the secrets in their environment"),
            gate: refused(401, UNAUTHORIZED, UNAUTHORIZED),
            why: "no certificate and no token: the client is not authenticated",
        },
        async |session| session.get("/pods").await,
    )
    .await;
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &client,
            request: "POST /run/default/web/nginx?cmd=id",
            open: exposed(200, ROOT, "uid=0(root): a command ran"),
            gate: refused(401, UNAUTHORIZED, UNAUTHORIZED),
            why: "the command is not forwarded to the kubelet",
        },
        async |session| session.post(RUN).await,
    )
    .await;
}

/// Scene 3.
async fn read_only_port(demo: &mut Demo<'_>) {
    demo.next_scene();
    let (kubelet, tombstone) = (demo.lab.read_only(), demo.lab.tombstone());
    let open = Session::plain(kubelet).get("/pods").await;
    let before = demo.lab.kubelet.request_count();
    let gate = Session::plain(tombstone).get("/pods").await;
    let passed = demo.lab.kubelet.request_count() - before;
    let attempt = Attempt {
        caller: &Caller::anonymous(NO_CREDENTIALS),
        request: "GET http://…/pods, on the read-only port",
        open: exposed(200, PODS, "all pods, with their secrets"),
        gate: refused(410, "read-only port is closed", "Gone, and where to go instead"),
        why: "the gate replaces it, refuses every request and counts the clients",
    };
    demo.add_row(attempt, &open, &gate, passed);
}

/// Scene 4.
async fn api_server(demo: &mut Demo<'_>) {
    let api_server = Caller::certificate(API_SERVER, &demo.lab.pki.apiserver_client);
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &api_server,
            request: "GET /pods",
            open: served(200, PODS, "all pods"),
            gate: served(200, PODS, "all pods"),
            why: "allowed by SubjectAccessReview: kubectl works as before",
        },
        async |session| session.get("/pods").await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &api_server,
            request: "GET /containerLogs/…?follow=true",
            open: served(200, "booked 7 transfers\nstill here", "lines as they are written"),
            gate: served(200, "booked 7 transfers\nstill here", "lines as they are written"),
            why: "kubectl logs -f: each line passes at once",
        },
        async |session| {
            let target = "/containerLogs/payments/ledger/app?follow=true&tailLines=2";
            session.follow(target, 3).await
        },
    )
    .await;
    demo.compare(
        Attempt {
            caller: &api_server,
            request: "exec id, over WebSocket",
            open: served(101, ROOT, "uid=0(root)"),
            gate: served(101, ROOT, "uid=0(root)"),
            why: "kubectl exec: it has create nodes/proxy",
        },
        async |session| session.exec_websocket(EXEC).await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &api_server,
            request: "exec, over SPDY/3.1",
            open: served(101, "both ways", "bytes in both directions"),
            gate: served(101, "both ways", "bytes in both directions"),
            why: "older kubectl: bytes pass only after the kubelet's 101",
        },
        async |session| {
            let target = "/exec/default/web/nginx?command=cat&input=1&output=1";
            session.exec_spdy(target, "both ways").await
        },
    )
    .await;
}

/// Scene 5.
async fn user_without_rights(demo: &mut Demo<'_>) {
    let alice = Caller::certificate("alice, developer (certificate)", &demo.lab.pki.alice);
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &alice,
            request: "GET /pods",
            open: exposed(200, PODS, "all pods, with their secrets"),
            gate: refused(
                403,
                "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])",
                "Forbidden (user=alice, … [pods proxy])",
            ),
            why: "the certificate proves that this is alice; RBAC allows her nothing",
        },
        async |session| session.get("/pods").await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &alice,
            request: "POST /run/default/web/nginx?cmd=id",
            open: exposed(200, ROOT, "uid=0(root)"),
            gate: refused(
                403,
                "Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[proxy])",
                "Forbidden (user=alice, … [proxy])",
            ),
            why: "she may not run commands either",
        },
        async |session| session.post(RUN).await,
    )
    .await;
}

/// Scene 6.
async fn metrics_token(demo: &mut Demo<'_>) {
    let metrics = Caller::token("monitoring (token, get nodes/metrics)", METRICS_TOKEN);
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &metrics,
            request: "GET /metrics",
            open: served(200, METRICS, "metrics"),
            gate: served(200, METRICS, "metrics"),
            why: "TokenReview names the user, and SubjectAccessReview allows it to read metrics",
        },
        async |session| session.get("/metrics").await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &metrics,
            request: "GET /pods",
            open: exposed(200, PODS, "all pods: it ignores the token"),
            gate: refused(403, "subresource(s)=[pods proxy]", "Forbidden ([pods proxy])"),
            why: "the token allows nothing else",
        },
        async |session| session.get("/pods").await,
    )
    .await;
}

/// Scene 7.
async fn get_nodes_proxy(demo: &mut Demo<'_>) {
    let reader = Caller::token("a reader (token, get nodes/proxy)", PROXY_GET_TOKEN);
    demo.next_scene();
    demo.compare(
        Attempt {
            caller: &reader,
            request: "GET /pods",
            open: served(200, PODS, "all pods"),
            gate: served(200, PODS, "all pods"),
            why: "get nodes/proxy is enough to read",
        },
        async |session| session.get("/pods").await,
    )
    .await;
    let specs = |demo: &Demo<'_>| {
        let specs = demo.lab.api_server.access_specs();
        specs
            .into_iter()
            .filter(|spec| spec["user"] == "system:serviceaccount:monitoring:reader")
            .map(|spec| spec["resourceAttributes"].clone())
            .filter(|attributes| attributes["subresource"] == "proxy")
            .filter_map(|attributes| attributes["verb"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    demo.compare(
        Attempt {
            caller: &reader,
            request: "exec id, by GET over WebSocket",
            open: exposed(101, ROOT, "uid=0(root)"),
            gate: refused(
                403,
                "verb=create, resource=nodes, subresource(s)=[proxy]",
                "Forbidden (… verb=create, … [proxy])",
            ),
            why: "a hardened kubelet treats this GET as reading; the gate requires create for every method",
        },
        async |session| session.exec_websocket(EXEC).await,
    )
    .await;
    let verbs = specs(demo);
    if let Some(row) = demo.rows.last_mut() {
        row.gate.require(verbs.iter().any(|verb| verb == "create"), || {
            format!("expected a SubjectAccessReview for create nodes/proxy, got only {verbs:?}")
        });
    }
}

/// Scene 8.
async fn bad_certificates(demo: &mut Demo<'_>) {
    let pki = &demo.lab.pki;
    demo.next_scene();
    let certificates = [
        (
            Caller::certificate("the API server's, expired", &pki.expired),
            "it expired yesterday",
        ),
        (
            Caller::certificate("the same names, by an untrusted CA", &pki.wrong_ca),
            "all names are the same, also the CA's; the CA's key is another",
        ),
        (
            Caller::certificate("the API server's, for servers only", &pki.wrong_usage),
            "the extended key usage lacks clientAuth",
        ),
    ];
    for (caller, why) in certificates {
        demo.compare(
            Attempt {
                caller: &caller,
                request: "GET /pods",
                open: exposed(200, PODS, "all pods: it asks for no certificate"),
                gate: refused(401, UNAUTHORIZED, UNAUTHORIZED),
                why,
            },
            async |session| session.get("/pods").await,
        )
        .await;
    }
}
