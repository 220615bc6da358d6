//! The pages and the API's document: what they may load, and that the document says what the program
//! does.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use mailslot::api::{Authorization, Parameter, ROUTES};
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

#[test]
fn a_document_is_compressed_and_sent_again_only_if_it_has_changed() {
    let inbox = Inbox::start();
    for path in ["/", "/docs", "/openapi.json"] {
        let plain = inbox.get(path);
        let etag = plain.header("ETag").unwrap().to_owned();
        assert_eq!(plain.header("Vary"), Some("Accept-Encoding"));
        let ask = |headers: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}");
            inbox.raw(format!("{head}Connection: close\r\n\r\n").as_bytes())
        };
        let compressed = ask("Accept-Encoding: gzip, deflate, br\r\n");
        let (head, _) = compressed.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{path}: {head}");
        assert!(head.contains(&format!("\r\nETag: {etag}\r\n")), "{path}: {head}");
        let length = head.split("Content-Length: ").nth(1).unwrap().lines().next().unwrap();
        let length: usize = length.parse().unwrap();
        assert!(length <= 25 * 1024 && length * 2 < plain.text.len(), "{path}: {length}");
        let known = ask(&format!("If-None-Match: {etag}\r\nAccept-Encoding: gzip\r\n"));
        assert!(known.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{path}: {known}");
        assert!(known.ends_with("\r\n\r\n") && !known.contains("Content-Length"), "{known}");
        assert!(ask("If-None-Match: \"other\"\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

/// What `$ref` stands for.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

#[test]
fn the_document_has_exactly_the_routes_and_parameters_that_there_are() {
    let document = Inbox::start().get("/openapi.json").json;
    let documented = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        let methods = methods.filter(|key| ["get", "post", "delete"].contains(&key.as_str()));
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let routes = ROUTES.iter().map(|route| format!("{} {}", route.method(), route.path));
    assert_eq!(documented.collect::<BTreeSet<_>>(), routes.collect());
    for route in ROUTES {
        let path = route.path;
        let operation = &document["paths"][path][route.method().to_lowercase()];
        let needs_host =
            matches!(route.authorization, Authorization::TokenOrHost | Authorization::Host);
        assert_eq!(!operation["responses"]["421"].is_null(), needs_host, "{path}");

        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let parameters = parameters.iter().map(|parameter| resolve(&document, parameter));
        let documented: BTreeMap<&str, &Value> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| (parameter["name"].as_str().unwrap(), &parameter["schema"]))
            .collect();
        let parameters = route.parameters.concat();
        let names: BTreeSet<&str> = parameters.iter().map(|parameter| parameter.name).collect();
        assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), names, "{path}");
        for Parameter { name, schema } in parameters {
            // The document may say more of it.
            for (key, value) in schema().as_object().unwrap() {
                assert_eq!(documented[name][key], *value, "{path} {name}: {key}");
            }
        }
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
