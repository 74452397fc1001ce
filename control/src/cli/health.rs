//! `sluice health`: what a container's or a load balancer's check asks, without another program in the image.

use std::io::{Read, Write, stdout};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Client;
use super::client::{ask, print};
use crate::wire::{Request, Response};

/// How long the listener may keep silent. A check that hangs is a check that fails.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn run(client: &Client) -> anyhow::Result<ExitCode> {
    let mut status = None;
    ask(&client.socket, &Request::Status, |r| {
        if let Response::Status(s) = r {
            status = Some(s);
        }
        Ok(())
    })?;
    let status = status.context("sluice did not say how it is")?;
    let (healthy, text) = match status.metrics {
        Some(listener) => healthz(listener)?,
        // Without a listener the control socket's word must do.
        None => (status.ready, status.reason.unwrap_or_else(|| "ok".to_owned())),
    };
    let line = if client.json {
        serde_json::json!({ "healthy": healthy, "reason": (!healthy).then_some(&text) }).to_string()
    } else {
        text
    };
    print(&mut stdout(), line)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether `/healthz` answers 200, and what it says.
fn healthz(listener: SocketAddr) -> anyhow::Result<(bool, String)> {
    let address = reachable(listener);
    let answer = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = answer().with_context(|| format!("asking http://{address}/healthz"))?;
    match understand(&answer) {
        Some(found) => Ok(found),
        None => {
            bail!("http://{address}/healthz does not answer in HTTP: is control.metrics another program's address?")
        }
    }
}

/// Where a listener on all addresses is reached.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(a) if a.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(a) if a.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, listener.port())
}

/// Status 200 or not, and the body, of an HTTP answer.
fn understand(answer: &str) -> Option<(bool, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.")?.split_ascii_whitespace();
    let code = words.nth(1)?;
    Some((code == "200", body.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let rows = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", Some((true, "ok"))),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\ninterface lan is down\n", Some((false, "interface lan is down"))),
            ("HTTP/1.0 404 Not Found\r\n\r\n", Some((false, ""))),
            ("SSH-2.0-OpenSSH\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\n", None),
            ("", None),
        ];
        for (answer, expected) in rows {
            assert_eq!(understand(answer), expected.map(|(healthy, text)| (healthy, text.to_owned())), "{answer:?}");
        }
    }

    #[test]
    fn listeners_on_all_addresses_are_asked_on_loopback() {
        for (listener, expected) in
            [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:9464", "[::1]:9464"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            assert_eq!(reachable(listener.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
