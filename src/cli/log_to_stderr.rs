//! Writes the warnings and errors that the rest of the program logs while a command runs to stderr,
//! as text.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use log::{
    LevelFilter, Log, Metadata, Record,
    kv::{Error, Key, Value, VisitSource},
};

struct Stderr;

struct Fields(String);

pub(super) fn start() {
    // Fails only if there is a logger already.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Fields(String::new());
        let _ = record.key_values().visit(&mut fields);
        let _ = writeln!(io::stderr(), "mailslot: {}{}", record.args(), fields.0);
    }

    fn flush(&self) {}
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let _ = write!(self.0, ", {key}: {value}");
        Ok(())
    }
}
