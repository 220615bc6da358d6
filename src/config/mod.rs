//! Everything the operator decides: read at the start, and once more at SIGHUP and before a restart.

mod source; // where settings come from: the environment, files, credentials

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::fd::RawFd,
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use log::LevelFilter;

pub use source::with_source;
pub(crate) use source::{Place, Settings};

/// One line of `mailslot --help` and of README's table.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
}

/// Every setting there is, in the order in which `--help` and the README show them.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "WEBHOOK_SECRET",
        default: "required",
        meaning: "the key of the HMAC; or the systemd credential webhook_secret",
    },
    Setting {
        name: "WEBHOOK_SECRET_FILE",
        default: "none",
        meaning: "a file with such keys instead, one a line, all valid, the first one current",
    },
    Setting {
        name: "READ_TOKEN",
        default: "none: everybody may read",
        meaning: "bearer token required for reads; space-separated list; or the credential read_token",
    },
    Setting {
        name: "READ_TOKEN_FILE",
        default: "none",
        meaning: "a file with such tokens, one a line, instead",
    },
    Setting {
        name: "HOSTS",
        default: "none",
        meaning: "without READ_TOKEN: the host names under which clients may read, parted by spaces",
    },
    Setting {
        name: "DATABASE_URL",
        default: "sqlite:///mailslot.db",
        meaning: "sqlite:////absolute/path, sqlite:///relative/path or a bare path",
    },
    Setting {
        name: "LISTEN",
        default: "127.0.0.1:8000",
        meaning: "numeric ADDR:PORT, IPv4 or [IPv6]; port 0 picks a free one and logs it",
    },
    Setting {
        name: "SETTINGS_FILE",
        default: "none",
        meaning: "a file of NAME=value lines, for what the environment does not set",
    },
    Setting { name: "LOG_LEVEL", default: "INFO", meaning: "DEBUG, INFO, WARNING or ERROR" },
    Setting {
        name: "WORKERS",
        default: "2 per core, at least 4",
        meaning: "threads that answer requests, 1 to 64",
    },
    Setting {
        name: "MAX_CONNECTIONS",
        default: "1024",
        meaning: "open connections, 8 to 16384; beyond, the longest idle are cut",
    },
    Setting {
        name: "MAX_CONNECTIONS_PER_ADDRESS",
        default: "256",
        meaning: "the same, for each client address but this machine's own",
    },
    Setting {
        name: "RETENTION_DAYS",
        default: "none: for ever",
        meaning: "messages whose ts is older are deleted, 1 to 36500",
    },
    Setting {
        name: "REQUESTS_PER_SECOND",
        default: "none",
        meaning: "beyond, 429: from all clients together, 1 to 1000000",
    },
    Setting {
        name: "REQUESTS_PER_SECOND_PER_ADDRESS",
        default: "none",
        meaning: "the same, for each client address",
    },
    Setting {
        name: "TRUSTED_PROXIES",
        default: "none",
        meaning: "addresses or networks whose X-Forwarded-For is believed, parted by spaces",
    },
    Setting {
        name: "IDLE_MS",
        default: "30000",
        meaning: "how long a client may take for a request's head, 1000 to 600000",
    },
];

/// Secrets that are valid at once. Each costs every delivery a microsecond.
pub const SECRETS_MAX: usize = 8;

/// Bytes below which a secret or a token could be guessed.
const GUESSED_BYTES: usize = 16;

/// More threads than this only cost CPU (32 cost 90 % more than 4).
pub const WORKERS_MAX: usize = 64;

/// What MAX_CONNECTIONS and IDLE_MS can be.
const CONNECTIONS: RangeInclusive<usize> = 8..=16_384;
const RETENTION_DAYS: RangeInclusive<u64> = 1..=36_500;
const RATES: RangeInclusive<u32> = 1..=1_000_000;
const IDLE_MS: RangeInclusive<u64> = 1_000..=600_000;

