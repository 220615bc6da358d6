//! The files of packaging/, as the programs that read them take them, where those are installed.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{self, BufRead, BufReader, ErrorKind},
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::harness::{Inbox, agent, count, message, reply, wait_for};

/// The output of a program; `None` where it is not installed.
fn output(command: &mut Command) -> Option<Output> {
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = command.get_program().display();
            eprintln!("{program} is not installed: it checked nothing");
            None
        }
        output => Some(output.unwrap()),
    }
}

/// A text whose `old` is `new` instead.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "there is no {old:?}");
    text.replace(old, new)
}

/// An address of this process alone, for a program that does not say which port it has taken. Each
/// test has a network of its own.
fn own_address(network: u8) -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{network}.{high}.{low}:8000")
}

/// nginx with the shipped configuration, in front of the mailslot at this address. Without TLS,
/// since the certificate would have to be there.
fn nginx(folder: &Path, address: &str, mailslot: &str) -> Command {
    let path = folder.to_str().unwrap();
    let example = fs::read_to_string("packaging/nginx.conf.example").unwrap();
    let is_kept = |line: &&str| !line.contains(" ssl_") && !line.contains("[::]");
    let site = example.lines().filter(is_kept).collect::<Vec<_>>().join("\n");
    let site = replaced(&site, "listen 443 ssl", &format!("listen {address}"));
    let site = replaced(&site, "server 127.0.0.1:8000", &format!("server {mailslot}"));
    fs::write(folder.join("site.conf"), replaced(&site, "/var/log/nginx", path)).unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {path}/{name};"))
        .concat();
    let main = folder.join("nginx.conf");
    let text = format!(
        "daemon off; pid {path}/pid; events {{}} http {{ {temporary} include {path}/site.conf; }}"
    );
    fs::write(&main, text).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", &format!("{path}/error.log"), "-c"]).arg(main);
    command
}

/// Caddy with the shipped configuration, in front of the mailslot at this address. Without TLS, for
/// which Caddy would ask for a certificate. `None` where it is not installed.
fn caddy(folder: &Path, address: &str, mailslot: &str) -> Option<Command> {
    let version = output(Command::new("caddy").arg("version"))?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let example = fs::read_to_string("packaging/Caddyfile.example").unwrap();
    let (ip, _) = address.split_once(':').unwrap();
    let site = format!("\nhttp://{address} {{\n\tbind {ip}\n");
    let mut text = replaced(&example, "\nhooks.example.com {\n", &site);
    text = replaced(&text, "\n{\n", "\n{\n\tadmin off\n");
    text = replaced(&text, "127.0.0.1:8000 {", &format!("{mailslot} {{"));
    if version.trim_start_matches('v').starts_with("2.6.") {
        // As the first lines of the example say.
        let buffers = "\tbuffer_requests\n\t\tmax_buffer_size 4MiB\n";
        text = replaced(&text, "\trequest_buffers 4MiB\n", buffers);
        let retry = "\t\tlb_retry_match {\n\t\t\tmethod GET HEAD POST\n\t\t}\n";
        text = replaced(&replaced(&text, retry, ""), "\t\tlb_try_duration 5s\n", "");
        text = replaced(&text, "\tkeepalive 20s\n", "\tkeepalive off\n");
        text = replaced(&text, "\t\t\tkeepalive_idle_conns_per_host 64\n", "");
    }
    fs::write(folder.join("Caddyfile"), text).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config", "Caddyfile"]);
    command.current_dir(folder).env("HOME", folder);
    command.env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
    Some(command)
}

#[test]
fn nginx_accepts_the_shipped_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let mut nginx = nginx(folder.path(), "127.0.0.1:8443", "127.0.0.1:8000");
    let Some(checked) = output(nginx.arg("-t")) else { return };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

const READ_TOKEN: &str = "a-token-that-allows-reading";

fn private_inbox() -> Inbox {
    Inbox::start_with(tempfile::tempdir().unwrap(), |command| {
        command.env("READ_TOKEN", READ_TOKEN);
    })
}

fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> ureq::http::Response<ureq::Body> {
    let url = format!("http://{address}{path}");
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, value.as_bytes());
    }
    // A body of no bytes rather than none, for which ureq would send Transfer-Encoding.
    agent().run(request.body("").unwrap()).unwrap()
}

