//! Why a server did not do what it was asked to do, and what follows from that for clients and for
//! the operator.

use std::{fmt, io};

use postgres_protocol::message::backend::ErrorFields;

use crate::{
    config::Target,
    error::{Error, STORAGE_UNAVAILABLE},
    logging,
};
use fallible_iterator::FallibleIterator;

/// SQLSTATE of a warning, of a lock that was waited for too long, and of a statement that was
/// canceled.
pub(super) const WARNING: &str = "01000";
pub(super) const LOCK_TIMEOUT: &str = "55P03";
/// SQLSTATE of a write to a server that takes none, such as a former primary.
const READ_ONLY: &str = "25006";
/// Classes of SQLSTATE that are over when it is tried again: a warning beside a commit, the
/// connection, transactions in each other's way, resources, the operator's intervention, the disk.
const PASSING_CLASSES: [&str; 6] = ["01", "08", "40", "53", "57", "58"];
/// Classes that a single row can cause: data, constraints, limits such as an index's, corruption.
const DATA_CLASSES: [&str; 5] = ["21", "22", "23", "54", "XX"];
/// Classes and codes that the operator has to mend: the database, the schema, the user, its rights,
/// a missing table.
const SETTINGS_CODES: [&str; 5] = ["28", "3D", "3F", "42501", "42P01"];

const OUTDATED: &str = "a newer mailslot has brought the database up to date: update this one";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    /// There is no connection, or none any more: what was asked for may have been done or not.
    Lost(String),
    /// The server's answer; the connection goes on, and nothing was committed, unless the code is
    /// [`WARNING`].
    Refused { code: String, message: String },
    /// The operator has to change something.
    Settings(String),
    /// A newer mailslot has migrated the database, and this one would store something wrong.
    Outdated,
    /// An answer in another form than its statement has: a fault of this program.
    Unexpected(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Outdated => f.write_str(OUTDATED),
            Failure::Refused { code, message } => write!(f, "{message} (SQLSTATE {code})"),
            Failure::Lost(text) | Failure::Settings(text) | Failure::Unexpected(text) => {
                f.write_str(text)
            }
        }
    }
}

impl Failure {
    pub(super) fn refused(code: &str, message: impl Into<String>) -> Failure {
        Failure::Refused { code: code.to_owned(), message: message.into() }
    }

    pub(super) fn unexpected(what: impl Into<String>) -> Failure {
        Failure::Unexpected(what.into())
    }

    pub(super) fn code(&self) -> &str {
        match self {
            Failure::Refused { code, .. } => code,
            _ => "",
        }
    }

    /// It may succeed when it is tried again soon.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Failure::Lost(_) => true,
            Failure::Refused { code, .. } => {
                has_prefix(code, &PASSING_CLASSES) || [READ_ONLY, LOCK_TIMEOUT].contains(&&**code)
            }
            Failure::Settings(_) | Failure::Outdated | Failure::Unexpected(_) => false,
        }
    }

    /// The connection is of no use any more, since it is closed, or leads to a server that takes no
    /// writes.
    pub(super) fn needs_connection(&self) -> bool {
        matches!(self, Failure::Lost(_) | Failure::Settings(_)) || self.code() == READ_ONLY
    }

    /// One of the rows may be the cause.
    pub(super) fn is_of_data(&self) -> bool {
        has_prefix(self.code(), &DATA_CLASSES)
    }

    /// Trying it again is of no use before the operator has changed something.
    pub(super) fn is_of_settings(&self) -> bool {
        matches!(self, Failure::Settings(_)) || has_prefix(self.code(), &SETTINGS_CODES)
    }

    /// What a client gets: 503 where the failure can pass or be mended, or else 500. The log has
    /// the server's words.
    pub(super) fn into_error(self) -> Error {
        log::error!(target: logging::ERRORS, error:% = self; "the database failed");
        match self {
            Failure::Outdated => Error::Unavailable(OUTDATED),
            _ if self.is_passing() || self.is_of_settings() => STORAGE_UNAVAILABLE,
            _ => Error::Internal,
        }
    }

    /// The same in words for a login.
    pub(super) fn of_login(self, target: &Target) -> Failure {
        let Target { user, database, .. } = target;
        let Failure::Refused { code, message } = &self else { return self };
        match code.as_str() {
            "28P01" => Failure::Settings(format!(
                "the password in DATABASE_URL is wrong, or there is no user {user:?}"
            )),
            "28000" => Failure::Settings(format!("{message}: see its pg_hba.conf")),
            "3D000" => Failure::Settings(format!("there is no database {database:?}: create it")),
            "53300" => Failure::Lost(format!(
                "{message}: raise max_connections, lower WORKERS, or put pgbouncer between"
            )),
            "42501" => Failure::Settings(format!(
                "{message}: GRANT {user:?} CREATE ON DATABASE {database:?}, or the schema \
                 mailslot and all in it"
            )),
            _ if self.is_of_settings() => Failure::Settings(self.to_string()),
            _ => Failure::Lost(message.clone()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Lost(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "it did not answer in time".to_owned()
            }
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.into_error()
    }
}

fn has_prefix(code: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| code.starts_with(prefix))
}

/// An error or a notice of the server.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    pub(super) severity: String,
    pub(super) code: String,
    pub(super) message: String,
}

impl Report {
    pub(super) fn read(mut fields: ErrorFields<'_>) -> io::Result<Report> {
        let mut report = Report::default();
        while let Some(field) = fields.next()? {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // In English, whatever the server's language is.
                b'V' => report.severity = text(),
                b'C' => report.code = text(),
                b'M' => report.message = text(),
                _ => {}
            }
        }
        Ok(report)
    }

    /// The server closes the connection after it.
    pub(super) fn is_last(&self) -> bool {
        ["FATAL", "PANIC"].contains(&&*self.severity)
    }

    pub(super) fn is_warning(&self) -> bool {
        self.severity == "WARNING"
    }

    pub(super) fn into_failure(self) -> Failure {
        Failure::Refused { code: self.code, message: self.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlstate_decides_whether_an_error_is_temporary_and_what_caused_it() {
        let of = |code: &str| {
            let failure = Failure::refused(code, "x");
            (failure.is_passing(), failure.is_of_data(), failure.is_of_settings())
        };
        for code in ["01000", "08006", "40P01", "53100", "57P01", "58030", "55P03", "25006"] {
            assert_eq!(of(code), (true, false, false), "{code}");
        }
        for code in ["22021", "23505", "54000", "XX001"] {
            assert_eq!(of(code), (false, true, false), "{code}");
        }
        for code in ["42501", "42P01", "3F000", "28000"] {
            assert_eq!(of(code), (false, false, true), "{code}");
        }
        assert_eq!(of("42601"), (false, false, false));
        assert!(Failure::refused("25006", "").needs_connection());
        assert!(!Failure::refused("55P03", "").needs_connection());
        let timed_out = Failure::from(io::Error::from(io::ErrorKind::WouldBlock));
        assert!(timed_out.is_passing() && timed_out.needs_connection());
    }
}
