//! Reads the settings one by one from a source, and collects what is wrong with them.

use std::fmt;

use super::{database::may_have_password, parse::Found, secret::Secret};

/// A row of the table of settings.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    pub default: Default,
    pub help: &'static str,
    /// SIGHUP applies a new value. Without it, a new value counts from the next start on.
    pub is_reloadable: bool,
    /// For a secret: where else it may come from.
    pub secret: Option<SecretSources>,
}

/// What counts where a setting is not set.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// A value, in the same form as the setting's own.
    Value(&'static str),
    /// A value that depends on the machine, and how it is found.
    Computed(fn() -> String, &'static str),
    /// No value; the text says what that means.
    None(&'static str),
    /// The setting is required; the text says what is expected.
    Required(&'static str),
}

impl Default {
    /// As documentation shows it.
    #[must_use]
    pub fn shown(&self) -> &'static str {
        match self {
            Default::Value(text) | Default::Computed(_, text) | Default::None(text) => text,
            Default::Required(_) => "required",
        }
    }

    pub(crate) fn value(&self) -> Option<String> {
        match self {
            Default::Value(text) => Some((*text).to_owned()),
            Default::Computed(compute, _) => Some(compute()),
            Default::None(_) | Default::Required(_) => None,
        }
    }
}

/// A secret can be set itself, by a setting that names a file, or as a credential of systemd. The
/// first of them that is there counts alone.
#[derive(Debug, Clone, Copy)]
pub struct SecretSources {
    pub file_setting: &'static str,
    pub credential: &'static str,
}

/// Every wrong setting, each with what was expected, so that the operator needs one restart only.
#[derive(Debug, PartialEq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Where settings come from: the environment of the process, or the closures of a test.
///
/// `variable` gives an environment variable, `credential` a file of systemd's
/// `$CREDENTIALS_DIRECTORY`; both say what is wrong if it is there and cannot be used.
pub struct Source<'a> {
    pub variable: Lookup<'a, String>,
    pub credential: Lookup<'a, Vec<u8>>,
    /// Reads a file that a setting names.
    pub file: &'a dyn Fn(&str) -> Result<Vec<u8>, String>,
}

type Lookup<'a, T> = &'a dyn Fn(&str) -> Result<Option<T>, String>;

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source(..)")
    }
}

pub(super) struct Reading<'a> {
    source: &'a Source<'a>,
    problems: Vec<String>,
}

impl Reading<'_> {
    pub(super) fn of<'a>(source: &'a Source<'a>) -> Reading<'a> {
        Reading { source, problems: Vec::new() }
    }

    /// `value` is `None` if it could not be read, and then there is a problem.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        value.filter(|_| self.problems.is_empty()).ok_or(ConfigError(self.problems))
    }

    pub(super) fn report(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// An empty variable counts as unset, since Compose and systemd pass "nothing" as an empty one.
    pub(super) fn variable(&mut self, name: &str) -> Option<String> {
        match (self.source.variable)(name) {
            Ok(value) => value.filter(|value| !value.is_empty()),
            Err(problem) => {
                self.problems.push(format!("{name} {problem}"));
                None
            }
        }
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.variable(name)?;
        self.parsed(name, &text, parse)
    }

    /// The value of a setting. A setting without value and without default is parsed as "".
    pub(super) fn value<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.variable(setting.name).or_else(|| setting.default.value());
        self.parsed(setting.name, &text.unwrap_or_default(), parse)
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let expected = match parse(text) {
            Ok(value) => return Some(value),
            Err(expected) => expected,
        };
        // A URL with a user in it may have a password, too.
        let shown = if may_have_password(text) { "…" } else { text };
        self.problems.push(format!("{name}={shown:?}: expected {expected}"));
        None
    }

    /// The keys of a setting that is a secret. A source that is there and has no key is a problem:
    /// an operator who sets a token does not want everybody to read.
    pub(super) fn keys(
        &mut self,
        setting: &Setting,
        parse: impl Fn(Found) -> Result<Vec<Secret>, String>,
    ) -> Option<Vec<Secret>> {
        let SecretSources { file_setting, credential } = setting.secret?;
        let (name, found) = if let Some(text) = self.variable(setting.name) {
            (setting.name.to_owned(), Ok(Some(Found::Variable(text))))
        } else if let Some(path) = self.variable(file_setting) {
            let found = (self.source.file)(&path);
            (file_setting.to_owned(), found.map(|bytes| Some(Found::File(bytes))))
        } else {
            let found = (self.source.credential)(credential);
            (format!("credential {credential}"), found.map(|bytes| bytes.map(Found::File)))
        };
        let problem = match (found.and_then(|found| found.map(parse).transpose()), setting.default)
        {
            (Ok(Some(keys)), _) => return Some(keys),
            (Ok(None), Default::Required(expected)) => {
                format!("{} is not set: expected {expected}", setting.name)
            }
            (Ok(None), _) => return Some(Vec::new()),
            (Err(problem), _) => format!("{name}: {problem}"),
        };
        self.problems.push(problem);
        None
    }
}
