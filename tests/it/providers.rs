//! `POST /webhook/whatsapp`, `/webhook/twilio` and `/webhook/standard`: what providers send.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    client::Client,
    harness::{
        Inbox, Reply, at_once, command, message, message_with, on_postgres, refused, sign_with,
    },
    numbers::Numbers,
};

const APP_SECRET: &str = "0123456789abcdef0123456789abcdef";
const VERIFY_TOKEN: &str = "a token of the operator's";
const AUTH_TOKEN: &str = "fedcba9876543210fedcba9876543210";
const PUBLIC_URL: &str = "https://hooks.example.com/inbox";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SENT: &str = "2025-06-08T20:59:43Z";

fn configure(command: &mut Command) {
    command
        .env("WHATSAPP_APP_SECRET", APP_SECRET)
        .env("WHATSAPP_VERIFY_TOKEN", VERIFY_TOKEN)
        .env("TWILIO_AUTH_TOKEN", AUTH_TOKEN)
        .env("PUBLIC_URL", PUBLIC_URL)
        .env("STANDARD_WEBHOOKS_SECRET", STANDARD_SECRET);
}

fn start() -> Inbox {
    start_in(tempfile::tempdir().unwrap())
}

/// How many messages have an original.
fn originals(inbox: &Inbox) -> i64 {
    inbox.count(if on_postgres() {
        "SELECT count(original) FROM messages"
    } else {
        "SELECT count(*) FROM originals"
    })
}

fn start_in(folder: TempDir) -> Inbox {
    Inbox::start_with(folder, configure)
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// The body of Meta's around messages.
fn envelope(messages: &[Value]) -> Value {
    change(
        "messages",
        &json!({
            "messaging_product": "whatsapp",
            "metadata": { "display_phone_number": "15550783881", "phone_number_id": "106540352242922" },
            "contacts": [{ "profile": { "name": "Sheena" }, "wa_id": "16505551234", "user_id": "US.13491208655302741918" }],
            "messages": messages,
        }),
    )
}

fn change(field: &str, value: &Value) -> Value {
    json!({
        "object": "whatsapp_business_account",
        "entry": [{ "id": "102290129340398", "changes": [{ "field": field, "value": value }] }],
    })
}

fn text(id: &str) -> Value {
    json!({
        "from": "16505551234", "from_user_id": "US.13491208655302741918", "id": id,
        "timestamp": "1749416383", "type": "text", "text": { "body": "Hello" },
    })
}

fn whatsapp(inbox: &Inbox, body: &Value) -> Reply {
    // Meta escapes what is not ASCII.
    let escape = |c: char| {
        if c.is_ascii() {
            return c.to_string();
        }
        let units = c.encode_utf16(&mut [0; 2]).to_vec();
        units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat()
    };
    let body: String = body.to_string().chars().map(escape).collect();
    whatsapp_raw(inbox, body.as_bytes())
}

fn whatsapp_raw(inbox: &Inbox, body: &[u8]) -> Reply {
    let signature = format!("sha256={}", sign_with(APP_SECRET, body));
    let headers = [("X-Hub-Signature-256", signature.as_str()), ("X-Hub-Signature", "sha1=00")];
    inbox.post_to("/webhook/whatsapp", body, &headers)
}

fn form(parameters: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(parameters).finish()
}

fn twilio_signature(url: &str, parameters: &[(&str, &str)]) -> String {
    let mut sorted = parameters.to_vec();
    sorted.sort_by_key(|(name, _)| *name);
    let mac = Hmac::<sha1::Sha1>::new_from_slice(AUTH_TOKEN.as_bytes()).unwrap();
    let signed: String = sorted.iter().flat_map(|(name, value)| [*name, *value]).collect();
    STANDARD.encode(mac.chain_update(format!("{url}{signed}")).finalize().into_bytes())
}

fn twilio(inbox: &Inbox, parameters: &[(&str, &str)]) -> Reply {
    let signature = twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), parameters);
    let body = form(parameters);
    inbox.post_to("/webhook/twilio", body.as_bytes(), &[("X-Twilio-Signature", &signature)])
}

