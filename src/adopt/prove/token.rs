//! The token with which commands are tried.

use std::fmt;
use std::io;
use std::path::Path;

use crate::files::{self, TOKEN};

/// A bearer token with read-only rights.
#[derive(Clone)]
pub struct ProbeToken(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum ProbeTokenError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is empty, or has white space or control characters inside.
    #[error("not a single token: a token is one word without white space")]
    NotOneWord,
}

impl ProbeToken {
    /// Reads the token in a file; white space around it is dropped.
    ///
    /// # Errors
    /// The file cannot be read, or holds no single token.
    pub fn read(path: &Path) -> Result<Self, ProbeTokenError> {
        Self::new(&String::from_utf8_lossy(&files::read(path, TOKEN)?))
    }

    /// The token that is in `text`.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn new(text: &str) -> Result<Self, ProbeTokenError> {
        let token = text.trim();
        if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ProbeTokenError::NotOneWord);
        }
        Ok(Self(token.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The token is a secret.
impl fmt::Debug for ProbeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeToken(secret)")
    }
}
