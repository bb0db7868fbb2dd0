//! Requests to a proxy: any bytes are a request or an error, what was read fits a target, and a rewritten request is one
//! that its server understands, with nothing of the client's credentials in it.

use ghostwire::wire::http_proxy::{Asked, HEAD_MAX, ProxyError, ProxyRequest};

pub fn run(data: &[u8]) {
    let mut rest = data;
    let request = match ProxyRequest::take(&mut rest) {
        Ok(request) => request,
        Err(error) => {
            assert_eq!(rest.len(), data.len(), "taken whole or not at all");
            return assert!(error != ProxyError::Incomplete || data.len() < HEAD_MAX);
        }
    };
    assert!(data.len() - rest.len() <= HEAD_MAX);
    let Asked::Forward { head, .. } = request.asked else { return };
    assert!(head.ends_with(b"\r\nConnection: close\r\n\r\n"));
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    assert_eq!(text.matches("\r\n\r\n").count(), 1, "one head");
    assert_eq!(text.matches("\r\nhost: ").count(), 1, "one Host");
    assert!(!text.contains("\r\nproxy-authorization:"), "no password goes on");
}
