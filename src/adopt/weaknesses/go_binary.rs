//! What a Go program says of itself, read from its file. Nothing is executed: the file may be another
//! machine's, or a stranger's.

use std::fs::File;
use std::io;

use object::read::ReadCache;
use object::{Endian as _, Endianness, Object as _, ObjectSection as _, ObjectSegment as _};

use super::version::Version;

/// Largest program that is read; a kubelet has about 100 MiB.
const LARGEST: u64 = 1 << 30;
/// Largest part of a program that is read at once.
const LARGEST_PART: u64 = 64 << 20;
/// Longest text that build information may have: it lists every module.
const LONGEST: u64 = 4 << 20;
/// Where Go's build information begins.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Go puts it at multiples of this.
const ALIGNMENT: usize = 16;
/// What stands on both sides of the module information.
const SENTINEL: usize = 16;
/// Variables of Kubernetes that hold its version, since 1.17 and before; a build sets them with the linker.
const VERSION_VARIABLES: [&str; 2] = [
    "component-base/version.gitVersion=",
    "k8s.io/kubernetes/pkg/version.gitVersion=",
];

/// What was found in a program.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct GoProgram {
    /// The version of Go that built it, as it was written.
    pub(super) go: String,
    /// The version of Kubernetes in it, where that is certain.
    pub(super) kubernetes: Option<String>,
}

/// Why a program says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum GoProgramError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("it is larger than 1 GiB")]
    TooLarge,
    #[error("it is no ELF program")]
    NoProgram,
    #[error("it has no build information of Go")]
    NoBuildInformation,
}

impl From<object::Error> for GoProgramError {
    fn from(_: object::Error) -> Self {
        Self::NoProgram
    }
}

/// Reads the program in `file`.
///
/// # Errors
/// It is not one that Go 1.13 or newer built, or cannot be read.
pub(super) fn read(file: File) -> Result<GoProgram, GoProgramError> {
    if file.metadata()?.len() > LARGEST {
        return Err(GoProgramError::TooLarge);
    }
    let cache = ReadCache::new(file);
    of_data(&cache)
}

/// As [`read`], of bytes in memory or of a file.
pub(super) fn of_data<'a>(data: impl object::ReadRef<'a>) -> Result<GoProgram, GoProgramError> {
    let program = object::File::parse(data)?;
    let section = program
        .section_by_name(".go.buildinfo")
        .ok_or(GoProgramError::NoBuildInformation)?;
    if section.size() > LARGEST_PART {
        return Err(GoProgramError::NoBuildInformation);
    }
    let section = section.data()?;
    let begins = section
        .chunks(ALIGNMENT)
        .position(|chunk| chunk.starts_with(MAGIC))
        .ok_or(GoProgramError::NoBuildInformation)?;
    let information = &section[begins * ALIGNMENT..];
    let memory = ProgramMemory {
        data,
        program: &program,
    };
    let texts = inline(information).or_else(|| memory.pointed(information));
    let (go, modules) = texts.ok_or(GoProgramError::NoBuildInformation)?;
    let modules = modules.get(SENTINEL..modules.len().saturating_sub(SENTINEL));
    let modules = String::from_utf8_lossy(modules.unwrap_or_default());
    Ok(GoProgram {
        go: String::from_utf8_lossy(go).into_owned(),
        kubernetes: named(&modules).or_else(|| memory.linked(&modules)),
    })
}

/// Since Go 1.18: two texts, each after its length, behind a head of 32 bytes.
fn inline(information: &[u8]) -> Option<(&[u8], &[u8])> {
    const INLINE: u8 = 2;
    if information.get(15)? & INLINE == 0 {
        return None;
    }
    let (go, rest) = counted(information.get(32..)?)?;
    Some((go, counted(rest).map_or(&[][..], |(modules, _)| modules)))
}

/// A text after its length, 7 bits in each byte, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length: u64 = 0;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let length = usize::try_from(length).ok()?;
            return bytes.get(place + 1..)?.split_at_checked(length);
        }
    }
    None
}

/// A program's memory as it is when the program starts.
struct ProgramMemory<'p, 'a, R: object::ReadRef<'a>> {
    data: R,
    program: &'p object::File<'a, R>,
}

