//! The path of a request: decoded once, and refused if it could be read in two ways.
//!
//! Old kubelets route on the decoded path, new ones on the raw path, and both authorize the decoded path. The
//! gate authorizes the decoded path and forwards the path and query as the client sent them. It refuses a
//! path that the two readings could route differently, before any review is made.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, Uri, Version, header};

use crate::error::RequestError;
use crate::hex;

/// A path with exactly one meaning, as it was sent and as it decodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RequestPath {
    sent: PathAndQuery,
    /// `None` if decoding changes nothing, which is the common case.
    decoded: Option<String>,
}

/// Why a request target is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum PathError {
    /// `GET http://host/path`.
    #[error("the request target must be a path: absolute-form is refused")]
    AbsoluteForm,
    /// `OPTIONS *`.
    #[error("the request target must be a path starting with /")]
    NotAPath,
    /// HTTP/2: `:authority` and `Host` name different hosts.
    #[error(":authority and Host contradict each other")]
    Authority,
    /// `%zz`.
    #[error("the path has an incomplete percent-encoding")]
    BadEscape,
    /// `%ff`.
    #[error("the path is not UTF-8 after percent-decoding")]
    NotUtf8,
    /// `//` before the end.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..`, plain or encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `%2f`.
    #[error("the path has an encoded slash")]
    EncodedSlash,
    /// `\` or `%5c`.
    #[error("the path has a backslash")]
    Backslash,
    /// `%00`.
    #[error("the path has a NUL byte")]
    Nul,
}

impl RequestPath {
    /// The path of a request target.
    pub(super) fn of_target(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Self, PathError> {
        if version < Version::HTTP_2 {
            if uri.authority().is_some() {
                return Err(PathError::AbsoluteForm);
            }
        } else if let (Some(authority), Some(host)) = (uri.authority(), headers.get(header::HOST))
            && !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes())
        {
            return Err(PathError::Authority);
        }
        Self::of(uri.path_and_query().ok_or(PathError::NotAPath)?.clone())
    }

    /// The path of a path and query; an ambiguous one is refused.
    pub(crate) fn of(sent: PathAndQuery) -> Result<Self, PathError> {
        let raw = sent.path();
        if !raw.starts_with('/') {
            return Err(PathError::NotAPath);
        }
        let decoded = decode(raw)?;
        judge_segments(&decoded)?;
        let decoded = match decoded {
            Cow::Borrowed(_) => None,
            Cow::Owned(decoded) => Some(decoded),
        };
        Ok(Self { sent, decoded })
    }

    /// The decoded path, which is authorized.
    pub(crate) fn decoded(&self) -> &str {
        self.decoded.as_deref().unwrap_or_else(|| self.sent.path())
    }
}

impl PathError {
    /// One word for metrics and audit.
    fn reason(self) -> &'static str {
        match self {
            Self::AbsoluteForm => "absolute_form",
            Self::Authority => "authority",
            Self::Backslash => "backslash",
            Self::BadEscape => "bad_escape",
            Self::DotSegment => "dot_segment",
            Self::EmptySegment => "empty_segment",
            Self::EncodedSlash => "encoded_slash",
            Self::NotAPath => "not_a_path",
            Self::NotUtf8 => "not_utf8",
            Self::Nul => "nul",
        }
    }
}

impl From<PathError> for RequestError {
    fn from(error: PathError) -> Self {
        Self::bad_request(error.reason(), format!("{error}\n"))
    }
}

/// Percent-decodes once. Refuses escapes that stand for separators or NUL, which would make another path.
fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.contains('\\') {
        return Err(PathError::Backslash);
    }
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.next().zip(rest.next());
        let decoded = digits.and_then(|(high, low)| hex::byte(high, low));
        match decoded.ok_or(PathError::BadEscape)? {
            b'/' => return Err(PathError::EncodedSlash),
            b'\\' => return Err(PathError::Backslash),
            0 => return Err(PathError::Nul),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| PathError::NotUtf8)
}

/// Refuses empty segments except at the end, and dot segments.
fn judge_segments(path: &str) -> Result<(), PathError> {
    if path.contains("//") {
        return Err(PathError::EmptySegment);
    }
    if path.contains("/.") && path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(PathError::DotSegment);
    }
    Ok(())
}
