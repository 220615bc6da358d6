//! `GET /messages`, line by line of docs/CONTRACT.md.

use serde_json::{Value, json};

use crate::harness::{Inbox, Reply, message_with};

fn ids(page: &Value) -> Vec<&str> {
    page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["message_id"].as_str().unwrap())
        .collect()
}

fn fill(inbox: &Inbox, messages: &[(&str, Value)]) {
    for (id, fields) in messages {
        assert_eq!(inbox.deliver(&message_with(id, fields)).status, 200, "{id}");
    }
}

#[test]
fn the_body_is_exactly_what_the_contract_says() {
    let inbox = Inbox::start();
    assert_eq!(inbox.get("/messages").text, r#"{"data":[],"total":0,"limit":50,"offset":0}"#);
    fill(&inbox, &[("m1", json!({ "text": null }))]);
    let reply = inbox.get("/messages?limit=7&offset=0");
    assert_eq!(
        reply.text,
        r#"{"data":[{"message_id":"m1","from":"+919876543210","to":"+14155550100","ts":"2025-01-15T10:00:00Z","text":null}],"total":1,"limit":7,"offset":0}"#
    );
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    assert_eq!(reply.header("Content-Length"), Some(reply.text.len().to_string().as_str()));
}

#[test]
fn the_order_is_by_instant_and_then_by_id_as_bytes() {
    let inbox = Inbox::start();
    let at = |ts: &str| json!({ "ts": ts });
    fill(
        &inbox,
        &[
            ("z", at("2025-01-15T10:00:00.000000001Z")),
            ("é", at("2025-01-15T10:00:00Z")),
            ("b", at("2025-01-15T10:00:00Z")),
            ("a", at("2025-01-15T10:00:00.0Z")),
            ("B", at("2025-01-15T10:00:00.000Z")),
            ("y", at("2025-01-15T10:00:00.5Z")),
            ("x", at("2025-01-15T10:00:00.45Z")),
            ("last", at("9999-12-31T23:59:59Z")),
            ("first", at("0001-01-01T00:00:00Z")),
            ("w", at("1969-12-31T23:59:59.9Z")),
        ],
    );
    let expected = ["first", "w", "B", "a", "b", "é", "z", "x", "y", "last"];
    assert_eq!(ids(&inbox.get("/messages").json), expected);
    for offset in 0..=expected.len() {
        let page = inbox.get(&format!("/messages?limit=3&offset={offset}")).json;
        let end = (offset + 3).min(expected.len());
        assert_eq!((ids(&page), &page["total"]), (expected[offset..end].to_vec(), &json!(10)));
    }
}

#[test]
fn since_is_inclusive_and_compares_instants() {
    let inbox = Inbox::start();
    let at = |ts: &str| json!({ "ts": ts });
    fill(
        &inbox,
        &[
            ("a", at("2025-01-15T10:00:00Z")),
            ("b", at("2025-01-15T10:00:00.5Z")),
            ("c", at("2025-01-15T10:00:01Z")),
        ],
    );
    for (since, expected) in [
        ("2025-01-15T10:00:00Z", vec!["a", "b", "c"]),
        ("2025-01-15T10:00:00.000Z", vec!["a", "b", "c"]),
        ("2025-01-15T10:00:00.1Z", vec!["b", "c"]),
        ("2025-01-15T10:00:00.50Z", vec!["b", "c"]),
        ("2025-01-15T10:00:00.500000001Z", vec!["c"]),
        ("2025-01-15T10:00:02Z", vec![]),
        ("", vec!["a", "b", "c"]),
    ] {
        let page = inbox.get(&format!("/messages?since={since}")).json;
        assert_eq!(
            (ids(&page), &page["total"]),
            (expected.clone(), &json!(expected.len())),
            "{since}"
        );
    }
    for since in [
        "yesterday",
        "2025-01-15",
        "2025-02-30T10:00:00Z",
        "2025-01-15T10:00:00",
        "2025-01-15T10:00:00%2B05:30",
    ] {
        let reply = inbox.get(&format!("/messages?since={since}"));
        assert_eq!(reply.status, 422);
        assert_eq!(reply.problems()[0].1, json!(["query", "since"]));
    }
}

#[test]
fn a_sender_is_found_however_its_plus_is_typed() {
    let inbox = Inbox::start();
    fill(
        &inbox,
        &[
            ("a", json!({ "from": "+911" })),
            ("b", json!({ "from": "+9112" })),
            ("c", json!({ "from": "+911" })),
        ],
    );
    for from in ["+911", "%2B911", "%20911"] {
        let page = inbox.get(&format!("/messages?from={from}")).json;
        assert_eq!((ids(&page), &page["total"]), (vec!["a", "c"], &json!(2)), "{from}");
    }
    assert_eq!(inbox.get("/messages?from=").json["total"], 3);
    assert_eq!(inbox.get("/messages?from=911").json["total"], 0);
    assert_eq!(inbox.get("/messages?from=+9").json["total"], 0);
}

#[test]
fn a_search_is_literal_and_ignores_case_in_every_script() {
    let inbox = Inbox::start();
    let text = |text: Value| json!({ "text": text });
    fill(
        &inbox,
        &[
            ("a", text(json!("100% off_sale"))),
            ("b", text(json!("1000 offXsale"))),
            ("c", text(json!("À l'ÉCOLE, straße, ΣΊΣΥΦΟΣ"))),
            ("d", text(Value::Null)),
            ("e", text(json!(""))),
            ("f", text(json!("nul\u{0}byte null"))),
            ("g", text(json!("a+b c"))),
        ],
    );
    for (q, expected) in [
        ("0%25", vec!["a"]),
        ("%25", vec!["a"]),
        ("off_", vec!["a"]),
        ("_", vec!["a"]),
        ("OFF", vec!["a", "b"]),
        ("%C3%A9cole", vec!["c"]),
        ("STRASSE", vec!["c"]),
        ("%CF%83%CE%AF%CF%83%CF%85%CF%86%CE%BF%CF%82", vec!["c"]),
        ("null", vec!["f"]),
        ("l%00B", vec!["f"]),
        ("a%2Bb+C", vec!["g"]),
        ("+", vec!["a", "b", "c", "f", "g"]),
        ("%FF", vec![]),
        ("%", vec!["a"]),
        ("nothing like it", vec![]),
        ("", vec!["a", "b", "c", "d", "e", "f", "g"]),
    ] {
        let reply = inbox.get(&format!("/messages?q={}", q.replace(' ', "%20")));
        assert_eq!(
            (reply.status, ids(&reply.json), &reply.json["total"]),
            (200, expected.clone(), &json!(expected.len())),
            "{q}"
        );
    }
}

#[test]
fn all_filters_hold_at_once_and_total_counts_what_they_match() {
    let inbox = Inbox::start();
    for number in 0..60 {
        let fields = json!({
            "from": format!("+{}", number % 3), "ts": format!("2025-01-15T10:00:{number:02}Z"),
            "text": if number % 2 == 0 { "even" } else { "odd" }
        });
        assert_eq!(inbox.deliver(&message_with(&format!("m{number:02}"), &fields)).status, 200);
    }
    let page =
        inbox.get("/messages?from=+1&since=2025-01-15T10:00:30Z&q=EVEN&limit=2&offset=1").json;
    assert_eq!(
        (ids(&page), &page["total"], &page["limit"], &page["offset"]),
        (vec!["m40", "m46"], &json!(5), &json!(2), &json!(1))
    );
    let beyond = inbox.get("/messages?offset=9223372036854775807");
    assert_eq!(
        (beyond.status, &beyond.json["data"], &beyond.json["total"]),
        (200, &json!([]), &json!(60))
    );
    assert_eq!(ids(&inbox.get("/messages?limit=1&unknown=x&limit=2").json).len(), 2);
    assert_eq!(ids(&inbox.get("/messages").json).len(), 50);
}

#[test]
fn numbers_out_of_range_are_422_in_fastapis_words() {
    let inbox = Inbox::start();
    let reply = inbox.get("/messages?limit=abc&offset=-1");
    assert_eq!(reply.status, 422);
    assert_eq!(
        reply.json,
        json!({ "detail": [
            { "type": "int_parsing", "loc": ["query", "limit"], "input": "abc",
              "msg": "Input should be a valid integer, unable to parse string as an integer" },
            { "type": "greater_than_equal", "loc": ["query", "offset"], "input": "-1", "ctx": { "ge": 0 },
              "msg": "Input should be greater than or equal to 0" },
        ]})
    );
    for (query, kind) in [
        ("limit=0", "greater_than_equal"),
        ("limit=101", "less_than_equal"),
        ("limit=", "int_parsing"),
        ("limit=1.5", "int_parsing"),
        ("limit=%00", "int_parsing"),
        ("limit=%FF", "int_parsing"),
        ("offset=100000000000000000000", "less_than_equal"),
        ("limit=99999999999999999999", "less_than_equal"),
    ] {
        let reply = inbox.get(&format!("/messages?{query}"));
        assert_eq!((reply.status, &*reply.problems()[0].0), (422, kind), "{query}");
    }
}

#[test]
fn readers_see_whole_batches_while_messages_arrive() {
    let inbox = Inbox::start();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut pages = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let page = inbox.get("/messages?limit=100").json;
                // One snapshot: with everything on one page, the page is the total.
                assert_eq!(
                    page["data"].as_array().unwrap().len(),
                    page["total"].as_u64().unwrap() as usize
                );
                pages += 1;
            }
            pages
        });
        crate::harness::at_once(8, |thread| {
            for number in 0..12 {
                assert_eq!(
                    inbox.deliver(&message_with(&format!("{thread}-{number}"), &json!({}))).status,
                    200
                );
            }
        });
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(inbox.get("/messages").json["total"], 96);
}

