//! Foreign configurations: whatever they hold, the result is TOML, and nothing of them leaves its place in it.

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(made) = ghostwire::cli::convert(text) {
        let table: toml::Table = made.parse().unwrap_or_else(|error| panic!("{error} in\n{made}"));
        for section in table.keys() {
            let known = [
                "site",
                "server",
                "uplink",
                "listen",
                "peer",
                "forward",
                "socks5",
                "dial",
                "liveness",
                "retry",
                "log",
                "performance",
            ];
            assert!(known.contains(&section.as_str()), "a section [{section}] in\n{made}");
        }
    }
}
