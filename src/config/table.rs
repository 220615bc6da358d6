//! Every setting in one table.
//!
//! A row declares a setting completely: its field in [`Config`], its parser, and in [`Setting`] its
//! name, its default, its help, whether SIGHUP applies it, and where else a secret may come from.
//! `--help`, `mailslot config`, the documentation's test and the reload follow from that row.

use std::{net::SocketAddr, thread, time::Duration};

use ipnet::IpNet;
use log::LevelFilter;

use super::{
    database::{self, Database},
    inherited::Inherited,
    parse::{
        address, base_url, base64_keys, bearer_tokens, host_names, key_lines, level, networks,
        optional, switch, within,
    },
    read::{ConfigError, Default, Reading, SecretSources, Setting, Source},
    secret::Secret,
};

/// Webhook secrets that are valid at once. Each of them costs every delivery a microsecond.
pub(crate) const SECRETS_MAX: usize = 8;
/// More threads than this only cost CPU (32 cost 90 % more than 4).
pub(crate) const WORKERS_MAX: usize = 64;

const NONE: Default = Default::None("none");
/// What a row does not say.
const ROW: Setting =
    Setting { name: "", default: NONE, help: "", is_reloadable: false, secret: None };

macro_rules! settings {
    (
        fields {
            $($(#[$doc:meta])*
            $field:ident: $type:ty = $read:ident($parse:expr), $setting:expr;)*
        }
        files { $($file:expr;)* }
    ) => {
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[$doc])* pub $field: $type,)*
            pub inherited: Inherited,
        }

        /// In the order in which documentation shows them.
        pub const SETTINGS: &[Setting] = &[$($setting,)* $($file),*];

        $(fn $field(reading: &mut Reading<'_>) -> Option<$type> {
            reading.$read(&$setting, $parse)
        })*

        impl Config {
            /// # Errors
            /// Lists every setting that cannot be used.
            pub fn read(source: &Source<'_>) -> Result<Config, ConfigError> {
                let mut reading = Reading::of(source);
                $(let $field = $field(&mut reading);)*
                let inherited = Inherited::read(&mut reading);
                let config = || Some(Config { $($field: $field?,)* inherited });
                let config = config();
                config.iter().flat_map(Config::lacks).for_each(|lack| reading.report(lack));
                reading.finish(config)
            }

            /// Takes from `new` what can change while mailslot runs. Gives the names of the
            /// settings that have changed so, and of those that a restart would change.
            pub(crate) fn reload(
                &mut self,
                new: &Config,
            ) -> (Vec<&'static str>, Vec<&'static str>) {
                let (mut changed, mut after_restart) = (Vec::new(), Vec::new());
                $(if self.$field != new.$field {
                    let Setting { name, is_reloadable, .. } = $setting;
                    if is_reloadable {
                        self.$field.clone_from(&new.$field);
                        changed.push(name);
                    } else {
                        after_restart.push(name);
                    }
                })*
                (changed, after_restart)
            }
        }
    };
}