fn standard_signature(id: &str, timestamp: &str, body: &[u8]) -> String {
    let key = STANDARD.decode(STANDARD_SECRET.trim_start_matches("whsec_")).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    let mac = mac.chain_update(format!("{id}.{timestamp}.")).chain_update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn standard_at(inbox: &Inbox, id: &str, timestamp: &str, body: &[u8]) -> Reply {
    let signature = standard_signature(id, timestamp, body);
    let headers =
        [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", &signature)];
    inbox.post_to("/webhook/standard", body, &headers)
}

fn standard(inbox: &Inbox, id: &str, body: &Value) -> Reply {
    standard_at(inbox, id, &now_s().to_string(), body.to_string().as_bytes())
}

/// Everything that is known of a message.
fn found(inbox: &Inbox, message_id: &str) -> Value {
    let encoded: String = form_urlencoded::byte_serialize(message_id.as_bytes()).collect();
    let reply = inbox.get(&format!("/messages/{}", encoded.replace('+', "%20")));
    assert_eq!(reply.status, 200, "{message_id}: {reply:?}");
    reply.json
}

fn items(inbox: &Inbox, source: &str, result: &str) -> u64 {
    inbox.metric(&format!("mailslot_items_total{{source=\"{source}\",result=\"{result}\"}}"))
}

#[test]
fn a_route_is_there_only_with_its_secret() {
    let inbox = Inbox::start();
    for (method, path) in [
        ("GET", "/webhook/whatsapp"),
        ("POST", "/webhook/whatsapp"),
        ("POST", "/webhook/twilio"),
        ("GET", "/webhook/twilio"),
        ("POST", "/webhook/standard"),
        ("POST", "/webhook/other"),
    ] {
        assert_eq!(inbox.request(method, path).status, 404, "{method} {path}");
    }
    let inbox = start();
    for (method, path, status) in [
        ("GET", "/webhook/whatsapp", 403),
        ("POST", "/webhook/whatsapp", 401),
        ("PUT", "/webhook/whatsapp", 405),
        ("POST", "/webhook/twilio", 401),
        ("GET", "/webhook/twilio", 405),
        ("POST", "/webhook/standard", 401),
        ("POST", "/webhook/other", 404),
    ] {
        assert_eq!(inbox.request(method, path).status, status, "{method} {path}");
    }
    let allow = inbox.request("PUT", "/webhook/whatsapp");
    assert_eq!(allow.header("Allow"), Some("POST, GET, HEAD"));
}

#[test]
fn a_setting_that_another_one_needs_is_missed_at_the_start() {
    for (set, missing) in [
        (("WHATSAPP_APP_SECRET", APP_SECRET), "WHATSAPP_VERIFY_TOKEN is not set"),
        (("WHATSAPP_VERIFY_TOKEN", "x"), "WHATSAPP_APP_SECRET is not set"),
        (("TWILIO_AUTH_TOKEN", AUTH_TOKEN), "PUBLIC_URL is not set"),
        (("STANDARD_WEBHOOKS_SECRET", "whsec_short"), "base64 of 24 to 64 bytes"),
        (("STANDARD_WEBHOOKS_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!!"), "base64"),
        (("PUBLIC_URL", "hooks.example.com"), "https://HOST"),
        (("PUBLIC_URL", "https://hooks.example.com/?a=1"), "https://HOST"),
        (("KEEP_ORIGINALS", "no"), "on or off, or 1 or 0"),
    ] {
        let output = refused(|command| {
            command.env(set.0, set.1);
        });
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(missing), "{stderr}");
        assert!(!stderr.contains(set.1) || !set.0.contains("SECRET"), "{stderr}");
    }
}

#[test]
fn metas_challenge_is_echoed_as_text_if_the_token_is_right() {
    let inbox = start();
    let ask = |query: &[(&str, &str)]| inbox.get(&format!("/webhook/whatsapp?{}", form(query)));
    let mode = ("hub.mode", "subscribe");
    let token = ("hub.verify_token", VERIFY_TOKEN);
    let reply = ask(&[mode, ("hub.challenge", "1158201444"), token]);
    assert_eq!((reply.status, reply.text.as_str()), (200, "1158201444"));
    assert_eq!(reply.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
    let hostile = "<script>alert(1)</script>";
    assert_eq!(ask(&[mode, ("hub.challenge", hostile), token]).text, hostile, "as text");
    for wrong in ["", "a token", "A TOKEN OF THE OPERATOR'S", &format!("{VERIFY_TOKEN} ")] {
        let reply = ask(&[mode, ("hub.challenge", hostile), ("hub.verify_token", wrong)]);
        assert_eq!(reply.status, 403, "{wrong}");
        assert!(!reply.text.contains("script"), "{reply:?}");
    }
    assert_eq!(ask(&[mode, ("hub.challenge", "1")]).status, 403);
    assert_eq!(ask(&[("hub.mode", "other"), ("hub.challenge", "1"), token]).status, 403);
    let long = "x".repeat(257);
    for challenge in ["", long.as_str()] {
        let reply = ask(&[mode, ("hub.challenge", challenge), token]);
        assert_eq!(reply.status, 422);
        assert!(!reply.text.contains("xx"), "{reply:?}");
    }
}

#[test]
fn every_type_of_metas_messages_is_stored_with_its_text_kind_and_original() {
    let inbox = start();
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../data/whatsapp_messages.json")).unwrap();
    let messages: Vec<Value> = (cases.iter().enumerate())
        .map(|(number, case)| {
            let mut message = case["message"].clone();
            message["id"] = json!(format!("wamid.{number}=="));
            message["from"] = json!("16505551234");
            message["timestamp"] = json!("1749416383");
            message
        })
        .collect();
    let reply = whatsapp(&inbox, &envelope(&messages));
    assert_eq!((reply.status, reply.text.as_str()), (200, "{\"status\":\"ok\"}"));
    assert_eq!(inbox.rows(), i64::try_from(cases.len()).unwrap());
    for (number, (case, message)) in cases.iter().zip(&messages).enumerate() {
        let stored = found(&inbox, &format!("wamid.{number}=="));
        assert_eq!(stored["text"], case["text"], "{case}");
        assert_eq!(stored["kind"], case["kind"], "{case}");
        assert_eq!(stored["source"], "whatsapp");
        assert_eq!(stored["original"], *message);
        assert_eq!(stored["from"], "+16505551234");
        assert_eq!(stored["to"], "+15550783881");
        assert_eq!(stored["ts"], SENT);
        assert!(stored["stored_at"].as_str().is_some() && stored["cursor"].as_str().is_some());
    }
    let listed = inbox.get("/messages?limit=1").json;
    let members: Vec<&String> = listed["data"][0].as_object().unwrap().keys().collect();
    assert_eq!(members, ["from", "message_id", "text", "to", "ts"], "as the contract has it");
}

#[test]
fn twilio_gets_an_empty_response_and_its_parameters_become_a_message() {
    let inbox = start();
    let parameters = [
        ("MessageSid", "SM1"),
        ("AccountSid", "AC1"),
        ("From", "whatsapp:+14158675309"),
        ("To", "whatsapp:+18005551212"),
        ("Body", "Größe 42 & more = fine+"),
        ("NumMedia", "1"),
        ("MediaContentType0", "image/jpeg"),
        ("MediaUrl0", "https://api.example.com/media/1"),
        ("FromCity", ""),
    ];
    let before = now_s();
    let reply = twilio(&inbox, &parameters);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("Content-Type"), Some("text/xml"));
    assert_eq!(reply.text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>");
    let stored = found(&inbox, "SM1");
    assert_eq!(stored["from"], "+14158675309");
    assert_eq!(stored["to"], "+18005551212");
    assert_eq!(stored["text"], "Größe 42 & more = fine+");
    assert_eq!((&stored["source"], &stored["kind"]), (&json!("twilio"), &json!("image")));
    let expected: BTreeMap<_, _> = parameters.into_iter().collect();
    assert_eq!(stored["original"], json!(expected));
    let since = format!("/messages?since={}&source=twilio", timestamp(before));
    assert_eq!(inbox.get(&since).json["total"], 1, "the time is that of the receipt");
    assert_eq!(twilio(&inbox, &parameters).status, 200);
    assert_eq!((items(&inbox, "twilio", "created"), items(&inbox, "twilio", "duplicate")), (1, 1));

    // Without a port, with it, with a query, and repeated parameters as they came.
    let url = "https://hooks.example.com:443/inbox/webhook/twilio?a=b&c=";
    let repeated = [
        ("MessageSid", "SM2"),
        ("From", "12345"),
        ("To", "MyShop"),
        ("X", "b"),
        ("X", "a"),
        ("X", "b"),
    ];
    let signature = twilio_signature(url, &repeated);
    let reply = inbox.post_to(
        "/webhook/twilio?a=b&c=",
        form(&repeated).as_bytes(),
        &[("X-Twilio-Signature", &signature)],
    );
    assert_eq!(reply.status, 200);
    let stored = found(&inbox, "SM2");
    assert_eq!(stored["original"]["X"], json!(["b", "a", "b"]));
    assert_eq!((&stored["from"], &stored["to"]), (&json!("12345"), &json!("MyShop")));
    assert_eq!((&stored["text"], &stored["kind"]), (&Value::Null, &json!("text")));

    // A status callback, a call, and a body of JSON.
    assert_eq!(
        twilio(&inbox, &[("MessageSid", "SM1"), ("MessageStatus", "delivered")]).status,
        200
    );
    assert_eq!(twilio(&inbox, &[("CallSid", "CA1")]).status, 200);
    let body = json!({ "MessageSid": "SM3", "From": "+1", "To": "+2", "Body": "JSON" }).to_string();
    let hash = hex::encode(Sha256::digest(&body));
    let target = format!("/webhook/twilio?bodySHA256={hash}");
    let signature = twilio_signature(&format!("{PUBLIC_URL}{target}"), &[]);
    let json = |body: &str| {
        inbox.post_to(&target, body.as_bytes(), &[("X-Twilio-Signature", &signature)]).status
    };
    assert_eq!(json(&body), 200);
    assert_eq!(found(&inbox, "SM3")["text"], "JSON");
    assert_eq!(json(&body.replace("JSON", "json")), 401, "another body than the hash is of");
    assert_eq!(items(&inbox, "twilio", "status_delivered"), 1);
    assert_eq!(items(&inbox, "twilio", "other"), 1);
    assert_eq!(inbox.rows(), 3);
}

fn timestamp(seconds: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    moment.format(&time::format_description::well_known::Rfc3339).unwrap()
}

#[test]
fn standard_webhooks_takes_the_body_of_the_webhook_alone_or_in_an_event() {
    let inbox = start();
    assert_eq!(standard(&inbox, "msg_1", &message("m1")).status, 200);
    let stored = found(&inbox, "m1");
    assert_eq!((&stored["source"], &stored["original"]), (&json!("standard"), &Value::Null));
    let event = json!({
        "type": "message.received", "timestamp": "2022-11-03T20:26:10.344522Z",
        "data": { "from": "+1", "to": "+2", "text": "Hi", "more": 1.50 },
    });
    assert_eq!(standard(&inbox, "msg_2", &event).status, 200);
    let stored = found(&inbox, "msg_2");
    assert_eq!(stored["ts"], "2022-11-03T20:26:10.344522Z");
    assert_eq!(stored["original"], event);
    let bare = json!({ "from": "+1", "to": "+2" });
    assert_eq!(
        standard_at(&inbox, "msg_3", &now_s().to_string(), bare.to_string().as_bytes()).status,
        200
    );
    assert!(found(&inbox, "msg_3")["ts"].as_str().unwrap() >= "2026");
    for event in [
        json!({ "type": "user.created", "data": { "id": 1 } }),
        json!({ "type": "ping", "data": null }),
    ] {
        assert_eq!(standard(&inbox, "msg_4", &event).status, 200);
    }
    for invalid in
        [json!({}), json!([]), json!({ "from": "1", "to": "+2" }), message_with("", &json!({}))]
    {
        let reply = standard(&inbox, "msg_5", &invalid);
        assert_eq!(reply.status, 200, "signed, so it is acknowledged: {invalid}");
        let line = inbox.wait_for_log(|line| line["msg"] == "a part of a delivery is not stored");
        assert_eq!((&line["source"], &line["level"]), (&json!("standard"), &json!("WARN")));
    }
    assert_eq!(inbox.rows(), 3);
    assert_eq!((items(&inbox, "standard", "other"), items(&inbox, "standard", "invalid")), (2, 4));
    // The names that Svix had, and other versions and keys among the signatures.
    let (body, now) = (message("m6").to_string(), now_s().to_string());
    let signature = standard_signature("msg_6", &now, body.as_bytes());
    let several = format!("v1a,xyz v1,AAAA v2,{signature} {signature}");
    let headers = [("svix-id", "msg_6"), ("svix-timestamp", &now), ("svix-signature", &several)];
    assert_eq!(inbox.post_to("/webhook/standard", body.as_bytes(), &headers).status, 200);
    assert_eq!(inbox.rows(), 4);
}

#[test]
fn a_timestamp_that_is_too_old_or_too_new_is_refused_and_the_log_says_why() {
    let inbox = start();
    for (age_s, status) in [(290, 200), (-290, 200), (320, 401), (-320, 401), (1 << 40, 401)] {
        let timestamp = now_s().saturating_sub(age_s);
        if timestamp < 0 {
            continue;
        }
        let id = format!("msg_{age_s}");
        let body = message(&id).to_string();
        let reply = standard_at(&inbox, &id, &timestamp.to_string(), body.as_bytes());
        assert_eq!(reply.status, status, "{age_s}");
        if status == 401 {
            assert_eq!(reply.text, "{\"detail\":\"invalid signature\"}");
            let line = inbox.wait_for_log(|line| {
                line["msg"] == "a signed delivery is refused: its timestamp is too old or too new"
            });
            assert!((line["age_s"].as_i64().unwrap() - age_s).abs() < 15, "{line}");
        }
    }
    assert_eq!(inbox.rows(), 2);
}

#[test]
fn a_wrong_signature_is_401_and_stores_nothing() {
    let inbox = start();
    let refused = |path: &str, body: &[u8], headers: &[(&str, &str)]| {
        let reply = inbox.post_to(path, body, headers);
        assert_eq!(reply.status, 401, "{path} {headers:?}");
        assert_eq!(reply.text, "{\"detail\":\"invalid signature\"}");
    };
    let body = envelope(&[text("wamid.1")]).to_string();
    let body = body.as_bytes();
    let name = "X-Hub-Signature-256";
    let good = format!("sha256={}", sign_with(APP_SECRET, body));
    for wrong in [
        "",
        "sha256=",
        &good[..good.len() - 2],
        &format!("{good}00"),
        &good[7..],
        &format!("sha1={}", &good[7..]),
        &format!("sha256={}", sign_with("another secret", body)),
        &format!("{good} "),
        &format!("{good},{good}"),
        &good.replace("sha256", "SHA256"),
        &format!("sha256={}", sign_with(APP_SECRET, b"{}")),
    ] {
        if wrong.ends_with(' ') {
            continue; // HTTP takes white space around a value away.
        }
        refused("/webhook/whatsapp", body, &[(name, wrong)]);
    }
    refused("/webhook/whatsapp", body, &[]);
    refused("/webhook/whatsapp", body, &[(name, &good), (name, &good)]);
    refused("/webhook/whatsapp", body, &[("X-Signature", &sign_with(APP_SECRET, body))]);

    let parameters = [("MessageSid", "SM1"), ("From", "+1"), ("To", "+2")];
    let name = "X-Twilio-Signature";
    let body = form(&parameters);
    let body = body.as_bytes();
    let good = twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), &parameters);
    for wrong in [
        "",
        &good[1..],
        &good[..26],
        &format!("{good}A"),
        "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        &twilio_signature("https://hooks.example.com/webhook/twilio", &parameters),
        &twilio_signature("http://hooks.example.com/inbox/webhook/twilio", &parameters),
        &twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio/"), &parameters),
        &twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), &parameters[1..]),
    ] {
        refused("/webhook/twilio", body, &[(name, wrong)]);
    }
    refused("/webhook/twilio?a=b", body, &[(name, &good)]);
    refused("/webhook/twilio", &[body, b"&x="].concat(), &[(name, &good)]);
    refused("/webhook/twilio", body, &[(name, &good), (name, &good)]);

    let body = message("m1").to_string();
    let (body, now) = (body.as_bytes(), now_s().to_string());
    let good = standard_signature("msg_1", &now, body);
    for (id, timestamp, signature) in [
        ("msg_1", "", good.as_str()),
        ("msg_1", "1", &good),
        ("msg_1", &format!("+{now}"), &good),
        ("msg_1", &format!("{now}.0"), &good),
        ("msg_1", "99999999999999999999", &good),
        ("msg_2", &now, &good),
        ("", &now, &standard_signature("", &now, body)),
        ("msg.1", &now, &standard_signature("msg.1", &now, body)),
        ("msg_1", &now, ""),
        ("msg_1", &now, &good[3..]),
        ("msg_1", &now, &good.replace("v1,", "v2,")),
        ("msg_1", &now, &good[..good.len() - 4]),
        ("msg_1", &now, "v1,"),
    ] {
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
        ];
        refused("/webhook/standard", body, &headers);
    }
    refused("/webhook/standard", body, &[("webhook-id", "msg_1"), ("webhook-signature", &good)]);
    assert_eq!(inbox.rows(), 0);
    assert!(inbox.metric("webhook_requests_total{result=\"invalid_signature\"}") > 35);
    let line = inbox.wait_for_log(|line| line["status"] == 401);
    assert_eq!(line["level"], "ERROR");
    assert!(!line.to_string().contains("sha256="), "{line}");
}

