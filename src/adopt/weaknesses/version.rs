//! Versions of Kubernetes, of its distributions and of Go, and the ranges of an advisory.
//!
//! These are not semantic versions. `v1.27.3-gke.100` is a build of 1.27.3 and no pre-release of it, while
//! `v1.27.3-rc.1` is one.

use serde::{Deserialize, Deserializer};

/// Longest version that is read.
const LONGEST: usize = 128;

/// The place of a version in the order of releases.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Release {
    major: u64,
    minor: u64,
    patch: u64,
    stage: Stage,
}

/// In this order.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Stage {
    /// Before every pre-release; only advisories write it, as `1.30.0-0`.
    Lowest,
    Alpha(Vec<u64>),
    Beta(Vec<u64>),
    Candidate(Vec<u64>),
    Released,
}

/// A version as a program names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Version {
    /// As it was written.
    pub(super) text: String,
    pub(super) release: Release,
    /// What a distribution appended, such as `+k3s1` or `-eks-1a2b3c`. Empty for a build of the project.
    pub(super) build: String,
}

/// From a version on, and before another; without one of them the range is open there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct VersionRange {
    from: Option<Release>,
    before: Option<Release>,
}

impl Version {
    /// A version of Kubernetes, with or without `v`, such as `v1.32.0-rc.1+k3s1`. `None`: it is none, or that
    /// of a build which does not know its version (`v0.0.0-master`).
    pub(super) fn of_kubernetes(text: &str) -> Option<Self> {
        let number = text.strip_prefix("Kubernetes ").unwrap_or(text);
        let (release, build) = parsed(number.strip_prefix('v').unwrap_or(number))?;
        Self::known(text, release, build)
    }

    /// A version of Go, such as `go1.22.3` or `go1.21rc2`. `None`: it is none, or a development version,
    /// which is of no release.
    pub(super) fn of_go(text: &str) -> Option<Self> {
        let (release, build) = parsed(text.strip_prefix("go")?)?;
        Self::known(text, release, build)
    }

    fn known(text: &str, release: Release, build: &str) -> Option<Self> {
        let readable = text.len() <= LONGEST && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        (release.major > 0 && readable).then(|| Self {
            text: text.to_owned(),
            release,
            build: build.to_owned(),
        })
    }

    /// Whether a distribution made this build, so that it may have fixes of later versions. k3s and RKE2
    /// append their own number, and take Kubernetes as it is. Go's suffixes for BoringCrypto and for
    /// experiments change no fix.
    pub(super) fn may_have_backports(&self) -> bool {
        let build = self.build.trim();
        let boring = build
            .strip_prefix('b')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        let as_it_is = build.is_empty()
            || boring
            || build.starts_with("+k3s")
            || build.starts_with("+rke2r")
            || build.starts_with("X:");
        !as_it_is
    }
}

impl Release {
    /// The major and minor number.
    pub(super) fn minor(&self) -> (u64, u64) {
        (self.major, self.minor)
    }

    /// Whether it is before the first release of its minor version.
    fn precedes_its_minor(&self) -> bool {
        self.patch == 0 && self.stage < Stage::Released
    }

    /// As advisories write it: `1.30.0-0`, `1.32.4-rc1`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match parsed(text)? {
            (release, "") => Some(release),
            (release, "-0") => Some(Self {
                stage: Stage::Lowest,
                ..release
            }),
            _ => None,
        }
    }
}

/// The release, and what follows.
fn parsed(text: &str) -> Option<(Release, &str)> {
    let (major, rest) = number(text)?;
    let (minor, mut rest) = number(rest.strip_prefix('.')?)?;
    let mut patch = 0;
    if let Some((third, after)) = rest.strip_prefix('.').and_then(number) {
        (patch, rest) = (third, after);
    }
    let (stage, build) = stage(rest);
    let release = Release {
        major,
        minor,
        patch,
        stage,
    };
    // `1.2x` and `1.2.3.4` are no versions.
    let separated =
        build.is_empty() || !build.starts_with('.') && (stage_is_next(rest) || begins_build(rest));
    separated.then_some((release, build))
}

/// Whether what follows the numbers is a pre-release.
fn stage_is_next(rest: &str) -> bool {
    stage(rest).0 != Stage::Released
}

/// Whether what follows the numbers is a suffix: `-eks-1`, `+k3s1`, ` (Red Hat …)`, and Go's `b7`.
fn begins_build(rest: &str) -> bool {
    rest.starts_with(['-', '+', ' ', 'b'])
}

