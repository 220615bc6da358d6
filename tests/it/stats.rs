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
