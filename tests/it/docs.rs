//! The documents: every shell block in them works as it is pasted, every link leads somewhere, and
//! log messages are those of the program.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::harness::{Inbox, SECRET, message, message_with};

/// Shell blocks that are not run: the document, a text that only this block contains, and the reason.
#[rustfmt::skip]
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "apt-get update", "needs root and the network"),
    ("README.md", "make run", "builds a release and runs until it is stopped"),
    ("README.md", "make deb", "builds a release; make test-deb installs the package"),
    ("README.md", "make static", "builds a release and copies it to another machine"),
    ("README.md", "install -m 755", "needs root and systemd; tests/systemd/inside.sh does the same"),
    ("README.md", "make up", "needs Docker and the network"),
    ("docs/API.md", "touch cursor", "runs until it is stopped; tests/it/feed.rs runs it"),
    ("docs/OPERATIONS.md", "systemd-run", "needs root and systemd; tests/systemd/inside.sh does the same"),
    ("docs/OPERATIONS.md", "mailslot.new", "needs systemd; tests/systemd/inside.sh does the same"),
    ("docs/OPERATIONS.md", "mailslot-backup.timer", "needs systemd; tests/systemd/inside.sh does the same"),
    ("docs/OPERATIONS.md", "systemctl stop", "needs systemd; tests/systemd/inside.sh does the same"),
    ("docs/OPERATIONS.md", "\nsystemctl restart", "needs systemd; tests/systemd/inside.sh does the same"),
    ("docs/OPERATIONS.md", "sed -i 2d", "needs systemd; tests/systemd/inside.sh does the same"),
    ("docs/OPERATIONS.md", "nginx -t", "needs root; tests/it/packaging.rs runs both proxies with the examples"),
    ("docs/OPERATIONS.md", "/^ *allow /d", "needs root; tests/it/packaging.rs runs both proxies with the examples"),
    ("docs/OPERATIONS.md", "litestream", "needs Litestream, from the network"),
    ("docs/SCALE.md", "CREATE ROLE", "needs PostgreSQL; tests/postgres does the same"),
    ("docs/SCALE.md", "mailslot move -", "needs PostgreSQL and systemd; tests/postgres does the same"),
];

/// Shell blocks that show a command which fails.
const FAILS: &[(&str, &str)] = &[
    ("docs/API.md", "mailslot verify"),
    ("docs/providers/whatsapp.md", "mailslot verify"),
    ("docs/providers/twilio.md", "mailslot verify"),
    ("docs/providers/standard-webhooks.md", "mailslot verify"),
];

/// Secrets of providers, each with its setting and its file in /etc/mailslot.
const SECRETS: [(&str, &str, &str); 4] = [
    ("WHATSAPP_APP_SECRET_FILE", "whatsapp_app_secret", "ffffffffffffffffffffffffffffffff"),
    ("WHATSAPP_VERIFY_TOKEN_FILE", "whatsapp_verify_token", "a token of ours & more"),
    ("TWILIO_AUTH_TOKEN_FILE", "twilio_auth_token", "00000000000000000000000000000000"),
    (
        "STANDARD_WEBHOOKS_SECRET_FILE",
        "standard_webhooks_secret",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ),
];

/// Programs that a block may need although the README does not have them installed. A block is left out
/// where its program is missing.
const OPTIONAL: [&str; 2] = ["jq", "sqlite3"];

/// The documents for users, operators and developers.
fn documents() -> Vec<(String, String)> {
    let in_docs = ["docs", "docs/providers"]
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let in_root = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(PathBuf::from);
    let is_markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let paths = in_root.into_iter().chain(in_docs).filter(is_markdown);
    paths.map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap())).collect()
}

/// A shell block and the output that the document shows right behind it.
#[derive(Debug)]
struct Block {
    script: String,
    shown: String,
}

/// The fenced blocks of a document: language, text, and whether only blank lines come before it since
/// the previous block.
fn fenced(text: &str) -> Vec<(&str, String, bool)> {
    let (mut blocks, mut follows) = (Vec::new(), false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language, body.join("\n"), follows));
            follows = true;
        } else if !line.trim().is_empty() {
            follows = false;
        }
    }
    blocks
}

