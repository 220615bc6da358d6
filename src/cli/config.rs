//! `mailslot config`: the effective settings with their sources, and without secrets.

use serde_json::{Map, json};

use super::{
    command::{Arguments, Command, OPTION, Operand, Opt},
    outcome::Outcome,
    output::print,
};
use crate::config::{Config, Origin, SETTINGS, Setting, Settings, with_source, without_password};

pub(super) const COMMAND: Command = Command {
    name: "config",
    summary: "print the effective settings and where each comes from",
    description: "\
Prints every setting with the value that a service started now would use, and in brackets the source
of the value: default, environment, a line of SETTINGS_FILE, a file or a credential. Each secret or
token is printed as ***. Exit status: 2, with all problems on stderr, if settings are wrong.
",
    options: &[Opt {
        name: "--json",
        help: "one JSON object: {NAME: {\"value\": TEXT or null, \"source\": TEXT}}",
        ..OPTION
    }],
    operand: Operand::None,
    run,
};

/// Printed instead of a secret.
const MASK: &str = "***";

/// A line of the output, without a value where the setting has none.
struct Row {
    name: &'static str,
    value: Option<String>,
    source: String,
}

fn run(arguments: &Arguments) -> Outcome {
    let config = with_source(Config::read)?;
    let settings = Settings::load()?;
    let rows = SETTINGS.iter().map(|setting| row(setting, &config, &settings));
    if arguments.has("--json") {
        let pair =
            |row: Row| (row.name.to_owned(), json!({ "value": row.value, "source": row.source }));
        return print(&format!("{}\n", json!(rows.map(pair).collect::<Map<_, _>>())));
    }
    let line = |Row { name, value, source }| {
        format!("{name:<31} {} [{source}]\n", value.as_deref().unwrap_or("none"))
    };
    print(&rows.map(line).collect::<String>())
}

fn row(setting: &Setting, config: &Config, settings: &Settings) -> Row {
    let name = setting.name;
    // An error is not possible here: `Config::read` has read the same settings.
    let found = settings.find(name).ok().flatten();
    let source = match &found {
        Some((_, Origin::Environment)) => "environment".to_owned(),
        Some((_, Origin::Line(number))) => format!("SETTINGS_FILE line {number}"),
        None => "default".to_owned(),
    };
    let Some(secret) = setting.secret else {
        let value = found.map(|(value, _)| value).or_else(|| setting.default.value());
        let value = value.map(|value| without_password(&value));
        return Row { name, value, source };
    };
    let elsewhere = settings.sources(name, secret).into_iter().find(|source| source != name);
    let source = elsewhere.filter(|_| found.is_none()).unwrap_or(source);
    let masks: Vec<&str> = config.keys().filter(|key| key.setting == name).map(|_| MASK).collect();
    Row { name, value: Some(masks.join(" ")).filter(|value| !value.is_empty()), source }
}
