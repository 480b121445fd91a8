#![allow(clippy::unwrap_used)]

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

fn of(document: Result<Document, DocumentError>) -> Value {
    Value::deserialize(&document.unwrap().root).unwrap()
}

fn refusal(text: &str) -> String {
    yaml(text).err().unwrap().to_string()
}

/// Each was read by sigs.k8s.io/yaml too. Seen red: with `yes` a text, and with `010` ten.
#[test]
fn plain_scalars_mean_what_yaml_1_1_says() {
    for (text, value) in [
        ("yes", json!(true)),
        ("On", json!(true)),
        ("y", json!(true)),
        ("n", json!(false)),
        ("OFF", json!(false)),
        ("yEs", json!("yEs")),
        ("'yes'", json!("yes")),
        ("\"true\"", json!("true")),
        ("!!str yes", json!("yes")),
        ("! yes", json!("yes")),
        ("!x yes", json!("yes")),
        ("~", json!(null)),
        ("", json!(null)),
        ("Null", json!(null)),
        ("nULL", json!("nULL")),
        ("''", json!("")),
        ("10250", json!(10250)),
        ("+1_0", json!(10)),
        ("010", json!(8)),
        ("0o17", json!(15)),
        ("0x1F", json!(31)),
        ("-0b11", json!(-3)),
        ("08", json!(8)),
        ("0x", json!("0x")),
        ("1__0", json!(10)),
        ("10250.0", json!(10250)),
        ("1e4", json!(10000)),
        (".5", json!(0.5)),
        ("1.5e1", json!(15)),
        ("1.2.3", json!("1.2.3")),
        (".", json!(".")),
        ("-", json!("-")),
        ("9223372036854775808", json!(9_223_372_036_854_775_808_u64)),
        ("2001-12-14", json!("2001-12-14")),
        ("12:30:45", json!("12:30:45")),
        ("!!float 1", json!(1)),
        ("!!binary aGk=", json!("hi")),
        ("0.0.0.0", json!("0.0.0.0")),
    ] {
        let text = match text {
            "-" => "a: \"-\"".to_owned(),
            text => format!("a: {text}"),
        };
        assert_eq!(of(yaml(&text))["a"], value, "{text}");
    }
    for text in [
        "!!int x",
        "!!int 1.5",
        "!!bool 1",
        "!!null x",
        "!!binary ?",
        ".inf",
        "-.Inf",
        ".NaN",
    ] {
        assert!(yaml(&format!("a: {text}")).is_err(), "{text}");
    }
}

/// Seen red: with the first value of a repeated key, and with the merged keys below the explicit ones.
#[test]
fn keys_are_texts_and_the_last_of_several_counts() {
    for (text, value) in [
        ("a: {b: 1, c: 2}\na: {b: 3}", json!({"a": {"b": 3}})),
        (
            "on: 1\n2: x\n1.5: w\nTrue: z",
            json!({"true": "z", "2": "x", "1.5": "w"}),
        ),
        (
            "a: &a {x: 1, z: 2}\nb:\n  x: 0\n  <<: *a\n  z: 3",
            json!({"a": {"x": 1, "z": 2}, "b": {"x": 1, "z": 3}}),
        ),
        ("b: {<<: [{x: 1}, {x: 2, z: 2}]}", json!({"b": {"x": 1, "z": 2}})),
        ("b: {'<<': {x: 1}}", json!({"b": {"<<": {"x": 1}}})),
        (
            "a: &a [1, &b x]\nb: *b\nc: *a",
            json!({"a": [1, "x"], "b": "x", "c": [1, "x"]}),
        ),
        ("{a, b: c, \"d\":1}", json!({"a": null, "b": "c", "d": 1})),
    ] {
        assert_eq!(of(yaml(text)), value, "{text}");
    }
    let document = yaml("a:\n  b: 1\n  b: 2\nc: 1\nc: 2\nc: 3\n").unwrap();
    let repeated = [("a.b", 3), ("c", 5), ("c", 6)].map(|(path, line)| (path.to_owned(), Some(line)));
    assert_eq!(document.repeated, repeated);
    for text in [
        "? [a]\n: 1",
        "? {a: b}\n: 1",
        "~: 1",
        "<<: 1",
        "<<: [1]",
        "a: *b",
        "a: &a [*a]",
    ] {
        assert!(yaml(text).is_err(), "{text}");
    }
}

/// Seen red: with an empty first document skipped.
#[test]
fn the_first_document_counts_and_no_other_is_looked_at() {
    for (text, value) in [
        ("a: 1\n---\n{{{", json!({"a": 1})),
        ("a: 1\n...\nb: 2", json!({"a": 1})),
        ("---\n---\na: 1", json!(null)),
        ("# nothing\n", json!(null)),
        ("", json!(null)),
        ("\u{feff}a: 1", json!({"a": 1})),
        ("%YAML 1.1\n---\na: 1", json!({"a": 1})),
        ("a: |\n  b\n  c", json!({"a": "b\nc"})),
    ] {
        assert_eq!(of(yaml(text)), value, "{text:?}");
    }
    assert_eq!(
        refusal("%YAML 1.2\n---\na: 1"),
        "broken YAML in line 2, column 1: %YAML is followed by another version than 1.1"
    );
}

