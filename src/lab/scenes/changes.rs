//! Scenes 11 and 12: what changes around the gate while it runs.

use std::io;

use super::caller::{Said, Who};
use super::script::{API_SERVER, PODS, UNAUTHORIZED};
use super::{Line, Play, gives_in, serves, stops};
use fakes::apiserver::ADMIN_TOKEN;
use fakes::client::ClientError;

/// Scene 11: one connection to each door, asked on twice.
pub(super) async fn removed_ca(play: &mut Play<'_>) -> io::Result<()> {
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
        .map_err(|error: ClientError| io::Error::other(error))?;
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
pub(super) async fn api_server_down(play: &mut Play<'_>) -> io::Result<()> {
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