#[test]
fn a_body_of_a_thousand_messages_is_one_commit_and_one_of_three_megabytes_is_taken() {
    let inbox = start();
    let messages: Vec<Value> = (0..1_000).map(|number| text(&format!("wamid.{number}"))).collect();
    let body = envelope(&messages);
    let commits = || inbox.metric("mailslot_commit_duration_seconds_count");
    // The indexer commits by itself, when it has something to do.
    assert_eq!(whatsapp(&inbox, &body).status, 200);
    let sql = "SELECT count(DISTINCT created_at) FROM messages";
    assert_eq!((inbox.rows(), inbox.count(sql)), (1_000, 1), "one commit has one time");
    assert!(commits() < 20);
    assert_eq!(items(&inbox, "whatsapp", "created"), 1_000);
    assert_eq!(inbox.metric("webhook_requests_total{result=\"created\"}"), 1);

    let mut next: Vec<Value> = messages[..10].to_vec();
    next.push(text("wamid.new"));
    next.push(text("wamid.new"));
    assert_eq!(whatsapp(&inbox, &envelope(&next)).status, 200);
    assert_eq!((inbox.rows(), items(&inbox, "whatsapp", "duplicate")), (1_001, 11));

    let mut long = text("wamid.long");
    long["text"]["body"] = json!("x".repeat(3_000_000));
    assert_eq!(whatsapp(&inbox, &envelope(&[long.clone()])).status, 200);
    let stored = found(&inbox, "wamid.long");
    assert_eq!(stored["text"].as_str().unwrap().chars().count(), 4_096, "cut");
    assert_eq!(stored["original"], Value::Null);
    assert!(stored["original_too_large_bytes"].as_i64().unwrap() > 3_000_000);
    long["text"]["body"] = json!("x".repeat(3 * 1_048_576));
    assert_eq!(whatsapp(&inbox, &envelope(&[long])).status, 413);
    let large = message_with("m", &json!({ "more": "x".repeat(2_000_000) }));
    assert_eq!(standard(&inbox, "msg_1", &large).status, 413, "the limit is the route's");
}

