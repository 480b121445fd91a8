//! Clients that ask for pages.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fakes::apiserver::METRICS_TOKEN;
use fakes::client::{Alpn, Client, ClientError, Connection};
use http::Response;

use super::tally::Wrong;
use super::{Caller, METRICS, PODS};
use crate::world::{PKI, WithToken as _, header};

impl Caller {
    /// Asks now and then. They do not all come at once, nor ask at once.
    pub(super) async fn keep_idle(self, number: u32, client: Client) {
        let share = f64::from(number) / f64::from(self.plan.idle);
        if self.pause(self.plan.idle_for.mul_f64(share / 2.0)).await {
            let pause = self.plan.idle_for.mul_f64((1.0 + share) / 2.0);
            self.keep("idle", client, pause).await;
        }
    }

    /// Keeps its connection for as long as the gate does.
    pub(super) async fn keep(self, kind: &'static str, client: Client, pause: Duration) {
        let mut kept: Option<Connection> = None;
        loop {
            let began = Instant::now();
            let used = kept.is_some();
            if kept.as_ref().is_some_and(Connection::is_closed) {
                self.tally.resend(kind);
                kept = None;
            }
            let asked = match kept.take() {
                Some(connection) => ask(connection).await,
                None => match client.connect().await {
                    Ok(connection) => ask(connection).await,
                    Err(error) => Err(error),
                },
            };
            match asked {
                // Of a kept connection that ends before the answer's first byte a GET is sent again.
                Err(ClientError::Closed(_)) if used => self.tally.resend(kind),
                Err(error) => self.tally.judge(kind, began, Err(Wrong::cut(error))),
                Ok((answer, connection)) => {
                    // On HTTP/1.1 the gate says so when it wants no further request here.
                    kept = (header(&answer, "connection") != "close").then_some(connection);
                    self.tally.judge(kind, began, right(&answer, &self.expected.pods));
                }
            }
            if !self.pause(pause).await {
                return;
            }
        }
    }

    /// Opens a connection for each request.
    pub(super) async fn connect_anew(self, number: u32) {
        let client = self.client(number, Some(&PKI.bob), Alpn::H1);
        while self.pause(self.plan.pause).await {
            let began = Instant::now();
            let answer = client.get(PODS).await;
            self.judge_page("new", began, answer, &self.expected.pods);
        }
    }

    /// The same with a token in place of the certificate.
    pub(super) async fn ask_with_token(self, number: u32) {
        let client = self.client(number, None, Alpn::H1).with_token(METRICS_TOKEN);
        while self.pause(self.plan.pause).await {
            let began = Instant::now();
            let answer = client.get(METRICS).await;
            self.judge_page("token", began, answer, &self.expected.metrics);
        }
    }

    fn judge_page(
        &self,
        kind: &'static str,
        began: Instant,
        answer: Result<Response<Bytes>, ClientError>,
        expected: &[u8],
    ) {
        let outcome = answer.map_err(Wrong::cut);
        self.tally
            .judge(kind, began, outcome.and_then(|answer| right(&answer, expected)));
    }
}

async fn ask(mut connection: Connection) -> Result<(Response<Bytes>, Connection), ClientError> {
    let answer = connection.get(PODS).await?;
    Ok((answer, connection))
}

fn right(answer: &Response<Bytes>, expected: &[u8]) -> Result<u64, Wrong> {
    match answer.status().as_u16() {
        200 if answer.body() == expected => Ok(expected.len() as u64),
        200 => Err(Wrong::Bytes("another body than the kubelet's".into())),
        status => Err(Wrong::Status(status)),
    }
}