settings! {
fields {
    /// Every one is valid. The first is the current one, with which mailslot itself signs.
    webhook_secrets: Vec<Secret> = keys(key_lines(SECRETS_MAX)), Setting {
        name: "WEBHOOK_SECRET",
        default: Default::Required("the secret that the provider signs with, not empty"),
        help: "HMAC key of POST /webhook; or the systemd credential webhook_secret",
        is_reloadable: true,
        secret: Some(SecretSources {
            file_setting: "WEBHOOK_SECRET_FILE",
            credential: "webhook_secret",
        }),
    };
    /// Each of them lets its holder read. Without any, reading needs no token.
    read_tokens: Vec<Secret> = keys(bearer_tokens), Setting {
        name: "READ_TOKEN",
        default: Default::None("none: reading needs no token"),
        help: "bearer token required for reads; space-separated list; or the credential read_token",
        is_reloadable: true,
        secret: Some(SecretSources { file_setting: "READ_TOKEN_FILE", credential: "read_token" }),
    };
    /// Host names under which clients may read while there is no read token.
    hosts: Vec<String> = value(host_names), Setting {
        name: "HOSTS",
        help: "without READ_TOKEN: host names under which clients may read; space-separated list",
        is_reloadable: true,
        ..ROW
    };
    /// Every one is valid, as for the other secrets. Without any, there is no /webhook/whatsapp.
    whatsapp_app_secrets: Vec<Secret> = keys(key_lines(SECRETS_MAX)), Setting {
        name: "WHATSAPP_APP_SECRET",
        default: Default::None("none: there is no /webhook/whatsapp"),
        help: "Meta's app secret, for /webhook/whatsapp; or the credential whatsapp_app_secret",
        is_reloadable: true,
        secret: Some(SecretSources {
            file_setting: "WHATSAPP_APP_SECRET_FILE",
            credential: "whatsapp_app_secret",
        }),
    };
    whatsapp_verify_tokens: Vec<Secret> = keys(key_lines(SECRETS_MAX)), Setting {
        name: "WHATSAPP_VERIFY_TOKEN",
        help: "the token of Meta's set-up request; or the credential whatsapp_verify_token",
        is_reloadable: true,
        secret: Some(SecretSources {
            file_setting: "WHATSAPP_VERIFY_TOKEN_FILE",
            credential: "whatsapp_verify_token",
        }),
        ..ROW
    };
    twilio_auth_tokens: Vec<Secret> = keys(key_lines(SECRETS_MAX)), Setting {
        name: "TWILIO_AUTH_TOKEN",
        default: Default::None("none: there is no /webhook/twilio"),
        help: "Twilio's auth token, for /webhook/twilio; or the credential twilio_auth_token",
        is_reloadable: true,
        secret: Some(SecretSources {
            file_setting: "TWILIO_AUTH_TOKEN_FILE",
            credential: "twilio_auth_token",
        }),
    };
    /// Keys, decoded.
    standard_webhooks_secrets: Vec<Secret> = keys(base64_keys(SECRETS_MAX)), Setting {
        name: "STANDARD_WEBHOOKS_SECRET",
        default: Default::None("none: there is no /webhook/standard"),
        help: "whsec_… for /webhook/standard; or the credential standard_webhooks_secret",
        is_reloadable: true,
        secret: Some(SecretSources {
            file_setting: "STANDARD_WEBHOOKS_SECRET_FILE",
            credential: "standard_webhooks_secret",
        }),
    };
    /// Scheme, host and perhaps a path, without a slash at the end.
    public_url: Option<String> = value(optional(base_url)), Setting {
        name: "PUBLIC_URL",
        help: "URL under which the proxy serves mailslot, which Twilio signs: https://HOST[/PATH]",
        is_reloadable: true,
        ..ROW
    };
    keep_originals: bool = value(switch), Setting {
        name: "KEEP_ORIGINALS",
        default: Default::Value("1"),
        help: "1 keeps what a provider sent of each message beside it; 0 does not",
        is_reloadable: true,
        ..ROW
    };
    database: Database = value(database::database), Setting {
        name: "DATABASE_URL",
        default: Default::Value("sqlite:///mailslot.db"),
        help: "a path, sqlite:////absolute/path, or postgres://user:password@host/database",
        ..ROW
    };
    search_index: bool = value(switch), Setting {
        name: "SEARCH_INDEX",
        default: Default::Value("on"),
        help: "on or off: whether PostgreSQL has an index for searches",
        ..ROW
    };
    listen: SocketAddr = value(address), Setting {
        name: "LISTEN",
        default: Default::Value("127.0.0.1:8000"),
        help: "numeric ADDR:PORT, IPv4 or [IPv6]; port 0 picks a free one and logs it",
        ..ROW
    };
    log_level: LevelFilter = value(level), Setting {
        name: "LOG_LEVEL",
        default: Default::Value("INFO"),
        help: "DEBUG, INFO, WARNING or ERROR",
        is_reloadable: true,
        ..ROW
    };
    workers: usize = value(within(1..=WORKERS_MAX)), Setting {
        name: "WORKERS",
        default: Default::Computed(default_workers, "2 per core, at least 4"),
        help: "threads that answer requests, 1 to 64",
        ..ROW
    };
    max_connections: usize = value(within(8..=16_384)), Setting {
        name: "MAX_CONNECTIONS",
        default: Default::Value("1024"),
        help: "open connections, 8 to 16384; beyond it the longest idle ones are closed",
        ..ROW
    };
    max_connections_per_address: usize = value(within(8..=16_384)), Setting {
        name: "MAX_CONNECTIONS_PER_ADDRESS",
        default: Default::Value("256"),
        help: "the same for each client address, except this machine's own",
        ..ROW
    };
    /// How long messages are kept.
    retention: Option<Duration> = value(optional(|text| {
        within(1..=36_500)(text).map(|days| Duration::from_hours(24 * days))
    })), Setting {
        name: "RETENTION_DAYS",
        default: Default::None("none: messages are kept"),
        help: "messages whose ts is older are deleted, 1 to 36500",
        ..ROW
    };
    requests_per_second: Option<u32> = value(optional(within(1..=1_000_000))), Setting {
        name: "REQUESTS_PER_SECOND",
        help: "limit for all clients together, 1 to 1000000; beyond it they get 429",
        ..ROW
    };
    requests_per_second_per_address: Option<u32> = value(optional(within(1..=1_000_000))), Setting {
        name: "REQUESTS_PER_SECOND_PER_ADDRESS",
        help: "the same for each client address",
        ..ROW
    };
    trusted_proxies: Vec<IpNet> = value(networks), Setting {
        name: "TRUSTED_PROXIES",
        help: "addresses or networks whose X-Forwarded-For is trusted; space-separated list",
        ..ROW
    };
    /// From the end of a response, or from the start of a connection, to the end of the next head.
    idle: Duration = value(|text| {
        within(1_000..=600_000)(text).map(Duration::from_millis)
    }), Setting {
        name: "IDLE_MS",
        default: Default::Value("30000"),
        help: "milliseconds that a client may take for a request's head, 1000 to 600000",
        ..ROW
    };
}
files {
    Setting {
        name: "WEBHOOK_SECRET_FILE",
        help: "file with several keys instead, one a line, all valid, the first one current",
        ..ROW
    };
    Setting {
        name: "READ_TOKEN_FILE",
        help: "file with tokens instead, one a line",
        ..ROW
    };
    Setting {
        name: "WHATSAPP_APP_SECRET_FILE",
        help: "file with app secrets instead, one a line, all valid",
        ..ROW
    };
    Setting {
        name: "WHATSAPP_VERIFY_TOKEN_FILE",
        help: "file with verify tokens instead, one a line, all valid",
        ..ROW
    };
    Setting {
        name: "TWILIO_AUTH_TOKEN_FILE",
        help: "file with auth tokens instead, one a line, all valid",
        ..ROW
    };
    Setting {
        name: "STANDARD_WEBHOOKS_SECRET_FILE",
        help: "file with secrets instead, one a line, all valid, the first one current",
        ..ROW
    };
    Setting {
        name: "SETTINGS_FILE",
        help: "file of NAME=value lines, for settings that the environment does not set",
        ..ROW
    };
}
}