/// The pre-release at the beginning, and what follows it.
fn stage(rest: &str) -> (Stage, &str) {
    let word = rest.strip_prefix('-').unwrap_or(rest);
    let named = |name: &str| {
        let after = word.strip_prefix(name)?;
        let ends = !after.starts_with(|next: char| next.is_ascii_alphabetic());
        ends.then(|| numbers(after))
    };
    if let Some((numbers, after)) = named("alpha") {
        (Stage::Alpha(numbers), after)
    } else if let Some((numbers, after)) = named("beta") {
        (Stage::Beta(numbers), after)
    } else if let Some((numbers, after)) = named("rc") {
        (Stage::Candidate(numbers), after)
    } else {
        (Stage::Released, rest)
    }
}

/// `1`, `.1`, `.1.123`, and what follows.
fn numbers(text: &str) -> (Vec<u64>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((one, after)) = number(rest.strip_prefix('.').unwrap_or(rest)) {
        found.push(one);
        rest = after;
    }
    (found, rest)
}

fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

impl VersionRange {
    /// Whether a release is in it.
    pub(super) fn contains(&self, release: &Release) -> bool {
        self.from.as_ref().is_none_or(|from| from <= release)
            && self.before.as_ref().is_none_or(|before| release < before)
    }

    /// Whether an advisory that names releases leaves it open what a pre-release has: the fix came with a
    /// patch of the minor version before, and may have come to the next one only after this pre-release.
    pub(super) fn leaves_open(&self, release: &Release) -> bool {
        let (major, minor) = release.minor();
        release.precedes_its_minor()
            && self.before.as_ref().is_some_and(|before| {
                minor.checked_sub(1).map(|minor| (major, minor)) == Some(before.minor())
            })
    }

    /// Whether it begins or ends in the minor version of a release, so that its source speaks of that.
    pub(super) fn concerns(&self, release: &Release) -> bool {
        let bounds = self.from.iter().chain(&self.before);
        bounds.into_iter().any(|bound| bound.minor() == release.minor())
    }

    /// The first version with the fix, if a range ends.
    pub(super) fn fixed(&self) -> Option<&Release> {
        self.before.as_ref()
    }

    /// `>= 1.30.0-0, < 1.30.10`, or one of the two.
    fn parse(text: &str) -> Option<Self> {
        let mut range = Self {
            from: None,
            before: None,
        };
        for bound in text.split(',').map(str::trim) {
            if let Some(from) = bound.strip_prefix(">=") {
                range.from = Some(Release::parse(from.trim())?);
            } else {
                range.before = Some(Release::parse(bound.strip_prefix('<')?.trim())?);
            }
        }
        Some(range)
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            major,
            minor,
            patch,
            stage,
        } = self;
        write!(f, "{major}.{minor}.{patch}")?;
        let (name, numbers) = match stage {
            Stage::Released => return Ok(()),
            Stage::Lowest => return f.write_str("-0"),
            Stage::Alpha(numbers) => ("alpha", numbers),
            Stage::Beta(numbers) => ("beta", numbers),
            Stage::Candidate(numbers) => ("rc", numbers),
        };
        write!(f, "-{name}")?;
        numbers.iter().try_for_each(|number| write!(f, ".{number}"))
    }
}

