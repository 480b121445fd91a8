//! What a kubelet that shows its metrics says of its own build.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The most of an answer that is read; a busy kubelet's metrics have about 300 KiB.
const LONGEST: u64 = 8 << 20;
/// The metric, in a line of its own.
const METRIC: &str = "\nkubernetes_build_info{";
/// Longest list of labels.
const LABELS: usize = 4096;

/// The versions in the metric `kubernetes_build_info`, and who said so.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeletBuild {
    /// The port that answered.
    pub address: SocketAddr,
    /// `git_version`, such as `v1.20.15`.
    pub kubernetes: String,
    /// `go_version`, such as `go1.15.15`.
    pub go: String,
}

impl KubeletBuild {
    /// Reads the rest of an answer to `/metrics`. `None`: the metric is not in it.
    pub(super) async fn read(address: SocketAddr, answer: impl AsyncRead + Unpin) -> Option<Self> {
        let mut bytes = Vec::new();
        // A server that closes the connection without TLS' own end has sent what it had all the same.
        let _ = answer.take(LONGEST).read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let chunked = head
            .to_ascii_lowercase()
            .contains("\r\ntransfer-encoding: chunked");
        let body = if chunked { joined(body) } else { body.to_owned() };
        let (kubernetes, go) = versions(&format!("\n{body}"))?;
        Some(Self {
            address,
            kubernetes,
            go,
        })
    }
}

/// The chunks of a body, without their sizes. It ends where that is broken.
fn joined(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let Ok(size @ 1..) = size else { break };
        let Some(chunk) = after.get(..size.min(after.len())) else {
            break;
        };
        body += chunk;
        rest = after
            .get(size..)
            .and_then(|rest| rest.strip_prefix("\r\n"))
            .unwrap_or_default();
    }
    body
}

fn versions(metrics: &str) -> Option<(String, String)> {
    let (_, rest) = metrics.split_once(METRIC)?;
    let (labels, _) = rest.split_once('}')?;
    let label = |name: &str| {
        let value = labels
            .split(',')
            .find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""));
        value.and_then(|value| value.strip_suffix('"')).map(str::to_owned)
    };
    (labels.len() <= LABELS).then_some(())?;
    Some((label("git_version")?, label("go_version")?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LINE: &str = "kubernetes_build_info{build_date=\"2022-01-19T17:45:53Z\",compiler=\"gc\",\
                        git_version=\"v1.20.15\",go_version=\"go1.15.15\",major=\"1\"} 1\n";

    async fn read(answer: &str) -> Option<(String, String)> {
        let address = "127.0.0.1:10250".parse().unwrap();
        let build = KubeletBuild::read(address, answer.as_bytes()).await?;
        Some((build.kubernetes, build.go))
    }

    /// (Not seen red.)
    #[tokio::test]
    async fn the_build_is_read_from_every_form_of_answer() {
        let expected = Some(("v1.20.15".to_owned(), "go1.15.15".to_owned()));
        let plain = format!(" OK\r\nContent-Type: text/plain\r\n\r\n# HELP a b\na 1\n{LINE}z 1\n");
        assert_eq!(read(&plain).await, expected);
        let first = format!(" OK\r\nContent-Type: text/plain\r\n\r\n{LINE}");
        assert_eq!(read(&first).await, expected);
        let (one, other) = LINE.split_at(90);
        let chunks = format!(
            "{:x}\r\n{one}\r\n{:X};x=y\r\n{other}\r\n0\r\n\r\n",
            one.len(),
            other.len()
        );
        let chunked = format!(" OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(read(&chunked).await, expected);
        for without in [
            "",
            " OK\r\n\r\n",
            " OK\r\n\r\nkubernetes_build_info{git_version=\"v1.20.15\"",
            " OK\r\n\r\nkubernetes_build_info{git_version=\"v1.20.15\"} 1\n",
            " OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            " OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nä",
        ] {
            assert_eq!(read(without).await, None, "{without:?}");
        }
    }
}
