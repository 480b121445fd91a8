//! A table that fits its terminal.

use anstyle::Style;
use unicode_width::UnicodeWidthStr as _;

use super::wrap::wrap;
use crate::adopt::kubelet::plain;

/// Between two columns.
const GAP: usize = 2;
/// A column narrower than this is hard to read: unless its text is shorter, it goes below its row.
const COMFORTABLE: usize = 12;
/// How far a text below its row is indented, unless the table says otherwise.
const INDENT: usize = 4;

/// Rows under headings. Where a terminal is too narrow for all columns, texts are wrapped between words;
/// where that is not enough, the last columns go below their rows, each with its heading.
pub(super) struct Table<const N: usize> {
    headings: [&'static str; N],
    /// The column that texts below a row are aligned with.
    aligned_with: Option<usize>,
    rows: Vec<Row<N>>,
}

/// One row.
pub(super) struct Row<const N: usize> {
    cells: [Cell; N],
    below: Vec<String>,
}

/// One text in a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(headings: [&'static str; N]) -> Self {
        Self {
            headings,
            aligned_with: None,
            rows: Vec::new(),
        }
    }

    /// Aligns the texts below the rows with this column.
    pub(super) fn aligned_with(mut self, column: usize) -> Self {
        self.aligned_with = Some(column);
        self
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [Cell; N]) -> &mut Row<N> {
        let place = self.rows.len();
        self.rows.push(Row {
            cells,
            below: Vec::new(),
        });
        &mut self.rows[place]
    }

    /// The lines of the table, with escape sequences for its styles.
    pub(super) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let widths = self.widths(width);
        let indent = match self.aligned_with.filter(|column| *column < widths.len()) {
            Some(column) => widths[..column].iter().map(|width| width + GAP).sum(),
            None => INDENT,
        };
        let headings = self
            .headings
            .map(|heading| Cell::styled(heading, Style::new().bold()));
        let mut lines = Vec::new();
        if self.headings.iter().any(|heading| !heading.is_empty()) {
            side_by_side(&mut lines, &headings, &widths);
        }
        for row in &self.rows {
            side_by_side(&mut lines, &row.cells, &widths);
            for (heading, cell) in self.headings.iter().zip(&row.cells).skip(widths.len()) {
                let heading = heading.to_lowercase();
                let text = match (heading.as_str(), cell.text.as_str()) {
                    (_, "") => continue,
                    ("", text) => text.to_owned(),
                    (heading, text) => format!("{heading}: {text}"),
                };
                below(&mut lines, indent, &text, width);
            }
            for text in &row.below {
                below(&mut lines, indent, text, width);
            }
        }
        lines
    }

    /// The widths of the columns that stand side by side.
    fn widths(&self, width: Option<usize>) -> Vec<usize> {
        let texts = |column: usize| {
            let cells = self.rows.iter().map(move |row| row.cells[column].text.as_str());
            std::iter::once(self.headings[column]).chain(cells)
        };
        let longest = |column| texts(column).map(|text| text.width()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..N).map(longest).collect();
        let Some(width) = width else {
            return widths;
        };
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let word = |column| {
            texts(column)
                .flat_map(|text| text.split(' ').map(|word| word.width()))
                .max()
        };
        let least: Vec<usize> = (0..N)
            .map(|column| word(column).unwrap_or(0).max(COMFORTABLE).min(widths[column]))
            .collect();
        let fitting = (1..=N).rev().find(|count| total(&least[..*count]) <= width);
        widths.truncate(fitting.unwrap_or(1));
        while total(&widths) > width {
            let widest = (0..widths.len())
                .filter(|column| widths[*column] > least[*column])
                .max_by_key(|column| widths[*column]);
            // One word longer than a line is left to the terminal.
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
    }
}

impl<const N: usize> Row<N> {
    /// Adds a text below the row.
    pub(super) fn below(&mut self, text: &str) -> &mut Self {
        self.below.push(plain(text));
        self
    }
}

