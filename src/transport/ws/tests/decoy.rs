//! What a visitor sees who is not a peer. The client is plain text over TCP, so that nothing of ours is on its side.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::super::{AcceptOptions, Accepted, Decoy, Upstream, accept};
use super::{Outside, PATH, listen, options, upgrade};
use crate::transport::LinkError;
use crate::transport::tls::{self, Verify};

/// A server in the background; it ends with the test's runtime.
async fn serve(decoy: Decoy) -> SocketAddr {
    let mut options = AcceptOptions::new(PATH);
    options.decoy = Arc::new(decoy);
    serve_with(options).await.0
}

async fn serve_with(options: AcceptOptions) -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listen().await;
    let options = Arc::new(options);
    let task = tokio::spawn(async move {
        loop {
            let (tcp, remote) = listener.accept().await.unwrap();
            let options = Arc::clone(&options);
            tokio::spawn(async move { accept(tcp, remote, &options).await });
        }
    });
    (address, task)
}

/// Sends `request` and reads to the end of the connection.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")).await
}

/// The answer without what differs between any two requests.
fn undated(answer: &str) -> String {
    answer.lines().filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\n")
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Requests on our path that are not complete upgrades: each has to be answered like the same request elsewhere.
fn near_misses(path: &str) -> Vec<String> {
    let upgrade = upgrade(path).replace("keep-alive, Upgrade", "Upgrade, close");
    let mut all = vec![
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("OPTIONS {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
        format!("GET {path} HTTP/1.0\r\n\r\n"),
        upgrade.replace("GET ", "POST "),
        upgrade.replace("HTTP/1.1", "HTTP/1.0"),
        upgrade.replace("websocket", "h2c"),
        upgrade.replace("Upgrade, close", "close"),
        upgrade.replace("Version: 13", "Version: 12"),
        upgrade.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        upgrade.replace("Host: localhost\r\n", ""),
    ];
    for name in ["Upgrade: ", "Sec-WebSocket-Version: ", "Sec-WebSocket-Key: "] {
        all.push(upgrade.split_inclusive("\r\n").filter(|line| !line.starts_with(name)).collect());
    }
    all
}

#[tokio::test]
async fn a_near_miss_on_our_path_sees_what_it_would_see_elsewhere() {
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("index.html"), "welcome").unwrap();
    let upstream = serve(Decoy::Directory(site.path().to_owned())).await;
    let upstream = Upstream { host: "127.0.0.1".into(), port: upstream.port(), tls: None };
    for decoy in [
        Decoy::NotFound,
        Decoy::Directory(site.path().to_owned()),
        Decoy::Redirect("https://example.org/elsewhere".into()),
        Decoy::Upstream(upstream),
    ] {
        let address = serve(decoy.clone()).await;
        let elsewhere = PATH.replace("live", "dead");
        for (ours, other) in near_misses(PATH).into_iter().zip(near_misses(&elsewhere)) {
            let (ours, other) = (ask(address, &ours).await, ask(address, &other).await);
            assert!(!ours.is_empty() && !ours.contains("101 Switching"), "{decoy:?}: {ours}");
            assert_eq!(undated(&ours), undated(&other), "{decoy:?}");
        }
        // What is an upgrade in every way but the path gets no WebSocket either.
        for path in
            [elsewhere.as_str(), "/assets/live?", "/assets/live/", "/assets/liv", "/ASSETS/live", "//assets/live"]
        {
            let answer = ask(address, &upgrade(path).replace("keep-alive, Upgrade", "Upgrade, close")).await;
            assert!(!answer.is_empty() && !answer.contains("101 Switching"), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn an_empty_server_looks_like_nginx() {
    let address = serve(Decoy::NotFound).await;
    let answer = get(address, "/").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let names: Vec<&str> = head.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names, ["Server", "Date", "Content-Type", "Content-Length", "Connection"]);
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\nServer: nginx\r\n"), "{head}");
    assert!(body.contains("<center><h1>404 Not Found</h1></center>\r\n<hr><center>nginx</center>"), "{body}");
    assert_eq!(field(&answer, "Content-Length"), Some("146"), "as nginx counts it");
}

#[tokio::test]
async fn files_are_served_with_their_types_and_nothing_else_is() {
    let site = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(site.path().join("sub/empty")).unwrap();
    std::fs::write(site.path().join("index.html"), "<p>welcome").unwrap();
    std::fs::write(site.path().join("sub/a b.css"), "p {}").unwrap();
    let big: Vec<u8> = (0..700_000u32).map(|i| b'a' + (i % 23) as u8).collect();
    std::fs::write(site.path().join("big.bin"), &big).unwrap();
    let address = serve(Decoy::Directory(site.path().to_owned())).await;

    let index = get(address, "/?from=somewhere").await;
    assert!(index.starts_with("HTTP/1.1 200 OK\r\n") && body(&index) == "<p>welcome", "{index}");
    assert_eq!(field(&index, "Content-Type"), Some("text/html"));
    assert!(field(&index, "Last-Modified").is_some() && field(&index, "ETag").is_some(), "{index}");
    assert_eq!(field(&get(address, "/sub/a%20b.css").await, "Content-Type"), Some("text/css"));
    assert_eq!(body(&get(address, "/big.bin").await).as_bytes(), big);

    let head = ask(address, "HEAD /big.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!((field(&head, "Content-Length"), body(&head)), (Some("700000"), ""));

    let moved = get(address, "/sub?x=1").await;
    assert!(moved.starts_with("HTTP/1.1 301 ") && field(&moved, "Location") == Some("/sub/?x=1"), "{moved}");
    for (path, status) in [
        ("/none", "404 Not Found"),
        ("/index.html/", "404 Not Found"),
        ("/sub/empty/", "403 Forbidden"),
        ("/../etc/passwd", "400 Bad Request"),
        ("/%2e%2e/%2e%2e/etc/passwd", "400 Bad Request"),
    ] {
        let answer = get(address, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
    }
    let posted = ask(address, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx").await;
    assert!(posted.starts_with("HTTP/1.1 405 Not Allowed\r\n"), "{posted}");
}

#[tokio::test]
async fn a_redirect_takes_the_path_along_when_it_has_none() {
    let address = serve(Decoy::Redirect("https://example.org".into())).await;
    let answer = get(address, "/a?b").await;
    assert!(answer.starts_with("HTTP/1.1 302 Moved Temporarily\r\n"), "{answer}");
    assert_eq!(field(&answer, "Location"), Some("https://example.org/a?b"));
    let address = serve(Decoy::Redirect("https://example.org/fixed".into())).await;
    assert_eq!(field(&get(address, "/a").await, "Location"), Some("https://example.org/fixed"));
}

#[tokio::test]
async fn connections_are_kept_alive_and_bodies_do_not_become_requests() {
    let address = serve(Decoy::NotFound).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\n";
    let inner = "GET /inner HTTP/1.1\r\nHost: inner\r\n\r\n";
    assert_eq!(inner.len(), 36);
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = ask(address, &format!("{get}{post}{inner}\r\n{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 404").count(), 3, "{answer}");
    assert_eq!(answer.matches("Connection: keep-alive").count(), 2);
    // Without end there would be one too many.
    let many = ask(address, &get.repeat(150)).await;
    assert_eq!(many.matches("HTTP/1.1 404").count(), 100);
}

#[tokio::test]
async fn a_connection_can_become_a_link_after_it_was_a_visitor() {
    let (listener, address) = listen().await;
    let options = AcceptOptions::new(PATH);
    let client = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{}", upgrade(PATH)).as_bytes()).await.unwrap();
        tcp
    };
    let server = async {
        let (tcp, remote) = listener.accept().await.unwrap();
        accept(tcp, remote, &options).await.unwrap()
    };
    let (_tcp, accepted) = tokio::join!(client, server);
    assert!(matches!(accepted, Accepted::Link(_)));
}

#[tokio::test]
async fn what_is_no_request_gets_what_nginx_would_answer() {
    let address = serve(Decoy::NotFound).await;
    for bad in ["\x16\x03\x01\x02\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
        let answer = ask(address, bad).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n"), "{bad:?}: {answer}");
        assert_eq!(field(&answer, "Connection"), Some("close"));
    }
    let (listener, address) = listen().await;
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(16 * 1024));
    let client = async {
        // No end: it is the server that gives up.
        let answer = ask(address, &long).await;
        assert!(answer.contains("400 Request Header Or Cookie Too Large"), "{answer}");
    };
    let server = async {
        let (tcp, remote) = listener.accept().await.unwrap();
        accept(tcp, remote, &AcceptOptions::new(PATH)).await
    };
    let ((), served) = tokio::join!(client, server);
    assert!(matches!(served, Ok(Accepted::Served) | Err(LinkError::Io(_))), "{served:?}");
}

/// An upstream that notes what it was asked and answers with a fixed text.
async fn upstream(answer: &'static str) -> (Upstream, JoinHandle<String>) {
    let (listener, address) = listen().await;
    let task = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !(asked.ends_with(b"\r\n\r\n") || asked.ends_with(b"END")) {
            asked.push(tcp.read_u8().await.unwrap());
            if asked.ends_with(b"\r\n\r\n") && asked.starts_with(b"POST") && !asked.ends_with(b"0\r\n\r\n") {
                asked.push(tcp.read_u8().await.unwrap());
            }
        }
        tcp.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (Upstream { host: "127.0.0.1".into(), port: address.port(), tls: None }, task)
}

#[tokio::test]
async fn an_upstream_is_asked_in_its_own_name_and_answers_for_us() {
    let (there, asked) =
        upstream("HTTP/1.1 200 Fine\r\nServer: other\r\nX-A: b\r\nConnection: X-A\r\nContent-Length: 5\r\n\r\nhello")
            .await;
    let host = format!("Host: 127.0.0.1:{}\r\n", there.port);
    let address = serve(Decoy::Upstream(there)).await;
    let request = "GET /p?q HTTP/1.1\r\nHost: me\r\nAccept: */*\r\nX-Hop: 1\r\nConnection: close, x-hop\r\n\r\n";
    let answer = ask(address, request).await;
    assert_eq!(answer, "HTTP/1.1 200 Fine\r\nServer: other\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("GET /p?q HTTP/1.1\r\n") && asked.contains(&host), "{asked}");
    assert!(asked.contains("Accept: */*\r\n") && !asked.contains("X-Hop") && !asked.contains("me\r\n"), "{asked}");
}

#[tokio::test]
async fn bodies_stream_through_an_upstream_in_both_framings() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (there, asked) = upstream(chunked).await;
    let address = serve(Decoy::Upstream(there)).await;
    let answer = ask(
        address,
        "POST / HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n\
         3\r\nEND\r\n0\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{answer}");
    let asked = asked.await.unwrap();
    assert!(asked.contains("Transfer-Encoding: chunked\r\n") && !asked.contains("Expect"), "{asked}");

    let (there, asked) = upstream("HTTP/1.0 200 OK\r\n\r\nto the end").await;
    let address = serve(Decoy::Upstream(there)).await;
    let answer = ask(address, "POST / HTTP/1.1\r\nHost: me\r\nContent-Length: 6\r\n\r\nabcEND").await;
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("\r\n\r\nto the end"), "{answer}");
    assert!(asked.await.unwrap().ends_with("abcEND"));
}

#[tokio::test]
async fn an_upstream_that_is_down_or_talks_nonsense_is_a_bad_gateway() {
    let (listener, address) = listen().await;
    drop(listener);
    let down = Upstream { host: "127.0.0.1".into(), port: address.port(), tls: None };
    assert!(get(serve(Decoy::Upstream(down)).await, "/").await.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
    for nonsense in ["nonsense\r\n\r\n", "", "HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        let (there, _asked) = upstream(nonsense).await;
        let answer = get(serve(Decoy::Upstream(there)).await, "/").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{nonsense:?}: {answer}");
    }
}

#[tokio::test]
async fn the_decoy_is_there_behind_tls_too_and_an_upstream_may_have_tls() {
    let site = tempfile::tempdir().unwrap();
    std::fs::write(site.path().join("index.html"), "behind two doors").unwrap();
    let (_, mut inner) = options(Outside::Tls13);
    inner.decoy = Arc::new(Decoy::Directory(site.path().to_owned()));
    let (inner, _task) = serve_with(inner).await;
    let tls = Some(tls::client_config(&Verify::None, &[b"http/1.1"]).unwrap());
    let (dialling, mut outer) = options(Outside::Tls13);
    outer.decoy = Arc::new(Decoy::Upstream(Upstream { host: "localhost".into(), port: inner.port(), tls }));
    let (address, _task) = serve_with(outer).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(dialling.tls.unwrap());
    let mut tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("behind two doors"), "{answer}");
}
