//! A setting that is one of a few words, such as `Request` or `Require`.

/// An enum whose values are written as words. The table is the only place where these words stand: what is
/// read, printed, and listed in an error comes from it.
pub(crate) trait Named: Copy + PartialEq + 'static {
    /// Every value with its word, in the order in which a message lists them.
    const NAMES: &'static [(&'static str, Self)];

    /// The word for this value.
    #[must_use]
    fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, value)| *value == self);
        named.map_or("", |(name, _)| name)
    }

    /// The value that this word stands for.
    #[must_use]
    fn from_name(name: &str) -> Option<Self> {
        let named = Self::NAMES.iter().find(|(known, _)| *known == name);
        named.map(|(_, value)| *value)
    }
}
