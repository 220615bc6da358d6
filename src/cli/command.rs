//! The table of a command: its usage line, its help, the parsing of its arguments and the
//! completions of shells follow from it.

use std::{
    ffi::{OsStr, OsString},
    fmt::{Display, Write as _},
    ops::RangeInclusive,
    str::FromStr,
};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser,
};

use super::outcome::{Failure, Outcome};
use crate::message::check_ts;
use crate::timestamp::Timestamp;

/// A command, such as `mailslot send`.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// In one line of `mailslot --help`.
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) options: &'static [Opt],
    pub(super) operand: Operand,
    pub(super) run: fn(&Arguments) -> Outcome,
}

pub(super) struct Opt {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    /// What its value is called; empty for a flag.
    pub(super) value: &'static str,
    pub(super) is_required: bool,
    pub(super) help: &'static str,
}

/// A flag that a row of a table completes.
pub(super) const OPTION: Opt =
    Opt { name: "", short: None, value: "", is_required: false, help: "" };

/// The argument that is not an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    None,
    Optional(&'static str),
    Required(&'static str),
}

/// What can be given for an option or as the operand, for the completions of a shell.
pub(super) enum Values {
    Files,
    /// One of these words.
    Words(Vec<&'static str>),
    /// Something that only the user knows.
    Free,
}

impl Values {
    /// Of a value's name: `FILE`, `FILE|-`, `ndjson|csv` or another.
    fn named(name: &'static str) -> Values {
        match name {
            _ if name.starts_with("FILE") => Values::Files,
            _ if name.contains('|') => Values::Words(name.split('|').collect()),
            _ => Values::Free,
        }
    }
}

impl Operand {
    pub(super) fn values(self) -> Option<Values> {
        match self {
            Operand::None => None,
            Operand::Optional(name) | Operand::Required(name) => Some(Values::named(name)),
        }
    }
}

impl Command {
    /// Such as `mailslot backup [--force] FILE`.
    pub(super) fn usage(&self) -> String {
        let mut usage = format!("mailslot {}", self.name);
        for option in self.options {
            let [open, close] = if option.is_required { ["", ""] } else { ["[", "]"] };
            let _ = write!(usage, " {open}{}{close}", option.usage());
        }
        match self.operand {
            Operand::None => {}
            Operand::Optional(name) => {
                let _ = write!(usage, " [{name}]");
            }
            Operand::Required(name) => {
                let _ = write!(usage, " {name}");
            }
        }
        usage
    }

    pub(super) fn help(&self) -> String {
        let mut help = format!("Usage: {}\n\n{}", self.usage(), self.description);
        if !self.options.is_empty() {
            help.push('\n');
        }
        for option in self.options {
            let short = option.short.map_or(String::new(), |short| format!("-{short}, "));
            let usage = format!("{short}{}", option.usage());
            let text = option.help.replace('\n', &format!("\n{:24}", ""));
            let _ = writeln!(help, "  {usage:<21} {text}");
        }
        help
    }

    pub(super) fn parse(&self, mut parser: Parser) -> Result<Arguments, Failure> {
        let mut arguments = Arguments { values: Vec::new(), operand: None };
        while let Some(argument) = parser.next()? {
            let option = self.options.iter().find(|option| match argument {
                Long(name) => option.name.strip_prefix("--") == Some(name),
                Short(name) => {
                    option.short == Some(name)
                        || option.name.strip_prefix('-') == Some(&*name.to_string())
                }
                Value(_) => false,
            });
            match (option, argument) {
                (Some(option), _) => {
                    let is_flag = option.value.is_empty();
                    let value = if is_flag { OsString::new() } else { parser.value()? };
                    arguments.values.push((option.name, value));
                }
                (None, Value(value))
                    if self.operand != Operand::None && arguments.operand.is_none() =>
                {
                    arguments.operand = Some(value);
                }
                (None, argument) => return Err(argument.unexpected().into()),
            }
        }
        let missing = |option: &&Opt| option.is_required && !arguments.has(option.name);
        match (self.options.iter().find(missing), self.operand) {
            (Some(option), _) => Err(Failure::Usage(format!("{} is missing", option.usage()))),
            (None, Operand::Required(name)) if arguments.operand.is_none() => {
                Err(Failure::Usage(format!("{name} is missing")))
            }
            _ => Ok(arguments),
        }
    }
}

impl Opt {
    /// What its value can be; `None` for a flag.
    pub(super) fn values(&self) -> Option<Values> {
        (!self.value.is_empty()).then(|| Values::named(self.value))
    }

    fn usage(&self) -> String {
        let space = if self.value.is_empty() { "" } else { " " };
        format!("{}{space}{}", self.name, self.value)
    }
}

/// The arguments that a command was given.
pub(super) struct Arguments {
    /// Options by their names, with their values.
    values: Vec<(&'static str, OsString)>,
    operand: Option<OsString>,
}

impl Arguments {
    pub(super) fn operand(&self) -> Option<&OsStr> {
        self.operand.as_deref()
    }

    /// The operand of a command that requires one.
    pub(super) fn file(&self) -> &OsStr {
        self.operand().unwrap_or_default()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Of a repeated option the last value counts.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        let found = self.values.iter().rfind(|(other, _)| *other == name);
        found.map(|(_, value)| value.as_os_str())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        let text = |value: &OsStr| {
            let text = value.to_str().map(str::to_owned);
            text.ok_or_else(|| Failure::Usage(format!("{name}: expected UTF-8")))
        };
        self.value(name).map(text).transpose()
    }

    pub(super) fn number<T>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, Failure>
    where
        T: FromStr + PartialOrd + Display,
    {
        let number = |value: &OsStr| {
            let text = value.to_string_lossy();
            let number = text.parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| {
                let (first, last) = (range.start(), range.end());
                Failure::Usage(format!("{name} {text:?}: expected a number from {first} to {last}"))
            })
        };
        self.value(name).map(number).transpose()
    }

    /// A moment, in the form that the API takes.
    pub(super) fn instant(&self, name: &str) -> Result<Option<Timestamp>, Failure> {
        let instant = |text: String| {
            check_ts(&text).map_err(|_| {
                let expected = "a timestamp such as 2025-01-15T10:00:00Z";
                Failure::Usage(format!("{name} {text:?}: expected {expected}"))
            })
        };
        self.text(name)?.map(instant).transpose()
    }
}
