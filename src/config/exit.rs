//! How targets are dialled for the other site: through a proxy, ahead of time, and not at all while they do not answer.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::addr::{self, Host};
use crate::config::keyfile;
use crate::config::reader::Section;
use crate::config::shape::Shape;
use crate::connectors::{BreakerParams, PoolParams};
use crate::transport::via::{Protocol, Via};
use crate::wire::via::CREDENTIAL_MAX;

/// How targets are dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// A proxy that connects them; names that a rule permits are resolved by it.
    pub via: Option<Via>,
    /// Connections made ahead.
    pub pool: PoolParams,
    /// When a target is left alone.
    pub breaker: BreakerParams,
}

impl Exit {
    pub(super) fn read(root: &Section<'_>) -> Self {
        let via = root.table("exit", |section| via(section, "password_file"));
        let pool = root.table("exit_pool", |section| PoolParams {
            size: section.integer("size", 0, 0..=256) as usize,
            targets: section.integer("targets", 16, 1..=1024) as usize,
            idle: section.quantity("idle", Duration::from_secs(30), Duration::from_secs(1)..=Duration::from_secs(600)),
        });
        let breaker = root.table("breaker", |section| BreakerParams {
            failures: section.integer("failures", 5, 0..=1000),
            pause: section.quantity("pause", Duration::from_secs(5), Duration::from_secs(1)..=Duration::from_secs(600)),
        });
        Self { via, pool, breaker }
    }
}

const ALLOWED: &str = "socks5://[USER@]HOST:PORT, http://[USER@]HOST:PORT";

/// Reads the key `via` of a section and the file with its password, which the key `password` names.
pub(super) fn via(section: &Section<'_>, password: &'static str) -> Option<Via> {
    let via = section.parsed("via", Shape::optional("string", "none", ALLOWED), parse);
    let word = keyfile::password(section, password);
    if let Some(None) = via.as_ref().map(|(_, user)| user) {
        section.no_effect(password, "without a user in `via`");
    } else if !section.has("via") {
        section.no_effect(password, "without `via`");
    }
    let (via, user) = via?;
    let credentials = user.map(|user| (user, word.unwrap_or_else(|| Zeroizing::new(String::new()))));
    Some(Via { credentials, ..via })
}

fn parse(text: &str) -> Result<(Via, Option<String>), &'static str> {
    let (protocol, rest) = match text.split_once("://") {
        Some(("socks5", rest)) => (Protocol::Socks5, rest),
        Some(("http", rest)) => (Protocol::Http, rest),
        _ => return Err("is not the URL of a proxy"),
    };
    let (user, authority) = match rest.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err("holds a password, which belongs in a file of its own");
    }
    if user.is_some_and(|user| user.is_empty() || user.len() > CREDENTIAL_MAX || user.contains(char::is_control)) {
        return Err("has a user that no proxy knows");
    }
    let (host, port) = addr::host_port(authority.strip_suffix('/').unwrap_or(authority))?;
    let host = match host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name,
    };
    Ok((Via { protocol, host, port, credentials: None }, user.map(ToOwned::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_come_apart() {
        let read = |text: &str| parse(text).map(|(via, user)| (format!("{via:?}"), user));
        assert_eq!(read("socks5://127.0.0.1:1080"), Ok(("Socks5 127.0.0.1:1080".into(), None)));
        assert_eq!(read("http://me@proxy.example:3128/"), Ok(("Http proxy.example:3128".into(), Some("me".into()))));
        assert_eq!(read("socks5://[::1]:1080").unwrap().0, "Socks5 ::1:1080");
        assert_eq!(read("http://me:word@proxy:1"), Err("holds a password, which belongs in a file of its own"));
        assert_eq!(read("https://proxy:1"), Err("is not the URL of a proxy"));
        assert!(read("socks5://proxy").is_err(), "no port");
    }
}
