//! The rules that a compiler cannot keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::source::{self, Arrow, File, Kind, Tree};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function, its signature included: what a screen shows at once.
const FUNCTION_LINES_MAX: usize = 70;
/// A line may be longer only for the sake of a word this long, which no line break can divide.
const WORD_CHARS_MIN: usize = 60;

/// Names that only people who worked on mailslot understood, and the term that replaces each.
#[rustfmt::skip]
const PRIVATE_WORDS: &[(&str, &str)] = &[
    ("acquit", "clear"), ("anew", "restart"), ("arrival", "incoming request"), ("certain", "unique"),
    ("chore", "maintenance"), ("chores", "maintenance"), ("cut", "disconnect or close"), ("doubt", "backpressure check"),
    ("exactness", "model test"), ("leader", "committer"), ("look", "scan"), ("looks", "scans"),
    ("milestone", "rank index"), ("milestones", "rank index"), ("nobody", "what is missing"), ("nudge", "wake"),
    ("pack", "segment"), ("packed", "segmented"), ("packer", "segment builder"), ("packs", "segments"),
    ("park", "enqueue"), ("parked", "queued"), ("place", "position"),
    ("question", "predicate"), ("recall", "get"), ("remember", "put"), ("room", "buffer reservation"),
    ("stranger", "external writer"), ("strangers", "external writers"), ("tally", "load report"), ("told", "reported"),
    ("trouble", "errors"), ("turn", "connection slot"), ("turns", "connection slots"), ("twin", "duplicate address"),
    ("twins", "duplicate addresses"), ("unasked", "unchecked"), ("who", "the subject"),
    ("whoever", "the subject"), ("whom", "the object"),
];

/// Fails with every finding of a rule.
fn expect_none(rule: &str, findings: &[String]) {
    let found: Vec<String> = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    assert!(found.is_empty(), "{rule}: {} findings{}", found.len(), found.concat());
}

/// The modules of lib.rs, outermost first.
fn layers() -> Vec<String> {
    File::new("src/lib.rs", &fs::read_to_string("src/lib.rs").unwrap()).children
}

/// One line for each pair of files, with the names by which the one uses the other.
fn arrows(tree: &Tree, arrows: &[&Arrow]) -> Vec<String> {
    let mut pairs: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for Arrow { from, to, name, .. } in arrows.iter().copied() {
        let pair = format!("{} -> {}", tree.path(from), tree.path(to));
        pairs.entry(pair).or_default().push(name);
    }
    pairs.iter().map(|(pair, names)| format!("{pair} ({})", names.join(", "))).collect()
}

#[test]
fn no_module_uses_one_that_is_declared_above_it() {
    let tree = Tree::new(source::files());
    // The rule is empty if the paths were not read.
    assert!(tree.arrows.len() > 200, "{}", tree.arrows.len());
    expect_none("upward", &arrows(&tree, &tree.upward()));
}

#[test]
fn no_module_uses_its_parent_that_uses_it() {
    let tree = Tree::new(source::files());
    expect_none("entangled", &arrows(&tree, &tree.entangled()));
}

#[test]
fn the_reading_of_modules_finds_every_way_to_name_one() {
    let tree = |files: &[(&str, &str)]| {
        Tree::new(files.iter().map(|(path, text)| File::new(path, text)).collect())
    };
    let reads = |lower: &str| {
        let tree = tree(&[
            ("src/lib.rs", "mod a; mod b { mod no_file {} } mod low;"),
            ("src/a.rs", "pub fn f() {}"),
            ("src/low/mod.rs", "mod top; mod face; mod bottom; pub use face::{Face as Seen, g};"),
            ("src/low/top.rs", "pub struct Top; impl Top {}"),
            ("src/low/face/mod.rs", "mod deep; pub use deep::*; pub struct Face; pub fn g() {}"),
            ("src/low/face/deep.rs", "pub const DEEP: u8 = 1;"),
            ("src/low/bottom.rs", lower),
        ]);
        let upward = tree.upward().into_iter();
        upward.map(|arrow| tree.path(&arrow.to).to_owned()).collect::<Vec<_>>()
    };
    for (code, found) in [
        ("use super::top::Top;", &["src/low/top.rs"][..]),
        ("use crate::{low::{self, top::{Top}}};", &["src/low/top.rs"]),
        ("fn f() -> super::top::Top { crate::a::f() }", &["src/a.rs", "src/low/top.rs"]),
        ("use super::Seen;", &["src/low/face/mod.rs"]),
        ("use super::*; fn f(_: Seen) { g() }", &["src/low/face/mod.rs", "src/low/face/mod.rs"]),
        ("use crate::low as l; fn f() -> u8 { l::face::DEEP }", &["src/low/face/deep.rs"]),
        ("mod tests { use super::super::top; }", &["src/low/top.rs"]),
        ("mod tests { use super::*; }", &[]),
        ("// use super::top;\nconst A: &str = \"super::top::X\"; pub(super) fn f<'a>() {}", &[]),
        ("use std::{fs, io}; use self::inner::X; mod inner { pub struct X; }", &[]),
    ] {
        assert_eq!(reads(code), found, "{code}");
    }
    let face = |text: &str| {
        let tree = tree(&[
            ("src/lib.rs", "mod a;"),
            ("src/a/mod.rs", text),
            ("src/a/b.rs", "use super::A;"),
        ]);
        tree.entangled().len()
    };
    assert_eq!(face("mod b; pub struct A(b::B);"), 1);
    assert_eq!(face("mod b; use b::B; pub struct A(B);"), 1);
    assert_eq!(face("mod b; pub use b::B; pub struct A;"), 0);
    assert_eq!(face("mod b; pub struct A; #[cfg(test)] mod tests { fn f() { super::b::g() } }"), 0);
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let tree = Tree::new(source::files());
    let files = source::files().into_iter().filter(|file| !tree.is_test(&file.module));
    let long = files.filter_map(|file| {
        let lines = file.lines_without_tests();
        (lines > FILE_LINES_MAX).then(|| format!("{} has {lines} lines", file.path))
    });
    expect_none("file", &long.collect::<Vec<_>>());
}

