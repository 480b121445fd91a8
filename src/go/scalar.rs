//! What a scalar means to go-yaml 2, which reads YAML 1.1.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Number;

use super::node::Node;
use super::number::integer;

const TRUE: [&str; 11] = [
    "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON",
];
const FALSE: [&str; 11] = [
    "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF",
];
const NULL: [&str; 5] = ["", "~", "null", "Null", "NULL"];
/// JSON has no such numbers, so a document with one becomes none.
const NO_JSON: [&str; 12] = [
    ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
];

/// The value of a scalar that is written as `text`. `tag` is the name of a tag of YAML's own (`!!str`);
/// `None`: there is none, and the scalar has no quotes.
pub(super) fn scalar(text: &str, tag: Option<&str>) -> Result<Node, &'static str> {
    let found = match tag {
        None => plain(text)?,
        Some("bool" | "int" | "float" | "null") => plain(text)?,
        Some("binary") => {
            let bytes = BASE64_STANDARD.decode(text).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            return Ok(Node::Text(text.ok_or("a value that is not base64 text")?.into()));
        }
        Some(_) => return Ok(Node::Text(text.into())),
    };
    let is_tagged = match (tag, &found) {
        (None, _) | (Some("null"), Node::Null) | (Some("bool"), Node::Bool(_)) => true,
        (Some("int"), Node::Number(number)) => !number.is_f64(),
        (Some("float"), Node::Number(_)) => true,
        _ => false,
    };
    is_tagged
        .then_some(found)
        .ok_or("a value that is not of the type of its tag")
}

fn plain(text: &str) -> Result<Node, &'static str> {
    if NULL.contains(&text) {
        return Ok(Node::Null);
    }
    if TRUE.contains(&text) || FALSE.contains(&text) {
        return Ok(Node::Bool(TRUE.contains(&text)));
    }
    if NO_JSON.contains(&text) {
        return Err("a number that is not finite");
    }
    let number = match text.as_bytes()[0] {
        b'.' => float(text),
        b'+' | b'-' | b'0'..=b'9' => {
            let digits = text.replace('_', "");
            let whole = integer(&digits).and_then(|number| {
                let signed = i64::try_from(number).map(Number::from);
                signed.or_else(|_| u64::try_from(number).map(Number::from)).ok()
            });
            whole.or_else(|| is_float(&digits).then(|| float(&digits)).flatten())
        }
        _ => None,
    };
    Ok(number.map_or_else(|| Node::Text(text.into()), Node::Number))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, the floats of go-yaml.
fn is_float(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (text, None),
    };
    let is_number = match number.split_once('.') {
        None => digits(number),
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
    };
    is_number && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)))
}

/// A float as it is in the JSON that is made of it: without a fraction where it has none.
fn float(text: &str) -> Option<Number> {
    /// Below it, every whole number is a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number: f64 = text.parse().ok()?;
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}