fn shell_blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (language, body, follows) in fenced(text) {
        match language {
            "sh" => blocks.push(Block { script: body, shown: String::new() }),
            "text" if follows => blocks.last_mut().unwrap().shown = body,
            _ => {}
        }
    }
    blocks
}

fn is_listed(list: &[(&str, &str)], document: &str, block: &Block) -> bool {
    list.iter().any(|(path, part)| *path == document && block.script.contains(part))
}

fn not_run() -> Vec<(&'static str, &'static str)> {
    NOT_RUN.iter().map(|(path, part, _)| (*path, *part)).collect()
}

fn missing(programs: &[&'static str]) -> Vec<&'static str> {
    let is_missing = |program: &&&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        !found.unwrap().status.success()
    };
    programs.iter().filter(is_missing).copied().collect()
}

/// An inbox with some messages in the folder of the server that the documents describe: the
/// program at ./target/release, the secret in a file that the service reloads.
fn server() -> Inbox {
    let folder = tempfile::tempdir().unwrap();
    for name in ["etc", "backups", "target/release"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let program = env!("CARGO_BIN_EXE_mailslot");
    symlink(program, folder.path().join("target/release/mailslot")).unwrap();
    let secret = folder.path().join("etc/webhook_secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        let secret = command.get_current_dir().unwrap().join("etc/webhook_secret");
        command.env_remove("WEBHOOK_SECRET").env("WEBHOOK_SECRET_FILE", secret);
        command.env("PUBLIC_URL", "https://hooks.example.com");
        for (setting, name, secret) in SECRETS {
            let path = command.get_current_dir().unwrap().join("etc").join(name);
            fs::write(&path, format!("{secret}\n")).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            command.env(setting, path);
        }
    });
    let old = json!({ "ts": "2023-01-15T10:00:00Z", "from": "+14155550199" });
    for message in [message("first"), message("second"), message_with("old", &old)] {
        assert_eq!(inbox.deliver(&message).status, 200);
    }
    inbox
}

/// One bash that runs all the blocks in order, each in the server's folder, and marks their beginnings
/// and each command that fails. An HTTP status of 400 or more is a failure of curl, but for a 503, after
/// which a client is to try again. `pkill` signals this server only, since other tests have theirs.
fn script(blocks: &[&Block], inbox: &Inbox) -> String {
    let folder = inbox.folder.path().display().to_string();
    let failed = r"%{onerror}%{stderr}curl: %{http_code} %{errormsg}\n";
    let prelude = format!(
        "exec 2>&1; set -uo pipefail; FOLDER={folder}\n\
         curl() {{ command curl --fail-with-body --retry 5 --max-time 60 -w '{failed}' \"$@\"; }}\n\
         pkill() {{ [ \"${{*:2}}\" = \"-x -f ([^ ]*/)?mailslot( serve)?\" ] && kill \"$1\" {}; }}\n\
         trap 'printf \"\\n\\036failed: %s\\n\" \"$BASH_COMMAND\"' ERR\n",
        inbox.pid()
    );
    let marked = |block: &&Block| {
        let body = block
            .script
            .replace("127.0.0.1:8000", &inbox.address.to_string())
            .replace("/var/lib/mailslot", &folder)
            .replace("/var/backups", &format!("{folder}/backups"))
            .replace("/etc/mailslot", &format!("{folder}/etc"));
        format!(
            "cd \"$FOLDER\"; printf '\\036block\\n'\n{body}\n\
             [ $? = 0 ] || printf '\\036failed: the last command\\n'\n"
        )
    };
    let blocks: String = blocks.iter().map(marked).collect();
    prelude + &blocks + "printf '\\036block\\nend'\n"
}

fn run_blocks(document: &str, blocks: &[&Block]) {
    let inbox = server();
    let folder = inbox.folder.path();
    let path = format!("{}/target/release:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["120", "bash", "-c", &script(blocks, &inbox)])
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder)
        .env("LISTEN", inbox.address.to_string())
        .current_dir(folder)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let parts: Vec<&str> = output.split("\u{1e}block\n").skip(1).collect();
    assert_eq!(parts.last(), Some(&"end"), "{document}: bash ended early:\n{output}");
    for (block, output) in blocks.iter().zip(&parts) {
        let context = format!("{document}\n{}\nhad this output:\n{output}", block.script);
        let fails = is_listed(FAILS, document, block);
        assert_eq!(output.contains('\u{1e}'), fails, "a command failed in {context}");
        for line in block.shown.lines() {
            assert!(
                output.lines().any(|other| other == line),
                "{line:?} is not shown by {context}"
            );
        }
    }
}

#[test]
fn every_shell_block_works_as_it_is_pasted() {
    let missing = missing(&OPTIONAL);
    let documents = documents();
    for (document, text) in &documents {
        let blocks = shell_blocks(text);
        let wanted = |block: &&Block| {
            let lacks = missing.iter().find(|program| block.script.contains(**program));
            if let Some(program) = lacks {
                eprintln!("{program} is not installed; not run in {document}:\n{}", block.script);
            }
            lacks.is_none() && !is_listed(&not_run(), document, block)
        };
        let runnable: Vec<&Block> = blocks.iter().filter(wanted).collect();
        if !runnable.is_empty() {
            run_blocks(document, &runnable);
        }
    }
}

#[test]
fn every_exception_names_exactly_one_block() {
    let documents = documents();
    for (path, part) in not_run().iter().chain(FAILS) {
        let (_, text) = documents.iter().find(|(document, _)| document == path).unwrap();
        let found = shell_blocks(text).iter().filter(|block| block.script.contains(part)).count();
        assert_eq!(found, 1, "{path} has {found} blocks with {part:?}");
    }
}

#[test]
fn the_readme_fits_on_four_screens() {
    let readme = fs::read_to_string("README.md").unwrap();
    assert!(readme.lines().count() <= 200, "{}", readme.lines().count());
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len() && title.starts_with(' ')).then(|| title.trim().to_lowercase())
    };
    let anchor = |title: String| {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.collect::<String>().replace(' ', "-")
    };
    text.lines().filter_map(heading).map(anchor).collect()
}

