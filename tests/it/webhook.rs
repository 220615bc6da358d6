//! `POST /webhook`, line by line of docs/CONTRACT.md.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::harness::{Inbox, Reply, at_once, message, message_with, sign, sign_with};

fn assert_ok(reply: &Reply) {
    assert_eq!((reply.status, &reply.json), (200, &json!({ "status": "ok" })));
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    assert_eq!(reply.header("Content-Length"), Some("15"));
}

#[test]
fn a_signed_message_is_stored_once_and_the_first_version_stays() {
    let inbox = Inbox::start();
    assert_ok(&inbox.deliver(&message("m1")));
    assert_ok(&inbox.deliver(&message("m1")));
    assert_ok(&inbox.deliver(&message_with("m1", &json!({ "text": "changed", "from": "+1" }))));
    assert_eq!(inbox.rows(), 1);
    let data = &inbox.get("/messages").json["data"];
    assert_eq!(data, &json!([message("m1")]));
}

#[test]
fn a_wrong_signature_is_401_before_anything_else_is_looked_at() {
    let inbox = Inbox::start();
    let body = message("m1").to_string().into_bytes();
    let good = sign(&body);
    let other = sign_with("another", &body);
    let prefixed = format!("sha256={good}");
    let longer = format!("{good}00");
    let base64 = "mZz4nWrDYHGmFcE7jl7gYxkLkuNPv5MSqTmEnlzzTt8=";
    for wrong in [
        "",
        "0",
        &good[..63],
        &good[..62],
        &longer,
        &prefixed,
        &other,
        base64,
        &"z".repeat(64),
        &"0".repeat(64),
    ] {
        for body in [&body[..], b"not json", b"", b"\xff\x00"] {
            let reply = inbox.post(body, &[("X-Signature", wrong)]);
            assert_eq!(
                (reply.status, &*reply.text),
                (401, r#"{"detail":"invalid signature"}"#),
                "{wrong}"
            );
        }
    }
    let missing = inbox.post(&body, &[]);
    let twice = inbox.post(&body, &[("X-Signature", &good), ("X-Signature", &good)]);
    for reply in [&missing, &twice] {
        assert_eq!((reply.status, &*reply.text), (401, r#"{"detail":"invalid signature"}"#));
    }
    let line = inbox.request_log(&twice);
    assert_eq!((&line["level"], &line["result"]), (&json!("ERROR"), &json!("invalid_signature")));
    assert_eq!(inbox.rows(), 0);
    assert_eq!(inbox.metric("webhook_requests_total{result=\"invalid_signature\"}"), 42);
}

#[test]
fn upper_case_hex_is_the_same_signature() {
    let inbox = Inbox::start();
    let body = message("m1").to_string().into_bytes();
    assert_ok(&inbox.post(&body, &[("X-Signature", &sign(&body).to_uppercase())]));
    assert_ok(&inbox.post(&body, &[("x-signature", &sign(&body))]));
}

#[test]
fn the_body_is_signed_as_bytes_and_its_content_type_does_not_matter() {
    let inbox = Inbox::start();
    let body = "{ \"ts\" : \"2025-01-15T10:00:00Z\",\r\n\t\"to\":\"+1\", \"from\":\"+1\", \"message_id\":\"\\u006d\" }\n";
    let signature = sign(body.as_bytes());
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"]
    {
        let headers = [("X-Signature", &*signature), ("Content-Type", content_type)];
        assert_ok(&inbox.post(body.as_bytes(), &headers));
    }
    assert_eq!(inbox.get("/messages").json["data"][0]["message_id"], "m");
}

#[test]
fn every_bad_field_is_named_at_once_in_fastapis_words() {
    let inbox = Inbox::start();
    let reply = inbox.deliver(
        &json!({ "message_id": "", "from": "919876543210", "ts": 5, "text": "x".repeat(4097) }),
    );
    assert_eq!(reply.status, 422);
    let detail = &reply.json["detail"];
    assert_eq!(
        detail[0],
        json!({
            "type": "string_too_short", "loc": ["body", "message_id"],
            "msg": "String should have at least 1 character", "input": "", "ctx": { "min_length": 1 }
        })
    );
    assert_eq!(
        detail[1],
        json!({
            "type": "string_pattern_mismatch", "loc": ["body", "from"],
            "msg": "String should match pattern '^\\+[0-9]+$'", "input": "919876543210",
            "ctx": { "pattern": "^\\+[0-9]+$" }
        })
    );
    assert_eq!(
        (&detail[2]["type"], &detail[2]["loc"], &detail[2]["msg"]),
        (&json!("missing"), &json!(["body", "to"]), &json!("Field required"))
    );
    assert_eq!(
        detail[3],
        json!({
            "type": "string_type", "loc": ["body", "ts"], "msg": "Input should be a valid string", "input": 5
        })
    );
    assert_eq!(
        (&detail[4]["type"], &detail[4]["msg"]),
        (&json!("string_too_long"), &json!("String should have at most 4096 characters"))
    );
    assert!(reply.text.len() < 4096, "the echo is cut: {}", reply.text.len());
    assert!(reply.text.starts_with(
        r#"{"detail":[{"type":"string_too_short","loc":["body","message_id"],"msg":"#
    ));
    assert_eq!(inbox.rows(), 0);
}

#[test]
fn a_body_that_is_no_message_is_422_with_the_type_of_its_error_and_leaves_no_row() {
    let inbox = Inbox::start();
    let with = |name: &str, value: Value| {
        message_with("m", &json!({ name: value })).to_string().into_bytes()
    };
    let mut without_to = message("m");
    without_to.as_object_mut().unwrap().remove("to");
    let mut msisdn = without_to.clone();
    msisdn["to_msisdn"] = json!("+1");
    let deep_field = format!(r#"{{"message_id":{}"#, "[".repeat(100_000));
    let cases: Vec<(&str, Value, Vec<u8>)> = vec![
        ("missing", json!(["body", "to"]), without_to.to_string().into()),
        ("missing", json!(["body", "to"]), msisdn.to_string().into()),
        ("string_type", json!(["body", "message_id"]), with("message_id", json!(7))),
        ("string_type", json!(["body", "message_id"]), with("message_id", Value::Null)),
        ("string_type", json!(["body", "text"]), with("text", json!(["a"]))),
        ("string_type", json!(["body", "from"]), with("from", json!(919_876_543_210_u64))),
        (
            "string_too_long",
            json!(["body", "message_id"]),
            with("message_id", json!("x".repeat(8193))),
        ),
        (
            "string_too_long",
            json!(["body", "from"]),
            with("from", json!(format!("+{}", "1".repeat(64)))),
        ),
        ("string_too_long", json!(["body", "text"]), with("text", json!("😀".repeat(4097)))),
        ("model_attributes_type", json!(["body"]), b"[]".to_vec()),
        ("model_attributes_type", json!(["body"]), b"null".to_vec()),
        ("model_attributes_type", json!(["body"]), b"\"text\"".to_vec()),
        ("model_attributes_type", json!(["body"]), b"1e999".to_vec()),
        ("json_invalid", json!(["body", 0]), b"".to_vec()),
        ("json_invalid", json!(["body", 9]), b"{\"a\": 1, }".to_vec()),
        ("json_invalid", json!(["body", 1]), b"\xff".to_vec()),
        ("json_invalid", json!(["body", 128]), "[".repeat(100_000).into()),
        ("json_invalid", json!(["body", 141]), deep_field.into()),
        ("json_invalid", json!(["body", 6]), b"{\"ts\":NaN}".to_vec()),
        ("json_invalid", json!(["body", 3]), b"{} {}".to_vec()),
        ("json_invalid", json!(["body", 13]), b"{\"x\":\"\\ud800\"}".to_vec()),
    ];
    for (kind, loc, body) in cases {
        let reply = inbox.deliver_raw(&body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(reply.status, 422, "{shown}");
        let (found, at) = reply.problems().remove(0);
        assert_eq!((found.as_str(), at[0].as_str()), (kind, Some("body")), "{shown}");
        if kind == "json_invalid" {
            // serde_json stops at the offending byte or right behind it.
            let offset = |loc: &Value| loc[1].as_u64().unwrap();
            assert!(offset(&at).abs_diff(offset(&loc)) <= 1, "{shown}: {at}");
            assert_eq!(reply.json["detail"][0]["msg"], "JSON decode error");
        } else {
            assert_eq!(at, loc, "{shown}");
        }
    }
    for number in [
        "",
        "+",
        "919876543210",
        "++1",
        "+1a",
        "+1 2",
        " +1",
        "+1\n",
        "+1\r\n",
        "+-1",
        "+٠١٢",
        "+१२३",
        "00919876543210",
        "+1.0",
        "+1\u{0}",
    ] {
        for field in ["from", "to"] {
            let reply = inbox.deliver_raw(&with(field, json!(number)));
            assert_eq!(
                reply.problems(),
                [("string_pattern_mismatch".to_owned(), json!(["body", field]))],
                "{number:?}"
            );
        }
    }
    for ts in [
        "",
        "2025-01-15",
        "2025-01-15T10:00:00",
        "2025-01-15T10:00:00+00:00",
        "2025-02-30T10:00:00Z",
        "2025-13-01T10:00:00Z",
        "2025-01-15T25:00:00Z",
        "2025-01-15t10:00:00Z",
        "2025-01-15T10:00:00z",
        "2025-01-15T10:00:00.Z",
        "2025-01-15T10:00:00.0123456789Z",
        "2025-01-15T10:00:00Z\n",
        "1736935200",
    ] {
        let reply = inbox.deliver_raw(&with("ts", json!(ts)));
        assert_eq!(
            reply.problems(),
            [("string_pattern_mismatch".to_owned(), json!(["body", "ts"]))],
            "{ts:?}"
        );
    }
    assert_eq!(inbox.rows(), 0);
}

#[test]
fn what_is_valid_is_taken_and_read_back_as_it_came() {
    let inbox = Inbox::start();
    let mut expected = Vec::new();
    for (number, fields) in [
        json!({ "from": "+1", "to": "+0123456" }),
        json!({ "from": "+12345678901234567890" }),
        json!({ "text": null }),
        json!({ "text": "" }),
        json!({ "text": "😀".repeat(4096) }),
        json!({ "text": "a\u{0}b \"quoted\" \\ <script> \u{2028} \u{7f}" }),
        json!({ "message_id": " spaces and ünïcode 🙂\u{0} " }),
        json!({ "message_id": "x".repeat(5000) }),
        json!({ "message_id": "é".repeat(8192) }),
        json!({ "ts": "2024-02-29T23:59:59.123456789Z" }),
        json!({ "ts": "0001-01-01T00:00:00Z" }),
        json!({ "ts": "9999-12-31T23:59:59.9Z" }),
    ]
    .iter()
    .enumerate()
    {
        let message = message_with(&format!("m{number}"), fields);
        assert_ok(&inbox.deliver(&message));
        expected.push(message);
    }
    let mut absent = message("absent");
    absent.as_object_mut().unwrap().remove("text");
    assert_ok(&inbox.deliver(&absent));
    absent["text"] = Value::Null;
    expected.push(absent);
    let page = inbox.get("/messages").json;
    assert_eq!(page["total"], expected.len());
    for message in &expected {
        assert!(page["data"].as_array().unwrap().contains(message), "{message}");
    }
}

#[test]
fn unknown_fields_are_ignored_and_of_equal_keys_the_last_counts() {
    let inbox = Inbox::start();
    let mut body = message("m1").to_string();
    body.pop();
    let _ = write!(
        body,
        r#","extra":{{"deep":[1,1e999,-0.0,{}]}},"from_msisdn":7,"text":"second"}}"#,
        "9".repeat(400)
    );
    assert_ok(&inbox.deliver_raw(body.as_bytes()));
    assert_eq!(
        inbox.get("/messages").json["data"],
        json!([message_with("m1", &json!({ "text": "second" }))])
    );
}

#[test]
fn thirty_two_identical_posts_at_once_are_one_row() {
    let inbox = Inbox::start();
    let body = message("same").to_string();
    let replies = at_once(32, |_| inbox.deliver_raw(body.as_bytes()));
    replies.iter().for_each(assert_ok);
    assert_eq!(inbox.rows(), 1);
    let created = "webhook_requests_total{result=\"created\"}";
    let duplicate = "webhook_requests_total{result=\"duplicate\"}";
    assert_eq!((inbox.metric(created), inbox.metric(duplicate)), (1, 31));
}

#[test]
fn a_large_body_within_the_limit_is_read_and_one_over_it_is_413() {
    let inbox = Inbox::start();
    let limit = 1024 * 1024;
    let padded = |length: usize| {
        let mut body = message("large").to_string().into_bytes();
        body.resize(length, b' ');
        body
    };
    assert_ok(&inbox.deliver_raw(&padded(limit)));
    for length in [limit + 1, 2 * limit, 8 * limit] {
        let body = padded(length);
        let reply = inbox.deliver_raw(&body);
        assert_eq!(
            (reply.status, &reply.json),
            (413, &json!({ "detail": "body larger than 1048576 bytes" }))
        );
        assert_eq!(inbox.request_log(&reply)["result"], "too_large");
    }
    // A body that never comes is not waited for.
    let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n";
    assert!(inbox.raw(head.as_bytes()).starts_with("HTTP/1.1 413 "));
    assert_eq!(inbox.rows(), 1);
}
