//! Texts as PostgreSQL can store them: its `text` has no U+0000, and a message's may.
//!
//! U+0000 to U+0003 are stored as three characters each: U+0001, and twice U+0002 or U+0003. Every
//! other character is stored as itself. No code is part of two others, and U+0001 begins a code and
//! is nowhere else, so order, equality and being a substring are the same before and after: SQL
//! stays exact. Practically no text is changed by it.

use std::borrow::Cow;

pub(super) fn encode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte < 4) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => encoded.push_str("\x01\x02\x02"),
            '\x01' => encoded.push_str("\x01\x02\x03"),
            '\x02' => encoded.push_str("\x01\x03\x02"),
            '\x03' => encoded.push_str("\x01\x03\x03"),
            _ => encoded.push(character),
        }
    }
    Cow::Owned(encoded)
}

pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('\x01') {
        return Cow::Borrowed(text);
    }
    let (mut decoded, mut characters) = (String::with_capacity(text.len()), text.chars());
    while let Some(character) = characters.next() {
        decoded.push(match character {
            '\x01' => match (characters.next(), characters.next()) {
                (Some('\x02'), Some('\x02')) => '\0',
                (Some('\x02'), _) => '\x01',
                (_, Some('\x02')) => '\x02',
                _ => '\x03',
            },
            _ => character,
        });
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_equality_and_substrings_stay_the_same() {
        // Every text of up to three of these, and every pair of them.
        let alphabet = ['\0', '\x01', '\x02', '\x03', '\x04', 'a', 'é'];
        let mut texts = vec![String::new()];
        let mut begin = 0;
        for _ in 0..3 {
            let end = texts.len();
            for at in begin..end {
                for character in alphabet {
                    texts.push(format!("{}{character}", texts[at]));
                }
            }
            begin = end;
        }
        let encoded: Vec<_> = texts.iter().map(|text| encode(text)).collect();
        for (text, code) in texts.iter().zip(&encoded) {
            assert_eq!(decode(code), *text);
            assert!(!code.contains('\0'));
        }
        for (a, code_a) in texts.iter().zip(&encoded) {
            for (b, code_b) in texts.iter().zip(&encoded) {
                assert_eq!(a.cmp(b), code_a.cmp(code_b), "{a:?} {b:?}");
                assert_eq!(a.contains(b.as_str()), code_a.contains(&**code_b), "{a:?} {b:?}");
            }
        }
    }
}