/// What a browser does that loads the page from this address, over TLS. Gives its cookie.
fn browse(address: &str) -> String {
    wait_for(|| TcpStream::connect(address).is_ok());
    assert_eq!(ask(address, "GET", "/messages", &[]).status(), 401);
    let bearer = format!("Bearer {READ_TOKEN}");
    let origin = ("Origin", "https://hooks.example.com");
    let signed_in = ask(address, "POST", "/session", &[("Authorization", &bearer), origin]);
    assert_eq!(signed_in.status(), 200);
    let header = signed_in.headers()["Set-Cookie"].to_str().unwrap();
    assert!(header.ends_with("; SameSite=Strict; Secure"), "{header}");
    let cookie = header.split(';').next().unwrap();
    let among_others = format!("a=b; mailslot_session=old; {cookie}; c=d");
    for cookies in [cookie, &among_others] {
        assert_eq!(ask(address, "GET", "/messages", &[("Cookie", cookies)]).status(), 200);
    }
    for path in ["/", "/openapi.json"] {
        let ask = |header| ask(address, "GET", path, &[("Cookie", cookie), header]);
        let compressed = ask(("Accept-Encoding", "gzip, deflate, br"));
        assert_eq!(compressed.headers()["Content-Encoding"], "gzip", "{path}");
        let tag = compressed.headers()["ETag"].to_str().unwrap();
        assert_eq!(ask(("If-None-Match", tag)).status(), 304, "{path}");
    }
    let signed_out = ask(address, "DELETE", "/session", &[("Cookie", cookie), origin]);
    let header = signed_out.headers()["Set-Cookie"].to_str().unwrap();
    assert!(header.starts_with("mailslot_session=; Path=/; Max-Age=0"), "{header}");
    cookie.to_owned()
}

#[test]
fn a_browser_signs_in_through_nginx_and_bytes_beyond_ascii_do_not_reach_mailslot() {
    let (inbox, folder) = (private_inbox(), tempfile::tempdir().unwrap());
    let address = own_address(79);
    let nginx = start(&mut nginx(folder.path(), &address, &inbox.address.to_string()));
    let Some(_nginx) = nginx else { return };
    let cookie = browse(&address);
    let with_odd = format!("a=é; {cookie}");
    for odd in ["Origin", "Accept-Encoding", "If-None-Match", "X-Other"] {
        let read = ask(&address, "GET", "/stats", &[("Cookie", &with_odd), (odd, "é")]);
        assert_eq!(read.status(), 200, "{odd}");
    }
    assert_eq!(ask(&address, "GET", "/stats", &[("Cookie", "mailslot_session=é")]).status(), 401);
    assert_eq!(ask(&address, "POST", "/webhook", &[("X-Signature", "é")]).status(), 401);
}

#[test]
fn a_browser_signs_in_through_caddy_and_odd_cookies_and_signatures_do_not_reach_mailslot() {
    let (inbox, folder) = (private_inbox(), tempfile::tempdir().unwrap());
    let address = own_address(80);
    let caddy = caddy(folder.path(), &address, &inbox.address.to_string());
    let Some(_caddy) = caddy.and_then(|mut caddy| start(&mut caddy)) else { return };
    let cookie = browse(&address);
    let with_odd = format!("a=é; {cookie}");
    assert_eq!(ask(&address, "GET", "/stats", &[("Cookie", &with_odd)]).status(), 200);
    assert_eq!(ask(&address, "GET", "/stats", &[("Cookie", "mailslot_session=é")]).status(), 401);
    assert_eq!(ask(&address, "POST", "/webhook", &[("X-Signature", "é")]).status(), 401);
}

#[test]
fn a_browser_that_signed_in_through_haproxy_is_signed_in_on_every_node() {
    let (nodes, folder) = ([private_inbox(), private_inbox()], tempfile::tempdir().unwrap());
    let address = own_address(81);
    let example = fs::read_to_string("packaging/haproxy.cfg.example").unwrap();
    let mut text = replaced(&example, "bind :8000", &format!("bind {address}"));
    for (node, name) in nodes.iter().zip(["mailslot-1:8000", "mailslot-2:8000"]) {
        text = replaced(&text, name, &node.address.to_string());
    }
    fs::write(folder.path().join("haproxy.cfg"), text).unwrap();
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-f", "haproxy.cfg"]).current_dir(folder.path());
    let Some(_haproxy) = start(&mut haproxy) else { return };
    let cookie = browse(&address);
    for node in nodes {
        let node = node.address.to_string();
        assert_eq!(ask(&node, "GET", "/messages", &[("Cookie", &cookie)]).status(), 200);
    }
}

