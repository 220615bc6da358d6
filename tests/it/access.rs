//! Which clients may read.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::harness::{Inbox, Reply, agent, message, refused, reply, sign};

const PROTECTED: [&str; 7] =
    ["/messages", "/feed", "/export", "/stats", "/stats/series", "/metrics", "/openapi.json"];
/// They are the same for every reader and need no token.
const PAGES: [&str; 2] = ["/", "/docs"];

fn get(inbox: &Inbox, path: &str, authorization: &str) -> Reply {
    reply(agent().get(inbox.url(path)).header("Authorization", authorization).call())
}

#[test]
fn reading_needs_a_token_once_there_is_one_and_delivering_does_not() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", "old-token new-token");
    });
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    for path in ["/health/live", "/health/ready"].into_iter().chain(PAGES) {
        assert_eq!(inbox.get(path).status, 200, "{path}");
    }
    let basic = |credentials: &str| format!("Basic {}", STANDARD.encode(credentials));
    for path in PROTECTED {
        let refused = inbox.get(path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.json["detail"].as_str().is_some_and(|detail| detail.contains("token")));
        let asked: Vec<_> = (refused.headers.iter())
            .filter(|(name, _)| name.eq_ignore_ascii_case("WWW-Authenticate"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(
            asked,
            ["Basic realm=\"mailslot\", charset=\"UTF-8\"", "Bearer realm=\"mailslot\""]
        );
        assert_eq!(inbox.request("HEAD", path).status, 401, "{path}");
        // The page has a form for it: the browser is not to ask, too.
        let script = agent().get(inbox.url(path)).header("X-Requested-With", "mailslot");
        let asked = reply(script.call());
        assert_eq!(asked.header("WWW-Authenticate"), Some("Bearer realm=\"mailslot\""));
        for wrong in ["Bearer old", "Bearer old-token new-token", "old-token", &basic("old-token:")]
        {
            assert_eq!(get(&inbox, path, wrong).status, 401, "{path} {wrong}");
        }
        for right in ["Bearer old-token", "bearer new-token", &basic(":new-token")] {
            assert_eq!(get(&inbox, path, right).status, 200, "{path} {right}");
        }
    }
    assert_eq!(get(&inbox, "/messages", "Bearer old-token").json["total"], 1);
    assert_eq!(inbox.get("/nowhere").status, 404);
    let twice = "GET /stats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer old-token\r\n\
                 Authorization: Bearer old-token\r\nConnection: close\r\n\r\n";
    assert!(inbox.raw(twice.as_bytes()).starts_with("HTTP/1.1 401 "));
    // What a browser does at first is no error.
    assert_eq!(inbox.request_log(&inbox.get("/stats"))["level"], "INFO");
}

#[test]
fn tokens_come_from_a_file_or_a_credential_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("read_token");
    fs::write(&file, "first\nsecond\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("READ_TOKEN_FILE", &file);
    });
    for (token, status) in [("first", 200), ("second", 200), ("third", 401)] {
        assert_eq!(get(&inbox, "/stats", &format!("Bearer {token}")).status, status, "{token}");
    }
    let inbox = Inbox::start_with(inbox.stop(), |command| {
        let folder = command.get_current_dir().unwrap().to_owned();
        command.env("CREDENTIALS_DIRECTORY", folder);
    });
    assert_eq!(inbox.get("/stats").status, 401);
    assert_eq!(get(&inbox, "/stats", "Bearer second").status, 200);
}

#[test]
fn an_invalid_token_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let [empty, lines] = ["empty", "lines"].map(|name| folder.path().join(name));
    fs::write(&empty, "").unwrap();
    fs::write(&lines, "\n\n").unwrap();
    for (name, value) in [
        ("READ_TOKEN", "  "),
        ("READ_TOKEN", "pässword"),
        ("READ_TOKEN_FILE", "/nowhere/token"),
        ("READ_TOKEN_FILE", empty.to_str().unwrap()),
        ("READ_TOKEN_FILE", lines.to_str().unwrap()),
    ] {
        let output = refused(|command| {
            command.env(name, value);
        });
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(name), "{text}");
    }
}

