//! DATABASE_URL: the file of a SQLite database, or a PostgreSQL server.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use percent_encoding::percent_decode_str;

use super::secret::Secret;

const PORT: u16 = 5432;
/// The schemes of a server. SQLAlchemy's URLs name the driver, too.
const SCHEMES: [&str; 4] =
    ["postgres://", "postgresql://", "postgresql+asyncpg://", "postgresql+psycopg://"];
const EXPECTED: &str = "sqlite:////absolute/path, sqlite:///relative/path, a bare path, or \
                        postgres://user:password@host:5432/database";
/// Printed instead of a password.
const MASK: &str = "***";

/// Where messages are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Database {
    /// SQLite.
    File(PathBuf),
    /// PostgreSQL, which several mailslots can share.
    Server(Target),
}

/// How a PostgreSQL server is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// At least one. The first that is a primary is used.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) database: String,
    pub(crate) tls: Tls,
    /// A PEM file of the certificate authorities that sign the server's certificate; without it,
    /// those of this machine.
    pub(crate) root_certificates: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Host {
    /// A host name or an address; or the folder of a unix socket, if it begins with a slash.
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// The values of `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Disable,
    /// Encrypted; the server may be any.
    Require,
    /// Encrypted, and the certificate names the host.
    VerifyFull,
}

impl Database {
    /// Reads the value of DATABASE_URL.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn parse(url: &str) -> Result<Database, String> {
        database(url)
    }

    /// The file of SQLite.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Database::File(path) => Some(path),
            Database::Server(_) => None,
        }
    }
}

/// Without a password, for the log and for sentences.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::File(path) => path.display().fmt(f),
            Database::Server(target) => target.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "postgres://{}@{}/{}", self.user, hosts.join(","), self.database)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.name.contains(':') { ["[", "]"] } else { ["", ""] };
        write!(f, "{}{}{}:{}", colon[0], self.name, colon[1], self.port)
    }
}

impl Host {
    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    fn is_local(&self) -> bool {
        let address = self.name.parse::<IpAddr>();
        self.is_socket()
            || self.name == "localhost"
            || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The value of DATABASE_URL as it may be shown.
pub(crate) fn without_password(url: &str) -> String {
    let hide = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user, rest) = rest.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:{MASK}@{rest}"))
    };
    hide().unwrap_or_else(|| url.to_owned())
}

/// Whether a value of DATABASE_URL that is wrong may contain a password.
pub(super) fn may_have_password(text: &str) -> bool {
    text.contains('@') || text.starts_with("postgres")
}

pub(super) fn database(text: &str) -> Result<Database, String> {
    match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => target(rest).map(Database::Server),
        None => path(text).map(Database::File),
    }
}

/// The path in an SQLAlchemy-style URL: three slashes and the path as it is.
fn path(text: &str) -> Result<PathBuf, String> {
    let path = ["sqlite:///", "sqlite+aiosqlite:///"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    if ["sqlite:", "sqlite+aiosqlite:"].iter().any(|scheme| path.starts_with(scheme)) {
        return Err(
            "three slashes and a path: sqlite:///relative/path or sqlite:////absolute/path".into(),
        );
    }
    if path.contains(":memory:") {
        return Err(format!("a file, since messages must outlive the process: {EXPECTED}"));
    }
    if let Some((scheme, _)) = path.split_once(':')
        && !scheme.is_empty()
        && !scheme.contains('/')
    {
        return Err(format!(
            "{EXPECTED}; mailslot stores in SQLite or PostgreSQL and knows no {scheme:?}"
        ));
    }
    if path.is_empty() || path.ends_with('/') || path.contains(['?', '\0']) {
        return Err(format!("{EXPECTED}, naming a file, without options"));
    }
    Ok(PathBuf::from(path))
}

/// What follows the scheme: `user:password@host:port,host:port/database?sslmode=…`, as libpq reads
/// it.
fn target(rest: &str) -> Result<Target, String> {
    let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) =
        rest.split_once('/')
            .filter(|(_, database)| !database.is_empty())
            .ok_or("the name of the database: postgres://user:password@host/database")?;
    let (user, hosts) = authority
        .rsplit_once('@')
        .filter(|(user, _)| !user.is_empty())
        .ok_or("the name of a user: postgres://user:password@host/database")?;
    let (user, password) = match user.split_once(':') {
        Some((user, password)) => (user, Some(Secret::new(decoded(password)?))),
        None => (user, None),
    };
    let mut hosts = hosts
        .split(',')
        .filter(|host| !host.is_empty())
        .map(host)
        .collect::<Result<Vec<_>, _>>()?;
    let (mut tls, mut root_certificates) = (None, None);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = decoded(value)?;
        match (name, value.as_str()) {
            ("sslmode", "disable") => tls = Some(Tls::Disable),
            ("sslmode", "require") => tls = Some(Tls::Require),
            ("sslmode", "verify-full") => tls = Some(Tls::VerifyFull),
            ("sslmode", _) => return Err("sslmode=disable, require or verify-full".into()),
            ("sslrootcert", path) if path.starts_with('/') => {
                root_certificates = Some(PathBuf::from(path));
            }
            ("sslrootcert", _) => return Err("sslrootcert=/absolute/path of a PEM file".into()),
            ("host", name) if name.starts_with('/') && hosts.is_empty() => {
                hosts.push(Host { name: name.to_owned(), port: PORT });
            }
            ("host", _) => return Err("host=/folder of a unix socket, and no other host".into()),
            _ => return Err("no other options than sslmode, sslrootcert and host".into()),
        }
    }
    if hosts.is_empty() {
        return Err("a host: postgres://user:password@host/database".into());
    }
    let is_local = hosts.iter().all(Host::is_local);
    let tls = tls.unwrap_or(if is_local { Tls::Disable } else { Tls::VerifyFull });
    if tls != Tls::Disable && !cfg!(feature = "tls") {
        return Err("sslmode=disable, since this mailslot was built without TLS".into());
    }
    if tls == Tls::Disable && root_certificates.is_some() {
        return Err("sslmode=verify-full beside sslrootcert".into());
    }
    let (user, database) = (decoded(user)?, decoded(database)?);
    Ok(Target { hosts, user, password, database, tls, root_certificates })
}