#[test]
fn haproxy_accepts_the_shipped_configuration_and_compose_starts_its_servers() {
    let example = fs::read_to_string("packaging/haproxy.cfg.example").unwrap();
    let compose = fs::read_to_string("docker-compose.cluster.yml").unwrap();
    for server in ["mailslot-1", "mailslot-2"] {
        assert!(example.contains(&format!("server {server} {server}:8000 check")));
        assert!(compose.contains(&format!("\n  {server}: *mailslot\n")));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("haproxy.cfg");
    // These names mean something to Compose only.
    let here = example.replace("mailslot-1:", "127.0.0.1:").replace("mailslot-2:", "127.0.0.1:");
    fs::write(&path, here).unwrap();
    let checked = match Command::new("haproxy").arg("-c").arg("-f").arg(&path).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("haproxy is not installed: its configuration was not checked");
            return;
        }
        checked => checked.unwrap(),
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_cluster_of_compose_has_no_default_secret_and_is_open_to_this_machine_only() {
    let compose = fs::read_to_string("docker-compose.cluster.yml").unwrap();
    for name in ["WEBHOOK_SECRET", "POSTGRES_PASSWORD"] {
        let required = format!("\"${{{name}:?");
        assert!(compose.contains(&required), "{name}");
        assert!(!compose.contains(&format!("${{{name}:-")), "{name}");
    }
    let published = compose.lines().skip_while(|line| line.trim() != "ports:").skip(1);
    let published: Vec<&str> =
        published.map(str::trim).filter(|line| line.starts_with("- \"")).collect();
    assert_eq!(published[0], "- \"127.0.0.1:8000:8000\"");
    assert_eq!(compose.matches("ports:").count(), 1, "only the balancer is published");
}

/// The settings that a file of Compose passes on, beside those that it decides itself.
fn passed_on(compose: &str) -> BTreeSet<String> {
    let compose = fs::read_to_string(compose).unwrap();
    let lines = compose.lines().filter_map(|line| line.trim().split_once(": \"${"));
    let names = lines.filter(|(name, rest)| rest.starts_with(&format!("{name}:")));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn both_files_of_compose_pass_on_what_protects_reading_and_what_providers_need() {
    let mut one = passed_on("docker-compose.yml");
    let mut cluster = passed_on("docker-compose.cluster.yml");
    for name in [
        "WEBHOOK_SECRET",
        "READ_TOKEN",
        "HOSTS",
        "TRUSTED_PROXIES",
        "WHATSAPP_APP_SECRET",
        "WHATSAPP_VERIFY_TOKEN",
        "TWILIO_AUTH_TOKEN",
        "STANDARD_WEBHOOKS_SECRET",
        "PUBLIC_URL",
        "SEARCH_INDEX",
    ] {
        assert!(one.contains(name) && cluster.contains(name), "{name}");
    }
    // Each decides the database itself.
    assert!(one.remove("DATABASE_URL") && cluster.remove("POSTGRES_PASSWORD"));
    assert_eq!(one, cluster);
}

fn rules() -> String {
    fs::read_to_string("packaging/prometheus-rules.yml").unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string("packaging/grafana-dashboard.json").unwrap()).unwrap()
}

/// The queries of all panels, with Grafana's variables replaced.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let filled = targets.map(|target| {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "1m").replace("$job", "mailslot");
        query.replace("$instance", ".*")
    });
    filled.collect()
}

/// The names of mailslot's metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c| !is_word(c));
    let names = words.filter(|word| {
        word.starts_with("mailslot_") || word.ends_with("_total") || word.ends_with("_ms_bucket")
    });
    let parts = ["_bucket", "_sum", "_count"];
    names.map(|name| parts.iter().fold(name, |name, part| name.trim_end_matches(part))).collect()
}

