//! Scenes 11 and 12: changes around the gate while it runs.

use std::io;

use super::caller::{Caller, Reply};
use super::marks::{API_SERVER, PODS, UNAUTHORIZED};
use super::{Attempt, Demo, exposed, refused, served};
use fakes::apiserver::ADMIN_TOKEN;
use fakes::client::ClientError;

/// Scene 11: two requests on one connection to the kubelet, and two on one to the gate.
pub(super) async fn removed_ca(demo: &mut Demo<'_>) -> io::Result<()> {
    let lab = demo.lab;
    let carol = Caller::certificate("carol, admin (cert. by a second CA)", &lab.pki.carol);
    demo.next_scene();
    let connections = async {
        let (open, gate) = (carol.session_with_kubelet(lab)?, carol.session_with_gate(lab)?);
        Ok((open.connect().await?, gate.connect().await?))
    };
    let (mut open, mut gate) = connections
        .await
        .map_err(|error: ClientError| io::Error::other(error))?;
    let (at_open, at_gate) = (open.get("/pods").await.into(), gate.get("/pods").await.into());
    let attempt = Attempt {
        caller: &carol,
        request: "GET /pods",
        open: served(200, PODS, "all pods"),
        gate: served(200, PODS, "all pods"),
        why: "both CAs are in the bundle, as during a rotation",
    };
    demo.add_row(attempt, &at_open, &at_gate, 1);

    lab.trust_rotated_ca(false)?;
    let at_open = Reply::from(open.get("/pods").await);
    let before = lab.kubelet.request_count();
    let at_gate = Reply::from(gate.get("/pods").await);
    let passed = lab.kubelet.request_count() - before;
    lab.trust_rotated_ca(true)?;
    let attempt = Attempt {
        caller: &carol,
        request: "GET /pods, same connection, her CA removed",
        open: exposed(200, PODS, "all pods: it verifies no certificate"),
        gate: refused(401, UNAUTHORIZED, UNAUTHORIZED),
        why: "the bundle changed: certificates are verified again, also on open connections",
    };
    demo.add_row(attempt, &at_open, &at_gate, passed);
    Ok(())
}

/// Scene 12.
pub(super) async fn api_server_down(demo: &mut Demo<'_>) -> io::Result<()> {
    let pki = &demo.lab.pki;
    demo.next_scene();
    demo.lab.api_server.down().await?;
    demo.compare(
        Attempt {
            caller: &Caller::certificate("bob, admin (certificate)", &pki.bob),
            request: "GET /stats/summary, API server down",
            open: served(200, "\"nodeName\"", "statistics: it needs no review"),
            gate: refused(
                503,
                "SubjectAccessReview failed",
                "review failed, nothing forwarded",
            ),
            why: "bob has the right, but no review can confirm it: fails closed",
        },
        async |session| session.get("/stats/summary").await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &Caller::token("admin (token)", ADMIN_TOKEN),
            request: "GET /pods, API server down",
            open: served(200, PODS, "all pods: it needs no review"),
            gate: refused(503, "TokenReview failed", "review failed, nothing forwarded"),
            why: "without a TokenReview the token's user is unknown",
        },
        async |session| session.get("/pods").await,
    )
    .await;
    demo.compare(
        Attempt {
            caller: &Caller::certificate(API_SERVER, &pki.apiserver_client),
            request: "GET /pods, API server down",
            open: served(200, PODS, "all pods"),
            gate: served(200, PODS, "all pods"),
            why: "allowed in scene 4, cached for five minutes",
        },
        async |session| session.get("/pods").await,
    )
    .await;
    demo.lab.api_server.up().await
}
