#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::adopt::kubelet::environment;

fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = Root::new(folder.path());
    (folder, root)
}

#[test]
fn a_unit_starts_what_its_drop_ins_and_environment_say() {
    let (_folder, root) = tree(&[
        ("etc/hostname", "worker-1\n"),
        (
            "lib/systemd/system/kubelet.service",
            "[Unit]\nExecStart=/not/this\n[Service]\nExecStart=/usr/bin/kubelet --old\nEnvironment=\"A=--a=1 \
             --b\" B=2\n",
        ),
        (
            "usr/lib/systemd/system/kubelet.service.d/10-a.conf",
            "[Service]\nExecStart=/hidden\n",
        ),
        (
            "etc/systemd/system/kubelet.service.d/10-a.conf",
            "[Service]\nEnvironmentFile=-/nowhere\nEnvironmentFile=-/etc/default/kubelet\nExecStart=\n\
             ExecStart=-/usr/bin/kubelet $A --host=%H --b=${B}-$$x \\\n  # a comment\n  $C $NOTHING \
             '--quoted=a b' \\\n  --last\n",
        ),
        (
            "etc/default/kubelet",
            "# comment\nB=3\nC=\"--c --d='x'\"\nexport NOTHING=--no\n",
        ),
    ]);
    let started = started(&root, "kubelet.service").unwrap().unwrap();
    assert_eq!(
        started.file,
        "/usr/lib/systemd/system/kubelet.service".replace("/usr", "")
    );
    let words: Vec<&str> = started.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(
        words,
        [
            "/usr/bin/kubelet",
            "--a=1",
            "--b",
            "--host=worker-1",
            "--b=3-$x",
            "--c",
            "--d=x",
            "--quoted=a b",
            "--last"
        ]
    );
    let places: Vec<&str> = started.words.iter().map(|word| &*word.place).collect();
    let drop_in = "/etc/systemd/system/kubelet.service.d/10-a.conf";
    assert_eq!(
        places[1], "/lib/systemd/system/kubelet.service",
        "where Environment is"
    );
    assert_eq!((places[0], places[4]), (drop_in, "/etc/default/kubelet"));
    assert_eq!(started.directory, "/");
    for told in [
        "/lib/systemd/system/kubelet.service:2: there is no key \"ExecStart\" in [Unit]: systemd ignores it",
        "/etc/default/kubelet:4: \"export NOTHING\" names no variable, so systemd ignores it",
    ] {
        assert!(
            started.notes.iter().any(|note| note == told),
            "{told}: {:?}",
            started.notes
        );
    }
    assert!(started.unread.is_empty(), "{:?}", started.unread);
    assert!(matches!(super::started(&root, "other.service"), Ok(None)));
}

#[test]
fn a_file_that_must_be_there_and_is_not_is_told() {
    let (_folder, root) = tree(&[(
        "etc/systemd/system/kubelet.service",
        "[Service]\nEnvironmentFile=/etc/kubelet.env\nExecStart=/usr/bin/kubelet \
         $ARGS\nWorkingDirectory=/var/lib\n",
    )]);
    let started = started(&root, "kubelet.service").unwrap().unwrap();
    assert_eq!((started.words.len(), started.directory.as_str()), (1, "/var/lib"));
    assert!(
        started.unread[0].contains("/etc/kubelet.env"),
        "{:?}",
        started.unread
    );
}

/// Seen red: with a pattern, a specifier and several lines taken to the letter, the flags of these files were
/// lost.
#[test]
fn files_are_named_and_read_as_systemd_does() {
    let (_folder, root) = tree(&[
        ("etc/hostname", "worker-1.example\n"),
        (
            "etc/systemd/system/kubelet.service",
            "[Service]\nEnvironmentFile=-/etc/default/%p\nEnvironmentFile=-/etc/kube*.e?v\nEnvironment=\"H=--host=%H --short=%l\"\n\
             WorkingDirectory=%S/kubelet\nIPAddressDeny=any\nIPAddressAllow=127.0.0.1 \
             192.0.2.1\nExecStart=@/usr/bin/kubelet kubelet $A $B $H --x=%q\n",
        ),
        ("etc/default/kubelet", "A=\"--a\n--b\"\n"),
        ("etc/kube-1.env", "B=--c\n"),
        ("etc/kube-2.envy", "B=--no\n"),
    ]);
    let started = started(&root, "kubelet.service").unwrap().unwrap();
    let words: Vec<&str> = started.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(
        words,
        [
            "/usr/bin/kubelet",
            "--a",
            "--b",
            "--c",
            "--host=worker-1.example",
            "--short=worker-1",
            "--x="
        ]
    );
    assert_eq!(started.directory, "/var/lib/kubelet");
    assert_eq!(
        started.allows_only,
        Some(vec!["127.0.0.1".to_owned(), "192.0.2.1".to_owned()])
    );
    assert!(started.unread[0].contains("%q"), "{:?}", started.unread);
}

