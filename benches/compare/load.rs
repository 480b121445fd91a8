//! The load: keep-alive connections with a client certificate, one request at a time on each.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::fronts::Bench;

/// Keep-alive connections of the load.
const CONNECTIONS: usize = 32;

pub(crate) struct Connection(pub(crate) TlsStream<TcpStream>);

/// Connections that take turns, each with one request at a time.
pub(crate) struct Load(Vec<Connection>);

impl Connection {
    /// One request and its answer; returns the answer's length, head included.
    pub(crate) async fn exchange(&mut self, path: &str) -> Result<usize> {
        self.0.write_all(request(path).as_bytes()).await?;
        let mut answer = Vec::with_capacity(1024);
        loop {
            ensure!(
                self.0.read_buf(&mut answer).await? > 0,
                "the front closed the connection"
            );
            let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let text = str::from_utf8(&answer[..head])?;
            ensure!(text.starts_with("HTTP/1.1 200 "), "the front answered {text}");
            let length = text
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let (_, length) = length.context("an answer without Content-Length")?;
            let total = head + 4 + length.parse::<usize>()?;
            while answer.len() < total {
                ensure!(self.0.read_buf(&mut answer).await? > 0, "the front broke off");
            }
            return Ok(total);
        }
    }

    /// The same request again and again. Its answers are all as long as the first, so
    /// nothing more has to be parsed.
    async fn repeat(&mut self, path: &str, count: usize) -> Result<()> {
        let mut answer = vec![0; self.exchange(path).await?];
        let request = request(path);
        for _ in 1..count {
            self.0.write_all(request.as_bytes()).await?;
            self.0.read_exact(&mut answer).await?;
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                bail!("the front answered {}", String::from_utf8_lossy(&answer));
            }
        }
        Ok(())
    }
}

impl Load {
    pub(crate) async fn connect(bench: &Bench, address: SocketAddr) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(bench.first_connection(address).await?);
        }
        Ok(Self(connections))
    }

    pub(crate) async fn run(&mut self, path: &'static str, requests: usize) -> Result<()> {
        let mut tasks = JoinSet::new();
        for mut connection in self.0.drain(..) {
            tasks.spawn(async move {
                connection.repeat(path, requests.div_ceil(CONNECTIONS)).await?;
                Ok::<_, anyhow::Error>(connection)
            });
        }
        while let Some(done) = tasks.join_next().await {
            self.0.push(done??);
        }
        Ok(())
    }
}

/// What an API server sends, more or less.
fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: worker-1:10250\r\nUser-Agent: kube-apiserver\r\nAccept: \
         application/json\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    )
}
