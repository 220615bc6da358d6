//! `GET /export`: every message that the filters mean, as lines of JSON or of CSV.

use super::{Answer, Context, query::Query};
use crate::{
    error::Error,
    http::{Request, Response},
    message::Message,
    store::{Filter, Received},
};

/// What is to be exported, and how it is written.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// An object a line, as `mailslot import` takes it.
    Ndjson,
    /// RFC 4180 with a header. An absent text is empty, an empty one is `""`.
    Csv,
}

pub(crate) fn start(_: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let mut query = Query::of(request);
    let filter = query.filter();
    let format = query.choice("format", &[("ndjson", Format::Ndjson), ("csv", Format::Csv)]);
    query.finish(Wanted { filter, format }).map(Answer::Export)
}

impl Format {
    /// The head of the answer.
    pub(crate) fn response(self) -> Response {
        let (content_type, name) = match self {
            Format::Ndjson => ("application/x-ndjson", "mailslot.ndjson"),
            Format::Csv => ("text/csv; charset=utf-8; header=present", "mailslot.csv"),
        };
        let disposition = format!("attachment; filename=\"{name}\"");
        Response::text(content_type, String::new()).with([("Content-Disposition", disposition)])
    }

    /// What stands before the first message.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Format::Ndjson => "",
            Format::Csv => "message_id,from,to,ts,text,created_at\r\n",
        }
    }

    pub(crate) fn write(self, received: &Received, lines: &mut Vec<u8>) {
        match self {
            Format::Ndjson => {
                // Strings into memory: this cannot fail.
                let _ = serde_json::to_writer(&mut *lines, received);
                lines.push(b'\n');
            }
            Format::Csv => {
                let Received { message, created_at } = received;
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
