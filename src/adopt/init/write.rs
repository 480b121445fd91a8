//! The draft's files put into their folder.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::files::{DraftFile, NAMES};

/// Why the files were not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// A folder bears the name of a file.
    #[error("{}: a folder has the name of a file that is to be written: choose another folder with \
             --out", .0.display())]
    Folder(PathBuf),
    /// Files are there already.
    #[error(
        "{}: already there, perhaps with your edits: choose another folder with --out, or overwrite with \
         --force",
        listed(.0)
    )]
    Exists(Vec<PathBuf>),
    /// The system refused.
    #[error("{}: {source}", file.display())]
    System {
        /// The file or folder.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn listed(files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    files.join(", ")
}

fn system(file: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let file = file.to_owned();
    |source| WriteError::System { file, source }
}

impl Draft {
    /// Writes all files into `folder`, which is made, or none: each file is complete before any of them takes
    /// its place. Links are not followed. Files that are there are overwritten only with `force`.
    ///
    /// # Errors
    /// A name is taken, or the system refuses.
    pub(crate) fn write(&self, folder: &Path, force: bool) -> Result<(), WriteError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755);
        builder.create(folder).map_err(system(folder))?;
        let there = existing(folder)?;
        if !there.is_empty() && !force {
            return Err(WriteError::Exists(there));
        }
        let aside = |file: &DraftFile| folder.join(format!(".{}.{}", file.name, std::process::id()));
        let written = self.files.iter().try_for_each(|file| {
            let path = aside(file);
            write_one(file, &path).map_err(system(&path))
        });
        let moved = written.and_then(|()| {
            self.files.iter().try_for_each(|file| {
                let path = folder.join(file.name);
                fs::rename(aside(file), &path).map_err(system(&path))
            })
        });
        if moved.is_err() {
            for file in &self.files {
                // It may not exist: not made yet, or in its place already.
                let _ = fs::remove_file(aside(file));
            }
            return moved;
        }
        // A file that an earlier run wrote and this one did not would be taken for one of this run.
        let written = |path: &PathBuf| self.files.iter().any(|file| folder.join(file.name) == *path);
        for path in there.iter().filter(|path| !written(path)) {
            fs::remove_file(path).map_err(system(path))?;
        }
        Ok(())
    }
}

/// Those of [`NAMES`] that are in the folder already.
fn existing(folder: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let mut there = Vec::new();
    for path in NAMES.map(|name| folder.join(name)) {
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => return Err(WriteError::Folder(path)),
            Ok(_) => there.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(&path)(error)),
        }
    }
    Ok(there)
}

fn write_one(file: &DraftFile, path: &Path) -> io::Result<()> {
    let mode = if file.private { 0o600 } else { 0o644 };
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options.open(path)?.write_all(file.text.as_bytes())
}