fn default_workers() -> String {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    (2 * cores).clamp(4, WORKERS_MAX).to_string()
}

/// How many connections clients may have, and how long they may keep them idle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Open connections; beyond it the longest idle ones are closed.
    pub(crate) connections: usize,
    /// The same for each client address, except this machine's own.
    pub(crate) connections_per_address: usize,
    /// [`Config::idle`].
    pub(crate) idle: Duration,
}

/// Requests a second, and the proxies that say which client a request is from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    pub(crate) in_all: Option<u32>,
    pub(crate) per_address: Option<u32>,
    pub(crate) trusted_proxies: Vec<IpNet>,
}

/// A secret or a token that is in effect.
#[derive(Debug)]
pub(crate) struct Key<'a> {
    pub(crate) setting: &'static str,
    /// For the operator, such as `read token 2`; it does not tell the value.
    pub(crate) name: String,
    pub(crate) secret: &'a Secret,
}

impl Config {
    /// DATABASE_URL alone.
    ///
    /// # Errors
    /// When it names no file and no server.
    pub fn read_database(source: &Source<'_>) -> Result<Database, ConfigError> {
        let mut reading = Reading::of(source);
        let database = database(&mut reading);
        reading.finish(database)
    }

    /// LISTEN alone.
    ///
    /// # Errors
    /// When it is no numeric address.
    pub fn read_listen(source: &Source<'_>) -> Result<SocketAddr, ConfigError> {
        let mut reading = Reading::of(source);
        let listen = listen(&mut reading);
        reading.finish(listen)
    }

