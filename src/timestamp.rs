//! A moment as a message states it, to the nanosecond. Pure: the clock is `logging::now`.

use time::{Date, Month, OffsetDateTime, macros::format_description};

/// A moment between the years 0001 and 9999, in UTC. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp {
    /// Since 1970; negative before.
    pub(crate) seconds: i64,
    /// Below 1,000,000,000.
    pub(crate) nanoseconds: u32,
}

impl Timestamp {
    /// Reads `YYYY-MM-DDTHH:MM:SS[.f…]Z` with 1 to 9 digits of fraction: RFC 3339 narrowed to UTC,
    /// a capital `T` and `Z`, and no leap second. `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Timestamp> {
        let (whole, rest) = text.as_bytes().split_at_checked(19)?;
        let fits = whole.iter().zip(b"0000-00-00T00:00:00").all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == shape,
        });
        if !fits {
            return None;
        }
        let number = |from: usize, to: usize| -> u16 {
            whole[from..to].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
        };
        let small = |from: usize| u8::try_from(number(from, from + 2)).ok();
        let year = Some(number(0, 4)).filter(|year| *year > 0)?;
        let month = Month::try_from(small(5)?).ok()?;
        let date = Date::from_calendar_date(i32::from(year), month, small(8)?).ok()?;
        let moment = date.with_hms(small(11)?, small(14)?, small(17)?).ok()?;
        Some(Timestamp {
            seconds: moment.assume_utc().unix_timestamp(),
            nanoseconds: fraction(rest.strip_suffix(b"Z")?)?,
        })
    }

    /// As [`Timestamp::parse`] reads it, without the fraction. Empty outside of the years 0001 to
    /// 9999.
    pub(crate) fn text(self) -> String {
        let shape = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let moment = OffsetDateTime::from_unix_timestamp(self.seconds).ok();
        moment.and_then(|moment| moment.format(shape).ok()).unwrap_or_default()
    }
}

/// From seconds since 1970.
impl From<i64> for Timestamp {
    fn from(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }
}

/// The nanoseconds of a fraction such as `.5`; 0 where there is none.
fn fraction(text: &[u8]) -> Option<u32> {
    let Some((b'.', digits)) = text.split_first() else { return text.is_empty().then_some(0) };
    if !(1..=9).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    Some(padded.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_utc_timestamps_are_read() {
        for good in [
            "2025-01-15T10:00:00Z",
            "2024-02-29T23:59:59Z",
            "2025-01-15T10:00:00.5Z",
            "2025-01-15T10:00:00.123456789Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999999Z",
            "2000-02-29T00:00:00Z",
        ] {
            assert!(Timestamp::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "Z",
            "2025-01-15",
            "2025-01-15T10:00:00",
            "2025-01-15t10:00:00Z",
            "2025-01-15T10:00:00z",
            "2025-01-15T10:00:00+00:00",
            "2025-02-30T10:00:00Z",
            "2025-02-29T10:00:00Z",
            "1900-02-29T00:00:00Z",
            "2025-13-01T10:00:00Z",
            "2025-00-01T10:00:00Z",
            "2025-01-00T10:00:00Z",
            "2025-01-15T24:00:00Z",
            "2025-01-15T25:00:00Z",
            "2025-01-15T10:60:00Z",
            "2025-01-15T10:00:60Z",
            "2025-01-15T10:00:00.Z",
            "2025-01-15T10:00:00.1234567890Z",
            "2025-01-15T10:00:00,5Z",
            "2025-01-15 10:00:00Z",
            "2025-01-15T10:00:00Z\n",
            " 2025-01-15T10:00:00Z",
            "٢٠٢٥-01-15T10:00:00Z",
            "0000-01-01T00:00:00Z",
            "+2025-01-15T10:00:00Z",
            "2025-1-15T10:00:00Z",
            "2025-01-15T10:00:00.5",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_are_ordered_as_time_is() {
        let texts = [
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999999Z",
            "1970-01-01T00:00:00Z",
            "2025-01-15T10:00:00Z",
            "2025-01-15T10:00:00.000000001Z",
            "2025-01-15T10:00:00.09Z",
            "2025-01-15T10:00:00.1Z",
            "2025-01-15T10:00:00.5Z",
            "2025-01-15T10:00:01Z",
            "9999-12-31T23:59:59Z",
        ];
        let timestamps: Vec<_> = texts.iter().map(|text| Timestamp::parse(text)).collect();
        assert!(timestamps.is_sorted() && timestamps.iter().all(Option::is_some));
        assert_eq!(
            Timestamp::parse("2025-01-15T10:00:00.50Z"),
            Timestamp::parse("2025-01-15T10:00:00.5Z")
        );
        assert_eq!(timestamps[2], Some(Timestamp { seconds: 0, nanoseconds: 0 }));
    }
}