#[test]
fn every_metric_in_an_alert_exists_and_the_dashboard_shows_every_metric() {
    let families = mailslot::metrics::FAMILIES.iter().map(|family| family.name);
    let families: BTreeSet<&str> = families.collect();
    let rules = rules();
    let in_alerts = metrics_in(&rules);
    assert!(in_alerts.len() > 8, "{in_alerts:?}");
    assert_eq!(in_alerts.difference(&families).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(metrics_in(&queries().join("\n")), families);
}

#[test]
fn every_alert_fires_when_it_should_and_not_on_a_healthy_inbox() {
    let rules = rules();
    let tests = fs::read_to_string("tests/packaging/prometheus-rules.test.yml").unwrap();
    for alert in rules.lines().filter_map(|line| line.split("- alert: ").nth(1)) {
        // At least one expectation of it is not empty.
        let expected = tests.split(&format!("alertname: {alert}\n")).nth(1).unwrap_or_default();
        assert!(expected.contains("exp_labels"), "no test expects {alert}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prometheus-rules.yml"), rules).unwrap();
    fs::write(folder.path().join("test.yml"), tests).unwrap();
    for arguments in [["check", "rules", "prometheus-rules.yml"], ["test", "rules", "test.yml"]] {
        let mut promtool = Command::new("promtool");
        let Some(output) = output(promtool.args(arguments).current_dir(folder.path())) else {
            return;
        };
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn no_panel_of_the_dashboard_covers_another_or_has_its_id() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let position = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in position("x")..position("x") + position("w") {
            assert!(x < 24, "{panel}");
            for y in position("y")..position("y") + position("h") {
                assert!(cells.insert((x, y)), "{panel}");
            }
        }
    }
}

/// A process that ends with the test, and with it all that it has started.
struct Ended(Child);

impl Ended {
    fn spawn(command: &mut Command) -> io::Result<Ended> {
        command.process_group(0).spawn().map(Ended)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Starts a program; `None` where it is not installed.
fn start(command: &mut Command) -> Option<Ended> {
    match Ended::spawn(command.stdout(Stdio::null()).stderr(Stdio::null())) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("{} is not installed: it checked nothing", command.get_program().display());
            None
        }
        child => Some(child.unwrap()),
    }
}

#[test]
fn prometheus_answers_every_query_of_the_dashboard() {
    let inbox = Inbox::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: mailslot, static_configs: [{{targets: ['{}']}}]}}]\n",
        inbox.address
    );
    fs::write(folder.path().join("prometheus.yml"), settings).unwrap();
    let address = own_address(77);
    let mut prometheus = Command::new("prometheus");
    prometheus.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
    prometheus.arg(format!("--web.listen-address={address}")).arg("--log.level=error");
    let Some(_prometheus) = start(prometheus.current_dir(folder.path())) else { return };
    let answer = |query: &str| {
        let url = format!("http://{address}/api/v1/query");
        let answer = agent().get(url).query("query", query).call();
        answer.ok()?.body_mut().read_json::<Value>().ok()
    };
    let is_answered = |query: &str| {
        let Some(answer) = answer(query) else { return false };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty())
    };
    let deadline = Instant::now() + Duration::from_mins(2);
    let mut number = 0;
    for query in queries() {
        // Panels leave out what is zero, such as a provider that sends nothing.
        let query = query.trim_end_matches(" > 0").to_owned();
        // A rate needs a series that counts.
        while !is_answered(&query) {
            assert!(Instant::now() < deadline, "{query} has no answer: {:?}", answer(&query));
            number += 1;
            inbox.deliver(&message(&format!("m{number}")));
            thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn make_run_prints_the_page_and_two_commands_that_work_as_they_are_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let release = folder.path().join("target/release");
    fs::create_dir_all(&release).unwrap();
    symlink(env!("CARGO_BIN_EXE_mailslot"), release.join("mailslot")).unwrap();
    for name in ["Makefile", "Cargo.toml"] {
        fs::copy(name, folder.path().join(name)).unwrap();
    }
    // The program is there, and nothing is to be built.
    fs::write(release.join("cargo"), "#!/bin/sh\necho cargo 999.0.0\n").unwrap();
    fs::set_permissions(release.join("cargo"), Permissions::from_mode(0o755)).unwrap();
    let address = own_address(78);
    let path = format!("{}:{}", release.display(), std::env::var("PATH").unwrap());
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "run"]).env_clear().env("PATH", path);
    make.env("LISTEN", &address).current_dir(folder.path()).stdout(Stdio::piped());
    let mut make = Ended::spawn(&mut make).unwrap();
    let mut lines = BufReader::new(make.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let printed: Vec<String> =
        lines.by_ref().take_while(|line| !line.contains("\"msg\":\"listening\"")).collect();
    let pasted: Vec<&str> = printed.iter().filter_map(|line| line.strip_prefix("  ")).collect();
    let [page, send, curl] = pasted[..] else { panic!("{printed:?}") };
    assert_eq!(page, format!("http://{address}/"));
    for (command, stored) in [(send, 100), (curl, 101)] {
        let mut bash = Command::new("bash");
        let output = bash.args(["-c", command]).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert_eq!(count(folder.path(), "SELECT count(*) FROM messages"), stored, "{command}");
    }
    assert_eq!(reply(agent().get(page).call()).status, 200);
}
