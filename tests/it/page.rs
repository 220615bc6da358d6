//! The pages in a real browser. A test binary of its own, run by `make test-page`, which installs the
//! browser.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations, dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod browser;
mod harness;

use std::{fs, process::Command};

use serde_json::{Value, json};

use browser::Browser;
use harness::{Inbox, SECRET, message_with};

const ARROW_RIGHT: &str = "\u{e014}";
const ARROW_DOWN: &str = "\u{e015}";
const ESCAPE: &str = "\u{e00c}";
const ENTER: &str = "\u{e007}";

/// The ids of the rows, as a JavaScript expression.
const SHOWN: &str =
    "[...document.querySelectorAll('#messages [data-id]')].map(m => m.dataset.id).join()";

fn row(id: &str) -> String {
    format!("#messages [data-id=\"{id}\"] .row")
}

fn deliver_with(inbox: &Inbox, id: &str, fields: &Value) {
    assert_eq!(inbox.deliver(&message_with(id, fields)).status, 200);
}

fn deliver(inbox: &Inbox, id: &str, second: usize, text: &str) {
    let ts = format!("2025-01-15T10:{:02}:{:02}Z", second / 60, second % 60);
    deliver_with(inbox, id, &json!({ "text": text, "ts": ts }));
}

/// Messages `m0`, `m1` and so on, one each second.
fn deliver_many(inbox: &Inbox, count: usize) {
    (0..count).for_each(|number| deliver(inbox, &format!("m{number}"), number, "one of many"));
}

fn open_live(inbox: &Inbox, browser: &Browser) {
    browser.open(&inbox.url("/"));
    browser.wait_for_text("#live", "Live");
}

fn wait_for_rows(browser: &Browser, ids: &str) {
    browser.wait_for(&format!("{SHOWN} === {}", json!(ids)));
}

