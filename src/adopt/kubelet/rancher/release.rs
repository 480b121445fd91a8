//! Which release of k3s or RKE2 a node has, for what only the release decides: whether it closes the
//! kubelet's read-only port. The first ones with drop-ins leave it to the kubelet, which opens it, since it
//! has no `--config` (CVE-2025-46599).

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use super::product::Product;
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::root::Root;
use crate::files;

/// The port that a kubelet without `--config` opens.
pub(super) const READ_ONLY_PORT: u16 = 10255;
/// The most bytes of a program that are searched.
const PROGRAM: u64 = 512 << 20;
/// How much of it is held at once.
const CHUNK: usize = 1 << 20;
/// Longer than any version.
const OVERLAP: usize = 64;
/// The most programs whose versions are remembered.
const REMEMBERED: usize = 8;

/// What is known of the read-only port.
pub(super) enum ReadOnlyPort {
    /// An argument of the user's sets it.
    SetByUser,
    /// The process listens on it.
    Listens,
    /// This release passes `--read-only-port=0`.
    Closed,
    /// This release passes no `--read-only-port`.
    LeftToKubelet(String),
    /// Whether this release passes it could not be confirmed.
    Unconfirmed(String),
    /// The release is not known.
    UnknownRelease,
}

/// The release as `1.32.3`, without what follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Release(u32, u32, u32);

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl ReadOnlyPort {
    /// The argument by which it is closed; and what the operator should know.
    pub(super) fn argument(self, product: Product, invocation: &mut Invocation) -> Option<String> {
        let name = product.name();
        let advice = format!("--kubelet-arg=read-only-port=0 closes it, {name}'s update too");
        match self {
            Self::SetByUser => return None,
            Self::Closed => {}
            Self::Listens => {
                invocation.notes.push(format!(
                    "{name} listens on port {READ_ONLY_PORT}: it does not pass --read-only-port=0 \
                     (CVE-2025-46599); {advice}"
                ));
                return None;
            }
            Self::LeftToKubelet(release) => {
                invocation.notes.push(format!(
                    "{name} {release} passes no --read-only-port, and a kubelet without --config opens port \
                     {READ_ONLY_PORT} then (CVE-2025-46599); {advice}"
                ));
                return None;
            }
            Self::Unconfirmed(release) => invocation.unread.push(format!(
                "whether {name} {release} closes the read-only port could not be confirmed; {advice}"
            )),
            Self::UnknownRelease => invocation.notes.push(format!(
                "the release of {name} is not known: 1.32.0 to 1.32.3 open the read-only port \
                 {READ_ONLY_PORT} (CVE-2025-46599), which is not counted here; {advice}"
            )),
        }
        Some("--read-only-port=0".to_owned())
    }
}

/// What the release of this program says of the port.
pub(super) fn of(product: Product, program: &str, data: &str, root: &Root) -> ReadOnlyPort {
    let Some(release) = in_program(product, program, root).or_else(|| in_data(product, data, root)) else {
        return ReadOnlyPort::UnknownRelease;
    };
    let said = release.to_string();
    match (product, release) {
        (_, Release(1, 32, 0..=3)) => ReadOnlyPort::LeftToKubelet(said),
        // Its own issue was closed weeks after that of k3s, and names no release.
        (Product::Rke2, Release(1, 32, 4 | 5) | Release(1, 33, 0 | 1)) => ReadOnlyPort::Unconfirmed(said),
        _ => ReadOnlyPort::Closed,
    }
}

/// k3s unpacks itself to `data/current/bin/k3s`, RKE2 to
/// `data/v1.32.3-rke2r1-HASH/bin`, to which `bin` leads.
fn in_data(product: Product, data: &str, root: &Root) -> Option<Release> {
    let data = data.trim_end_matches('/');
    match product {
        Product::K3s => in_program(product, &format!("{data}/data/current/bin/k3s"), root),
        Product::Rke2 => {
            let unpacked = root.resolve(format!("{data}/bin").as_ref()).ok()?;
            unpacked.iter().find_map(|part| {
                let (version, _) = part.to_str()?.split_once("-rke2r")?;
                parsed(version)
            })
        }
    }
}

