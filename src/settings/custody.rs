//! Which users may change the configuration file.
//!
//! It decides which user may do what on the node. So does every user who can write to it, or put another file
//! in its place: only root and the gate's own user may.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

use crate::files::{self, STICKY};

const ROOT: u32 = 0;
/// Writable by the group, or by others.
const WRITABLE: u32 = 0o022;

/// The bytes of the file at `path`, of which there are at most `most`.
///
/// # Errors
/// It cannot be read, or another user may change or replace it.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = files::open(path)?;
    // What is open is judged: the name may lead to another file by now.
    judge_file(&file.metadata()?)?;
    for place in files::places(path)? {
        for directory in place.ancestors().skip(1) {
            judge_directory(directory)?;
        }
        judge_link(&place)?;
    }
    files::read_open(&mut file, most)
}

fn judge_file(about: &Metadata) -> io::Result<()> {
    let us = geteuid().as_raw();
    if ![ROOT, us].contains(&about.uid()) {
        return refuse(format!(
            "it belongs to the user with the id {}, who could change what the gate allows; make it root's: \
             chown root FILE",
            about.uid()
        ));
    }
    if about.mode() & WRITABLE != 0 {
        return refuse(format!(
            "its mode {:04o} lets other users change what the gate allows; take that away: chmod go-w FILE",
            about.mode() & 0o7777
        ));
    }
    Ok(())
}

fn judge_directory(directory: &Path) -> io::Result<()> {
    let about = fs::metadata(directory)?;
    let (us, mode) = (geteuid().as_raw(), about.mode());
    let owned = [ROOT, us].contains(&about.uid());
    let guarded = mode & WRITABLE == 0 || mode & STICKY != 0;
    if owned && guarded || files::is_volume(directory) {
        return Ok(());
    }
    let directory = directory.display();
    if owned {
        refuse(format!(
            "the mode {:04o} of {directory} lets other users replace it; take that away: chmod go-w \
             {directory}",
            mode & 0o7777
        ))
    } else {
        refuse(format!(
            "{directory} belongs to the user with the id {}, who could replace it; make it root's: chown \
             root {directory}",
            about.uid()
        ))
    }
}

/// In a sticky directory, the user to which a link belongs may replace it.
fn judge_link(place: &Path) -> io::Result<()> {
    let sticky = |directory| fs::metadata(directory).map(|about| about.mode() & STICKY != 0);
    let owner = fs::symlink_metadata(place)?.uid();
    if [ROOT, geteuid().as_raw()].contains(&owner) || !place.parent().map_or(Ok(false), sticky)? {
        return Ok(());
    }
    let place = place.display();
    refuse(format!(
        "{place} belongs to the user with the id {owner}, who could replace it; make it root's: chown -h \
         root {place}"
    ))
}

fn refuse(why: String) -> io::Result<()> {
    // Not of the kind of the system's own refusal to read it.
    Err(io::Error::other(why))
}
