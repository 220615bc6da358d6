//! What running a command comes to: done, or why not, and the exit status that follows.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{config::ConfigError, error::Error};

/// Wrong settings or arguments: trying again will not help.
const EXIT_USAGE: u8 = 2;
/// Everything else that keeps mailslot from doing what it was asked to do.
const EXIT_FAILURE: u8 = 1;

pub(super) type Outcome = Result<(), Failure>;

/// Why a command has not done what it was asked to do.
#[derive(Debug)]
pub(super) enum Failure {
    /// The arguments are wrong.
    Usage(String),
    /// The settings are wrong.
    Settings(Vec<String>),
    /// What is wrong, and what to do.
    Failed(Vec<String>),
    /// The output says what is wrong.
    InOutput,
    /// The reader of the output has closed it, which is no failure.
    OutputClosed,
}

impl Failure {
    pub(super) fn failed(problem: impl Into<String>) -> Failure {
        Failure::Failed(vec![problem.into()])
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Settings(error.0)
    }
}

impl From<String> for Failure {
    fn from(problem: String) -> Failure {
        Failure::failed(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::failed(reason(&error))
    }
}

/// Reports a failure on stderr. `help` is the command that explains the arguments.
pub(super) fn exit_code(outcome: Outcome, help: &str) -> ExitCode {
    let (problems, status) = match outcome {
        Ok(()) | Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Err(Failure::Usage(problem)) => (vec![format!("{problem}; see {help}")], EXIT_USAGE),
        Err(Failure::Settings(problems)) => (problems, EXIT_USAGE),
        Err(Failure::Failed(problems)) => (problems, EXIT_FAILURE),
        Err(Failure::InOutput) => (Vec::new(), EXIT_FAILURE),
    };
    for problem in problems {
        // There is no other way to report that stderr is closed.
        let _ = writeln!(io::stderr(), "mailslot: {problem}");
    }
    ExitCode::from(status)
}

/// Why something was refused, for the operator.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Invalid { problems, .. } => {
            let problem = |problem: &crate::error::Problem| {
                let field = problem.loc.last().and_then(serde_json::Value::as_str);
                format!("{} {}", field.unwrap_or("it:"), problem.msg)
            };
            problems.iter().map(problem).collect::<Vec<_>>().join("; ")
        }
        Error::Unavailable(reason) => (*reason).to_owned(),
        Error::CursorAhead => "the database was replaced meanwhile: run it again".to_owned(),
        other => format!("{other:?}"),
    }
}
