//! The pages and the API's document: what they may load, and that the document says what the program
//! does.

use std::{collections::BTreeSet, fs};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::Inbox;

#[test]
fn a_page_runs_its_own_script_and_loads_nothing_from_elsewhere() {
    let inbox = Inbox::start();
    for path in ["/", "/docs"] {
        let page = inbox.get(path);
        assert_eq!(page.status, 200);
        assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(page.header("Referrer-Policy"), Some("no-referrer"));
        let policy = page.header("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        for tag in ["script", "style"] {
            let (_, rest) = page.text.split_once(&format!("<{tag}>")).unwrap();
            let (text, _) = rest.split_once(&format!("</{tag}>")).unwrap();
            let hash = STANDARD.encode(Sha256::digest(text));
            assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}'")), "{path} {policy}");
        }
        for loaded in ["src=\"http", "url(http", "@import", "<link rel=\"stylesheet", "<iframe"] {
            assert!(!page.text.contains(loaded), "{path} loads {loaded}");
        }
    }
    let document = inbox.get("/openapi.json");
    assert_eq!(document.header("Content-Type"), Some("application/json"));
    assert_eq!(document.json["openapi"], "3.1.0");
    assert_eq!(document.json["info"]["version"], env!("CARGO_PKG_VERSION"));
}

/// What `$ref` stands for.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// The names between quotes behind each of these words.
fn names(text: &str, words: &[&str]) -> BTreeSet<String> {
    let found = words.iter().flat_map(|word| text.split(*word).skip(1));
    found.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// What a function of the API asks its query for.
fn asked(file: &str, function: &str) -> BTreeSet<String> {
    let words = [".text(\"", ".integer(\"", ".instant(\"", ".choice(\""];
    let text = |path: &str| {
        fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().join("")
    };
    let body = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("fn{name}(")).unwrap_or_else(|| panic!("{name}"));
        rest.split("fn").next().unwrap().to_owned()
    };
    let own = body(&text(file), function);
    let mut found = names(&own, &words);
    if own.contains(".filter()") {
        found.extend(names(&body(&text("src/api/query.rs"), "filter"), &words));
    }
    found
}

#[test]
fn the_document_has_exactly_the_routes_and_parameters_that_there_are() {
    let document = Inbox::start().get("/openapi.json").json;
    let routes = fs::read_to_string("src/api/routes.rs").unwrap();
    let (_, rows) = routes.split_once("ROUTES: &[").unwrap();
    let rows: BTreeSet<String> = rows
        .split("];")
        .next()
        .unwrap()
        .lines()
        .skip(1)
        .filter_map(|line| {
            let (method, rest) = line.trim().strip_prefix('(')?.split_once(',')?;
            Some(format!("{} {}", method.to_lowercase(), rest.split('"').nth(1)?))
        })
        .collect();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let operations =
            item.as_object().unwrap().keys().filter(|key| ["get", "post"].contains(&key.as_str()));
        documented.extend(operations.map(|method| format!("{method} {path}")));
    }
    assert_eq!(documented, rows);

    // Those that need a host name which no outsider's DNS can serve.
    let (_, table) = routes.split_once("ROUTES: &[").unwrap();
    let readers = table.lines().filter(|line| line.trim_end().ends_with("Reader),"));
    let readers: BTreeSet<&str> = readers.map(|line| line.split('"').nth(1).unwrap()).collect();
    let paths = document["paths"].as_object().unwrap();
    let refusing = paths.iter().filter(|(_, item)| !item["get"]["responses"]["421"].is_null());
    assert_eq!(refusing.map(|(path, _)| path.as_str()).collect::<BTreeSet<_>>(), readers);

    for (path, file, function) in [
        ("/messages", "src/api/messages.rs", "parse"),
        ("/feed", "src/api/feed.rs", "follow"),
        ("/export", "src/api/export.rs", "start"),
        ("/stats/series", "src/api/stats.rs", "series"),
        ("/stats", "src/api/stats.rs", "show"),
        ("/metrics", "src/api/metrics.rs", "show"),
    ] {
        let operation = &document["paths"][path]["get"];
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let parameters = parameters.iter().map(|parameter| resolve(&document, parameter));
        let named: BTreeSet<String> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(named, asked(file, function), "{path}");
    }
}

#[test]
fn every_example_of_a_delivery_is_answered_as_the_document_says() {
    let inbox = Inbox::start();
    let document = inbox.get("/openapi.json").json;
    let content =
        &document["paths"]["/webhook"]["post"]["requestBody"]["content"]["application/json"];
    let examples: Vec<Value> = match (content.get("example"), content.get("examples")) {
        (Some(example), _) => vec![example.clone()],
        (None, Some(examples)) => {
            let examples = examples.as_object().unwrap().values();
            examples.map(|example| resolve(&document, example)["value"].clone()).collect()
        }
        _ => Vec::new(),
    };
    assert!(!examples.is_empty());
    for example in examples {
        assert_eq!(inbox.deliver(&example).status, 200, "{example}");
    }
}
