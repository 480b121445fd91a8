//! Rules for a request's head besides its target. The kubelet's HTTP library checks these before anything
//! else. hyper does not, so the gate does.

use http::Version;
use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;

use crate::error::RequestError;

/// Refuses a head that the kubelet's HTTP library refuses.
pub(super) fn judge(parts: &Parts) -> Result<(), RequestError> {
    host(parts)?;
    transfer_coding(parts)?;
    expectation(parts)
}

/// At most one Host, of any name, possibly empty. HTTP/1.1 needs one, HTTP/1.0 does not, and HTTP/2 has
/// `:authority`.
fn host(parts: &Parts) -> Result<(), RequestError> {
    let refuse = |rule: &'static str| Err(RequestError::bad_request("host", rule));
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if parts.version == Version::HTTP_11 => refuse("the Host header is missing\n"),
        (_, Some(_)) => refuse("more than one Host header\n"),
        (Some(value), None) if !value.as_bytes().iter().all(host_byte) => {
            refuse("the Host header is malformed\n")
        }
        _ => Ok(()),
    }
}

/// Whether Go's server accepts this byte in a Host: bytes of names, addresses and ports, and RFC 3986's
/// sub-delims.
fn host_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte)
}

/// The only transfer coding is `chunked`, once. hyper accepts any list that ends in `chunked`, and the
/// codings before it would be lost on the way to the kubelet.
fn transfer_coding(parts: &Parts) -> Result<(), RequestError> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(RequestError::unsupported_transfer_coding()),
    }
}

/// Refuses an `Expect` other than `100-continue` with 417. `100-continue` itself is answered by the gate.
fn expectation(parts: &Parts) -> Result<(), RequestError> {
    match parts.headers.get(EXPECT) {
        Some(value)
            if parts.version >= Version::HTTP_11
                && !value.as_bytes().eq_ignore_ascii_case(b"100-continue") =>
        {
            Err(RequestError::expectation_failed())
        }
        _ => Ok(()),
    }
}