/// A request to /session with these headers.
fn session(inbox: &Inbox, method: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = ureq::http::Request::builder().method(method).uri(inbox.url("/session"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    reply(agent().run(request.body("").unwrap()))
}

fn get_with_cookie(inbox: &Inbox, path: &str, cookie: &str) -> Reply {
    reply(agent().get(inbox.url(path)).header("Cookie", cookie).call())
}

#[test]
fn a_browser_that_signed_in_reads_everything_until_its_token_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("read_token");
    fs::write(&file, "first-token\nsecond-token\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("READ_TOKEN_FILE", &file);
    });
    let bearer = ("Authorization", "Bearer first-token");
    let signed_in = session(&inbox, "POST", &[bearer]);
    assert_eq!((signed_in.status, &*signed_in.text), (200, r#"{"status":"ok"}"#));
    let header = signed_in.header("Set-Cookie").unwrap();
    let (cookie, attributes) = header.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=604800; HttpOnly; SameSite=Strict");
    assert!(!header.contains("first-token"));
    for path in PROTECTED {
        assert_eq!(get_with_cookie(&inbox, path, cookie).status, 200, "{path}");
        let among_others = format!("a=b; {cookie}; mailslot_session=old");
        assert_eq!(get_with_cookie(&inbox, path, &among_others).status, 200, "{path}");
        let forged = cookie.replace(['1', '2', 'a', 'b'], "3");
        assert_eq!(get_with_cookie(&inbox, path, &forged).status, 401, "{path}");
    }
    // Over TLS, and out again.
    let over_tls = session(&inbox, "POST", &[bearer, ("Origin", "https://inbox.example.com")]);
    assert!(over_tls.header("Set-Cookie").unwrap().ends_with("; SameSite=Strict; Secure"));
    let signed_out = session(&inbox, "DELETE", &[("Cookie", cookie)]);
    assert!(
        signed_out
            .header("Set-Cookie")
            .unwrap()
            .starts_with("mailslot_session=; Path=/; Max-Age=0")
    );
    // The token is revoked, and with it the session.
    fs::write(inbox.folder.path().join("read_token"), "second-token\n").unwrap();
    inbox.signal("-HUP");
    inbox.wait_for_log(|line| line["msg"] == "settings reloaded");
    assert_eq!(get_with_cookie(&inbox, "/stats", cookie).status, 401);
}

#[test]
fn only_the_token_starts_a_session_and_no_session_allows_a_change() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", STRONG);
    });
    let bearer = format!("Bearer {STRONG}");
    let signed_in = session(&inbox, "POST", &[("Authorization", &bearer)]);
    let cookie = signed_in.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
    let wrong = [("Cookie", &*cookie), ("Authorization", "Bearer wrong"), ("X-Other", "1")];
    for headers in [&wrong[..1], &wrong[1..2], &wrong[2..]] {
        let refused = session(&inbox, "POST", headers);
        assert_eq!((refused.status, refused.header("Set-Cookie")), (401, None), "{headers:?}");
    }
    let body = message("m1").to_string();
    assert_eq!(inbox.post(body.as_bytes(), &[("Cookie", &cookie)]).status, 401);
    assert_eq!(inbox.rows(), 0);
    assert_eq!(inbox.request("GET", "/session").status, 405);
    assert_eq!(inbox.request("GET", "/session").header("Allow"), Some("POST, DELETE"));
    // Nothing to sign in to.
    let open = Inbox::start();
    let signed_in = session(&open, "POST", &[("Authorization", "Bearer x")]);
    assert_eq!((signed_in.status, signed_in.header("Set-Cookie")), (200, None));
}

/// The warnings of a start, up to the request whose log line shows that it is over.
fn warnings(inbox: &Inbox) -> Vec<String> {
    let id = inbox.get("/health/live").header("X-Request-ID").unwrap().to_owned();
    let mut warnings = Vec::new();
    loop {
        let line = inbox.wait_for_log(|line| line["level"] == "WARN" || line["request_id"] == id);
        if line["level"] != "WARN" {
            return warnings;
        }
        warnings.push(line["msg"].as_str().unwrap().to_owned());
    }
}

const STRONG: &str = "0123456789abcdef";

#[test]
fn an_address_that_others_reach_is_warned_of_unless_there_is_a_token() {
    for (listen, token, warned) in
        [("0.0.0.0:0", "", true), ("0.0.0.0:0", STRONG, false), ("127.0.0.2:0", "", false)]
    {
        let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
            command.env("LISTEN", listen).env("READ_TOKEN", token).env("WEBHOOK_SECRET", STRONG);
        });
        let warnings = warnings(&inbox);
        assert_eq!(warnings.len(), usize::from(warned), "{listen} {warnings:?}");
        let is_named = |text: &String| text.starts_with("READ_TOKEN is not set, or empty: ");
        assert!(warnings.iter().all(is_named), "{warnings:?}");
    }
}