impl Cell {
    pub(super) fn styled(text: &str, style: Style) -> Self {
        Self {
            text: plain(text),
            style,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::styled(text, Style::new())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

/// The cells of one row, wrapped in their columns.
fn side_by_side(lines: &mut Vec<String>, cells: &[Cell], widths: &[usize]) {
    let wrapped = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| wrap(&cell.text, Some(*width)));
    let wrapped: Vec<Vec<String>> = wrapped.collect();
    for place in 0..wrapped.iter().map(Vec::len).max().unwrap_or(0) {
        let mut line = String::new();
        // Blanks are written only before a text.
        let mut blanks = 0;
        for ((pieces, cell), width) in wrapped.iter().zip(cells).zip(widths) {
            let piece = pieces.get(place).map_or("", String::as_str);
            if !piece.is_empty() {
                let style = cell.style;
                line.push_str(&format!("{:blanks$}{style}{piece}{style:#}", ""));
                blanks = 0;
            }
            blanks += width.saturating_sub(piece.width()) + GAP;
        }
        lines.push(line);
    }
}

/// A text below a row. A word that is too long for its place moves the text to the left.
fn below(lines: &mut Vec<String>, indent: usize, text: &str, width: Option<usize>) {
    let longest = text.split(' ').map(|word| word.width()).max().unwrap_or(0);
    let indent = width.map_or(indent, |width| indent.min(width.saturating_sub(longest)));
    let pieces = wrap(text, width.map(|width| width - indent));
    lines.extend(pieces.into_iter().map(|piece| format!("{:indent$}{piece}", "")));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(rows: &[[&str; 3]]) -> Table<3> {
        let mut table = Table::new(["COUNT", "ADDRESS", "USER AGENT"]);
        for row in rows {
            table.row(row.map(Cell::from));
        }
        table
    }

    fn bare(lines: Vec<String>) -> Vec<String> {
        let strip = |line: String| anstream::adapter::strip_str(&line).to_string();
        lines.into_iter().map(strip).collect()
    }

    const ROWS: [[&str; 3]; 2] = [
        [
            "1",
            "192.0.2.10",
            "a browser that has rather a lot to say about itself",
        ],
        ["20", "192.0.2.200", "curl"],
    ];

    #[test]
    fn a_row_is_one_line_where_there_is_room_or_no_terminal() {
        let expected = [
            "COUNT  ADDRESS      USER AGENT",
            "1      192.0.2.10   a browser that has rather a lot to say about itself",
            "20     192.0.2.200  curl",
        ];
        for width in [None, Some(71), Some(200)] {
            assert_eq!(bare(table(&ROWS).lines(width)), expected, "{width:?}");
        }
    }

    #[test]
    fn texts_are_wrapped_in_their_columns() {
        let lines = bare(table(&ROWS).lines(Some(50)));
        let expected = [
            "COUNT  ADDRESS      USER AGENT",
            "1      192.0.2.10   a browser that has rather a",
            "                    lot to say about itself",
            "20     192.0.2.200  curl",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_last_columns_go_below_where_there_is_no_room_beside() {
        let mut table = table(&ROWS).aligned_with(1);
        table.rows[1].below("and a remark");
        let expected = [
            "COUNT  ADDRESS",
            "1      192.0.2.10",
            "       user agent: a browser",
            "       that has rather a lot",
            "       to say about itself",
            "20     192.0.2.200",
            "       user agent: curl",
            "       and a remark",
        ];
        assert_eq!(bare(table.lines(Some(30))), expected);
    }

    #[test]
    fn a_long_word_below_its_row_moves_to_the_left() {
        let mut table = table(&[["1", "192.0.2.10", ""]]).aligned_with(1);
        table.rows[0].below("the file /a/path/that/is/really/rather/long");
        let lines = bare(table.lines(Some(40)));
        assert_eq!(
            lines[2..],
            ["      the file", "      /a/path/that/is/really/rather/long"],
            "{lines:#?}"
        );
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_the_terminal_unless_a_word_is(
            rows in prop::collection::vec(prop::array::uniform3("([a-z]{1,12} ){0,9}"), 0..5),
            width in 40_usize..130,
        ) {
            let rows: Vec<[&str; 3]> =
                rows.iter().map(|row| row.each_ref().map(|cell| cell.trim())).collect();
            let lines = bare(table(&rows).lines(Some(width)));
            prop_assert!(lines.iter().all(|line| line.width() <= width), "{lines:#?}");
            prop_assert!(lines.iter().all(|line| !line.ends_with(' ')), "{lines:#?}");
            let words = |text: String| {
                let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                words.sort_unstable();
                words
            };
            let shown = words(lines.join(" "));
            for word in words(rows.concat().join(" ")) {
                prop_assert!(shown.contains(&word), "{word}: {lines:#?}");
            }
        }
    }
}