/// Bytes that refuse to be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// What to tell the operator of a secret or a token that could be guessed.
pub(crate) fn weakness(key: &Secret) -> Option<String> {
    let bytes = key.0.len();
    (bytes < GUESSED_BYTES).then(|| {
        format!("{bytes} bytes: take {GUESSED_BYTES} or more, such as openssl rand -hex 32 gives")
    })
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub database: PathBuf,
    /// Each is valid; the first is the current one, with which mailslot itself signs.
    pub webhook_secrets: Vec<Secret>,
    /// Any of them lets its holder read; none: everybody may.
    pub read_tokens: Vec<Secret>,
    /// Host names under which clients may read while there is no token.
    pub hosts: Vec<String>,
    pub workers: usize,
    pub log_level: LevelFilter,
    pub limits: Limits,
    /// How long messages stay.
    pub retention: Option<Duration>,
    pub rates: Rates,
    pub inherited: Inherited,
}

/// What clients may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Open connections; beyond, those that have been idle longest are cut.
    pub connections: usize,
    /// The same, from one client address that is not this machine's.
    pub connections_per_address: usize,
    /// From the end of an answer, or from the start of a connection, to the end of the next head.
    pub idle: Duration,
}

/// Requests a second, and who is who.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    pub in_all: Option<u32>,
    pub per_address: Option<u32>,
    pub trusted: Vec<Network>,
}

/// The addresses that begin with the same bits as this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, length: u8| {
            (own ^ other).checked_shr(u32::from(length - self.bits)).unwrap_or(0) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(u32::from(own).into(), u32::from(other).into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.into(), other.into(), 128),
            _ => false,
        }
    }

    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits =
            bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
        Some(Network { address, bits })
    }
}

/// What whoever started this process has left it. No settings: nobody writes them by hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The listening socket of systemd (sd_listen_fds(3)), which outlives this process.
    pub from_systemd: Option<RawFd>,
    /// That of the process that this one was before it started itself anew.
    pub from_itself: Option<RawFd>,
    /// How often it has.
    pub restarts: u64,
}

impl Inherited {
    #[must_use]
    pub fn socket(&self) -> Option<RawFd> {
        self.from_systemd.or(self.from_itself)
    }
}

/// [`Inherited::from_itself`] and [`Inherited::restarts`] in the environment.
pub const INHERITED_SOCKET: &str = "MAILSLOT_SOCKET";
pub const INHERITED_RESTARTS: &str = "MAILSLOT_RESTARTS";
/// The path that the first of these processes was started as: a later one that runs a file which has
/// been replaced meanwhile cannot find it out.
pub const INHERITED_PROGRAM: &str = "MAILSLOT_PROGRAM";
/// systemd passes its sockets from this number on.
const SYSTEMD_SOCKET: RawFd = 3;

/// Every wrong setting at once, each with what was expected, so that one restart mends them all.
#[derive(Debug, PartialEq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Where settings come from: the process environment, or a test's closure.
///
/// `variable` gives an environment variable, `credential` a file of systemd's
/// `$CREDENTIALS_DIRECTORY`; both say what is wrong if it is there and cannot be used.
pub struct Source<'a> {
    pub variable: Lookup<'a, String>,
    pub credential: Lookup<'a, Vec<u8>>,
    /// A file that a setting names.
    pub file: &'a dyn Fn(&str) -> Result<Vec<u8>, String>,
}

type Lookup<'a, T> = &'a dyn Fn(&str) -> Result<Option<T>, String>;

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source(..)")
    }
}

