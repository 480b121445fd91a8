//! What a JSON web token says about itself. None of it is verified here: it can shorten the life of the API
//! server's answer, or spare a question whose answer can only be no.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The API server accepts a service account's token for so long after its `exp` (go-jose's default leeway).
/// It has no leeway for others.
const LEEWAY: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "alg")]
    _alg: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

/// The `exp` of a token, if it has one.
pub(super) fn expiry(token: &str) -> Option<SystemTime> {
    let seconds = part::<Claims>(token.split('.').nth(1)?)?.exp?;
    let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

/// Whether `token` is a signed JSON web token whose `exp` was so long before `now` that the API server must
/// reject it.
pub(super) fn is_past(token: &str, now: SystemTime) -> bool {
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    !signature.is_empty()
        && part::<Header>(header).is_some()
        && expiry(token)
            .and_then(|expires| expires.checked_add(LEEWAY))
            .is_some_and(|end| end < now)
}

/// A part of a token: a JSON object in base64url.
fn part<T: for<'a> Deserialize<'a>>(encoded: &str) -> Option<T> {
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    // serde would read an array as a struct, field by field.
    let is_object = decoded.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(&decoded).ok())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", encoded(header), encoded(claims))
    }

    /// Seen red: with no leeway, and with tokens of other forms read as JSON web tokens.
    #[test]
    fn only_a_json_web_token_that_the_api_server_must_reject_is_past() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let header = r#"{"alg":"RS256","kid":"x"}"#;
        for (claims, past) in [
            (r#"{"exp":999939}"#, true),
            (r#"{"exp":999939.5,"iss":"x"}"#, true),
            (r#"{"exp":0}"#, true),
            (r#"{"exp":999941}"#, false),
            (r#"{"exp":2000000}"#, false),
            (r#"{"exp":1e300}"#, false),
            (r#"{"exp":-1}"#, false),
            (r#"{"exp":"999"}"#, false),
            (r#"{"exp":1,"exp":2000000}"#, false),
            (r#"{"iss":"x"}"#, false),
            (r#"{"exp":null}"#, false),
            ("[1]", false),
            ("", false),
        ] {
            assert_eq!(is_past(&token(header, claims), now), past, "{claims}");
        }
        let claims = r#"{"exp":1}"#;
        let good = token(header, claims);
        for other in [
            token("{}", claims),
            token(r#"["RS256"]"#, claims),
            token("x", claims),
            format!("{good}.more"),
            good.trim_end_matches("c2ln").to_owned(),
            good.rsplit_once('.').unwrap().0.to_owned(),
            good.replace('.', ","),
            "random".to_owned(),
            String::new(),
        ] {
            assert!(!is_past(&other, now), "{other}");
        }
    }

    proptest! {
        /// A client's token may be anything. What is not said to have ended is asked about, and nothing ends
        /// later than it says.
        ///
        /// Seen red: with the leeway taken off.
        #[test]
        fn a_token_is_past_only_if_it_says_so(exp in any::<f64>(), offset in -200_i32..200,
            text in "\\PC{0,60}") {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            let near = 1_000_000.0 + f64::from(offset);
            for exp in [exp, near] {
                let claims = serde_json::json!({"exp": exp, "x": text}).to_string();
                let token = token(r#"{"alg":"RS256"}"#, &claims);
                prop_assert_eq!(is_past(&token, now), (0.0..999_940.0).contains(&exp), "{}", claims);
                prop_assert!(expiry(&token).is_none_or(|end| end >= SystemTime::UNIX_EPOCH));
            }
            let parts = text.replace(' ', ".");
            prop_assert!(!is_past(&text, now) && !is_past(&parts, now) && expiry(&parts).is_none());
        }
    }
}
