//! `GET /stats`, line by line of docs/CONTRACT.md.

use serde_json::json;

use crate::harness::{Inbox, message_with};

#[test]
fn an_empty_database_has_zeros_and_nulls() {
    let inbox = Inbox::start();
    assert_eq!(
        inbox.get("/stats").text,
        r#"{"total_messages":0,"senders_count":0,"messages_per_sender":[],"first_message_ts":null,"last_message_ts":null}"#
    );
}

#[test]
fn the_ten_busiest_senders_come_first_and_ties_are_in_order() {
    let inbox = Inbox::start();
    for sender in 0..12 {
        for number in 0..=(sender % 4) {
            let fields = json!({ "from": format!("+{sender:02}"), "ts": format!("2025-01-{:02}T10:00:00.{number}Z", 10 + sender) });
            assert_eq!(
                inbox.deliver(&message_with(&format!("{sender}-{number}"), &fields)).status,
                200
            );
        }
    }
    let stats = inbox.get("/stats?limit=x&anything=goes").json;
    assert_eq!((&stats["total_messages"], &stats["senders_count"]), (&json!(30), &json!(12)));
    let order: Vec<_> = stats["messages_per_sender"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sender| {
            (sender["from"].as_str().unwrap().to_owned(), sender["count"].as_i64().unwrap())
        })
        .collect();
    let expected =
        ["+03 4", "+07 4", "+11 4", "+02 3", "+06 3", "+10 3", "+01 2", "+05 2", "+09 2", "+00 1"];
    assert_eq!(
        order.iter().map(|(from, count)| format!("{from} {count}")).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(stats["first_message_ts"], "2025-01-10T10:00:00.0Z");
    assert_eq!(stats["last_message_ts"], "2025-01-21T10:00:00.3Z");
}

#[test]
fn a_series_counts_by_ts_in_hours_or_days_zeros_included() {
    let inbox = Inbox::start();
    for (id, ts) in [
        ("a", "2025-01-15T09:59:59.999Z"),
        ("b", "2025-01-15T10:00:00Z"),
        ("c", "2025-01-15T10:30:00Z"),
        ("d", "2025-01-15T12:00:00Z"),
        ("e", "2025-01-16T00:00:00Z"),
    ] {
        assert_eq!(inbox.deliver(&message_with(id, &json!({ "ts": ts }))).status, 200);
    }
    let ask = |query: &str| inbox.get(&format!("/stats/series?{query}"));
    assert_eq!(
        ask("since=2025-01-15T09:00:00Z&until=2025-01-15T11:30:00Z").text,
        r#"{"bucket":"hour","data":[{"ts":"2025-01-15T09:00:00Z","count":1},{"ts":"2025-01-15T10:00:00Z","count":2},{"ts":"2025-01-15T11:00:00Z","count":0}]}"#
    );
    // Not the whole of the first and of the last bucket, if the time begins or ends within.
    let counts = |query: &str| -> Vec<i64> {
        let json = ask(query).json;
        let data = json["data"].as_array().unwrap_or_else(|| panic!("{query}: {json}"));
        data.iter().map(|bucket| bucket["count"].as_i64().unwrap()).collect()
    };
    assert_eq!(
        counts("since=2025-01-15T10:15:00Z&until=2025-01-15T12:00:00.000000001Z"),
        [1, 0, 1]
    );
    assert_eq!(
        counts("bucket=day&since=2025-01-14T00:00:00Z&until=2025-01-17T00:00:00Z"),
        [0, 4, 1]
    );
    assert_eq!(counts("bucket=day&until=2025-01-16T00:00:00.5Z")[28..], [4, 1]);
    assert_eq!(counts("since=2025-01-15T10:00:00Z&until=2025-01-15T10:00:00Z"), [0; 0]);
    assert_eq!(counts("since=2025-01-16T10:00:00Z&until=2025-01-15T10:00:00Z"), [0; 0]);
    assert_eq!((counts("").len(), counts("bucket=day").len()), (24, 30));
    assert_eq!(counts("since=2024-12-05T08:00:00Z&until=2025-01-16T00:00:00Z").len(), 1000);
    let most = ask("since=2024-12-05T07:59:59Z&until=2025-01-16T00:00:00Z");
    assert_eq!(most.problems(), [("value_error".to_owned(), json!(["query", "since"]))]);
    let edge = "bucket=day&since=0001-01-01T00:00:00Z&until=0001-01-02T00:00:00Z";
    assert_eq!(ask(edge).json["data"], json!([{ "ts": "0001-01-01T00:00:00Z", "count": 0 }]));
    assert_eq!(ask("bucket=day&until=0001-01-02T00:00:00Z").status, 200);
    assert_eq!(ask("until=9999-12-31T23:59:59.999999999Z").status, 200);
    for query in ["bucket=week", "since=x", "until=x"] {
        assert_eq!(ask(query).status, 422, "{query}");
    }
}

#[test]
fn a_series_counts_what_the_filters_match() {
    let inbox = Inbox::start();
    for (number, (from, text)) in
        [("+4911", "a parcel"), ("+4922", "a letter"), ("+4911", "a letter"), ("+33", "a parcel")]
            .into_iter()
            .enumerate()
    {
        let ts = format!("2025-01-15T1{number}:00:00Z");
        let fields = json!({ "from": from, "text": text, "ts": ts, "to": format!("+{number}") });
        assert_eq!(inbox.deliver(&message_with(&number.to_string(), &fields)).status, 200);
    }
    let counts = |filter: &str| -> Vec<i64> {
        let range = "since=2025-01-15T10:00:00Z&until=2025-01-15T14:00:00Z";
        let json = inbox.get(&format!("/stats/series?{range}&{filter}")).json;
        let data = json["data"].as_array().unwrap_or_else(|| panic!("{filter}: {json}"));
        data.iter().map(|bucket| bucket["count"].as_i64().unwrap()).collect()
    };
    assert_eq!(counts(""), [1, 1, 1, 1]);
    assert_eq!(counts("from=+4911"), [1, 0, 1, 0]);
    assert_eq!(counts("from_prefix=+49"), [1, 1, 1, 0]);
    assert_eq!(counts("q=PARCEL"), [1, 0, 0, 1]);
    assert_eq!(counts("q=parcel&from_prefix=+49"), [1, 0, 0, 0]);
    assert_eq!(counts("to=+1"), [0, 1, 0, 0]);
    assert_eq!(counts("from=+999"), [0; 4]);
}