impl Config {
    /// Every secret and token, with a name that does not tell its value.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (String, &Secret)> {
        let named = |kind: &'static str, keys| {
            (1..).zip(keys).map(move |(number, key)| (format!("{kind} {number}"), key))
        };
        named("secret", &self.webhook_secrets).chain(named("read token", &self.read_tokens))
    }

    /// What differs from `old`: of what can be replaced while mailslot runs, and of what cannot.
    #[must_use]
    pub fn changes(&self, old: &Config) -> (Vec<&'static str>, Vec<&'static str>) {
        let named = |changes: &[(bool, &'static str)]| {
            changes.iter().filter(|(changed, _)| *changed).map(|(_, name)| *name).collect()
        };
        let at_once = [
            (self.webhook_secrets != old.webhook_secrets, "WEBHOOK_SECRET"),
            (self.read_tokens != old.read_tokens, "READ_TOKEN"),
            (self.hosts != old.hosts, "HOSTS"),
            (self.log_level != old.log_level, "LOG_LEVEL"),
        ];
        let later = [
            (self.listen != old.listen, "LISTEN"),
            (self.database != old.database, "DATABASE_URL"),
            (self.workers != old.workers, "WORKERS"),
            (self.limits != old.limits, "limits"),
            (self.retention != old.retention, "RETENTION_DAYS"),
            (self.rates != old.rates, "rates"),
        ];
        (named(&at_once), named(&later))
    }

    /// # Errors
    /// Lists every setting that cannot be used.
    pub fn read(source: &Source<'_>) -> Result<Config, ConfigError> {
        let mut reading = Reading { source, problems: Vec::new() };
        let webhook_secrets = reading.secrets();
        let read_tokens = reading.tokens();
        let config = Config {
            listen: reading.listen(),
            database: reading.database(),
            webhook_secrets,
            read_tokens,
            hosts: reading.or("HOSTS", Vec::new(), host_names),
            workers: reading
                .or("WORKERS", default_workers(), |text| within(text, &(1..=WORKERS_MAX))),
            log_level: reading.or("LOG_LEVEL", LevelFilter::Info, log_level),
            limits: reading.limits(),
            retention: reading.or("RETENTION_DAYS", None, |text| {
                within(text, &RETENTION_DAYS).map(|days| Some(Duration::from_hours(24 * days)))
            }),
            rates: reading.rates(),
            inherited: reading.inherited(),
        };
        if reading.problems.is_empty() { Ok(config) } else { Err(ConfigError(reading.problems)) }
    }

    /// DATABASE_URL alone: all that `mailslot import` needs to know.
    ///
    /// # Errors
    /// When it names no file.
    pub fn read_database(source: &Source<'_>) -> Result<PathBuf, ConfigError> {
        let mut reading = Reading { source, problems: Vec::new() };
        let database = reading.database();
        if reading.problems.is_empty() { Ok(database) } else { Err(ConfigError(reading.problems)) }
    }

    /// LISTEN alone: all that `mailslot healthcheck` needs to know.
    ///
    /// # Errors
    /// When LISTEN is no numeric address.
    pub fn read_listen(source: &Source<'_>) -> Result<SocketAddr, ConfigError> {
        let mut reading = Reading { source, problems: Vec::new() };
        let listen = reading.listen();
        if reading.problems.is_empty() { Ok(listen) } else { Err(ConfigError(reading.problems)) }
    }
}

struct Reading<'a> {
    source: &'a Source<'a>,
    problems: Vec<String>,
}

