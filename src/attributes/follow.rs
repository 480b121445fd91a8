//! Whether a request follows a container's log: its answer has no end until the container has.

use super::kubelet::is_subpath;
use crate::hex;

/// Whether a GET of the decoded `path` with this `query` follows a log, in the kubelet's reading.
///
/// Go splits a query at `&`, decodes names and values, and drops a pair that has a `;` or a broken escape. Of
/// several `follow`s the first counts. It is false if it is `0`, or `false` in any case; every other value is
/// true, also the empty one.
pub(super) fn follows(path: &str, query: Option<&str>) -> bool {
    if !is_subpath(path, "/containerLogs") {
        return false;
    }
    let pairs = query.unwrap_or_default().split('&');
    pairs
        .filter(|pair| !pair.contains(';'))
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(name).zip(decoded(value))
        })
        .find(|(name, _)| name == b"follow")
        .is_some_and(|(_, value)| value != b"0" && !is_false(&value))
}

/// Whether Go's `strings.EqualFold` takes `value` for `false`. To it the long s (U+017F) is an s.
fn is_false(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value).replace('\u{17f}', "s");
    text.eq_ignore_ascii_case("false")
}

/// A part of a query as Go decodes it: `+` is a space. `None` if an escape is broken.
fn decoded(part: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => hex::byte(rest.next()?, rest.next()?)?,
            b'+' => b' ',
            byte => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen red: with the last `follow` taken.
    #[test]
    fn the_query_is_read_as_the_kubelet_reads_it() {
        let log = "/containerLogs/default/web/nginx";
        for (query, expected) in [
            ("follow=true", true),
            ("follow=1", true),
            ("follow", true),
            ("follow=", true),
            ("follow=no", true),
            ("follow=f", true),
            ("follow=+false", true),
            ("tailLines=1&follow=true", true),
            ("%66ollow=true", true),
            ("follow=%31", true),
            ("follow=true&follow=false", true),
            ("follow=%zz&follow=true", true),
            ("a;b=1&follow=true", true),
            ("follow=false&follow=true", false),
            ("follow=0", false),
            ("follow=%30", false),
            ("follow=FALSE", false),
            ("follow=fal%C5%BFe", false),
            ("follow=true;x", false),
            ("follow=%zz", false),
            ("Follow=true", false),
            ("+follow=true", false),
            ("previous=true", false),
            ("", false),
        ] {
            assert_eq!(follows(log, Some(query)), expected, "{query}");
        }
        assert!(!follows(log, None));
        assert!(follows("/containerLogs/default/web/nginx/", Some("follow=true")));
        assert!(!follows("/logs/messages", Some("follow=true")));
        assert!(!follows("/containerLogsX/a/b/c", Some("follow=true")));
    }
}