#[test]
fn every_function_fits_a_screen() {
    let mut long = Vec::new();
    let mut count = 0;
    for file in source::files() {
        for (name, line, lines) in file.functions() {
            count += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}:{line} {name} has {lines} lines", file.path));
            }
        }
    }
    assert!(count > 500, "{count}");
    expect_none("function", &long);
    let wrapped = "fn a(\n    b: [u8; 2],\n) -> u8\nwhere\n    X: Y,\n{\n    1\n}\nfn c();";
    assert_eq!(File::new("src/a.rs", wrapped).functions(), [("a".to_owned(), 1, 8)]);
}

#[test]
fn every_line_fits_the_width_that_rustfmt_keeps() {
    let format = fs::read_to_string("rustfmt.toml").unwrap();
    let width = format.lines().find_map(|line| line.strip_prefix("max_width = ")).unwrap();
    let width: usize = width.parse().unwrap();
    let mut long = Vec::new();
    for file in source::files() {
        for (number, line) in file.text.lines().enumerate() {
            let chars = line.chars().count();
            let longest = line.split(' ').map(|word| word.chars().count()).max().unwrap();
            if chars > width && longest < WORD_CHARS_MIN {
                long.push(format!("{}:{} has {chars} characters", file.path, number + 1));
            }
        }
    }
    expect_none("width", &long);
}

#[test]
fn every_module_says_what_it_owns_where_it_is_declared_and_where_it_begins() {
    let mut silent = Vec::new();
    for file in source::files() {
        assert!(file.text.starts_with("//! "), "{} says nothing of itself", file.path);
        for line in file.text.lines().filter(|line| !line.starts_with(' ')) {
            let declared = line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let declared = declared.trim_start_matches("pub ").strip_prefix("mod ");
            let Some((name, rest)) = declared.and_then(|line| line.split_once(';')) else {
                continue;
            };
            if !rest.starts_with(" // ") {
                silent.push(format!("{} declares {name} without a comment", file.path));
            }
        }
    }
    expect_none("comment", &silent);
}

#[test]
fn names_are_terms_that_other_engineers_use() {
    let mut found = BTreeSet::new();
    for file in source::files().into_iter().chain(source::files_under("tests")) {
        for token in file.tokens.iter().filter(|token| token.kind == Kind::Word) {
            let words = words(&token.text.replace("in_place", ""));
            for (word, term) in PRIVATE_WORDS {
                if words.iter().any(|other| other == word) {
                    let (path, name) = (&file.path, &token.text);
                    found.insert(format!("{path} names {name}: {word} is {term}"));
                }
            }
        }
    }
    expect_none("word", &found.into_iter().collect::<Vec<_>>());
    assert_eq!(words("READ_Tokens_ofHTTPPeers"), ["read", "tokens", "of", "httppeers"]);
}

