//! Why there was no answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustls::AlertDescription;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The peer closed or reset the connection before the answer was complete.
    #[error("the connection was closed before the answer was complete ({0})")]
    Closed(String),
    /// What came back is not HTTP, or not the HTTP it should be.
    #[error("the answer breaks the protocol ({0})")]
    Protocol(String),
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// What the client was given makes no request or no configuration.
    #[error("cannot set up the request ({0})")]
    Setup(String),
    /// Nothing, or not everything, within the deadline.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The handshake failed or an alert came, which in TLS 1.3 may be after the client's side of it was done.
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
}

// === impl ClientError ===

impl ClientError {
    /// The alert the peer sent, if that was the reason.
    #[must_use]
    pub fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Tls(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        }
    }

    pub(super) fn from_io(error: io::Error) -> Self {
        Self::classify(&error).unwrap_or_else(|| Self::Closed(error.to_string()))
    }

    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if let Some(known) = Self::classify(error) {
            return known;
        }
        let ended = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        let text = error
            .source()
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        if ended {
            Self::Closed(text)
        } else {
            Self::Protocol(text)
        }
    }

    pub(super) fn from_websocket(error: &tokio_tungstenite::tungstenite::Error) -> Self {
        use tokio_tungstenite::tungstenite::Error as Socket;
        use tokio_tungstenite::tungstenite::error::ProtocolError;
        match error {
            Socket::ConnectionClosed
            | Socket::AlreadyClosed
            | Socket::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Closed(error.to_string())
            }
            _ => Self::classify(error).unwrap_or_else(|| Self::Protocol(error.to_string())),
        }
    }

    /// Finds the cause that counts in a chain of causes: TLS first, then the socket's own.
    fn classify(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::Tls(tls.clone()));
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                // `source` of such an error skips the error it wraps.
                if let Some(known) = io.get_ref().and_then(|inner| Self::classify(inner)) {
                    return Some(known);
                }
                match io.kind() {
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => return Some(Self::Refused),
                    io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::UnexpectedEof => return Some(Self::Closed(io.to_string())),
                    _ => {}
                }
            }
            cause = error.source();
        }
        None
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::from_io(error)
    }
}
