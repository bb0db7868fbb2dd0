//! What a filter on the path eats: UDP altogether, or one port.
//!
//! The model itself never looks into packets. Those who run it over real packets ask [`Block::drops`] before they offer.

use std::fmt;

/// A transport protocol a filter can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// User datagrams: QUIC and everything else on UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Which packets a filter on the path drops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    rules: Vec<(Protocol, Option<u16>)>,
}

impl Block {
    /// Reads `none`, or rules joined by `+`: `udp`, `tcp`, `udp/443`.
    ///
    /// # Errors
    /// With the text of the rule that is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let rule = |text: &str| {
            let (name, port) = text.split_once('/').map_or((text, None), |(name, port)| (name, Some(port)));
            let protocol = match name {
                "udp" => Protocol::Udp,
                "tcp" => Protocol::Tcp,
                _ => return Err(text.to_owned()),
            };
            Ok((protocol, port.map(|p| p.parse().map_err(|_| text.to_owned())).transpose()?))
        };
        Ok(Self { rules: text.split('+').map(rule).collect::<Result<_, _>>()? })
    }

    /// Whether a packet between these ports (in either role) is dropped.
    #[must_use]
    pub fn drops(&self, protocol: Protocol, ports: [u16; 2]) -> bool {
        self.rules.iter().any(|(p, port)| *p == protocol && port.is_none_or(|port| ports.contains(&port)))
    }

    /// Whether nothing is dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules: a protocol, and a port or all of them.
    #[must_use]
    pub fn rules(&self) -> &[(Protocol, Option<u16>)] {
        &self.rules
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return f.write_str("none");
        }
        for (n, (protocol, port)) in self.rules.iter().enumerate() {
            let name = match protocol {
                Protocol::Udp => "udp",
                Protocol::Tcp => "tcp",
            };
            write!(f, "{}{name}", if n > 0 { "+" } else { "" })?;
            if let Some(port) = port {
                write!(f, "/{port}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_protocol_and_either_port() {
        let block = Block::parse("udp/443+tcp/8443").expect("two rules");
        assert!(block.drops(Protocol::Udp, [50_000, 443]) && block.drops(Protocol::Udp, [443, 50_000]));
        assert!(!block.drops(Protocol::Udp, [50_000, 53]) && !block.drops(Protocol::Tcp, [50_000, 443]));
        assert!(Block::parse("udp").expect("one rule").drops(Protocol::Udp, [1, 2]));
        assert!(Block::parse("none").expect("no rule").is_empty());
        assert_eq!(block.to_string(), "udp/443+tcp/8443");
        assert_eq!(Block::parse("udp+sctp"), Err("sctp".into()));
        assert_eq!(Block::parse("udp/x"), Err("udp/x".into()));
    }
}
