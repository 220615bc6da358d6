//! The labels of metrics, each with its fixed list of values.

use serde::{Serialize, Serializer};

use crate::config::SECRETS_MAX;

/// A label with a fixed list of values.
pub(crate) trait Label: Copy {
    const NAMES: &'static [&'static str];
    const VALUES: &'static [&'static str];

    /// The position of its value in [`Label::VALUES`].
    fn index(self) -> usize;

    fn value(self) -> &'static str {
        Self::VALUES[self.index()]
    }
}

/// Declares an enum whose variants are the values of a label, each with its text.
macro_rules! label {
    (
        $(#[$doc:meta])* $name:ident: $label:literal;
        $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Label for $name {
            const NAMES: &'static [&'static str] = &[$label];
            const VALUES: &'static [&'static str] = &[$($value),*];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// How a POST to /webhook, or to a path below it, ended.
    WebhookResult: "result";
    Created = "created",
    Duplicate = "duplicate",
    /// It had nothing to store.
    Ignored = "ignored",
    InvalidSignature = "invalid_signature",
    ValidationError = "validation_error",
    TooLarge = "too_large",
    BadRequest = "bad_request",
    RateLimited = "rate_limited",
    Unavailable = "unavailable",
    InternalError = "internal_error",
}

impl WebhookResult {
    /// Only a client that has a key can cause this result.
    pub(crate) fn is_signed(self) -> bool {
        use WebhookResult::{Created, Duplicate, Ignored, ValidationError};
        matches!(self, Created | Duplicate | Ignored | ValidationError)
    }
}

label! {
    /// Whose form a message had when it was delivered: the route it came by.
    Source: "source";
    Webhook = "webhook",
    Whatsapp = "whatsapp",
    Twilio = "twilio",
    Standard = "standard",
}

impl Source {
    pub(crate) const ALL: &[Source] =
        &[Source::Webhook, Source::Whatsapp, Source::Twilio, Source::Standard];

    /// The source with this name.
    pub(crate) fn named(name: &str) -> Option<Source> {
        Source::ALL.iter().copied().find(|source| source.value() == name)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.value())
    }
}

const _: () = assert!(Source::ALL.len() == Source::VALUES.len());

label! {
    /// What became of one part of a delivery that was answered 200.
    Item: "result";
    Created = "created",
    Duplicate = "duplicate",
    /// Reports on messages that the operator has sent.
    StatusSent = "status_sent",
    StatusDelivered = "status_delivered",
    StatusRead = "status_read",
    StatusFailed = "status_failed",
    StatusOther = "status_other",
    /// It is about something else than a message.
    Other = "other",
    /// It may have been a message, and could not be read as one.
    Invalid = "invalid",
}

impl Item {
    /// A report with this word of the provider's.
    pub(crate) fn of_status(status: &str) -> Item {
        match status {
            "sent" => Item::StatusSent,
            "delivered" => Item::StatusDelivered,
            "read" => Item::StatusRead,
            "failed" | "undelivered" => Item::StatusFailed,
            _ => Item::StatusOther,
        }
    }
}

label! {
    /// Why mailslot closed a connection that the client had not closed.
    Disconnect: "reason";
    /// No request within its deadline.
    Idle = "idle",
    /// No complete body within its deadline.
    Body = "body",
    /// A body shorter than its Content-Length.
    Short = "short",
    /// A response that the client did not read within its deadline.
    Answer = "answer",
    /// The longest idle connection while too many are open.
    Cap = "cap",
    /// The longest idle connection of an address that has too many open.
    Address = "address",
    /// Too many pipelined requests.
    Pipelined = "pipelined",
    /// A request head that is too long.
    Head = "head",
    /// Bytes arriving faster than they can be refused.
    Flood = "flood",
    /// Another open connection has the same client address and port.
    DuplicateAddress = "duplicate_address",
}

/// The position of a key among the secrets of a source, counted from 0; operators count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyIndex(pub(crate) usize);

impl Label for KeyIndex {
    const NAMES: &'static [&'static str] = &["key"];
    const VALUES: &'static [&'static str] = &["1", "2", "3", "4", "5", "6", "7", "8"];

    fn index(self) -> usize {
        self.0
    }
}

const _: () = assert!(KeyIndex::VALUES.len() == SECRETS_MAX);
