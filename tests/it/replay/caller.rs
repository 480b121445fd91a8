//! The clients: each identity of the recording has a certificate or token of the test, and requests are
//! written byte by byte.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fakes::client::{Alpn, Duplex};
use fakes::pki::{Ca, CertificateSpec, Pair, Usage};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::kubelet::ROW;
use super::recording::{NODE, Row, bytes};
use crate::world::{PKI, World};

/// Certificates like the recorded ones: the same subject, usage and fault.
pub(super) struct Certificates(HashMap<&'static str, Pair>);

/// Connections that are kept, one for each certificate.
pub(super) struct Caller<'a> {
    world: &'a World,
    certificates: &'a Certificates,
    open: HashMap<String, Wire>,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// One connection, and what was read of the next answer.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    input: Vec<u8>,
}

impl Certificates {
    pub(super) fn new() -> Self {
        let admin = CertificateSpec::client("admin").group("system:masters");
        let (day, year) = (Duration::DAY, Duration::days(365));
        let node = format!("system:node:{NODE}");
        let evil = Ca::generate("evil").unwrap();
        let good = [
            ("admin", admin.clone()),
            ("alice", CertificateSpec::client("alice").group("dev")),
            ("metrics-bot", CertificateSpec::client("metrics-bot")),
            ("node", CertificateSpec::client(&node).group("system:nodes")),
            (
                "apiserver-kubelet-client",
                CertificateSpec::client("kube-apiserver-kubelet-client").group("kubeadm:cluster-admins"),
            ),
            ("proxy-kubelet-client", CertificateSpec::client("kubelet-proxy")),
            ("noeku", admin.clone().usages(&[])),
            ("nocn", CertificateSpec::client("").group("system:masters")),
            ("servereku", admin.clone().usages(&[Usage::ServerAuth])),
            ("expired", admin.clone().valid(-year, -day)),
            ("notyet", admin.clone().valid(day, year)),
        ];
        let mut pairs: HashMap<_, _> = good
            .into_iter()
            .map(|(name, spec)| (name, PKI.ca.issue(name, &spec).unwrap()))
            .collect();
        pairs.insert("evil-admin", evil.issue("evil-admin", &admin).unwrap());
        let same_name = PKI.untrusted_ca.issue("samename-admin", &admin).unwrap();
        pairs.insert("samename-admin", same_name);
        pairs.insert("selfsigned", self_signed("admin"));
        Self(pairs)
    }

    pub(super) fn pair(&self, name: &str) -> Option<&Pair> {
        self.0.get(name)
    }

    /// The user's `credential-id` for this certificate.
    pub(super) fn credential_id(&self, name: &str) -> String {
        let hash = digest(&SHA256, &self.0[name].chain[0]);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("X509SHA256={hex}")
    }
}

fn self_signed(name: &str) -> Pair {
    let itself = Ca::generate(name).unwrap();
    Pair {
        name: name.to_owned(),
        chain: vec![itself.certificate().clone()],
        key: PrivateKeyDer::from_pem_slice(itself.key_pem().as_bytes()).unwrap(),
    }
}

/// The token of a row: each row has its own, so that its review is recognised.
pub(super) fn token(row: &Row, number: usize) -> String {
    format!("row{number}-{}", row.token().unwrap_or_default())
}

impl<'a> Caller<'a> {
    pub(super) fn new(world: &'a World, certificates: &'a Certificates) -> Self {
        Self {
            world,
            certificates,
            open: HashMap::new(),
        }
    }

    /// Sends a row's request, on the connection of its certificate if that is still open.
    pub(super) async fn send(&mut self, row: &Row, number: usize) -> Answer {
        let name = row.certificate().unwrap_or_default();
        let mut wire = match self.open.remove(name) {
            Some(wire) => wire,
            None => {
                let pair = self.certificates.pair(name);
                let client = self.world.tls_client(pair, Alpn::Absent);
                Wire::new(client.stream().await.unwrap())
            }
        };
        wire.write(&request(row, number)).await;
        let answer = wire.answer(row.method == "HEAD").await.expect("no answer");
        let length = answer.header("content-length").is_some();
        let framed = length || answer.header("transfer-encoding").is_some() || row.method == "HEAD";
        if framed && answer.status != 101 && answer.header("connection") != Some("close") {
            self.open.insert(name.to_owned(), wire);
        }
        answer
    }
}

