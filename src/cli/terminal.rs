//! Everything a command writes: width, colours, wrapping, JSON and errors, by the same rules for every
//! command.
//!
//! - On a terminal, text is wrapped between words at the terminal's width. Text for a pipe or a file is not
//!   wrapped: one message is one line there, and one row of a table too.
//! - Colours are for terminals only, and not with `NO_COLOR` (unless it is empty) or `TERM=dumb`. No
//!   meaning is in the colour alone.
//! - Control characters, which may come from the node's files or the network, are escaped.
//! - A reader that leaves (`kubelet-gate … | head`) does not stop a command halfway: it goes on, and says at
//!   its end that output was lost, if that is what it was asked for.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use anstream::stream::{AsLockedWrite, RawStream};
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use super::exit::{CliError, Exit};
use super::table::Table;
use super::wrap::wrap;
use crate::adopt::kubelet::plain;
use crate::error::chain;

/// A heading, or a word that stands out.
pub(super) const BOLD: Style = Style::new().bold();
/// Good news.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What may be meant so.
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// Bad news.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// For a terminal that does not know its width.
const USUAL_WIDTH: usize = 80;
/// On a narrower terminal lines are this long all the same, and the terminal breaks them.
const LEAST_WIDTH: usize = 40;

/// How far the other lines of a message are indented.
const INDENT: usize = 2;

/// Where a command writes.
pub(super) struct Terminal {
    /// Standard output: results.
    pub(super) out: Stream,
    /// Standard error: errors, warnings, notes and progress.
    pub(super) err: Stream,
    /// The command is about more than its output.
    reader_may_leave: bool,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self {
            out: Stream::new(io::stdout()),
            err: Stream::new(io::stderr()),
            reader_may_leave: false,
        }
    }

    /// Prints why a command ended early, and yields its exit code.
    pub(super) fn exit_with(&mut self, error: &CliError) -> Exit {
        for error in &error.errors {
            self.err.error(error.as_ref());
        }
        error.exit
    }

    /// A command that changes something, or shows something for long, has not failed if its reader leaves.
    pub(super) fn let_reader_leave(&mut self) {
        self.reader_may_leave = true;
    }

    /// Ends the output. A command whose output was lost has failed, whatever it did.
    pub(super) fn finish(mut self, exit: Exit) -> Exit {
        let flushed = self.out.sink.flush();
        self.out.keep(flushed);
        let Some(error) = self.out.lost.take() else {
            return exit;
        };
        if self.reader_may_leave && error.kind() == io::ErrorKind::BrokenPipe {
            return exit;
        }
        self.err
            .labelled(BAD, "error:", &format!("standard output: {error}"));
        Exit::Failed
    }
}

/// Standard output or standard error. Writing to it does not fail: the first error is kept for
/// [`Terminal::finish`].
pub(super) struct Stream {
    sink: Box<dyn Write + Send>,
    terminal: bool,
    /// The columns of the terminal.
    width: Option<usize>,
    lost: Option<io::Error>,
}

impl Stream {
    fn new(raw: impl RawStream + AsLockedWrite + AsFd + Send + 'static) -> Self {
        let terminal = raw.is_terminal();
        Self {
            terminal,
            width: terminal.then(|| width(&raw)),
            sink: Box::new(AutoStream::auto(raw)),
            lost: None,
        }
    }

    /// Whether a person reads along.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether [`Stream::overwrite`] can be used.
    pub(super) fn overwrites(&self) -> bool {
        self.terminal && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
    }

    /// What `write!` and `writeln!` call: the text as it is. For styled lines that are short, and for
    /// documents.
    pub(super) fn write_fmt(&mut self, text: fmt::Arguments<'_>) {
        // After an error a part of the text is missing: the rest would be taken for the whole.
        if self.lost.is_none() {
            let written = self.sink.write_fmt(text);
            self.keep(written);
        }
    }

    /// A paragraph.
    pub(super) fn text(&mut self, text: &str) {
        self.hanging("", text);
    }