#[test]
fn secrets_and_tokens_that_could_be_guessed_are_warned_of_without_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets");
    fs::write(&file, format!("{STRONG}\nzyxwvut\n")).unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("WEBHOOK_SECRET", "").env("WEBHOOK_SECRET_FILE", &file);
        command.env("READ_TOKEN", format!("srqponmlkjihgfe {STRONG}"));
    });
    let secret = "secret 2 has 7 bytes: take 16 or more, such as openssl rand -hex 32 gives";
    let token = "read token 1 has 15 bytes: take 16 or more, such as openssl rand -hex 32 gives";
    assert_eq!(warnings(&inbox), [secret, token]);
    // And of those that are read again.
    fs::write(inbox.folder.path().join("secrets"), "short\n").unwrap();
    inbox.signal("-HUP");
    let line = inbox.wait_for_log(|line| line["msg"].as_str().unwrap().starts_with("secret 1 "));
    assert_eq!(line["level"], "WARN");
}

#[test]
fn no_cache_keeps_an_answer_and_no_page_of_another_site_loads_it() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    let protected = |inbox: &Inbox, path: &str, status: u16| {
        let reply = inbox.get(path);
        assert_eq!(reply.status, status, "{path}");
        let is_document = path == "/openapi.json" || PAGES.contains(&path);
        for (name, value) in [
            ("Cache-Control", if is_document { "private, no-cache" } else { "no-store" }),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path} {name}");
            let same = reply.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            assert_eq!(same.count(), 1, "{path} {name}");
        }
    };
    for path in PROTECTED.into_iter().chain(PAGES) {
        protected(&inbox, path, 200);
    }
    protected(&inbox, "/export?format=csv", 200);
    protected(&inbox, "/feed?after=latest&wait=1", 200);
    protected(&inbox, "/messages?limit=x", 422);
    protected(&inbox, "/feed?after=99", 409);
    let (_, refused) = ask(&inbox, "/messages", "1.1", "Host: rebound.example.com\r\n");
    assert!(refused.contains("\r\nCache-Control: no-store\r\n"), "{refused}");
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", STRONG);
    });
    protected(&inbox, "/messages", 401);
}

/// What answers `GET path` with this target and these headers, of one connection.
fn ask(inbox: &Inbox, target: &str, version: &str, headers: &str) -> (u16, String) {
    let request = format!("GET {target} HTTP/{version}\r\n{headers}Connection: close\r\n\r\n");
    let answer = inbox.raw(request.as_bytes());
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer}"));
    (status.parse().unwrap(), answer)
}

fn ask_as(inbox: &Inbox, host: &str, path: &str) -> u16 {
    ask(inbox, path, "1.1", &format!("Host: {host}\r\n")).0
}

#[test]
fn without_a_token_a_host_name_that_others_can_point_here_reads_nothing() {
    let inbox = Inbox::start();
    assert_eq!(inbox.deliver(&message("m1")).status, 200);
    for path in PROTECTED.into_iter().chain(PAGES).filter(|path| *path != "/metrics") {
        let (status, answer) = ask(&inbox, path, "1.1", "Host: rebound.example.com:8000\r\n");
        assert!(answer.starts_with("HTTP/1.1 421 Misdirected Request\r\n"), "{path}: {answer}");
        assert_eq!(status, 421);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("HOSTS") && detail.contains("READ_TOKEN"), "{detail}");
    }
    let port = inbox.address.port();
    for host in [
        "127.0.0.1",
        &format!("127.0.0.1:{port}"),
        "203.0.113.7:80",
        "[::1]",
        &format!("[::1]:{port}"),
        "[fe80::1%25eth0]:8000",
        "localhost",
        "LocalHost:8000",
        "localhost.",
        "api:8000",
        "my-mail_slot",
    ] {
        assert_eq!(ask_as(&inbox, host, "/messages"), 200, "{host}");
    }
    for host in [
        "rebound.example.com",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "127.0.0.1:80.example.com",
        "[::1].example.com",
        "[example.com]",
        "ai.",
        "rebound@localhost",
        "",
        ":8000",
        ".",
    ] {
        assert_eq!(ask_as(&inbox, host, "/messages"), 421, "{host}");
        for path in ["/health/live", "/health/ready", "/metrics"] {
            assert_eq!(ask_as(&inbox, host, path), 200, "{host} {path}");
        }
    }
    let body = message("m2").to_string();
    let signature = sign(body.as_bytes());
    let headers = [("Host", "hooks.example.com"), ("X-Signature", signature.as_str())];
    assert_eq!(inbox.post(body.as_bytes(), &headers).status, 200);
    let counted = "http_requests_total{path=\"/messages\",status=\"421\"}";
    assert_eq!(inbox.metric(counted), 12);
}