/// `GroupCommit` and `group_commit` are both group and commit.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_after_capital = true;
    for c in name.chars() {
        if c == '_' || c.is_uppercase() && !is_after_capital {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
        is_after_capital = c.is_uppercase() || c == '_';
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn what_belongs_to_one_module_stays_there() {
    for File { path, text, .. } in source::files() {
        let only = |words: &[&str], paths: &[&str]| {
            let is_comment = |line: &&str| line.trim_start().starts_with("//");
            let code: String = text.lines().filter(|line| !is_comment(line)).collect();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                assert!(paths.iter().any(|start| path.starts_with(start)), "{path} has {word}");
            }
        };
        only(&["tiny_http::"], &["src/http/"]);
        only(&["PRAGMA ", "rusqlite"], &["src/store/sqlite/"]);
        only(&["SELECT ", "INSERT "], &["src/store/sqlite/", "src/store/postgres/"]);
        only(&["postgres_protocol"], &["src/store/postgres/"]);
        only(&["rustls"], &["src/store/postgres/tls.rs"]);
        only(&["unsafe {"], &["src/http/socket.rs"]);
        only(&["println!", "dbg!"], &[]);
        // The database is touched through SQLite alone, since closing any other descriptor of it
        // drops SQLite's locks: files are what the operator names, and the log, which has no locks.
        let files =
            ["src/cli/", "src/config/source.rs", "src/properties.rs", "src/store/sqlite/wal.rs"];
        only(&["File::", "OpenOptions", "fs::read(", "fs::copy", "fs::write"], &files);
        for unfinished in ["todo!", "unimplemented!", "FIXME", "XXX"] {
            assert!(!text.contains(unfinished), "{path} has {unfinished}");
        }
    }
}

#[test]
fn no_async_runtime_is_anywhere_in_the_tree() {
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    for name in ["tokio", "async-std", "smol", "async-io", "futures-executor", "mio", "hyper"] {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

/// The first column of the README's table under `heading`, without backticks.
fn table(heading: &str) -> BTreeSet<String> {
    let readme =
        ["README.md", "docs/REFERENCE.md"].map(|path| fs::read_to_string(path).unwrap()).concat();
    let (_, section) = readme
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("README has no {heading}"));
    let section = section.split("\n##").next().unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

#[test]
fn the_readme_names_exactly_the_routes_settings_and_metrics_there_are() {
    let routes = mailslot::api::ROUTES.iter();
    let routes = routes.map(|route| format!("{} {}", route.method(), route.path));
    assert_eq!(table("Endpoints"), routes.collect());

    let settings = mailslot::config::SETTINGS.iter().map(|setting| setting.name.to_owned());
    assert_eq!(table("Configuration"), settings.collect());

    let metrics = mailslot::metrics::FAMILIES.iter().map(|family| family.name.to_owned());
    assert_eq!(table("Metrics"), metrics.collect());
}

#[test]
fn the_reference_states_the_kind_and_the_labels_of_every_metric() {
    let readme = fs::read_to_string("docs/REFERENCE.md").unwrap();
    for mailslot::metrics::Family { name, kind, labels, .. } in mailslot::metrics::FAMILIES {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}` ")).collect();
        let row = format!("| `{name}` | {kind} | {}| ", labels.join("").replace("` `", "`, `"));
        assert!(readme.contains(&row), "REFERENCE's metrics lack {row}");
    }
}

#[test]
fn the_readme_states_every_limit_with_its_value() {
    let readme = fs::read_to_string("docs/REFERENCE.md").unwrap();
    let mut found = BTreeSet::new();
    for File { path, text, .. } in source::files() {
        for line in text.lines() {
            // `const NAME_MAX: type = 2 * 1024;`
            let Some((_, rest)) = line.split_once("const ") else { continue };
            let Some((name, rest)) = rest.split_once(": ") else { continue };
            let Some((_, value)) = rest.split_once(" = ").filter(|_| name.ends_with("_MAX")) else {
                continue;
            };
            let factors = value.trim_end_matches(';').replace('_', "");
            let value: u64 =
                factors.split(" * ").map(|factor| factor.parse::<u64>().unwrap()).product();
            let row = format!("| `{name}` | {value} |");
            assert!(readme.contains(&row), "{path}: README's limits lack {row}");
            found.insert(name.to_owned());
        }
    }
    assert_eq!(table("Limits"), found);
}

/// The tests that `make test-postgres` leaves out, each line a test or the beginning of its path.
#[test]
fn every_test_that_is_of_sqlite_alone_exists() {
    let list = fs::read_to_string("tests/postgres/sqlite_only.txt").unwrap();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (module, test) = line.split_once("::").unwrap();
        let source = fs::read_to_string(format!("tests/it/{module}.rs")).unwrap_or_default();
        assert!(source.contains(&format!("#[test]\nfn {test}")), "there is no {line}");
    }
}

#[test]
fn the_changelog_names_this_version() {
    let changelog = fs::read_to_string("CHANGELOG.md").unwrap();
    assert!(changelog.contains(&format!("## {}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_architecture_fits_its_limit_and_names_every_module() {
    let text = fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
    assert!(text.lines().count() <= 160);
    for layer in layers() {
        assert!(text.contains(&format!("`{layer}`")), "{layer} is not in docs/ARCHITECTURE.md");
    }
}
