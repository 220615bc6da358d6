//! The completions and the manual page, as shells and man(1) read them, where those are installed.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use mailslot::config::SETTINGS;

use crate::cli::VERBS;

fn printed(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_mailslot")).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a program prints with this input; `None` where it is not installed.
fn piped(program: &str, arguments: &[&str], input: &str) -> Option<Output> {
    let mut command = Command::new(program);
    let pipes = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = pipes.stderr(Stdio::piped()).spawn() else {
        eprintln!("{program} is not installed: what it reads was not checked");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

#[test]
fn every_shell_completes_every_command_and_option() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        for (verb, options) in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
            for option in options.iter().filter(|option| **option != "FILE") {
                let name = option.trim_start_matches('-');
                assert!(script.contains(name), "{shell}: {verb} {option}");
            }
        }
        if let Some(output) = piped(shell, &["-n"], &script) {
            assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        }
    }
}

/// The words that bash offers for the last of these, and whether it offers files.
fn offered_by_bash(words: &[&str]) -> (Vec<String>, bool) {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "{}\ncompopt() {{ echo files; }}\nCOMP_WORDS=({}) COMP_CWORD={}\n_mailslot\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        printed(&["completions", "bash"]),
        quoted.join(" "),
        words.len() - 1
    );
    let output = piped("bash", &[], &script).unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.split_whitespace().filter(|word| *word != "files").map(str::to_owned);
    (words.collect(), text.starts_with("files\n"))
}

#[test]
fn bash_offers_commands_options_values_and_files() {
    for (words, offered, is_file) in [
        (&["mailslot", "se"][..], &["serve", "send"][..], false),
        (&["mailslot", "--v"], &["--version"], false),
        (&["mailslot", "send", "--c"], &["--count", "--connections"], false),
        (&["mailslot", "send", "--count", ""], &[], false),
        (&["mailslot", "send", ""], &[], true),
        (&["mailslot", "export", "--format", "n"], &["ndjson"], false),
        (&["mailslot", "export", "--output", "x"], &[], true),
        (&["mailslot", "export", ""], &[], false),
        (&["mailslot", "completions", ""], &["bash", "zsh", "fish"], false),
    ] {
        let expected = offered.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(offered_by_bash(words), (expected, is_file), "{words:?}");
    }
}

#[test]
fn fish_offers_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mailslot.fish");
    fs::write(&file, printed(&["completions", "fish"])).unwrap();
    for (line, offered) in [
        ("mailslot se", &["send", "serve"][..]),
        ("mailslot send --c", &["--connections", "--count"]),
        ("mailslot export --format n", &["ndjson"]),
        ("mailslot completions ", &["bash", "fish", "zsh"]),
    ] {
        let script = format!("source {}; complete -C '{line}'", file.display());
        let Some(output) = piped("fish", &["--no-config", "-c", &script], "") else { return };
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<&str> =
            text.lines().filter_map(|line| line.split('\t').next()).collect();
        words.sort_unstable();
        assert_eq!(words, offered, "{line}");
    }
}

#[test]
fn the_manual_page_has_every_command_option_and_setting() {
    let page = printed(&["man"]);
    let plain = page.replace("\\-", "-");
    for (verb, options) in VERBS {
        assert!(plain.contains(&format!("\n.SS mailslot {verb}")), "{verb}");
        for option in options.iter().filter(|option| option.starts_with('-')) {
            assert!(plain.contains(&format!("{option}\\fR")), "{verb} {option}");
        }
    }
    for setting in SETTINGS {
        assert!(page.contains(&format!("\n.B {}\n", setting.name)), "{}", setting.name);
    }
    // groff through man(1), and mandoc, which other systems have.
    let man = ["--warnings", "--encoding=utf8", "--local-file", "-"];
    if let Some(output) = piped("man", &man, &page) {
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("mailslot backup [--force] FILE"), "{text}");
    }
    if let Some(output) = piped("mandoc", &["-T", "lint", "-W", "error"], &page) {
        assert!(output.status.success(), "{output:?}");
    }
}