#[test]
fn to_and_until_narrow_the_list_and_order_desc_reverses_it() {
    let inbox = Inbox::start();
    for number in 0..6 {
        let fields = json!({
            "to": if number % 2 == 0 { "+1" } else { "+2" },
            "ts": format!("2025-01-15T10:00:0{number}.5Z"),
        });
        fill(&inbox, &[(&format!("m{number}"), fields)]);
    }
    for (query, expected) in [
        ("to=+1", vec!["m0", "m2", "m4"]),
        ("to=%2B2&order=desc", vec!["m5", "m3", "m1"]),
        ("to=+3", vec![]),
        ("until=2025-01-15T10:00:02.5Z", vec!["m0", "m1"]),
        ("until=2025-01-15T10:00:02.500000001Z", vec!["m0", "m1", "m2"]),
        ("since=2025-01-15T10:00:02.5Z&until=2025-01-15T10:00:04Z", vec!["m2", "m3"]),
        ("since=2025-01-15T10:00:04Z&until=2025-01-15T10:00:02Z", vec![]),
        ("order=desc&limit=2&offset=1", vec!["m4", "m3"]),
        ("order=desc&limit=2&offset=5", vec!["m0"]),
        ("order=desc&offset=6", vec![]),
        ("order=&until=&to=", vec!["m0", "m1", "m2", "m3", "m4", "m5"]),
    ] {
        let page = inbox.get(&format!("/messages?{query}")).json;
        assert_eq!(ids(&page), expected, "{query}");
    }
    let refused = inbox.get("/messages?order=up&cursor=zz&until=soon");
    let problem = |kind: &str, name: &str| (kind.to_owned(), json!(["query", name]));
    assert_eq!(
        refused.problems(),
        [
            problem("string_pattern_mismatch", "until"),
            problem("enum", "order"),
            problem("value_error", "cursor")
        ]
    );
}