#[test]
fn what_cannot_be_stored_is_503_for_all_and_a_retry_completes_it() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        configure(command);
        crate::harness::with_faults(command);
    });
    let body = envelope(&[text("wamid.1"), text("wamid.2"), text("wamid.3")]);
    assert_eq!(whatsapp(&inbox, &envelope(&[text("wamid.2")])).status, 200);
    inbox.fault("disk_full", true);
    let reply = whatsapp(&inbox, &body);
    assert_eq!(reply.status, 503);
    assert!(reply.header("Retry-After").is_some());
    inbox.fault("disk_full", false);
    let end = Instant::now() + Duration::from_secs(20);
    while whatsapp(&inbox, &body).status != 200 {
        assert!(Instant::now() < end, "the disk has space again");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(inbox.rows(), 3);
    assert_eq!(items(&inbox, "whatsapp", "created"), 3);
    assert_eq!(items(&inbox, "whatsapp", "duplicate"), 1);
}

#[test]
fn what_is_signed_and_not_understood_is_acknowledged_and_counted() {
    let inbox = start();
    let mut no_id = text("");
    no_id.as_object_mut().unwrap().remove("id");
    let statuses = json!([
        { "id": "wamid.1", "status": "sent" }, { "status": "delivered" }, { "status": "read" },
        { "status": "failed", "errors": [{ "code": 1 }] }, { "status": "deleted" }, { "status": 7 }, 7, null,
    ]);
    let with = |name: &str, value: Value| {
        let mut message = text(&format!("wamid.{name}"));
        message[name] = value;
        message
    };
    let bodies = [
        (change("messages", &json!({ "statuses": statuses })), "status", 8),
        (change("account_update", &json!({ "event": "x" })), "other", 1),
        (change("messages", &json!({ "errors": [] })), "other", 1),
        (json!({ "object": "page", "entry": [{ "changes": [{}] }] }), "other", 1),
        (json!(null), "invalid", 1),
        (json!([]), "invalid", 1),
        (json!([[{ "changes": [] }]]), "invalid", 1),
        (json!({}), "invalid", 1),
        (json!({ "entry": {} }), "invalid", 1),
        (json!({ "entry": [1, {}, { "changes": 1 }] }), "invalid", 3),
        (json!({ "entry": [{ "changes": [1, [], null] }] }), "other", 3),
        (change("messages", &json!(7)), "other", 1),
        (change("messages", &json!({ "messages": {} })), "invalid", 1),
        (change("messages", &json!({ "messages": null, "statuses": "x" })), "invalid", 2),
        (envelope(&[json!(1), json!([]), json!({}), json!(null), no_id, text("")]), "invalid", 6),
        (
            envelope(
                &["", "-1", "1.5", "x", "253402300800", "99999999999999999999"]
                    .map(|ts| with("timestamp", json!(ts))),
            ),
            "invalid",
            6,
        ),
        (
            envelope(
                &[json!(null), json!([]), json!(-1), json!(1.5), json!(1e20)]
                    .map(|ts| with("timestamp", ts)),
            ),
            "invalid",
            5,
        ),
        (envelope(&[text(&"x".repeat(8_193))]), "invalid", 1),
        (envelope(&[with("from", json!("x".repeat(161)))]), "invalid", 1),
    ];
    let of_contacts = |contacts: Value| {
        let mut message = text("wamid.no-sender");
        message.as_object_mut().unwrap().retain(|name, _| !name.starts_with("from"));
        let value = json!({ "contacts": contacts, "metadata": 7, "messages": [message] });
        (change("messages", &value), "invalid", 1)
    };
    let contacts = [json!({}), json!(7), json!(null), json!([]), json!([1]), json!([{}])];
    let counted = |result: &str| -> u64 {
        let text = inbox.get("/metrics").text;
        let prefix = format!("mailslot_items_total{{source=\"whatsapp\",result=\"{result}");
        let lines = text.lines().filter(|line| line.starts_with(&prefix));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    for (body, result, count) in bodies.into_iter().chain(contacts.map(of_contacts)) {
        let before = counted(result);
        let reply = whatsapp(&inbox, &body);
        assert_eq!(reply.status, 200, "{body}");
        assert_eq!(counted(result), before + count, "{body}");
    }
    let last_counts = br#"{ "entry": [], "entry": 1 }"#;
    let nested = b"[".repeat(100_000);
    for raw in [&b""[..], b"{", b"\xff\xfe", b"NaN", &nested, b"{}{}", last_counts] {
        let before = counted("invalid");
        assert_eq!(whatsapp_raw(&inbox, raw).status, 200);
        assert_eq!(counted("invalid"), before + 1);
    }
    assert_eq!(inbox.rows(), 0);
    assert_eq!(inbox.metric("webhook_requests_total{result=\"ignored\"}"), 32);

    // One odd message does not keep the others out; what there is of an odd one is enough.
    let hidden = json!({ "id": "wamid.hidden", "timestamp": "0", "type": "text" });
    let number = json!({ "id": "wamid.number", "timestamp": 253_402_300_799_i64, "from": 1 });
    let named = with("from_user_id", json!("DE.ENT.abc123"));
    let mut named = named;
    named.as_object_mut().unwrap().remove("from");
    let nul = with("text", json!({ "body": "\0\u{202e}" }));
    let body = envelope(&[json!(7), hidden, number, named, nul, text(&"y".repeat(8_192))]);
    assert_eq!(whatsapp(&inbox, &body).status, 200);
    assert_eq!(inbox.rows(), 5);
    let stored = found(&inbox, "wamid.hidden");
    assert_eq!(stored["from"], "US.13491208655302741918", "of the contact");
    assert_eq!((&stored["ts"], &stored["text"]), (&json!("1970-01-01T00:00:00Z"), &Value::Null));
    assert_eq!(found(&inbox, "wamid.number")["ts"], "9999-12-31T23:59:59Z");
    assert_eq!(found(&inbox, "wamid.from_user_id")["from"], "DE.ENT.abc123");
    assert_eq!(found(&inbox, "wamid.text")["text"], "\0\u{202e}");
    assert_eq!(found(&inbox, &"y".repeat(8_192))["kind"], "text");
    let lone = envelope(&[text("wamid.lone"), text("wamid.sound")]).to_string();
    let lone = lone.replacen("Hello", "\\ud800", 1);
    assert_eq!(whatsapp_raw(&inbox, lone.as_bytes()).status, 200);
    assert_eq!(inbox.rows(), 6, "the sound one");
}

#[test]
fn odd_forms_have_an_answer() {
    let inbox = start();
    let signed = |body: &str, parameters: &[(&str, &str)]| {
        let signature = twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), parameters);
        inbox
            .post_to("/webhook/twilio", body.as_bytes(), &[("X-Twilio-Signature", &signature)])
            .status
    };
    assert_eq!(signed("", &[]), 200);
    assert_eq!(signed("&&=&a", &[("", ""), ("a", "")]), 200);
    let broken = [("MessageSid", "%zz%"), ("From", "+1"), ("To", "+2"), ("Body", "100% \u{fffd}")];
    assert_eq!(signed("MessageSid=%zz%&From=%2B1&To=%2B2&Body=100%%20%ff", &broken), 200);
    assert_eq!(found(&inbox, "%zz%")["text"], "100% \u{fffd}");
    let names: Vec<String> = (0..10_000).map(|number| format!("p{number}")).collect();
    let mut many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    many.extend([("MessageSid", "SM9"), ("From", "+1"), ("To", "+2")]);
    assert_eq!(signed(&form(&many), &many), 200);
    assert!(found(&inbox, "SM9")["original_too_large_bytes"].as_i64().unwrap() > 65_536);
    for missing in ["MessageSid", "From", "To"] {
        let all = [("MessageSid", "SM8"), ("From", "+1"), ("To", "+2")];
        let some: Vec<_> = all.into_iter().filter(|(name, _)| *name != missing).collect();
        assert_eq!(signed(&form(&some), &some), 200);
        let emptied: Vec<_> =
            all.map(|(name, value)| (name, if name == missing { "" } else { value })).into();
        assert_eq!(signed(&form(&emptied), &emptied), 200);
    }
    assert_eq!((inbox.rows(), items(&inbox, "twilio", "invalid")), (2, 8));
}

