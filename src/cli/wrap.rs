//! The one place where lines are broken.

use unicode_width::UnicodeWidthStr as _;

/// Breaks a text between words into lines of at most `width` columns. No word is broken: one that is longer
/// has a line of its own. Without a width the text stays as it is.
pub(super) fn wrap(text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width.filter(|width| text.width() > *width) else {
        return vec![text.to_owned()];
    };
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if line.is_empty() {
            line.push_str(word);
        } else if line.width() + 1 + word.width() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(std::mem::replace(&mut line, word.to_owned()));
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn wrapping_keeps_every_word_whole_and_every_line_within_the_width(
            text in "[a-zé貓/ ]{0,120}",
            width in 1_usize..40,
        ) {
            let lines = wrap(&text, Some(width));
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&lines.join(" ")), words(&text));
            let fits = |line: &String| line.width() <= width || !line.contains(' ');
            prop_assert!(lines.iter().all(fits), "{lines:?}");
        }
    }

    #[test]
    fn without_a_width_a_text_stays_as_it_is() {
        let text = "one  two ".repeat(100);
        assert_eq!(wrap(&text, None), [text]);
        assert_eq!(wrap("one two three", Some(7)), ["one two", "three"]);
    }
}
