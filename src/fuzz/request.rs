//! What a request asks for: any method, target and headers that the HTTP library would pass on.

use crate::attributes::{Checks, Verb, is_interactive};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

pub(super) fn run(data: &[u8]) {
    let Some(parts) = request(data) else { return };
    let Ok(checks) = Checks::of(&parts, true) else {
        assert!(Checks::of(&parts, false).is_err(), "refused for its shape alone");
        return;
    };
    let path = checks.path();
    assert!(path.starts_with('/'), "{path}");
    assert!(
        !path.contains("//") && !path.contains('\\') && !path.contains('\0'),
        "{path}"
    );
    assert!(
        !path.split('/').any(|segment| segment == "." || segment == ".."),
        "{path}"
    );
    assert!(
        !checks.subresources().is_empty(),
        "a request without a check would need no permission"
    );
    assert_eq!(checks.interactive(), is_interactive(path));
    if checks.interactive() {
        assert_eq!(checks.verb(), Verb::Create, "{path}");
    }
    // A kubelet that routes on what was sent must find no other handler than one that
    // routes on what it decodes to.
    let first = |path: &str| path.split('/').nth(1).map(str::to_owned);
    if !parts.uri.path().contains('%') {
        assert_eq!(first(parts.uri.path()), first(path));
    }
    if checks.tunnel().is_some() {
        assert!(checks.interactive() && checks.upgrade().is_some());
    }
    let other = Checks::of(&parts, false).expect("the setting changes the verb alone");
    assert_eq!(
        (other.path(), other.subresources()),
        (path, checks.subresources())
    );
}

/// A version, a method and a target in the first line, and a header in each line below.
fn request(data: &[u8]) -> Option<http::request::Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(3, |byte| *byte == b' ');
    let version = match first.next()? {
        b"0" => Version::HTTP_10,
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let method = Method::from_bytes(first.next()?).ok()?;
    let uri = Uri::try_from(first.next()?).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.version, parts.method, parts.uri) = (version, method, uri);
    for line in lines.take(100) {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        parts.headers.append(name, value);
    }
    Some(parts)
}
