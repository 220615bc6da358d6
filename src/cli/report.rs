//! The findings of `mailslot check`: a line each as they are found, or one JSON object at the end.

use serde::Serialize;
use serde_json::json;

use super::{
    outcome::{Failure, Outcome},
    output::print,
};

/// From the least to the worst, so that the verdict is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, and could be better.
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// What it is about: a setting, the database, the disk.
    what: String,
    message: String,
}

#[derive(Debug)]
pub(super) struct Report {
    as_json: bool,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(as_json: bool) -> Report {
        Report { as_json, findings: Vec::new() }
    }

    pub(super) fn ok(&mut self, what: &str, message: impl Into<String>) -> Outcome {
        self.add(Level::Ok, what, message.into())
    }

    pub(super) fn warn(&mut self, what: &str, message: impl Into<String>) -> Outcome {
        self.add(Level::Warning, what, message.into())
    }

    pub(super) fn problem(&mut self, what: &str, message: impl Into<String>) -> Outcome {
        self.add(Level::Problem, what, message.into())
    }

    fn add(&mut self, level: Level, what: &str, message: String) -> Outcome {
        if !self.as_json {
            let word = match level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Problem => "PROBLEM",
            };
            print(&format!("{word:<8} {what}: {message}\n"))?;
        }
        self.findings.push(Finding { level, what: what.to_owned(), message });
        Ok(())
    }

    /// # Errors
    /// Where a problem was found.
    pub(super) fn finish(self) -> Outcome {
        let verdict = self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        if self.as_json {
            print(&format!("{}\n", json!({ "verdict": verdict, "findings": self.findings })))?;
        }
        if verdict == Level::Problem { Err(Failure::InOutput) } else { Ok(()) }
    }
}