    /// A paragraph whose first line begins with `before`, and whose other lines are indented as far.
    pub(super) fn hanging(&mut self, before: &str, text: &str) {
        let indent = before.width();
        let room = self.width.map(|width| width.saturating_sub(indent));
        for (place, line) in wrap(&plain(text), room).iter().enumerate() {
            match place {
                0 => writeln!(self, "{before}{line}"),
                _ => writeln!(self, "{:indent$}{line}", ""),
            }
        }
    }

    /// A command to paste, as a shell reads it: a line that goes on ends with a backslash.
    pub(super) fn command(&mut self, command: &str) {
        let room = self
            .width
            .map(|width| width.saturating_sub(2 * INDENT + " \\".len()));
        let lines = wrap(&plain(command), room);
        for (place, line) in lines.iter().enumerate() {
            let indent = if place == 0 { INDENT } else { 2 * INDENT };
            let more = if place + 1 == lines.len() { "" } else { " \\" };
            writeln!(self, "{:indent$}{line}{more}", "");
        }
    }

    /// A message that begins with what kind it is, such as `warning:`.
    pub(super) fn labelled(&mut self, style: Style, label: &str, text: &str) {
        let room = self.width.map(|width| width.saturating_sub(INDENT));
        for (place, line) in wrap(&plain(&format!("{label} {text}")), room).iter().enumerate() {
            match line.strip_prefix(label) {
                Some(rest) if place == 0 => writeln!(self, "{style}{label}{style:#}{rest}"),
                _ if place == 0 => writeln!(self, "{line}"),
                _ => writeln!(self, "{:INDENT$}{line}", ""),
            }
        }
    }

    /// An error with its causes. One of several lines, such as a packet filter's, stays so, indented.
    pub(super) fn error(&mut self, error: &dyn Error) {
        let text = chain(error);
        let mut lines = text.lines();
        self.labelled(BAD, "error:", lines.next().unwrap_or_default());
        for line in lines {
            self.hanging("  ", line);
        }
    }

    /// Something that is probably a mistake, and is no error.
    pub(super) fn warning(&mut self, text: &str) {
        self.labelled(DOUBTFUL, "warning:", text);
    }

    /// Something to know.
    pub(super) fn note(&mut self, text: &str) {
        self.labelled(BOLD, "note:", text);
    }

    /// A table.
    pub(super) fn table<const N: usize>(&mut self, table: &Table<N>) {
        for line in table.lines(self.width) {
            writeln!(self, "{line}");
        }
    }

    /// A short JSON document: indented for people, on one line for programs.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        self.document(value, self.terminal);
    }

    /// A long JSON document, such as a report that is kept: indented for programs too, to
    /// be compared line by line.
    pub(super) fn json_report(&mut self, value: &impl Serialize) {
        self.document(value, true);
    }

    fn document(&mut self, value: &impl Serialize, indented: bool) {
        let text = match indented {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        match text {
            Ok(text) => writeln!(self, "{text}"),
            Err(error) => self.keep(Err(error.into())),
        }
    }

    /// Writes over the line that the cursor is on, and leaves the cursor at its beginning: whatever is
    /// written next takes its place. Without escape sequences, since a terminal without colours would not get
    /// them.
    pub(super) fn overwrite(&mut self, text: &str) {
        // In its last column a terminal would begin another line.
        let room = self.width.unwrap_or(USUAL_WIDTH) - 1;
        let text: String = plain(text).chars().take(room).collect();
        write!(self, "\r{text:room$}\r");
    }

    fn keep(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.lost.get_or_insert(error);
        }
    }
}

/// Whether log lines on this stream may have colours.
pub(super) fn colours(raw: &impl RawStream) -> bool {
    AutoStream::choice(raw) != ColorChoice::Never
}

/// The columns of a terminal. `COLUMNS` says what the user wants, if it is set.
fn width(raw: &impl AsFd) -> usize {
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let own = || tcgetwinsize(raw).ok().map(|size| usize::from(size.ws_col));
    let width = named.filter(|width| *width > 0).or_else(own);
    width
        .filter(|width| *width > 0)
        .unwrap_or(USUAL_WIDTH)
        .max(LEAST_WIDTH)
}
