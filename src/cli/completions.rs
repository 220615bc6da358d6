//! `mailslot completions`: what a shell offers when Tab is pressed, from the table of commands.

use std::fmt::Write as _;

use super::command::{Command, Opt, Values};

/// Makes a script from all commands.
type Script = fn(&[&Command]) -> String;

pub(super) const SHELLS: [(&str, Script); 3] = [("bash", bash), ("zsh", zsh), ("fish", fish)];

/// What may be given in place of a command's name.
const OTHERS: [&str; 2] = ["--help", "--version"];

/// The names of an option, the long one first.
fn names(option: &Opt) -> Vec<String> {
    let short = option.short.map(|short| format!("-{short}"));
    [option.name.to_owned()].into_iter().chain(short).collect()
}

fn bash_values(values: &Values) -> String {
    match values {
        Values::Files => "compopt -o default ;;".to_owned(),
        Values::Words(words) => format!("words='{}' ;;", words.join(" ")),
        Values::Free => ";;".to_owned(),
    }
}

fn bash(commands: &[&Command]) -> String {
    let verbs: Vec<_> = commands.iter().map(|command| command.name).chain(OTHERS).collect();
    let mut cases = format!("        1,*) words='{}' ;;\n", verbs.join(" "));
    for command in commands {
        let verb = command.name;
        let mut options = vec!["--help".to_owned()];
        for option in command.options {
            if let Some(values) = option.values() {
                for name in names(option) {
                    let values = bash_values(&values);
                    let _ = writeln!(cases, "        *,{verb},{name},*) {values}");
                }
            }
            options.extend(names(option));
        }
        let _ = writeln!(cases, "        *,{verb},*,-*) words='{}' ;;", options.join(" "));
        if let Some(values) = command.operand.values() {
            let _ = writeln!(cases, "        *,{verb},*) {}", bash_values(&values));
        }
    }
    format!(
        "\
# Completions of mailslot for bash, as `mailslot completions bash` prints them.
_mailslot() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} words=
    # The number of the word, the command, the word before, and the beginning of the word.
    case $COMP_CWORD,${{COMP_WORDS[1]}},$previous,$word in
{cases}    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))
}}
complete -F _mailslot mailslot
"
    )
}

/// A text within single quotes, in which `]` and `:` are no syntax of zsh's `_arguments`.
fn zsh_text(text: &str) -> String {
    let text = text.replace('\n', " ").replace('\'', r"'\''");
    text.replace('[', r"\[").replace(']', r"\]").replace(':', r"\:")
}

fn zsh_values(values: &Values) -> String {
    match values {
        Values::Files => "_files".to_owned(),
        Values::Words(words) => format!("({})", words.join(" ")),
        Values::Free => String::new(),
    }
}

fn zsh(commands: &[&Command]) -> String {
    let (mut verbs, mut cases) = (String::new(), String::new());
    for command in commands {
        let verb = command.name;
        let _ = writeln!(verbs, "        '{verb}:{}'", zsh_text(command.summary));
        let _ = write!(cases, "        {verb}) _arguments '--help[explain this command]'");
        for option in command.options {
            let values = option.values().map(|values| zsh_values(&values));
            let value = values.map(|values| format!(":{}:{values}", zsh_text(option.value)));
            for name in names(option) {
                let (help, value) = (zsh_text(option.help), value.as_deref().unwrap_or_default());
                let _ = write!(cases, " \\\n            '{name}[{help}]{value}'");
            }
        }
        if let Some(values) = command.operand.values() {
            let _ = write!(cases, " \\\n            '1:argument:{}'", zsh_values(&values));
        }
        cases.push_str(" ;;\n");
    }
    format!(
        "\
#compdef mailslot
# Completions of mailslot for zsh, as `mailslot completions zsh` prints them.
_mailslot() {{
    local -a verbs=(
{verbs}    )
    if (( CURRENT == 2 )); then
        _describe command verbs
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
{cases}    esac
}}
# The file is sourced, or loaded by zsh from its fpath as the function itself.
if [[ $funcstack[1] == _mailslot ]]; then _mailslot \"$@\"; else compdef _mailslot mailslot; fi
"
    )
}

fn fish_text(text: &str) -> String {
    format!("'{}'", text.replace('\n', " ").replace('\\', r"\\").replace('\'', r"\'"))
}

fn fish(commands: &[&Command]) -> String {
    let mut lines = String::from(
        "\
# Completions of mailslot for fish, as `mailslot completions fish` prints them.
complete -c mailslot -f
complete -c mailslot -n __fish_use_subcommand -l help -d 'list commands and settings'
complete -c mailslot -n __fish_use_subcommand -l version -d 'print the version'
",
    );
    for command in commands {
        let (verb, summary) = (command.name, fish_text(command.summary));
        let _ =
            writeln!(lines, "complete -c mailslot -n __fish_use_subcommand -a {verb} -d {summary}");
        let condition = format!("complete -c mailslot -n '__fish_seen_subcommand_from {verb}'");
        let values = |values: &Values| match values {
            Values::Files => " -r -F".to_owned(),
            Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
            Values::Free => " -x".to_owned(),
        };
        let _ = writeln!(lines, "{condition} -l help -d 'explain this command'");
        for option in command.options {
            let name = option.name.strip_prefix("--").map(|name| format!(" -l {name}"));
            let name = name.unwrap_or_else(|| option.name.replacen('-', " -s ", 1));
            let short = option.short.map(|short| format!(" -s {short}")).unwrap_or_default();
            let value = option.values().map(|found| values(&found)).unwrap_or_default();
            let help = fish_text(option.help);
            let _ = writeln!(lines, "{condition}{name}{short}{value} -d {help}");
        }
        let operand = match command.operand.values() {
            Some(Values::Files) => " -F".to_owned(),
            Some(Values::Words(words)) => format!(" -a '{}'", words.join(" ")),
            Some(Values::Free) | None => continue,
        };
        let _ = writeln!(lines, "{condition}{operand}");
    }
    lines
}
