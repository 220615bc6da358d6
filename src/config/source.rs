//! Where settings come from: the environment, a file of them, files that they name, credentials.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use super::{
    read::{ConfigError, SecretSources, Source},
    table::SETTINGS,
};

/// The settings of the environment and of the file that SETTINGS_FILE names.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The lines of the file by name: the value, and the number of the line.
    lines: HashMap<String, (String, usize)>,
    /// What is wrong with other lines of the file.
    problems: Vec<String>,
    /// The value of SETTINGS_FILE.
    pub(crate) file: Option<PathBuf>,
}

/// Where the value of a setting was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Environment,
    /// A line of SETTINGS_FILE, by its number.
    Line(usize),
}

impl Settings {
    /// The sources that this secret has, in the order of precedence.
    pub(crate) fn sources(&self, name: &str, secret: SecretSources) -> Vec<String> {
        let is_set = |name: &&str| self.find(name).is_ok_and(|found| found.is_some());
        let set = [name, secret.file_setting].into_iter().filter(is_set).map(str::to_owned);
        let credential = credential(secret.credential).ok().flatten();
        set.chain(credential.map(|_| format!("credential {}", secret.credential))).collect()
    }

    /// Whether the file that SETTINGS_FILE names has a secret.
    pub(crate) fn file_has_secrets(&self) -> bool {
        let mut secrets = SETTINGS.iter().filter(|setting| setting.secret.is_some());
        secrets.any(|setting| self.lines.contains_key(setting.name))
    }

    /// # Errors
    /// Where SETTINGS_FILE cannot be read at all.
    pub(crate) fn load() -> Result<Settings, ConfigError> {
        let Some(path) = env::var_os("SETTINGS_FILE").filter(|path| !path.is_empty()) else {
            return Ok(Settings::default());
        };
        let path = path.to_string_lossy();
        let text = read(&path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
        let text =
            text.map_err(|problem| ConfigError(vec![format!("SETTINGS_FILE: {problem}")]))?;
        let settings = Settings::parse(&path, &text);
        Ok(Settings { file: Some(PathBuf::from(&*path)), ..settings })
    }

    /// Parses `NAME=value` lines, as in systemd's EnvironmentFile= and Docker's --env-file. A line
    /// that begins with `#` is a comment.
    pub(crate) fn parse(path: &str, text: &str) -> Settings {
        let mut settings = Settings::default();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let problem = match line.split_once('=') {
                None => "expected NAME=value".to_owned(),
                Some((name, value)) if SETTINGS.iter().any(|setting| setting.name == name) => {
                    settings.lines.insert(name.to_owned(), (value.trim().to_owned(), number));
                    continue;
                }
                Some((name, _)) => format!("there is no setting {name:?}"),
            };
            settings.problems.push(format!("SETTINGS_FILE={path}, line {number}: {problem}"));
        }
        settings
    }

    /// An empty variable counts as unset, and then the line of the file counts.
    ///
    /// # Errors
    /// What is wrong with the environment's value.
    pub(crate) fn find(&self, name: &str) -> Result<Option<(String, Origin)>, String> {
        match env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some((value, Origin::Environment))),
            Ok(_) | Err(env::VarError::NotPresent) => {
                let line = self.lines.get(name).filter(|(value, _)| !value.is_empty());
                Ok(line.map(|(value, number)| (value.clone(), Origin::Line(*number))))
            }
            Err(env::VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
        }
    }
}

/// Reads from the environment, and from the file that SETTINGS_FILE names what the environment does
/// not set.
///
/// # Errors
/// Lists every setting that cannot be used.
pub fn with_source<T>(
    read_settings: impl Fn(&Source<'_>) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let settings = Settings::load()?;
    let found = read_settings(&Source {
        variable: &|name| Ok(settings.find(name)?.map(|(value, _)| value)),
        credential: &credential,
        file: &read,
    });
    let mut problems = settings.problems;
    match found {
        Ok(found) if problems.is_empty() => Ok(found),
        Ok(_) => Err(ConfigError(problems)),
        Err(error) => {
            problems.extend(error.0);
            Err(ConfigError(problems))
        }
    }
}

/// Reads a credential, a file that systemd passes to the service (LoadCredential= in
/// systemd.exec(5)).
pub(crate) fn credential(name: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(folder) = env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    match fs::read(Path::new(&folder).join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))
}
