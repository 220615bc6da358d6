//! Keys and tokens, which no log and no error shows.

use std::fmt;

/// Bytes below which a key could be guessed.
const GUESSABLE_BYTES: usize = 16;

/// Bytes that refuse to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub(super) fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Advice for the operator if the key is so short that it could be guessed.
pub(crate) fn weakness(key: &Secret) -> Option<String> {
    let bytes = key.0.len();
    (bytes < GUESSABLE_BYTES).then(|| {
        format!("{bytes} bytes: take {GUESSABLE_BYTES} or more, such as openssl rand -hex 32 gives")
    })
}
