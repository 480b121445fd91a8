//! Durations as Go, and so Kubernetes, reads and writes them: `2m0s`, `1h30m`, `500ms`, `1.5h`.
//!
//! Mirrors `time.ParseDuration` and `Duration.String`, except that a negative duration is refused: none of
//! our keys has a use for one.

use std::fmt::Write;
use std::time::Duration;

/// Go keeps a duration in an `int64` of nanoseconds; so does every number here.
pub(crate) const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

/// Whether this is a duration as Go reads it, positive or not.
pub(crate) fn is_duration(text: &str) -> bool {
    parse(text.strip_prefix('-').unwrap_or(text)).is_ok()
}

/// Whether it is one of no length.
pub(crate) fn is_zero(text: &str) -> bool {
    parse(text).is_ok_and(|duration| duration.is_zero())
}

/// Reads a duration as Go writes it; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Duration, &'static str> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text.starts_with('-') {
        return Err("a duration cannot be negative");
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err("a duration cannot be empty");
    }
    let mut total = 0u128;
    let mut rest = text;
    while !rest.is_empty() {
        let number;
        (number, rest) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let unit;
        (unit, rest) = split(rest, |c| !c.is_ascii_digit() && c != '.');
        total = total.saturating_add(nanoseconds(number, scale(unit)?)?);
        if total > LONGEST.as_nanos() {
            return Err("a duration cannot be longer than 292 years");
        }
    }
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| "a duration cannot be longer than 292 years")
}

/// Writes a duration as Go writes it: `2m0s`, `1h30m0s`, `500ms`, `1.5s`, `0s`.
pub(crate) fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, scale) in [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanos < scale * 1_000 {
            return decimal(nanos, scale) + unit;
        }
    }
    let minutes = nanos / 60_000_000_000;
    let mut text = String::new();
    if minutes >= 60 {
        let _ = write!(text, "{}h", minutes / 60);
    }
    if minutes > 0 {
        let _ = write!(text, "{}m", minutes % 60);
    }
    text + &decimal(nanos % 60_000_000_000, 1_000_000_000) + "s"
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn scale(unit: &str) -> Result<u128, &'static str> {
    match unit {
        "ns" => Ok(1),
        // The micro sign and the Greek letter look alike; Go reads both.
        "us" | "\u{b5}s" | "\u{3bc}s" => Ok(1_000),
        "ms" => Ok(1_000_000),
        "s" => Ok(1_000_000_000),
        "m" => Ok(60_000_000_000),
        "h" => Ok(3_600_000_000_000),
        "" => Err("a duration needs a unit after each number: ns, us, ms, s, m or h"),
        _ => Err("the units of a duration are ns, us, ms, s, m and h"),
    }
}

fn nanoseconds(number: &str, scale: u128) -> Result<u128, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err("a duration is a number and a unit, such as 30s or 2m0s");
    }
    // What is beyond fifteen decimals of an hour is less than a nanosecond.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits = |text: &str| match text {
        "" => Ok(0u128),
        _ => text
            .parse::<u64>()
            .map(u128::from)
            .map_err(|_| "a duration cannot be longer than 292 years"),
    };
    Ok(digits(whole)? * scale + digits(fraction)? * scale / 10u128.pow(fraction.len() as u32))
}

/// `nanos / scale` with as many decimals as it needs.
fn decimal(nanos: u128, scale: u128) -> String {
    let (whole, rest) = (nanos / scale, nanos % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{whole}.{rest:0width$}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("2m0s", 120_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("500ms", 500_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("+5s", 5_000_000_000),
            ("1us2µs3μs", 6_000),
            ("0.000000001s", 1),
            ("1.0000000000000000000000001s", 1_000_000_000),
            ("2562047h47m16.854775807s", i64::MAX as u64),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "+",
            "-",
            "-1s",
            "1",
            "s",
            ".s",
            "1.2.3s",
            "1 s",
            "1s ",
            "1d",
            "1S",
            "1s2",
            "2562047h47m16.854775808s",
            "99999999999999999999h",
            "1٣s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_go_writes() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (500_000_000, "500ms"),
            (1_500_000_000, "1.5s"),
            (120_000_000_000, "2m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (14_400_000_000_000, "4h0m0s"),
            (i64::MAX as u64, "2562047h47m16.854775807s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(nanos in prop_oneof![0..=i64::MAX as u64, 0..10_000_000_000u64]) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text in "[0-9.+hmsnuµ-]{0,40}|.*") {
            let _ = parse(&text);
        }
    }
}
