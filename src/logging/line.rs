//! A log record as a line of JSON.

use log::{
    Level, Metadata, Record,
    kv::{Error, Key, Value, VisitSource},
};
use serde::Serialize;

use super::{clock::now, terminal::escaped};

/// tiny_http logs as errors what its guard expects and handles.
pub(super) fn level_of(metadata: &Metadata<'_>) -> Level {
    if metadata.target().starts_with("tiny_http") { Level::Debug } else { metadata.level() }
}

/// Ends in a newline.
pub(super) fn of(record: &Record<'_>) -> Vec<u8> {
    let mut line = Line(Vec::with_capacity(384));
    line.0.extend_from_slice(b"{\"ts\":");
    line.value(&now());
    line.field("level", level_of(record.metadata()).as_str());
    if !record.target().starts_with("mailslot") {
        line.field("target", record.target());
    }
    line.field("msg", &record.args());
    let _ = record.key_values().visit(&mut line);
    line.0.extend_from_slice(b"}\n");
    escaped(line.0)
}

/// An object, written member by member. serde_json escapes what clients have sent.
struct Line(Vec<u8>);

impl Line {
    fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.0.push(b',');
        self.value(name);
        self.0.push(b':');
        self.value(value);
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        let _ = serde_json::to_writer(&mut self.0, value);
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let name = key.as_str();
        if let Some(text) = value.to_borrowed_str() {
            self.field(name, text);
        } else if let Some(number) = value.to_i64() {
            self.field(name, &number);
        } else if let Some(number) = value.to_f64() {
            self.field(name, &number);
        } else if let Some(flag) = value.to_bool() {
            self.field(name, &flag);
        } else {
            self.field(name, &value.to_string());
        }
        Ok(())
    }
}
