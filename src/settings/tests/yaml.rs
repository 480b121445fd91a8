//! Files that are no configuration. What is wrong is said in plain words, with the line where there is one,
//! and without a word of the library that reads YAML.

use super::*;

/// What loading a file with these bytes says, without the file's name.
fn said_of(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gate.yaml");
    std::fs::write(&file, bytes).unwrap();
    let said = Settings::load(&file, &KubeletFlags::default())
        .unwrap_err()
        .to_string();
    said.replace(file.to_str().unwrap(), "")
}

#[test]
fn what_is_no_document_is_said_in_plain_words() {
    let bomb = (1..9).fold(
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(),
        |bomb, level| {
            let references = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb + &format!("a{level}: &a{level} [{references}]\n")
        },
    );
    let many = format!("listen: [{}]\n", "a,".repeat(30_000));
    let deep = format!("listen: {}{}\n", "[".repeat(40), "]".repeat(40));
    let deeper = format!("listen: {}{}\n", "[".repeat(4_000), "]".repeat(4_000));
    let deepest = (0..60).fold(String::new(), |text, level| text + &" ".repeat(level) + "a:\n");
    let large = format!("nodeName: {}\n", "x".repeat(2_000_000));
    let begin = "begin with apiVersion: kubelet-gate.dev/v1alpha1";
    let levels = "the file has more than 32 levels; no key needs as many";
    let values = "the file has more than 20000 values, counting what its aliases repeat; write fewer";
    for (text, expected) in [
        ("", format!(": the file is empty; {begin}")),
        (" \n\n", format!(": the file is empty; {begin}")),
        ("# later\n", format!(": the file has no keys; {begin}")),
        ("---\n", format!(": the file has no keys; {begin}")),
        (
            "- a\n",
            format!(":1: a list is found where the keys are expected; {begin}"),
        ),
        (
            "\nhello\n",
            format!(":2: \"hello\" is found where the keys are expected; {begin}"),
        ),
        (
            "workers: 1\n---\nworkers: 2\n",
            ":3: the file has 2 documents, 1 is expected; this is where the second one begins".to_owned(),
        ),
        (
            "workers: 1\n---\nworkers: 2\n---\nworkers: 3\n",
            ":3: the file has 3 documents, 1 is expected; this is where the second one begins".to_owned(),
        ),
        (
            "workers: 1\n---\n",
            ":2: the file has 2 documents, 1 is expected; this is where the second one begins".to_owned(),
        ),
        (&bomb, format!(":5: {values}")),
        (&many, format!(":1: {values}")),
        (&deep, format!(":1: {levels}")),
        (&deeper, format!(":1: {levels}")),
        (&deepest, format!(":33: {levels}")),
        (
            &large,
            ": the file is larger than 1 MiB, which no configuration needs".to_owned(),
        ),
        (
            "audit:\n\tpath: x\n",
            ":2: the file is not YAML from column 2 on: tabs disallowed within this context (block \
             indentation)"
                .to_owned(),
        ),
        (
            "workers: *nothing\n",
            ":1: this alias has no anchor before it; write the value itself".to_owned(),
        ),
        (
            "listen: &a [*a]\n",
            ":1: this alias stands within what it repeats; write the value itself".to_owned(),
        ),
        (
            "workers: 1\nnodeName: !include /etc/passwd\n",
            ":2: the tag \"!include\" is not known; remove it".to_owned(),
        ),
        (
            "workers: .nan\n",
            ":1: \".nan\" is no number that a key can have; write one with digits".to_owned(),
        ),
        (
            "~: 1\n",
            ":1: a key has no name; write one, or remove the line".to_owned(),
        ),
        (
            "[a, b]: 1\n",
            ":1: a key is a list or a mapping; write a name".to_owned(),
        ),
        (
            "? {a: 1}\n: 2\n",
            ":1: a key is a list or a mapping; write a name".to_owned(),
        ),
        (
            "audit: {path: [}\n",
            ":1: the file is not YAML from column 15 on: mismatched bracket '[' closed by '}'".to_owned(),
        ),
    ] {
        let start: String = text.chars().take(60).collect();
        assert_eq!(said_of(text.as_bytes()), expected, "{start:?}");
    }
    assert_eq!(
        said_of(b"workers: 1\nnodeName: \xff\xfe\n"),
        ":2: the file is not UTF-8 from this line on; save it as UTF-8"
    );
}

/// A message must not carry a control character to the operator's terminal.
#[test]
fn a_message_has_no_control_characters() {
    for text in [
        "nodeName: a\u{1}b\n",
        "nodeName: \"a\u{1b}[31m\"\n",
        "\"\\e[31m\": 1\n",
        "workers: !\u{7} 1\n",
    ] {
        let said = said_of(text.as_bytes());
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
}