/// The bytes of a row's request.
fn request(row: &Row, number: usize) -> Vec<u8> {
    let token = token(row, number);
    let target = row.target.replace("<token kubeletadmin>", &token);
    let mut lines = Vec::new();
    match row.identity.as_str() {
        "hdr:bearer-lower" => lines.push(format!("Authorization: bearer {token}")),
        "hdr:bearer-upper" => lines.push(format!("Authorization: BEARER {token}")),
        "hdr:bearer-empty" => lines.push("Authorization: Bearer ".to_owned()),
        "hdr:bearer-only" => lines.push("Authorization: Bearer".to_owned()),
        "hdr:basic" => lines.push("Authorization: Basic YWRtaW46YWRtaW4=".to_owned()),
        "hdr:query-token" | "hdr:ws-token-protocol" => {}
        _ if row.token().is_some() => lines.push(format!("Authorization: Bearer {token}")),
        _ => {}
    }
    let in_protocol = URL_SAFE_NO_PAD.encode(&token);
    let recorded = row
        .request_headers
        .iter()
        .map(|line| line.replace("<b64url of token kubeletadmin>", &in_protocol));
    lines.extend(recorded);
    // Where a row has a chunked body, that is empty.
    let body = if lines.iter().any(|line| line == "Transfer-Encoding: chunked") {
        "0\r\n\r\n"
    } else {
        ""
    };
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let start = format!("{} {target} HTTP/1.1\r\nHost: {NODE}:10250", row.method);
    bytes(&format!("{start}\r\n{ROW}: {number}\r\n{lines}\r\n{body}"))
}

impl Answer {
    /// The first value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Duplex>) -> Self {
        Self {
            stream,
            input: Vec::new(),
        }
    }

    /// Writes all of it. A server that has closed may have answered before: that is no error.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            let _ = self.stream.flush().await;
        }
    }

    /// The next final answer; `None` if the connection ends before. A body without a length, and a stream
    /// after a 101, is read to its end.
    pub(super) async fn answer(&mut self, to_head: bool) -> Option<Answer> {
        let (status, headers) = loop {
            let head = self.until(b"\r\n\r\n").await?;
            let head = String::from_utf8(head).unwrap();
            let (status_line, lines) = head
                .trim_end()
                .split_once("\r\n")
                .unwrap_or_else(|| (head.trim_end(), ""));
            let status: u16 = status_line.split(' ').nth(1).unwrap().parse().unwrap();
            if status != 100 {
                let pair = |line: &str| {
                    let (name, value) = line.split_once(':').unwrap();
                    (name.to_ascii_lowercase(), value.trim().to_owned())
                };
                break (status, lines.lines().map(pair).collect());
            }
        };
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        if to_head {
            return Some(answer);
        }
        if let Some(length) = answer.header("content-length") {
            answer.body = self.exactly(length.parse().unwrap()).await?;
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.until(b"\r\n").await?;
                let size = usize::from_str_radix(str::from_utf8(&size).unwrap().trim(), 16).unwrap();
                let chunk = self.exactly(size + 2).await?;
                if size == 0 {
                    break;
                }
                answer.body.extend(&chunk[..size]);
            }
        } else {
            while self.read().await {}
            answer.body = std::mem::take(&mut self.input);
        }
        Some(answer)
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|window| window == end) {
                return Some(self.input.drain(..at + end.len()).collect());
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.input.len() < length {
            if !self.read().await {
                return None;
            }
        }
        Some(self.input.drain(..length).collect())
    }

    async fn read(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.input).await, Ok(read) if read > 0)
    }
}