#[test]
fn senders_that_are_no_numbers_filter_count_export_and_erase_like_numbers() {
    let inbox = start();
    let mut by_user_id = text("wamid.1");
    by_user_id.as_object_mut().unwrap().remove("from");
    assert_eq!(whatsapp(&inbox, &envelope(&[by_user_id])).status, 200);
    for (id, from) in [("SM1", "12345"), ("SM2", "My Shop"), ("SM3", "My Shop")] {
        let parameters = [("MessageSid", id), ("From", from), ("To", "+1"), ("Body", "x")];
        assert_eq!(twilio(&inbox, &parameters).status, 200);
    }
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    for (from, total) in
        [("US.13491208655302741918", 1), ("12345", 1), ("My%20Shop", 2), ("+919876543210", 1)]
    {
        assert_eq!(inbox.get(&format!("/messages?from={from}")).json["total"], total, "{from}");
        assert_eq!(
            inbox.get(&format!("/export?from={from}")).text.lines().count(),
            total,
            "{from}"
        );
    }
    let stats = inbox.get("/stats").json;
    assert_eq!(stats["senders_count"], 4);
    assert_eq!(stats["messages_per_sender"][0], json!({ "from": "My Shop", "count": 2 }));
    let output = command(inbox.folder.path())
        .args(["erase", "--from", "My Shop", "--yes"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(inbox.get("/messages?from=My%20Shop").json["total"], 0);
    assert_eq!(originals(&inbox), 2);
    // /webhook keeps the contract's pattern.
    assert_eq!(inbox.deliver(&message_with("m2", &json!({ "from": "12345" }))).status, 422);
}

fn export(folder: &TempDir) -> String {
    let output = command(folder.path()).args(["export", "--originals"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn import(folder: &TempDir, lines: &str) {
    let mut import =
        command(folder.path()).args(["import", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
}

fn totals(inbox: &Inbox, queries: &[&str]) -> Vec<Value> {
    let total = |query| inbox.get(&format!("/messages?{query}")).json["total"].clone();
    queries.iter().map(|query| total(*query)).collect()
}

/// SQLite has an index by source and kind only then, since it costs each delivery.
#[test]
fn a_filter_by_source_or_kind_answers_the_same_before_and_after_the_first_provider_is_set_up() {
    let filters = ["source=webhook", "kind=text", "source=webhook&q=hello", "source=twilio"];
    let has_index = |inbox: &Inbox| {
        inbox.count("SELECT count(*) FROM sqlite_schema WHERE name = 'messages_by_class'") == 1
    };
    let inbox = Inbox::start();
    for number in 0..5 {
        inbox.deliver(&message(&format!("m{number}")));
    }
    assert_eq!(totals(&inbox, &filters), [5, 5, 5, 0]);
    assert!(on_postgres() || !has_index(&inbox));

    let inbox = start_in(inbox.stop());
    assert!(on_postgres() || has_index(&inbox));
    assert_eq!(totals(&inbox, &filters), [5, 5, 5, 0]);
    let parameters = [("MessageSid", "SM1"), ("From", "12345"), ("To", "+1"), ("Body", "x")];
    assert_eq!(twilio(&inbox, &parameters).status, 200);
    assert_eq!(totals(&inbox, &filters), [5, 6, 5, 1]);

    // An inbox that has taken no message of a provider itself, but has imported some.
    let folder = tempfile::tempdir().unwrap();
    import(&folder, &export(&inbox.folder));
    let imported = Inbox::start_in(folder);
    assert_eq!(totals(&imported, &filters), [5, 6, 5, 1]);
    assert_eq!(totals(&imported, &["source=twilio&limit=1", "kind=text&from=12345"]), [1, 1]);
    assert!(on_postgres() || !has_index(&imported));
}

#[test]
fn source_and_kind_filter_alone_and_with_all_other_filters() {
    let inbox = start();
    let mut image = text("wamid.2");
    image["type"] = json!("image");
    assert_eq!(whatsapp(&inbox, &envelope(&[text("wamid.1"), image])).status, 200);
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    assert_eq!(standard(&inbox, "msg_1", &message("m2")).status, 200);
    for (query, total) in [
        ("source=webhook", 1),
        ("source=whatsapp", 2),
        ("source=standard", 1),
        ("source=twilio", 0),
        ("kind=text", 3),
        ("kind=image", 1),
        ("kind=absent", 0),
        ("kind=IMAGE", 0),
        ("source=whatsapp&kind=text", 1),
        ("source=whatsapp&kind=text&from=+16505551234", 1),
        ("source=whatsapp&from=+1", 0),
        ("source=whatsapp&q=hell", 1),
        ("source=whatsapp&to=+15550783881", 2),
        ("source=&kind=", 4),
        ("source=webhook&source=standard", 1),
        ("kind=absent&from=+16505551234", 0),
    ] {
        let reply = inbox.get(&format!("/messages?{query}"));
        assert_eq!(reply.json["total"], total, "{query}");
        assert_eq!(json!(reply.json["data"].as_array().unwrap().len()), total, "{query}");
        let lines = inbox.get(&format!("/export?{query}")).text.lines().count();
        assert_eq!(json!(lines), total, "{query}");
    }
    let wrong = inbox.get("/messages?source=sms");
    assert_eq!(wrong.status, 422);
    assert_eq!(wrong.problems(), [("enum".to_owned(), json!(["query", "source"]))]);
    let page = inbox.get("/messages?kind=text&limit=1");
    assert!(page.header("Link").unwrap().contains("kind=text"), "{page:?}");
    let feed = inbox.get("/feed").json;
    let seen: Vec<(&str, &str)> = (feed["data"].as_array().unwrap().iter())
        .map(|message| (message["source"].as_str().unwrap(), message["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("whatsapp", "text"), ("whatsapp", "image"), ("webhook", "text"), ("standard", "text")]
    );
}

#[test]
fn originals_are_exported_imported_turned_off_and_go_with_their_messages() {
    let inbox = start();
    let raw = r#"{"object":"x","entry":[{"changes":[{"field":"messages","value":{"metadata":{"display_phone_number":"+1 555-078 3881"},"messages":[ {"type":"text", "id":"wamid.1","from":"16505551234","timestamp":"1749416383","text":{"body":"caf\u00e9"},"n":1.50e3} ]}}]}]}"#;
    assert_eq!(whatsapp_raw(&inbox, raw.as_bytes()).status, 200);
    let stored = inbox.get("/messages/wamid.1").text;
    let kept = r#""original":{"type":"text", "id":"wamid.1","from":"16505551234","timestamp":"1749416383","text":{"body":"caf\u00e9"},"n":1.50e3}"#;
    assert!(stored.contains(kept), "byte for byte: {stored}");
    assert!(stored.contains(r#""to":"+15550783881""#), "{stored}");
    let extra = message_with("m1", &json!({ "channel": "sms" }));
    assert_eq!(inbox.deliver(&extra).status, 200);
    assert_eq!(found(&inbox, "m1")["original"], extra, "it says more than the message");
    assert_eq!(inbox.deliver(&message("m2")).status, 200);
    assert_eq!(found(&inbox, "m2")["original"], Value::Null);
    let mut large = text("wamid.2");
    large["more"] = json!("x".repeat(70_000));
    assert_eq!(whatsapp(&inbox, &envelope(&[large])).status, 200);
    for path in ["/messages/", "/messages/absent", "/messages/%ff", "/messages/m1/x"] {
        assert_eq!(inbox.get(path).status, 404, "{path}");
    }
    let slash = message_with("a/b %?é", &json!({}));
    assert_eq!(inbox.deliver(&slash).status, 200);
    assert_eq!(found(&inbox, "a/b %?é")["message_id"], "a/b %?é");

    let lines = export(&inbox.folder);
    assert_eq!(lines.matches("\"original\":").count(), 2);
    assert!(lines.contains("\"original_too_large_bytes\":70"), "{lines}");
    assert!(!inbox.get("/export").text.contains("original"), "only where it is asked for");

    let second = tempfile::tempdir().unwrap();
    import(&second, &lines);
    let fields = |lines: &str| -> Vec<Value> {
        let parse = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("created_at");
            line
        };
        lines.lines().map(parse).collect()
    };
    assert_eq!(fields(&export(&second)), fields(&lines));

    let secret = "Rosebud-4711";
    let mut with_secret = text("wamid.3");
    with_secret["from"] = json!("49700");
    with_secret["profile"] = json!({ "name": secret });
    assert_eq!(whatsapp(&inbox, &envelope(&[with_secret])).status, 200);
    let erase =
        command(inbox.folder.path()).args(["erase", "--from", "+49700", "--yes"]).output().unwrap();
    assert!(erase.status.success(), "{erase:?}");
    let folder = inbox.stop();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
    }
    let inbox = Inbox::start_with(folder, |command| {
        configure(command);
        command.env("KEEP_ORIGINALS", "0");
    });
    assert_eq!(whatsapp(&inbox, &envelope(&[text("wamid.4")])).status, 200);
    assert_eq!(found(&inbox, "wamid.4")["original"], Value::Null);
    assert_eq!(found(&inbox, "wamid.1")["original"]["text"]["body"], "café", "what was kept stays");
}

#[test]
fn an_original_expires_with_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = start_in(folder);
    assert_eq!(whatsapp(&inbox, &envelope(&[text("wamid.1")])).status, 200);
    let mut recent = text("wamid.2");
    recent["timestamp"] = json!(now_s().to_string());
    assert_eq!(whatsapp(&inbox, &envelope(&[recent])).status, 200);
    assert_eq!(originals(&inbox), 2);
    let inbox = Inbox::start_with(inbox.stop(), |command| {
        configure(command);
        command.env("RETENTION_DAYS", "30");
    });
    let end = Instant::now() + Duration::from_secs(20);
    while inbox.rows() > 1 {
        assert!(Instant::now() < end, "it expires");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(originals(&inbox), 1);
    assert_eq!(inbox.get("/messages?source=whatsapp").json["total"], 1);
}

#[test]
fn secrets_come_from_files_and_rotate_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("WHATSAPP_APP_SECRET_FILE", "app", APP_SECRET),
        ("WHATSAPP_VERIFY_TOKEN_FILE", "verify", VERIFY_TOKEN),
        ("TWILIO_AUTH_TOKEN_FILE", "auth", AUTH_TOKEN),
        ("STANDARD_WEBHOOKS_SECRET_FILE", "standard", STANDARD_SECRET),
    ];
    for (_, name, secret) in files {
        fs::write(folder.path().join(name), secret).unwrap();
    }
    let inbox = Inbox::start_with(folder, |command| {
        for (setting, name, _) in files {
            let path = command.get_current_dir().unwrap().join(name);
            command.env(setting, path);
        }
        command.env("PUBLIC_URL", PUBLIC_URL);
    });
    let deliver = |number: u32, status: u16| {
        let parameters =
            [("MessageSid", format!("SM{number}")), ("From", "+1".into()), ("To", "+2".into())];
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(whatsapp(&inbox, &envelope(&[text(&format!("wamid.{number}"))])).status, status);
        assert_eq!(twilio(&inbox, &parameters).status, status);
        assert_eq!(standard(&inbox, "msg_1", &message(&format!("m{number}"))).status, status);
    };
    let reload = || {
        inbox.signal("-HUP");
        inbox.wait_for_log(|line| line["msg"] == "settings reloaded");
    };
    let used = |source: &str, key: u32| {
        inbox.metric(&format!(
            "mailslot_provider_key_used_total{{source=\"{source}\",key=\"{key}\"}}"
        ))
    };
    deliver(1, 200);
    let newer = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (_, name, secret) in files {
        let newer = if name == "standard" { newer } else { "a newer secret" };
        fs::write(inbox.folder.path().join(name), format!("{newer}\n{secret}\n")).unwrap();
    }
    reload();
    deliver(2, 200);
    for source in ["whatsapp", "twilio", "standard"] {
        assert_eq!((used(source, 1), used(source, 2)), (1, 1), "{source}");
    }
    for (_, name, _) in files {
        let newer = if name == "standard" { newer } else { "a newer secret" };
        fs::write(inbox.folder.path().join(name), newer).unwrap();
    }
    reload();
    deliver(3, 401);
    let token = form(&[
        ("hub.mode", "subscribe"),
        ("hub.challenge", "1"),
        ("hub.verify_token", "a newer secret"),
    ]);
    assert_eq!(inbox.get(&format!("/webhook/whatsapp?{token}")).status, 200);
}

/// Meta's body with fifty messages of its own.
fn fifty(name: &str) -> String {
    let messages: Vec<Value> = (0..50).map(|number| text(&format!("{name}-{number}"))).collect();
    envelope(&messages).to_string()
}

fn post_whatsapp(client: &mut Client, body: &str) -> Result<u16, String> {
    let signature = format!("sha256={}", sign_with(APP_SECRET, body.as_bytes()));
    client.post("/webhook/whatsapp", &[("X-Hub-Signature-256", &signature)], body)
}

#[test]
fn bodies_of_many_messages_survive_sigkill_whole_or_not_at_all() {
    const CLIENTS: usize = 4;
    // On PostgreSQL the moment of a kill matters less: the server goes on.
    let rounds = if on_postgres() { 5 } else { 20 };
    let mut folder = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut sent) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let inbox = start_in(folder);
        let is_over = AtomicBool::new(false);
        let bodies = Mutex::new((Vec::new(), Vec::new()));
        folder = std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (is_over, bodies, address) = (&is_over, &bodies, inbox.address);
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    for body in 0.. {
                        if is_over.load(SeqCst) {
                            return;
                        }
                        let name = format!("wamid.{round}-{number}-{body}");
                        bodies.lock().unwrap().1.push(name.clone());
                        if post_whatsapp(&mut client, &fifty(&name)) == Ok(200) {
                            bodies.lock().unwrap().0.push(name);
                        }
                    }
                });
            }
            // Some bodies are answered, others are under way.
            let wanted = CLIENTS + round;
            let end = Instant::now() + Duration::from_mins(1);
            while bodies.lock().unwrap().0.len() < wanted {
                assert!(Instant::now() < end, "no body is answered");
                std::thread::sleep(Duration::from_millis(1));
            }
            let folder = inbox.kill();
            is_over.store(true, SeqCst);
            folder
        });
        let (round_acknowledged, round_sent) = bodies.into_inner().unwrap();
        acknowledged.extend(round_acknowledged);
        sent.extend(round_sent);
    }
    let inbox = start_in(folder);
    let stored = |name: &str| {
        inbox.count(&format!("SELECT count(*) FROM messages WHERE message_id LIKE '{name}-%'"))
    };
    for name in &acknowledged {
        assert_eq!(stored(name), 50, "{name} was acknowledged");
    }
    for name in &sent {
        assert!([0, 50].contains(&stored(name)), "{name} is stored in part");
    }
    let mut client = Client::new(inbox.address);
    for name in &sent {
        assert_eq!(post_whatsapp(&mut client, &fifty(name)), Ok(200));
    }
    assert_eq!(inbox.rows(), 50 * i64::try_from(sent.len()).unwrap(), "a retry completes it");
    assert_eq!(originals(&inbox), inbox.rows());
    let check = command(inbox.folder.path())
        .args(["check", "--full"])
        .env("LISTEN", inbox.address.to_string())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&check.stdout).contains("counters: right for"), "{check:?}");
}

