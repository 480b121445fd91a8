//! The known word that a misspelt one was probably meant to be.

/// The least similarity of a word that is suggested: about one letter in three may differ.
pub(super) const SIMILAR: f64 = 0.65;

/// What is compared of a word. No key and no suite is longer, and the cost grows with the square of the
/// length.
const LONGEST: usize = 64;

/// Of `known`, the word most like `written`, unless even that one is too different to have been meant.
pub(super) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|word| (similarity(written, word), word));
    let (score, word) = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (score >= SIMILAR).then_some(word)
}

/// From 0, nothing in common, to 1, the same apart from case and from `_` and `-`: `client_ca_file` is meant
/// to be `clientCAFile`.
pub(super) fn similarity(written: &str, known: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(&letters(written), &letters(known))
}

fn letters(word: &str) -> String {
    let letters = word.chars().filter(|c| !matches!(c, '_' | '-'));
    letters.take(LONGEST).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_been_meant_is_suggested() {
        let known = ["nodeName", "listen", "kubeconfig", "url", "clientCAFile"];
        for (written, meant) in [
            ("nodename", Some("nodeName")),
            ("lisetn", Some("listen")),
            ("ur", Some("url")),
            ("client-ca-file", Some("clientCAFile")),
            ("kubeConfigPath", Some("kubeconfig")),
            ("frobnicate", None),
            ("node", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), meant, "{written}");
        }
    }
}
