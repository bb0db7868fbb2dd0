//! A real server and a real client, each with a configuration file and fresh keys, as an administrator would set them up.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::thread::{Stop, Thread};
use crate::client::Client;
use crate::config::{self, PrivateKey, PublicKey};
use crate::server::Server;

/// Names of the two sites, and of their files.
pub(super) const NEAR: &str = "near";
pub(super) const FAR: &str = "far";

/// What the client may reach beyond the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// The origin of the demonstration.
    OriginOnly,
    /// Whatever the host itself reaches.
    Anything,
}

/// A directory with the files of both sites; nobody else may look into it, and it goes when dropped.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    public: [PublicKey; 2],
}

impl Files {
    /// Makes the directory and both key pairs.
    ///
    /// # Errors
    /// The temporary directory of the system cannot be written.
    pub(super) fn create() -> anyhow::Result<Self> {
        let name = format!("ghostwire-demo-{:016x}", crate::runtime::random::seed());
        let dir = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // From here on the directory is removed on error.
        let mut files = Self { public: [PublicKey::from_bytes([0; 32]); 2], dir };
        for (public, site) in [NEAR, FAR].into_iter().enumerate() {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *bytes).map_err(|error| anyhow!("no random numbers: {error}"))?;
            let key = PrivateKey::from_bytes(*bytes);
            files.public[public] = key.public();
            files.write(&format!("{site}.key"), &key.to_base64())?;
        }
        Ok(files)
    }

    /// Where `ghostwire status` finds a site.
    pub(super) fn socket(&self, site: &str) -> PathBuf {
        self.dir.join(format!("{site}.sock"))
    }

    /// Writes the server's configuration. It listens for both transports on ports of the system's choice.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn server(&self, origin: SocketAddr, reach: Reach) -> anyhow::Result<PathBuf> {
        let allow = match reach {
            Reach::OriginOnly => format!("tcp:{origin}"),
            Reach::Anything => "any".to_owned(),
        };
        let near = self.public[0];
        let text = format!(
            "[site]\nname = \"{FAR}\"\nprivate_key_file = \"{FAR}.key\"\n\n\
             [[listen]]\nurl = \"wss://127.0.0.1:0/assets\"\nself_signed = true\n\n\
             [[listen]]\nurl = \"quic://127.0.0.1:0\"\nself_signed = true\n\n\
             [[peer]]\nname = \"{NEAR}\"\npublic_key = \"{near}\"\nallow = [\"{allow}\"]\n\n\
             [admin]\nsocket = \"{FAR}.sock\"\n"
        );
        self.write(&format!("{FAR}.toml"), &text)
    }

    /// Writes the client's configuration: an uplink for each transport, a forward to the origin, and SOCKS5.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn client(&self, ws: SocketAddr, quic: SocketAddr, origin: SocketAddr) -> anyhow::Result<PathBuf> {
        let far = self.public[1];
        let text = format!(
            "[site]\nname = \"{NEAR}\"\nprivate_key_file = \"{NEAR}.key\"\n\n\
             [server]\npublic_key = \"{far}\"\n\n\
             [[uplink]]\nname = \"cdn\"\nconnect = [{{ url = \"wss://{ws}/assets\", verify = \"none\" }}]\n\n\
             [[uplink]]\nname = \"direct\"\nconnect = [{{ url = \"quic://{quic}\", verify = \"none\" }}]\n\n\
             [[forward]]\nlisten = \"127.0.0.1:0\"\nto = \"{origin}\"\n\n\
             [socks5]\nlisten = \"127.0.0.1:0\"\n\n\
             [admin]\nsocket = \"{NEAR}.sock\"\n"
        );
        self.write(&format!("{NEAR}.toml"), &text)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        let written = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary directory; keys in it open nothing any more.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Starts a server on a thread of its own. Gives the addresses of its `[[listen]]`s in their order.
///
/// # Errors
/// The configuration is bad, or the server cannot start.
pub(super) async fn serve(config: &Path) -> anyhow::Result<(Vec<SocketAddr>, Thread)> {
    let config = config::load_server(config)?;
    Thread::start("server", async move |ready: oneshot::Sender<_>, stop: Stop| {
        let server = Server::bind(config)?;
        // The demonstration waits for it or is over.
        let _ready = ready.send(server.addresses());
        server.run(async { drop(stop.await) }).await
    })
    .await
}

/// Starts a client on a thread of its own. Gives the addresses of its forward and of its SOCKS5.
///
/// # Errors
/// The configuration is bad, or the client cannot start.
pub(super) async fn connect(config: &Path) -> anyhow::Result<(Vec<SocketAddr>, Thread)> {
    let config = config::load_client(config)?;
    Thread::start("client", async move |ready: oneshot::Sender<_>, stop: Stop| {
        let client = Client::bind(config)?;
        let _ready = ready.send(client.listeners());
        client.run(async { drop(stop.await) }).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_files_are_a_good_configuration_that_nobody_else_can_read() {
        let files = Files::create().unwrap();
        let dir = files.dir.clone();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let server = config::load_server(&files.server(address(80), Reach::OriginOnly).unwrap()).unwrap();
        let client = config::load_client(&files.client(address(1), address(2), address(80)).unwrap()).unwrap();
        assert_eq!(client.server.public_key, server.site.private_key.public());
        assert_eq!(server.peers[0].public_key, client.site.private_key.public());
        assert_eq!((client.uplinks.len(), client.forwards.len(), !client.socks5.is_empty()), (2, 1, true));
        assert_eq!(client.admin.socket, Some(files.socket(NEAR)));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&dir).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        drop(files);
        assert!(!dir.exists(), "and they go with the demonstration");
    }

    #[test]
    fn the_client_reaches_the_origin_only_unless_asked_for_more() {
        let rules = |reach| {
            let files = Files::create().unwrap();
            let path = files.server(SocketAddr::from(([127, 0, 0, 1], 80)), reach).unwrap();
            format!("{:?}", config::load_server(&path).unwrap().peers[0].allow)
        };
        let (one, any) = (rules(Reach::OriginOnly), rules(Reach::Anything));
        assert!(one.contains("127.0.0.1") && one != any, "{one} {any}");
    }
}