/// Complaints but for a request that is expected to be refused.
fn complaints(browser: &Browser, expected: &[&str]) -> Vec<String> {
    let is_expected = |line: &String| expected.iter().any(|part| line.contains(part));
    browser.complaints().into_iter().filter(|line| !is_expected(line)).collect()
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn the_page_shows_new_messages_searches_them_and_escapes_markup() {
    let inbox = Inbox::start();
    deliver(&inbox, "first", 1, "hello École");
    let evil =
        "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">";
    deliver(&inbox, "evil", 2, evil);
    let browser = Browser::start();
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "evil,first");

    // It arrives while the page is open, and is at its position.
    deliver(&inbox, "newest", 4, "arrives live");
    wait_for_rows(&browser, "newest,evil,first");
    deliver(&inbox, "late", 3, "for an earlier second");
    wait_for_rows(&browser, "newest,late,evil,first");

    // What looks like markup is text.
    let text = browser.text("#messages");
    assert!(text.contains("<script>document.title='taken'</script>"), "{text}");
    assert_eq!(browser.run("return document.title.includes('taken')"), false);
    assert_eq!(
        browser.run("return document.querySelectorAll('#messages img, #messages script').length"),
        0
    );

    // A search is in the address, and an address is a search.
    browser.type_into("#q", "école");
    wait_for_rows(&browser, "first");
    browser.wait_for("decodeURIComponent(location.search).includes('q=école')");
    let address = browser.run("return location.href");
    browser.open(address.as_str().unwrap());
    wait_for_rows(&browser, "first");
    assert_eq!(browser.text("#messages mark"), "École");
    deliver(&inbox, "match", 5, "une autre école");
    deliver(&inbox, "no match", 6, "something else");
    wait_for_rows(&browser, "match,first");
    assert_eq!(complaints(&browser, &[]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn while_the_server_is_away_rows_are_dimmed_and_a_search_runs_once_it_is_back() {
    let inbox = Inbox::start();
    deliver(&inbox, "parcel", 1, "a parcel");
    deliver(&inbox, "letter", 2, "a letter");
    let browser = Browser::start();
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "letter,parcel");

    let address = inbox.address.to_string();
    let folder = inbox.stop();
    browser.wait_for_text("#live", "Reconnecting, showing messages from ");
    browser.wait_for("getComputedStyle(document.querySelector('#messages')).opacity < 0.6");
    browser.type_into("#q", "parcel");
    browser.wait_for_text("#notice", "Can't reach the server. Showing messages from ");
    browser.wait_for_text("#notice", "retrying…");
    assert!(!browser.text("header").contains("Live"));

    let inbox = Inbox::start_with(folder, |command| {
        command.env("LISTEN", &address);
    });
    wait_for_rows(&browser, "parcel");
    browser.wait_for_text("#live", "Live");
    browser.wait_for("getComputedStyle(document.querySelector('#messages')).opacity === '1'");
    browser.wait_for("document.querySelector('#notice').hidden");
    deliver(&inbox, "second", 3, "another parcel");
    wait_for_rows(&browser, "second,parcel");
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn a_late_message_is_offered_and_is_the_first_in_the_order_received() {
    let inbox = Inbox::start();
    deliver_many(&inbox, 70);
    let browser = Browser::start();
    open_live(&inbox, &browser);
    browser.wait_for(&format!("{SHOWN}.startsWith('m69,')"));
    deliver_with(&inbox, "late", &json!({ "ts": "2024-12-24T18:00:00Z" }));
    browser.wait_for_text("#late", "1 late message, dated 2024-12-24 · show");
    browser.click("#late");
    browser.wait_for(&format!("{SHOWN}.startsWith('late,m69,m68,')"));
    browser.wait_for("document.querySelector('#late').hidden");
    // By arrival, what comes next is first, and older ones follow.
    deliver_with(&inbox, "later", &json!({ "ts": "2024-01-01T00:00:00Z" }));
    browser.run("document.activeElement.blur()");
    browser.wait_for(&format!("{SHOWN}.startsWith('later,late,m69,')"));
    browser.click("#older");
    browser.wait_for(&format!("{SHOWN}.endsWith(',m1,m0')"));
    // The choice is remembered.
    open_live(&inbox, &browser);
    browser.wait_for(&format!("{SHOWN}.startsWith('later,late,m69,')"));
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn an_extreme_ts_spoils_neither_the_order_received_nor_the_overview() {
    let inbox = Inbox::start();
    deliver_with(&inbox, "future", &json!({ "ts": "2130-01-01T00:00:00Z" }));
    deliver_with(&inbox, "past", &json!({ "ts": "0001-01-01T00:00:00Z" }));
    deliver(&inbox, "now", 1, "as usual");
    let browser = Browser::start();
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "future,now,past");
    browser.wait_for_text("#messages .day", "2130-01-01 (in the future)");
    browser.click("[data-order=arrival]");
    wait_for_rows(&browser, "now,past,future");
    browser.wait_for_text("#last-stored", "just now");
    let overview = browser.text("aside");
    assert!(!overview.contains("2130") && !overview.contains("0001"), "{overview}");
    assert_eq!(complaints(&browser, &[]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn the_list_stands_still_while_it_is_in_use_and_says_what_is_new() {
    let inbox = Inbox::start();
    deliver_many(&inbox, 3);
    let browser = Browser::start();
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "m2,m1,m0");
    browser.point_at(&row("m1"));
    deliver(&inbox, "a", 10, "arrives");
    deliver(&inbox, "b", 11, "arrives");
    browser.wait_for_text("#new", "2 new · show");
    assert_eq!(browser.run(&format!("return {SHOWN}")), "m2,m1,m0");
    assert_eq!(browser.text("#total"), "5");
    browser.point_at("header h1");
    wait_for_rows(&browser, "b,a,m2,m1,m0");
    // The same for the keyboard.
    browser.type_into("#q", ARROW_DOWN);
    browser.wait_for("document.activeElement.matches('.row')");
    deliver(&inbox, "c", 12, "arrives");
    browser.wait_for_text("#new", "1 new · show");
    browser.click("#new");
    wait_for_rows(&browser, "c,b,a,m2,m1,m0");
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn a_browser_signs_in_once_for_everything_that_it_opens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("read_token");
    fs::write(&file, "right-token\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("READ_TOKEN_FILE", &file);
    });
    deliver(&inbox, "secret", 1, "only for who may read");
    let browser = Browser::start();
    browser.open(&inbox.url("/docs"));
    browser.wait_for("location.pathname === '/'");
    browser.wait_for_text("#token-form", "Sign in to this inbox");
    assert_eq!(browser.run("return document.activeElement.id"), "token");
    assert!(!browser.text("body").contains("only for who may read"));
    browser.type_into("#token", "wrong\u{e007}");
    browser
        .wait_for_text("#token-problem", "That token isn't valid. Check READ_TOKEN and try again.");
    browser.replace("#token", "right-token\u{e007}");
    // It goes on to what was asked for.
    browser.wait_for("location.pathname === '/docs'");
    browser.wait_for("document.querySelectorAll('.operation').length >= 12");
    browser.open(&inbox.url("/messages"));
    assert!(browser.run("return document.body.textContent").to_string().contains("only for who"));
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "secret");
    assert_eq!(browser.run("return document.cookie"), "", "scripts cannot read it");

    // The token is replaced while the page is open.
    fs::write(inbox.folder.path().join("read_token"), "other-token\n").unwrap();
    inbox.signal("-HUP");
    inbox.wait_for_log(|line| line["msg"] == "settings reloaded");
    browser.type_into("#q", "only");
    browser.wait_for_text("#live", "Sign in");
    browser.type_into("#token", "other-token\u{e007}");
    browser.wait_for_text("#live", "Live");
    wait_for_rows(&browser, "secret");
    browser.click("#sign-out");
    browser.wait_for_text("#token-form", "Sign in to this inbox");
    assert_eq!(complaints(&browser, &["401", "favicon.ico"]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn a_message_has_an_address_and_the_browsers_back_closes_it() {
    let inbox = Inbox::start();
    deliver_many(&inbox, 120);
    deliver(&inbox, "id/with?odd &signs#é", 200, "Straße, strasse und STRASSE");
    let browser = Browser::start();
    open_live(&inbox, &browser);
    browser.type_into("#q", "strasse\u{e007}");
    wait_for_rows(&browser, "id/with?odd &signs#é");
    browser.click(&row("id/with?odd &signs#é"));
    browser.wait_for("document.querySelector('#detail').open");
    browser.wait_for("new URLSearchParams(location.search).get('m') === 'id/with?odd &signs#é'");
    let marked =
        "[...document.querySelectorAll('#detail-text mark')].map(m => m.textContent).join()";
    assert_eq!(browser.run(&format!("return {marked}")), "strasse,STRASSE");
    let address = browser.run("return location.href").as_str().unwrap().to_owned();
    browser.back();
    browser.wait_for("!document.querySelector('#detail').open");
    assert_eq!(browser.run("return location.search"), "?q=strasse");
    browser.forward();
    browser.wait_for("document.querySelector('#detail').open");
    browser.click("#detail-close");
    browser.wait_for("!document.querySelector('#detail').open && location.search === '?q=strasse'");
    browser.wait_for("document.activeElement.matches('.row')");
    browser.open(&address);
    browser.wait_for_text("#detail-text", "Straße, strasse und STRASSE");
    // One that is not on the first page.
    browser.open(&inbox.url("/?m=m3"));
    browser.wait_for_text("#detail-fields", "2025-01-15T10:00:03Z");
    browser.press(ESCAPE);
    browser.wait_for("!document.querySelector('#detail').open && location.search === ''");
    browser.open(&inbox.url("/?m=unknown"));
    browser.wait_for_text("#notice", "There is no message with this id.");
    assert_eq!(complaints(&browser, &["/messages/"]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn the_arrow_keys_lead_on_to_messages_that_are_not_loaded_yet() {
    let inbox = Inbox::start();
    deliver_many(&inbox, 60);
    let browser = Browser::start();
    open_live(&inbox, &browser);
    browser.wait_for(&format!("{SHOWN}.endsWith(',m10')"));
    browser.run("document.querySelector('[data-id=m10] .row').click()");
    browser.wait_for_text("#detail-fields", "10:00:10Z");
    assert_eq!(browser.run("return document.querySelector('#detail-older').disabled"), false);
    browser.press(ARROW_RIGHT);
    browser.wait_for_text("#detail-fields", "10:00:09Z");
    for number in (0..9).rev() {
        browser.press(ARROW_RIGHT);
        browser.wait_for_text("#detail-fields", &format!("10:00:{number:02}Z"));
    }
    browser.wait_for("document.querySelector('#detail-older').disabled");
    assert_eq!(browser.run("return document.querySelectorAll('[aria-current]').length"), 1);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn on_a_phone_a_message_is_a_sheet_with_a_way_back() {
    let inbox = Inbox::start();
    deliver_many(&inbox, 3);
    let browser = Browser::start();
    browser.resize(500, 800);
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "m2,m1,m0");
    assert_eq!(browser.run("return document.querySelector('#from').checkVisibility()"), false);
    browser.click("#more-filters");
    assert_eq!(browser.run("return document.querySelector('#from').checkVisibility()"), true);
    browser.click(&row("m1"));
    browser.wait_for("document.querySelector('#detail').matches(':modal')");
    browser.wait_for_text("#detail-close .back", "← Back");
    let width = "document.querySelector('#detail').getBoundingClientRect().width";
    assert_eq!(browser.run(&format!("return {width} >= document.body.clientWidth")), true);
    browser.click("#detail-close");
    browser.wait_for("!document.querySelector('#detail').open");
    browser.wait_for("document.activeElement.closest('[data-id]')?.dataset.id === 'm1'");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#detail').open");
    browser.press(ESCAPE);
    browser.wait_for("!document.querySelector('#detail').open");
    browser.wait_for("document.activeElement.closest('[data-id]')?.dataset.id === 'm1'");
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn the_search_box_finds_texts_numbers_ids_and_what_operators_say() {
    let inbox = Inbox::start();
    let message = |id: &str, from: &str, to: &str, day: u32, text: &str| {
        let ts = format!("2025-01-{day:02}T10:00:00Z");
        deliver_with(&inbox, id, &json!({ "from": from, "to": to, "ts": ts, "text": text }));
    };
    message("wamid.AAAA1111", "+491511111", "+1", 15, "a parcel");
    message("wamid.BBBB2222", "+491522222", "+2", 16, "two parcels, code 482113");
    message("wamid.CCCC3333", "+33612345678", "+1", 17, "from:nobody");
    let browser = Browser::start();
    open_live(&inbox, &browser);
    let [a, b, c] = ["wamid.AAAA1111", "wamid.BBBB2222", "wamid.CCCC3333"];
    wait_for_rows(&browser, &format!("{c},{b},{a}"));
    for (typed, found) in [
        (a.to_owned(), a.to_owned()),
        ("+49 15".to_owned(), format!("{b},{a}")),
        ("+33 6 12 34 56 78".to_owned(), c.to_owned()),
        ("336123".to_owned(), c.to_owned()),
        ("482113".to_owned(), b.to_owned()),
        ("from:+4915 parcel".to_owned(), format!("{b},{a}")),
        ("from:+491522222 parcel".to_owned(), b.to_owned()),
        ("to:+1".to_owned(), format!("{c},{a}")),
        ("\"from:nobody\"".to_owned(), c.to_owned()),
        ("after:2025-01-16 parcel".to_owned(), b.to_owned()),
        ("after:\"2025-01-16 10:00\" before:2025-01-17".to_owned(), b.to_owned()),
        ("after:2025-01-16T11:00:00+01:00 before:2025-01-17".to_owned(), b.to_owned()),
        (format!("id:{c}"), c.to_owned()),
    ] {
        browser.replace("#q", &typed);
        wait_for_rows(&browser, &found);
    }
    browser.replace("#q", "336123");
    browser.wait_for_text("#hint", "1 message from numbers that begin with +336123.");
    browser.replace("#q", "source:twilio");
    browser.wait_for(
        "document.querySelector('#problem').textContent.includes('does not filter by source') \
         || document.querySelector('#empty').textContent.includes('twilio')",
    );
    browser.replace("#q", "parcel from:+336");
    browser.wait_for_text("#empty", "No messages match “parcel” from +336…");
    // While a number is typed it is how senders begin.
    browser.click("#clear");
    wait_for_rows(&browser, &format!("{c},{b},{a}"));
    browser.type_into("#from", "4915");
    wait_for_rows(&browser, &format!("{b},{a}"));
    browser.type_into("#from", "2");
    wait_for_rows(&browser, b);
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#from').value === '+49152*'");
    assert_eq!(complaints(&browser, &[]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn a_time_that_cannot_be_read_never_widens_a_search() {
    let inbox = Inbox::start();
    deliver(&inbox, "old", 1, "old");
    let now = browser_time(0);
    deliver_with(&inbox, "new", &json!({ "ts": now }));
    let browser = Browser::start();
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "new,old");
    let since = |text: &str| browser.open(&inbox.url(&format!("/?since={text}")));
    for words in ["yesterday", "last+2+h", "2+h", "30+minutes+ago"] {
        since(words);
        wait_for_rows(&browser, "new");
    }
    since("2025-01-15T11:00:01%2B01:00");
    wait_for_rows(&browser, "new,old");
    for wrong in ["someday", "2025-02-30", "2025-01-15+25:00"] {
        since(wrong);
        browser.wait_for_text("#problem", "Use YYYY-MM-DD or YYYY-MM-DD HH:MM (UTC)");
        wait_for_rows(&browser, "");
        browser.wait_for_text("#total", "0");
        assert_eq!(browser.run("return document.querySelector('#exports').hidden"), true);
    }
    since("2025-01-16&until=2025-01-15");
    browser.wait_for_text("#problem", "“Since” is not before “Until”");
    wait_for_rows(&browser, "");
    browser.click("#clear");
    wait_for_rows(&browser, "new,old");
    // A chip says that it is chosen, and moves on with the time.
    browser.click("#time-summary");
    browser.click("[data-since='last 24 h']");
    wait_for_rows(&browser, "new");
    browser.wait_for("document.querySelector('[data-since=\"last 24 h\"]').ariaPressed === 'true'");
    assert_eq!(
        browser.run("return new URLSearchParams(location.search).get('since')"),
        "last 24 h"
    );
    assert_eq!(browser.text("#time-summary"), "last 24 h");
}

/// A `ts` some seconds ago.
fn browser_time(seconds_ago: i64) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("{seconds_ago} seconds ago"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn the_chart_and_the_total_follow_the_filters_and_the_rest_says_that_it_does_not() {
    let inbox = Inbox::start();
    for (number, text) in ["parcel", "parcel", "letter"].into_iter().enumerate() {
        let ts = browser_time(60);
        deliver_with(&inbox, &format!("m{number}"), &json!({ "text": text, "ts": ts }));
    }
    let browser = Browser::start();
    open_live(&inbox, &browser);
    let bars = |count: usize| {
        let words = format!(": {count} message");
        format!(
            "[...document.querySelectorAll('#chart g')].some(g => g.ariaLabel.includes('{words}'))"
        )
    };
    browser.wait_for(&bars(3));
    browser.wait_for_text("#chart-filter", "all messages");
    assert_eq!(browser.run("return document.querySelector('#of-all').hidden"), true);
    browser.type_into("#q", "parcel");
    browser.wait_for(&bars(2));
    browser.wait_for_text("#chart-filter", "“parcel”");
    browser.wait_for_text(".results", "2 messages match");
    browser.wait_for_text("#of-all", "All messages");
    browser.wait_for_text("#sum-messages", "3");
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn times_are_shown_in_utc_or_in_the_readers_zone_and_the_choice_is_remembered() {
    let inbox = Inbox::start();
    deliver_with(&inbox, "m1", &json!({ "ts": "2025-01-15T20:00:00Z" }));
    let browser = Browser::start_in("Asia/Kolkata");
    open_live(&inbox, &browser);
    browser.wait_for_text("#messages .when", "20:00:00");
    browser.wait_for_text("#messages .day", "Wednesday, 2025-01-15");
    browser.click("[data-zone=local]");
    browser.wait_for_text("#messages .when", "01:30:00");
    browser.wait_for_text("#messages .day", "Thursday, 2025-01-16");
    open_live(&inbox, &browser);
    browser.wait_for_text("#messages .when", "01:30:00");
    // What is typed is meant in the same zone.
    browser.open(&inbox.url("/?since=2025-01-16+01:30&until=2025-01-16+01:31"));
    wait_for_rows(&browser, "m1");
    browser.open(&inbox.url("/?since=2025-01-16+01:31"));
    browser.wait_for_text("#empty", "No messages match since 2025-01-16 01:31:00 (local time)");
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn what_came_since_the_last_time_is_unread_until_it_is_opened() {
    let inbox = Inbox::start();
    deliver(&inbox, "known", 1, "seen before");
    let browser = Browser::start();
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "known");
    browser.wait_for("localStorage.getItem('cursor')");
    browser.open("about:blank");
    deliver(&inbox, "late", 0, "for an earlier second");
    deliver(&inbox, "new", 2, "not seen yet");
    open_live(&inbox, &browser);
    wait_for_rows(&browser, "new,known,late");
    let unread = "[...document.querySelectorAll('.unread')].map(e => e.dataset.id).join()";
    browser.wait_for(&format!("{unread} === 'new,late' && document.title === '(2) mailslot'"));
    browser.click(&row("new"));
    browser.wait_for(&format!("{unread} === 'late' && document.title === '(1) mailslot'"));
    browser.wait_for("localStorage.getItem('unread') === '[\"late\"]'");
    browser.click("#read-all");
    browser.wait_for(&format!("{unread} === '' && document.title === 'mailslot'"));
    browser.wait_for("localStorage.getItem('unread') === '[]'");
    open_live(&inbox, &browser);
    browser.wait_for(&format!("{SHOWN} !== '' && {unread} === ''"));
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn an_empty_inbox_says_how_to_send_the_first_message() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("STANDARD_WEBHOOKS_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    });
    let browser = Browser::start();
    open_live(&inbox, &browser);
    browser.wait_for_text("#empty", "Waiting for the first message…");
    browser.wait_for_text("#empty", &inbox.url("/webhook"));
    browser.wait_for_text("#empty", &inbox.url("/webhook/standard"));
    assert!(!browser.text("#empty").contains("/webhook/twilio"), "it has no secret");
    let command = browser.text("#empty pre");
    let sent = Command::new("sh").args(["-c", &command]).env("WEBHOOK_SECRET", SECRET).output();
    let output = String::from_utf8(sent.unwrap().stdout).unwrap();
    assert!(output.contains("{\"status\":\"ok\"}"), "{output}");
    browser.wait_for(&format!("{SHOWN}.startsWith('sample-')"));
    browser.wait_for_text("#messages .day", "Today");
    browser.wait_for("document.querySelector('#empty').hidden");
    // The page asks for the routes of providers, which are there only with their secrets.
    assert_eq!(complaints(&browser, &["/webhook/"]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn the_docs_show_each_operation_find_them_and_send_requests() {
    let inbox = Inbox::start();
    let browser = Browser::start();
    browser.open(&inbox.url("/docs"));
    browser.wait_for("document.querySelectorAll('#operations [data-operation]').length >= 14");
    assert_eq!(browser.run("return document.querySelectorAll('.operation[open]').length"), 0);
    browser.type_into("#filter", "prometheus");
    let shown = "[...document.querySelectorAll('.operation')].filter(o => o.checkVisibility())";
    browser.wait_for(&format!("{shown}.length === 1"));
    browser.replace("#filter", "xyz");
    browser.wait_for_text("#none", "No operation matches.");
    browser.run("document.querySelector('#filter').value = ''; document.querySelector('#filter').dispatchEvent(new Event('input'))");
    let webhook = "[data-operation=\"POST /webhook\"]";
    browser.click(&format!("{webhook} summary"));
    browser.wait_for_text(webhook, "Send stores a message for good");
    let body = format!("JSON.parse(document.querySelector('{webhook} textarea').value)");
    assert_eq!(browser.run(&format!("return {body}.message_id.startsWith('sample-')")), true);
    let age = browser.run(&format!("return Date.now() - Date.parse({body}.ts)"));
    assert!(age.as_f64().unwrap() < 60_000.0, "{age}");
    browser.type_into(&format!("{webhook} [name=secret]"), SECRET);
    browser.click(&format!("{webhook} button.send"));
    browser.wait_for_text(&format!("{webhook} .answer"), "200");
    assert_eq!(inbox.rows(), 1);
    let list = "[data-operation=\"GET /messages\"]";
    browser.open(&inbox.url("/docs#listMessages"));
    browser.wait_for(&format!("document.querySelector('{list}')?.open"));
    browser.click(&format!("{list} button.send"));
    browser.wait_for_text(&format!("{list} .answer .code .key"), "\"message_id\"");
    browser.wait_for_text(&format!("{list} .answer button"), "Copy the response");
    assert_eq!(complaints(&browser, &[]), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn no_page_scrolls_sideways_on_the_narrowest_phone() {
    let inbox = Inbox::start();
    let long = "x".repeat(300);
    deliver(&inbox, &long, 1, &long);
    let browser = Browser::start();
    if browser.is_firefox {
        return; // Its window cannot be so narrow.
    }
    let metrics = json!({ "width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": false });
    browser.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    let excess =
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    open_live(&inbox, &browser);
    browser.wait_for(&format!("{SHOWN} !== ''"));
    assert_eq!(browser.run(excess), 0);
    browser.click("#more-filters");
    browser.click("#time-summary");
    assert_eq!(browser.run(excess), 0);
    browser.run("document.querySelector('.row').click()");
    browser.wait_for("document.querySelector('#detail').open");
    assert_eq!(browser.run(excess), 0);
    browser.open(&inbox.url("/docs"));
    browser.wait_for("document.querySelectorAll('.operation').length > 0");
    browser.run("document.querySelectorAll('.operation').forEach(o => { o.open = true; })");
    browser.wait_for(
        "[...document.querySelectorAll('.operation .body')].every(b => b.hasChildNodes())",
    );
    assert_eq!(browser.run(excess), 0);
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn everything_that_can_be_touched_is_large_enough_for_a_finger() {
    let inbox = Inbox::start();
    deliver_many(&inbox, 60);
    let browser = Browser::start();
    if browser.is_firefox {
        return; // geckodriver cannot emulate a touch screen.
    }
    let metrics = json!({ "width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": true });
    browser.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    browser.devtools("Emulation.setTouchEmulationEnabled", &json!({ "enabled": true }));
    let small = "return [...document.querySelectorAll('button, a, input, select, textarea, summary')]\
        .filter(e => e.checkVisibility() && !e.matches('.sr, .skip, p a, [type=checkbox]'))\
        .filter(e => e.getBoundingClientRect().height < 44 || e.getBoundingClientRect().width < 44)\
        .map(e => `${e.id || e.textContent} ${e.getBoundingClientRect().height}`)";
    open_live(&inbox, &browser);
    browser.wait_for(&format!("{SHOWN}.startsWith('m59,')"));
    browser.click("#more-filters");
    browser.click("#time-summary");
    browser.click("#overview summary");
    browser.wait_for("document.querySelector('#senders button')");
    assert_eq!(browser.run(small), json!([]));
    browser.run("document.querySelector('.row').click()");
    browser.wait_for("document.querySelector('#detail').open");
    assert_eq!(browser.run(small), json!([]));
    browser.open(&inbox.url("/docs#listMessages"));
    browser.wait_for("document.querySelector('.operation[open] .body')?.hasChildNodes()");
    assert_eq!(browser.run(small), json!([]));
}

/// What axe-core finds on the page as it is now.
fn violations(browser: &Browser) -> Value {
    let path = "tests/page/node_modules/axe-core/axe.min.js";
    let axe = fs::read_to_string(path).unwrap_or_else(|_| panic!("{path}: run make lint-page"));
    browser.run_async(&format!(
        "{axe}; const done = arguments[0]; window.axe.run().then(found => done(found.violations.map(\
         v => v.id + ': ' + v.nodes.map(n => n.target.join(' ')).join(', '))))"
    ))
}

#[test]
#[ignore = "needs a browser: make test-page"]
fn axe_finds_nothing_on_either_page() {
    let inbox = Inbox::start();
    let browser = Browser::start();
    open_live(&inbox, &browser);
    browser.wait_for_text("#empty", "Waiting for the first message…");
    assert_eq!(violations(&browser), json!([]), "empty");
    deliver_many(&inbox, 60);
    browser.wait_for(&format!("{SHOWN}.startsWith('m59,')"));
    assert_eq!(violations(&browser), json!([]), "full");
    browser.run("document.querySelector('.row').click()");
    browser.wait_for("document.querySelector('#detail').open");
    assert_eq!(violations(&browser), json!([]), "beside the list");
    browser.resize(600, 900);
    browser.wait_for("document.querySelector('#detail').matches(':modal')");
    assert_eq!(violations(&browser), json!([]), "the sheet");
    browser.click("#detail-close");
    browser.click("#more-filters");
    browser.replace("#q", "since:never nothing");
    browser.open(&inbox.url("/?since=never"));
    browser.wait_for_text("#problem", "never");
    assert_eq!(violations(&browser), json!([]), "a wrong time");
    browser.open(&inbox.url("/docs"));
    browser.wait_for("document.querySelectorAll('.operation').length > 0");
    assert_eq!(violations(&browser), json!([]), "docs");
    browser.run("document.querySelectorAll('.operation').forEach(o => { o.open = true; })");
    browser.wait_for(
        "[...document.querySelectorAll('.operation .body')].every(b => b.hasChildNodes())",
    );
    assert_eq!(violations(&browser), json!([]), "docs, opened");
    let locked = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", "right-token");
    });
    browser.open(&locked.url("/"));
    browser.wait_for_text("#token-form", "Sign in to this inbox");
    assert_eq!(violations(&browser), json!([]), "signing in");
}