/// The version that the program has in its data, if it has only one.
fn in_program(product: Product, program: &str, root: &Root) -> Option<Release> {
    type Key = (u64, u64, u64, i64, i64);
    static FOUND: Mutex<BTreeMap<Key, Option<Release>>> = Mutex::new(BTreeMap::new());
    let path = root.resolve(program.as_ref()).ok()?;
    let mut file = files::open(path).ok()?;
    let about: Metadata = file.metadata().ok()?;
    let key = (
        about.dev(),
        about.ino(),
        about.size(),
        about.mtime(),
        about.mtime_nsec(),
    );
    let remembered = || FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    // The gate looks at the kubelet's next start every few seconds.
    if let Some(release) = remembered().get(&key) {
        return *release;
    }
    let release = search(product, &mut file).ok().flatten();
    let mut found = remembered();
    if found.len() >= REMEMBERED {
        found.clear();
    }
    found.insert(key, release);
    release
}

fn search(product: Product, program: impl io::Read) -> io::Result<Option<Release>> {
    let marker: &[u8] = match product {
        Product::K3s => b"+k3s",
        Product::Rke2 => b"+rke2r",
    };
    let mut found = None;
    let mut program = program.take(PROGRAM);
    let mut held: Vec<u8> = Vec::new();
    loop {
        let before = held.len();
        program.by_ref().take(CHUNK as u64).read_to_end(&mut held)?;
        if held.len() == before {
            return Ok(found);
        }
        for at in (0..held.len()).filter(|at| held[*at] == b'+' && held[*at..].starts_with(marker)) {
            let from = at.saturating_sub(OVERLAP);
            let Some(release) = ending(&held[from..at]) else {
                continue;
            };
            if found.is_some_and(|found| found != release) {
                return Ok(None);
            }
            found = Some(release);
        }
        let keep = held.len().saturating_sub(OVERLAP);
        held.drain(..keep);
    }
}

/// The release with which this text ends.
fn ending(text: &[u8]) -> Option<Release> {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let start = text.iter().rposition(|byte| !part(byte)).map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&text[start..]).ok()?;
    parsed(&text[text.rfind('v')?..])
}

/// `v1.32.4-rc1` as a release.
fn parsed(version: &str) -> Option<Release> {
    let numbers = version.strip_prefix('v')?.split('-').next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    let release = Release(numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(release)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Seen red: without the overlap, a version on the border of two chunks was not found.
    #[test]
    fn the_version_in_a_program_is_found_wherever_it_is() {
        let with = |at: usize, text: &str| {
            let mut program = vec![0; 2 * CHUNK + 100];
            program[at..at + text.len()].copy_from_slice(text.as_bytes());
            search(Product::K3s, program.as_slice()).unwrap()
        };
        let version = "v1.32.3+k3s1";
        let expected = Some(Release(1, 32, 3));
        for at in [0, 1, CHUNK - 12, CHUNK - 5, CHUNK - 1, CHUNK, 2 * CHUNK + 88] {
            assert_eq!(with(at, version), expected, "at {at}");
        }
        assert_eq!(with(7, "v1.32.4-rc1+k3s1"), Some(Release(1, 32, 4)));
        assert_eq!(with(7, "xv1.32.3+k3s1 v1.32.3+k3s1"), expected);
        for text in [
            "v1.32.3+k3s1 v1.33.0+k3s1",
            "v1.32.3-k3s1",
            "v1.32+k3s1",
            "+k3s1",
            "v1.32.3+rke2r1",
        ] {
            assert_eq!(with(7, text), None, "{text}");
        }
    }
}
