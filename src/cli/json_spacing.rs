//! Changes the white space between the tokens of a JSON text.

/// The same tokens, with `space` after each comma and colon and no other white space. The input
/// need not be valid JSON.
pub(super) fn respaced(text: &[u8], space: &str) -> Vec<u8> {
    let mut respaced = Vec::with_capacity(text.len());
    let (mut is_string, mut is_escaped) = (false, false);
    for byte in text {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        if is_string || !is_space {
            respaced.push(*byte);
        }
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            b',' | b':' if !is_string => respaced.extend_from_slice(space.as_bytes()),
            _ => {}
        }
    }
    respaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stay_as_they_are() {
        let text = br#"{ "a" : "b, \" : c" ,"d":[1 , 2.50]}"#;
        assert_eq!(respaced(text, ""), br#"{"a":"b, \" : c","d":[1,2.50]}"#);
        assert_eq!(respaced(text, " "), br#"{"a": "b, \" : c", "d": [1, 2.50]}"#);
    }
}