/// A body with parts of every kind, and how many it has.
fn random_whatsapp(numbers: &mut Numbers) -> (String, u64) {
    let mut messages = Vec::new();
    for _ in 0..numbers.below(4) {
        let mut message = text(&format!("wamid.{}", numbers.below(60_000)));
        match numbers.below(8) {
            0 => message["timestamp"] = json!("later"),
            1 => message["id"] = json!(numbers.pick(&["", "wamid.shared"])),
            2 => message["type"] = json!(numbers.pick(&["image", "sticker", "new"])),
            3 => message = json!(numbers.below(9)),
            _ => {}
        }
        messages.push(message);
    }
    let status = |word: &str| json!({ "id": "wamid.1", "status": word });
    let words = ["sent", "delivered", "read", "failed", "odd"];
    let statuses: Vec<Value> =
        (0..numbers.below(3)).map(|_| status(numbers.pick(&words))).collect();
    let mut body = envelope(&messages);
    body["entry"][0]["changes"][0]["value"]["statuses"] = json!(statuses);
    let mut count = messages.len() + statuses.len();
    if numbers.one_in(5) {
        let other = json!({ "field": "account_update", "value": numbers.below(9) });
        body["entry"][0]["changes"].as_array_mut().unwrap().push(other);
        count += 1;
    }
    if numbers.one_in(20) {
        body["entry"] = json!(numbers.below(9));
        count = 1;
    }
    (body.to_string(), count as u64)
}

