//! Specifiers, such as `%H` for the host's name.

use super::lines::{LinePlace, Told};
use super::search::{instance_of, prefix_of};
use crate::adopt::kubelet::environment;
use crate::adopt::kubelet::root::Root;

/// What specifiers stand for, in one file.
#[derive(Clone, Copy)]
pub(super) struct Specifiers<'a> {
    pub(super) root: &'a Root,
    /// The unit's name; systemd's own configuration has none.
    pub(super) unit: Option<UnitName<'a>>,
}

/// By what a unit is known while a file of it is read.
#[derive(Clone, Copy)]
pub(super) struct UnitName<'a> {
    pub(super) name: &'a str,
    pub(super) fragment: &'a str,
    /// It has other names too, and its own file is read under the one by which it is asked for first.
    pub(super) is_one_of_several: bool,
}

/// What one specifier is.
enum Value {
    Text(String),
    /// systemd knows it, and this program does not.
    Unknown,
    /// systemd refuses it.
    Invalid,
}

impl Specifiers<'_> {
    /// A text with its specifiers replaced.
    ///
    /// # Errors
    /// systemd does not know one: its letter.
    pub(super) fn replaced(&self, text: &str, place: &LinePlace, told: &mut Told) -> Result<String, char> {
        let mut all = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            all.push_str(before);
            let mut chars = after.chars();
            match chars.next() {
                Some('%') => all.push('%'),
                Some(letter) if letter.is_ascii_alphanumeric() => match self.value(letter, place, told) {
                    Value::Text(text) => all.push_str(&text),
                    Value::Unknown => {
                        // The text around it may be a variable's value, and that a secret.
                        let why = format!("the value of the specifier \"%{letter}\" is not known here");
                        told.unknown(place, why);
                    }
                    Value::Invalid => return Err(letter),
                },
                other => {
                    all.push('%');
                    all.extend(other);
                }
            }
            rest = chars.as_str();
        }
        Ok(all + rest)
    }

    fn value(&self, letter: char, place: &LinePlace, told: &mut Told) -> Value {
        let known = match letter {
            'H' | 'l' => self.host(letter, place, told),
            'm' => self.first_line("/etc/machine-id"),
            'o' => self.release("ID"),
            'w' => self.release("VERSION_ID"),
            'W' => self.release("VARIANT_ID"),
            'B' => self.release("BUILD_ID"),
            'M' => self.release("IMAGE_ID"),
            'A' => self.release("IMAGE_VERSION"),
            'T' => Some("/tmp".to_owned()),
            'V' => Some("/var/tmp".to_owned()),
            'a' | 'b' | 'q' | 'v' => None,
            _ => {
                return self
                    .unit
                    .map_or(Value::Invalid, |unit| of_unit(unit, letter, place, told));
            }
        };
        known.map_or(Value::Unknown, Value::Text)
    }

    fn host(&self, letter: char, place: &LinePlace, told: &mut Told) -> Option<String> {
        let host = self.first_line("/etc/hostname").unwrap_or_default();
        if host.is_empty() {
            let told = &mut told.notes;
            told.push(format!(
                "{place}: \"%{letter}\" is the host's name, and there is no /etc/hostname"
            ));
        }
        let short = host.split('.').next().unwrap_or_default().to_owned();
        Some(if letter == 'l' { short } else { host })
    }

    /// The first line with anything on it but a comment.
    fn first_line(&self, path: &str) -> Option<String> {
        let text = self.root.read(path).ok()?;
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
        Some(line.to_owned())
    }

    /// A field of os-release; one that is not set is empty.
    fn release(&self, field: &str) -> Option<String> {
        let files = ["/etc/os-release", "/usr/lib/os-release"];
        let text = files.iter().find_map(|path| self.root.read(path).ok())?;
        let mut fields = environment::assignments(&text).into_iter().rev();
        Some(
            fields
                .find(|(name, _)| name == field)
                .map_or_else(String::new, |(_, value)| value),
        )
    }
}

fn of_unit(unit: UnitName<'_>, letter: char, place: &LinePlace, told: &mut Told) -> Value {
    let stem = unit.name.rsplit_once('.').map_or(unit.name, |(stem, _)| stem);
    let prefix = prefix_of(unit.name);
    let instance = instance_of(unit.name).unwrap_or_default();
    if unit.is_one_of_several && "nNpPjJfd".contains(letter) {
        let why =
            format!("the unit has several names, and \"%{letter}\" is the one it is asked for first by");
        told.unknown(place, why);
    }
    Value::Text(match letter {
        'n' => unit.name.to_owned(),
        'N' => stem.to_owned(),
        'p' => prefix.to_owned(),
        'j' => prefix.rsplit('-').next().unwrap_or_default().to_owned(),
        'i' => instance.to_owned(),
        'P' => return unescaped(prefix),
        'J' => return unescaped(prefix.rsplit('-').next().unwrap_or_default()),
        'I' => return unescaped(instance),
        'f' => {
            let of = if instance.is_empty() { prefix } else { instance };
            return match unescaped(of) {
                Value::Text(text) => Value::Text(format!("/{}", text.trim_start_matches('/'))),
                other => other,
            };
        }
        'd' => format!("/run/credentials/{}", unit.name),
        'y' => unit.fragment.to_owned(),
        'Y' => unit
            .fragment
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder)
            .to_owned(),
        't' => "/run".to_owned(),
        'S' => "/var/lib".to_owned(),
        'C' => "/var/cache".to_owned(),
        'L' => "/var/log".to_owned(),
        'E' => "/etc".to_owned(),
        'h' => "/root".to_owned(),
        'u' | 'g' => "root".to_owned(),
        'U' | 'G' => "0".to_owned(),
        // Control groups and shells are this machine's; `%D` came with version 256.
        'c' | 'r' | 'R' | 's' | 'D' => return Value::Unknown,
        _ => return Value::Invalid,
    })
}

/// A name as it was before it became a part of a unit's name: `-` for `/`, `\xHH` for any byte.
fn unescaped(name: &str) -> Value {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '-' => bytes.push(b'/'),
            '\\' => {
                let digits = rest.strip_prefix('x').and_then(|rest| rest.get(..2));
                let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    return Value::Invalid;
                };
                bytes.push(byte);
                rest = &rest[3..];
            }
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8(bytes).map_or(Value::Unknown, Value::Text)
}
