//! File systems of nodes: those of distributions in `data/nodes`, and small ones made by a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

use crate::node::shell;

/// The folder of a distribution's node. Git keeps no mode but that of programs, and the gate takes no key
/// that every user can read.
pub(crate) fn tree(name: &str) -> PathBuf {
    let nodes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/nodes");
    static PRIVATE: Once = Once::new();
    PRIVATE.call_once(|| drop(shell(&format!("chmod -R o-rw {}", nodes.display()))));
    nodes.join(name)
}

/// A copy of one, to be changed.
pub(crate) fn copied(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (tree(name), folder.path());
    shell(&format!("cp -a {}/. {}", from.display(), to.display()));
    folder
}

/// A tree with these files.
pub(crate) fn files(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(&folder.path().join(path), text);
    }
    folder
}

/// A file, and the folders above it.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A `/proc` with these processes: id and arguments.
pub(crate) fn proc(processes: &[(i32, &[u8])]) -> TempDir {
    let proc = tempfile::tempdir().unwrap();
    for (pid, arguments) in processes {
        let process = proc.path().join(pid.to_string());
        fs::create_dir_all(process.join("root")).unwrap();
        write(&process.join("cmdline"), arguments);
    }
    proc
}