/// The target of the link with this relation.
fn link(reply: &Reply, rel: &str) -> Option<String> {
    let links = reply.header("Link")?.split(", ");
    let wanted = format!(">; rel=\"{rel}\"");
    let found = links.filter_map(|link| link.strip_suffix(&wanted)?.strip_prefix('<'));
    found.map(str::to_owned).next()
}

#[test]
fn walking_along_the_links_meets_each_message_once_while_others_arrive() {
    let inbox = Inbox::start();
    let at =
        |second: usize| json!({ "ts": format!("2025-01-15T10:00:{second:02}Z"), "text": "é &" });
    for number in 0..30 {
        fill(&inbox, &[(&format!("m{number:02} é\"<>,;&"), at(number % 7))]);
    }
    for query in
        ["", "&order=desc", "&q=%C3%A9+%26", "&from=+919876543210&order=desc&to=+14155550100"]
    {
        let before = ids(&inbox.get(&format!("/messages?limit=100{query}")).json)
            .iter()
            .map(|id| (*id).to_owned())
            .collect::<Vec<_>>();
        let (mut met, mut pages, mut next) =
            (Vec::new(), Vec::new(), Some(format!("/messages?limit=7{query}")));
        while let Some(path) = next {
            let reply = inbox.get(&path);
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(reply.json["offset"], met.len(), "an offset that counts what came before");
            met.extend(ids(&reply.json).into_iter().map(str::to_owned));
            next = link(&reply, "next");
            pages.push(reply);
        }
        assert_eq!(met, before, "{query}");
        assert_eq!(link(&pages[0], "prev"), None);
        // The way back is the same, though a message has come before all and one behind all.
        let id = format!("new{}", query.len());
        fill(&inbox, &[(&format!("{id}first"), at(0)), (&format!("{id}last"), at(59))]);
        let old = |page: &Value| -> Vec<String> {
            let ids = ids(page).into_iter().filter(|id| !id.starts_with("new"));
            ids.map(str::to_owned).collect()
        };
        for pair in pages.windows(2).rev() {
            let back = inbox.get(&link(&pair[1], "prev").unwrap()).json;
            assert!(old(&pair[0].json).ends_with(&old(&back)), "{query}: {back}");
            assert!(old(&back).len() >= 3, "{query}: {back}");
        }
    }
    assert_eq!(inbox.get("/messages?offset=1000").header("Link"), None);
    assert_eq!(inbox.get("/messages?q=absent").header("Link"), None);
}

