//! The time, in the forms that mailslot writes and compares.

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// RFC 3339, UTC, milliseconds.
const FORM: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The present, as `2026-11-22T10:00:00.123Z`.
pub(crate) fn now() -> String {
    OffsetDateTime::now_utc().format(FORM).unwrap_or_default()
}

/// The present, in seconds since 1970.
pub(crate) fn now_seconds() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// The present, in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