impl<'a, R: object::ReadRef<'a>> ProgramMemory<'_, 'a, R> {
    /// Before Go 1.18: pointers to two strings.
    fn pointed(&self, information: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
        const BIG_ENDIAN: u8 = 1;
        let width = usize::from(*information.get(14)?);
        let endian = match information.get(15)? & BIG_ENDIAN {
            0 => Endianness::Little,
            _ => Endianness::Big,
        };
        let pointer = |bytes: &[u8], at: usize| number(bytes.get(at..)?, width, endian);
        let string = |at: usize| {
            let header = self.at(pointer(information, at)?, 2 * width as u64)?;
            let length = pointer(header, width)?;
            self.at(pointer(header, 0)?, length)
        };
        Some((string(16)?, string(16 + width).unwrap_or_default()))
    }

    /// What is at an address.
    fn at(&self, address: u64, length: u64) -> Option<&'a [u8]> {
        if length > LONGEST {
            return None;
        }
        self.program.segments().find_map(|segment| {
            let (offset, in_file) = segment.file_range();
            let within = address.checked_sub(segment.address())?;
            (within.checked_add(length)? <= in_file).then_some(())?;
            self.data.read_bytes_at(offset.checked_add(within)?, length).ok()
        })
    }

    /// The version of Kubernetes among the texts that the linker was told, each of which ends with a NUL. It
    /// is certain if there is one version alone, beside the commit that it was built from, in a program of
    /// Kubernetes or k3s: the constants of Go's own code have no such end.
    fn linked(&self, modules: &str) -> Option<String> {
        let path = modules.lines().find_map(|line| line.strip_prefix("path\t"));
        let of_kubernetes = path.is_none_or(|path| {
            path.starts_with("k8s.io/kubernetes/cmd/") || path.contains("/k3s") || path.contains("/rke2")
        });
        if !of_kubernetes {
            return None;
        }
        let (mut versions, mut commit) = (Vec::<String>::new(), false);
        for name in [".rodata", ".data.rel.ro", ".noptrdata", ".data"] {
            let section = self.program.section_by_name(name);
            let Some(section) = section.filter(|section| section.size() <= LARGEST_PART) else {
                continue;
            };
            for text in section.data().ok()?.split(|byte| *byte == 0) {
                let Ok(text) = str::from_utf8(text) else { continue };
                commit |= text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                if is_whole(text) && !versions.iter().any(|version| version == text) {
                    versions.push(text.to_owned());
                }
            }
        }
        // k3s holds the versions of what else is in it, too.
        let of_distribution = |version: &String| version.contains("+k3s") || version.contains("+rke2r");
        if versions.iter().any(of_distribution) {
            versions.retain(of_distribution);
        }
        match versions.as_slice() {
            [version] if commit => Some(version.clone()),
            _ => None,
        }
    }
}

fn number(bytes: &[u8], width: usize, endian: Endianness) -> Option<u64> {
    Some(match width {
        4 => endian.read_u32(*bytes.first_chunk()?).into(),
        8 => endian.read_u64(*bytes.first_chunk()?),
        _ => return None,
    })
}

/// The version that the linker's flags or the main module name.
fn named(modules: &str) -> Option<String> {
    let flags = modules
        .lines()
        .find_map(|line| line.strip_prefix("build\t-ldflags="));
    let flagged = flags.and_then(|flags| {
        let values = VERSION_VARIABLES.iter().filter_map(|name| flags.split_once(name));
        let ends = |next: char| next.is_whitespace() || "'\"\\".contains(next);
        values
            .map(|(_, value)| value.split(ends).next().unwrap_or_default())
            .find(|value| is_whole(value))
    });
    let main = || {
        let line = modules
            .lines()
            .find_map(|line| line.strip_prefix("mod\tk8s.io/kubernetes\t"))?;
        // One that Go made up for a commit between two releases is no version of Kubernetes.
        line.split('\t')
            .next()
            .filter(|version| is_whole(version) && !version.contains("-0."))
    };
    flagged.or_else(main).map(str::to_owned)
}

/// Whether this is a version of Kubernetes with all of its three numbers.
fn is_whole(text: &str) -> bool {
    let numbers = text.strip_prefix('v').unwrap_or_default();
    numbers.starts_with(|first: char| first.is_ascii_digit())
        && numbers.matches('.').count() >= 2
        && Version::of_kubernetes(text).is_some()
}
