//! `mailslot config`: the effective settings, each with where it comes from, and no secret.

use lexopt::{Arg::Long, Parser};
use serde_json::{Map, json};

use super::{Outcome, say};
use crate::config::{Config, Place, SETTINGS, Setting, Settings, with_source};

pub(super) const HELP: &str = "\
Prints every setting with the value that a service started now would use, and in brackets where the value
comes from: default, environment, a line of SETTINGS_FILE, a file or a credential. A secret or a token is
printed as ***, one for each. Exit status: 2, with all problems on stderr, if settings are wrong.

  --json   one JSON object: {NAME: {\"value\": TEXT or null, \"source\": TEXT}}
";

/// What stands for a secret.
const MASK: &str = "***";

/// A line of the output; no value where the setting is off.
struct Row {
    name: &'static str,
    value: Option<String>,
    source: String,
}

pub(super) fn run(mut parser: Parser) -> Outcome {
    let mut as_json = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => as_json = true,
            _ => return Err(argument.unexpected().into()),
        }
    }
    let config = with_source(Config::read)?;
    let settings = Settings::load()?;
    let rows = SETTINGS.iter().map(|setting| row(setting, &config, &settings));
    if as_json {
        let pair =
            |row: Row| (row.name.to_owned(), json!({ "value": row.value, "source": row.source }));
        return say(&format!("{}\n", json!(rows.map(pair).collect::<Map<_, _>>())));
    }
    let line = |Row { name, value, source }| {
        format!("{name:<31} {} [{source}]\n", value.as_deref().unwrap_or("none"))
    };
    say(&rows.map(line).collect::<String>())
}

fn row(setting: &Setting, config: &Config, settings: &Settings) -> Row {
    let name = setting.name;
    // Config::read has found it to be text.
    let found = settings.find(name).ok().flatten();
    let source = match &found {
        Some((_, Place::Environment)) => "environment".to_owned(),
        Some((_, Place::Line(number))) => format!("SETTINGS_FILE line {number}"),
        None => "default".to_owned(),
    };
    let Some(secret) = setting.secret else {
        let value = found.map(|(value, _)| value).or_else(|| setting.default.value());
        return Row { name, value, source };
    };
    let elsewhere = settings.sources(name, secret).into_iter().find(|place| place != name);
    let source = elsewhere.filter(|_| found.is_none()).unwrap_or(source);
    let masks: Vec<&str> = config.keys().filter(|key| key.setting == name).map(|_| MASK).collect();
    Row { name, value: Some(masks.join(" ")).filter(|value| !value.is_empty()), source }
}