fn host(text: &str) -> Result<Host, String> {
    let port_of = |port: &str| match port.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("a port from 1 to 65535 after the host".to_owned()),
    };
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((name, port)) => (name, port.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = port.map_or(Ok(PORT), port_of)?;
    match decoded(name)? {
        name if name.is_empty() => Err("a host before the port".into()),
        name => Ok(Host { name, port }),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "UTF-8 in % codes")?;
    // The protocol ends every text with a NUL.
    if decoded.contains('\0') { Err("no %00".into()) } else { Ok(decoded.into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Target {
        match database(url) {
            Ok(Database::Server(target)) => target,
            other => panic!("{url}: {other:?}"),
        }
    }

    fn hosts(target: &Target) -> Vec<(&str, u16)> {
        target.hosts.iter().map(|host| (host.name.as_str(), host.port)).collect()
    }

    #[test]
    fn every_form_of_database_url_names_its_path() {
        for (url, path) in [
            ("sqlite:////data/app.db", "/data/app.db"),
            ("sqlite:///./data/app.db", "./data/app.db"),
            ("sqlite:///app.db", "app.db"),
            ("sqlite+aiosqlite:////data/app.db", "/data/app.db"),
            ("sqlite+aiosqlite:///./app.db", "./app.db"),
            ("/var/lib/app.db", "/var/lib/app.db"),
            ("app.db", "app.db"),
            ("./odd:name.db", "./odd:name.db"),
        ] {
            assert_eq!(database(url), Ok(Database::File(PathBuf::from(path))), "{url}");
        }
    }

    #[test]
    fn a_server_has_hosts_a_user_and_a_database() {
        let target = server("postgres://mail:p%40ss:w%2Frd@one:1234,two,[::1]:9/inbox");
        assert_eq!(hosts(&target), [("one", 1234), ("two", 5432), ("::1", 9)]);
        assert_eq!((&*target.user, &*target.database), ("mail", "inbox"));
        let password = target.password.as_ref().map(Secret::expose);
        assert_eq!(password, Some(&b"p@ss:w/rd"[..]));
        assert_eq!(target.tls, Tls::VerifyFull, "one of the hosts is not this machine");
        assert_eq!(target.to_string(), "postgres://mail@one:1234,two:5432,[::1]:9/inbox");
        assert!(!format!("{target:?}").contains("w/rd"));

        let target = server("postgresql+asyncpg://u@127.0.0.1/d?sslmode=require");
        assert_eq!((target.tls, target.password), (Tls::Require, None));
        assert_eq!(server("postgresql://u@127.0.0.1/d").tls, Tls::Disable);
        for url in ["postgres://u@%2Frun%2Fpostgresql/d", "postgres://u@/d?host=/run/postgresql"] {
            let target = server(url);
            assert_eq!(hosts(&target), [("/run/postgresql", 5432)]);
            assert_eq!(target.tls, Tls::Disable);
        }
        let target = server("postgres://u@db/d?sslmode=verify-full&sslrootcert=/etc/ca%20.pem");
        assert_eq!(target.root_certificates, Some(PathBuf::from("/etc/ca .pem")));
    }

    #[test]
    fn what_is_no_file_and_no_server_is_refused() {
        for url in [
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            ":memory:",
            "sqlite:///app.db?mode=ro",
            "file:app.db",
            "mysql:///x",
            "sqlite:///data/",
            "postgres://",
            "postgres://db/app",
            "postgres://u@db",
            "postgres://u@db/",
            "postgres://@db/app",
            "postgres://u@/app",
            "postgres://u@:5432/app",
            "postgres://u@db:0/app",
            "postgres://u@db:x/app",
            "postgres://u@db/app?sslmode=prefer",
            "postgres://u@db/app?sslrootcert=ca.pem",
            "postgres://u@db/app?sslmode=disable&sslrootcert=/ca.pem",
            "postgres://u@db/app?pool=3",
            "postgres://u:%00@db/app",
            "postgres://u:%ff@db/app",
        ] {
            assert!(database(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        for (url, shown) in [
            (
                "postgres://u:a@b:c@db/app?sslmode=disable",
                "postgres://u:***@db/app?sslmode=disable",
            ),
            ("postgres://u@db/app", "postgres://u@db/app"),
            ("/data/a@b.db", "/data/a@b.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
