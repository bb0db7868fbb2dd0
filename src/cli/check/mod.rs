//! `ghostwire check`: whether a configuration is good, and whether this host has what it needs. Changes nothing.
//!
//! The file and the keys are judged by `config`. Here follows what can only be tried: addresses are bound (and let go,
//! without ever listening), interfaces are used, certificates are matched with their keys. Faults that would keep the site
//! from running are problems; what only looks unwise is a warning and leaves the exit code alone.

mod certificate;
mod host;
mod tun;
mod validity;

use std::io;
use std::path::Path;

use crate::cli::{Exit, Streams};
use crate::config::{self, Certificate, Client, Config, Decoy, PublicKey, Server, Verify};
use crate::connectors::allow::AllowList;
use crate::transport::TransportKind;

/// What was found.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn problem(&mut self, what: impl Into<String>) {
        self.problems.push(what.into());
    }

    fn warning(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }
}

/// Checks a file, and says what is wrong, or that nothing is.
pub(super) fn check(file: &Path, streams: &mut Streams<'_>) -> io::Result<Exit> {
    let config = match config::load_any(file) {
        Ok(config) => config,
        Err(errors) => return Ok(streams.bad_config(&errors)),
    };
    let (side, site, Findings { problems, warnings }) = match &config {
        Config::Client(client) => ("client", &client.site, check_client(client)),
        Config::Server(server) => ("server", &server.site, check_server(server)),
    };
    let shown = file.display();
    for warning in &warnings {
        writeln!(streams.err, "{shown}: warning: {warning}")?;
    }
    for problem in &problems {
        writeln!(streams.err, "{shown}: {problem}")?;
    }
    if !problems.is_empty() {
        return Ok(Exit::Config);
    }
    let public = site.private_key.public();
    writeln!(streams.out, "{shown} is good: {side} \"{}\", public key {public}", site.name)?;
    streams.out.flush()?;
    Ok(Exit::Fine)
}

fn check_client(client: &Client) -> Findings {
    let mut findings = Findings::default();
    let running = host::is_running(&client.admin);
    placeholder(&mut findings, "server.public_key", &client.server.public_key);
    for uplink in &client.uplinks {
        let what = format!("uplink \"{}\"", uplink.name);
        if let Some(problem) = uplink.interface.as_deref().and_then(host::interface_problem) {
            findings.problem(format!("{what}: {problem}"));
        }
        if let Some(problem) = uplink.source.and_then(host::source_problem) {
            findings.problem(format!("{what}: {problem}"));
        }
        raw(&mut findings, &what, uplink.endpoints.iter().map(|endpoint| endpoint.transport));
        for endpoint in &uplink.endpoints {
            match &endpoint.verify {
                Verify::Ca(file) => certificate::check_authorities(&mut findings, file),
                Verify::None => findings.warning(format!(
                    "{what}: the certificate of {}:{} is not verified; somebody on the path could see that this is a tunnel",
                    endpoint.host, endpoint.port
                )),
                Verify::System | Verify::Pin(_) => {}
            }
        }
    }
    check_forwards(&mut findings, &client.forwards, running);
    for socks5 in &client.socks5 {
        check_socks5(&mut findings, socks5, running);
    }
    if let Some(tun) = &client.tun {
        tun::check(&mut findings, tun, running);
    }
    let streams = !client.forwards.is_empty() || !client.socks5.is_empty() || client.dial != AllowList::new(Vec::new());
    if !streams && client.tun.is_none() {
        findings.warning("nothing to carry: no [[forward]], no [[socks5]], no [tun], and [dial] allows nothing");
    }
    findings
}

fn check_server(server: &Server) -> Findings {
    let mut findings = Findings::default();
    let running = host::is_running(&server.admin);
    raw(&mut findings, "listen", server.listens.iter().map(|listen| listen.transport));
    for listen in &server.listens {
        host::check_listen(&mut findings, "listen", listen.transport, listen.address, running);
        if let Some(Certificate::Files { chain, key }) = &listen.certificate {
            certificate::check_pair(&mut findings, chain, key);
        }
        if let Decoy::Directory(dir) = &listen.decoy
            && !dir.is_dir()
        {
            findings.problem(format!("listen: the decoy {} is not a directory", dir.display()));
        }
    }
    if let Some(tun) = &server.tun {
        tun::check(&mut findings, tun, running);
    }
    for peer in &server.peers {
        placeholder(&mut findings, &format!("peer \"{}\"", peer.name), &peer.public_key);
        check_forwards(&mut findings, &peer.forwards, running);
        for socks5 in &peer.socks5 {
            check_socks5(&mut findings, socks5, running);
        }
        let streams = !peer.forwards.is_empty() || !peer.socks5.is_empty() || peer.allow != AllowList::new(Vec::new());
        if !streams && peer.tun.is_empty() {
            findings.warning(format!(
                "peer \"{}\" can do nothing: no `allow`, no `tun`, and no [[forward]] or [[socks5]] for it",
                peer.name
            ));
        }
    }
    findings
}

/// Raw links need privileges and a program; without them the other ways go on, and where there are none nothing does.
fn raw(findings: &mut Findings, what: &str, transports: impl Iterator<Item = TransportKind>) {
    let (raw, others): (Vec<_>, Vec<_>) = transports.partition(|transport| *transport == TransportKind::Raw);
    if raw.is_empty() {
        return;
    }
    for wrong in host::raw_problems() {
        let text = format!("{what}: {wrong}");
        if others.is_empty() { findings.problem(text) } else { findings.warning(text) }
    }
}

fn check_forwards(findings: &mut Findings, forwards: &[config::Forward], running: bool) {
    for forward in forwards {
        if forward.protocols.tcp() {
            host::check_listen(findings, "forward", TransportKind::Ws, forward.listen, running);
        }
        if forward.protocols.udp() {
            host::check_listen(findings, "forward", TransportKind::Quic, forward.listen, running);
        }
    }
}

fn check_socks5(findings: &mut Findings, socks5: &config::Socks5, running: bool) {
    host::check_listen(findings, "socks5", TransportKind::Ws, socks5.listen, running);
    if socks5.users.is_open() && !socks5.listen.ip().is_loopback() {
        findings.warning(format!("socks5: {} lets whoever reaches it use the tunnel", socks5.listen));
    }
}

/// The keys of the example files read as what to do about them.
fn placeholder(findings: &mut Findings, what: &str, key: &PublicKey) {
    if key.to_string().starts_with("REPLACE/WITH/") {
        findings.problem(format!(
            "{what}: is still the example's; put in what `ghostwire keygen` printed on the other site"
        ));
    }
}
