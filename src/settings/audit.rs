//! `audit`: where the events go, and how.

use std::path::PathBuf;

use super::document::quoted;
use super::file;
use super::reading::{Reading, plain};
use super::writing;
use crate::named::Named;

/// The kubelet serves this folder to every user who may `get nodes/log`.
const SERVED_BY_KUBELET: &str = "/var/log";
/// A megabyte as an API server counts it.
const MEGABYTE: u64 = 1024 * 1024;

/// `audit`.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// `audit.path`.
    pub sink: AuditSink,
    /// `audit.mode`.
    pub mode: AuditMode,
    /// `audit.commands`: what becomes of `command=`/`cmd=` values in an event's requestURI.
    pub commands: AuditCommands,
    /// `audit.strangers`.
    pub strangers: AuditStrangers,
    /// `audit.maxSizeMB` and `audit.maxBackups`; `None` if the gate does not rotate the file.
    pub rotation: Option<AuditRotation>,
}

/// When the file is rotated, and how much is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AuditRotation {
    /// Most bytes of one file.
    pub bytes: u64,
    /// Most rotated files that are kept; `None` if all are.
    pub backups: Option<usize>,
}

/// Where audit events go.
#[derive(Clone, Debug, PartialEq)]
pub enum AuditSink {
    /// `""`: nowhere.
    Off,
    /// `"-"`: standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// `audit.mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditMode {
    /// Events are written behind the answer; when the queue is full they are dropped and counted.
    Batch,
    /// The event is written before the answer's head is released; when the queue is full the request waits.
    Blocking,
}

/// `audit.commands`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditCommands {
    /// Replaced by a short keyed hash, so that equal commands can be recognised.
    Hash,
    /// Left out.
    Omit,
    /// Written as they are.
    Show,
}

/// `audit.strangers`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditStrangers {
    /// Every event is written, whatever causes it.
    Full,
    /// What a source or a user causes beyond a rate is written as a summary.
    Summarised,
}

impl Named for AuditMode {
    const NAMES: &'static [(&'static str, Self)] = &[("batch", Self::Batch), ("blocking", Self::Blocking)];
}

impl Named for AuditCommands {
    const NAMES: &'static [(&'static str, Self)] =
        &[("hash", Self::Hash), ("omit", Self::Omit), ("show", Self::Show)];
}

impl Named for AuditStrangers {
    const NAMES: &'static [(&'static str, Self)] = &[("full", Self::Full), ("summarised", Self::Summarised)];
}

// === impl Audit ===

impl Audit {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::Audit) -> Self {
        let key = "audit.path";
        let sink = match file.path.as_str() {
            "" => {
                reading.warn(key, "nothing is written about any request");
                AuditSink::Off
            }
            "-" => AuditSink::Stdout,
            text => AuditSink::File(reading.path(key, text).unwrap_or_default()),
        };
        if let AuditSink::File(path) = &sink
            && plain(path).starts_with(SERVED_BY_KUBELET)
        {
            reading.refuse(
                key,
                format!(
                    "{} is under {SERVED_BY_KUBELET}, which the kubelet serves to every user who may get \
                     nodes/log; write a path elsewhere, such as /var/lib/kubelet-gate/audit/audit.log",
                    quoted(&file.path)
                ),
            );
        }
        Self {
            sink,
            mode: reading.choice("audit.mode", &file.mode),
            commands: reading.choice("audit.commands", &file.commands),
            strangers: reading.choice("audit.strangers", &file.strangers),
            rotation: Self::rotation(reading, file),
        }
    }

    fn rotation(reading: &mut Reading<'_>, file: &file::Audit) -> Option<AuditRotation> {
        let size: u64 = reading.count("audit.maxSizeMB", file.max_size_mb, 0..=1_000_000);
        let backups: usize = reading.count("audit.maxBackups", file.max_backups, 0..=10_000);
        if size > 0 && backups == 0 {
            reading.warn(
                "audit.maxBackups",
                "0 keeps every rotated file, as in an API server: nothing bounds the disk",
            );
        }
        (size > 0).then(|| AuditRotation {
            bytes: size * MEGABYTE,
            backups: (backups > 0).then_some(backups),
        })
    }

    pub(super) fn write(&self) -> file::Audit {
        file::Audit {
            path: match &self.sink {
                AuditSink::Off => String::new(),
                AuditSink::Stdout => "-".to_owned(),
                AuditSink::File(file) => writing::path(file),
            },
            mode: self.mode.name().to_owned(),
            commands: self.commands.name().to_owned(),
            strangers: self.strangers.name().to_owned(),
            max_size_mb: self.rotation.map_or(0, |rotation| rotation.bytes / MEGABYTE),
            max_backups: match self.rotation {
                Some(rotation) => rotation.backups.unwrap_or(0) as u64,
                None => file::Audit::default().max_backups,
            },
        }
    }
}