/// Follows `next` to the end, with a page size of one; `between` runs after each page.
fn walk(inbox: &Inbox, query: &str, mut between: impl FnMut(usize)) -> Vec<String> {
    let (mut met, mut next) = (Vec::new(), Some(format!("/messages?limit=1{query}")));
    while let Some(path) = next {
        let page = inbox.get(&path);
        assert_eq!(page.status, 200, "{}", page.text);
        met.extend(ids(&page.json).into_iter().map(str::to_owned));
        assert!(met.len() <= 100, "the walk has no end");
        next = link(&page, "next");
        between(met.len());
    }
    met
}

#[test]
fn a_link_stays_short_beside_the_longest_id_and_parameters_that_mean_nothing() {
    let inbox = Inbox::start();
    for letter in ["\u{1f642}", "\u{1f643}", "\u{1f644}"] {
        fill(&inbox, &[(&letter.repeat(8_192), json!({}))]);
    }
    let unknown = "%FF".repeat(5_000);
    let zeros = "0".repeat(5_000);
    let query = format!("&unknown={unknown}&q={unknown}&q=&limit={zeros}1");
    let first = inbox.get(&format!("/messages?limit=1{query}"));
    assert!(first.header("Link").is_some_and(|link| link.len() < 1_000));
    assert_eq!(walk(&inbox, &query, |_| {}).len(), 3);
}

#[test]
fn a_walk_along_the_links_meets_each_message_once_however_long_the_query_is() {
    let inbox = Inbox::start();
    // Percent-encoded, the last two take 12 and 3 times as many bytes as they have characters.
    for text in ["ж".repeat(680), "\u{1f642}".repeat(4_096), "!".repeat(4_096)] {
        let number = text.len();
        for id in ["a", "b", "c"] {
            fill(&inbox, &[(&format!("{id}{number}"), json!({ "text": text }))]);
        }
        let encoded = if text.is_ascii() {
            text.clone()
        } else {
            form_urlencoded::byte_serialize(text.as_bytes()).collect()
        };
        let expected = ["a", "b", "c"].map(|id| format!("{id}{number}"));
        assert_eq!(walk(&inbox, &format!("&q={encoded}"), |_| {}), expected);
    }
}

