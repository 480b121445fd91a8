//! Clients whose streams last: commands, attached processes, forwarded ports, followed logs.

use std::time::Instant;

use bytes::Bytes;
use fakes::client::{Alpn, WsSession};

use super::tally::Wrong;
use super::{Caller, LOG};
use crate::world::{PKI, request};

const EXEC: &str = "/exec/default/web/nginx?command=cat&input=1&output=1&error=1";
const ATTACH: &str = "/attach/default/web/nginx?input=1&output=1&error=1";
const FORWARD: &str = "/portForward/default/web?port=8080";

impl Caller {
    /// Runs `cat`, one after the other.
    pub(super) async fn run_commands(self, number: u32) {
        self.repeat(
            number,
            "exec",
            EXEC,
            "v5.channel.k8s.io",
            async |session, text| {
                session.send_stdin(text).await.map_err(Wrong::cut)?;
                let echoed = session.read_stdout(text.len()).await.map_err(Wrong::cut)?;
                same(&echoed, text)
            },
        )
        .await;
    }

    /// Attaches to a process that writes what it reads.
    pub(super) async fn attach(self, number: u32) {
        self.repeat(
            number,
            "attach",
            ATTACH,
            "v5.channel.k8s.io",
            async |session, text| {
                session.send_stdin(text).await.map_err(Wrong::cut)?;
                let echoed = session.read_stdout(text.len()).await.map_err(Wrong::cut)?;
                same(&echoed, text)
            },
        )
        .await;
    }

    /// Forwards a port behind which everything comes back.
    pub(super) async fn forward_ports(self, number: u32) {
        self.repeat(
            number,
            "port-forward",
            FORWARD,
            "v4.channel.k8s.io",
            async |session, text| {
                session.send_channel(0, text).await.map_err(Wrong::cut)?;
                loop {
                    match session.next_channel().await.map_err(Wrong::cut)? {
                        // The port's number comes first, on both channels.
                        Some((_, port)) if port[..] == 8080_u16.to_le_bytes() => {}
                        Some((0, data)) => return same(&data, text),
                        other => return Err(Wrong::Bytes(format!("{other:?} in place of what was sent"))),
                    }
                }
            },
        )
        .await;
    }

    async fn repeat(
        &self,
        number: u32,
        kind: &'static str,
        target: &str,
        protocol: &str,
        exchange: impl AsyncFn(&mut WsSession, &[u8]) -> Result<(), Wrong>,
    ) {
        let client = self.client(number, Some(&PKI.bob), Alpn::H1);
        while self.pause(self.plan.pause).await {
            let began = Instant::now();
            let outcome = async {
                let answer = client
                    .websocket(target, &[protocol], &[])
                    .await
                    .map_err(Wrong::cut)?;
                let status = answer.status().as_u16();
                let mut session = answer.switched().ok_or_else(|| Wrong::Status(status))?;
                let (mut bytes, mut line) = (0, 0);
                while began.elapsed() < self.plan.lasting {
                    line += 1;
                    // Of different lengths, up to several records of TLS.
                    let text = format!("{kind} {line} ").repeat(1 + (line * 577) % 2000);
                    exchange(&mut session, text.as_bytes()).await?;
                    bytes += text.len() as u64;
                    self.pause(self.plan.pause).await;
                }
                if kind == "port-forward" {
                    session.close().await.map_err(Wrong::cut)?;
                    return Ok(bytes);
                }
                session.close_stdin().await.map_err(Wrong::cut)?;
                let end = session.exec_read().await.map_err(Wrong::cut)?;
                match end.exit_code() {
                    Some(0) if end.stdout.is_empty() => Ok(bytes),
                    _ => Err(Wrong::Bytes(format!("it ended with {end:?}"))),
                }
            };
            self.tally.judge(kind, began, outcome.await);
        }
    }

    /// Follows a log: first what is there, then numbered lines without a gap.
    pub(super) async fn follow_logs(self, number: u32) {
        let alpn = if number % 2 == 0 { Alpn::H1 } else { Alpn::H2 };
        let client = self.client(number, Some(&PKI.bob), alpn);
        let target = format!("{LOG}?follow=true");
        while self.pause(self.plan.pause).await {
            let began = Instant::now();
            let outcome = async {
                let answer = client
                    .open(request("GET", &target, &[]))
                    .await
                    .map_err(Wrong::cut)?;
                let status = answer.status().as_u16();
                if status != 200 {
                    return Err(Wrong::Status(status));
                }
                let (mut body, mut read) = (answer.into_body(), Vec::new());
                while began.elapsed() < self.plan.lasting {
                    let Some(piece) = body.next().await.map_err(Wrong::cut)? else {
                        return Err(Wrong::cut("the followed log ended"));
                    };
                    read.extend_from_slice(&piece);
                }
                self.is_without_gap(&read)?;
                Ok(read.len() as u64)
            };
            self.tally.judge("followed log", began, outcome.await);
        }
    }

    fn is_without_gap(&self, read: &[u8]) -> Result<(), Wrong> {
        let log = &self.expected.log;
        let (old, new) = read.split_at(read.len().min(log.len()));
        same(old, &log[..old.len()])?;
        let new = String::from_utf8_lossy(new);
        for (line, number) in new.split_inclusive('\n').zip(1..) {
            let expected = format!("still here, line {number}\n");
            if !expected.starts_with(line) {
                return Err(Wrong::Bytes(format!("{line:?} in place of {expected:?}")));
            }
        }
        Ok(())
    }
}

fn same(read: &[u8], expected: &[u8]) -> Result<(), Wrong> {
    if read == expected {
        return Ok(());
    }
    let read = Bytes::copy_from_slice(&read[..read.len().min(80)]);
    Err(Wrong::Bytes(format!("{read:?} in place of what was expected")))
}