    /// Settings that others need, and that are not set.
    fn lacks(&self) -> Vec<String> {
        let app_secret = !self.whatsapp_app_secrets.is_empty();
        let verify_token = !self.whatsapp_verify_tokens.is_empty();
        let auth_token = !self.twilio_auth_tokens.is_empty();
        let needs = [
            (app_secret, verify_token, "WHATSAPP_APP_SECRET", "WHATSAPP_VERIFY_TOKEN"),
            (verify_token, app_secret, "WHATSAPP_VERIFY_TOKEN", "WHATSAPP_APP_SECRET"),
            (auth_token, self.public_url.is_some(), "TWILIO_AUTH_TOKEN", "PUBLIC_URL"),
        ];
        let lacks = needs.into_iter().filter(|(is_set, has_other, ..)| *is_set && !has_other);
        let sentence = |name: &str, other: &str| {
            format!("{other} is not set: expected as the provider's console has it, beside {name}")
        };
        lacks.map(|(_, _, name, other)| sentence(name, other)).collect()
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            idle: self.idle,
        }
    }

    pub(crate) fn rates(&self) -> Rates {
        Rates {
            in_all: self.requests_per_second,
            per_address: self.requests_per_second_per_address,
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let of = |setting, kind: &'static str, secrets| {
            let named =
                move |(number, secret)| Key { setting, name: format!("{kind} {number}"), secret };
            (1..).zip(secrets).map(named)
        };
        let app_secrets = &self.whatsapp_app_secrets;
        let verify_tokens = &self.whatsapp_verify_tokens;
        let standard_secrets = &self.standard_webhooks_secrets;
        of("WEBHOOK_SECRET", "secret", &self.webhook_secrets)
            .chain(of("READ_TOKEN", "read token", &self.read_tokens))
            .chain(of("WHATSAPP_APP_SECRET", "WhatsApp app secret", app_secrets))
            .chain(of("WHATSAPP_VERIFY_TOKEN", "WhatsApp verify token", verify_tokens))
            .chain(of("TWILIO_AUTH_TOKEN", "Twilio auth token", &self.twilio_auth_tokens))
            .chain(of("STANDARD_WEBHOOKS_SECRET", "Standard Webhooks secret", standard_secrets))
    }
}

#[cfg(any(test, fuzzing))]
impl Config {
    /// The settings with which every route is there.
    pub(crate) const EVERY_ROUTE: &[(&str, &str)] = &[
        ("WEBHOOK_SECRET", "secret"),
        ("WHATSAPP_APP_SECRET", "app secret"),
        ("WHATSAPP_VERIFY_TOKEN", "token"),
        ("TWILIO_AUTH_TOKEN", "12345"),
        ("PUBLIC_URL", "https://example.com"),
        ("STANDARD_WEBHOOKS_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ];

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
