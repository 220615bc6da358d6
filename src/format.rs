//! The formats in which messages are exported, over HTTP and by the command line.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    message::{Message, TEXT_KIND},
    metrics::Source,
    store::{Received, parts},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON object per line, as `mailslot import` reads it.
    Ndjson,
    /// RFC 4180 with a header. An absent text is an empty field, an empty text is `""`.
    Csv,
}

/// Every format by its name. The first one is the default.
pub(crate) const FORMATS: &[(&str, Format)] = &[("ndjson", Format::Ndjson), ("csv", Format::Csv)];

/// A message as a line of NDJSON. What every message of /webhook has in common is left out.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    message: &'a Message,
    created_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_too_large_bytes: Option<u32>,
}

impl<'a> From<&'a Received> for Line<'a> {
    fn from(received: &'a Received) -> Line<'a> {
        let Received { message, created_at, source, kind, original } = received;
        let (original, original_too_large_bytes) = parts(original.as_ref());
        Line {
            message,
            created_at,
            source: Some(*source).filter(|source| *source != Source::Webhook),
            kind: Some(kind.as_str()).filter(|kind| *kind != TEXT_KIND),
            original: original.map(in_one_line),
            original_too_large_bytes,
        }
    }
}

/// Line breaks are white space between the tokens of a JSON text, never part of one.
fn in_one_line(json: Box<RawValue>) -> Box<RawValue> {
    const LINE_BREAKS: [char; 2] = ['\n', '\r'];
    if !json.get().contains(LINE_BREAKS) {
        return json;
    }
    RawValue::from_string(json.get().replace(LINE_BREAKS, " ")).unwrap_or(json)
}

impl Format {
    /// The Content-Type, and a name for a file.
    pub(crate) fn media_type_and_name(self) -> (&'static str, &'static str) {
        match self {
            Format::Ndjson => ("application/x-ndjson", "mailslot.ndjson"),
            Format::Csv => ("text/csv; charset=utf-8; header=present", "mailslot.csv"),
        }
    }

    /// The text before the first message.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Format::Ndjson => "",
            Format::Csv => "message_id,from,to,ts,text,created_at\r\n",
        }
    }

    pub(crate) fn write(self, received: &Received, lines: &mut Vec<u8>) {
        match self {
            Format::Ndjson => {
                // Serializing strings into memory cannot fail.
                let _ = serde_json::to_writer(&mut *lines, &Line::from(received));
                lines.push(b'\n');
            }
            Format::Csv => {
                let Received { message, created_at, .. } = received;
                let Message { message_id, from, to, ts, text, .. } = message;
                let fields = [
                    Some(message_id),
                    Some(from),
                    Some(to),
                    Some(ts),
                    text.as_ref(),
                    Some(created_at),
                ];
                for (number, field) in fields.into_iter().enumerate() {
                    if number > 0 {
                        lines.push(b',');
                    }
                    write_field(field.map(String::as_str), lines);
                }
                lines.extend_from_slice(b"\r\n");
            }
        }
    }
}

fn write_field(field: Option<&str>, line: &mut Vec<u8>) {
    let Some(text) = field else { return };
    if text.is_empty() || text.contains(['"', ',', '\r', '\n']) {
        line.push(b'"');
        line.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        line.push(b'"');
    } else {
        line.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_could_be_misread_is_quoted() {
        for (field, written) in [
            (None, ""),
            (Some(""), "\"\""),
            (Some("plain; é '"), "plain; é '"),
            (Some("a,b"), "\"a,b\""),
            (Some("say \"hi\"\r\nbye"), "\"say \"\"hi\"\"\r\nbye\""),
        ] {
            let mut line = Vec::new();
            write_field(field, &mut line);
            assert_eq!(String::from_utf8(line).as_deref(), Ok(written));
        }
    }
}
