//! What a provider sent of a message, as it is kept beside it: JSON, compressed and bounded.
//!
//! One message alone has little that repeats, so it is compressed with a dictionary of what the
//! providers' bodies have in common. LZ4 takes a microsecond for it, in the thread that has the
//! request; DEFLATE took 40 and more, and without a dictionary saved less.

use lz4_flex::block::{
    compress_into_with_dict, decompress_into_with_dict, get_maximum_output_size,
};
use serde_json::value::RawValue;

/// Bytes of an original, as JSON, beyond which only its length is kept.
pub(crate) const ORIGINAL_BYTES_MAX: usize = 65_536;

/// Stored originals need exactly these bytes: a better dictionary gets a number of its own.
const DICTIONARY: &[u8] = include_bytes!("original_dictionary.txt");

/// What is stored begins with a byte that says what it is, and the length of the JSON in four
/// bytes, little-endian.
const HEAD_BYTES: usize = 5;
const TOO_LARGE: u8 = 0;
/// The JSON follows the length, as an LZ4 block with [`DICTIONARY`].
const COMPRESSED: u8 = 1;

/// The bytes that are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Original(Vec<u8>);

/// What is read from a stored original.
#[derive(Debug)]
pub(crate) enum Content {
    Json(Box<RawValue>),
    /// It had this many bytes, and was not kept.
    TooLarge(u32),
    /// Another program has changed it.
    Damaged,
}

impl Original {
    pub(crate) fn of(json: &str) -> Original {
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        if json.len() > ORIGINAL_BYTES_MAX {
            return Original::too_large(length);
        }
        let mut stored = vec![0; HEAD_BYTES + get_maximum_output_size(json.len())];
        let (head, block) = stored.split_at_mut(HEAD_BYTES);
        head[0] = COMPRESSED;
        head[1..].copy_from_slice(&length.to_le_bytes());
        // It fails only where the output is too small.
        let Ok(written) = compress_into_with_dict(json.as_bytes(), block, DICTIONARY) else {
            return Original::too_large(length);
        };
        stored.truncate(HEAD_BYTES + written);
        Original(stored)
    }

    /// One that had this many bytes, and was not kept.
    pub(crate) fn too_large(length: u32) -> Original {
        Original([&[TOO_LARGE][..], &length.to_le_bytes()].concat())
    }

    /// What [`Original::stored`] gave.
    pub(crate) fn from_stored(bytes: Vec<u8>) -> Original {
        Original(bytes)
    }

    pub(crate) fn stored(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn content(&self) -> Content {
        self.read().unwrap_or(Content::Damaged)
    }

    fn read(&self) -> Option<Content> {
        let (kind, rest) = self.0.split_first()?;
        let (length, block) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        match *kind {
            TOO_LARGE => Some(Content::TooLarge(length)),
            COMPRESSED => {
                let length = usize::try_from(length).ok()?;
                // A damaged length must not take memory.
                let length = Some(length).filter(|length| *length <= ORIGINAL_BYTES_MAX)?;
                let mut json = vec![0; length];
                let written = decompress_into_with_dict(block, &mut json, DICTIONARY).ok()?;
                json.truncate(written);
                let json = RawValue::from_string(String::from_utf8(json).ok()?).ok()?;
                Some(Content::Json(json))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn json(original: &Original) -> String {
        match original.content() {
            Content::Json(json) => json.get().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_original_is_read_as_it_was_byte_for_byte() {
        let long = format!("\"{}\"", "é ".repeat(20_000));
        for text in ["{}", "\"\\u00e9\"", "{\"b\":1.50e3,\"a\":[1, 2],\"b\":null}", &long] {
            let original = Original::of(text);
            assert_eq!(json(&Original::from_stored(original.stored().to_vec())), text);
        }
    }

    #[test]
    fn a_body_that_is_too_large_is_known_by_its_length() {
        let largest = format!("\"{}\"", "x".repeat(ORIGINAL_BYTES_MAX - 2));
        assert_eq!(json(&Original::of(&largest)), largest);
        let larger = Original::of(&format!("{largest} "));
        assert!(matches!(larger.content(), Content::TooLarge(65_537)), "{larger:?}");
    }

    #[test]
    fn damaged_bytes_are_neither_json_nor_a_panic() {
        let sound = Original::of("{\"type\":\"text\",\"text\":{\"body\":\"Hello\"}}");
        let mut damaged = vec![vec![], vec![9], vec![1, 1, 0, 0, 0], vec![1, 255, 255, 255, 255]];
        for at in 0..sound.stored().len() {
            damaged.push(sound.stored()[..at].to_vec());
        }
        for bytes in damaged {
            let content = Original::from_stored(bytes.clone()).content();
            assert!(matches!(content, Content::Damaged), "{bytes:?}: {content:?}");
        }
    }

    #[test]
    fn a_message_takes_half_of_its_bytes_and_the_dictionary_stays_as_it_is() {
        let text = r#"{"from":"16505551234","from_user_id":"US.13491208655302741918","id":"wamid.HBgLMTY1MDU1NTEyMzQVAgASGBQzRTdBODg5QjhCMDU2RUQ3OUU5AA==","timestamp":"1749416383","type":"text","text":{"body":"Does it come in another color?"}}"#;
        let stored = Original::of(text).stored().len();
        assert!(stored * 3 < text.len() * 2, "{stored} of {}", text.len());
        let hash = hex::encode(Sha256::digest(DICTIONARY));
        assert_eq!(hash, "9008681b8dc2c540fd66772a18fe89eaad7007e373a5f9491435351d15161237");
    }
}