fn random_post(client: &mut Client, numbers: &mut Numbers) -> (usize, u64) {
    let (source, status, count) = match numbers.below(4) {
        0 => {
            let id = format!("SM{}", numbers.below(20_000));
            let all = [
                ("MessageSid", id.as_str()),
                ("From", "+1"),
                ("To", "+2"),
                ("MessageStatus", "read"),
                ("CallSid", "CA1"),
            ];
            let some: Vec<_> = all.into_iter().filter(|_| !numbers.one_in(6)).collect();
            let some = if numbers.one_in(3) { some } else { all[..3].to_vec() };
            let signature = twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), &some);
            let headers = [("X-Twilio-Signature", signature.as_str())];
            (1, client.post("/webhook/twilio", &headers, &form(&some)), 1)
        }
        1 => {
            let mut body = message(&format!("m{}", numbers.below(20_000)));
            match numbers.below(6) {
                0 => body["ts"] = json!("later"),
                1 => body = json!({ "type": "x", "data": body }),
                2 => body = json!({ "type": "x", "data": { "id": 1 } }),
                _ => {}
            }
            let (body, now) = (body.to_string(), now_s().to_string());
            let signature = standard_signature("msg_1", &now, body.as_bytes());
            let headers = [
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", &now),
                ("webhook-signature", &signature),
            ];
            (2, client.post("/webhook/standard", &headers, &body), 1)
        }
        _ => {
            let (body, count) = random_whatsapp(numbers);
            (0, post_whatsapp(client, &body), count)
        }
    };
    match status {
        Ok(200) => (source, count),
        // Nothing of it is stored nor counted.
        Ok(503) => (source, 0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_hundred_thousand_random_bodies_what_was_delivered_is_stored_repeated_or_ignored() {
    const CLIENTS: usize = 16;
    let bodies = if on_postgres() { 10_000 } else { 100_000 };
    let inbox = start();
    let sums = at_once(CLIENTS, |number| {
        let mut client = Client::new(inbox.address);
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15 + number as u64);
        let mut sums = [0; 3];
        for _ in 0..bodies / CLIENTS {
            let (source, count) = random_post(&mut client, &mut numbers);
            sums[source] += count;
        }
        sums
    });
    let text = inbox.get("/metrics").text;
    for (number, source) in ["whatsapp", "twilio", "standard"].iter().enumerate() {
        let delivered: u64 = sums.iter().map(|sums| sums[number]).sum();
        let prefix = format!("mailslot_items_total{{source=\"{source}\"");
        let lines = text.lines().filter(|line| line.starts_with(&prefix));
        let counted: u64 =
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(counted, delivered, "{source}");
        let of_source = if on_postgres() {
            format!("source = '{source}'")
        } else {
            format!("class_id IN (SELECT id FROM classes WHERE source = '{source}')")
        };
        let sql = format!("SELECT count(*) FROM messages WHERE {of_source}");
        let created = items(&inbox, source, "created");
        assert_eq!(i64::try_from(created), Ok(inbox.count(&sql)), "{source}");
        let total =
            inbox.get_served(&format!("/messages?source={source}&limit=1")).json["total"].as_u64();
        assert_eq!(total, Some(created), "{source}");
        assert!(delivered > created && created > 100, "{source}: {delivered} {created}");
    }
}

fn run(arguments: &[&str], input: &[u8], adjust: impl FnOnce(&mut Command)) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    configure(&mut command);
    adjust(&mut command);
    let pipes = command.args(arguments).stdin(Stdio::piped());
    let mut child = pipes.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn what_the_command_line_signs_the_service_takes_and_verify_finds_valid() {
    let inbox = start();
    let bodies = [
        ("whatsapp", envelope(&[text("wamid.1")]).to_string()),
        ("twilio", form(&[("MessageSid", "SM1"), ("From", "+1"), ("To", "+2"), ("Body", "é +&")])),
        ("standard", message("m1").to_string()),
    ];
    for (scheme, body) in &bodies {
        let signed = stdout(&run(&["sign", "--scheme", scheme, "-"], body.as_bytes(), |_| ()));
        let headers: Vec<(&str, &str)> =
            signed.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let reply = inbox.post_to(&format!("/webhook/{scheme}"), body.as_bytes(), &headers);
        assert_eq!(reply.status, 200, "{scheme} {headers:?}");
        let (_, signature) = headers.last().unwrap();
        let mut arguments = vec!["verify", "--scheme", scheme, "--signature", signature];
        if *scheme == "standard" {
            arguments.extend(["--id", headers[0].1, "--timestamp", headers[1].1]);
        }
        arguments.push("-");
        assert_eq!(stdout(&run(&arguments, body.as_bytes(), |_| ())), "ok (secret 1)\n");
    }
    assert_eq!(inbox.rows(), 3);
    for (scheme, _) in &bodies {
        let address = inbox.address.to_string();
        let sent = run(&["send", "--scheme", scheme, "--count", "20"], b"", |command| {
            command.env("LISTEN", address);
        });
        assert!(sent.status.success(), "{sent:?}");
    }
    assert_eq!(inbox.rows(), 63);
    let unset = run(&["sign", "--scheme", "twilio", "-"], b"", |command| {
        command.env_remove("TWILIO_AUTH_TOKEN");
    });
    assert_eq!(unset.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unset.stderr).contains("TWILIO_AUTH_TOKEN is not set"));
    assert_eq!(run(&["sign", "--scheme", "sms", "-"], b"", |_| ()).status.code(), Some(2));
}

