//! `mailslot man`: the manual page, from the tables of commands and settings, in the macros of
//! man(7).

use std::fmt::Write as _;

use super::command::{Command, Opt};
use crate::config::SETTINGS;

const BEGINNING: &str = "\
.SH NAME
mailslot \\- a webhook inbox: signed messages in, stored exactly once in SQLite
.SH SYNOPSIS
.B mailslot
.RI [ COMMAND ]
.RI [ OPTIONS ]
.SH DESCRIPTION
";

const EXAMPLES: &str = "\
.SH EXAMPLES
An inbox in the current directory, and 100 signed messages for it from another terminal:
.PP
.EX
WEBHOOK_SECRET=testsecret mailslot
WEBHOOK_SECRET=testsecret mailslot send \\-\\-count 100
.EE
.SH FILES
As the units of systemd and the Debian package have them:
.TP
.I /etc/mailslot/webhook_secret
The key of the provider's signatures, for root only.
.TP
.I /etc/mailslot/mailslot.env
Settings, one NAME=value a line.
.TP
.I /var/lib/mailslot/mailslot.db
The messages, as an SQLite database.
";

/// The page. `about` is what mailslot is, `exit_status` what its statuses mean.
pub(super) fn page(about: &str, exit_status: &str, commands: &[&Command]) -> String {
    let mut page = format!(
        ".\\\" Printed by `mailslot man`.\n.TH MAILSLOT 1 \"\" \"mailslot {}\"\n{BEGINNING}{}",
        env!("CARGO_PKG_VERSION"),
        roff(about)
    );
    page.push_str(".SH COMMANDS\n");
    for command in commands {
        let _ = write!(page, ".SS {}\n{}", roff(&command.usage()), roff(command.description));
        for option in command.options {
            write_option(&mut page, option);
        }
    }
    page.push_str(".SH ENVIRONMENT\nAn empty variable counts as unset.\n");
    for setting in SETTINGS {
        let (help, default) = (roff(setting.help), roff(setting.default.shown()));
        let _ = writeln!(page, ".TP\n.B {}\n{help} [{default}]", setting.name);
    }
    page.push_str(EXAMPLES);
    let _ = write!(page, ".SH EXIT STATUS\n{}\n", roff(exit_status));
    page
}

fn write_option(page: &mut String, option: &Opt) {
    let short = option.short.map_or(String::new(), |short| format!("-{short}, "));
    let name = roff(&format!("{short}{}", option.name));
    let (value, help) = (roff(option.value), roff(option.help));
    let _ = writeln!(page, ".TP\n\\fB{name}\\fR \\fI{value}\\fR\n{help}");
}

/// A text in which no character is syntax, and which can be copied from the page as it is.
fn roff(text: &str) -> String {
    let mut escaped = String::new();
    let mut is_first = true;
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '~' => escaped.push_str("\\(ti"),
            '^' => escaped.push_str("\\(ha"),
            // At the beginning of a line it would be a macro.
            '.' if is_first => escaped.push_str("\\&."),
            c => escaped.push(c),
        }
        is_first = c == '\n';
    }
    escaped
}
