//! The files of packaging/, as the programs that read them take them, where those are installed.

use std::{fs, io::ErrorKind, process::Command};

#[test]
fn nginx_accepts_the_shipped_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let example = fs::read_to_string("packaging/nginx.conf.example").unwrap();
    // Without TLS, since the certificate would have to be there.
    let is_kept = |line: &&str| !line.contains(" ssl_") && !line.contains("[::]");
    let site: Vec<&str> = example.lines().filter(is_kept).collect();
    let site = site.join("\n").replace("listen 443 ssl", "listen 127.0.0.1:8443");
    fs::write(folder.path().join("site.conf"), site.replace("/var/log/nginx", path)).unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {path}/{name};"))
        .concat();
    let main = folder.path().join("nginx.conf");
    let text =
        format!("pid {path}/pid; events {{}} http {{ {temporary} include {path}/site.conf; }}");
    fs::write(&main, text).unwrap();
    let checked = Command::new("nginx")
        .args(["-t", "-e", &format!("{path}/error.log"), "-c"])
        .arg(&main)
        .output();
    let checked = match checked {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("nginx is not installed: its configuration was not checked");
            return;
        }
        checked => checked.unwrap(),
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
