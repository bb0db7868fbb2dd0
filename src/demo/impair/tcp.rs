//! The TCP proxy: takes connections, and carries their bytes over the link as [`Segments`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use netem::model::Direction;
use netem::units::Nanos;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::core::Core;
use super::segments::{Piece, Segment, Segments};

/// Kernel buffer in front of the emulated sender. Small: what waits here has been acknowledged to the program that wrote
/// it, which a real network would not have done. (Linux doubles it for its own bookkeeping.)
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Read from a socket at a time.
const CHUNK: usize = 16 * 1024;
/// Connections that are carried at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One connection on its way over the link.
#[derive(Debug)]
pub(super) struct Connection {
    up: Way,
    down: Way,
    cut: Notify,
    dead: Cell<bool>,
}

#[derive(Debug)]
struct Way {
    segments: RefCell<Option<Segments>>,
    /// More may be taken from the near socket.
    room: Notify,
    /// More may be written to the far socket.
    ready: Notify,
}

impl Connection {
    fn new() -> Rc<Self> {
        let way = || Way { segments: RefCell::default(), room: Notify::new(), ready: Notify::new() };
        Rc::new(Self { up: way(), down: way(), cut: Notify::new(), dead: Cell::new(false) })
    }

    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Begins a direction with its part of the handshake.
    fn open(&self, core: &Core, direction: Direction) {
        *self.way(direction).segments.borrow_mut() = Some(Segments::new(core.window(direction)));
        core.changed();
    }

    fn with<T>(&self, direction: Direction, change: impl FnOnce(&mut Segments) -> T) -> Option<T> {
        self.way(direction).segments.borrow_mut().as_mut().map(change)
    }

    pub(super) fn poll_repeat(&self, direction: Direction, now: Nanos, round_trip: Nanos) -> Option<Segment> {
        self.with(direction, |segments| segments.poll_repeat(now, round_trip)).flatten()
    }

    pub(super) fn poll_send(&self, direction: Direction) -> Option<Segment> {
        let segment = self.with(direction, |segments| segments.poll_send()).flatten();
        if segment.is_some() {
            self.way(direction).room.notify_one();
        }
        segment
    }

    pub(super) fn can_send(&self, direction: Direction) -> bool {
        self.with(direction, |segments| segments.can_send()).unwrap_or_default()
    }

    /// Bytes on the way, and lost without the sender's knowing.
    pub(super) fn flying(&self, direction: Direction) -> u64 {
        self.with(direction, |segments| segments.flying()).unwrap_or_default()
    }

    pub(super) fn lost(&self, direction: Direction, segment: Segment, now: Nanos, round_trip: Nanos) {
        self.with(direction, |segments| segments.on_lost(segment, now, round_trip));
    }

    pub(super) fn arrived(&self, direction: Direction, segment: Segment) {
        if !self.dead.get() {
            self.with(direction, |segments| segments.handle_arrival(segment));
            self.way(direction).ready.notify_one();
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Nanos> {
        let timeout = |direction| self.with(direction, |segments| segments.poll_timeout()).flatten();
        [timeout(Direction::Up), timeout(Direction::Down)].into_iter().flatten().min()
    }

    pub(super) fn repeated(&self) -> u64 {
        let repeated = |direction| self.with(direction, |segments| segments.repeated()).unwrap_or_default();
        repeated(Direction::Up) + repeated(Direction::Down)
    }

    /// Ends it with a reset to both sides.
    pub(super) fn cut(&self) {
        self.dead.set(true);
        self.cut.notify_one();
    }

    async fn next(&self, direction: Direction) -> Piece {
        loop {
            if let Some(piece) = self.with(direction, Segments::poll_ready).flatten() {
                return piece;
            }
            self.way(direction).ready.notified().await;
        }
    }
}

/// Binds the proxy and starts to carry. Returns where it listens.
pub(super) fn listen(core: Rc<Core>, target: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Before listen(2), so that accepted sockets never offer a larger window.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(128)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) if core.connections.borrow().len() < CONNECTIONS_MAX => {
                    spawn_local(serve(Rc::clone(&core), client, target));
                }
                Ok((client, _)) => reset(&client),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    });
    Ok(address)
}

async fn serve(core: Rc<Core>, mut client: TcpStream, target: SocketAddr) {
    let connection = Connection::new();
    core.connections.borrow_mut().push(Rc::clone(&connection));
    core.count(|counts| counts.connections += 1);
    let mut server = None;
    let carried = tokio::select! {
        carried = carry(&core, &connection, &mut client, &mut server, target) => carried,
        () = connection.cut.notified() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if carried.is_err() {
        reset(&client);
        server.iter().for_each(reset);
    }
    connection.dead.set(true);
    core.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, &connection));
    core.count(|counts| counts.repeated += connection.repeated());
}

/// The kernel has shaken hands with the client in no time; the path has yet to. Bytes move when it has.
async fn carry(
    core: &Core,
    connection: &Connection,
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    target: SocketAddr,
) -> io::Result<()> {
    connection.open(core, Direction::Up);
    connection.next(Direction::Up).await;
    let server = server.insert(connect(target).await?);
    connection.open(core, Direction::Down);
    connection.next(Direction::Down).await;
    for socket in [&*client, &*server] {
        socket.set_nodelay(true)?;
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::try_join!(
        take(core, connection, Direction::Up, &mut from_client),
        give(core, connection, Direction::Up, &mut to_server),
        take(core, connection, Direction::Down, &mut from_server),
        give(core, connection, Direction::Down, &mut to_client),
    )?;
    Ok(())
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER as u32)?;
    socket.connect(target).await
}

/// From the near socket into the link.
async fn take(
    core: &Core,
    connection: &Connection,
    direction: Direction,
    socket: &mut (impl AsyncReadExt + Unpin),
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let room = connection.with(direction, |segments| segments.room()).unwrap_or_default();
        if room < CHUNK {
            connection.way(direction).room.notified().await;
            continue;
        }
        buffer.reserve(CHUNK);
        if socket.read_buf(&mut (&mut buffer).limit(CHUNK)).await? == 0 {
            connection.with(direction, Segments::finish);
            core.changed();
            return Ok(());
        }
        connection.with(direction, |segments| segments.push(buffer.split().freeze()));
        core.changed();
    }
}

/// Out of the link into the far socket.
async fn give(
    core: &Core,
    connection: &Connection,
    direction: Direction,
    socket: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    loop {
        match connection.next(direction).await {
            Piece::Open => {}
            Piece::End => return socket.shutdown().await,
            Piece::Data(data) => {
                socket.write_all(&data).await?;
                let (now, back) = (core.now(), core.way_back(direction));
                connection.with(direction, |segments| segments.on_written(data.len(), now, back));
                core.changed();
            }
        }
    }
}

/// Makes the drop of a socket a reset instead of an orderly end.
fn reset(socket: &TcpStream) {
    // A socket that does not take the option ends in order; its peer finds out a moment later.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
