//! What is read from the body of a provider: messages, and parts that are none.

use crate::{
    message::{Delivered, Fields, Message},
    metrics::{Item, Label, Source},
    original::Original,
};

#[derive(Debug)]
pub(crate) struct Reading {
    source: Source,
    keeps_originals: bool,
    pub(crate) messages: Vec<Delivered>,
    /// Parts of the body that are not stored.
    pub(crate) others: Vec<Item>,
}

impl Reading {
    pub(crate) fn of(source: Source, keeps_originals: bool) -> Reading {
        Reading { source, keeps_originals, messages: Vec::new(), others: Vec::new() }
    }

    /// A message with these fields. `original` gives what the provider sent of it, as JSON.
    pub(super) fn add<J: AsRef<str>>(
        &mut self,
        fields: Fields,
        kind: &str,
        original: impl FnOnce() -> J,
    ) {
        match Message::from_fields(fields) {
            Ok(message) => self.add_message(message, kind, Some(original)),
            Err(reason) => self.skip_invalid(reason),
        }
    }

    pub(super) fn add_message<J: AsRef<str>>(
        &mut self,
        message: Message,
        kind: &str,
        original: Option<impl FnOnce() -> J>,
    ) {
        let original = original.filter(|_| self.keeps_originals);
        let original = original.map(|original| Original::of(original().as_ref()));
        let message = Delivered { original, ..Delivered::of(message, self.source, kind) };
        self.messages.push(message);
    }

    /// A part that is not stored, and of which nothing need be known.
    pub(super) fn skip(&mut self, item: Item) {
        self.others.push(item);
    }

    /// A part that may have been a message.
    pub(super) fn skip_invalid(&mut self, reason: &str) {
        log::warn!(source = self.source.value(), reason; "a part of a delivery is not stored");
        self.others.push(Item::Invalid);
    }
}