#[test]
fn a_walk_along_the_links_meets_each_message_once_however_long_the_ids_are() {
    let inbox = Inbox::start();
    let id = |number: usize| format!("{}{number}", "x".repeat(1_200));
    for number in 0..6 {
        fill(&inbox, &[(&id(number), json!({}))]);
    }
    let expected: Vec<String> = (0..6).map(id).collect();
    for order in ["", "&order=desc"] {
        // Messages that come to stand before the page move every offset by one.
        let met = walk(&inbox, order, |seen| {
            let second = if order.is_empty() { 0 } else { 59 };
            let ts =
                json!({ "ts": format!("2025-01-1{}T10:00:{second:02}Z", 4 + second / 59 * 2) });
            fill(&inbox, &[(&format!("new{order}{seen:02}"), ts)]);
        });
        let mut met: Vec<String> = met.into_iter().filter(|id| id.starts_with('x')).collect();
        met.sort();
        assert_eq!(met, expected, "{order}");
    }
}

#[test]
fn a_page_beside_a_long_id_that_was_deleted_may_repeat_messages_but_skips_none() {
    let inbox = Inbox::start();
    let id = |number: usize| format!("{}{number}", "x".repeat(1_200));
    for number in 0..6 {
        fill(&inbox, &[(&id(number), json!({}))]);
    }
    let page = inbox.get("/messages?limit=2&offset=2");
    let (next, previous) = (link(&page, "next").unwrap(), link(&page, "prev").unwrap());
    let page = inbox.get("/messages?limit=2&offset=2&order=desc");
    let (next_desc, previous_desc) = (link(&page, "next").unwrap(), link(&page, "prev").unwrap());
    // 2 and 3 are the ends of both pages: the messages that their cursors name.
    inbox.execute(&format!("DELETE FROM messages WHERE message_id IN ('{}', '{}')", id(2), id(3)));
    let everything = |path: String| {
        let path = path.replace("limit=2", "limit=100");
        ids(&inbox.get(&path).json).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (path, needed) in
        [(next, [4, 5]), (previous, [0, 1]), (next_desc, [0, 1]), (previous_desc, [4, 5])]
    {
        let met = everything(path);
        assert!(needed.map(id).iter().all(|needed| met.contains(needed)), "{met:?}");
    }
}

#[test]
fn a_message_is_found_by_its_id_and_senders_by_how_they_begin() {
    let inbox = Inbox::start();
    for (id, from) in [("a 1/2?é", "+4911"), ("b", "+4912"), ("c", "+49"), ("d", "+33")] {
        assert_eq!(inbox.deliver(&message_with(id, &json!({ "from": from }))).status, 200);
    }
    let found = |query: &str| -> Vec<String> {
        let page = inbox.get(&format!("/messages?{query}")).json;
        let data = page["data"].as_array().unwrap_or_else(|| panic!("{query}: {page}"));
        assert_eq!(page["total"], data.len(), "{query}");
        data.iter().map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found("message_id=a+1%2F2%3F%C3%A9"), ["a 1/2?é"]);
    assert_eq!(found("message_id=b&from=+4912&q=hello&since=2025-01-15T10:00:00Z"), ["b"]);
    for none in ["message_id=B", "message_id=b&from=+49", "message_id=b&q=x", "message_id=b&to=+1"]
    {
        assert_eq!(found(none), [""; 0], "{none}");
    }
    assert_eq!(found("from_prefix=+49"), ["a 1/2?é", "b", "c"]);
    assert_eq!(found("from_prefix=%2B491"), ["a 1/2?é", "b"]);
    assert_eq!(found("from_prefix=+491&order=desc"), ["b", "a 1/2?é"]);
    assert_eq!(found("from_prefix=+3"), ["d"]);
    assert_eq!(found("from_prefix=+49&from=+33"), [""; 0]);
    assert_eq!(found("from_prefix=+4&from=+49"), ["c"]);
    assert_eq!(found("from_prefix=&message_id="), ["a 1/2?é", "b", "c", "d"]);
    assert_eq!(found("from_prefix=%25"), [""; 0]);
    let lines = inbox.get("/export?from_prefix=+491").text;
    assert_eq!(lines.lines().count(), 2, "{lines}");
}
