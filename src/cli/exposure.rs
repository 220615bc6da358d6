//! For `mailslot check`: which other users and clients can read the secrets, the database and
//! messages.

use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use super::{outcome::Outcome, report::Report};
use crate::{
    config::{Config, Key, SETTINGS, Settings, weakness},
    store::folder_of,
};

/// Exists while systemd is the init system (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// The folder from which packaging/mailslot.service loads its credentials.
const CREDENTIALS: &str = "/etc/mailslot";

/// The files and variables that hold secrets, also if the settings are wrong.
pub(super) fn files(report: &mut Report, settings: &Settings) -> Outcome {
    for setting in SETTINGS {
        let (name, Some(secret)) = (setting.name, setting.secret) else { continue };
        if let Ok(Some((path, _))) = settings.find(secret.file_setting) {
            file(report, secret.file_setting, Path::new(&path))?;
        }
        if let [counts, ignored @ ..] = &*settings.sources(name, secret)
            && !ignored.is_empty()
        {
            let (ignored, verb) =
                (ignored.join(" and "), if ignored.len() > 1 { "are" } else { "is" });
            report.warn(
                name,
                format!("{counts} is used, and {ignored} {verb} ignored: remove the wrong one"),
            )?;
        }
    }
    match &settings.file {
        Some(path) if settings.file_has_secrets() => file(report, "SETTINGS_FILE", path),
        _ => Ok(()),
    }
}

fn file(report: &mut Report, name: &str, path: &Path) -> Outcome {
    let shown = path.display();
    if others_may_read(path, false) {
        report.warn(
            name,
            format!("others may read {shown}: chmod o= it, or 600 if it is the service's own"),
        )
    } else {
        report.ok(name, format!("others may not read {shown}"))
    }
}

/// Whether other users may read the file. With `as_group`, members of the file's group count as
/// others; a group is how a file of root's is made readable for a service only.
pub(super) fn others_may_read(path: &Path, as_group: bool) -> bool {
    // The file itself, and not a link to it.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.mode());
    // Without the x of the folder, the r of the file is of no use.
    let readable = mode(&path) & (mode(folder_of(&path)) << 2);
    readable & if as_group { 0o044 } else { 0o004 } != 0
}

/// The keys and the address that are in effect.
pub(super) fn values(report: &mut Report, config: &Config) -> Outcome {
    for Key { name, secret, .. } in config.keys() {
        match weakness(secret) {
            Some(weakness) => report.warn(&name, weakness)?,
            None => report.ok(&name, format!("{} bytes", secret.expose().len()))?,
        }
    }
    let is_loopback = config.listen.ip().to_canonical().is_loopback();
    if config.read_tokens.is_empty() && !is_loopback {
        let address = config.listen;
        let problem = format!(
            "every client that reaches {address} can read every message: set READ_TOKEN, or listen \
             on 127.0.0.1"
        );
        report.warn("LISTEN", problem)?;
    }
    Ok(())
}

/// Root may read and write every file and does not have the service's credentials, so the findings
/// are not those that the service's user would get.
pub(super) fn user(report: &mut Report, arguments: &str) -> Outcome {
    if !geteuid().is_root() || !Path::new(SYSTEMD).is_dir() {
        return Ok(());
    }
    let program = env::current_exe().unwrap_or_else(|_| PathBuf::from("mailslot"));
    let mut credentials = String::new();
    for name in SETTINGS.iter().filter_map(|setting| Some(setting.secret?.credential)) {
        if Path::new(CREDENTIALS).join(name).exists() {
            let _ = write!(credentials, " -p LoadCredential={name}:{CREDENTIALS}/{name}");
        }
    }
    // User= has this unit share the service's dynamic user: with another one, systemd would give
    // the state folder to that user while the service runs.
    report.warn("user", format!(
        "this is root: to check what packaging/mailslot.service runs, with its user and its settings, run systemd-run --quiet --pipe --wait -p DynamicUser=yes -p User=mailslot -p StateDirectory=mailslot -p StateDirectoryMode=0700 -p Environment=DATABASE_URL=sqlite:////var/lib/mailslot/mailslot.db -p EnvironmentFile=-/etc/mailslot/mailslot.env{credentials} {} check{arguments}",
        program.display(),
    ))
}
