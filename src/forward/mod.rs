//! Station 6: passing it on. Cleaned headers, a pooled connection, bodies streamed both ways, tunnels after a 101.
//!
//! Nothing gets here without a [`Permit`]. A request travels on a connection that its own future polls: there is no
//! task per connection to the kubelet, and when the client goes away the future goes away and the socket with it.

mod body;
mod headers;
mod io;
mod kubelet;
mod pool;
mod probe;
mod read_ahead;
mod tunnel;

pub use self::body::{Body, Guard, NextFrame};
pub use self::kubelet::{Kubelet, KubeletError};
pub use self::pool::Pool;
pub(crate) use self::probe::KubeletProbe;
pub use self::tunnel::{EndedBy, TunnelEnd};

use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use self::pool::{KubeletConnection, PooledConnection, SendError};
use self::tunnel::Tunnel;
use crate::authz::Permit;
use crate::error::RequestError;

/// The kubelet's answer: a head with its body still to come, or a head after which the connection is a tunnel.
pub enum Forwarded {
    /// An ordinary answer.
    Answer(Response<Body>),
    /// A 101, and the two ends to splice once the client has it.
    Upgraded(Response<Body>, Box<Tunnel>),
}

impl Forwarded {
    /// The kubelet's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Answer(response) | Self::Upgraded(response, _) => response.status(),
        }
    }
}

/// Passes an allowed request to the kubelet. `pool` is the worker's own.
///
/// Cancelling the future closes the connection to the kubelet. A request is sent again, as often as a pooled connection
/// turns out dead, only if not a byte of it was written. There is no deadline for the answer: a command may run for
/// minutes and a followed log say nothing for hours, and the client's leaving ends either.
///
/// # Errors
/// 502 if the kubelet is not there, is not the pinned one, or gives an upgrade an answer below 400 other than 101; 400 if
/// the client's body breaks off before the kubelet has answered.
pub async fn forward(
    kubelet: &Kubelet,
    pool: &Pool,
    mut request: Request<Incoming>,
    permit: &Permit,
) -> Result<Forwarded, RequestError> {
    let tunnel = permit.tunnel();
    let on_upgrade = tunnel.map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    kubelet.address_request(&mut parts)?;
    headers::for_kubelet(&mut parts.headers, tunnel);
    kubelet.add_credentials(&mut parts.headers);
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Said outright, since hyper takes a GET of unknown length for one without a body.
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();

    let (mut connection, mut response) = send(kubelet, pool, Request::from_parts(parts, body)).await?;

    let Some((protocol, on_upgrade)) = tunnel.zip(on_upgrade) else {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(bad_answer("101 to a request that asked for no upgrade"));
        }
        headers::for_client(response.headers_mut(), None);
        return Ok(Forwarded::Answer(
            response.map(|incoming| Body::kubelet(incoming, connection)),
        ));
    };
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let answered = response.headers().get(http::header::UPGRADE);
        if !answered.is_some_and(|value| {
            value
                .as_bytes()
                .eq_ignore_ascii_case(protocol.as_str().as_bytes())
        }) {
            return Err(bad_answer("101 to another protocol than was asked for"));
        }
        headers::for_client(response.headers_mut(), Some(protocol));
        let Some((io, early)) = connection.into_io().await else {
            return Err(bad_answer("101 and closed"));
        };
        let tunnel = Tunnel::new(on_upgrade, io, early);
        return Ok(Forwarded::Upgraded(
            response.map(|_| Body::empty()),
            Box::new(tunnel),
        ));
    }
    if status.as_u16() < 400 {
        // Redirects of container streams were an SSRF (CVE-2020-8559), and a 200 is no upgrade: neither is relayed.
        return Err(bad_answer(format!("{status} to an upgrade")));
    }
    connection.never_reuse();
    headers::for_client(response.headers_mut(), None);
    Ok(Forwarded::Answer(
        response.map(|incoming| Body::kubelet(incoming, connection)),
    ))
}

/// Sends a request on a pooled connection or a new one, and waits for the head of the answer.
async fn send(
    kubelet: &Kubelet,
    pool: &Pool,
    mut request: Request<Incoming>,
) -> Result<(PooledConnection, Response<Incoming>), RequestError> {
    while let Some(mut connection) = pool.check_out(kubelet.generation()) {
        match connection.send(request).await {
            Ok(response) => {
                kubelet.metrics().upstream_connection_reused();
                return Ok((pool.guard(connection), response));
            }
            Err(SendError {
                unsent: Some(unsent), ..
            }) => {
                kubelet.metrics().upstream_connection("retried");
                request = *unsent;
            }
            Err(SendError { error, unsent: None }) => return Err(no_answer(&error)),
        }
    }
    // Boxed: it is rare, and a request's future would else be moved about with room for a handshake in it.
    let mut connection: Box<KubeletConnection> = Box::pin(kubelet.connect()).await?;
    kubelet.metrics().upstream_connection("new");
    let response = connection
        .send(request)
        .await
        .map_err(|failed| no_answer(&failed.error))?;
    Ok((pool.guard(connection), response))
}

fn no_answer(error: &hyper::Error) -> RequestError {
    // hyper's word for a body, which is all that comes from this side.
    if error.is_user() {
        return RequestError::broken_body(format!("the client's body: {}", crate::error::chain(error)));
    }
    let inside = format!("the kubelet gave no answer: {}", crate::error::chain(error));
    RequestError::bad_gateway("no_answer", "the kubelet gave no usable answer\n", inside)
}

fn bad_answer(what: impl Into<String>) -> RequestError {
    let inside = format!("the kubelet answered {}", what.into());
    RequestError::bad_gateway(
        "bad_upgrade",
        "the kubelet gave an upgrade an answer that is not passed on\n",
        inside,
    )
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