#[test]
fn http_1_0_needs_no_host_and_the_host_of_an_absolute_url_counts_instead_of_the_header() {
    let inbox = Inbox::start();
    let status =
        |target: &str, version: &str, headers: &str| ask(&inbox, target, version, headers).0;
    assert_eq!(status("/stats", "1.0", ""), 200);
    assert_eq!(status("/stats", "1.0", "Host: rebound.example.com\r\n"), 421);
    let local = "Host: localhost\r\n";
    let rebound = "Host: rebound.example.com\r\n";
    assert_eq!(status("http://rebound.example.com/stats", "1.1", local), 421);
    assert_eq!(status("HTTP://rebound.example.com:8000?/stats", "1.1", local), 421);
    assert_eq!(status("http://localhost:8000/stats", "1.1", rebound), 200);
}

#[test]
fn allowed_host_names_are_accepted_and_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings");
    fs::write(&file, "HOSTS=hooks.example.com Inbox.Example.ORG.\n").unwrap();
    let inbox = Inbox::start_with(folder, |command| {
        command.env("SETTINGS_FILE", &file);
    });
    for host in ["hooks.example.com", "HOOKS.example.com:8443", "inbox.example.org", "localhost"] {
        assert_eq!(ask_as(&inbox, host, "/stats"), 200, "{host}");
    }
    for host in ["example.com", "a.hooks.example.com", "hooks.example.com.evil.org"] {
        assert_eq!(ask_as(&inbox, host, "/stats"), 421, "{host}");
    }
    let file = inbox.folder.path().join("settings");
    fs::write(&file, "HOSTS=other.example.com\n").unwrap();
    inbox.signal("-HUP");
    let line = inbox.wait_for_log(|line| line["msg"] == "settings reloaded");
    assert_eq!((&line["changed"], &line["after_restart"]), (&json!("HOSTS"), &json!("")));
    assert_eq!(ask_as(&inbox, "hooks.example.com", "/stats"), 421);
    assert_eq!(ask_as(&inbox, "other.example.com", "/stats"), 200);
}

#[test]
fn with_a_token_any_host_name_is_accepted() {
    let inbox = Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", "token");
    });
    let status = |headers: &str| ask(&inbox, "/stats", "1.1", headers).0;
    let host = "Host: rebound.example.com\r\n";
    assert_eq!(status(host), 401);
    assert_eq!(status(&format!("{host}Authorization: Bearer token\r\n")), 200);
}

#[test]
fn an_invalid_host_name_is_refused_at_the_start() {
    for hosts in
        ["https://hooks.example.com", "hooks.example.com:443", "*.example.com", "é.org", "."]
    {
        let output = refused(|command| {
            command.env("HOSTS", hosts);
        });
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("HOSTS=") && stderr.contains("expected"), "{stderr}");
    }
}

#[test]
fn compose_publishes_on_this_machine_only_and_passes_on_what_protects_reading() {
    let compose = fs::read_to_string("docker-compose.yml").unwrap();
    let values = |indent: &str| {
        let lines = compose.lines().filter_map(|line| line.strip_prefix(indent));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values("      - \"127.0.0.1:"), ["8000:8000\""]);
    assert_eq!(compose.matches("8000:8000\"").count(), 1, "there is one port");
    for (name, rest) in [
        ("WEBHOOK_SECRET", "?set it to the secret that the provider signs with"),
        ("READ_TOKEN", "-"),
        ("HOSTS", "-"),
        ("DATABASE_URL", "-sqlite:////data/app.db"),
        ("LOG_LEVEL", "-INFO"),
        ("RETENTION_DAYS", "-"),
        ("TRUSTED_PROXIES", "-"),
    ] {
        let passed = format!("{name}: \"${{{name}:{rest}}}\"");
        assert!(values("      ").contains(&passed), "{passed}");
    }
    // Every command of Compose needs the secret, also one that deletes what it has made.
    let makefile = fs::read_to_string("Makefile").unwrap();
    assert!(makefile.contains("\ndown logs: export WEBHOOK_SECRET := "));
    let (_, down) = makefile.split_once("\ndown: ").unwrap();
    let lines: Vec<&str> = down.lines().skip(1).take(2).collect();
    assert!(lines[0].contains("deletes the volume with every message"), "{lines:?}");
    assert_eq!(lines[1], "\tdocker compose down -v");
}
