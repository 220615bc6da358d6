//! The settings: one table of them, read at the start, and once more at SIGHUP and before a
//! restart.

mod source; // where settings come from: the environment, SETTINGS_FILE, files, credentials
mod table; // every setting: its field, its parser, its default, its help
mod inherited; // what the process that started this one has left it
mod read; // reads one row of the table, and collects what is wrong
mod database; // DATABASE_URL: a file or a server
mod parse; // from text to values
mod secret; // a key that refuses to be printed

pub use database::{Database, Target};
pub(crate) use database::{Host, Tls, without_password};
pub use inherited::Inherited;
pub(crate) use inherited::{INHERITED_PROGRAM, INHERITED_RESTARTS, INHERITED_SOCKET};
pub use read::{ConfigError, Default, SecretSources, Setting, Source};
pub use secret::Secret;
pub(crate) use secret::weakness;
pub use source::with_source;
pub(crate) use source::{Origin, Settings};
#[cfg(any(test, fuzzing))]
pub(crate) use table::WORKERS_MAX;
pub use table::{Config, SETTINGS};
pub(crate) use table::{Key, Limits, Rates, SECRETS_MAX};
