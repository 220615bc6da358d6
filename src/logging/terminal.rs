//! Text from clients, shown on a terminal without controlling it.

use std::fmt::Write as _;

/// Lines of JSON or CSV as a terminal can show them: a character that a terminal would obey is
/// written as `\u001b`, which means the same in JSON. Ends of lines and tabs stay.
pub(crate) fn escaped(lines: Vec<u8>) -> Vec<u8> {
    // Nearly every line of the log is of this kind, which is quickly tested.
    if lines.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
        return lines;
    }
    let text = String::from_utf8_lossy(&lines);
    let mut shown = String::with_capacity(lines.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_end = c == '\n' || (c == '\r' && chars.peek() == Some(&'\n'));
        if is_obeyed(c) && !is_end {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown.into_bytes()
}

/// Control characters, line separators, and changes of the text's direction (Unicode's
/// Bidi_Control).
fn is_obeyed(c: char) -> bool {
    let is_separator_or_direction = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (c.is_control() && c != '\t') || is_separator_or_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let text = "tab\u{2028}\u{85}\u{9b}31m\u{7f}\u{202e} École 🙂";
        let line = escaped(serde_json::to_vec(text).unwrap());
        let shown = String::from_utf8(line.clone()).unwrap();
        assert_eq!(shown, "\"tab\\u2028\\u0085\\u009b31m\\u007f\\u202e École 🙂\"");
        assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
        let csv = "a,\"\u{1b}[2J\rb\tc\nd\u{200f}\"\r\n".as_bytes();
        let shown = String::from_utf8(escaped(csv.to_vec())).unwrap();
        assert_eq!(shown, "a,\"\\u001b[2J\\u000db\tc\nd\\u200f\"\r\n");
    }
}