/// Seen red: with the folders of the unit's own name alone, and with odd patterns taken for files that are
/// not there.
#[test]
fn what_is_said_for_several_units_or_in_patterns_is_not_overlooked() {
    let (_folder, root) = tree(&[
        (
            "usr/lib/systemd/system/k3s-agent.service",
            "[Service]\nEnvironment=A=--a B=--b\nExecStart=/k $A $B $C\n",
        ),
        (
            "etc/systemd/system/service.d/10-all.conf",
            "[Service]\nEnvironment=C=--all\n",
        ),
        (
            "etc/systemd/system/k3s-.service.d/20-some.conf",
            "[Service]\nEnvironment=A=--some\n",
        ),
        (
            "etc/systemd/system.control/k3s-agent.service.d/50-set.conf",
            "[Service]\nUnsetEnvironment=B\n",
        ),
    ]);
    let agent = started(&root, "k3s-agent.service").unwrap().unwrap();
    let words: Vec<&str> = agent.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(words, ["/k", "--some", "--all"]);
    assert!(agent.unread.is_empty(), "{:?}", agent.unread);
    for odd in ["/etc/default/kubelet[0-9]", "/etc/*/kubelet"] {
        let unit = format!("[Service]\nEnvironmentFile={odd}\nExecStart=/k $A\n");
        let (_folder, root) = tree(&[
            ("etc/systemd/system/kubelet.service", unit.as_str()),
            ("etc/default/kubelet", "A=--a"),
            ("etc/default/kubelet1", "A=--a"),
        ]);
        let started = started(&root, "kubelet.service").unwrap().unwrap();
        assert_eq!(started.words.len(), 2, "{odd}");
    }
}

#[test]
fn what_is_masked_is_not_there() {
    use std::os::unix::fs::symlink;
    let unit = "[Service]\nExecStart=/usr/bin/kubelet\n";
    let (folder, root) = tree(&[
        ("usr/lib/systemd/system/kubelet.service", unit),
        (
            "usr/lib/systemd/system/kubelet.service.d/10-a.conf",
            "[Service]\nExecStart=\nExecStart=/other\n",
        ),
        ("etc/systemd/system/kubelet.service.d/20-b.conf", "[Service]\n"),
    ]);
    symlink(
        "/dev/null",
        folder
            .path()
            .join("etc/systemd/system/kubelet.service.d/10-a.conf"),
    )
    .unwrap();
    assert_eq!(
        started(&root, "kubelet.service").unwrap().unwrap().words[0].text,
        "/usr/bin/kubelet"
    );
    symlink(
        "/dev/null",
        folder.path().join("etc/systemd/system/kubelet.service"),
    )
    .unwrap();
    assert!(matches!(started(&root, "kubelet.service"), Ok(None)));
    // One that cannot be followed is not one that is not there.
    symlink(
        "other.service",
        folder.path().join("etc/systemd/system/another.service"),
    )
    .unwrap();
    symlink(
        "another.service",
        folder.path().join("etc/systemd/system/other.service"),
    )
    .unwrap();
    assert!(
        started(&root, "other.service")
            .unwrap_err()
            .to_string()
            .contains("other.service")
    );
}

/// Seen red: without the bounds, minutes of reading, and memory without end.
#[test]
fn a_unit_that_grows_without_end_is_an_error() {
    let folder = "etc/systemd/system/kubelet.service.d";
    let names: Vec<String> = (0..256).map(|number| format!("{folder}/{number}.conf")).collect();
    let many = |count: usize| {
        let unit = ("etc/systemd/system/kubelet.service", "[Service]\nExecStart=/k\n");
        let drop_ins = names[..count].iter().map(|name| (name.as_str(), "[Service]\n"));
        let files: Vec<(&str, &str)> = std::iter::once(unit).chain(drop_ins).collect();
        let (_folder, root) = tree(&files);
        started(&root, "kubelet.service")
    };
    assert!(many(255).unwrap().is_some());
    assert!(many(256).unwrap_err().to_string().contains("more than 256 files"));
    let large = format!(
        "[Service]\nEnvironment=A={}\nExecStart=/k {}\n",
        "a".repeat(100_000),
        "${A}".repeat(10_000)
    );
    let (_folder, root) = tree(&[("etc/systemd/system/kubelet.service", large.as_str())]);
    assert!(
        started(&root, "kubelet.service")
            .unwrap_err()
            .to_string()
            .contains("4 MiB")
    );
}

proptest::proptest! {
    /// Whatever the files of a copied node hold.
    #[test]
    fn any_unit_and_any_environment_are_read(unit in "\\PC{0,80}", command in "[-@+%$\\{\\}\"'\\\\A-C/ \
        ]{0,60}", text in "[A-C=\"'\\\\#; \n\r$]{0,80}") {
        let unit = format!("{unit}\n[Service]\nEnvironment=\"C={text}\"\nEnvironmentFile=-/etc/e*\nExecStart=/k {command}\n");
        let (_folder, root) = tree(&[("etc/systemd/system/kubelet.service", unit.as_str()), ("etc/env", text.as_str())]);
        let _ = started(&root, "kubelet.service");
        for (_, value) in environment::assignments(&text) {
            proptest::prop_assert!(value.len() <= text.len() * 2);
        }
    }
}