impl Reading<'_> {
    /// An empty variable is an unset one: that is how Compose and systemd pass "nothing".
    fn variable(&mut self, name: &str) -> Option<String> {
        match (self.source.variable)(name) {
            Ok(value) => value.filter(|value| !value.is_empty()),
            Err(problem) => {
                self.problems.push(format!("{name} {problem}"));
                None
            }
        }
    }

    fn or<T>(&mut self, name: &str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let Some(text) = self.variable(name) else { return default };
        parse(&text).unwrap_or_else(|expected| {
            // A URL with a user in it may have a password too.
            let shown = if text.contains('@') { "…" } else { &text };
            self.problems.push(format!("{name}={shown:?}: expected {expected}"));
            default
        })
    }

    fn listen(&mut self) -> SocketAddr {
        self.or("LISTEN", SocketAddr::from(([127, 0, 0, 1], 8000)), |text| {
            SocketAddr::from_str(text).map_err(|_| {
                "a numeric ADDR:PORT such as 127.0.0.1:8000, 0.0.0.0:8000 or [::1]:8000".to_owned()
            })
        })
    }

    fn database(&mut self) -> PathBuf {
        self.or("DATABASE_URL", PathBuf::from("mailslot.db"), database_path)
    }

    fn limits(&mut self) -> Limits {
        let connections = |text: &str| within(text, &CONNECTIONS);
        let idle = |text: &str| within(text, &IDLE_MS).map(Duration::from_millis);
        Limits {
            connections: self.or("MAX_CONNECTIONS", 1024, connections),
            connections_per_address: self.or("MAX_CONNECTIONS_PER_ADDRESS", 256, connections),
            idle: self.or("IDLE_MS", Duration::from_secs(30), idle),
        }
    }

    fn rates(&mut self) -> Rates {
        let rate = |text: &str| within(text, &RATES).map(Some);
        Rates {
            in_all: self.or("REQUESTS_PER_SECOND", None, rate),
            per_address: self.or("REQUESTS_PER_SECOND_PER_ADDRESS", None, rate),
            trusted: self.or("TRUSTED_PROXIES", Vec::new(), |text| {
                let networks = words(text).map(Network::parse).collect::<Option<Vec<_>>>();
                networks.ok_or_else(|| "addresses or networks such as 127.0.0.1 10.0.0.0/8".into())
            }),
        }
    }

    fn inherited(&mut self) -> Inherited {
        // Meant for this process, and not left over from whoever started its parent.
        let is_ours = self.variable("LISTEN_PID") == Some(std::process::id().to_string());
        let sockets = if is_ours { self.or("LISTEN_FDS", 0, one_socket) } else { 0 };
        Inherited {
            from_systemd: (sockets > 0).then_some(SYSTEMD_SOCKET),
            from_itself: self
                .or(INHERITED_SOCKET, None, |text| within(text, &(0..=RawFd::MAX)).map(Some)),
            restarts: self.or(INHERITED_RESTARTS, 0, |text| within(text, &(0..=u64::MAX))),
        }
    }

    /// From the environment, a file, or a credential. One that is there and has no token is a mistake:
    /// nobody who sets it wants everybody to read.
    fn tokens(&mut self) -> Vec<Secret> {
        let (name, found) = if let Some(text) = self.variable("READ_TOKEN") {
            ("READ_TOKEN", Ok(Some(text.into_bytes())))
        } else if let Some(path) = self.variable("READ_TOKEN_FILE") {
            ("READ_TOKEN_FILE", (self.source.file)(&path).map(Some))
        } else {
            ("credential read_token", (self.source.credential)("read_token"))
        };
        let parsed = found.and_then(|bytes| match bytes {
            None => Ok(Vec::new()),
            Some(bytes) => parse_tokens(&String::from_utf8_lossy(&bytes)),
        });
        parsed.unwrap_or_else(|problem| {
            self.problems.push(format!("{name}: {problem}"));
            Vec::new()
        })
    }

    fn secrets(&mut self) -> Vec<Secret> {
        if let Some(text) = self.variable("WEBHOOK_SECRET") {
            return vec![Secret(text.into_bytes())];
        }
        let (name, found) = if let Some(path) = self.variable("WEBHOOK_SECRET_FILE") {
            ("WEBHOOK_SECRET_FILE", (self.source.file)(&path))
        } else {
            let found = (self.source.credential)("webhook_secret");
            ("credential webhook_secret", found.map(Option::unwrap_or_default))
        };
        let bytes = match found {
            Ok(bytes) => bytes,
            Err(problem) => {
                self.problems.push(format!("{name}: {problem}"));
                return Vec::new();
            }
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let secrets: Vec<Secret> =
            lines.filter(|line| !line.is_empty()).map(|line| Secret(line.to_vec())).collect();
        if secrets.is_empty() && name == "WEBHOOK_SECRET_FILE" {
            self.problems.push(format!("{name}: expected at least one secret, one a line"));
        } else if secrets.is_empty() {
            self.problems.push(
                "WEBHOOK_SECRET is not set: expected the secret that the provider signs with, not empty"
                    .to_owned(),
            );
        } else if secrets.len() > SECRETS_MAX {
            self.problems.push(format!("{name}: expected at most {SECRETS_MAX} secrets"));
        }
        secrets
    }
}

/// Tokens as RFC 6750 has them, so that they fit into a header.
fn parse_tokens(text: &str) -> Result<Vec<Secret>, String> {
    let is_sane = |token: &str| token.bytes().all(|byte| byte.is_ascii_graphic());
    let tokens: Vec<&str> = text.split_whitespace().collect();
    if tokens.is_empty() || !tokens.iter().all(|token| is_sane(token)) {
        return Err("expected tokens of visible ASCII characters, parted by spaces or lines".into());
    }
    Ok(tokens.into_iter().map(|token| Secret(token.as_bytes().to_vec())).collect())
}

