//! Station 6: forwards a request to the kubelet, with cleaned headers, over a pooled connection. Bodies are
//! streamed both ways, and after a 101 the connection is a tunnel.
//!
//! Forwarding needs a [`Permit`]. A request's own future polls the connection to the kubelet; there is no
//! task for it. When the client leaves, the future is dropped and the socket is closed.

mod body;
mod follow;
mod frames;
mod headers;
mod io;
mod kubelet;
mod kubelet_files;
mod open;
mod pool;
mod probe;
mod read_ahead;
mod refusal;
mod tunnel;

pub(crate) use self::body::Body;
pub(crate) use self::follow::Follow;
pub(crate) use self::kubelet::{Kubelet, ProbeFailure};
pub(crate) use self::kubelet_files::KubeletError;
pub(crate) use self::pool::Pool;
pub(crate) use self::probe::KubeletProbe;
pub(crate) use self::tunnel::{EndedBy, StreamEnd, Tunnel};

use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use self::pool::{KubeletConnection, PooledConnection, SendError};
use crate::authz::Permit;
use crate::error::RequestError;

/// The kubelet's answer: a head whose body is still to come, or a head after which the connection is a
/// tunnel.
pub(crate) enum Forwarded {
    /// An ordinary answer.
    Answer(Response<Body>),
    /// A 101, and the tunnel to run once the client has received it.
    Upgraded(Response<Body>, Box<Tunnel>),
}

impl Forwarded {
    /// The kubelet's status.
    #[must_use]
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Answer(response) | Self::Upgraded(response, _) => response.status(),
        }
    }
}

/// Forwards an allowed request to the kubelet. `pool` belongs to the worker.
///
/// Dropping the future closes the connection to the kubelet. If a pooled connection turns out to be closed,
/// the request is sent again on another, but only if no byte of it was written. There is no deadline for the
/// answer: a command may run for minutes, and a followed log may be silent for hours. Either ends when the
/// client leaves.
///
/// # Errors
/// 502 if the kubelet cannot be reached, is not the pinned one, refuses the gate's own credential, or
/// answers an upgrade with a status below 400 other than 101. 400 if the client's body ends early before
/// the kubelet has answered.
pub(crate) async fn forward(
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
        // Set explicitly: hyper sends a GET of unknown length without its body.
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    let method = parts.method.clone();

    let (mut connection, mut response) = send(kubelet, pool, Request::from_parts(parts, body)).await?;

    let Some((protocol, on_upgrade)) = tunnel.zip(on_upgrade) else {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(bad_answer("101 to a request that asked for no upgrade"));
        }
        headers::for_client(response.headers_mut(), None);
        if permit.is_stream() {
            connection.leave_pool();
        }
        let answer = response.map(|incoming| Body::kubelet(incoming, connection));
        return of_the_caller(kubelet, &method, answer).await;
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
        let tunnel = Tunnel::new(protocol, on_upgrade, io, early);
        return Ok(Forwarded::Upgraded(
            response.map(|_| Body::empty()),
            Box::new(tunnel),
        ));
    }
    if status.as_u16() < 400 {
        // Neither is relayed: redirects of container streams were an SSRF (CVE-2020-8559), and a 200 is no
        // upgrade.
        return Err(bad_answer(format!("{status} to an upgrade")));
    }
    connection.leave_pool();
    headers::for_client(response.headers_mut(), None);
    let answer = response.map(|incoming| Body::kubelet(incoming, connection));
    of_the_caller(kubelet, &method, answer).await
}

/// The answer, unless it is the kubelet's refusal of the gate.
async fn of_the_caller(
    kubelet: &Kubelet,
    method: &Method,
    answer: Response<Body>,
) -> Result<Forwarded, RequestError> {
    if !refusal::may_be(answer.status()) {
        return Ok(Forwarded::Answer(answer));
    }
    // Boxed: it is rare.
    let judged = Box::pin(refusal::judge(kubelet, method, answer)).await;
    judged.map(Forwarded::Answer)
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
    // Boxed: it is rare, and without the box every request's future would have room for a handshake.
    let mut connection: Box<KubeletConnection> = Box::pin(kubelet.connect()).await?;
    kubelet.metrics().upstream_connection("new");
    let response = connection
        .send(request)
        .await
        .map_err(|failed| no_answer(&failed.error))?;
    Ok((pool.guard(connection), response))
}

fn no_answer(error: &hyper::Error) -> RequestError {
    // hyper calls an error of the request's body a user's; the gate sends nothing else of its own.
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