/// Seen red: with U+2028 in a comment taken for a part of it, the key behind it was not read.
#[test]
fn what_go_yaml_reads_otherwise_is_refused() {
    assert_eq!(
        refusal("a: 1 # x\u{2028}b: 2"),
        "broken YAML in line 1, column 9: a line break that only YAML 1.1 has"
    );
    assert!(refusal("a: \u{1}").contains("line 1, column 4: a control character"));
    assert!(refusal("a:\n  b: [\n").starts_with("broken YAML in line "));
    assert!(!refusal("a: 1\nS3CR3T").contains("S3CR3T"));
}

/// Seen red: without the bounds, by memory and by stack.
#[test]
fn aliases_do_not_expand_without_a_bound() {
    let mut wide = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    let mut deep = "a0: &a0 []\n".to_owned();
    for level in 1..400 {
        let (above, here) = (level - 1, level);
        wide += &format!("a{here}: &a{here} [*a{above}, *a{above}, *a{above}, *a{above}]\n");
        deep += &format!("a{here}: &a{here} [*a{above}]\n");
    }
    for text in [wide, deep, "[".repeat(300), "- ".repeat(300)] {
        assert!(yaml(&text).is_err());
    }
    assert!(yaml(&format!("{}{}", "[".repeat(200), "]".repeat(200))).is_ok());
}

/// Seen red: with a `Value`, in which a repeated key is lost.
#[test]
fn json_keeps_a_key_that_is_there_twice() {
    let text = "{\"a\": {\"b\": 1}, \"c\": [{\"d\": 1, \"d\": 2}], \"a\": {\"e\": 2}, \"a\": null}";
    let document = json(text).unwrap();
    let keys: Vec<&str> = document.root.entries().iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["a", "c", "a", "a"]);
    let repeated: Vec<&str> = document.repeated.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(repeated, ["a", "c.d"]);
    for (text, is) in [
        (" \n{", true),
        ("{}", true),
        ("---\n{}", false),
        ("\u{feff}{}", false),
        ("[]", false),
    ] {
        assert_eq!(is_json(text), is, "{text:?}");
    }
    for text in ["{a: 1}", "{} {}", "{}\n---\n{}", "{\"a\": 1,}", "{"] {
        assert!(json(text).is_err(), "{text}");
    }
    assert_eq!(
        json("{\n a").err().unwrap().to_string(),
        "broken JSON in line 2, column 2"
    );
}

#[test]
fn whole_numbers_are_read_as_strconv_reads_them() {
    for (text, number) in [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("00", Some(0)),
        ("+7", Some(7)),
        ("010", Some(8)),
        ("0x_fF", Some(255)),
        ("1_000", Some(1000)),
        ("0_7", Some(7)),
        ("0b101", Some(5)),
        ("0O17", Some(15)),
        ("-9223372036854775808", Some(i64::MIN.into())),
        ("08", None),
        ("_1", None),
        ("1_", None),
        ("1__0", None),
        ("0x", None),
        ("", None),
        ("+", None),
        ("--1", None),
        ("+-1", None),
        ("0x+1", None),
        (" 1", None),
        ("1.0", None),
        ("18446744073709551616", None),
    ] {
        assert_eq!(integer(text), number, "{text:?}");
    }
}

/// Seen red: with the line of the innermost key lost.
#[test]
fn a_value_of_the_wrong_type_is_found_by_its_line() {
    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Inner {
        text: Option<String>,
        is_on: Option<bool>,
    }
    #[derive(Debug, Deserialize)]
    struct Outer {
        inner: Option<Inner>,
    }
    let read = |text: &str| {
        let document = yaml(text).unwrap();
        Outer::deserialize(&document.root).map_err(|error| error.to_string())
    };
    let found = read("other: [1]\ninner: {text: a, is_on: yes, new: {}}").unwrap();
    let expected = Inner {
        text: Some("a".to_owned()),
        is_on: Some(true),
    };
    assert_eq!(found.inner, Some(expected));
    assert_eq!(read("inner: ~").unwrap().inner, None);
    for (text, line) in [
        ("inner:\n  is_on: true\n  text: 5", 3),
        ("a: 1\ninner: [a]", 2),
        ("inner: x", 1),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error, format!("a value of the wrong type near line {line}"));
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a text is, it is read or refused, and what is JSON is the same as YAML.
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), near in "[-a:{}\\[\\]\n \
            #&*!<'\"|>0-9.]{0,60}") {
            let _ = (yaml(&text), json(&text), yaml(&near));
        }

        #[test]
        fn plain_json_is_the_same_in_yaml(a in "[a-z]{1,8}", text in "[ -~]{0,20}", number in any::<i32>()) {
            let value = json!({"k": {a: text, "n": number, "l": [true, null, 1.5]}});
            let text = value.to_string();
            prop_assert_eq!(&of(yaml(&text)), &value);
            prop_assert_eq!(of(json(&text)), value);
        }
    }
}
