//! The URL to which `mailslot send` posts.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use crate::client::Client;

/// Longer than the service takes for any response.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Target {
    address: SocketAddr,
    host: String,
    pub(super) path: String,
}

impl Target {
    /// # Errors
    /// What was expected.
    pub(super) fn parse(url: &str) -> Result<Target, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!(
                "--url {url:?}: expected http://HOST:PORT/PATH; there is no https: send to \
                 mailslot itself, behind the proxy"
            ));
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let found = with_port.to_socket_addrs().map_err(|error| error.to_string());
        let address = found.and_then(|mut all| all.next().ok_or("no address".to_owned()));
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target {
            address: address.map_err(|problem| format!("--url {url:?}: {problem}"))?,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.address, self.host.clone(), TIMEOUT)
    }
}