#[test]
fn explain_knows_the_classic_mistakes_of_each_scheme() {
    let body = envelope(&[text("wamid.1")]).to_string();
    let parameters = [("MessageSid", "SM1"), ("From", "+1"), ("Empty", "")];
    let form = form(&parameters);
    let of_url = |url: &str| twilio_signature(url, &parameters);
    let now = now_s().to_string();
    let respaced = body.replace("\",\"", "\", \"");
    let hmac = |key: &[u8], text: &str| {
        let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.chain_update(text).finalize().into_bytes()
    };
    let undecoded = hmac(STANDARD_SECRET.as_bytes(), &format!("msg_1.{now}.{body}"));
    let alone = hmac(&STANDARD.decode(&STANDARD_SECRET[6..]).unwrap(), &body);
    let old = (now_s() - 4_000).to_string();
    let whatsapp: &[&str] = &["--scheme", "whatsapp"];
    let twilio: &[&str] = &["--scheme", "twilio"];
    let standard: &[&str] = &["--scheme", "standard", "--id", "msg_1", "--timestamp", &now];
    let stale: &[&str] = &["--scheme", "standard", "--id", "msg_1", "--timestamp", &old];
    for (options, signature, body, expected) in [
        (whatsapp, sign_with(APP_SECRET, body.as_bytes()), &body, "does not begin with sha256="),
        (
            whatsapp,
            format!("sha256={}", sign_with("x", body.as_bytes())),
            &body,
            "WHATSAPP_APP_SECRET",
        ),
        (
            whatsapp,
            format!("sha256={}", sign_with(APP_SECRET, format!("{body}\n").as_bytes())),
            &body,
            "\\n at its end",
        ),
        (
            whatsapp,
            format!("sha256={}", sign_with(APP_SECRET, body.as_bytes())),
            &respaced,
            "serialized again",
        ),
        (whatsapp, "sha256=00".to_owned(), &body, "2 hexadecimal digits"),
        (
            twilio,
            of_url("http://hooks.example.com/inbox/webhook/twilio"),
            &form,
            "http://hooks.example.com/inbox/webhook/twilio was signed",
        ),
        (
            twilio,
            of_url("https://hooks.example.com/inbox/webhook/twilio/"),
            &form,
            "twilio/ was signed",
        ),
        (
            twilio,
            twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), &parameters[..2]),
            &form,
            "without a value",
        ),
        (
            twilio,
            twilio_signature(&format!("{PUBLIC_URL}/webhook/twilio"), &[]),
            &form,
            "signed alone",
        ),
        (twilio, of_url("https://other.example.com/"), &form, "for another URL"),
        (twilio, "AAAA".to_owned(), &form, "not the base64 of 20 bytes"),
        (standard, format!("v1,{}", STANDARD.encode(undecoded)), &body, "not decoded from base64"),
        (standard, format!("v1,{}", STANDARD.encode(alone)), &body, "sign ID.TIMESTAMP.BODY"),
        (standard, STANDARD.encode(alone), &body, "no part v1,BASE64"),
        (stale, standard_signature("msg_1", &old, b"{}"), &body, "seconds old"),
    ] {
        let mut arguments = vec!["verify", "--explain", "--signature", &signature];
        arguments.extend(options);
        arguments.push("-");
        let output = run(&arguments, body.as_bytes(), |_| ());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stdout(&output).starts_with("not valid\n"), "{output:?}");
        assert!(stdout(&output).contains(expected), "{expected}: {}", stdout(&output));
    }
    // Only the second of several signatures is right, and the clock is another one's.
    let right = standard_signature("msg_1", &old, body.as_bytes());
    let several = format!("v1,AAAA {right}");
    let mut arguments = vec!["verify", "--explain", "--signature", &several];
    arguments.extend(stale);
    arguments.push("-");
    let output = stdout(&run(&arguments, body.as_bytes(), |_| ()));
    assert!(output.starts_with("ok (secret 1)\n") && output.contains("set the clocks"), "{output}");
}
