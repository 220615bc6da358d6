//! The rules that a compiler cannot keep.

use std::{collections::BTreeSet, fs, path::Path};

fn sources() -> Vec<(String, String)> {
    fn visit(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    visit(Path::new("src"), &mut found);
    assert!(found.len() > 10);
    found
}

/// The modules of lib.rs, outermost first.
fn layers() -> Vec<String> {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let name = |line: &str| {
        Some(line.trim_start_matches("pub ").strip_prefix("mod ")?.split(';').next()?.to_owned())
    };
    lib.lines().filter_map(name).collect()
}

/// The first name of every path in `use crate::..;`, `use crate::{.., ..};` and `crate::..`.
fn imports(text: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut modules = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            modules.push(rest.split(|c| !is_word(c)).next().unwrap().to_owned());
            continue;
        };
        let (mut depth, mut is_first) = (0, true);
        for word in group.split_inclusive(|c| !is_word(c)) {
            let name = word.trim_end_matches(|c| !is_word(c));
            if depth == 0 && is_first && !name.is_empty() {
                modules.push(name.to_owned());
                is_first = false;
            }
            match word.chars().last() {
                Some('{') => depth += 1,
                Some('}') if depth == 0 => break,
                Some('}') => depth -= 1,
                Some(',') if depth == 0 => is_first = true,
                _ => {}
            }
        }
    }
    modules
}

#[test]
fn dependencies_point_down() {
    let layers = layers();
    for (path, text) in sources() {
        let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_owned();
        let Some(own) = layers.iter().position(|layer| *layer == module) else { continue };
        let upward = imports(&text).into_iter().find(|module| layers[..own].contains(module));
        assert_eq!(upward, None, "{path} reaches up");
    }
    assert_eq!(imports("use crate::{a::{b, c}, d}; crate::e::f"), ["a", "d", "e"]);
}

#[test]
fn what_belongs_to_one_module_stays_there() {
    for (path, text) in sources() {
        let only = |words: &[&str], places: &[&str]| {
            let is_comment = |line: &&str| line.trim_start().starts_with("//");
            let code: String = text.lines().filter(|line| !is_comment(line)).collect();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                assert!(places.iter().any(|place| path.starts_with(place)), "{path} has {word}");
            }
        };
        only(&["tiny_http::"], &["src/http/"]);
        only(&["SELECT ", "INSERT ", "PRAGMA ", "rusqlite"], &["src/store/sqlite/"]);
        only(&["unsafe {"], &["src/http/socket.rs"]);
        only(&["println!", "dbg!"], &[]);
        // The database is touched through SQLite alone, since closing any other descriptor of it
        // drops SQLite's locks: files are what the operator names, and the log, which has no locks.
        let files = ["src/cli/", "src/config/source.rs", "src/store/sqlite/wal.rs"];
        only(&["File::", "OpenOptions", "fs::read(", "fs::copy", "fs::write"], &files);
        for unfinished in ["todo!", "unimplemented!", "FIXME", "XXX"] {
            assert!(!text.contains(unfinished), "{path} has {unfinished}");
        }
    }
}

#[test]
fn every_module_says_what_it_owns_and_every_line_and_function_fits() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{path} says nothing of itself");
        let mut start = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let body = line
                .trim_start()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ");
            if body.starts_with("fn ") && line.ends_with('{') {
                start = Some((number, indent));
            }
            if let Some((from, at)) = start
                && line.trim_start() == "}"
                && indent == at
            {
                assert!(number - from <= 70, "{path}:{from} is longer than a screen");
                start = None;
            }
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
    for (path, text) in sources() {
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
