//! Clients that are hard on a gate: one reads slowly, another resets its connection in the middle of an
//! answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fakes::client::Alpn;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Caller;
use super::tally::Wrong;
use crate::world::{PKI, request};

/// More than the buffers on the way hold.
const LONG: u64 = 8 << 20;

impl Caller {
    /// Reads long answers, with pauses.
    pub(super) async fn read_slowly(self, number: u32) {
        let alpn = if number % 2 == 0 { Alpn::H1 } else { Alpn::H2 };
        let client = self.client(number, Some(&PKI.bob), alpn);
        let target = format!("/lab/bytes?n={LONG}");
        // Of the some 500 pieces of an answer, every tenth is waited for.
        let pause = self.plan.lasting / 50;
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
                let (mut body, mut bytes, mut pieces) = (answer.into_body(), 0, 0_u32);
                while let Some(piece) = body.next().await.map_err(Wrong::cut)? {
                    bytes += piece.len() as u64;
                    pieces += 1;
                    if pieces.is_multiple_of(10) {
                        tokio::time::sleep(pause).await;
                    }
                }
                match bytes {
                    LONG => Ok(LONG),
                    _ => Err(Wrong::Bytes(format!("{bytes} bytes in place of {LONG}"))),
                }
            };
            self.tally.judge("slow reader", began, outcome.await);
        }
    }

    /// Resets its connections: in the handshake, before the answer, in the middle of it. It is not judged.
    pub(super) async fn abort(self, number: u32) {
        let tls = TlsConnector::from(Arc::new(PKI.client_config(Some(&PKI.bob)).unwrap()));
        let address = self.addresses[number as usize % self.addresses.len()];
        let pause = self.plan.pause.max(Duration::from_millis(20));
        let mut turn = 0_u32;
        while self.pause(pause).await {
            turn += 1;
            let aborted = async {
                let mut tcp = TcpStream::connect(address).await?;
                // Closing it is a reset.
                SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
                if turn.is_multiple_of(3) {
                    return tcp.write_all(b"\x16\x03\x01\x02\x00\x01").await;
                }
                let name = ServerName::try_from("localhost").unwrap();
                let mut stream = tls.connect(name, tcp).await?;
                let head = format!("GET /lab/bytes?n={LONG} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                if turn % 3 == 1 {
                    stream.read_exact(&mut [0; 30_000]).await?;
                }
                Ok(())
            };
            // Another client would see an outage as well, and is judged.
            let _ = aborted.await;
        }
    }
}
