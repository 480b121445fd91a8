//! Packet marks.

use serde::{Deserialize, Serialize};

/// A value in some of the bits of the packet mark.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mark {
    /// The bits, all within `mask`, at least one of them set.
    pub value: u32,
    /// The bits that are the gate's.
    pub mask: u32,
}

// === impl Mark ===

impl Mark {
    /// A new value, never 0: that is what unmarked packets have.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn random(mask: u32) -> Result<Self, aws_lc_rs::error::Unspecified> {
        loop {
            let mut bytes = [0; 4];
            aws_lc_rs::rand::fill(&mut bytes)?;
            let value = u32::from_ne_bytes(bytes) & mask;
            if value != 0 {
                return Ok(Self { value, mask });
            }
        }
    }
}

/// The value is a secret of the gate.
impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mark(secret in {:#010x})", self.mask)
    }
}
