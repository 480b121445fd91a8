//! Recorded exchanges of a real API server with a real kubelet, sent again unchanged.

use std::collections::BTreeMap;

use bytes::Bytes;
use fakes::client::{Connection, Duplex};
use http::{HeaderMap, Request};
use http_body_util::Full;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One exchange. Header names are as Go writes them: in its canonical form, and sorted.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Exchange {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) proto: String,
    pub(super) host: String,
    pub(super) header: BTreeMap<String, Vec<String>>,
    /// The subject of the client certificate.
    pub(super) peer: String,
    pub(super) alpn: String,
    pub(super) status: u16,
    pub(super) resp_header: BTreeMap<String, Vec<String>>,
}

/// The answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// The recordings, each with the name of its file in `tests/it/data`.
pub(super) fn recordings() -> [(&'static str, Vec<Exchange>); 3] {
    [
        (
            "apiserver-to-kubelet-h1.json",
            include_str!("../data/apiserver-to-kubelet-h1.json"),
        ),
        (
            "apiserver-to-kubelet-h2.json",
            include_str!("../data/apiserver-to-kubelet-h2.json"),
        ),
        (
            "apiserver-nodes-proxy-h1.json",
            include_str!("../data/apiserver-nodes-proxy-h1.json"),
        ),
    ]
    .map(|(name, text)| (name, serde_json::from_str(text).unwrap()))
}

// === impl Exchange ===

impl Exchange {
    /// `websocket`, `SPDY/3.1`, or nothing.
    pub(super) fn upgrade(&self) -> Option<&str> {
        self.header.get("Upgrade").map(|values| values[0].as_str())
    }

    /// The headers as they were written, repeated names one by one.
    pub(super) fn headers(&self) -> Vec<(&str, &str)> {
        flat(&self.header)
    }

    /// The recorded answer's headers, names in lower case.
    pub(super) fn answered(&self) -> Vec<(String, String)> {
        let lower = |(name, value): (&str, &str)| (name.to_lowercase(), value.to_owned());
        flat(&self.resp_header).into_iter().map(lower).collect()
    }

    /// The same as it is sent to a port that offers HTTP/2.
    pub(super) fn in_http2(self) -> Self {
        Self {
            proto: "HTTP/2.0".to_owned(),
            alpn: "h2".to_owned(),
            ..self
        }
    }

    /// A body of the recorded length; its content was not recorded.
    pub(super) fn body(&self) -> Vec<u8> {
        let length = self.header.get("Content-Length");
        vec![b'b'; length.map_or(0, |values| values[0].parse().unwrap())]
    }

    /// The recorded request's bytes.
    fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} {}\r\nHost: {}\r\n",
            self.method, self.uri, self.proto, self.host
        );
        for (name, value) in self.headers() {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        [text.into_bytes(), self.body()].concat()
    }

    /// Sends it in HTTP/1.1 as Go would, and reads the head of the answer and what came right behind it.
    pub(super) async fn upgrade_on(&self, stream: &mut Box<dyn Duplex>) -> Answer {
        stream.write_all(&self.encode()).await.unwrap();
        stream.flush().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                return Answer::parse(&bytes, rest);
            }
            let read = stream.read_buf(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
        }
    }

    /// The same for a request that gets an ordinary answer, with its whole body.
    pub(super) async fn send_h1(&self, stream: &mut Box<dyn Duplex>) -> Answer {
        let mut answer = self.upgrade_on(stream).await;
        let length = answer
            .header("content-length")
            .map(|value| value.parse().unwrap());
        let mut bytes = std::mem::take(&mut answer.body);
        answer.body = loop {
            let whole = match length {
                Some(length) => (bytes.len() >= length).then(|| bytes.clone()),
                None => dechunk(&bytes),
            };
            if let Some(body) = whole {
                break body;
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "cut");
        };
        answer
    }

    /// Sends it in HTTP/2.
    pub(super) async fn send_h2(&self, connection: &mut Connection) -> Answer {
        let uri = format!("https://{}{}", self.host, self.uri);
        let mut request = Request::builder().method(self.method.as_str()).uri(uri);
        for (name, value) in self.headers() {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::from(self.body()));
        let answer = connection.send(request.body(body).unwrap()).await.unwrap();
        Answer {
            status: answer.status().as_u16(),
            headers: listed(answer.headers()),
            body: answer.into_body().to_vec(),
        }
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }

    fn parse(head: &[u8], rest: Vec<u8>) -> Self {
        let head = str::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        };
        Self {
            status: status.parse().unwrap(),
            headers: lines.map(header).collect(),
            body: rest,
        }
    }
}

fn flat(headers: &BTreeMap<String, Vec<String>>) -> Vec<(&str, &str)> {
    headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.as_str(), value.as_str())))
        .collect()
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

/// The content of a chunked body; `None` before its end.
fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let chunk = bytes.get(end + 2..end + 2 + size + 2)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}
