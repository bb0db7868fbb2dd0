//! `ghostwire stdio`: standard input and output as one connection, for ssh's `ProxyCommand` and its like. It asks the proxy
//! listener of a site that runs already, so it needs no keys, and its connection lives as long as any other of that site.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cli::Stdio;
use crate::wire::socks5::{Command, Credentials, Request};

/// How long the proxy may take to answer: a little longer than it gives the far end.
const ANSWER: Duration = Duration::from_secs(70);

/// Carries standard input there and what comes back to standard output, until both have ended.
///
/// # Errors
/// Nobody listens, the proxy refused, or the connection broke.
pub fn run(ask: Stdio) -> anyhow::Result<()> {
    let proxy = reachable(ask.proxy);
    let mut socket = TcpStream::connect(proxy).with_context(|| format!("no proxy listener at {proxy}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER))?;
    open(&mut socket, &ask).with_context(|| format!("{} through {proxy}", ask.target))?;
    socket.set_read_timeout(None)?;
    let mut outward = socket.try_clone()?;
    std::thread::spawn(move || {
        // Whoever reads at the far end sees the end of the input; a broken connection shows in the other direction.
        let _ = pump(&mut io::stdin().lock(), &mut outward);
        let _ = outward.shutdown(Shutdown::Write);
    });
    pump(&mut socket, &mut io::stdout().lock())?;
    Ok(())
}

/// Where a listener on all addresses is found.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The dialogue of RFC 1928, from the client's side.
fn open(socket: &mut (impl Read + Write), ask: &Stdio) -> anyhow::Result<()> {
    let method = if ask.credentials.is_some() { 2 } else { 0 };
    socket.write_all(&[5, 1, method])?;
    let mut two = [0; 2];
    socket.read_exact(&mut two)?;
    match (two, &ask.credentials) {
        ([5, 0], None) => {}
        ([5, 2], Some(credentials)) => {
            let mut message = Vec::new();
            credentials.put(&mut message);
            socket.write_all(&message)?;
            socket.read_exact(&mut two)?;
            if two != Credentials::answer(true) {
                bail!("the proxy does not take this name and password");
            }
        }
        ([5, 0xff], None) => bail!("the proxy wants a name and a password; name its configuration with -c"),
        _ => bail!("this is no SOCKS5 proxy"),
    }
    let mut request = Vec::new();
    Request { command: Command::Connect, target: ask.target.clone() }.put(&mut request);
    socket.write_all(&request)?;
    let mut head = [0; 4];
    socket.read_exact(&mut head)?;
    let address = match head[3] {
        1 => 4,
        4 => 16,
        _ => bail!("this is no SOCKS5 proxy"),
    };
    socket.read_exact(&mut vec![0; address + 2])?;
    match head[1] {
        0 => Ok(()),
        2 => bail!("not allowed by the other site"),
        3 => bail!("network unreachable"),
        4 => bail!("host unreachable, or no such name"),
        5 => bail!("connection refused"),
        6 => bail!("timed out"),
        code => bail!("refused (SOCKS reply {code})"),
    }
}

/// Copies until the end, each piece as it comes.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => {
                to.write_all(&buffer[..got])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
