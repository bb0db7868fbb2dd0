//! The edge: nginx as a CDN in front of the server. It ends TLS, proxies WebSockets, cuts what is idle, and restarts.

use super::host::{self, wait_until};
use super::plan::{EDGE, EDGE_NAME, EDGE6, Host, SERVER};
use super::{Lab, LabError};
use crate::sys;
use crate::units::{Nanos, SECOND};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How the edge behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeOptions {
    /// What it proxies to: `http://198.51.100.1:8080`, or `https://...` (its certificate is not verified).
    pub origin: String,
    /// A connection on which nothing moves for so long is cut (whole seconds; nginx's default is 60).
    pub idle: Nanos,
    /// The profile of its way to the origin: where a CDN's added delay arises.
    pub profile: String,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self { origin: format!("http://{SERVER}:8080"), idle: 60 * SECOND, profile: "lan".into() }
    }
}

/// What can be done to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// New workers take over, old ones leave within a second: their connections end without a close frame.
    Reload,
    /// All workers die at once, as in a crash; new ones are started by the master.
    KillWorkers,
    /// The edge is switched off.
    Stop,
    /// And on.
    Start,
}

/// nginx has this long to start, to stop, or to replace its workers.
const PATIENCE: Nanos = 5 * SECOND;

/// Makes certificates and configuration.
pub(super) fn prepare(lab: &Lab, options: &EdgeOptions) -> Result<(), LabError> {
    let directory = directory(lab);
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| LabError::File { path, error })
    };
    let temporary = directory.join("tmp");
    std::fs::create_dir_all(&temporary).map_err(|error| LabError::File { path: temporary.clone(), error })?;
    write("nginx.conf", &configuration(&directory, options))?;
    write("san", &format!("subjectAltName=DNS:{EDGE_NAME},IP:{EDGE},IP:{EDGE6}\n"))?;
    make_certificates(&directory)
}

pub(super) fn act(lab: &Lab, _options: &EdgeOptions, action: Action) -> Result<(), LabError> {
    let fail = |what: &str| LabError::Command { command: format!("edge: {what}"), message: log_tail(lab) };
    match action {
        Action::Start => {
            let directory = directory(lab);
            let mut command = lab.command(Host::Edge, &"nginx".into())?;
            command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf"));
            command.arg("-e").arg(directory.join("error.log"));
            let status = command.status().map_err(|error| LabError::Emulator(format!("nginx: {error}")))?;
            if status.success() && wait_until(PATIENCE, || !workers(lab).is_empty()) {
                Ok(())
            } else {
                Err(fail("start"))
            }
        }
        Action::Stop => {
            let master = master(lab).ok_or_else(|| fail("it is not running"))?;
            sys::terminate(master, false);
            if wait_until(PATIENCE, || !sys::is_alive(master)) { Ok(()) } else { Err(fail("stop")) }
        }
        Action::Reload => {
            let master = master(lab).ok_or_else(|| fail("it is not running"))?;
            let before = workers(lab);
            sys::hang_up(master);
            let renewed = || workers(lab).iter().any(|pid| !before.contains(pid));
            if wait_until(PATIENCE, renewed) { Ok(()) } else { Err(fail("reload")) }
        }
        Action::KillWorkers => {
            let before = workers(lab);
            before.iter().for_each(|pid| sys::terminate(*pid, true));
            let renewed = || {
                let now = workers(lab);
                !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
            };
            if wait_until(PATIENCE, renewed) { Ok(()) } else { Err(fail("new workers")) }
        }
    }
}

fn directory(lab: &Lab) -> PathBuf {
    lab.directory().join("edge")
}

fn master(lab: &Lab) -> Option<u32> {
    let text = std::fs::read_to_string(directory(lab).join("nginx.pid")).ok()?;
    text.trim().parse().ok().filter(|pid| sys::is_alive(*pid))
}

/// The processes whose parent is nginx's master.
fn workers(lab: &Lab) -> Vec<u32> {
    let Some(master) = master(lab) else { return Vec::new() };
    let is_worker = |pid: &u32| parent_of(*pid) == Some(master);
    host::processes_in(&lab.plan().namespace(Host::Edge)).into_iter().filter(is_worker).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    // proc(5): `pid (name) state parent ...`; the name may contain anything, even brackets
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn log_tail(lab: &Lab) -> String {
    let log = std::fs::read_to_string(directory(lab).join("error.log")).unwrap_or_default();
    log.lines().last().unwrap_or("see edge/error.log").to_owned()
}

fn configuration(directory: &Path, options: &EdgeOptions) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {};\n", at(&format!("tmp/{kind}"))))
        .collect();
    format!(
        "user root;
worker_processes 2;
worker_shutdown_timeout 1s;  # a CDN's restart: connections end without a close frame
pid {pid};
error_log {error} warn;
events {{ worker_connections 16384; }}
http {{
  access_log {access};
{temporary}  server_tokens off;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 443 ssl;
    listen [::]:443 ssl;
    listen 80;
    listen [::]:80;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    client_max_body_size 0;
    location / {{
      proxy_pass {origin};
      proxy_ssl_verify off;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_buffering off;
      proxy_connect_timeout 19s;  # as Cloudflare: edge-to-origin connect
      proxy_send_timeout 30s;     # as Cloudflare: proxy write
      proxy_read_timeout {idle}s;
    }}
  }}
}}
",
        pid = at("nginx.pid"),
        error = at("error.log"),
        access = at("access.log"),
        cert = at("cert.pem"),
        key = at("key.pem"),
        origin = options.origin,
        idle = options.idle.div_ceil(SECOND).max(1),
    )
}

/// A certificate authority of the lab's own (`ca.pem`: what clients trust) and the edge's certificate from it.
fn make_certificates(directory: &Path) -> Result<(), LabError> {
    let at = |name: &str| directory.join(name).display().to_string();
    let (ca_key, ca, key, request, cert, san) =
        (at("ca.key"), at("ca.pem"), at("key.pem"), at("request.pem"), at("cert.pem"), at("san"));
    let curve = "ec_paramgen_curve:prime256v1";
    let new_key = ["-newkey", "ec", "-pkeyopt", curve, "-nodes"];
    let authority = ["req", "-x509", "-subj", "/CN=netem lab CA", "-days", "30", "-keyout", &ca_key, "-out", &ca];
    host::run("openssl", &[&authority[..], &new_key[..]].concat(), None)?;
    let subject = format!("/CN={EDGE_NAME}");
    let asking = ["req", "-subj", &subject, "-keyout", &key, "-out", &request];
    host::run("openssl", &[&asking[..], &new_key[..]].concat(), None)?;
    let signing = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    host::run("openssl", &[&signing[..], &["-days", "30", "-extfile", &san, "-out", &cert][..]].concat(), None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_carries_origin_and_idle_time() {
        let options =
            EdgeOptions { origin: "https://198.51.100.1:8443".into(), idle: 1_500_000_000, ..Default::default() };
        let text = configuration(Path::new("/run/netem/x/edge"), &options);
        assert!(text.contains("proxy_pass https://198.51.100.1:8443;"));
        assert!(text.contains("proxy_read_timeout 2s;"), "nginx counts whole seconds: rounded up");
        assert!(text.contains("pid /run/netem/x/edge/nginx.pid;"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
