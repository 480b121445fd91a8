//! The table of the scenes, at most 120 columns wide. Its meaning does not depend on colours.

use super::{Meaning, Row};

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Style {
    /// With the colours of ANSI terminals.
    Colour,
    /// Text only.
    Plain,
}

const HEAD: [&str; 6] = ["", "caller", "request", "open kubelet", "through the gate", "why"];
/// With two spaces between them, 119 columns.
const WIDTHS: [usize; 6] = [2, 18, 22, 20, 20, 27];
const GAP: &str = "  ";
/// Marks an answer that is not as expected.
const CROSS: &str = "✗ ";

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const ALARM: &str = "1;97;41";

/// Draws the rows. The last line says how many are as expected.
#[must_use]
pub fn table(rows: &[Row], style: Style) -> String {
    let mut text = String::new();
    line(&mut text, style, &HEAD.map(|head| (head.to_owned(), Some(BOLD))));
    let mut last: Option<&Row> = None;
    for row in rows {
        let same_scene = last.is_some_and(|last| last.scene == row.scene);
        if !same_scene {
            let rule = "─".repeat(WIDTHS.iter().sum::<usize>() + GAP.len() * (WIDTHS.len() - 1));
            text += &paint(&rule, Some(DIM), style);
            text.push('\n');
        }
        let number = if same_scene {
            String::new()
        } else {
            format!("{:>2}", row.scene)
        };
        let same_caller = same_scene && last.is_some_and(|last| last.caller == row.caller);
        let caller = if same_caller { "" } else { row.caller };
        draw(&mut text, style, row, number, caller);
        last = Some(row);
    }
    let good = rows.iter().filter(|row| row.is_as_expected()).count();
    let colour = if good == rows.len() { "1;32" } else { ALARM };
    let summary = format!("{good} of {} as expected", rows.len());
    text.push('\n');
    text += &paint(&summary, Some(colour), style);
    text.push('\n');
    text
}

fn draw(text: &mut String, style: Style, row: &Row, number: String, caller: &str) {
    let answer = |outcome: &super::Outcome| match (&outcome.mismatch, outcome.meaning) {
        (Some(_), _) => (format!("{CROSS}{}", outcome.shown), Some(ALARM)),
        (None, Meaning::Exposed) => (outcome.shown.clone(), Some(RED)),
        (None, Meaning::Served | Meaning::Refused) => (outcome.shown.clone(), Some(GREEN)),
    };
    let cells = [
        (number, Some(BOLD)),
        (caller.to_owned(), None),
        (row.request.to_owned(), None),
        answer(&row.open),
        answer(&row.gate),
        (row.why.to_owned(), None),
    ];
    line(text, style, &cells);
    for (column, outcome) in [("open kubelet", &row.open), ("through the gate", &row.gate)] {
        let Some(mismatch) = &outcome.mismatch else {
            continue;
        };
        let width = WIDTHS.iter().sum::<usize>();
        for piece in wrap(&format!("{CROSS}{column}: {mismatch}"), width) {
            text.push_str("    ");
            text.push_str(&paint(&piece, Some(ALARM), style));
            text.push('\n');
        }
    }
}

/// One line of the table, which may take several lines of text.
fn line(text: &mut String, style: Style, cells: &[(String, Option<&str>); 6]) {
    let mut column = 0;
    let wrapped = cells.each_ref().map(|(cell, colour)| {
        let pieces = wrap(cell, WIDTHS[column]);
        column += 1;
        (pieces, colour)
    });
    let height = wrapped.iter().map(|(pieces, _)| pieces.len()).max().unwrap_or(0);
    for at in 0..height {
        // Blanks are written only before text, so that no line ends with blanks.
        let mut blanks = 0;
        for ((pieces, colour), width) in wrapped.iter().zip(WIDTHS) {
            let piece = pieces.get(at).map_or("", String::as_str);
            if !piece.is_empty() {
                text.push_str(&" ".repeat(blanks));
                text.push_str(&paint(piece, **colour, style));
                blanks = 0;
            }
            blanks += width - piece.chars().count() + GAP.len();
        }
        text.push('\n');
    }
}

fn paint(text: &str, colour: Option<&str>, style: Style) -> String {
    match (style, colour) {
        (Style::Colour, Some(colour)) => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
        _ => text.to_owned(),
    }
}

/// Breaks a text into lines of at most `width` characters: between words, after a slash in a long path, or,
/// where there is neither, anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut room = width;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut first = true;
        for piece in pieces(word, width) {
            let length = piece.chars().count();
            let blank = usize::from(first && room < width);
            if blank + length > room {
                lines.push(String::new());
                room = width;
            } else if blank == 1 {
                append(&mut lines, " ");
                room -= 1;
            }
            append(&mut lines, &piece);
            room -= length;
            first = false;
        }
    }
    lines
}

/// A word that fits stays whole; one that does not comes in pieces that each fit.
fn pieces(word: &str, width: usize) -> Vec<String> {
    if word.chars().count() <= width {
        return vec![word.to_owned()];
    }
    let after_slashes = word
        .split_inclusive('/')
        .map(|piece| piece.chars().collect::<Vec<_>>());
    after_slashes
        .flat_map(|piece| {
            let cut = piece.chunks(width).map(|chunk| chunk.iter().collect());
            cut.collect::<Vec<String>>()
        })
        .collect()
}

fn append(lines: &mut [String], text: &str) {
    if let Some(last) = lines.last_mut() {
        last.push_str(text);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::super::Outcome;
    use super::*;

    fn row(mismatch: Option<&str>) -> Row {
        let outcome = |shown: &str, meaning, mismatch: Option<&str>| Outcome {
            shown: shown.to_owned(),
            meaning,
            mismatch: mismatch.map(str::to_owned),
        };
        Row {
            scene: 7,
            caller: "a caller",
            request: "POST /run/default/web/nginx?cmd=id",
            open: outcome("200 uid=0(root)", Meaning::Exposed, None),
            gate: outcome("401 Unauthorized", Meaning::Refused, mismatch),
            why: "because",
        }
    }

    proptest! {
        #[test]
        fn wrapping_loses_nothing_and_keeps_to_the_width(text in "[a-z/é ]{0,80}", width in 1_usize..30) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            let bare = |text: &str| text.replace(' ', "");
            prop_assert_eq!(bare(&lines.concat()), bare(&text));
        }
    }

    #[test]
    fn words_stay_whole_and_long_paths_break_after_a_slash() {
        assert_eq!(
            wrap("POST /run/default/web/x", 12),
            ["POST /run/", "default/web/", "x"]
        );
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    }

    #[test]
    fn an_unexpected_answer_is_marked_and_explained_in_plain_text() {
        let text = table(&[row(Some("expected 401, got 200"))], Style::Plain);
        assert!(text.contains("✗ 401 Unauthorized"), "{text}");
        assert!(
            text.contains("✗ through the gate: expected 401, got 200"),
            "{text}"
        );
        assert!(text.ends_with("0 of 1 as expected\n"), "{text}");
    }

    #[test]
    fn colours_are_all_that_a_style_changes() {
        let rows = [row(None), row(Some("expected 401"))];
        let mut colour = table(&rows, Style::Colour);
        assert!(colour.contains("\u{1b}[31m200 uid=0(root)\u{1b}[0m"));
        assert!(colour.contains("\u{1b}[32m401 Unauthorized\u{1b}[0m"));
        while let Some(start) = colour.find('\u{1b}') {
            let end = start + colour[start..].find('m').unwrap();
            colour.replace_range(start..=end, "");
        }
        assert_eq!(colour, table(&rows, Style::Plain));
    }
}
