//! The kubelet behind the gate: it answers each row with what was recorded for it, and records the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::recording::Recording;

/// The header that says which row is being replayed; the gate passes it on as any other.
pub(super) const ROW: &str = "X-Replay-Row";

/// It serves plain HTTP on loopback until it is dropped.
pub(super) struct RecordedKubelet {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl RecordedKubelet {
    pub(super) async fn start(recording: Arc<Recording>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heads = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, recording.clone(), heads.clone()));
            }
        });
        Self {
            address,
            seen,
            accepting,
        }
    }

    /// The heads of the requests since the last time.
    pub(super) fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for RecordedKubelet {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, recording: Arc<Recording>, seen: Arc<Mutex<Vec<String>>>) {
    stream.set_nodelay(true).unwrap();
    let mut input = Vec::new();
    while let Some(head) = request(&mut stream, &mut input).await {
        let number = head.lines().find_map(|line| {
            line.split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case(ROW))
        });
        let number: usize = number.expect("no row").1.parse().unwrap();
        seen.lock().unwrap().push(head);
        let (answer, end) = recording.behind(number).map_or_else(
            || {
                (
                    b"HTTP/1.1 599 Never recorded\r\nContent-Length: 0\r\n\r\n".to_vec(),
                    false,
                )
            },
            |row| row.answer(),
        );
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        if end {
            let _ = stream.shutdown().await;
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
            return;
        }
    }
}

/// The head of the next request, read to the end of its body; `None` at the end of the connection.
async fn request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = input[..end].iter().copied().map(char::from).collect::<String>();
            let lower = head.to_ascii_lowercase();
            // A row's body is empty: at most the last chunk is to be read.
            let body = if lower.contains("transfer-encoding: chunked") {
                5
            } else {
                0
            };
            if input.len() >= end + 4 + body {
                input.drain(..end + 4 + body);
                return Some(head);
            }
        }
        match stream.read_buf(input).await {
            Ok(read) if read > 0 => {}
            _ => return None,
        }
    }
}