#[test]
fn every_link_between_documents_leads_to_a_file_and_a_heading() {
    for (document, text) in documents() {
        let folder = Path::new(&document).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { PathBuf::from(&document) } else { folder.join(file) };
            assert!(target.exists(), "{document} links to {link}");
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.contains(anchor), "{document} links to {link}: {there:?}");
            }
        }
    }
}

fn operations() -> String {
    fs::read_to_string("docs/OPERATIONS.md").unwrap()
}

/// The messages of the log in the source, but for DEBUG: their fixed parts.
fn logged() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // The commands of the command line have no log.
            if path.is_dir() && !path.ends_with("cli") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(messages(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

fn messages(source: &str) -> Vec<Vec<String>> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let calls =
        ["log::error!(", "log::warn!(", "log::info!(", "log::log!(", "args(format_args!(\""];
    let mut found = Vec::new();
    for call in calls {
        for rest in source.split(call).skip(1) {
            // The message is the last literal of the call, and not empty.
            let ends = ["\")", "\" )", "\", )"].iter().flat_map(|end| rest.match_indices(end));
            let ends = ends.map(|(at, _)| at).filter(|at| !rest[..*at].ends_with('"'));
            let end = ends.min().unwrap();
            let literal = rest[..end].rsplit('"').next().unwrap().replace("\\ ", "");
            let parts = literal.split(['{', '}']).step_by(2).map(str::to_owned).collect();
            found.push(parts);
        }
    }
    found
}

fn is_of(text: &str, parts: &[String]) -> bool {
    let mut rest = text;
    text.starts_with(&parts[0])
        && parts.iter().all(|part| match rest.split_once(part.as_str()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
}

#[test]
fn operations_lists_exactly_the_messages_of_the_log() {
    let text = operations();
    let (_, table) = text.split_once("\n## Log messages\n").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<&str> = rows.filter(|name| *name != "msg").collect();
    let logged = logged();
    for parts in &logged {
        let is_documented = documented.iter().any(|text| is_of(text, parts));
        assert!(is_documented, "OPERATIONS.md lacks the message {parts:?}");
    }
    for text in documented {
        assert!(logged.iter().any(|parts| is_of(text, parts)), "the log has no message {text:?}");
    }
}