/// What stands between spaces or commas.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',']).filter(|word| !word.is_empty())
}

/// The names without the dot at their end that a client may send or leave out.
fn host_names(text: &str) -> Result<Vec<String>, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let name = |word: &str| {
        let name = word.strip_suffix('.').unwrap_or(word);
        (!name.is_empty() && name.bytes().all(is_allowed)).then(|| name.to_owned())
    };
    let names = words(text).map(name).collect::<Option<Vec<_>>>();
    names.ok_or_else(|| {
        "host names such as hooks.example.com, parted by spaces, without scheme, port or *".into()
    })
}

fn default_workers() -> usize {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    (2 * cores).clamp(4, WORKERS_MAX)
}

fn within<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    let (first, last) = (range.start(), range.end());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("a whole number from {first} to {last}"))
}

fn one_socket(text: &str) -> Result<u32, String> {
    within(text, &(0..=1)).map_err(|_| "one socket: the unit has too many ListenStream=".to_owned())
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_uppercase().as_str() {
        "DEBUG" => Ok(LevelFilter::Debug),
        "INFO" => Ok(LevelFilter::Info),
        "WARNING" | "WARN" => Ok(LevelFilter::Warn),
        "ERROR" => Ok(LevelFilter::Error),
        _ => Err("DEBUG, INFO, WARNING or ERROR".to_owned()),
    }
}

/// The path in an SQLAlchemy-style URL: three slashes and the path as it is.
fn database_path(text: &str) -> Result<PathBuf, String> {
    let expected = "sqlite:////absolute/path, sqlite:///relative/path or a bare path";
    let path = ["sqlite:///", "sqlite+aiosqlite:///"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    if ["sqlite:", "sqlite+aiosqlite:"].iter().any(|scheme| path.starts_with(scheme)) {
        return Err(
            "three slashes and a path: sqlite:///relative/path or sqlite:////absolute/path".into(),
        );
    }
    let scheme = |path: &str| {
        let (scheme, _) = path.split_once(':')?;
        (!scheme.is_empty() && !scheme.contains('/')).then(|| scheme.to_owned())
    };
    if path.contains(":memory:") {
        return Err(format!("a file, since messages must outlive the process: {expected}"));
    }
    if let Some(scheme) = scheme(path) {
        return Err(format!("{expected}; mailslot stores in SQLite and knows no {scheme:?}"));
    }
    if path.is_empty() || path.ends_with('/') || path.contains(['?', '\0']) {
        return Err(format!("{expected}, naming a file, without options"));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
impl Config {
    /// These settings and no others.
    pub(crate) fn read_variables(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(&Source {
            variable: &|name| {
                Ok(pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
            },
            credential: &|_| Ok(None),
            file: &|_| Err("is not there".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let config = Config::read_variables(&[("WEBHOOK_SECRET", "s"), ("DATABASE_URL", url)]);
            assert_eq!(config.map(|config| config.database), Ok(PathBuf::from(path)), "{url}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for url in [
            "postgres://db/app",
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            ":memory:",
            "sqlite:///app.db?mode=ro",
            "file:app.db",
            "mysql:///x",
            "sqlite:///data/",
        ] {
            let error = Config::read_variables(&[("WEBHOOK_SECRET", "s"), ("DATABASE_URL", url)])
                .map(|_| ());
            let Err(ConfigError(problems)) = error else { panic!("{url} was accepted") };
            assert!(problems[0].starts_with("DATABASE_URL="), "{problems:?}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let Err(ConfigError(problems)) = Config::read_variables(&[
            ("LISTEN", "localhost:80"),
            ("LOG_LEVEL", "loud"),
            ("WORKERS", "0"),
            ("DATABASE_URL", "x://y"),
        ]) else {
            panic!("accepted")
        };
        for name in ["WEBHOOK_SECRET", "LISTEN", "LOG_LEVEL", "WORKERS", "DATABASE_URL"] {
            assert_eq!(
                problems.iter().filter(|problem| problem.starts_with(name)).count(),
                1,
                "{name}"
            );
        }
    }

    #[test]
    fn a_secret_refuses_to_be_printed() {
        let config = Config::read_variables(&[("WEBHOOK_SECRET", "hunter2")]);
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
