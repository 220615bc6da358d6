//! Where settings come from: the environment, a file of them, files that they name, credentials.

use std::{collections::HashMap, env, fs, io, path::Path};

use crate::config::{ConfigError, SETTINGS, Source};

/// Reads from the environment and, for what is not in it, from the file that SETTINGS_FILE names.
///
/// # Errors
/// Lists every setting that cannot be used.
pub fn with_source<T>(
    read: impl Fn(&Source<'_>) -> Result<T, ConfigError>,
) -> Result<T, ConfigError> {
    let file =
        |path: &str| fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"));
    let settings = match env::var_os("SETTINGS_FILE").filter(|path| !path.is_empty()) {
        None => HashMap::new(),
        Some(path) => {
            let text = file(&path.to_string_lossy()).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
            });
            text.and_then(|text| settings(&text))
                .map_err(|problem| ConfigError(vec![format!("SETTINGS_FILE: {problem}")]))?
        }
    };
    read(&Source {
        variable: &|name| match env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(settings.get(name).cloned()),
            Err(env::VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
        },
        credential: &|name| {
            let Some(folder) = env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
            match fs::read(Path::new(&folder).join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("cannot be read: {error}")),
            }
        },
        file: &file,
    })
}

/// `NAME=value` lines, as systemd's EnvironmentFile= and Docker's --env-file have them; `#` begins a
/// line that is none.
fn settings(text: &str) -> Result<HashMap<String, String>, String> {
    let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(line, number)| {
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| format!("line {number}: expected NAME=value"))?;
            if !SETTINGS.iter().any(|setting| setting.name == name) {
                return Err(format!("line {number}: there is no setting {name:?}"));
            }
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}
