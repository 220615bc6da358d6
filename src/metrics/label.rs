//! The labels of metrics, each with its fixed list of values.

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
    /// How a POST to /webhook ended.
    WebhookResult: "result";
    Created = "created",
    Duplicate = "duplicate",
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
        use WebhookResult::{Created, Duplicate, ValidationError};
        matches!(self, Created | Duplicate | ValidationError)
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

/// The position of a key among the webhook secrets, counted from 0; operators count from 1.
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