impl<'de> Deserialize<'de> for VersionRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not a range such as \">= 1.30.0-0, < 1.30.10\""
            ))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn kubernetes(text: &str) -> Version {
        Version::of_kubernetes(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn go(text: &str) -> Version {
        Version::of_go(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// (Not seen red.)
    #[test]
    fn versions_are_in_the_order_of_their_releases() {
        let ascending = [
            "v1.9.11",
            "v1.10.0",
            "1.30.0-alpha.1",
            "v1.30.0-alpha.1.234+0123456789abcd",
            "v1.30.0-alpha.2",
            "v1.30.0-beta.0",
            "v1.30.0-rc1+k3s1",
            "v1.30.0-rc.2",
            "v1.30.0",
            "v1.30.1-eks-1a2b3c4",
            "v1.30.9-gke.1589017",
            "Kubernetes v1.30.10",
            "v2.0.0",
        ];
        for pair in ascending.windows(2) {
            assert!(
                kubernetes(pair[0]).release < kubernetes(pair[1]).release,
                "{pair:?}"
            );
        }
        for same in [
            "v1.30.1",
            "1.30.1",
            "v1.30.1+k3s1",
            "v1.30.1+rke2r2",
            "v1.30.1-gke.1",
            "v1.30.1-eks-036c24b",
            "v1.30.1+IKS",
            "v1.30.1-dirty",
            "v1.30.1-00",
        ] {
            assert_eq!(kubernetes(same).release, kubernetes("v1.30.1").release, "{same}");
        }
        let lowest = Release::parse("1.30.0-0").unwrap();
        assert!(lowest < kubernetes("v1.30.0-alpha.0").release && lowest > kubernetes("v1.29.99").release);
        let ascending = [
            "go1.9",
            "go1.20",
            "go1.20.1",
            "go1.21beta1",
            "go1.21rc2",
            "go1.21.0",
            "go1.21.13",
        ];
        for pair in ascending.windows(2) {
            assert!(go(pair[0]).release < go(pair[1]).release, "{pair:?}");
        }
        for same in [
            "go1.20.10b7",
            "go1.20.10 X:boringcrypto",
            "go1.20.10 (Red Hat 1.20.10-1.el9_3)",
        ] {
            assert_eq!(go(same).release, go("go1.20.10").release, "{same}");
        }
    }

    #[test]
    fn what_is_no_version_is_not_known() {
        for text in [
            "",
            "v",
            "v1",
            "v1.",
            "v1.x.3",
            "1.2.3.4",
            "v1.2x",
            "v0.0.0-master+$Format:%H$",
            "v99999999999999999999.1.0",
            "v1.30.1\n",
        ] {
            assert_eq!(Version::of_kubernetes(text), None, "{text:?}");
        }
        for text in [
            "devel +0123456789",
            "devel go1.23-0123456789",
            "1.20",
            "go",
            "gopher",
        ] {
            assert_eq!(Version::of_go(text), None, "{text:?}");
        }
        let long = format!("v1.30.1-{}", "a".repeat(LONGEST));
        assert_eq!(Version::of_kubernetes(&long), None);
    }

    #[test]
    fn a_build_of_a_distribution_may_have_more_fixes_than_its_number_says() {
        for (text, may) in [
            ("v1.30.1", false),
            ("v1.30.1+k3s1", false),
            ("v1.30.1-rc.1+rke2r1", false),
            ("v1.30.1-gke.1589017", true),
            ("v1.30.1-eks-036c24b", true),
            ("v1.30.1+0123456", true),
        ] {
            assert_eq!(kubernetes(text).may_have_backports(), may, "{text}");
        }
        for (text, may) in [
            ("go1.20.10", false),
            ("go1.20.10b7", false),
            ("go1.20.10 X:boringcrypto", false),
            ("go1.20.10 (Red Hat 1.20.10-1.el9_3)", true),
            ("go1.20.10-1-fips", true),
        ] {
            assert_eq!(go(text).may_have_backports(), may, "{text}");
        }
    }

    /// (Not seen red.)
    #[test]
    fn a_range_holds_its_first_version_and_not_its_last() {
        let range = VersionRange::parse(">= 1.30.0-0, < 1.30.10").unwrap();
        for (text, contained) in [
            ("v1.29.99", false),
            ("v1.30.0-alpha.0", true),
            ("v1.30.0", true),
            ("v1.30.9", true),
            ("v1.30.9+k3s1", true),
            ("v1.30.10-rc.1", true),
            ("v1.30.10", false),
            ("v1.31.0-beta.0", false),
        ] {
            assert_eq!(range.contains(&kubernetes(text).release), contained, "{text}");
        }
        for (text, open) in [
            ("v1.31.0-beta.0", true),
            ("v1.31.0", false),
            ("v1.31.1-rc.1", false),
            ("v1.32.0-alpha.1", false),
            ("v1.30.0-rc.1", false),
        ] {
            assert_eq!(range.leaves_open(&kubernetes(text).release), open, "{text}");
        }
        let until = VersionRange::parse("< 1.12.10").unwrap();
        assert!(
            until.contains(&kubernetes("v1.2.0").release) && !until.contains(&kubernetes("v1.12.10").release)
        );
        let ever = VersionRange::parse(">= 1.0.0-0").unwrap();
        assert!(ever.contains(&kubernetes("v9.9.9").release) && ever.fixed().is_none());
        for wrong in [
            "",
            "1.2.3",
            "> 1.2.3",
            "<= 1.2.3",
            "< 1.2.3+k3s1",
            "< v1.2.3",
            ">= 1.2",
        ] {
            let parsed = VersionRange::parse(wrong);
            assert!(parsed.is_none() || wrong == ">= 1.2", "{wrong:?}: {parsed:?}");
        }
    }
}
